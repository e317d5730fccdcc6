"""`python tune.py`: each strategy, confirmation, resuming, kills, Ctrl-C, bad input."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import MACHINE, ROOT, TEXT, TINY, assert_refused, read_metrics, run_in_process, train, wait_until

from mingpt import GPT, cli
from mingpt.tuning.journal import Journal

SHORT = [*MACHINE, *TINY[2:], "--data", "fox.txt", "--max_iters", "40"]  # n_layer may be searched
RATE = ["--search", "learning_rate=1e-3..1 log", "--n_layer", 1]  # takes no time to measure, and so is repeatable
SEARCH = ["--search", "learning_rate=1e-3..1 log", "--search", "n_layer=1..2", "--search", "optimizer=adamw,sgd"]
SEARCH += ["--search", "momentum=0.5..0.9 when optimizer=sgd"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr("mingpt.budget.SEEDS", (2, 2))  # enough for these tests
    return tmp_path


def start(place, *arguments):
    """`python tune.py ARGUMENTS` in a process of its own."""
    command = [sys.executable, str(ROOT / "tune.py"), *map(str, arguments)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True)
    return subprocess.Popen(command, cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)


def tune(place, *arguments) -> str:
    result = run_in_process(*arguments, cwd=place, module="tune")
    assert result.returncode == 0, result.stderr
    return result.stdout


def read(folder):
    with contextlib.closing(Journal(folder)) as journal:
        return journal.trials


def outcomes(trials):
    return [(t.number, t.config, t.state, repr(t.value), t.curve, t.attributes.get("max_iters")) for t in trials]


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_gp_through_the_real_command_line(place):
    process = start(place, "--strategy", "gp", *SEARCH, *SHORT, "--trials", 7, "--study", "s")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    trials = read(place / "s")
    assert [t.number for t in trials] == list(range(7))
    assert trials[0].config == {"optimizer": "muon", "learning_rate": 0.02, "n_layer": 2}  # the defaults, in no space
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert all(sum(line[:2] == [str(t.number), t.state] for line in lines) >= 1 for t in trials)
    for trial in trials:  # each value is that of the run in the trial's folder, eight evaluations long
        folder = place / "s" / "trials" / f"{trial.number:04}"
        metrics = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        values = [json.loads(line)["bits_per_byte"] for line in metrics]
        assert trial.curve == list(enumerate(values, start=1))[: len(trial.curve)]
        assert trial.attributes["max_iters"] % 8 == 0
        if trial.state == "done":
            assert trial.value == min(values) and len(values) == 8
        assert not (folder / "state.pt").exists()
    assert (place / "s" / "study.png").stat().st_size > 10_000

    best = read_json(place / "s" / "best.json")
    holds = next(line for line in lines if line[0] == "settings")
    winner = trials[0] if holds[-1] == "defaults" else trials[int(holds[-1])]
    assert {name: best[name] for name in winner.config} == winner.config
    assert best["max_iters"] == winner.attributes["max_iters"] and best["data"] == str(
        place / "fox.txt"
    )  # as asked for
    assert not {"seed", "out_dir", "threads"} & {*best}
    model = next(line[1] for line in lines if line[0] == "model")
    assert model.endswith(f"s/trials/{winner.number:04}") and GPT.from_pretrained(place / model)
    kept = {path.parent.name for path in place.glob("s/trials/*/model.safetensors")}
    assert len(kept) <= 4 and {f"{winner.number:04}", "0000"} <= kept


def test_the_winner_keeps_its_promise_and_best_json_works_anywhere(place):
    """A grid with an obviously better value: it is confirmed, and train.py repeats the trial to the last bit."""
    flags = [*SHORT, "--n_layer", 1, "--learning_rate", 1e-4, "--workers", 2, "--pruner", "none"]
    printed = tune(
        place, "--strategy", "grid", "--search", "optimizer=muon,adamw,sgd", "--search", "grad_clip=0,1", *flags
    )
    assert "6 trials by grid" in printed and "2 trials in parallel" in printed
    trials = read(place / "out" / "tune-fox")
    assert len(trials) == 6 and {trial.state for trial in trials} == {"done"}
    again = [path.parent for path in place.glob("out/tune-fox/confirmation/*/*/train.json")]
    assert [read_json(folder / "train.json")["seed"] for folder in sorted(again)] == [1, 1, 2, 2]
    values = {min(v["bits_per_byte"] for v in read_metrics(folder)) for folder in again}
    assert not values & {t.value for t in trials} and len(values) == 4  # other seeds, other values
    (place / "elsewhere").mkdir()
    shutil.move(place / "out" / "tune-fox" / "best.json", place / "elsewhere")
    best = read_json(place / "elsewhere" / "best.json")
    as_the_trial = ["--threads", 1, "--eval_interval", best["max_iters"] // 8]  # how many updates there are was timed
    train(place / "elsewhere", "--config", "best.json", "--out_dir", "run", *as_the_trial)
    winner = min(
        (
            t
            for t in trials
            if t.config["optimizer"] == best["optimizer"] and t.config["grad_clip"] == best["grad_clip"]
        ),
        key=lambda t: t.value,
    )
    values = [
        json.loads(line)["bits_per_byte"]
        for line in (place / "elsewhere" / "run" / "metrics.jsonl").open(encoding="utf-8")
    ]
    assert values == [value for _, value in winner.curve]


def test_a_killed_study_has_the_trials_of_one_never_killed_also_in_another_place(place):
    """Killed twice: continued in its place after the first kill, elsewhere after the second."""
    flags = [*RATE, *SHORT, "--max_iters", "200", "--trials", "3", "--dropout", "0.1"]
    tune(place, *flags, "--study", "whole")
    folder = place / "killed"
    for number, name in ((0, "train.json"), (1, "metrics.jsonl")):  # as it begins, and after an evaluation
        process = start(place, *flags, "--study", "killed")
        wait_until(lambda path=folder / "trials" / f"{number:04}" / name: path.exists())
        process.kill()
        process.communicate()
        wait_until(lambda path=folder / "trials" / f"{number:04}": is_free(path))  # its worker has ended too
        if name == "train.json":
            (folder / "trials" / "0000" / name).unlink(missing_ok=True)  # as if it had been killed a moment earlier
    (place / "there").mkdir()
    shutil.move(folder, place / "there" / "study")
    shutil.move(place / "fox.txt", place / "there" / "text.txt")
    folder = place / "there" / "study"
    tune(place / "there", "--study", folder, "--data", "text.txt")
    assert read_json(folder / "best.json")["data"] == str(place / "there" / "text.txt")
    assert outcomes(read(folder)) == outcomes(read(place / "whole"))


def is_free(folder):
    from mingpt import files

    with contextlib.suppress(BlockingIOError):
        files.lock(folder / "lock").close()
        return True
    return False


def test_ctrl_c_saves_what_is_running_and_the_study_is_resumed_with_what_it_has(place):
    process = start(place, *SEARCH, *SHORT, "--trials", 30, "--study", "s")
    wait_until((place / "s" / "trials" / "0001").exists)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == cli.CANCELLED, err
    assert "python tune.py --study s" in out and "Traceback" not in err
    before = read(place / "s")
    ended = [trial for trial in before if trial.state != "running"]
    assert f"after {len(before)} trials" in tune(place, "--study", "s", "--trials", len(before) + 1)
    after = read(place / "s")
    assert outcomes(after)[: len(ended)] == outcomes(ended) and len(after) == len(before) + 1
    assert all(t.state != "running" for t in after)
    printed = tune(place, "--study", "s", "--search", "n_layer=1..3", "--trials", len(after))
    assert "of which 0 are in this space" in printed
    content = (place / "s" / "journal.jsonl").read_bytes()
    for flags, words in (
        (["--max_iters", "30"], "has 40"),
        (["--seed", "4"], "has 0"),
        (["--data", "other.txt"], "other.txt"),
    ):
        assert_refused(run_in_process("--study", "s", *flags, cwd=place, module="tune"), words)
    (place / "fox.txt").write_text(TEXT[1:], encoding="utf-8")
    assert_refused(
        run_in_process("--study", "s", "--trials", 99, cwd=place, module="tune"),
        "is not what the study in s began with",
    )
    assert (place / "s" / "journal.jsonl").read_bytes() == content


def test_a_study_of_fine_tuning_goes_on_with_its_own_base_model_only(place):
    train(place, *SHORT, "--n_layer", 1, "--out_dir", "base")
    flags = [*MACHINE, "--data", "fox.txt", "--max_iters", "40", "--batch_size", "4", "--strategy", "grid"]
    tune(place, "--init_from", "base", "--search", "learning_rate=1e-4,1e-3", *flags, "--trials", 1, "--study", "s")
    shutil.move(place / "base", place / "moved")
    printed = tune(place, "--study", "s", "--init_from", "moved", "--trials", 2)
    assert "after 1 trials" in printed and [t.state for t in read(place / "s")] == ["done", "done"]
    train(place, *SHORT, "--n_layer", 1, "--seed", 1, "--out_dir", "other")
    refused = run_in_process("--study", "s", "--init_from", "other", "--trials", 3, cwd=place, module="tune")
    assert_refused(refused, "--init_from", "other: is not what the study in s began with")


def test_two_studies_begun_together_get_folders_of_their_own(place):
    flags = [*RATE, *SHORT, "--trials", 1]
    processes = [start(place, *flags) for _ in range(2)]
    for process in processes:
        assert process.wait(timeout=300) == 0, process.stderr.read()
    assert sorted(path.name for path in (place / "out").iterdir()) == ["tune-fox", "tune-fox-2"]
    with contextlib.closing(Journal(place / "out" / "tune-fox")):
        refused = run_in_process("--study", "out/tune-fox", cwd=place, module="tune")
    assert_refused(refused, "out/tune-fox: is in use by another process")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--strategy", "bayes"], "'grid', 'random' or 'gp'"),
        (["--pruner", "halving"], "'none' or 'forecast'"),
        (["--serach", "n_layer=1..2"], "--search"),
        (["--search"], "needs a value"),
        (["--search", "n_layer=8..1", "--search", "n_layr=1..2", "--search", "dropout=0..2"], "n_layr"),
        (["--strategy", "grid", "--search", "learning_rate=1e-3..1 log"], "learning_rate"),
        (["--search", "n_layer=1..2", "--n_layer", "2"], "leave one"),
        (["--search", "n_layer=1..2", "--search", "n_layer=3..4"], "twice"),
        (["--trials", "0"], "--trials"),
        (["--minutes", "0"], "--minutes"),
        (["--eval_interval", "7"], "--eval_interval: is not used by a study"),
        (["--search", "class_weights=true,false"], "--class_weights: is not used by --task text"),
        (["--dask", "nowhere"], "nowhere: no Dask scheduler can be reached"),
        (["--workers", "many"], "--workers"),
        (["--data", "missing.txt"], "missing.txt"),
        (["--n_head", "5", "--search", "n_layer=1..2"], "--n_head 5"),
        (["--study", "taken"], "taken: contains files"),
        (["--study", "old"], "old: is a study of an older version of mingpt"),
        (["--study", "corrupt"], "corrupt"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(place, flags, words):
    for name, file, content in (
        ("taken", "note.txt", "mine"),
        ("old", "study.sqlite", ""),
        ("corrupt", "journal.jsonl", "{}\n"),
    ):
        (place / name).mkdir()
        (place / name / file).write_text(content, encoding="utf-8")
    before = sorted(str(path) for path in place.rglob("*"))
    arguments = flags if "--data" in flags else ["--data", "fox.txt", *flags]
    assert_refused(run_in_process(*arguments, cwd=place, module="tune"), words)
    assert sorted(str(path) for path in place.rglob("*") if path.name != "lock") == before


def test_a_study_whose_defaults_fail_ends_with_their_error_also_when_it_is_resumed(place):
    flags = ["--optimizer", "sgd", "--grad_clip", 0, "--learning_rate", 1e30, "--search", "dropout=0,0.1", *SHORT]
    for arguments in ([*flags, "--study", "s"], ["--study", "s"]):
        result = run_in_process(*arguments, cwd=place, module="tune")
        assert result.returncode == 2
        assert result.stderr.splitlines()[-1].startswith("error: the trial with the defaults has failed: Diverged: ")
    assert len(read(place / "s")) == 1


def test_errors_are_lines_and_exit_code_2(place):
    process = start(place, "--serach", "n_layer=1..2", "--trials", 0)
    out, err = process.communicate(timeout=120)
    assert_refused(subprocess.CompletedProcess([], process.returncode, out, err), "--search", "--trials 0")
