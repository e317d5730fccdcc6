"""Models by their names, from a small hub on this machine: fetched once, found without it, or refused in a line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from conftest import ROOT, random_model
from transformers import GPT2LMHeadModel

from mingpt import GPT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_theRightOne"
NOBODY = "http://127.0.0.1:9"  # where nothing listens

# What huggingface_hub is asked for in a process of its own, since it reads its environment when it is imported.
LOCATE = """
import json, sys
from mingpt import hub
from mingpt.errors import UserError
for name in sys.argv[1:]:
    try:
        print(json.dumps(str(hub.locate(name))))
    except UserError as error:
        print(json.dumps(error.problems))
"""


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that downloads need: OWNER/NAME/resolve/REVISION/FILE."""

    models: ClassVar[dict[str, dict[str, bytes]]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        name, _, file = self.path[1:].partition("/resolve/")
        file = file.partition("/")[2]
        self.asked.append(f"{self.command} {name} {file}")
        if name == "gpt2":  # the models from before there were owners have moved
            self.answer(307, Location=f"/openai-community{self.path}")
        elif name == "owner/busy":
            self.answer(503)
        elif name == "owner/gated":
            self.answer(401, **{"X-Error-Code": "GatedRepo"})
        elif name not in self.models or (name == "owner/private" and not self.has_token()):
            self.answer(401, **{"X-Error-Code": "RepoNotFound"})
        elif file not in self.models[name]:
            self.answer(404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            content = self.models[name][file]
            tag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.answer(200, content, **{"ETag": tag, "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    place = tmp_path_factory.mktemp("models")
    random_model().save_pretrained(place / "whole")
    whole = contents(place / "whole")
    config, weights = whole["config.json"], whole["model.safetensors"]
    GPT2LMHeadModel.from_pretrained(place / "whole").save_pretrained(place / "shards", max_shard_size="20KB")
    shards = contents(place / "shards")
    torch.save(GPT2LMHeadModel.from_pretrained(place / "whole").state_dict(), place / "pytorch_model.bin")
    index = json.dumps({"weight_map": {"wte.weight": "model-1.safetensors"}}).encode()
    return {
        "openai-community/gpt2": whole | {"vocab.json": b"{}", "merges.txt": b"#version: 0.2\n", "README.md": b"no"},
        "owner/shards": shards,
        "owner/bin": {"config.json": config, "pytorch_model.bin": (place / "pytorch_model.bin").read_bytes()},
        "owner/private": whole,
        "owner/llama": {"config.json": b'{"model_type": "llama"}', "model.safetensors": weights},
        "owner/settings": {"README.md": b"no config", "model.safetensors": weights},
        "owner/weights": {"config.json": config, "tf_model.h5": weights},
        "owner/shardless": {"config.json": config, "model.safetensors.index.json": index},
    }


@pytest.fixture
def hub(models):
    """The hub's address; it goes away with the test, and forgets what it was asked."""
    Hub.models, Hub.asked = models, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def locate(home: Path, hub: str, *names: str, **more: str) -> list[Path | list[str]]:
    """For each name the folder, or the lines of the error, from a process with this hub and a cache of its own."""
    ours = {"HF_HOME": str(home), "HF_ENDPOINT": hub, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    others = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    result = subprocess.run(
        [sys.executable, "-c", LOCATE, *names],
        cwd=home,
        env={**others, "PYTHONPATH": str(ROOT), **ours, **more},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    return [Path(answer) if isinstance(answer, str) else answer for answer in answers]


def assert_equal(folder: Path) -> None:
    idx = torch.arange(16)[None]
    torch.testing.assert_close(GPT.from_pretrained(folder)(idx), random_model()(idx))


def test_a_model_is_fetched_once_and_found_without_the_hub(tmp_path, hub):
    names = ("gpt2", "owner/shards", "owner/bin", "owner/private")
    *first, again = locate(tmp_path, hub, *names, "gpt2", HF_TOKEN=TOKEN)
    assert again == first[0]
    for folder in first:
        assert_equal(folder)
    whole, shards, old, _ = ({path.name for path in folder.iterdir()} for folder in first)
    assert whole == {"config.json", "model.safetensors", "vocab.json", "merges.txt"}
    assert len(shards) > 4 and "model.safetensors.index.json" in shards
    assert old == {"config.json", "pytorch_model.bin"}
    asked = [line for line in Hub.asked if "openai-community/gpt2" in line]
    fetched = [line.split()[2] for line in asked if line.startswith("GET")]
    assert fetched == ["config.json", "model.safetensors", "vocab.json", "merges.txt"]  # each once, settings first
    heads = [line.split()[2] for line in asked if line.startswith("HEAD")]
    assert heads[-2:] == ["config.json"] * 2 and len(set(heads)) == len(heads) - 3  # again: is there a newer commit?
    # where transformers keeps it, and finds it
    theirs = GPT2LMHeadModel.from_pretrained("gpt2", cache_dir=tmp_path / "hub", local_files_only=True)
    torch.testing.assert_close(theirs(torch.arange(16)[None]).logits, random_model()(torch.arange(16)[None]))

    expected = "gpt2-xl: is no folder, and its config.json is not in the hub's cache; "
    *found, missing = locate(tmp_path, NOBODY, *names, "gpt2-xl", HF_HUB_OFFLINE="1")
    assert found == first
    assert missing == [f"{expected}HF_HUB_OFFLINE is set, and the network is needed once"]
    *found, (problem,) = locate(tmp_path, NOBODY, *names, "gpt2-xl")
    assert found == first
    assert problem.startswith(f"{expected}the hub cannot be reached (ConnectError: ")
    assert problem.endswith("Connection refused), and the network is needed once")


def test_what_cannot_be_had_is_refused_in_a_line_that_says_why(tmp_path, hub):
    (tmp_path / "out").mkdir()
    expected = {
        "nowhere": "is neither a folder nor a known model; known are gpt2, gpt2-medium, gpt2-large, gpt2-xl, "
        "distilgpt2, and OWNER/NAME on the hub",
        "gpt2-meduim": "is neither a folder nor a known model; known are gpt2, gpt2-medium, gpt2-large, gpt2-xl, "
        "distilgpt2, and OWNER/NAME on the hub; the nearest is gpt2-medium",
        "/no/such/place": "is neither a folder nor a known model; known are gpt2",
        "out/typo": "is no folder; the hub is not asked, since out is a folder here",
        "x" * 5000: "is neither a folder nor a known model",
        "owner/a--b": "is no folder, and no name that a model on the hub can have",
        "owner/nobody": "is neither a folder nor on the hub, unless it is private: then `hf auth login` or set "
        "HF_TOKEN",
        "owner/private": "is neither a folder nor on the hub, unless it is private: then",
        "owner/gated": "is gated; accept its terms on the hub, then log in with `hf auth login` or set HF_TOKEN",
        "owner/settings": "has no config.json on the hub, so it is no model of this kind",
        "owner/weights": "has no weights on the hub that can be read here; model.safetensors or pytorch_model.bin, "
        "whole or in shards beside an index can",
        "owner/shardless": "model-1.safetensors, which model.safetensors.index.json names, is not on the hub",
        "owner/busy": "is no folder, and its config.json is not in the hub's cache; the hub has a problem of its own "
        "(it answers 503), and the network is needed once",
    }
    *answers, (llama,) = locate(tmp_path, hub, *expected, "owner/llama")
    for name, answer in zip(expected, answers, strict=True):
        (problem,) = answer
        assert problem.startswith(f"{name}: {expected[name]}"), problem
        assert "\n" not in problem
    assert not any("typo" in line for line in Hub.asked)
    assert llama.endswith("config.json: model_type llama is another model's; this one has gpt2")
    assert {line.split()[2] for line in Hub.asked if "llama" in line} == {"config.json"}  # and not the weights


def test_a_folder_needs_neither_tokenizer_nor_hub_and_wins_over_a_name(tmp_path, monkeypatch):
    random_model().save_pretrained(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    assert_equal(Path("gpt2"))
    assert_equal(tmp_path / "gpt2")
