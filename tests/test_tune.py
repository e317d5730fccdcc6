"""`python tune.py` through the real command line: each strategy, going on, kills, bad input."""

import csv
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TEXT, TINY

from mingpt.config import TrainConfig, Training
from mingpt.config_tune import TuneConfig
from mingpt.defaults import completed
from mingpt.errors import UserError
from mingpt.objective import Objective, defaults_in, space_of
from mingpt.tuning import Choice, Float, Int, Space, Study

SHORT = [*TINY, "--data", "fox.txt", "--threads", "1", "--max_iters", "20"]
SEARCH = ["--search", "learning_rate=1e-3..1 log", "--search", "n_layer=1..2", "--search", "optimizer=adamw,sgd"]
SEARCH += ["--search", "momentum=0.5..0.9 when optimizer=sgd"]


def command(*arguments):
    return [sys.executable, str(ROOT / "tune.py"), *map(str, arguments)]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def tune(*arguments, cwd, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=300, **options
    )


def without(flags, *names):
    """Flags less some of them and their values."""
    pairs = [flags[i : i + 2] for i in range(0, len(flags), 2)]
    return [part for pair in pairs if pair[0].removeprefix("--") not in names for part in pair]


def trials(folder):
    study = Study.open(folder)
    found = study.trials
    study.close()
    return found


def facts(found):
    return [(t.number, t.config, t.state, t.value, t.curve) for t in found]


# What each parameter of a default space, and of a typed one, is


def test_the_default_space_leaves_out_what_was_typed():
    config = TuneConfig(n_layer=3)
    assert set(space_of((), config, set()).names) - set(space_of((), config, {"n_layer"}).names) == {"n_layer"}
    sgd = space_of((), TuneConfig(optimizer="sgd"), {"optimizer"})
    assert sgd.parameters["learning_rate"] == Float(0.03, 3.0, log=True)


def test_a_searched_setting_has_the_type_of_its_flag():
    texts = ("learning_rate=1..2", "weight_decay=0,1", "n_layer=1..8", "compile=true,false", "tokenizer=char,byte")
    found = space_of(texts, TuneConfig(), set()).parameters
    assert found["learning_rate"] == Float(1.0, 2.0)
    assert found["weight_decay"] == Choice(0.0, 1.0)
    assert type(found["weight_decay"].values[0]) is float
    assert found["n_layer"] == Int(1, 8)
    assert found["compile"] == Choice(True, False)


@pytest.mark.parametrize(
    "text, words",
    [
        ("n_layr=1..8", "n_layer"),
        ("n_layer=8..1", "reversed"),
        ("n_layer=0..3", "[1, inf)"),
        ("n_layer=1.5..3", "whole number"),
        ("dropout=0..1", "[0, 1)"),
        ("learning_rate=0..1 log", "(0, inf)"),
        ("dropout=0..0.5 log", "logarithm"),
        ("learning_rate=fast", "number"),
        ("optimizer=adamw,lion", "adam, adamw, sgd, muon"),
        ("optimizer=1..3", "adam, adamw, sgd, muon"),
        ("momentum=0.5..0.9 when optimiser=sgd", "optimiser"),
        ("seed=1..3", "cannot be searched"),
        ("n_layer", "list such as"),
    ],
)
def test_a_search_that_makes_no_sense_is_a_line(text, words):
    with pytest.raises(UserError) as caught:
        space_of((text,), TuneConfig(), set())
    assert len(caught.value.problems) == 1
    assert words in caught.value.problems[0]
    assert text.partition("=")[0] in caught.value.problems[0]


def test_the_first_trial_has_the_defaults_and_nothing_inactive():
    texts = ("optimizer=adamw,sgd,muon", "learning_rate=1e-5..1 log", "momentum=0.5..0.99 when optimizer=sgd,muon")
    space = space_of(texts, TuneConfig(), set())
    muon = completed(TrainConfig())
    assert defaults_in(space, TuneConfig()) == {
        "optimizer": "muon",
        "learning_rate": muon.learning_rate,
        "momentum": muon.momentum,
    }
    assert "momentum" not in defaults_in(space, TuneConfig(optimizer="adamw"))


def test_every_trial_sees_as_many_tokens(tmp_path):
    space = Space({"batch_size": Choice(4, 8, 16), "block_size": Choice(8, 16)})
    objective = Objective.over(space, Training(max_iters=100, batch_size=8, block_size=16), tmp_path)
    for config in space.configurations():
        settings = objective.settings_of(config)
        assert settings.max_iters * settings.batch_size * settings.block_size == 100 * 8 * 16
    fixed = Objective.over(
        Space({"n_layer": Int(1, 2)}), Training(max_iters=100, batch_size=8, block_size=16), tmp_path
    )
    assert fixed.settings_of({"n_layer": 2}).max_iters == 100


# The command


