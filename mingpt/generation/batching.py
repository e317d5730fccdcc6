"""Continuous batching: requests join and leave a running batch between two tokens.

Reading the weights takes most of the time of a token (linear.py), and one reading serves all rows of a batch: eight
requests together take little longer than one. A request waits for no other to end, only for a free row.

    submit(jobs) -> waiting -> prefill, joins the batch -> a token per step -> ended, leaves the batch

Notation as in decoding.py. A single thread computes, for all models; what a job reports is called from there.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.generation import sampling
from mingpt.generation.decoding import Decoder
from mingpt.generation.streaming import Completion
from mingpt.model import GPT

PREFILL_TOKENS = 256  # of prompts that join in one step, or a single longer prompt, so that the others wait little
SCORED_AT_ONCE = 128  # positions of a prompt, whose logits take 4 V bytes each


class QueueFull(Exception):
    """More jobs are waiting than max_waiting."""


class Closed(Exception):
    """The worker accepts no more jobs."""


@dataclass(frozen=True)
class Scored:
    """A token with the logarithm of its probability, and the most probable tokens in its place with theirs."""

    token: int
    logprob: float | None  # None for the first token of a prompt, which nothing precedes
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Step:
    """What one step gives to a job: text that is certain now, and scores where they were asked for."""

    text: str = ""
    scored: Sequence[Scored] = ()
    ended_by: str | None = None  # of the last step: as in Completion, or "error"


@dataclass(eq=False)
class Job:
    """A prompt to continue, of at least one token."""

    prompt: Sequence[int]
    completion: Completion
    max_new_tokens: int  # 0: only the prompt is scored
    report: Callable[[Step], Any]
    options: dict[str, Any] = field(default_factory=dict)  # of sampling.sample
    repetition_penalty: float = 1.0
    seed: Sequence[int] | None = None  # None: from the system's entropy
    top_logprobs: int | None = None  # most probable tokens to report at each step; None: no logarithms at all
    echo: str | None = None  # the prompt's text, reported before the first new token
    is_cancelled: bool = False

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)
        self.rng = np.random.default_rng(self.seed)


class Worker:
    """The thread that computes: it calls functions, and lets each batcher with jobs make a step, in turn.

    It is a single one because OpenMP's threads wait for their next task asleep, instead of ready, as soon as they are
    more than the cores, and each thread that calls PyTorch brings its own. Waking them took a fifth of a token's time.
    """

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self.batchers: list[Batcher] = []
        self.is_closed = False
        self.thread = threading.Thread(target=self.run, name="worker", daemon=True)
        self.thread.start()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """The result of a function, when it is there. Raises Closed."""
        future: Future[Any] = Future()
        with self.condition:
            if self.is_closed:
                raise Closed
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
                calls = [self.calls.popleft() for _ in range(len(self.calls))]
            for future, function in calls:
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(function())
                    except Exception as error:  # raised where the result is asked for
                        future.set_exception(error)
            for batcher in self.batchers:
                batcher.step_or_fail()
        for batcher in self.batchers:
            batcher.fail()
        for future, _ in self.calls:
            future.cancel()


class Batcher:
    """The jobs of a model, of which at most max_rows run at a time, while at most max_waiting wait.

    The text of a job is that of decoding.generate: its random numbers are its own.
    """

    def __init__(self, model: GPT, worker: Worker, max_rows: int, max_waiting: int):
        self.model, self.worker, self.max_rows, self.max_waiting = model, worker, max_rows, max_waiting
        self.decoder = Decoder(model, 1, 1)
        self.running: list[Job] = []  # by row
        self.joining: list[Job] = []
        self.waiting: deque[Job] = deque()
        worker.batchers.append(self)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let jobs wait for their turn, all of them or none. Raises QueueFull or Closed."""
        with self.worker.condition:
            if self.worker.is_closed:
                raise Closed
            if len(self.running) + len(self.waiting) + len(jobs) > self.max_rows + self.max_waiting:
                raise QueueFull
            self.waiting.extend(jobs)
            self.worker.condition.notify()

    def has_jobs(self) -> bool:
        return bool(self.running or self.waiting)

    def step_or_fail(self) -> None:
        try:
            self.step()
        except Exception:  # such as exhausted memory: these jobs end, later ones may succeed
            logging.getLogger(__name__).exception("decoding failed")
            self.fail()

    def fail(self) -> None:
        """End all jobs with an error."""
        with self.worker.condition:
            jobs = dict.fromkeys([*self.running, *self.joining, *self.waiting])
            self.running, self.joining, self.decoder.lengths = [], [], []
            self.waiting.clear()
        for job in jobs:
            job.report(Step(ended_by="error"))

    @torch.inference_mode()
    def step(self) -> None:
        """A token for each running job, and the first one for those that join."""
        self.remove_ended()
        self.joining = self.next_to_join()
        jobs = self.running + self.joining
        if jobs:
            longest = max(len(job.tokens) for job in jobs)
            self.decoder.reserve(len(jobs), min(longest, self.model.config.block_size))
        hidden = [self.decoder.read([job.tokens for job in self.running])] if self.running else []
        hidden += [self.join(job) for job in self.joining]
        self.joining = []
        if not hidden:
            return
        logits = self.model.head(torch.cat(hidden)).float()  # (B, V)
        for job, token, row in zip(self.running, self.sample(logits), logits, strict=True):
            self.add(job, token, row)

    def next_to_join(self) -> list[Job]:
        """The first waiting jobs, as many as free rows and PREFILL_TOKENS allow."""
        joining: list[Job] = []
        size = 0
        with self.worker.condition:
            while self.waiting and len(self.running) + len(joining) < self.max_rows:
                size += len(self.waiting[0].tokens)
                if joining and size > PREFILL_TOKENS:
                    break
                joining.append(self.waiting.popleft())
        return joining

    def join(self, job: Job) -> Tensor:
        """Read a prompt into the next row; the hidden state (1, C) after its last token."""
        x = self.decoder.prefill([job.tokens], row=len(self.running))[0]  # (T, C)
        self.running.append(job)
        if job.echo is not None:
            job.report(Step(job.echo, [] if job.top_logprobs is None else self.score_prompt(job, x)))
        return x[-1:]

    def score_prompt(self, job: Job, x: Tensor) -> list[Scored]:
        scored = [Scored(job.tokens[0], None)]
        for start in range(0, len(x) - 1, SCORED_AT_ONCE):
            chunk = x[start : start + SCORED_AT_ONCE][: len(x) - 1 - start]
            logits = self.model.head(chunk).float()  # (T', V)
            targets = job.tokens[start + 1 : start + 1 + len(chunk)]
            scored += [score(row, token, job.top_logprobs) for row, token in zip(logits, targets, strict=True)]
        return scored

    def sample(self, logits: Tensor) -> list[int]:
        """The next token of each running job, those with equal options at once."""
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for row, job in enumerate(self.running):
            groups[tuple(job.options.items())].append(row)
        u = torch.tensor([[job.rng.random()] for job in self.running], dtype=torch.float64)
        if any(job.repetition_penalty != 1 for job in self.running):
            logits = torch.stack([penalize(job, row) for job, row in zip(self.running, logits, strict=True)])
        tokens = torch.empty(len(logits), 1, dtype=torch.long)
        for options, rows in groups.items():
            chosen = logits if len(groups) == 1 else logits[rows]
            tokens[rows] = sampling.sample(chosen, u[rows], **dict(options)).cpu()
        return tokens[:, 0].tolist()

    def add(self, job: Job, token: int, logits: Tensor) -> None:
        """Report a new token. A job that only scores its prompt gets none."""
        if job.max_new_tokens == 0:
            job.report(Step(job.completion.end("length"), (), "length"))
            return
        job.tokens.append(token)
        text = job.completion.add(token)
        if job.completion.tokens == job.max_new_tokens:
            text += job.completion.end("length")
        is_shown = job.top_logprobs is not None and job.completion.ended_by != "end_of_text"
        scored = [score(logits, token, job.top_logprobs)] if is_shown else []
        job.report(Step(text, scored, job.completion.ended_by))

    def remove_ended(self) -> None:
        for row in range(len(self.running) - 1, -1, -1):
            job = self.running[row]
            if job.completion.ended_by or job.is_cancelled:
                self.decoder.remove(row)
                self.running[row] = self.running[-1]
                self.running.pop()
        with self.worker.condition:
            self.waiting = deque(job for job in self.waiting if not job.is_cancelled)


def score(logits: Tensor, token: int, top: int) -> Scored:
    """The log-probability of a token among logits (V,), before any option of sampling, and the `top` highest."""
    logprobs = F.log_softmax(logits, dim=-1)
    values, tokens = logprobs.topk(min(top, len(logprobs)))
    return Scored(token, logprobs[token].item(), list(zip(tokens.tolist(), values.tolist(), strict=True)))


def penalize(job: Job, logits: Tensor) -> Tensor:
    """Logits (V,) after the penalty for tokens that have occurred."""
    if job.repetition_penalty == 1:
        return logits
    has_occurred = torch.zeros_like(logits, dtype=torch.bool)
    has_occurred[job.tokens] = True
    return sampling.penalize_repetition(logits, has_occurred, job.repetition_penalty)
