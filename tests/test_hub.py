"""Models by name, from a hub on this machine: downloaded once, used offline, or refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from conftest import ROOT, random_model
from safetensors.torch import load_file

from mingpt import GPT
from mingpt.pretrained import KNOWN

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# In a process of its own, since huggingface_hub reads its environment when it is imported.
LOCATE = """
import json, sys
from mingpt.pretrained import UserError, locate
for name in sys.argv[1:]:
    try:
        print(json.dumps(str(locate(name))))
    except (UserError, OSError) as error:
        print(json.dumps(str(error).splitlines()))
"""


class Hub(SimpleHTTPRequestHandler):
    """The hub's API as static files, with the headers that downloads need."""

    requests: ClassVar[list[str]] = []

    def end_headers(self) -> None:
        self.requests.append(f"{self.command} {self.path}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(self.path.encode()).hexdigest()}"')
        self.send_header("X-Error-Code", "GatedRepo" if "gated" in self.path else "RepoNotFound")  # beside status 404
        super().end_headers()

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


def publish(root: Path, name: str, **files: bytes) -> None:
    tree = [{"type": "file", "path": file, "size": len(content), "oid": file} for file, content in files.items()]
    info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
    contents = {f"{name}/resolve/{COMMIT}/{file}": content for file, content in files.items()}
    contents[f"api/models/{name}/revision/main"] = json.dumps(info).encode()
    contents[f"api/models/{name}/tree/{COMMIT}"] = json.dumps(tree).encode()
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


@pytest.fixture
def hub(tmp_path_factory):
    """The address of a hub with a few models."""
    root, folder = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("model")
    random_model().save_pretrained(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "bin")
    config, weights, pickle = ((folder / file).read_bytes() for file in ("config.json", "model.safetensors", "bin"))
    both = {"config.json": config, "model.safetensors": weights, "pytorch_model.bin": b"", "model.onnx": b""}
    publish(root, "gpt2", **both, **{"vocab.json": b"{}", "merges.txt": b"#version: 0.2\n"})
    publish(root, "owner/bin", **{"config.json": config, "pytorch_model.bin": pickle})
    publish(root, "owner/llama", **both | {"config.json": b'{"model_type": "llama"}'})
    publish(root, "owner/no_config", **{"model.safetensors": weights})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=str(root)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    Hub.requests.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def locate(home: Path, hub: str, *names: str, **variables: str) -> list[str | list[str]]:
    """For each name the folder, or the lines of the error."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": hub, "NO_PROXY": "127.0.0.1", **variables}
    command = [sys.executable, "-c", LOCATE, *names]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_model_is_downloaded_once_and_opens_offline(tmp_path, hub):
    folders = locate(tmp_path, hub, "gpt2", "owner/bin", "gpt2")
    for folder in folders:
        torch.testing.assert_close(GPT.from_pretrained(folder).state_dict(), random_model().state_dict())
    downloads = [line.split("/")[-1] for line in Hub.requests if line.startswith("GET /gpt2/resolve")]
    assert sorted(downloads) == ["config.json", "merges.txt", "model.safetensors", "vocab.json"]
    assert downloads[-1] == "model.safetensors"  # the configuration is checked first
    names = ("gpt2", "owner/bin", "gpt2-xl")
    for is_offline, reason in (("0", "ConnectError: "), ("1", "OfflineModeIsEnabled: ")):
        *cached, (problem,) = locate(tmp_path, "http://127.0.0.1:9", *names, HF_HUB_OFFLINE=is_offline)
        assert cached == folders[:2]
        assert problem.startswith(f"gpt2-xl: is not in the hub's cache, and the hub cannot be reached ({reason}")


def test_what_cannot_be_downloaded_is_refused_in_one_line(tmp_path, hub):
    expected = {
        "gpt2-meduim": f"must be a folder, {', '.join(KNOWN)} or OWNER/NAME on the hub; did you mean gpt2-medium?",
        "/no/such/place": "must be a folder, gpt2, ",
        "owner/a--b": "cannot be downloaded from the hub (HFValidationError: ",
        "owner/private": "is not a folder and not on the hub; if it is private, log in with `hf auth login` or set",
        "owner/gated": "is gated; accept its terms on the hub, then log in with `hf auth login` or set HF_TOKEN",
    }
    *answers, (llama,), (no_config,) = locate(tmp_path, hub, *expected, "owner/llama", "owner/no_config")
    for name, (problem,) in zip(expected, answers, strict=True):
        assert problem.startswith(f"{name}: {expected[name]}") and "\n" not in problem, problem
    assert llama.endswith("config.json: model_type llama: must be gpt2")
    assert "owner--no_config" in no_config and "config.json" in no_config
    assert not any("safetensors" in line for line in Hub.requests)
    ((problem,),) = locate(ROOT / "setup.cfg", hub, "gpt2")  # where no cache can be written, as on a full disk
    assert problem.startswith("gpt2: cannot be downloaded from the hub (NotADirectoryError: ") and "\n" not in problem
