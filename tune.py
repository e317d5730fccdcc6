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
# When a study is resumed, the first may differ and are not recorded; the others may change, and are recorded anew.
NOT_RECORDED = ("study", "config", "workers", "dask")
MAY_CHANGE = ("strategy", "search", "trials", "minutes", "pruner", "data", "init_from")


def main(argv: list[str]) -> int:
    typed = cli.parse(TuneConfig, argv, "python tune.py", DESCRIPTION)
    from mingpt.tuning.journal import Journal

    folder = None if typed.study is None else Path(typed.study)
    is_new = folder is None or not folder.exists() or all(file.name == "lock" for file in folder.iterdir())
    if is_new:
        plan = prepare(typed)  # raises UserError before anything is written
        journal = begin(typed, plan)
    elif not any((folder / name).exists() for name in ("journal.jsonl", "study.sqlite")):
        raise UserError(f"--study {folder}: contains files and no study; name another folder")
    else:
        journal = Journal(folder)
    with contextlib.closing(journal):
        asked = typed
        if not is_new:
            asked = merge(typed, journal)
            plan = prepare(asked)
            for name, hash_ in plan.hashes.items():
                if journal.attributes.get(name, hash_) != hash_:  # a study of an earlier version has one of them
                    flag = name.removesuffix("_sha256")
                    raise UserError(f"--{flag} {plan.shared[flag]}: is not what the study in {folder} began with")
            for name, value in plan.attributes(asked).items():
                journal.set_attribute(name, value)
        return run_study(asked, plan, journal)


def merge(typed: TuneConfig, journal: Journal) -> TuneConfig:
    """What was asked for when the study began, with what is asked for now.

    Raises UserError where a flag would make new trials another thing than the old ones.
    """
    if "asked" not in journal.attributes:
        raise UserError(f"--study {typed.study}: is not a study of tune.py")
    recorded, given = dict(journal.attributes["asked"]), typed.given()
    if {"trials", "minutes"} & given.keys():  # either lifts the other's limit
        recorded = {name: value for name, value in recorded.items() if name not in ("trials", "minutes")}
    before = TuneConfig(**recorded)
    problems = [
        f"--{name} {format_value(value)}: the study in {typed.study} has {format_value(getattr(before, name))}; "
        "its trials would not be comparable"
        for name, value in sorted(given.items())
        if name not in NOT_RECORDED + MAY_CHANGE and value != getattr(before, name)
    ]
    if problems:
        raise UserError(*problems)
    return TuneConfig(**recorded | given)


@dataclass(frozen=True)
class Plan:
    """What a study needs before it has a folder."""

    shared: dict[str, Any]  # settings of all trials, as asked for
    facts: Facts
    base: TrainConfig  # the defaults, resolved
    space: Space
    first: list[dict[str, Any]]  # configurations
    minutes: float | None
    description: str  # of the data
    hashes: dict[str, str]  # of the data, and of the model of --init_from

    def attributes(self, asked: TuneConfig) -> dict[str, Any]:
        """What the journal says of the study."""
        recorded = {name: value for name, value in sorted(asked.given().items()) if name not in NOT_RECORDED}
        places = {name: self.shared[name] for name in ("data", "init_from") if name in self.shared}
        study = {"space": self.space.as_text(), "first": len(self.first)}
        return {"asked": recorded | places, **self.hashes, **study}


