"""Resuming: the bytes of an uninterrupted run after kills, Ctrl-C and a full disk; one writer per folder."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import (
    MACHINE,
    ROOT,
    RUN,
    TEXT,
    TINY,
    command,
    evaluation_lines,
    read_metrics,
    run_command,
    run_in_process,
    train,
    wait_until,
    write_data,
)

from mingpt import GPT
from mingpt.cli import parse
from mingpt.config import TrainConfig
from mingpt.run import resume, start
from mingpt.trainer import Diverged, State
from mingpt.trainer import train as train_loop

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory, cache):
    """A folder with data for every task, and a model to start from."""
    path = tmp_path_factory.mktemp("data")
    write_data(path)
    train(path, *TINY, *MACHINE, "--data", "fox.txt", "--max_iters", "20", "--out_dir", "base")
    return path


RUNS = {
    "muon": ["--data", "fox.txt", "--optimizer", "muon", "--gradient_accumulation", "2"],
    "sgd": ["--data", "fox.txt", "--optimizer", "sgd"],
    "chat": ["--task", "chat", "--data", "talk.jsonl", "--vocab_size", "300"],
    "classify": ["--task", "classify", "--data", "rows.csv", "--vocab_size", "300"],
    "AdamW, fine-tuning": ["--data", "fox.txt", "--init_from", "base", "--patience", "0"],
    "LoRA": ["--data", "fox.txt", "--init_from", "base", "--lora_rank", "2", "--patience", "0"],
}


@pytest.mark.parametrize("name", RUNS)
def test_stopped_and_resumed_it_equals_the_uninterrupted_run_bit_for_bit(data, tmp_path, monkeypatch, name):
    """Stopped after two random updates, with dropout."""
    monkeypatch.chdir(data)
    shape = [] if "--init_from" in RUNS[name] else TINY
    arguments = [*shape, *MACHINE, *RUNS[name], "--dropout", "0.1", "--max_iters", "90", "--eval_interval", "7"]
    train(data, *arguments, "--out_dir", tmp_path / "whole")
    stopped = str(tmp_path / "stopped")
    first, second = sorted(random.Random(name).sample(range(1, 90), 2))
    todo = parse(TrainConfig, [*map(str, arguments), "--out_dir", stopped], "", "")
    for last in (first, second, None):
        run = resume(todo) if todo.resume else start(todo)
        for _ in train_loop(run.config, run.task, run.folder, run.state, partial(has_made, run.state, last)):
            pass
        run.folder.close()
        assert run.state.progress.step == (last or 90)
        todo = TrainConfig(resume=True, out_dir=stopped)
    for file in ("model.safetensors", "metrics.jsonl"):
        assert read(tmp_path / "stopped" / file) == read(tmp_path / "whole" / file)


def has_made(state: State, updates: int | None) -> bool:
    return state.progress.step == updates


def read(path: Path) -> object:
    return path.read_bytes() if path.suffix == ".safetensors" else read_metrics(path.parent)


@pytest.mark.parametrize("name", ["muon", "LoRA"])
def test_killed_and_resumed_it_equals_the_uninterrupted_run_bit_for_bit(data, tmp_path, name):
    """SIGKILL at random moments, several times, with dropout."""
    shape = [] if "--init_from" in RUNS[name] else TINY
    arguments = [*shape, *MACHINE, *RUNS[name], "--dropout", "0.1", "--max_iters", "200", "--eval_interval", "7"]
    start_time = time.monotonic()
    train(data, *arguments, "--out_dir", tmp_path / "whole")
    duration = time.monotonic() - start_time  # of a process that need not import torch
    killed, kills, rng = tmp_path / "killed", 0, random.Random(name)
    for _ in range(12):
        todo = ["--resume"] if (killed / "train.json").exists() else arguments
        with open(tmp_path / "printed.txt", "w", encoding="utf-8") as output:
            full = command(*todo, "--out_dir", killed)
            process = subprocess.Popen(full, cwd=data, env=ENVIRONMENT, stdout=output, stderr=output)
            wait_until(lambda p=process: is_training(tmp_path / "printed.txt") or p.poll() is not None)
            time.sleep(rng.uniform(0.0, duration))
            process.kill()
            process.wait()
        kills += (killed / "state.pt").exists()
        assert_continues((tmp_path / "printed.txt").read_text(encoding="utf-8"))
        if kills == 2:
            break
    assert kills == 2
    assert_continues(train(data, "--resume", "--out_dir", killed))
    assert (killed / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert read_metrics(killed) == read_metrics(tmp_path / "whole")
    assert not list(killed.glob(".*"))


def is_training(printed: Path) -> bool:
    """Whether the head of the table of evaluations is printed: a slow import may take longer than the run."""
    return "    step    train" in printed.read_text(encoding="utf-8")


def assert_continues(printed: str) -> None:
    """A resumed process makes no update again that its state already has."""
    lines = [line for line in printed.splitlines() if line.startswith("resumes       after update ")]
    if lines:
        after = int(lines[0].split()[-1].replace(",", ""))
        assert after > 0
        assert all(after < step <= after + 7 * (i + 1) for i, (step, _) in enumerate(evaluation_lines(printed)))


def test_killed_before_its_first_state_it_starts_again(folder_copy):
    shutil.copytree(folder_copy / "out" / "fox", folder_copy / "early")
    for name in ("state.pt", "model.safetensors", "loss.png", "metrics.jsonl"):
        (folder_copy / "early" / name).unlink()
    assert "resumes" not in train(folder_copy, "--resume", "--out_dir", "early")
    assert read_metrics(folder_copy / "early") == read_metrics(folder_copy / "out" / "fox")


def test_killed_between_state_and_metrics_it_recovers_the_metrics(folder_copy):
    out = folder_copy / "out" / "fox"
    before = read_metrics(out)
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(lines[:-1]), encoding="utf-8")
    assert "is finished" in train(folder_copy, "--resume", "--out_dir", "out/fox")
    assert read_metrics(out) == before


def test_a_finished_run_may_grow(folder_copy):
    out = folder_copy / "out" / "fox"
    assert "out/fox is finished: validation loss" in train(folder_copy, "--resume", "--out_dir", "out/fox")
    before = read_metrics(out)
    train(folder_copy, "--resume", "--out_dir", "out/fox", "--max_iters", "60")
    after = read_metrics(out)
    assert after[:4] == before and [row["step"] for row in after[4:]] == [50, 60]
    assert json.loads((out / "train.json").read_text(encoding="utf-8"))["max_iters"] == 60


def test_a_run_and_its_data_may_move(folder_copy, tmp_path):
    shutil.move(folder_copy / "out" / "fox", tmp_path / "moved")
    (tmp_path / "renamed.txt").write_text(TEXT, encoding="utf-8")
    resume = ["--resume", "--out_dir", "moved", "--data", "renamed.txt"]
    assert "after update 40" in train(tmp_path, *resume, "--max_iters", "41")
    settings = json.loads((tmp_path / "moved" / "train.json").read_text(encoding="utf-8"))
    assert settings["data"] == str(tmp_path / "renamed.txt")


def test_the_command_that_began_a_run_also_resumes_it(data, tmp_path):
    """Also with --init_from, by a relative, an absolute and another path to the same model; not by another model."""
    shutil.copytree(data / "base", tmp_path / "elsewhere")
    begin = ["--data", "fox.txt", *MACHINE, "--init_from", "base", "--out_dir", tmp_path / "run"]
    train(data, *begin, "--max_iters", "4")
    for iters, path in enumerate(["base", data / "base", tmp_path / "elsewhere", "./base"], start=5):
        begin[begin.index("--init_from") + 1] = path
        assert f"after update {iters - 1}" in train(data, *begin, "--resume", "--max_iters", iters)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    begin[begin.index("--init_from") + 1] = tmp_path / "other"
    result = run_in_process(*begin, "--resume", "--max_iters", "9", cwd=data)
    assert result.returncode == 2 and "is not the model that the run in" in result.stderr


def test_a_key_that_an_older_train_json_lacks_takes_its_default(folder_copy):
    path = folder_copy / "out" / "fox" / "train.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    del settings["patience"], settings["label_smoothing"]
    path.write_text(json.dumps(settings), encoding="utf-8")
    train(folder_copy, "--resume", "--out_dir", "out/fox", "--max_iters", "41")
    assert json.loads(path.read_text(encoding="utf-8"))["patience"] == 0


def test_ctrl_c_saves_and_loses_nothing(folder_copy):
    arguments = [*RUN, "--max_iters", "500", "--eval_interval", "200"]
    process = subprocess.Popen(
        command(*arguments, "--out_dir", "stopped"),
        cwd=folder_copy,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    for line in process.stdout:
        if "bits/byte" in line:
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "python train.py --resume --out_dir stopped" in printed
    step = torch.load(folder_copy / "stopped" / "state.pt", weights_only=True)["progress"]["step"]
    assert 0 < step < 500 and f"stopped after update {step:,}" in printed
    assert f"after update {step:,}" in train(folder_copy, "--resume", "--out_dir", "stopped")
    train(folder_copy, *arguments, "--out_dir", "whole")
    assert read_metrics(folder_copy / "stopped") == read_metrics(folder_copy / "whole")
    a, b = (folder_copy / name / "model.safetensors" for name in ("stopped", "whole"))
    assert a.read_bytes() == b.read_bytes()


def test_weights_that_are_not_finite_are_not_saved(folder_copy):
    small = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, device="cpu", dtype="float32", threads=1)
    run = start(TrainConfig(data=str(folder_copy / "fox.txt"), out_dir=str(folder_copy / "broken"), **small))

    def break_a_weight():
        run.state.model.wte.weight.data[0, 0] = float("nan")
        return True

    with pytest.raises(Diverged, match="a weight after update 1 is not finite"):
        list(train_loop(run.config, run.task, run.folder, run.state, break_a_weight))
    assert not run.folder.has_state()


def test_two_processes_do_not_write_to_one_folder(folder_copy):
    arguments = command(*RUN, "--max_iters", "100000", "--out_dir", "busy")
    process = subprocess.Popen(arguments, cwd=folder_copy, env=ENVIRONMENT, stdout=-3, stderr=-3)
    try:
        wait_until((folder_copy / "busy" / "state.pt").exists)
        result = run_command("--resume", "--out_dir", "busy", cwd=folder_copy)
        assert (result.returncode, result.stderr) == (2, "error: --out_dir busy: is in use by another process\n")
    finally:
        process.kill()
        process.wait()
    result = run_in_process("--resume", "--out_dir", "busy", "--n_layer", "9", cwd=folder_copy)
    assert "--n_layer 9: the run in busy has 1" in result.stderr  # the lock is released with its process


@pytest.mark.parametrize("limit", [2_000, 30_000, 60_000])
def test_a_full_disk_leaves_complete_files_and_the_run_can_be_resumed(folder_copy, limit):
    """A limit on the size of files stands for the full disk: some files fit and larger ones do not."""
    out = folder_copy / "out" / "fox"
    before = (out / "state.pt").read_bytes()

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    grow = ["--resume", "--out_dir", "out/fox", "--max_iters", "60"]
    result = run_command(*grow, cwd=folder_copy, preexec_fn=fill)
    if result.returncode:
        assert result.returncode == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: out/fox: cannot be written (") and "--resume --out_dir out/fox" in line
        assert (out / "state.pt").read_bytes() == before
        assert GPT.from_pretrained(out)
    train(folder_copy, *grow)
    assert [row["step"] for row in read_metrics(out)] == [10, 20, 30, 40, 50, 60]
    assert not list(out.glob(".*"))
