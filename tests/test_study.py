"""A study in one process: asking, reporting, telling; and what is refused, corrupt and foreign files among it."""

from __future__ import annotations

import math
import random
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest
from conftest import ROOT

from mingpt.errors import UserError
from mingpt.tuning import Choice, Float, Int, Space, Study, minimize, strategies
from mingpt.tuning.storage import StudyError

PLANE = {"x": Float(0, 1), "y": Float(-1, 1), "kind": Choice("a", "b")}


def read_trials(folder):
    with closing(Study.open(folder)) as study:
        return study.trials


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

    def suggest(space, history, seed, number):
        asked.append((seed, number, [(t.number, t.state) for t in history]))
        return {"x": number / 10, "y": 0.0, "kind": "a"} if number < 3 else None

    monkeypatch.setitem(strategies.STRATEGIES, "gp", suggest)
    study = Study(Space(PLANE), "gp", seed=8)
    trials = [study.ask() for _ in range(2)]
    study.tell(trials[0], 1.0)
    assert study.ask().config["x"] == 0.2 and study.ask() is None
    running, done = [(0, "running"), (1, "running")], [(0, "done"), (1, "running")]
    assert asked == [
        (8, 0, []),
        (8, 1, running[:1]),
        (8, 2, done),
        (8, 3, [*done, (2, "running")]),
    ]


def test_going_on_in_another_space(tmp_path):
    minimize(lambda config: config["x"], {"x": Float(0, 1)}, "random", 20, folder=tmp_path).close()
    lower = [trial for trial in read_trials(tmp_path) if trial.config["x"] <= 0.5]
    with closing(Study(Space({"x": Float(0, 0.5)}), "random", folder=tmp_path)) as study:
        assert (study.total, study.counting) == (20, len(lower)) and 0 < len(lower) < 20
        assert study.ask().number == 20
    with closing(Study.open(tmp_path)) as study:
        assert (study.total, study.counting) == (21, len(lower) + 1)  # as it was last asked for
        assert study.opening()[1:] == ("random", 0, "off", tmp_path, None)


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(KeyError, match="annealing"):
        Study(Space(PLANE), "annealing", folder=tmp_path / "new")
    with pytest.raises(KeyError, match="never"):
        Study(Space(PLANE), stopping="never", folder=tmp_path / "new")
    with pytest.raises(UserError, match="a grid needs levels"):
        Study(Space(PLANE), "grid")
    for value in ((1, 2), object()):
        with pytest.raises(UserError, match="a study keeps text, numbers, true, false and null"):
            Study(Space({"x": Choice(value, 3)}), "grid", folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StudyError, match="file/study: cannot be made"):
        Study(Space(PLANE), "random", folder=tmp_path / "file" / "study")
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
    assert [(trial.state, trial.attempts) for trial in read_trials(tmp_path)] == [("running", 0)]


def test_nothing_heavy_is_imported():
    code = "import sys; from mingpt.tuning import minimize; sys.exit(bool({'scipy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ---- Corrupt and foreign files ----


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
    assert len(read_trials(old.parent)) == 30


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
