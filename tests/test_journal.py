"""A study's file: the same study in Optuna, and what is left of it after a kill, a full disk or damage."""

from __future__ import annotations

import contextlib
import math
import os

import optuna
import pytest

from mingpt.errors import UserError
from mingpt.tuning import Choice, Float, Int, Space, Study
from mingpt.tuning.journal import Journal

SPACE = Space(
    {
        "rate": Float(1e-5, 1, log=True),
        "depth": Int(1, 8),
        "drop": Float(0, 0.5, step=0.2),
        "optimizer": Choice("adamw", "sgd", None, True, 3),
        "momentum": Float(0.5, 0.99, when={"optimizer": ["sgd"]}),
    }
)
STATES = {"running": "RUNNING", "done": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}


def write_study(folder, trials=40) -> list:
    """A study with trials of every state, the last running."""
    with contextlib.closing(Journal(folder, {"asked": {"n_layer": 2}})) as journal:
        journal.set_attribute("asked", {"n_layer": 3})
        first = {"rate": 3.0, "depth": 12, "drop": 0.3, "optimizer": "muon"}  # in no part of the space
        study = Study(SPACE, "random", first=[first], journal=journal)
        for number in range(trials):
            trial = study.ask()
            for step in range(1, 1 + number % 4):
                study.report(trial, step, number + 1 / step)
            if number < trials - 1:
                state = ("done", "stopped", "failed")[number % 3] if trial.curve else "done"
                study.tell(trial, number + 0.5, state, seconds=1.5, note="ä\n")
        return study.trials


def fields(trial) -> tuple:
    return trial.number, trial.config, trial.state, repr(trial.value), trial.curve, trial.attributes


def read(folder) -> list:
    with contextlib.closing(Journal(folder)) as journal:
        return list(map(fields, journal.trials))


def test_optuna_shows_the_same_study_while_it_runs(tmp_path):
    trials = write_study(tmp_path / "s")
    assert read(tmp_path / "s") == list(map(fields, trials))
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "s" / "journal.jsonl"))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert (study.study_name, study.user_attrs["asked"]) == ("s", {"n_layer": 3})
    assert len(study.trials) == len(trials) and {trial.state for trial in trials} == {*STATES}
    for ours, theirs in zip(trials, study.trials, strict=True):
        assert theirs.params == ours.config and list(theirs.params) == list(ours.config)
        assert [type(value) for value in theirs.params.values()] == [type(value) for value in ours.config.values()]
        assert (theirs.number, theirs.state.name) == (ours.number, STATES[ours.state])
        assert theirs.intermediate_values == dict(ours.curve)
        assert theirs.user_attrs == ours.attributes
        assert theirs.value == {"done": ours.value, "stopped": ours.lowest}.get(ours.state)
        assert theirs.datetime_start and bool(theirs.datetime_complete) == (ours.state != "running")
    best = min((trial for trial in trials if trial.state == "done"), key=lambda trial: trial.value)
    assert study.best_trial.number == best.number
    inside = trials[1]
    for name, distribution in study.trials[1].distributions.items():
        assert distribution._contains(distribution.to_internal_repr(inside.config[name]))


def test_a_line_cut_off_anywhere_costs_that_line(tmp_path):
    write_study(tmp_path, trials=3)
    path = tmp_path / "journal.jsonl"
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    start = len(content) - len(lines[-1]) - len(lines[-2])
    for end in range(start, len(content), 7):
        path.write_bytes(content[:end])
        read(tmp_path)
        assert path.read_bytes() == content[: content.rfind(b"\n", 0, end) + 1]
    with contextlib.closing(Journal(tmp_path)) as journal:  # and the study goes on behind it
        study = Study(SPACE, "random", journal=journal)
        study.tell(study.ask(), 0.25)
    assert read(tmp_path)[-1][2:4] == ("done", "0.25")


def test_what_is_not_a_study_of_ours_is_named_and_left_as_it_is(tmp_path):
    write_study(tmp_path / "corrupt", trials=3)
    path = tmp_path / "corrupt" / "journal.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    contents = {
        "line 4": [*lines[:3], lines[3][:-5], *lines[4:]],
        "line 2": [lines[0], '{"op_code": 8, "trial_id": 5, "user_attr": {}}'],
        "line 1": ["[]"],
        "is not a study": ['{"op_code": 0, "study_name": "theirs", "directions": [1]}'],
    }
    for words, content in contents.items():
        path.write_text("\n".join(content) + "\n", encoding="utf-8")
        before = path.read_bytes()
        for _ in range(2):  # the lock is released
            with pytest.raises(UserError, match=words):
                Journal(path.parent)
        assert path.read_bytes() == before
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "study.sqlite").touch()
    with pytest.raises(UserError, match="old: is a study of an older version of mingpt"):
        Journal(tmp_path / "old")


def test_two_processes_do_not_own_one_study(tmp_path):
    with contextlib.closing(Journal(tmp_path)), pytest.raises(UserError, match="is in use by another process"):
        Journal(tmp_path)
    Journal(tmp_path).close()


def test_a_full_disk_leaves_complete_lines(tmp_path, monkeypatch):
    write_study(tmp_path, trials=2)
    before = (tmp_path / "journal.jsonl").read_bytes()
    with contextlib.closing(Journal(tmp_path)) as journal:
        study, write = Study(SPACE, "random", journal=journal), os.write
        monkeypatch.setattr("os.write", lambda file, line: write(file, line[:10]))
        with pytest.raises(OSError, match="No space left"):
            study.ask()
        assert (tmp_path / "journal.jsonl").read_bytes() == before and len(study.trials) == 2
        monkeypatch.undo()
        assert study.ask().number == 2
    assert len(read(tmp_path)) == 3


def test_values_that_are_no_numbers_and_numbers_of_any_size(tmp_path):
    space = Space({"n": Int(0, math.factorial(30)), "x": Float(-1e300, 1e300), "one": Int(3, 3)})
    with contextlib.closing(Journal(tmp_path)) as journal:
        study = Study(space, "random", journal=journal)
        for value in (math.nan, math.inf, 1e-300):
            trial = study.ask()
            study.report(trial, 1, value)
            study.tell(trial, value)
        assert [trial.state for trial in study.trials] == ["failed", "failed", "done"]
        assert study.trials[0].curve == [(1, math.inf)]
        expected = list(map(fields, study.trials))
    assert read(tmp_path) == expected
