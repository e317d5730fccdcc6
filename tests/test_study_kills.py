"""Studies that are killed, shared and filled up: real processes, and what is on the disk afterwards."""

from __future__ import annotations

import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress

import pytest
from conftest import ROOT, wait_until

from mingpt import files
from mingpt.tuning import Float, Space, Study

# What the processes of these tests do: `python job.py NAME ARGUMENTS`.
JOB = """
import math, os, random, resource, signal, sys, time
from pathlib import Path
from mingpt.tuning import Choice, Float, Int, Space, Study, minimize
from mingpt.tuning.loop import run
from mingpt.tuning.storage import StudyError
from mingpt.tuning.strategies import STRATEGIES

PLANE = {"x": Float(0, 1), "y": Float(-1, 1), "kind": Choice("a", "b")}

def sensitive(space, history, seed, number):
    # all that it may depend on decides it: a difference of one bit in a value gives another
    seen = [(t.number, t.config, t.state, str(t.value), t.curve) for t in history]
    rng = random.Random(repr((seed, number, seen)))
    return space.config([rng.random() for _ in space.names])

STRATEGIES["random"] = sensitive

def bowl(config, report):
    for step in range(1, 5):
        time.sleep(0.02)
        value = (config["x"] - 0.3) ** 2 + config["y"] ** 2 + (config["kind"] == "b") + 1 / step
        if not report(step, value):
            return None
    return value

def run_bowl(trial, report, stop):
    return bowl(trial.config, report)

def alone(folder, strategy, trials):
    minimize(bowl, PLANE, strategy, trials=int(trials), seed=5, stopping="median", folder=folder)

def one_worker(folder, strategy, trials):
    run(Study(Space(PLANE), strategy, seed=5, stopping="median", folder=folder), run_bowl, 1, int(trials))

def together(folder):
    minimize(lambda config: time.sleep(0.01) or os.getpid(), {"n": Int(1, 40)}, "grid", trials=100, folder=folder)

def dies(folder):
    minimize(lambda config: os.kill(os.getpid(), signal.SIGKILL), {"x": Float(0, 1)}, "random", folder=folder)

def full_disk(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    study = Study(Space(PLANE), "random", folder=folder)
    trial = study.ask()
    for step in range(100_000):
        study.report(trial, step, step / 2)
        print(step, flush=True)

def no_rights(folder):
    os.chdir(folder)
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        Study(Space(PLANE), "random", folder=".").ask()
    except StudyError as error:
        print(error)

def mixed(trial, report, stop):
    n = trial.config["n"]
    if n == 3:
        raise RuntimeError("three\\nis not liked")
    if n == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if n == 7:
        report(1, 7)
        return math.nan if report(2, 7) else None
    time.sleep(1.0 if n == 6 else 0.02)
    return n

def workers(folder):
    study = Study(Space({"n": Int(0, 11)}), "grid", folder=folder)
    run(study, mixed, 2, on_done=lambda trial: print(trial.number, trial.state, flush=True))

def endless(trial, report, stop):
    if trial.config["n"] == 0:
        return 0.0
    Path(os.environ["PLACE"], f"{trial.number}").write_text("begun")
    while not stop.is_set():
        time.sleep(0.01)
    return None

def calm(folder, minutes="inf"):
    asked = []
    signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    print("ready", flush=True)
    study = Study(Space({"n": Int(0, 9)}), "grid", folder=folder)
    run(study, endless, 2, None, float(minutes), lambda: bool(asked), lambda trial: print(trial.number, flush=True))

if __name__ == "__main__":
    def unknown_to_workers(trial, report, stop):
        return 0.0

    def unfit(folder):
        run(Study(Space(PLANE), "random", folder=folder), unknown_to_workers, 2, 4)

    globals()[sys.argv[1]](*sys.argv[2:])
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Starts a process that runs a function of JOB."""
    place = tmp_path_factory.mktemp("job")
    (place / "job.py").write_text(JOB, encoding="utf-8")
    processes = []

    def start(*arguments, **environment):
        options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
        command = [sys.executable, str(place / "job.py"), *map(str, arguments)]
        processes.append(subprocess.Popen(command, env=environment, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def ended(process, code=0):
    """What a process printed, once it has ended by itself."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return out


def count(folder, state="running"):
    """How many trials are not in a state, as another program sees the file."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'study.sqlite'}?mode=ro", uri=True)) as db:
            return db.execute("SELECT count(*) FROM trials WHERE state != ?", (state,)).fetchone()[0]
    except sqlite3.Error:  # it is not there yet
        return 0


def outcomes(trials):
    return [(t.number, t.config, t.state, None if math.isnan(t.value) else t.value, t.curve) for t in trials]


def read_trials(folder):
    with closing(Study.open(folder)) as study:
        return study.trials


