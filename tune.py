"""Find good settings for train.py: `python tune.py --strategy gp`. Every flag: `python tune.py --help`."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mingpt import cli, files
from mingpt.config import TABLES, Training
from mingpt.config_tune import TuneConfig
from mingpt.defaults import TRIAL_ITERS, available_cores
from mingpt.errors import UserError
from mingpt.settings import shown

if TYPE_CHECKING:  # scipy and torch take seconds to import: --help and a mistyped flag need not wait for them
    from mingpt.objective import Objective
    from mingpt.tasks import Task
    from mingpt.tuning import Space, Study, Trial

DESCRIPTION = (
    "Search the settings of train.py for those that learn best. With no flag: twenty short runs on the manual."
)
TRIALS = 20
FRESH_SEEDS = 2  # with which --confirm trains each of the best again
NOT_KEPT = ("study", "config", "workers", "minutes")  # of a study: they say where and how fast, not what
MAY_CHANGE = ("strategy", "search", "trials", "stopping", "confirm")


def main(argv: list[str]) -> int:
    typed, given = cli.parse(TuneConfig, argv, "python tune.py", DESCRIPTION, check)
    folder, asked, given = opened(typed, given)
    if asked.threads is None:  # each worker its share
        asked = dataclasses.replace(asked, threads=max(1, min(available_cores(), 8) // asked.workers))
    from mingpt.finetune import with_defaults, with_updates
    from mingpt.objective import Objective, defaults_in, run_of, space_of, value_name
    from mingpt.tasks import new_task
    from mingpt.tuning import Study

    asked = with_defaults(asked, given)
    if asked.max_iters is None and asked.task == "text":
        asked = dataclasses.replace(asked, max_iters=TRIAL_ITERS)
    space = space_of(asked.search, asked, given)
    refuse_typed_twice(space, given)
    first = defaults_in(space, asked)
    task = new_task(run_of(asked, first))  # whatever is wrong is said before anything is written
    asked = with_updates(asked, task)
    objective = Objective.over(space, asked, folder)
    limit = trial_limit(asked, space, first)
    keep(folder, asked, given, task)
    study = Study(space, asked.strategy, asked.seed, asked.stopping, folder, first)
    print_header(asked, study, objective, task, limit)
    with cli.CtrlC("finishing this step and saving what is running") as ctrl_c:
        search(study, objective, asked, limit, value_name(task), lambda: ctrl_c.is_pressed)
        confirmed = confirm(study, objective, asked, lambda: ctrl_c.is_pressed)
    print_ending(study, asked, given, confirmed, value_name(task))
    if ctrl_c.is_pressed or any(trial.state == "running" for trial in study.trials):
        print(f"to go on      python tune.py --study {shlex.quote(str(folder))}")
    return cli.CANCELLED if ctrl_c.is_pressed else 0


def check(typed: TuneConfig) -> list[str]:
    """What is wrong with the flags. Those of a study that goes on are only a part."""
    goes_on = typed.study is not None and (Path(str(typed.study)) / "tune.json").exists()
    return list(typed.out_of_range().values()) if goes_on else typed.problems()


def opened(typed: TuneConfig, given: set[str]) -> tuple[Path, TuneConfig, set[str]]:
    """The study's folder, and what is asked for: of a study that goes on what was asked for before, and what is new.

    Raises UserError where a flag would make the new trials another thing than the old ones.
    """
    if typed.study is None:
        name = "tune-" + (Path(typed.data).stem or "study")
        places = (Path("out") / (name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
        return next(place for place in places if not place.exists()), typed, given
    folder = Path(typed.study)
    path = folder / "tune.json"
    if not path.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"--study {folder}: holds files, and no study; name another folder")
        return folder, typed, given
    try:
        kept = files.read_json_object(path)
        before = {name: tuple(v) if type(v) is list else v for name, v in kept["asked"].items()}
        recorded = TuneConfig(**before)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is torn or of another version ({error})") from None
    problems = [
        f"--{name} {shown(getattr(typed, name))}: the study in {folder} has {shown(getattr(recorded, name))}; "
        "its trials would not compare"
        for name in sorted(given - set(NOT_KEPT) - set(MAY_CHANGE))
        if getattr(typed, name) != getattr(recorded, name)
    ]
    new = {name: getattr(typed, name) for name in given - set(NOT_KEPT)}
    asked = dataclasses.replace(recorded, **{name: getattr(typed, name) for name in NOT_KEPT}, **new)
    problems += asked.problems()
    if problems:
        raise UserError(*problems)
    return folder, asked, (set(before) | given) - set(NOT_KEPT)


def keep(folder: Path, asked: TuneConfig, given: set[str], task: Task) -> None:
    """Write down what the study is asked for. Raises UserError where the text is another than it began with."""
    path = folder / "tune.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and files.read_json_object(path).get("text_sha256") != task.sha256:
            raise UserError(f"--data {asked.data}: is not the text that the study in {folder} began with")
        names = sorted(given - set(NOT_KEPT) | {"threads"})
        content = {"asked": {name: getattr(asked, name) for name in names}, "text_sha256": task.sha256}
        files.write_json(path, content)
    except OSError as error:
        raise UserError(f"--study {folder}: cannot be written ({error.strerror})") from None


def refuse_typed_twice(space: Space, given: set[str]) -> None:
    both = [name for name in space.names if name in given]
    if both:
        raise UserError(
            *(f"--{name}: is searched, and given a value as well; leave one of the two out" for name in both)
        )


def trial_limit(asked: TuneConfig, space: Space, first: dict[str, Any]) -> int:
    """How many trials the study has in all."""
    from mingpt.tuning.strategies import grid_size

    if asked.strategy != "grid":
        return asked.trials or TRIALS
    whole = grid_size(space) + (not space.contains(first))  # the defaults are trial 0, in the grid or not
    return min(asked.trials or whole, whole)


def print_header(asked: TuneConfig, study: Study, objective: Objective, task: Task, limit: int) -> None:
    from mingpt.objective import value_name
    from mingpt.tuning.report import described

    space = [f"{name} {described(p)}" for name, p in study.space.parameters.items()]
    if objective.amount is None:
        length = f"{asked.max_iters:,} updates"
    else:
        length = f"{objective.amount:,} {'texts' if asked.task in TABLES else 'tokens'}"
    lines = {
        "text" if asked.task == "text" else "data": task.description(),
        "value": f"{value_name(task)}, the lower the better",
        "search": f"{limit} trials by {asked.strategy}, the first with the defaults; early stopping: {asked.stopping}",
        "space": f"\n{'':<14}".join(space),
        "training": f"{length} in each trial",
        "machine": f"{asked.workers} at a time, {asked.threads} threads each",
        "saved in": str(study.folder),
    }
    if study.total:
        lines["going on"] = f"after {study.total} trials" + (
            "" if study.counting == study.total else f", of which {study.counting} lie in this space and count"
        )
    for name, line in lines.items():
        print(f"{name:<14}{line}")


def search(
    study: Study, objective: Objective, asked: TuneConfig, limit: int, value: str, should_stop: Callable[[], bool]
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
        objective.forget_state(trial)
        tqdm.write(table.line(trial))
        sys.stdout.flush()
        best = study.best
        bar.set_postfix_str("" if best is None else f"best {as_value(best.value)}")
        bar.update()

    with bar:
        run(study, objective, asked.workers, limit, asked.minutes, should_stop, on_done)


def confirm(study: Study, objective: Objective, asked: TuneConfig, should_stop: Callable[[], bool]) -> dict[int, float]:
    """The mean value of each of the --confirm best with fresh seeds, so that luck is not taken for skill."""
    from mingpt.tuning import Choice, Space, Study
    from mingpt.tuning.loop import run
    from mingpt.tuning.report import best_trials

    best = best_trials(study.trials, asked.confirm)
    if not best or should_stop():
        return {}
    folder = study.folder / "confirm"
    seeds = [asked.seed + 1 + i for i in range(FRESH_SEEDS)]
    space = Space({"trial": Choice(*(trial.number for trial in best)), "seed": Choice(*seeds)})
    again = Study(space, "grid", folder=folder)
    configs = {trial.number: trial.config for trial in best}
    repeated = dataclasses.replace(objective, folder=folder, configs=configs)
    print(f"\ntraining the {len(best)} best again with {FRESH_SEEDS} fresh seeds each", flush=True)
    run(again, repeated, asked.workers, None, None, should_stop, repeated.forget_state)
    means = {}
    for number in configs:
        values = [t.value for t in again.trials if t.state == "done" and t.config["trial"] == number]
        if len(values) == FRESH_SEEDS:
            means[number] = sum(values) / len(values)
    return means


def print_ending(study: Study, asked: TuneConfig, given: set[str], confirmed: dict[int, float], value: str) -> None:
    from mingpt.tuning import pictures, report

    trials = study.trials
    table = report.Table(study.space, value)
    best = report.best_trials(trials)
    if not best:
        print("\nno trial has ended with a value yet")
        return
    print(f"\nthe best\n{table.header}")
    for trial in best:
        print(table.line(trial))
    winner = best[0]
    print()
    if confirmed:
        number = min(confirmed, key=confirmed.get)
        winner = next(trial for trial in trials if trial.number == number)
        means = ", ".join(f"trial {n} {report.as_value(mean)}" for n, mean in confirmed.items())
        print(f"confirmed     mean with fresh seeds: {means}; trial {number} wins")
    path = study.folder / "best.json"
    try:
        files.write_json(path, winning_settings(winner, asked, given))
        report.save_csv(study.space, trials, study.folder / "trials.csv")
        picture = pictures.draw(study.space, trials, study.folder, value)
    except OSError as error:
        raise UserError(f"{study.folder}: cannot be written ({error.strerror}); the trials are kept") from None
    print(f"gain          {report.gain(trials, 'the defaults')}")
    print(f"what matters  {report.importance_line(report.importance(study.space, trials))}")
    print(f"all trials    {study.folder / 'trials.csv'}")
    print(f"picture       {picture}")
    print(f"the winner    python train.py --config {shlex.quote(str(path))}")


def winning_settings(winner: Trial, asked: TuneConfig, given: set[str]) -> dict[str, Any]:
    """A config file of train.py: what was searched or typed, without how long and with which seed."""
    names = {f.name for f in dataclasses.fields(Training)} - {"max_iters", "seed", "config", "threads"}
    return {name: getattr(asked, name) for name in sorted(given & names)} | winner.config


if __name__ == "__main__":
    cli.run_command(main)