def prepare(asked: TuneConfig) -> Plan:
    from mingpt import objective, pretrained, run
    from mingpt.budget import MINUTES
    from mingpt.data.sources import absolute
    from mingpt.resolve import resolve
    from mingpt.tuning.strategies import STRATEGIES

    space = objective.parse_space(asked.search, asked.init_from) if asked.search else None
    data, facts = run.read_facts(asked)
    given = {name: value for name, value in asked.given().items() if name in Training.model_fields and name != "config"}
    shared = given | {"data": absolute(resolve(TrainConfig(**given), facts).data)}
    hashes = {"data_sha256": data.sha256}
    if asked.init_from:
        base_folder = pretrained.locate(asked.init_from)
        shared["init_from"] = str(base_folder.resolve())
        hashes["init_from_sha256"] = run.hash_weights(base_folder)
    if not asked.dask:
        shared["threads"] = asked.threads or default_threads(asked.workers)
    base = resolve(TrainConfig(**shared), facts)
    space = space or objective.default_space(base, facts, given)
    if both := [name for name in space.names if name in given]:
        raise UserError(*(f"--{name}: is searched and has a fixed value; leave one of the two out" for name in both))
    STRATEGIES[asked.strategy](space, asked.seed)  # raises UserError where it cannot search this space
    first = objective.first_configs(space, shared, facts)
    is_grid = asked.strategy == "grid"
    minutes = asked.minutes or (None if is_grid or asked.trials else MINUTES)
    description = run.load_task(asked.task)(base, data).describe()
    return Plan(shared, facts, base, space, first[:1] if is_grid else first, minutes, description, hashes)


def begin(asked: TuneConfig, plan: Plan) -> Journal:
    """Time the defaults, and create the study's folder."""
    from mingpt.budget import measure
    from mingpt.checkpoint import create_numbered
    from mingpt.tuning.journal import Journal
    from mingpt.tuning.loop import submit

    with executor_of(asked, 1)() as executor:  # where the trials will run
        print("timing the default settings", file=sys.stderr)
        times = submit(executor, measure, TrainConfig(**plan.shared), plan.base, plan.minutes).result()
    name = "tune-" + (Path(plan.base.data).stem or "study")
    folder = create_numbered(Path("out"), name) if asked.study is None else Path(asked.study)
    return Journal(folder, plan.attributes(asked) | times)


def run_study(asked: TuneConfig, plan: Plan, journal: Journal) -> int:
    from mingpt.budget import Budget
    from mingpt.confirmation import confirm
    from mingpt.objective import Objective
    from mingpt.tuning.study import Study

    folder = journal.path.parent
    study = Study(plan.space, asked.strategy, asked.seed, asked.pruner, plan.first, journal)
    budget = Budget(journal, plan.base, plan.minutes)
    objective = Objective(plan.shared, plan.facts, folder.resolve() / "trials", budget.updates)
    print_header(asked, plan, study, budget)
    with cli.StopRequest("saving what is running") as stop:
        search(study, objective, asked, budget, lambda: stop.is_set)
        repeated = objective  # with all threads, as train.py will have
        if "threads" in plan.shared:
            repeated = replace(objective, shared=plan.shared | {"threads": asked.threads or default_threads()})
        result = None
        if not stop.is_set:
            print("\ntraining the best settings and the defaults with new seeds", flush=True)
            print_line = partial(print, flush=True)
            start_executor = executor_of(asked, 1)
            result = confirm(study, repeated, budget.seeds, start_executor, lambda: stop.is_set, print_line)
        budget.save()
    if result is None:
        print(f"resume        python tune.py --study {shlex.quote(str(folder))}")
        return cli.CANCELLED
    print_report(study, objective, plan, budget, result)
    return 0


def executor_of(asked: TuneConfig, workers: int) -> StartExecutor:
    from mingpt.tuning.loop import dask_cluster, process_pool

    return partial(dask_cluster, asked.dask) if asked.dask else partial(process_pool, workers)


def print_header(asked: TuneConfig, plan: Plan, study: Study, budget: Budget) -> None:
    space = study.space
    size = math.inf if space.size is None else space.size + (not space.contains(plan.first[0]))
    by_time = len(study.trials) + budget.expected_trials(asked.workers)
    trials = min(size, asked.trials or math.inf)
    trials = f"{trials:,}" if trials < by_time else f"about {max(2, round(by_time))}"
    minutes = "" if plan.minutes is None else f" in {plan.minutes:g} minutes"
    task = plan.facts.task
    shortened = "" if budget.scale < 1.1 else f"; shortened, train.py makes {plan.base.max_iters:,}"
    lines = {
        "data": plan.description,
        "objective": f"{'1 - ' if task.higher_is_better else ''}{task.metric}, to be minimized",
        "search": f"{trials} trials{minutes} by {asked.strategy}; early stopping: {asked.pruner}",
        "space": f"\n{'':<14}".join(f"{name} {parameter}" for name, parameter in space.parameters.items()),
        "training": f"{budget.run_seconds:.0f} s a trial, as {budget.updates:,} updates of the defaults{shortened}",
        "confirmation": f"{budget.seeds} runs each of the best settings and of the defaults, with new seeds",
        "machine": f"{asked.workers} trials in parallel, {plan.shared.get('threads', 'all')} threads each",
        "folder": str(study.journal.path.parent),
    }
    if study.trials:
        lines["resumes"] = f"after {len(study.trials)} trials, of which {len(study.in_space)} are in this space"
    for name, line in lines.items():
        print(f"{name:<14}{line}")