@pytest.mark.parametrize(
    ("how", "strategy", "trials", "kills"),
    [("alone", "random", 25, 7), ("alone", "gp", 9, 1), ("one_worker", "random", 9, 2)],
)
def test_killed_at_random_moments_it_is_the_study_that_was_never_killed(tmp_path, job, how, strategy, trials, kills):
    """Every other kill comes before anything may have happened; between two, one trial at least is finished."""
    chance = random.Random(how + strategy)
    folder = tmp_path / "study"
    for i in range(kills):
        before = count(folder)
        process = job(how, folder, strategy, trials)
        if i % 2:
            time.sleep(chance.uniform(0, 0.4))
        else:
            wait_until(lambda before=before: count(folder) > before)
            time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.wait()
    assert count(folder) < trials, "it was done before the last kill: give it more trials"
    ended(job(how, folder, strategy, trials))
    found = read_trials(folder)

    ended(job(how, tmp_path / "whole", strategy, trials))
    assert outcomes(found) == outcomes(read_trials(tmp_path / "whole"))
    if kills > 5:  # it had time for everything
        assert {trial.state for trial in found} == {"done", "stopped"}
        assert max(trial.attempts for trial in found) > 1
    assert [trial.number for trial in found] == list(range(trials))


def test_what_kills_its_process_is_taken_up_twice_and_then_failed(tmp_path, job):
    configs = []
    for attempt in (1, 2, 3):
        ended(job("dies", tmp_path), -signal.SIGKILL)
        (trial,) = read_trials(tmp_path)
        assert (trial.number, trial.state, trial.attempts) == (0, "running", attempt)
        configs.append(trial.config)
    assert configs[0] == configs[1] == configs[2]
    study = Study.open(tmp_path)
    assert study.ask().number == 1
    trial = study.trials[0]
    assert (trial.state, trial.attempts, trial.why) == ("failed", 3, "its process died 3 times")
    assert math.isnan(trial.value) and study.best is None


def test_two_processes_on_one_study(tmp_path, job):
    for process in [job("together", tmp_path), job("together", tmp_path)]:
        ended(process)
    found = read_trials(tmp_path)
    assert [trial.number for trial in found] == list(range(40))
    assert sorted(trial.config["n"] for trial in found) == list(range(1, 41))
    assert len({trial.value for trial in found}) == 2  # each did its share
    assert not list((tmp_path / "locks").iterdir())


def test_a_disk_that_fills_up(tmp_path, job):
    process = job("full_disk", tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{tmp_path / 'study.sqlite'}: cannot be used (" in err.splitlines()[-1]
    said = [int(line) for line in out.split()]
    (trial,) = read_trials(tmp_path)
    assert len(said) > 20 and trial.curve[: len(said)] == [(step, step / 2) for step in said]


def test_a_folder_that_cannot_be_written(tmp_path, job):
    Study(Space({"x": Float(0, 1)}), "random", folder=tmp_path / "there").close()
    (tmp_path / "new").mkdir()
    for folder in (tmp_path / "there", tmp_path / "new"):
        folder.chmod(0o555)
        out = ended(job("no_rights", folder))
        assert out.startswith("study.sqlite: cannot be used (") and out.count("\n") == 1


def test_workers(tmp_path, job):
    """One raises, one returns nan, one takes its process with it each time, which is not laid to its neighbour."""
    out = ended(job("workers", tmp_path))
    found = read_trials(tmp_path)
    assert [trial.config["n"] for trial in found] == list(range(12))
    assert {trial.number for trial in found if trial.state != "done"} == {3, 5, 7}
    assert found[3].why == "RuntimeError: three" and found[5].why == "its process died 3 times"
    assert [trial.attempts for trial in found] == [1] * 5 + [3] + [1] * 6
    assert found[7].why == "its value is nan" and found[7].curve == [(1, 7), (2, 7)]
    assert all(trial.value == trial.number and trial.seconds > 0.01 for trial in found if trial.state == "done")
    assert sorted(out.splitlines()) == sorted(f"{trial.number} {trial.state}" for trial in found)


@pytest.mark.parametrize("wait", [0.1, None])
def test_ctrl_c_stops_calmly_at_any_moment(tmp_path, job, wait):
    folder = tmp_path / "study"
    process = job("calm", folder, PLACE=str(tmp_path))
    assert process.stdout.readline() == "ready\n"
    if wait is None:
        wait_until(lambda: (tmp_path / "1").exists() and (tmp_path / "2").exists())
    else:
        time.sleep(wait)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    found = read_trials(folder)
    assert all(trial.state == "running" and trial.attempts == 0 for trial in found[1:])
    if wait is None:
        assert (out, found[0].state, len(found)) == ("0\n", "done", 3)
        with closing(Study.open(folder)) as study:
            assert [study.ask().number for _ in range(3)] == [1, 2, 3]


def test_minutes_end_as_ctrl_c_does(tmp_path, job):
    assert ended(job("calm", tmp_path / "study", 0.03, PLACE=str(tmp_path))) in ("ready\n", "ready\n0\n")
    found = read_trials(tmp_path / "study")
    assert all((trial.state, trial.attempts) in [("done", 1), ("running", 0)] for trial in found)


def test_workers_end_when_their_parent_is_killed(tmp_path, job):
    process = job("calm", tmp_path / "study", PLACE=str(tmp_path))
    wait_until(lambda: (tmp_path / "1").exists() and (tmp_path / "2").exists())
    process.kill()
    for number in "12":
        wait_until(lambda number=number: is_free(tmp_path / "study" / "locks" / number), seconds=5)


def is_free(path):
    with suppress(BlockingIOError):
        files.lock(path).close()
        return True
    return False


def test_workers_that_cannot_begin_end_the_run(tmp_path, job):
    process = job("unfit", tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "BrokenProcessPool" in err.splitlines()[-1]
    assert read_trials(tmp_path) == []