def test_gp_end_to_end(place):
    done = tune("--strategy", "gp", *SEARCH, *without(SHORT, "n_layer"), "--trials", 7, "--study", "s", cwd=place)
    assert done.returncode == 0, done.stderr
    found = trials(place / "s")
    assert [t.number for t in found] == list(range(7))
    assert found[0].config == {"optimizer": "muon", "learning_rate": 0.02, "n_layer": 2}  # the defaults, in no space
    assert all(t.state in ("done", "stopped", "failed") for t in found)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    assert sum(line.split()[:1] == [str(n)] for n in range(7) for line in lines) >= 7
    assert "the defaults" in done.stdout
    assert "python train.py --config s/best.json" in done.stdout

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

    again = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--config", "s/best.json", "--max_iters", "3"],
        cwd=place,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert again.returncode == 0, again.stderr


def test_grid_is_counted_and_random_with_two_workers_repeats_nothing(place):
    grid = ["--search", "learning_rate=1e-3,1e-2", "--search", "dropout=0,0.1"]
    done = tune("--strategy", "grid", *grid, *SHORT, "--study", "g", "--stopping", "off", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "5 trials by grid" in done.stdout  # and the defaults, which are not on the grid
    expected = [{"learning_rate": lr, "dropout": dropout} for lr in (1e-3, 1e-2) for dropout in (0.0, 0.1)]
    assert [t.config for t in trials(place / "g")][1:] == expected
    done = tune("--strategy", "random", *SHORT, "--search", "learning_rate=1e-3..1 log", "--trials", 6, "--workers", 2,
                "--study", "r", "--confirm", 2, cwd=place)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = trials(place / "r")
    assert [t.number for t in found] == list(range(6))
    assert len({str(t.config) for t in found}) == 6
    again = trials(place / "r" / "confirm")
    assert {t.config["seed"] for t in again} == {1, 2}
    assert len(again) == 4
    assert "wins" in done.stdout


def test_a_study_goes_on_with_what_it_has(place):
    first = tune(*SEARCH, *without(SHORT, "n_layer"), "--trials", 3, "--study", "s", cwd=place)
    assert first.returncode == 0, first.stderr
    before = facts(trials(place / "s"))
    second = tune("--study", "s", "--trials", 5, cwd=place)
    assert second.returncode == 0, second.stderr
    assert "after 3 trials" in second.stdout
    assert facts(trials(place / "s"))[:3] == before
    assert len(trials(place / "s")) == 5
    third = tune("--study", "s", "--search", "n_layer=1..3", "--trials", 5, cwd=place)
    assert "of which 0 lie in this space" in third.stdout
    for flags, words in ((["--max_iters", "30"], "20"), (["--data", "other.txt"], "fox.txt"), (["--seed", "4"], "0")):
        refused = tune("--study", "s", *flags, cwd=place)
        assert refused.returncode == 2
        assert words in refused.stderr
    assert len(trials(place / "s")) == 5


def test_a_killed_study_has_the_trials_of_one_never_killed(place):
    flags = [*SEARCH, *without(SHORT, "n_layer", "max_iters"), "--max_iters", "60", "--trials", "6", "--dropout", "0.1"]
    whole = tune(*flags, "--study", "whole", cwd=place)
    assert whole.returncode == 0, whole.stderr
    seconds = statistics.median(t.seconds for t in trials(place / "whole"))
    rng = random.Random(0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def begun():
        return len(list((place / "killed").glob("trials/*")))

    for _ in range(3):  # each kill in another trial, since one that is killed three times has failed
        before = begun()
        process = subprocess.Popen(
            command(*flags, "--study", "killed"),
            cwd=place,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and begun() == before:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.8) * seconds)  # most likely while the trial runs, however fast the machine is
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.5)  # its worker sees that its parent is gone
    assert any(t.attempts > 1 for t in trials(place / "killed"))
    done = tune(*flags, "--study", "killed", cwd=place)
    assert done.returncode == 0, done.stderr
    assert facts(trials(place / "killed")) == facts(trials(place / "whole"))


def test_ctrl_c_stops_calmly_and_the_study_goes_on(place):
    flags = [*SHORT, "--search", "learning_rate=1e-3..1 log", "--trials", "30", "--study", "s"]
    process = subprocess.Popen(
        command(*flags),
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while time.monotonic() < until and not list((place / "s").glob("trials/0002")):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "python tune.py --study s" in out
    assert "Traceback" not in err
    done = tune("--study", "s", "--trials", len(trials(place / "s")) + 1, cwd=place)
    assert done.returncode == 0, done.stderr
    assert all(t.state != "running" for t in trials(place / "s"))


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--strategy", "bayes"], "grid, random, gp"),
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
        (["--study", "torn"], "torn"),
    ],
)
def test_bad_input_is_a_line_and_exit_2(place, flags, words):
    for name, file, content in (("taken", "note.txt", "mine"), ("torn", "tune.json", "{")):
        (place / name).mkdir()
        (place / name / file).write_text(content, encoding="utf-8")
    before = sorted(str(path) for path in place.rglob("*"))
    done = tune("--data", "fox.txt", *flags, cwd=place) if "--data" not in flags else tune(*flags, cwd=place)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())
    assert sorted(str(path) for path in place.rglob("*")) == before
