"""From a study to work that is done: in this process (minimize), or in several at once (run).

    ask -> work, which reports -> tell

In both the process that runs a trial asks for it and tells its end, so that what is finished is on
the disk before anyone else hears of it, and a trial whose process died is taken up by the next.
"""

from __future__ import annotations

import inspect
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from functools import partial
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any

from mingpt.tuning.parameters import Parameter
from mingpt.tuning.space import Space
from mingpt.tuning.storage import StudyError
from mingpt.tuning.study import Study
from mingpt.tuning.trial import Trial

Report = Callable[[float, float], bool]  # (step, value); whether to go on
GLANCE = 0.1  # seconds between two looks at whether to stop


class Stop:
    """What a parent sets and its workers see. Without a lock: one that is killed while it looks leaves none behind."""

    def __init__(self):
        self.flag = multiprocessing.get_context("spawn").RawValue("b", 0)

    def set(self) -> None:
        self.flag.value = 1

    def is_set(self) -> bool:
        return self.flag.value == 1


Work = Callable[[Trial, Report, Stop], Any]


def minimize(
    f: Callable[..., Any],
    parameters: Mapping[str, Parameter],
    strategy: str = "gp",
    trials: int = 30,
    seed: int = 0,
    stopping: str = "off",
    folder: Path | str | None = None,
) -> Study:
    """The study of the lowest value of f(config), where config is a dict of the parameters' values.

    If f also takes `report`, then report(step, value) says whether to go on; where it does not, f
    returns at once, and its trial is stopped. Where f raises an exception, or returns nan, the trial
    failed and the search goes on. With a folder the study can be stopped, and goes on when called again.

    >>> from mingpt.tuning import Float
    >>> study = minimize(lambda config: (config["x"] - 0.3) ** 2, {"x": Float(0, 1)}, trials=8)
    >>> round(study.best.config["x"], 2)
    0.3
    """
    study = Study(Space(parameters), strategy, seed, stopping, folder)
    takes_report = "report" in parameters_of(f)
    try:
        while (trial := study.ask(trials)) is not None:
            run_trial(
                study, trial, lambda trial, report: f(trial.config, **({"report": report} if takes_report else {}))
            )
    except BaseException:
        study.close()
        raise
    return study


def parameters_of(f: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(f).parameters)
    except ValueError:  # some of those written in C do not say
        return []


def run(
    study: Study,
    work: Work,
    workers: int,
    trials: int | None = None,
    minutes: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_done: Callable[[Trial], None] = lambda trial: None,
) -> None:
    """Run a study's trials in `workers` processes until it has `trials`, its space is used up, or it is time to stop.

    `work(trial, report, stop)` returns the trial's value. It is a function of a module, which each
    process imports; the study is in a folder. Once should_stop() is true or the minutes are over, no
    trial is begun and `stop` is set: work then saves what it needs to go on and returns None, and the
    trial stays running, to be taken up again. A process that dies (killed, out of memory) takes the
    others with it; fresh ones go on with their trials. `on_done` is called here for each trial that
    has ended since, another process's among them.
    """
    if study.folder is None:
        raise ValueError("a study in memory cannot be shared by processes; give it a folder")
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    stop = Stop()
    told = {trial.number for trial in study.trials if trial.state != "running"}

    def is_stopping() -> bool:
        if should_stop() or time.monotonic() >= end:
            stop.set()
        return stop.is_set()

    def tell_of_ended() -> None:
        for trial in study.trials:
            if trial.state != "running" and trial.number not in told:
                told.add(trial.number)
                on_done(trial)

    task = partial(run_next, study.opening(), work, trials)
    is_over = False
    while not is_over:
        attempts, broken = attempts_of(study), None
        with start_workers(workers, stop) as executor:
            try:
                hand_out(executor, task, workers, is_stopping, tell_of_ended)
            except BrokenProcessPool as error:
                broken = error
            except BaseException:
                stop.set()  # or leaving `with` would wait for whole trials
                raise
        tell_of_ended()
        is_over = broken is None
        if broken and attempts_of(study) <= attempts and not stop.is_set():
            raise broken  # it was no trial's fault, so the next processes would die as well


