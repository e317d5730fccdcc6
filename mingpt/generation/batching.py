"""Continuous batching: requests join and leave a running batch between two tokens.

Reading the weights takes most of the time of a token (linear.py), and one reading serves all rows of a batch: eight
requests together take little longer than one. A request waits for no other to end, only for a free row.

    submit(jobs) -> waiting -> prefill, joins the batch -> a token per step -> ended, leaves the batch

Notation as in decoding.py. A single thread computes, for all models; what a job reports is called from there.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.generation import sampling
from mingpt.generation.decoding import Decoder
from mingpt.generation.streaming import Completion
from mingpt.generation.worker import QueueFull, Worker, WorkerClosed
from mingpt.model import GPT

PREFILL_TOKENS = 256  # of prompts that join in one step, or a single longer prompt, so that the others wait little
SCORED_AT_ONCE = 128  # positions of a prompt, whose logits take 4 V bytes each


@dataclass(frozen=True)
class TokenLogprob:
    """A token with the logarithm of its probability, and the most probable tokens in its place with theirs."""

    token: int
    logprob: float | None  # None for the first token of a prompt, which nothing precedes
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Step:
    """What one step gives to a job: text that is certain now, and scores where they were asked for."""

    text: str = ""
    logprobs: Sequence[TokenLogprob] = ()
    ended_by: str | None = None  # of the last step: as in Completion, or "error"


@dataclass(eq=False)
class Job:
    """A prompt to continue: at least one token, and at most block_size where it is to be scored."""

    prompt: Sequence[int]
    completion: Completion
    max_new_tokens: int  # 0: only the prompt is scored
    on_step: Callable[[Step], Any]
    options: dict[str, Any] = field(default_factory=dict)  # of sampling.sample
    repetition_penalty: float = 1.0
    seed: Sequence[int] | None = None  # None: from the system's entropy
    top_logprobs: int | None = None  # most probable tokens to report at each step; None: no logarithms at all
    echo: str | None = None  # the prompt's text, reported before the first new token
    is_cancelled: bool = False

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)
        self.rng = np.random.default_rng(self.seed)


class Batcher:
    """The jobs of a model, of which at most max_rows run at a time, while at most max_waiting wait.

    The text of a job is that of decoding.generate up to rounding: its random numbers are its own.
    """

    def __init__(self, model: GPT, worker: Worker, max_rows: int, max_waiting: int):
        self.model, self.worker, self.max_rows, self.max_waiting = model, worker, max_rows, max_waiting
        self.decoder = Decoder(model, 1, 1)
        self.waiting: deque[Job] = deque()
        self.joining: deque[Job] = deque()  # their prompts are being read
        self.running: list[Job] = []  # by row
        worker.batchers.append(self)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let jobs wait for their turn, all of them or none. Raises QueueFull or WorkerClosed."""
        with self.worker.condition:
            if self.worker.is_closed:
                raise WorkerClosed
            count = len(self.running) + len(self.joining) + len(self.waiting) + len(jobs)
            if count > self.max_rows + self.max_waiting:
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
            self.fail([*self.running, *self.joining])

    def fail_all(self) -> None:
        jobs = [*self.running, *self.joining, *self.waiting]
        self.waiting.clear()
        self.fail(jobs)

    def fail(self, jobs: Sequence[Job]) -> None:
        """End jobs with an error, and empty the batch."""
        with self.worker.condition:
            self.joining.clear()
            self.running, self.decoder.lengths = [], []
        for job in jobs:
            job.on_step(Step(ended_by="error"))

    @torch.inference_mode()
    def step(self) -> None:
        """A token for each running job, and the first one for those that join."""
        self.remove_ended()
        self.choose_joining()
        jobs = [*self.running, *self.joining]
        if not jobs:
            return
        longest = max(len(job.tokens) for job in jobs)
        self.decoder.reserve(len(jobs), min(longest, self.model.config.block_size))
        hidden = [self.decoder.read([job.tokens for job in self.running])] if self.running else []
        while self.joining:
            hidden.append(self.join(self.joining[0]))
        logits = self.model.head(torch.cat(hidden)).float()  # (B, V)
        for job, token, row in zip(self.running, self.sample(logits), logits, strict=True):
            self.add(job, token, row)

    def choose_joining(self) -> None:
        """The first waiting jobs, as many as free rows and PREFILL_TOKENS allow."""
        size = 0
        with self.worker.condition:
            while self.waiting and len(self.running) + len(self.joining) < self.max_rows:
                size += len(self.waiting[0].tokens)
                if self.joining and size > PREFILL_TOKENS:
                    break
                self.joining.append(self.waiting.popleft())

    def join(self, job: Job) -> Tensor:
        """Read a prompt into the next row; the hidden state (1, C) after its last token."""
        x = self.decoder.prefill([job.tokens], row=len(self.running))[0]  # (T, C)
        if job.echo is not None:
            job.on_step(Step(job.echo, [] if job.top_logprobs is None else self.score_prompt(job, x)))
        with self.worker.condition:
            self.running.append(self.joining.popleft())
        return x[-1:]

    def score_prompt(self, job: Job, x: Tensor) -> list[TokenLogprob]:
        """The log-probabilities of a prompt's tokens, from its hidden states (T, C)."""
        logprobs = [TokenLogprob(job.tokens[0], None)]
        for start in range(0, len(x) - 1, SCORED_AT_ONCE):
            targets = job.tokens[start + 1 :][:SCORED_AT_ONCE]
            logits = self.model.head(x[start : start + len(targets)]).float()  # (n, V)
            logprobs += token_logprobs(logits, targets, job.top_logprobs)
        return logprobs

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
            job.on_step(Step(job.completion.end("length"), ended_by="length"))
            return
        job.tokens.append(token)
        text = job.completion.add(token)
        if job.completion.tokens == job.max_new_tokens:
            text += job.completion.end("length")
        is_shown = job.top_logprobs is not None and job.completion.ended_by != "end_of_text"
        logprobs = token_logprobs(logits[None], [token], job.top_logprobs) if is_shown else []
        job.on_step(Step(text, logprobs, job.completion.ended_by))

    def remove_ended(self) -> None:
        for row in range(len(self.running) - 1, -1, -1):
            job = self.running[row]
            if job.completion.ended_by or job.is_cancelled:
                self.decoder.remove(row)
                self.running[row] = self.running[-1]
                self.running.pop()
        with self.worker.condition:
            self.waiting = deque(job for job in self.waiting if not job.is_cancelled)


def token_logprobs(logits: Tensor, tokens: Sequence[int], top: int) -> list[TokenLogprob]:
    """The log-probability of each token given its logits (n, V), before any option of sampling, and the highest."""
    logprobs = F.log_softmax(logits, dim=-1)
    own = logprobs[range(len(tokens)), list(tokens)].tolist()
    values, ids = (x.tolist() for x in logprobs.topk(min(top, logprobs.shape[-1])))  # (n, top)
    alternatives = [list(zip(*pair, strict=True)) for pair in zip(ids, values, strict=True)]
    return [TokenLogprob(*fields) for fields in zip(tokens, own, alternatives, strict=True)]


def penalize(job: Job, logits: Tensor) -> Tensor:
    """Logits (V,) after the penalty for tokens that have occurred."""
    if job.repetition_penalty == 1:
        return logits
    has_occurred = torch.zeros_like(logits, dtype=torch.bool)
    has_occurred[job.tokens] = True
    return sampling.penalize_repetition(logits, has_occurred, job.repetition_penalty)
