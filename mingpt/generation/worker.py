"""The single thread that computes for all models of a server."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol


class QueueFull(Exception):
    """More jobs are waiting than the limit."""


class WorkerClosed(Exception):
    """The worker accepts no more jobs."""


class Steps(Protocol):
    """Work that is done step by step (batching.Batcher)."""

    def has_jobs(self) -> bool: ...

    def step_or_fail(self) -> None: ...

    def fail_all(self) -> None: ...


class Worker:
    """The thread that computes: it calls functions, and lets each batcher with jobs make a step, in turn.

    It is a single one because OpenMP's threads wait for their next task asleep, instead of ready, as soon as they are
    more than the cores, and each thread that calls PyTorch brings its own. Waking them took a fifth of a token's time.
    """

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self.batchers: list[Steps] = []
        self.is_closed = False
        self.thread = threading.Thread(target=self.run, name="worker", daemon=True)
        self.thread.start()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """The result of a function, when it is there. Raises WorkerClosed."""
        future: Future[Any] = Future()
        with self.condition:
            if self.is_closed:
                raise WorkerClosed
            self.calls.append((future, function))
            self.condition.notify()
        return future

    def close(self) -> None:
        """End all jobs with an error, and the thread."""
        with self.condition:
            self.is_closed = True
            self.condition.notify()
        self.thread.join()

    def run(self) -> None:
        while True:
            with self.condition:
                self.condition.wait_for(
                    lambda: self.is_closed or self.calls or any(b.has_jobs() for b in self.batchers)
                )
                if self.is_closed:
                    break
                call = self.calls.popleft() if self.calls else None  # one: then each stream has a token
            if call is not None:
                run_call(*call)
            for batcher in self.batchers:
                batcher.step_or_fail()
        for batcher in self.batchers:
            batcher.fail_all()
        for future, _ in self.calls:
            future.cancel()


def run_call(future: Future[Any], function: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function())
        except Exception as error:  # raised where the result is asked for
            future.set_exception(error)