def attempts_of(study: Study) -> int:
    return sum(trial.attempts for trial in study.trials)


def hand_out(
    executor: Executor,
    task: Callable[[], bool],
    workers: int,
    is_stopping: Callable[[], bool],
    tell_of_ended: Callable[[], None],
) -> None:
    """Keep `workers` tasks going until one finds no trial, or it is time to stop; then until the last has returned."""
    running: set[Future] = set()
    has_more = True
    while True:
        has_more = not is_stopping() and has_more
        while has_more and len(running) < workers:
            with interrupts_held_back():
                running.add(executor.submit(task))
        if not running:
            return
        ended, running = wait(running, timeout=GLANCE, return_when=FIRST_COMPLETED)
        for future in ended:
            has_more = future.result() and has_more
        if ended:
            tell_of_ended()


def start_workers(workers: int, stop: Stop) -> Executor:
    """The executor; a cluster's can take its place here.

    Spawned, not forked: a forked process would share this one's connection to the study, and its threads' locks.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of numpy in a worker, for small matrices; torch has its own
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker, initargs=(stop,))


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Ctrl-C comes a moment later, and never to a process started within: it cannot yet ignore it by itself."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # if it were started within, it would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- In a worker process ----


class Worker:
    """What a worker process knows: whether it is asked to stop, and how to leave."""

    def __init__(self, stop: Stop):
        self.stop, self.is_busy, self.is_leaving = stop, False, False

    def leave(self, *_: Any) -> None:
        """On SIGTERM, which the executor sends to the others when one has died."""
        if not self.is_busy:
            os._exit(1)
        self.is_leaving = True
        raise SystemExit  # which puts the trial back

    def end_with_parent(self) -> None:
        connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)


worker: Worker | None = None


def begin_worker(stop: Stop) -> None:
    """What a worker process does first. Shared memory can only be given to a process as it starts."""
    global worker
    worker = Worker(stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent says what follows
    signal.signal(signal.SIGTERM, worker.leave)
    threading.Thread(target=worker.end_with_parent, daemon=True).start()


def run_next(opening: tuple[Any, ...], work: Work, limit: int | None) -> bool:
    """Ask for a trial and run it; False where there is none."""
    worker.is_busy = True
    try:
        if worker.stop.is_set():
            return False
        with closing(Study(*opening)) as study:
            trial = study.ask(limit)
            if trial is not None:
                run_trial(study, trial, lambda trial, report: work(trial, report, worker.stop), worker.stop)
            return trial is not None
    finally:
        if worker.is_leaving:  # or the executor would tell the parent, and wait for more to do
            os._exit(1)
        worker.is_busy = False


def run_trial(study: Study, trial: Trial, work: Callable[[Trial, Report], Any], stop: Stop | None = None) -> None:
    """Run a trial that was asked for, and tell its end. What interrupts it puts it back."""
    is_ended_early = False

    def report(step: float, value: float) -> bool:
        nonlocal is_ended_early
        goes_on = study.report(trial, step, value)
        is_ended_early = is_ended_early or not goes_on
        return goes_on

    try:
        # A process may have died between its last report and hearing that it was to end there.
        value = work(trial, report) if not trial.curve or report(*trial.curve[-1]) else None
        if value is None and not is_ended_early and stop is not None and stop.is_set():
            study.put_back(trial)
            return
        value = math.nan if is_ended_early else as_number(value)
    except StudyError:  # the file is in trouble, not the trial
        raise
    except Exception as error:
        study.tell(trial, math.nan, "failed", in_a_line(error))
    except BaseException:
        with suppress(StudyError):  # then it counts as an attempt
            study.put_back(trial)
        raise
    else:
        study.tell(trial, value, "stopped" if is_ended_early else "done")


def as_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{value!r} was returned, and is no number") from None


def in_a_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
