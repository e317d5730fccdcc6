"""Studies that are killed, shared, torn and filled up: real processes, and what is on the disk afterwards."""

from __future__ import annotations

import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import pytest
from conftest import ROOT, until

from mingpt import files
from mingpt.errors import UserError
from mingpt.tuning import Choice, Float, Int, Space, Study, minimize, strategies
from mingpt.tuning.storage import StudyError

PLANE = {"x": Float(0, 1), "y": Float(-1, 1), "kind": Choice("a", "b")}

# What the processes of these tests do: `python job.py NAME ARGUMENTS`.
JOB = """
import hashlib, math, os, random, resource, signal, sys, time, types
from pathlib import Path
from mingpt.tuning import Choice, Float, Int, Space, Study, minimize
from mingpt.tuning.loop import run
from mingpt.tuning.storage import StudyError

PLANE = {"x": Float(0, 1), "y": Float(-1, 1), "kind": Choice("a", "b")}

def suggest(strategy, space, history, seed, number):
    # all that it may depend on decides it: a difference of one bit in a value gives another
    if strategy == "grid":
        return next((c for c in space.configurations() if c not in [t.config for t in history]), None)
    seen = [(t.number, t.config, t.state, str(t.value), t.curve) for t in history]
    chance = random.Random(repr((seed, number, seen)))
    return space.config([chance.random() for _ in space.names])

if "gp" not in sys.argv:  # the real ones take a second to import
    sys.modules["mingpt.tuning.strategies"] = light = types.ModuleType("light")
    light.STRATEGIES, light.grid_size, light.suggest = ("grid", "random"), lambda space: space.size, suggest

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
    def slow(config):
        time.sleep(0.01)
        return os.getpid()
    minimize(slow, {"n": Int(1, 40)}, "grid", trials=100, folder=folder)

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
    begun = trial.attempts, stop.is_set()
    Path(os.environ["PLACE"], f"{trial.number}").write_text(str(begun))
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
    begun = []

    def start(*arguments, **environment):
        options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
        process = subprocess.Popen(
            [sys.executable, str(place / "job.py"), *map(str, arguments)], env=environment, **options
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
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


def opened(folder):
    with closing(Study.open(folder)) as study:
        return study.trials


# ---- Kills ----


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
            until(lambda before=before: count(folder) > before)
            time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.wait()
    assert count(folder) < trials, "it was done before the last kill: give it more trials"
    ended(job(how, folder, strategy, trials))
    found = opened(folder)

    ended(job(how, tmp_path / "whole", strategy, trials))
    assert outcomes(found) == outcomes(opened(tmp_path / "whole"))
    if kills > 5:  # it had time for everything
        assert {trial.state for trial in found} == {"done", "stopped"}
        assert max(trial.attempts for trial in found) > 1
    assert [trial.number for trial in found] == list(range(trials))


def test_what_kills_its_process_is_taken_up_twice_and_then_failed(tmp_path, job):
    configs = []
    for attempt in (1, 2, 3):
        ended(job("dies", tmp_path), -signal.SIGKILL)
        (trial,) = opened(tmp_path)
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
    found = opened(tmp_path)
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
    (trial,) = opened(tmp_path)
    assert len(said) > 20 and trial.curve[: len(said)] == [(step, step / 2) for step in said]


def test_a_folder_that_cannot_be_written(tmp_path, job):
    Study(Space(PLANE), "random", folder=tmp_path / "there").close()
    (tmp_path / "new").mkdir()
    for folder in (tmp_path / "there", tmp_path / "new"):
        folder.chmod(0o555)
        out = ended(job("no_rights", folder))
        assert out.startswith("study.sqlite: cannot be used (") and out.count("\n") == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="file/study: cannot be made"):
        Study(Space(PLANE), "random", folder=tmp_path / "file" / "study")


# ---- Workers ----


def test_workers(tmp_path, job):
    """One raises, one returns nan, one takes its process with it each time, which is not laid to its neighbour."""
    out = ended(job("workers", tmp_path))
    found = opened(tmp_path)
    assert [trial.config["n"] for trial in found] == list(range(12))
    assert {trial.number for trial in found if trial.state != "done"} == {3, 5, 7}
    assert found[3].why == "RuntimeError: three" and found[5].why == "its process died 3 times"
    assert [trial.attempts for trial in found] == [1] * 5 + [3] + [1] * 6
    assert found[7].why == "its value is nan" and found[7].curve == [(1, 7), (2, 7)]
    assert all(trial.value == trial.number and trial.seconds > 0.01 for trial in found if trial.state == "done")
    assert sorted(out.splitlines()) == sorted(f"{trial.number} {trial.state}" for trial in found)


@pytest.mark.parametrize("wait", [0.0, 0.15, 0.4, None])
def test_ctrl_c_stops_calmly_at_any_moment(tmp_path, job, wait):
    folder = tmp_path / "study"
    process = job("calm", folder, PLACE=str(tmp_path))
    assert process.stdout.readline() == "ready\n"
    if wait is None:
        until(lambda: (tmp_path / "1").exists() and (tmp_path / "2").exists())
    else:
        time.sleep(wait)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    found = opened(folder)
    assert all(trial.state == "running" and trial.attempts == 0 for trial in found[1:])
    if wait is None:
        assert (out, found[0].state, len(found)) == ("0\n", "done", 3)
        with closing(Study.open(folder)) as study:
            assert [study.ask().number for _ in range(3)] == [1, 2, 3]


def test_minutes_end_as_ctrl_c_does(tmp_path, job):
    assert ended(job("calm", tmp_path / "study", 0.03, PLACE=str(tmp_path))) in ("ready\n", "ready\n0\n")
    found = opened(tmp_path / "study")
    assert all((trial.state, trial.attempts) in [("done", 1), ("running", 0)] for trial in found)


def test_workers_end_when_their_parent_is_killed(tmp_path, job):
    process = job("calm", tmp_path / "study", PLACE=str(tmp_path))
    until(lambda: (tmp_path / "1").exists() and (tmp_path / "2").exists())
    process.kill()
    for number in "12":
        until(lambda number=number: is_free(tmp_path / "study" / "locks" / number), seconds=5)


def is_free(path):
    try:
        files.lock(path).close()
    except files.Locked:
        return False
    return True


def test_workers_that_cannot_begin_end_the_run(tmp_path, job):
    process = job("unfit", tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "BrokenProcessPool" in err.splitlines()[-1]
    assert opened(tmp_path) == []


# ---- One process ----


@pytest.fixture(params=["folder", "memory"])
def study(request, tmp_path):
    with closing(Study(Space(PLANE), "random", folder=tmp_path if request.param == "folder" else None)) as study:
        yield study


def test_every_event_is_on_the_disk_when_its_call_returns(tmp_path):
    study, other = (Study(Space(PLANE), "random", folder=tmp_path) for _ in range(2))
    assert study.database.connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    trial = study.ask()
    assert other.trials == [trial]
    assert study.report(trial, 1, 0.5) and other.trials[0].curve == [(1, 0.5)]
    study.tell(trial, 0.25)
    assert (other.best.value, other.best.number, other.best.state) == (0.25, 0, "done")
    failed = study.ask()
    study.tell(failed, math.nan, "failed", "out of memory")
    assert (other.trials[1].state, other.trials[1].why) == ("failed", "out of memory")


def test_a_running_trial_is_its_processs_own(tmp_path):
    study, other = (Study(Space(PLANE), "random", folder=tmp_path) for _ in range(2))
    first = study.ask()
    second = other.ask()
    assert (first.number, second.number) == (0, 1) and first.config != second.config
    for call in (lambda: other.report(first, 1, 1.0), lambda: other.tell(first, 1.0), lambda: other.put_back(first)):
        with pytest.raises(ValueError, match="trial 0 is not run by this process"):
            call()
    study.report(first, 1, 0.5)
    study.close()  # as its death would
    again = other.ask()
    assert (again.number, again.config, again.curve, again.attempts) == (0, first.config, [(1, 0.5)], 2)
    other.tell(again, 0.1)
    with pytest.raises(ValueError, match="trial 0"):
        other.tell(again, 0.2)
    assert other.trials[0].value == 0.1


def test_what_is_put_back_comes_again_and_does_not_count(study):
    first = study.ask()
    for _ in range(5):
        study.put_back(first)
        again = study.ask()
        assert again == first and again.attempts == 1
    assert study.ask().number == 1


@pytest.mark.parametrize("is_written", [True, False])
def test_ctrl_c_while_a_trial_is_written_down(study, is_written):
    transaction = study.database.transaction

    @contextmanager
    def interrupted():
        study.database.transaction = transaction  # the next one is not
        with transaction() as db:
            yield db
            if not is_written:
                raise KeyboardInterrupt
        raise KeyboardInterrupt

    study.database.transaction = interrupted
    with pytest.raises(KeyboardInterrupt):
        study.ask()
    assert [(trial.number, trial.attempts) for trial in study.trials] == ([(0, 0)] if is_written else [])
    trial = study.ask()
    assert (trial.number, trial.attempts) == (0, 1)


def test_states_and_values(study):
    def told(*arguments, curve=()):
        trial = study.ask()
        for step, value in curve:
            study.report(trial, step, value)
        study.tell(trial, *arguments)
        trial = study.trials[-1]
        return trial.state, trial.value if trial.state == "done" else str(trial.value), trial.why

    assert study.best is None
    assert told(2.0) == ("done", 2.0, "")
    assert told(1.0) == ("done", 1.0, "")
    assert told(1.0) == ("done", 1.0, "")
    assert told(math.nan) == ("failed", "nan", "its value is nan")
    assert told(-math.inf) == ("failed", "nan", "its value is -inf")
    assert told(0.0, "failed", "it broke") == ("failed", "nan", "it broke")
    assert told(0.0, "stopped", curve=[(1, 3.0), (2, math.nan)]) == ("stopped", "nan", "")
    assert told(0.0, "stopped", curve=[(1, math.nan)]) == ("failed", "nan", "none of its values is a number")
    assert study.best.number == 1
    assert study.trials[6].curve == [(1, 3.0), (2, math.inf)]


def test_a_step_reported_again_is_judged_as_the_first_time():
    study = Study(Space(PLANE), "random", stopping="median")
    for value in range(5):
        trial = study.ask()
        for step in (1, 2, 3):
            study.report(trial, step, value)
        study.tell(trial, value)
    trial = study.ask()
    assert study.report(trial, 1, 2.0) and study.report(trial, 2, 1.0)
    assert not study.report(trial, 1, 3.0)  # begun again; its better value at step 2 does not excuse it
    assert study.trials[5].curve == [(1, 3.0), (2, 1.0)]


def test_first_comes_first_and_the_limit_counts_all():
    study = Study(Space(PLANE), "random", first={"x": 0.5, "y": 7.0})
    assert study.ask(limit=2).config == {"x": 0.5, "y": 7.0}
    second = study.ask(limit=2)
    assert study.space.contains(second.config) and study.ask(limit=2) is None
    study.put_back(second)
    assert study.ask(limit=2).number == 1  # it is no new one


def test_suggestions_follow_from_seed_number_and_history(monkeypatch):
    asked = []

    def suggest(strategy, space, history, seed, number):
        asked.append((strategy, seed, number, [(t.number, t.state) for t in history]))
        return {"x": number / 10, "y": 0.0, "kind": "a"} if number < 3 else None

    monkeypatch.setattr(strategies, "suggest", suggest)
    study = Study(Space(PLANE), "gp", seed=8)
    trials = [study.ask() for _ in range(2)]
    study.tell(trials[0], 1.0)
    assert study.ask().config["x"] == 0.2 and study.ask() is None
    running, done = [(0, "running"), (1, "running")], [(0, "done"), (1, "running")]
    assert asked == [
        ("gp", 8, 0, []),
        ("gp", 8, 1, running[:1]),
        ("gp", 8, 2, done),
        ("gp", 8, 3, [*done, (2, "running")]),
    ]


def test_going_on_in_another_space(tmp_path):
    minimize(lambda config: config["x"], {"x": Float(0, 1)}, "random", 20, folder=tmp_path).close()
    lower = [trial for trial in opened(tmp_path) if trial.config["x"] <= 0.5]
    with closing(Study(Space({"x": Float(0, 0.5)}), "random", folder=tmp_path)) as study:
        assert (study.total, study.counting) == (20, len(lower)) and 0 < len(lower) < 20
        assert study.ask().number == 20
    with closing(Study.open(tmp_path)) as study:
        assert (study.total, study.counting) == (21, len(lower) + 1)  # as it was last asked for
        assert study.opening()[1:] == ("random", 0, "off", tmp_path, None)


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(UserError, match="strategy annealing: grid, random, gp are accepted"):
        Study(Space(PLANE), "annealing")
    with pytest.raises(UserError, match="stopping never: off, median, halving are accepted"):
        Study(Space(PLANE), stopping="never")
    with pytest.raises(UserError, match="a grid needs levels"):
        Study(Space(PLANE), "grid")
    for value in ((1, 2), object()):
        with pytest.raises(UserError, match="a study keeps text, numbers, true, false and null"):
            Study(Space({"x": Choice(value, 3)}), "grid", folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(StudyError, match="study.sqlite: is missing; .* holds no study"):
        Study.open(tmp_path)
    with pytest.raises(ValueError, match="step nan"):
        study = Study(Space(PLANE), "random")
        study.report(study.ask(), math.nan, 1.0)


def test_minimize(tmp_path):
    def f(config, report):
        if config["n"] == 1:
            raise MemoryError
        if config["n"] == 2:
            raise UserError("n_head 2: does not divide", "another line")
        if config["n"] == 3:
            return "three"
        return math.nan if config["n"] == 4 else config["n"] if report(1, config["n"]) else None

    study = minimize(f, {"n": Int(0, 9)}, "grid", trials=8, stopping="halving", folder=tmp_path)
    assert [t.why for t in study.trials[:5]] == [
        "",
        "MemoryError",
        "UserError: n_head 2: does not divide",
        "TypeError: 'three' was returned, and is no number",
        "its value is nan",
    ]
    assert study.best.config == {"n": 0} and len(study.trials) == 8
    study.close()
    study = minimize(lambda config: 1.0, {"n": Int(0, 9)}, "grid", trials=20, folder=tmp_path)
    assert len(study.trials) == 10 and [t.value for t in study.trials[8:]] == [1.0, 1.0]


def test_a_trial_is_stopped_where_report_says_no():
    def f(config, report):
        for step in range(1, 10):
            if not report(step, config["n"]):
                return config["n"]
        return config["n"]

    study = minimize(f, {"n": Int(0, 9)}, "grid", stopping="median")
    assert [(t.state, len(t.curve)) for t in study.trials] == [("done", 9)] * 5 + [("stopped", 1)] * 5


def test_ctrl_c_in_a_trial_puts_it_back(tmp_path):
    def f(config):
        raise KeyboardInterrupt

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            minimize(f, PLANE, "random", folder=tmp_path)
    assert [(trial.state, trial.attempts) for trial in opened(tmp_path)] == [("running", 0)]


def test_nothing_heavy_is_imported():
    code = "import sys; from mingpt.tuning import minimize; sys.exit(bool({'scipy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ---- Torn and foreign files ----


@pytest.fixture
def old(tmp_path):
    """A folder with a study of thirty trials with curves, and its file."""
    study = Study(Space(PLANE), "random", folder=tmp_path)
    for number in range(30):
        trial = study.ask()
        for step in range(5):
            study.report(trial, step, number + step)
        study.tell(trial, number)
    study.close()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["study.sqlite"]
    return tmp_path / "study.sqlite"


def refused(path):
    """The one line that says why a file is no study, and that it was left as it was."""
    before = path.read_bytes() if path.exists() else None
    lines = []
    for attempt in (lambda: Study(Space(PLANE), "random", folder=path.parent), lambda: Study.open(path.parent)):
        with pytest.raises(StudyError) as caught:
            attempt()
        lines.append(str(caught.value))
        assert (path.read_bytes() if path.exists() else None) == before
    assert all(line.startswith(f"{path}: is ") and "\n" not in line for line in lines)
    return lines[0]


def test_a_torn_file_is_refused_and_left_as_it_is(old):
    whole = old.read_bytes()
    for length in (10, 99, 4096, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        old.write_bytes(whole[:length])
        assert "torn or no study" in refused(old)
    for start in range(0, len(whole), 4096):  # each page
        old.write_bytes(whole[:start] + random.Random(start).randbytes(600) + whole[start + 600 :])
        assert "torn or no study" in refused(old)
    for nothing in (b"", b"\0"):
        old.write_bytes(nothing)
        assert "is missing or empty, and a study was here" in refused(old)
    old.unlink()
    assert "is missing" in refused(old)
    old.write_bytes(whole)
    assert len(opened(old.parent)) == 30


def test_another_programs_file_is_refused_and_left_as_it_is(old):
    with closing(sqlite3.connect(old)) as db:
        db.execute("PRAGMA user_version=2")
    assert refused(old).endswith("is of format 2, and this version reads 1")
    old.unlink()
    with closing(sqlite3.connect(old)) as db:
        db.execute("CREATE TABLE trials (number, config)")
    assert refused(old).endswith("is another program's, no study")
    old.write_text("number,config\n0,1\n")
    assert "torn or no study" in refused(old)
