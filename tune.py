"""Find good settings for train.py: `python tune.py --strategy gp`. Every flag: `python tune.py --help`."""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mingpt import cli, files
from mingpt.config import Training
from mingpt.config_tune import TuneConfig
from mingpt.device import default_threads
from mingpt.errors import UserError
from mingpt.settings import format_value

if TYPE_CHECKING:  # scipy and torch take seconds to import: --help and a mistyped flag need not wait for them
    from mingpt.objective import Objective
    from mingpt.tasks.base import Data, Task
    from mingpt.tuning.space import Space
    from mingpt.tuning.study import Study
    from mingpt.tuning.trial import Trial

DESCRIPTION = "Hyperparameter search over the settings of train.py. Without flags: 20 short runs on the manual."
TRIALS = 20
NEW_SEEDS = 2  # with which --confirm trains each of the best again
NOT_SAVED = ("study", "config", "workers", "minutes")  # of a study: they say where and how fast, not what
MAY_CHANGE = ("strategy", "search", "trials", "stopping", "confirm")


def main(argv: list[str]) -> int:
    folder, asked = open_study(cli.parse(TuneConfig, argv, "python tune.py", DESCRIPTION))
    if asked.threads is None:  # each worker its share
        asked = asked.model_copy(update={"threads": max(1, default_threads() // asked.workers)})
    from mingpt import objective, run
    from mingpt.config import TrainConfig
    from mingpt.resolve import resolve
    from mingpt.tuning.study import Study

    space = objective.space_of(asked.search, asked.init_from)  # a mistyped name need not wait for the data
    data, facts = run.read_facts(asked)  # whatever is wrong is reported before anything is written
    shared = objective.shared_settings(asked, facts)
    base = resolve(TrainConfig(**shared), facts)
    space = space or objective.default_space(base, facts, asked.given())
    refuse_fixed_and_searched(space, asked.given())
    first = objective.defaults_in(space, base)
    goal = objective.Objective.over(space, shared, facts, folder)
    task = run.load_task(asked.task)(resolve(TrainConfig(**goal.settings_of(first)), facts), data)
    limit = trial_limit(asked, space, first)
    save(folder, asked, data)
    study = Study(space, asked.strategy, asked.seed, asked.stopping, folder, first)
    value_name = objective.value_name(task)
    print_header(asked, study, goal, task, limit)
    with cli.CtrlC("finishing this step and saving what is running") as ctrl_c:
        search(study, goal, asked, limit, value_name, lambda: ctrl_c.is_pressed)
        confirmed = confirm(study, goal, asked, lambda: ctrl_c.is_pressed)
    print_report(study, asked, confirmed, value_name)
    if ctrl_c.is_pressed or any(trial.state == "running" for trial in study.trials):
        print(f"resume        python tune.py --study {shlex.quote(str(folder))}")
    return cli.CANCELLED if ctrl_c.is_pressed else 0


def open_study(typed: TuneConfig) -> tuple[Path, TuneConfig]:
    """The study's folder, and what is asked for: of a study that is resumed what was asked for before, and what is new.

    Raises UserError where a flag would make the new trials another thing than the old ones.
    """
    if typed.study is None:
        name = "tune-" + (Path(typed.data).stem or "study")
        places = (Path("out") / (name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
        return next(place for place in places if not place.exists()), typed
    folder = Path(typed.study)
    path = folder / "tune.json"
    if not path.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"--study {folder}: contains files, and no study; name another folder")
        return folder, typed
    before, _ = load(path)
    recorded = TuneConfig(**before)
    given = typed.given()
    problems = [
        f"--{name} {format_value(given[name])}: the study in {folder} has {format_value(getattr(recorded, name))}; "
        "its trials would not be comparable"
        for name in sorted(given.keys() - {*NOT_SAVED, *MAY_CHANGE})
        if given[name] != getattr(recorded, name)
    ]
    if problems:
        raise UserError(*problems)
    return folder, TuneConfig(**before | given)


def load(path: Path) -> tuple[dict[str, Any], str]:
    """What the study in a tune.json was asked for, and the sha256 of its data."""
    content = files.read_json(path)
    if not {"asked", "data_sha256"} <= content.keys():
        raise UserError(f"{path}: is of another version of mingpt, and cannot be resumed")
    return content["asked"], content["data_sha256"]


def save(folder: Path, asked: TuneConfig, data: Data) -> None:
    """Write down what the study is asked for. Raises UserError where the data are not those it began with."""
    path = folder / "tune.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and load(path)[1] != data.sha256:
            raise UserError(f"--data {asked.data}: is not the data that the study in {folder} began with")
        settings = {name: value for name, value in sorted(asked.given().items()) if name not in NOT_SAVED}
        files.write_json(path, {"asked": settings, "data_sha256": data.sha256})
    except OSError as error:
        raise UserError(f"--study {folder}: cannot be written ({error.strerror})") from None


def refuse_fixed_and_searched(space: Space, given: Iterable[str]) -> None:
    both = [name for name in space.names if name in given]
    if both:
        raise UserError(*(f"--{name}: is searched and has a fixed value; leave one of the two out" for name in both))


def trial_limit(asked: TuneConfig, space: Space, first: dict[str, Any]) -> int:
    """How many trials the study has in all."""
    from mingpt.tuning.strategies import grid_size

    if asked.strategy != "grid":
        return asked.trials or TRIALS
    whole = grid_size(space) + (not space.contains(first))  # the defaults are trial 0, in the grid or not
    return min(asked.trials or whole, whole)


def print_header(asked: TuneConfig, study: Study, goal: Objective, task: Task, limit: int) -> None:
    from mingpt.objective import value_name
    from mingpt.tuning.report import described

    space = [f"{name} {described(p)}" for name, p in study.space.parameters.items()]
    unit = "tokens" if goal.facts.examples is None else "examples"
    lines = {
        "data": task.describe(),
        "objective": f"{value_name(task)}, to be minimized",
        "search": f"{limit} trials by {asked.strategy}, the first with the defaults; early stopping: {asked.stopping}",
        "space": f"\n{'':<14}".join(space),
        "training": f"{goal.shared['max_iters']:,} updates in each trial"
        if goal.amount is None
        else f"{goal.amount:,} {unit} in each trial",
        "machine": f"{asked.workers} trials in parallel, {asked.threads} threads each",
        "folder": str(study.folder),
    }
    if study.total:
        lines["resumes"] = f"after {study.total} trials" + (
            "" if study.counting == study.total else f", of which {study.counting} lie in this space and count"
        )
    for name, line in lines.items():
        print(f"{name:<14}{line}")


def search(
    study: Study, goal: Objective, asked: TuneConfig, limit: int, value: str, should_stop: Callable[[], bool]
) -> None:
    """Run the trials, with a line for each and a bar with the best so far."""
    from mingpt.tuning.loop import run
    from mingpt.tuning.report import Table, as_value

    table = Table(study.space, value)
    ended = [trial for trial in study.trials if trial.state != "running"]
    print(f"\n{table.header}", flush=True)
    for trial in ended:
        print(table.line(trial), flush=True)
    bar = tqdm(total=limit, initial=len(ended), disable=None, leave=False, dynamic_ncols=True, unit="trial")

    def on_done(trial: Trial) -> None:
        goal.remove_state(trial)
        tqdm.write(table.line(trial))
        sys.stdout.flush()
        best = study.best
        bar.set_postfix_str("" if best is None else f"best {as_value(best.value)}")
        bar.update()

    with bar:
        run(study, goal, asked.workers, limit, asked.minutes, should_stop, on_done)


def confirm(study: Study, goal: Objective, asked: TuneConfig, should_stop: Callable[[], bool]) -> dict[int, float]:
    """The mean value of each of the --confirm best with new seeds, so that chance is not taken for merit."""
    from mingpt.tuning.loop import run
    from mingpt.tuning.parameters import Choice
    from mingpt.tuning.report import best_trials
    from mingpt.tuning.space import Space
    from mingpt.tuning.study import Study

    best = best_trials(study.trials, asked.confirm)
    if not best or should_stop():
        return {}
    folder = study.folder / "confirm"
    seeds = [asked.seed + 1 + i for i in range(NEW_SEEDS)]
    space = Space({"trial": Choice(*(trial.number for trial in best)), "seed": Choice(*seeds)})
    again = Study(space, "grid", folder=folder)
    configs = {trial.number: trial.config for trial in best}
    repeated = replace(goal, folder=folder, configs=configs)
    print(f"\nretraining the {len(best)} best trials with {NEW_SEEDS} new seeds each", flush=True)
    run(again, repeated, asked.workers, None, None, should_stop, repeated.remove_state)
    means = {}
    for number in configs:
        values = [t.value for t in again.trials if t.state == "done" and t.config["trial"] == number]
        if len(values) == NEW_SEEDS:
            means[number] = sum(values) / len(values)
    return means


def print_report(study: Study, asked: TuneConfig, confirmed: dict[int, float], value: str) -> None:
    from mingpt.tuning import pictures, report

    trials = study.trials
    table = report.Table(study.space, value)
    best = report.best_trials(trials)
    if not best:
        print("\nno trial has a value yet")
        return
    print(f"\nthe best trials\n{table.header}")
    for trial in best:
        print(table.line(trial))
    winner = best[0]
    print()
    if confirmed:
        number = min(confirmed, key=confirmed.get)
        winner = next(trial for trial in trials if trial.number == number)
        means = ", ".join(f"trial {n} {report.as_value(mean)}" for n, mean in confirmed.items())
        print(f"confirmed     mean with new seeds: {means}; trial {number} wins")
    path = study.folder / "best.json"
    try:
        files.write_json(path, best_settings(winner, asked))
        report.save_csv(study.space, trials, study.folder / "trials.csv")
        picture = pictures.draw(study.space, trials, study.folder, value)
    except OSError as error:
        raise UserError(f"{study.folder}: cannot be written ({error.strerror}); the trials are saved") from None
    print(f"gain          {report.gain(trials, 'the defaults')}")
    print(f"importance    {report.importance_line(report.importance(study.space, trials))}")
    print(f"all trials    {study.folder / 'trials.csv'}")
    print(f"plot          {picture}")
    print(f"train         python train.py --config {shlex.quote(str(path))}")


def best_settings(winner: Trial, asked: TuneConfig) -> dict[str, Any]:
    """A config file of train.py: what was searched or given, without how long and with which seed."""
    names = Training.model_fields.keys() - {"max_iters", "seed", "config", "threads"}
    return {name: value for name, value in sorted(asked.given().items()) if name in names} | winner.config


if __name__ == "__main__":
    cli.run_command(main)