def search(study: Study, objective: Objective, asked: TuneConfig, budget: Budget, should_stop: Callable) -> None:
    """Run the trials, with a line for each. The models of the best, and of the defaults, are kept."""
    from mingpt.confirmation import CANDIDATES
    from mingpt.tuning.loop import run_trials
    from mingpt.tuning.output import Table, best_trials

    require_defaults(study)
    table = Table(study.space, "objective")
    print(f"\n{table.header}", flush=True)

    def clean_up(trials: list[Trial]) -> None:
        best = best_trials(study.trials, CANDIDATES)
        for trial in trials:
            needs_model = trial.number == 0 or trial in best
            objective.remove(trial, "state.pt", *([] if needs_model else ["model.safetensors"]))

    def on_end(trial: Trial) -> None:
        budget.save()
        tqdm.write(table.line(trial))
        sys.stdout.flush()
        require_defaults(study)
        clean_up([trial, *best_trials(study.trials, CANDIDATES + 1)])

    def may_start() -> bool:
        number = len(study.trials)  # however short the time, two are compared
        return number < (asked.trials or math.inf) and (number < 2 or budget.may_start())

    ended = [trial for trial in study.trials if trial.state != "running"]
    for trial in ended:
        print(table.line(trial), flush=True)
    clean_up(ended)  # an earlier process may have been killed before it could

    run_trials(study, objective, executor_of(asked, asked.workers), asked.workers, may_start, should_stop, on_end)


def require_defaults(study: Study) -> None:
    """Raise UserError where the trial with the defaults has failed: there is nothing to compare with."""
    if study.trials and study.trials[0].state == "failed":
        raise UserError(f"the trial with the defaults has failed: {study.trials[0].attributes['error']}")


def print_report(study: Study, objective: Objective, plan: Plan, budget: Budget, result: Confirmation) -> None:
    from mingpt.tuning import output
    from mingpt.tuning.plot import plot_study

    folder = study.journal.path.parent
    table = output.Table(study.space, "objective")
    print(f"\nthe best trials\n{table.header}")
    for trial in output.best_trials(study.trials, 5):
        print(table.line(trial))
    files.write_json(folder / "best.json", best_settings(result.winner, plan, budget))
    print(f"\nresult        {result.line()}")
    shares = output.importance(study.space, study.in_space).items()
    print(f"importance    {', '.join(f'{name} {share:.0%}' for name, share in shares) or 'unknown'}")
    print(f"plot          {plot_study(study.space, study.trials, folder / 'study.png', 'objective')}")
    print(f"model         {folder / 'trials' / objective.run_folder(result.winner.number).name}")
    holds = "the defaults"
    if result.winner is not result.defaults:
        longer = "" if budget.scale < 1.1 else f", for a run {budget.scale:.1f} times as long"
        holds = f"trial {result.winner.number}{longer}"
    print(f"settings      {folder / 'best.json'} holds {holds}")
    print(f"train         python train.py --config {shlex.quote(str(folder / 'best.json'))}")


def best_settings(winner: Trial, plan: Plan, budget: Budget) -> dict[str, Any]:
    """A config file of train.py that trains as long as its defaults do: what was searched or given, and max_iters."""
    settings = plan.shared | winner.config
    if winner.number:
        settings["max_iters"] = round(winner.attributes["max_iters"] * budget.scale)
    return {name: value for name, value in sorted(settings.items()) if name not in ("seed", "threads")}


if __name__ == "__main__":
    cli.run_command(main)
