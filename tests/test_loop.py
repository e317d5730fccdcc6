"""The trials of a study in other processes: kills of parent and workers, Ctrl-C, a Dask cluster."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from bowl import SPACE, STEPS, run_study
from conftest import ROOT, wait_until

from mingpt.tuning import Study, Trial
from mingpt.tuning.journal import Journal
from mingpt.tuning.loop import dask_cluster

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


def start(folder: Path, workers: int, limit: int, *address: str, seconds: float = 0.01) -> subprocess.Popen:
    """A study in a process of its own, with so many seconds for each step of a trial."""
    arguments = map(str, (folder, workers, limit, seconds, *address))
    command = [sys.executable, str(ROOT / "tests" / "bowl.py"), *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True)


def read(folder: Path) -> list[Trial]:
    with contextlib.closing(Journal(folder)) as journal:
        return journal.trials


def outcomes(trials: list[Trial]) -> list[tuple]:
    return [(t.number, t.config, t.state, repr(t.value), t.curve) for t in trials]


def journal_size(folder: Path) -> int:
    path = folder / "journal.jsonl"
    return path.stat().st_size if path.exists() else 0


def worker_pids(folder: Path) -> set[int]:
    return {int(line) for path in folder.glob("*.pids") for line in path.read_text(encoding="utf-8").splitlines()}


def is_running(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return False


def test_a_study_killed_at_random_moments_is_the_study_that_was_never_killed(tmp_path):
    """Parent and worker are killed in turn; what was finished is not computed again."""
    chance, folder = random.Random(0), tmp_path / "killed"
    for i in range(8):
        process = start(folder, 1, 30)
        size = journal_size(folder)
        wait_until(lambda size=size, process=process: journal_size(folder) > size or process.poll() is not None)
        time.sleep(chance.uniform(0, 0.3))
        if i % 2:
            os.kill(process.pid, signal.SIGKILL)
        else:
            workers = [pid for pid in worker_pids(folder) if is_running(pid)]
            os.kill(workers[-1] if workers else process.pid, signal.SIGKILL)
            time.sleep(0.3)
            process.kill()
        process.wait()
        wait_until(lambda: not any(map(is_running, worker_pids(folder))), seconds=10)
    trials = run_study(folder, 1, 30)
    whole = run_study(tmp_path / "whole", 1, 30)
    assert outcomes(trials) == outcomes(whole) == outcomes(read(folder))
    assert {trial.state for trial in whole} == {"done", "stopped"}
    for trial in trials:
        assert len(trial.curve) == STEPS if trial.state == "done" else 2 <= len(trial.curve) < STEPS


def test_what_goes_wrong_in_one_trial_does_not_end_the_others(tmp_path):
    trials = run_study(tmp_path, 2, 8, bad={1: "raises", 3: "dies", 5: "nan"})
    assert [trial.number for trial in trials if trial.state == "failed"] == [1, 3, 5]
    assert trials[1].attributes["error"] == "RuntimeError: too bad"
    assert trials[3].attributes["error"] == "its process died 3 times"
    assert trials[5].attributes["error"] == "its value is inf"
    for trial in trials:
        if trial.state == "done":
            assert trial.value == min(value for _, value in trial.curve) and trial.attributes["steps"] == STEPS


def test_a_trial_that_a_killed_parent_saw_die_three_times_has_failed(tmp_path):
    with contextlib.closing(Journal(tmp_path)) as journal:
        study = Study(SPACE, "random", seed=1, journal=journal)
        trial = study.ask()
        study.set_attribute(trial, "deaths", 4)
    trials = run_study(tmp_path, 1, 2, bad={0: "dies"})
    assert [trial.state for trial in trials] == ["failed", "done"] and "died" in trials[0].attributes["error"]


def test_an_error_that_no_configuration_causes_ends_the_study_and_loses_nothing(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        run_study(tmp_path, 1, 6, bad={2: "disk is full"})
    assert [trial.state == "running" for trial in read(tmp_path)] == [False, False, True]
    trials = run_study(tmp_path, 1, 6)
    assert outcomes(trials) == outcomes(run_study(tmp_path / "whole", 1, 6))


def test_ctrl_c_leaves_running_trials_to_be_continued(tmp_path):
    process = start(tmp_path, 2, 1000, seconds=0.5)
    wait_until(lambda: len(worker_pids(tmp_path)) == 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    before = read(tmp_path)
    unfinished = [trial.number for trial in before if trial.state == "running"]
    assert len(unfinished) == 2
    trials = run_study(tmp_path, 2, len(before))
    assert all(trial.state != "running" for trial in trials)
    assert [t.config for t in trials] == [t.config for t in before]


def test_a_dask_cluster_finishes_what_a_killed_worker_and_a_killed_parent_began(tmp_path):
    environment = ENVIRONMENT | {"DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    folder, processes = tmp_path / "study", []

    def dask(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]]
        processes.append(subprocess.Popen(command, env=environment, stdout=-3, stderr=-3))
        return processes[-1]

    try:
        scheduler_file = tmp_path / "scheduler.json"
        dask("dask_scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(scheduler_file))
        wait_until(scheduler_file.exists)
        workers = [
            dask(
                "dask_worker",
                "--scheduler-file",
                str(scheduler_file),
                "--no-nanny",
                "--nthreads",
                "1",
                "--no-dashboard",
            )
            for _ in range(2)
        ]
        address = json.loads(scheduler_file.read_text(encoding="utf-8"))["address"]
        parent = start(folder, 2, 12, address, seconds=0.2)
        wait_until(lambda: {worker.pid for worker in workers} <= worker_pids(folder))
        parent.kill()
        parent.wait()
        workers[0].kill()
        trials = run_study(folder, 2, 12, partial(dask_cluster, address))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert len(trials) == 12 and all(trial.state in ("done", "stopped") for trial in trials)
    assert all(math.isfinite(trial.lowest) for trial in trials)
    assert [trial.number for trial in trials] == list(range(12))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_end_when_their_parent_is_killed(tmp_path, workers):
    process = start(tmp_path, workers, 1000)
    wait_until(lambda: len(worker_pids(tmp_path)) == workers)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_running, worker_pids(tmp_path))), seconds=10)
