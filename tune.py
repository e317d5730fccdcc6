"""Find good settings for train.py: `python tune.py --strategy gp`. Every flag: `python tune.py --help`."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mingpt import cli, files
from mingpt.config import TrainConfig
from mingpt.config_tune import TuneConfig
from mingpt.device import default_threads
from mingpt.errors import UserError

if TYPE_CHECKING:  # scipy and torch take seconds to import: --help and a mistyped flag need not wait for them
    from mingpt.budget import Budget
    from mingpt.confirmation import Confirmation
    from mingpt.objective import Objective
    from mingpt.plan import Plan
    from mingpt.tuning.journal import Journal
    from mingpt.tuning.loop import StartExecutor
    from mingpt.tuning.study import Study
    from mingpt.tuning.trial import Trial

DESCRIPTION = "Hyperparameter search over the settings of train.py. Without flags: 15 minutes on the manual in Python."


def main(argv: list[str]) -> int:
    typed = cli.parse(TuneConfig, argv, "python tune.py", DESCRIPTION)
    from mingpt.plan import prepare, resume
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
            asked, plan = resume(typed, journal)
            for name, value in plan.attributes(asked).items():
                journal.set_attribute(name, value)
        return run_study(asked, plan, journal)


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
    if asked.dask:
        for trial in [trial for trial in ended if trial.state == "stopped"]:
            objective.stop(trial)  # a worker that outlived that process may still train it

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
