"""Runs the trials of a study on an executor: processes on this machine, or the workers of a Dask cluster.

    parent   asks the study for trials, submits each to the executor, reads its progress, and tells its end
    worker   computes one trial; knows nothing of the study

The parent alone writes the study. It stops a trial, because the pruner or the user says so, through the objective.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from multiprocessing import connection, resource_tracker
from typing import Any, Protocol

from mingpt.errors import UserError
from mingpt.tuning.study import Study, describe
from mingpt.tuning.trial import Curve, Trial

POLL = 0.2  # seconds between two looks at the progress of trials
MAX_DEATHS = 3  # a trial whose worker died so often has failed: once may be chance, twice another's fault

StartExecutor = Callable[[], contextlib.AbstractContextManager[Executor]]


class Objective(Protocol):
    """What a study minimizes. It is sent to the workers; the parent calls all but `__call__`."""

    def __call__(self, number: int, config: dict[str, Any]) -> bool: ...  # compute from where it was; is it finished?
    def prepare(self, trial: Trial) -> None: ...  # before each call
    def curve(self, trial: Trial) -> Curve: ...  # reported so far; the value of a trial is its lowest
    def stop(self, trial: Trial) -> None: ...  # let the computation return soon, to be continued; may be repeated
    def attributes(self, trial: Trial) -> dict[str, Any]: ...  # recorded with a trial that has ended


def run_trials(
    study: Study,
    objective: Objective,
    start_executor: StartExecutor,
    workers: int,
    may_start: Callable[[], bool] = lambda: True,
    should_stop: Callable[[], bool] = lambda: False,
    on_end: Callable[[Trial], None] = lambda trial: None,
) -> None:
    """Run the trials that an earlier process left unfinished, then new ones while `may_start()`.

    Once should_stop(), all running trials are stopped and stay unfinished. Where a worker dies, which takes its whole
    pool with it, the pool is replaced, and the trials that ran continue one at a time: one of them may be the cause.
    A trial whose worker raises an exception has failed; an OSError, such as a full disk, is raised here instead.
    """
    is_over, has_more = False, True
    while not is_over:
        for trial in [trial for trial in study.trials if trial.state == "running"]:
            if study.should_prune(trial):  # the process was killed before it could say so
                end_trial(study, objective, trial, "stopped", on_end)
            elif deaths(trial) >= MAX_DEATHS:
                end_trial(study, objective, trial, "failed", on_end, error=f"its process died {MAX_DEATHS} times")
        unfinished = [trial for trial in study.trials if trial.state == "running"]
        running: dict[Future, Trial] = {}
        with start_executor() as executor:
            try:
                while not is_over:
                    # a trial whose worker has died runs alone
                    room = 1 if any(map(deaths, [*running.values(), *unfinished])) else workers
                    while len(running) < room and not should_stop():
                        if not unfinished and has_more:
                            new = study.ask() if may_start() else None
                            has_more = new is not None
                            unfinished += [new] if has_more else []
                        if not unfinished:
                            break
                        trial = unfinished.pop(0)
                        objective.prepare(trial)
                        running[submit(executor, objective, trial.number, trial.config)] = trial
                    is_over = not running
                    watch(study, objective, running, should_stop, on_end)
            except BrokenExecutor:
                for trial in running.values():
                    if trial.state != "running":
                        on_end(trial)
                    elif not should_stop():  # else what stops us may have ended our workers
                        study.set_attribute(trial, "deaths", deaths(trial) + 1)
            finally:
                for trial in running.values():  # or leaving the executor would wait until they are finished
                    objective.stop(trial)


def deaths(trial: Trial) -> int:
    """How often a worker died while it ran this trial, perhaps beside another."""
    return trial.attributes.get("deaths", 0)


def watch(
    study: Study,
    objective: Objective,
    running: dict[Future, Trial],
    should_stop: Callable[[], bool],
    on_end: Callable[[Trial], None],
) -> None:
    """Wait a moment; report what running trials have reached, and take those that have ended out of `running`."""
    completed, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
    for future, trial in list(running.items()):
        for step, value in objective.curve(trial)[len(trial.curve) :]:
            if trial.state == "running" and not study.report(trial, step, value):
                objective.stop(trial)
                study.tell(trial, state="stopped", **objective.attributes(trial))
        if trial.state != "running" or should_stop():
            objective.stop(trial)
        if future not in completed:
            continue
        error = ConnectionError("the cluster is lost") if future.cancelled() else future.exception()
        if isinstance(error, BrokenExecutor | OSError):
            raise error
        del running[future]
        if trial.state != "running":
            on_end(trial)
        elif error is not None:
            end_trial(study, objective, trial, "failed", on_end, error=describe(error))
        elif future.result():  # else it was stopped by the user
            end_trial(study, objective, trial, "done", on_end)


def end_trial(
    study: Study, objective: Objective, trial: Trial, state: str, on_end: Callable[[Trial], None], **attributes: Any
) -> None:
    study.tell(trial, trial.lowest, state, **objective.attributes(trial), **attributes)
    on_end(trial)


def submit(executor: Executor, function: Callable[..., Any], *arguments: Any) -> Future:
    """Processes started here never get Ctrl-C, which a terminal sends to all: the parent decides what follows."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        return executor.submit(function, *arguments)
    resource_tracker.ensure_running()  # which would unblock the signal, were it started below
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return executor.submit(function, *arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Spawned, since a forked process would share the threads' locks of torch."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)


def end_with_parent() -> None:
    """Let this process end when its parent is killed."""

    def watch_parent() -> None:
        connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch_parent, daemon=True).start()


@contextlib.contextmanager
def dask_cluster(address: str) -> Iterator[Executor]:
    """The workers of a Dask cluster, which need this package and the study's folder under the same path."""
    try:
        from distributed import Client
    except ImportError:
        raise UserError(f'--dask {address}: needs Dask; install it with pip install -e ".[dask]"') from None
    try:
        client = Client(address)
    except (ValueError, OSError) as error:
        raise UserError(f"--dask {address}: no Dask scheduler can be reached ({describe(error)})") from None
    with client, client.get_executor(pure=False) as executor:
        yield executor
