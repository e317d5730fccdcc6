"""`python tune.py`: each strategy, resuming, kills, Ctrl-C, bad input."""

import csv
import json
import os
import signal
import subprocess
import sys
from contextlib import closing, suppress

import pytest
from conftest import MACHINE, ROOT, TEXT, TINY, assert_refused, wait_until

from mingpt import cli, files
from mingpt.config import TrainConfig
from mingpt.errors import UserError
from mingpt.tuning import Study

SHORT = ["--data", "fox.txt", *MACHINE, *TINY[2:], "--max_iters", "20"]  # n_layer is searched
SEARCH = ["--search", "learning_rate=1e-3..1 log", "--search", "n_layer=1..2", "--search", "optimizer=adamw,sgd"]
SEARCH += ["--search", "momentum=0.5..0.9 when optimizer=sgd", *SHORT]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, with a text."""
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    return tmp_path


def start(*arguments):
    """`python tune.py ARGUMENTS` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tune.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


def tune(*arguments):
    """The same in this process, which has imported torch already."""
    from tune import main

    return main(list(map(str, arguments)))


def trials(folder):
    with closing(Study.open(folder)) as study:
        return study.trials


def facts(found):
    return [(t.number, t.config, t.state, t.value, t.curve) for t in found]


def test_gp_through_the_real_command_line(place):
    process = start("--strategy", "gp", *SEARCH, "--trials", 7, "--study", "s")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found = trials(place / "s")
    assert [t.number for t in found] == list(range(7))
    assert found[0].config == {"optimizer": "muon", "learning_rate": 0.02, "n_layer": 2}  # the defaults, in no space
    assert all(t.state in ("done", "stopped", "failed") for t in found)
    lines = [line for line in out.splitlines() if line.strip()]
    assert sum(line.split()[:1] == [str(n)] for n in range(7) for line in lines) >= 7
    assert "the defaults" in out
    assert "python train.py --config s/best.json" in out

    best = json.loads((place / "s" / "best.json").read_text(encoding="utf-8"))
    assert not {"max_iters", "seed", "out_dir", "threads"} & set(best)
    assert best["data"] == "fox.txt"
    assert best["n_embd"] == 16
    winner = min((t for t in found if t.state == "done"), key=lambda t: t.value)
    assert {name: best[name] for name in winner.config} == winner.config

    with open(place / "s" / "trials.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == list(range(7))
    assert (place / "s" / "pictures.png").stat().st_size > 10_000
    assert not list((place / "s").glob("trials/*/state.pt"))
    for trial in found:  # each value is that of the run in the trial's folder
        if trial.state == "done":
            metrics = place / "s" / "trials" / f"{trial.number:04}" / "metrics.jsonl"
            values = [json.loads(line)["bits_per_byte"] for line in metrics.read_text(encoding="utf-8").splitlines()]
            assert trial.value == min(values)

    config = cli.parse(TrainConfig, ["--config", "s/best.json"], "train.py", "")
    assert (config.n_embd, config.learning_rate) == (16, winner.config["learning_rate"])


def test_a_grid_with_two_workers_is_counted_and_its_best_are_confirmed(place, capsys):
    grid = ["--search", "learning_rate=1e-3,1e-2", "--search", "n_layer=1,2", "--study", "g", "--stopping", "off"]
    assert tune("--strategy", "grid", *grid, *SHORT, "--workers", 2, "--confirm", 2) == 0
    printed = capsys.readouterr().out
    assert "5 trials by grid" in printed  # and the defaults, which are not on the grid
    expected = [{"learning_rate": lr, "n_layer": n} for lr in (1e-3, 1e-2) for n in (1, 2)]
    found = trials(place / "g")
    assert [t.config for t in found][1:] == expected and {t.state for t in found} == {"done"}
    again = trials(place / "g" / "confirm")
    assert {t.config["seed"] for t in again} == {1, 2} and len(again) == 4
    assert not {t.value for t in again} & {t.value for t in found}  # other seeds, other values
    assert "wins" in printed


def test_a_killed_study_has_the_trials_of_one_never_killed(place):
    flags = [*SEARCH, "--strategy", "random", "--max_iters", "200", "--trials", "3", "--dropout", "0.1"]
    assert tune(*flags, "--study", "whole") == 0
    killed = place / "killed" / "trials"
    for number, name in ((0, "train.json"), (1, "metrics.jsonl")):  # as it begins, and after an evaluation
        process = start(*flags, "--study", "killed")
        wait_until(lambda number=number, name=name: (killed / f"{number:04}" / name).exists())
        process.kill()
        process.communicate()
        wait_until(lambda number=number: is_free(place / "killed" / "locks" / str(number)))  # its worker has ended too
        if name == "train.json":
            (killed / "0000" / name).unlink()  # as if it had been killed a moment earlier
    assert tune(*flags, "--study", "killed") == 0
    assert facts(trials(place / "killed")) == facts(trials(place / "whole"))
    assert trials(place / "killed")[0].attempts == 2


def is_free(path):
    with suppress(BlockingIOError):
        files.lock(path).close()
        return True
    return False


def test_ctrl_c_saves_what_is_running_and_the_study_is_resumed_with_what_it_has(place, capsys):
    process = start(*SEARCH, "--trials", 30, "--study", "s")
    wait_until((place / "s" / "trials" / "0001").exists)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == cli.CANCELLED, err
    assert "python tune.py --study s" in out and "Traceback" not in err
    before = trials(place / "s")
    ended = [trial for trial in before if trial.state != "running"]
    assert tune("--study", "s", "--trials", len(before) + 1) == 0
    assert f"after {len(before)} trials" in capsys.readouterr().out
    after = trials(place / "s")
    assert facts(after)[: len(ended)] == facts(ended) and len(after) == len(before) + 1
    assert all(t.state != "running" for t in after)
    assert tune("--study", "s", "--search", "n_layer=1..3", "--trials", len(after)) == 0
    assert "of which 0 lie in this space" in capsys.readouterr().out
    for flags, words in ((["--max_iters", "30"], "20"), (["--data", "other.txt"], "fox.txt"), (["--seed", "4"], "0")):
        with pytest.raises(UserError, match=words):
            tune("--study", "s", *flags)
    (place / "fox.txt").write_text(TEXT[1:], encoding="utf-8")
    with pytest.raises(UserError, match="is not the data"):
        tune("--study", "s", "--trials", 99)
    assert len(trials(place / "s")) == len(after)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--strategy", "bayes"], "'grid', 'random' or 'gp'"),
        (["--serach", "n_layer=1..2"], "--search"),
        (["--search"], "needs a value"),
        (["--search", "n_layer=8..1", "--search", "n_layr=1..2", "--search", "dropout=0..2"], "n_layr"),
        (["--strategy", "grid", "--search", "learning_rate=1e-3..1 log"], "levels"),
        (["--search", "n_layer=1..2", "--n_layer", "2"], "leave one"),
        (["--search", "n_layer=1..2", "--search", "n_layer=3..4"], "twice"),
        (["--trials", "0"], "--trials"),
        (["--workers", "many"], "--workers"),
        (["--data", "missing.txt"], "missing.txt"),
        (["--n_head", "5", "--search", "n_layer=1..2"], "--n_head 5"),
        (["--study", "taken"], "taken"),
        (["--study", "corrupt"], "corrupt"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(place, flags, words):
    for name, file, content in (("taken", "note.txt", "mine"), ("corrupt", "tune.json", "{")):
        (place / name).mkdir()
        (place / name / file).write_text(content, encoding="utf-8")
    before = sorted(str(path) for path in place.rglob("*"))
    with pytest.raises(UserError) as caught:
        tune(*flags if "--data" in flags else ["--data", "fox.txt", *flags])
    assert words in str(caught.value)
    assert sorted(str(path) for path in place.rglob("*")) == before


def test_errors_are_lines_and_exit_code_2(place):
    process = start("--serach", "n_layer=1..2", "--trials", 0)
    out, err = process.communicate(timeout=120)
    assert_refused(subprocess.CompletedProcess([], process.returncode, out, err), "--search", "--trials 0")
