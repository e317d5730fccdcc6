"""Several processes of torchrun against one process: losses, resuming, signals, a rank that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import MACHINE, ROOT, TINY, evaluation_lines, read_metrics, train, wait_until, write_data

from mingpt import distributed
from mingpt.config import TrainConfig
from mingpt.errors import UserError
from mingpt.run import resume

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
COMMON = [*TINY, *MACHINE, "--dropout", "0", "--batch_size", "8", "--max_iters", "200", "--eval_interval", "50"]
# Muon makes rounding errors grow, the less the smaller the learning rate.
RUNS = {
    "muon": ["--data", "fox.txt", "--learning_rate", "0.002"],
    "adamw": ["--data", "fox.txt", "--optimizer", "adamw"],
    "adam": ["--data", "fox.txt", "--optimizer", "adam", "--gradient_accumulation", "2"],
    "sgd": ["--data", "fox.txt", "--optimizer", "sgd"],
    "chat": ["--task", "chat", "--data", "talk.jsonl", "--vocab_size", "300", "--learning_rate", "0.002"],
    "classify": ["--task", "classify", "--data", "rows.csv", "--vocab_size", "300", "--class_weights"],
    "regress": ["--task", "regress", "--data", "rows.csv", "--vocab_size", "300", "--learning_rate", "0.001"],
}
RUNS["regress"] += ["--gradient_accumulation", "4"]
# With dropout, two ranks equal one process that makes as many micro-batches.
RUNS["dropout"] = [*RUNS["classify"], "--dropout", "0.2"]
# Makes the runs of a JSON file, [[arguments, update after which it stops or null], ...], each by all ranks.
SEVERAL = """
import json, sys
from mingpt import cli, distributed, run, trainer
from mingpt.config import TrainConfig

with distributed.processes():
    for arguments, last in json.load(open(sys.argv[1], encoding="utf-8")):
        asked = cli.parse(TrainConfig, arguments, "", "")
        current = run.resume(asked) if asked.resume else run.start(asked)
        for _ in trainer.train(*vars(current).values(), lambda: current.state.progress.step == last):
            pass
        current.folder.close()
"""


def torchrun(folder: Path, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    options = dict(cwd=folder, env=ENVIRONMENT, encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen([*command, *map(str, arguments)], **options)


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess([], process.returncode, output, errors)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    write_data(path)
    return path


@pytest.fixture(scope="module")
def runs(data):
    """Folders of runs by one process and by two ranks, one/NAME and two/NAME. one/stopped and two/stopped were stopped
    after 70 updates, and continued by the others."""
    one = [([*COMMON, *arguments, "--out_dir", f"one/{name}"], None) for name, arguments in RUNS.items()]
    one[-1][0].extend(["--gradient_accumulation", "2"])
    one.append(([*COMMON, *RUNS["adam"], "--out_dir", "one/stopped"], 70))
    two = [([*COMMON, *arguments, "--out_dir", f"two/{name}"], None) for name, arguments in RUNS.items()]
    two.append(([*COMMON, *RUNS["adam"], "--out_dir", "two/stopped"], 70))
    two.append((["--resume", "--out_dir", "one/stopped"], None))
    (data / "several.py").write_text(SEVERAL, encoding="utf-8")
    for name, several in {"one": one, "two": two}.items():
        (data / f"{name}.json").write_text(json.dumps(several), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data)
        patch.setattr(sys, "argv", ["several.py", "one.json"])
        exec(SEVERAL, {})
    both = finish(torchrun(data, "several.py", "two.json"))
    assert both.returncode == 0, both.stderr
    train(data, "--resume", "--out_dir", "two/stopped")
    return data


def read_numbers(folder: Path) -> list[dict[str, float]]:
    """Without the samples, in which a rounding error may change a token."""
    return [{name: value for name, value in row.items() if name != "sample"} for row in read_metrics(folder)]


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_have_the_loss_curve_of_one_process(runs, name):
    one, two = (read_numbers(runs / place / name) for place in ("one", "two"))
    assert [row["step"] for row in one] == [50, 100, 150, 200]
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


def test_one_process_resumes_what_two_ranks_began_and_the_reverse(runs):
    whole = read_numbers(runs / "one" / "adam")
    for place in ("one", "two"):
        resumed = read_numbers(runs / place / "stopped")
        assert len(resumed) == len(whole)
        for a, b in zip(resumed, whole, strict=True):
            assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("event", ["SIGINT", "SIGTERM", "kill"])
def test_all_ranks_end_soon_and_the_run_can_be_resumed(data, tmp_path, event):
    arguments = [
        *COMMON,
        "--data",
        "fox.txt",
        "--max_iters",
        "100000",
        "--eval_interval",
        "20",
        "--out_dir",
        tmp_path / "run",
    ]
    process = torchrun(data, ROOT / "train.py", *arguments)
    wait_until(lambda: (tmp_path / "run" / "state.pt").exists() or process.poll() is not None)
    ranks = subprocess.check_output(["pgrep", "-P", str(process.pid)], encoding="utf-8").split()
    assert len(ranks) == 2
    start = time.monotonic()
    if event == "kill":
        os.kill(max(map(int, ranks)), signal.SIGKILL)
    else:
        process.send_signal(getattr(signal, event))
        if event == "SIGTERM":  # as a cluster does, which signals all of a job's processes
            for pid in ranks:
                os.kill(int(pid), signal.SIGTERM)
    result = finish(process)
    assert time.monotonic() - start < 30
    assert result.returncode != 0
    assert result.stdout.count("processes, float32") == 1  # only one of them prints
    if event == "kill":
        assert result.stderr.count("error: another process of this run has ended") == 1
    else:
        assert result.stdout.count(", which is saved") == 1
    assert f'File "{ROOT}' not in result.stderr  # no traceback of ours
    resumed = resume(TrainConfig(out_dir=str(tmp_path / "run"), resume=True))
    resumed.folder.close()
    assert resumed.state.progress.step >= evaluation_lines(result.stdout)[-1][0]


def test_a_batch_that_the_ranks_do_not_divide_is_refused_once(data):
    result = finish(torchrun(data, ROOT / "train.py", *COMMON, "--data", "fox.txt", "--batch_size", "5"))
    assert result.stderr.count("--batch_size 5: is not divisible by 2 processes x --gradient_accumulation 1") == 1
    assert not (data / "out").exists()


def test_without_torchrun_nothing_is_shared():
    with distributed.processes():
        assert (distributed.world_size(), distributed.is_main()) == (1, True)
        assert distributed.shared_map(abs, iter([-1, 2, -3])) == [1, 2, 3]
        with pytest.raises(UserError, match="no"):
            distributed.call_on_all_ranks(raise_user_error)
    assert distributed.disconnect()


def raise_user_error() -> None:
    raise UserError("no")
