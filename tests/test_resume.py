"""Going on: kills survived to the bit, Ctrl-C, a full disk, and one writer per folder."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest
import torch
from conftest import ROOT, RUN, command, rows, run_command, table, train, until

from mingpt import GPT, files
from mingpt.config import TrainConfig, resolve
from mingpt.errors import UserError
from mingpt.run import Run
from mingpt.tasks.text import TextTask
from mingpt.trainer import Diverged, State
from mingpt.trainer import train as updates


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam", "sgd"])
def test_killed_at_random_moments_and_resumed_it_is_the_same_run(copy, optimizer):
    """SIGKILL, several times over, with dropout and accumulation: the bytes of a run that was never killed."""
    arguments = [*RUN, "--optimizer", optimizer, "--dropout", "0.1", "--gradient_accumulation", "2"]
    arguments += ["--max_iters", "400", "--eval_interval", "7"]
    began = time.monotonic()
    train(copy, *arguments, "--out_dir", "whole")
    duration = time.monotonic() - began
    chance = random.Random(optimizer)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed_with_state, arguments = 0, [*arguments, "--out_dir", "killed"]
    for _ in range(12):
        has_run = (copy / "killed" / "train.json").exists()
        todo = ["--resume", "--out_dir", "killed"] if has_run else arguments
        with open(copy / "printed.txt", "w", encoding="utf-8") as output:
            process = subprocess.Popen(command(*todo), cwd=copy, env=environment, stdout=output, stderr=output)
            until((copy / "killed" / "train.json").exists)
            time.sleep(chance.uniform(0.0, duration / 2))
            process.kill()
            process.wait()
        killed_with_state += (copy / "killed" / "state.pt").exists()
        check_nothing_is_run_again((copy / "printed.txt").read_text(encoding="utf-8"))
        if killed_with_state >= 3:
            break
    assert killed_with_state >= 3
    check_nothing_is_run_again(train(copy, "--resume", "--out_dir", "killed"))
    assert (copy / "killed" / "model.safetensors").read_bytes() == (copy / "whole" / "model.safetensors").read_bytes()
    assert rows(copy / "killed") == rows(copy / "whole")
    assert not list((copy / "killed").glob(".*"))


def check_nothing_is_run_again(printed):
    """What a resumed process evaluates comes after the state that it says it goes on from."""
    said = [line for line in printed.splitlines() if line.startswith("resuming ") and "after update" in line]
    if said:
        after = int(said[0].split()[-1].replace(",", ""))
        assert after > 0
        assert all(after < step <= after + 7 * (i + 1) for i, (step, _) in enumerate(table(printed)))


def test_killed_before_its_first_state_it_starts_again_and_says_so(copy):
    shutil.copytree(copy / "out" / "fox", copy / "early")
    for name in ("state.pt", "model.safetensors", "loss.png"):  # train.json comes after the others
        (copy / "early" / name).unlink()
    (copy / "early" / "metrics.jsonl").write_bytes(b"")
    printed = train(copy, "--resume", "--out_dir", "early")
    assert "resuming early from the start: it was stopped before its first state was saved" in printed
    assert rows(copy / "early") == rows(copy / "out" / "fox")


def test_killed_before_its_settings_were_saved_it_has_nothing_to_go_on_with(copy):
    (copy / "early").mkdir()
    (copy / "early" / "lock").touch()
    (copy / "early" / ".train.json.here.5.tmp").touch()
    result = run_command("--resume", "--out_dir", "early", cwd=copy)
    assert result.returncode == 2
    assert result.stderr == (
        "error: --resume: the run in early was stopped before its settings were saved; "
        "start it again without --resume\n"
    )
    train(copy, *RUN, "--out_dir", "early")


def test_killed_after_its_last_state_it_gets_its_last_metrics_and_its_picture(copy):
    out = copy / "out" / "fox"
    before = rows(out)
    metrics = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(metrics[:-1]), encoding="utf-8")
    (out / "loss.png").unlink()
    assert "is finished" in train(copy, "--resume", "--out_dir", "out/fox")
    assert rows(out) == before
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_says_so_and_may_grow(copy):
    printed = train(copy, "--resume", "--out_dir", "out/fox")
    assert "out/fox is finished: validation loss" in printed
    before = rows(copy / "out" / "fox")
    train(copy, "--resume", "--out_dir", "out/fox", "--max_iters", "60")
    after = rows(copy / "out" / "fox")
    assert after[:4] == before and [row["step"] for row in after[4:]] == [50, 60]
    assert json.loads((copy / "out" / "fox" / "train.json").read_text(encoding="utf-8"))["max_iters"] == 60


def test_a_moved_folder_and_a_moved_text_go_on_from_anywhere(copy, tmp_path):
    shutil.move(copy / "out" / "fox", tmp_path / "moved")
    assert "resuming moved after update 40" in train(tmp_path, "--resume", "--out_dir", "moved", "--max_iters", "41")
    shutil.move(copy / "fox.txt", tmp_path / "renamed.txt")
    resume = ["--resume", "--out_dir", "moved"]
    assert "fox.txt: no such file" in run_command(*resume, cwd=tmp_path).stderr
    assert "after update 41" in train(tmp_path, *resume, "--data", "renamed.txt", "--max_iters", "42")
    settings = json.loads((tmp_path / "moved" / "train.json").read_text(encoding="utf-8"))
    assert settings["data"] == str(tmp_path / "renamed.txt")


def test_flags_that_repeat_what_a_run_has_are_not_held_against_other_defaults(copy):
    train(copy, *RUN, "--n_head", "5", "--n_embd", "10", "--out_dir", "five")
    assert "is finished" in train(copy, "--resume", "--out_dir", "five", "--n_head", "5")


def test_ctrl_c_saves_says_how_to_go_on_and_loses_nothing(copy):
    arguments = [*RUN, "--max_iters", "1000", "--eval_interval", "400", "--out_dir", "stopped"]
    process = subprocess.Popen(
        command(*arguments),
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    for line in process.stdout:
        if "bits/byte" in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "python train.py --resume --out_dir stopped" in printed
    step = torch.load(copy / "stopped" / "state.pt", weights_only=True)["progress"]["step"]
    assert 0 < step < 1000 and f"stopped after update {step:,}" in printed
    resumed = train(copy, "--resume", "--out_dir", "stopped")
    assert f"after update {step:,}" in resumed
    train(copy, *arguments[:-1], "whole")
    assert rows(copy / "stopped") == rows(copy / "whole")
    assert (copy / "stopped" / "model.safetensors").read_bytes() == (copy / "whole" / "model.safetensors").read_bytes()


def test_weights_that_are_no_numbers_are_not_saved(copy):
    small = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, device="cpu", dtype="float32", threads=1)
    config = resolve(TrainConfig(data=str(copy / "fox.txt"), **small))
    task, run = TextTask(config), Run.create(str(copy / "broken"), "")
    state = State(config, task.model_config())

    def break_a_weight():
        state.model.wte.weight.data[0, 0] = float("nan")
        return True

    with pytest.raises(Diverged, match="a weight after update 1 is no number"):
        list(updates(config, task, run, state, break_a_weight))
    assert run.load_state() is None


def test_a_folder_that_is_filled_before_its_lock_is_held_is_left_alone(tmp_path, monkeypatch):
    original = files.lock

    def lock_late(path):
        held = original(path)
        (path.parent / "train.json").write_text("another's", encoding="utf-8")
        return held

    with monkeypatch.context() as patch:
        patch.setattr(files, "lock", lock_late)
        with pytest.raises(UserError, match="already holds a run"):
            Run.create(str(tmp_path / "new"), "")
    files.lock(tmp_path / "new" / "lock").close()  # nobody holds it any more


def test_two_processes_do_not_write_to_one_folder(copy):
    arguments = [*RUN, "--max_iters", "100000", "--out_dir", "busy"]
    process = subprocess.Popen(
        command(*arguments), cwd=copy, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=-3, stderr=-3
    )
    try:
        until((copy / "busy" / "state.pt").exists)
        result = run_command("--resume", "--out_dir", "busy", cwd=copy)
        assert result.returncode == 2
        assert result.stderr == "error: --out_dir busy: another process is writing to it\n"
    finally:
        process.kill()
        process.wait()
    result = run_command("--resume", "--out_dir", "busy", "--n_layer", "9", cwd=copy)
    assert "--n_layer 9: the run in busy has 1" in result.stderr  # the lock died with its process


@pytest.mark.parametrize("limit", [2_000, 30_000, 60_000])
def test_a_full_disk_leaves_whole_what_was_saved_and_goes_on_later(copy, limit):
    """A limit on the size of files stands for the full disk: some files fit and the larger do not."""
    train(copy, *RUN, "--out_dir", "full")
    before = (copy / "full" / "state.pt").read_bytes()

    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    grow = ["--resume", "--out_dir", "full", "--max_iters", "60"]
    result = run_command(*grow, cwd=copy, preexec_fn=full)
    if result.returncode:
        assert result.returncode == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: full: could not be saved (") and "--resume --out_dir full" in line
        assert (copy / "full" / "state.pt").read_bytes() == before
        assert GPT.from_pretrained(copy / "full")
    train(copy, *grow)
    assert [row["step"] for row in rows(copy / "full")] == [10, 20, 30, 40, 50, 60]
    assert not list((copy / "full").glob(".*"))
