"""Find good settings for train.py: `python tune.py --strategy gp`. Every flag: `python tune.py --help`."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mingpt import cli, files
from mingpt.config import TrainConfig, Training
from mingpt.config_tune import TuneConfig
from mingpt.device import default_threads
from mingpt.errors import UserError
from mingpt.settings import format_value

if TYPE_CHECKING:  # scipy and torch take seconds to import: --help and a mistyped flag need not wait for them
    from mingpt.budget import Budget
    from mingpt.confirmation import Confirmation
    from mingpt.objective import Objective
    from mingpt.resolve import Facts
    from mingpt.tuning.journal import Journal
    from mingpt.tuning.loop import StartExecutor
    from mingpt.tuning.space import Space
    from mingpt.tuning.study import Study
    from mingpt.tuning.trial import Trial

DESCRIPTION = "Hyperparameter search over the settings of train.py. Without flags: 15 minutes on the manual in Python."
NOT_RECORDED = ("study", "config", "workers", "dask")  # of a study: they say where and how fast, not what
MAY_CHANGE = ("strategy", "search", "trials", "minutes", "pruner", "data")
MODELS = 3  # of so many of the best trials the model is kept


def main(argv: list[str]) -> int:
    typed = cli.parse(TuneConfig, argv, "python tune.py", DESCRIPTION)
    from mingpt.checkpoint import create_numbered
    from mingpt.tuning.journal import Journal

    folder = None if typed.study is None else Path(typed.study)
    is_new = folder is None or not folder.exists() or not any(folder.iterdir())
    with contextlib.ExitStack() as stack:
        journal = None if is_new else stack.enter_context(contextlib.closing(open_journal(folder)))
        asked = typed if journal is None else merge(typed, journal)
        plan = prepare(asked)  # raises UserError before anything is written
        if journal is None:
            folder = folder or create_numbered(Path("out"), "tune-" + (Path(asked.data).stem or "study"))
            journal = stack.enter_context(contextlib.closing(Journal(folder)))
        elif journal.attributes["data_sha256"] != plan.data_sha256:
            raise UserError(f"--data {asked.data}: is not the data that the study in {folder} began with")
        return run_study(asked, plan, journal)


def open_journal(folder: Path) -> Journal:
    """The journal of the study in a folder. Raises UserError where there is none of tune.py."""
    from mingpt.tuning.journal import Journal

    journal = Journal(folder, must_exist=True)
    if "asked" not in journal.attributes:
        raise UserError(f"--study {folder}: is not a study of tune.py")
    return journal


def merge(typed: TuneConfig, journal: Journal) -> TuneConfig:
    """What was asked for when the study began, with what is asked for now.

    Raises UserError where a flag would make new trials another thing than the old ones.
    """
    recorded, given = TuneConfig(**journal.attributes["asked"]), typed.given()
    problems = [
        f"--{name} {format_value(value)}: the study in {typed.study} has {format_value(getattr(recorded, name))}; "
        "its trials would not be comparable"
        for name, value in sorted(given.items())
        if name not in NOT_RECORDED + MAY_CHANGE and value != getattr(recorded, name)
    ]
    if problems:
        raise UserError(*problems)
    return TuneConfig(**journal.attributes["asked"] | given)


@dataclass(frozen=True)
class Plan:
    """What a study needs before it has a folder."""

    shared: dict[str, Any]  # settings of all trials, as asked for
    facts: Facts
    base: TrainConfig  # the defaults, resolved
    space: Space
    description: str  # of the data
    data_sha256: str


def prepare(asked: TuneConfig) -> Plan:
    from mingpt import objective, run
    from mingpt.data.sources import absolute
    from mingpt.resolve import resolve
    from mingpt.tuning.strategies import STRATEGIES

    space = objective.parse_space(asked.search, asked.init_from) if asked.search else None
    given = {name: value for name, value in asked.given().items() if name in Training.model_fields and name != "config"}
    threads = asked.threads or max(1, default_threads() // asked.workers)
    shared = given | {"data": absolute(asked.data), "threads": threads}
    data, facts = run.read_facts(asked)
    base = resolve(TrainConfig(**shared), facts)
    space = space or objective.default_space(base, facts, given)
    if both := [name for name in space.names if name in given]:
        raise UserError(*(f"--{name}: is searched and has a fixed value; leave one of the two out" for name in both))
    STRATEGIES[asked.strategy](space, asked.seed)  # raises UserError where it cannot search this space
    task = run.load_task(asked.task)(base, data)
    return Plan(shared, facts, base, space, task.describe(), data.sha256)


def run_study(asked: TuneConfig, plan: Plan, journal: Journal) -> int:
    from mingpt.budget import MINUTES, Budget
    from mingpt.confirmation import confirm
    from mingpt.objective import Objective, first_configs
    from mingpt.tuning.study import Study

    folder = journal.path.parent
    is_grid = asked.strategy == "grid"
    first = first_configs(plan.space, plan.base)
    study = Study(plan.space, asked.strategy, asked.seed, asked.pruner, first[:1] if is_grid else first, journal)
    recorded = {name: value for name, value in sorted(asked.given().items()) if name not in NOT_RECORDED}
    attributes = {"asked": recorded | {"data": plan.shared["data"]}, "data_sha256": plan.data_sha256}
    for name, value in (attributes | {"space": plan.space.as_text()}).items():
        journal.set_attribute(name, value)
    minutes = asked.minutes or (None if is_grid or asked.trials else MINUTES)
    budget = Budget(TrainConfig(**plan.shared), plan.base, minutes, journal)
    objective = Objective(plan.shared, plan.facts, folder.resolve(), budget.updates)
    print_header(asked, plan, study, budget)
    with cli.CtrlC("saving what is running") as ctrl_c:
        search(study, objective, asked, budget, lambda: ctrl_c.is_pressed)
        all_threads = plan.shared | {"threads": asked.threads or default_threads()}  # as train.py will have
        repeated = replace(objective, shared=all_threads)
        result = confirm(study, repeated, budget.seeds, executor_of(asked, 1), lambda: ctrl_c.is_pressed)
    if ctrl_c.is_pressed:
        print(f"resume        python tune.py --study {shlex.quote(str(folder))}")
        return cli.CANCELLED
    if result is None:
        raise UserError(f"{folder}: no trial has a value")
    print_report(study, objective, plan, result)
    return 0


def executor_of(asked: TuneConfig, workers: int) -> StartExecutor:
    from mingpt.tuning.loop import dask_cluster, process_pool

    return partial(dask_cluster, asked.dask) if asked.dask else partial(process_pool, workers)


def print_header(asked: TuneConfig, plan: Plan, study: Study, budget: Budget) -> None:
    trials = (
        f"{asked.trials or study.space.size:,} trials"
        if budget.seconds == math.inf
        else (f"about {budget.expected_trials(asked.workers)} trials in {budget.seconds / 60:g} minutes")
    )
    lines = {
        "data": plan.description,
        "objective": f"{objective_name(plan)}, to be minimized",
        "search": f"{trials} by {asked.strategy}, the first with the defaults; early stopping: {asked.pruner}",
        "space": f"\n{'':<14}".join(f"{name} {parameter}" for name, parameter in study.space.parameters.items()),
        "training": f"as long as {budget.updates:,} updates of the defaults, about {budget.run_seconds:.0f} s a trial",
        "confirmation": f"{budget.seeds} runs each of the best settings and of the defaults, with new seeds",
        "machine": f"{asked.workers} trials in parallel, {plan.shared['threads']} threads each",
        "folder": str(study.journal.path.parent),
    }
    if study.trials:
        lines["resumes"] = f"after {len(study.trials)} trials, of which {len(study.in_space)} are in this space"
    for name, line in lines.items():
        print(f"{name:<14}{line}")


def objective_name(plan: Plan) -> str:
    task = plan.facts.task
    return f"1 - {task.metric}" if task.higher_is_better else task.metric


def search(study: Study, objective: Objective, asked: TuneConfig, budget: Budget, should_stop: Callable) -> None:
    """Run the trials, with a line for each and a bar with the best so far."""
    from mingpt.tuning.loop import run_trials
    from mingpt.tuning.output import Table, best_trials

    table = Table(study.space, "objective")
    print(f"\n{table.header}", flush=True)
    for trial in study.trials:
        if trial.state != "running":
            print(table.line(trial), flush=True)

    def on_end(trial: Trial) -> None:
        budget.save()
        objective.remove_state(trial)
        best = best_trials(study.trials, MODELS + 1)
        for other in best[MODELS:] if trial in best[:MODELS] else [trial]:
            objective.remove_model(other)
        tqdm.write(table.line(trial))
        sys.stdout.flush()

    def may_start() -> bool:
        return len(study.trials) < 2 or budget.may_start()  # however short the time, something is compared

    start_executor = executor_of(asked, asked.workers)
    run_trials(study, objective, start_executor, asked.workers, may_start, should_stop, asked.trials, on_end)


def print_report(study: Study, objective: Objective, plan: Plan, result: Confirmation) -> None:
    from mingpt.tuning import output
    from mingpt.tuning.plot import plot_study

    folder = study.journal.path.parent
    table = output.Table(study.space, "objective")
    print(f"\nthe best trials\n{table.header}")
    for trial in output.best_trials(study.trials, 5):
        print(table.line(trial))
    files.write_json(folder / "best.json", best_settings(result.winner, plan))
    output.save_csv(study.space, study.trials, folder / "trials.csv")
    print(*result.lines(), sep="\n")
    print(f"importance    {output.importance_line(output.importance(study.space, study.in_space))}")
    print(f"all trials    {folder / 'trials.csv'}")
    print(f"plot          {plot_study(study.space, study.trials, folder / 'study.png', 'objective')}")
    print(f"model         {objective.folder_of(result.winner.number)}")
    print(f"train again   python train.py --config {shlex.quote(str(folder / 'best.json'))}")


def best_settings(winner: Trial, plan: Plan) -> dict[str, Any]:
    """A config file of train.py: what was searched or given, and the duration that the trial had."""
    from mingpt.objective import settings_to_repeat

    settings = plan.shared | settings_to_repeat(winner)
    return {name: value for name, value in sorted(settings.items()) if name not in ("seed", "threads")}


if __name__ == "__main__":
    cli.run_command(main)
