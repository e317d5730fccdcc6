"""Continuous batching against decoding.generate, which decodes a fixed batch, and against the model's own logits."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from conftest import random_model, wait_until

from mingpt.data.tokenizer import TOKENIZERS
from mingpt.generation import batching
from mingpt.generation.batching import Batcher, Job
from mingpt.generation.decoding import generate
from mingpt.generation.streaming import Completion
from mingpt.generation.worker import QueueFull, Worker, WorkerClosed

TOKENIZER = TOKENIZERS["char"](["abcdefghijklmnopqrstuvwxyz .,!?:;'-\n\"ABC"[:37]], [], None)
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 11], list(range(30)), [5] * 16, [3, 1]]  # with a context of 16
OPTIONS = [dict(temperature=0), dict(temperature=0.9, top_p=0.9), dict(temperature=1.2, top_k=5)]


@pytest.fixture
def batcher():
    worker = Worker()
    yield lambda max_rows=3, max_waiting=100: Batcher(random_model(), worker, max_rows, max_waiting)
    worker.close()


class Recorder:
    """A job with what it reported."""

    def __init__(self, prompt: list[int], max_new_tokens: int = 25, stop: tuple[str, ...] = (), **fields):
        self.steps, self.ended = [], threading.Event()
        completion = Completion(TOKENIZER, stop)
        self.job = Job(prompt, completion, max_new_tokens, self.on_step, **fields)

    def on_step(self, step) -> None:
        self.steps.append(step)
        if step.ended_by:
            self.ended.set()

    def text(self) -> str:
        assert self.ended.wait(60)
        return "".join(step.text for step in self.steps)


def generated(model, prompt, n, seed, options, penalty=1.0) -> list[int]:
    columns = generate(model, [prompt], n, seed=seed[0], first=seed[1], repetition_penalty=penalty, **options)
    return torch.cat(list(columns), dim=1)[0].tolist()


def test_jobs_that_join_and_leave_at_any_time_give_the_text_that_each_gives_alone(batcher):
    b = batcher()
    recorders = []
    for i, prompt in enumerate(PROMPTS * 2):
        penalty = 1.0 if i % 4 else 1.3
        fields = dict(options=OPTIONS[i % 3], seed=(7, i), repetition_penalty=penalty)
        recorders.append((Recorder(prompt, 5 + 7 * (i % 4), **fields), prompt, i, penalty))
        b.submit([recorders[-1][0].job])
        time.sleep(0.003 * (i % 3))
    for recorder, prompt, i, penalty in recorders:
        ids = generated(b.model, prompt, 5 + 7 * (i % 4), (7, i), OPTIONS[i % 3], penalty)
        assert recorder.text() == TOKENIZER.decode(ids)
        assert recorder.steps[-1].ended_by == "length"
    wait_until(lambda: not b.running)


def test_a_stop_string_and_the_limit_end_a_job_and_free_its_row(batcher):
    b = batcher(max_rows=1)
    whole = TOKENIZER.decode(generated(b.model, [1, 2], 20, (0, 0), OPTIONS[1]))
    stop = whole[8:10]
    first = Recorder([1, 2], 20, (stop,), options=OPTIONS[1], seed=(0, 0))
    second = Recorder([1, 2], 4, options=OPTIONS[1], seed=(0, 0))
    b.submit([first.job, second.job])
    assert first.text() == whole[: whole.index(stop)] and first.steps[-1].ended_by == "stop"
    assert second.text() == whole[:4]


def test_log_probabilities_of_prompt_and_text_are_those_of_the_model(batcher):
    b = batcher()
    prompt = list(range(14))
    recorder = Recorder(prompt, 2, options=dict(temperature=0), top_logprobs=3, echo="the prompt")
    other = Recorder([3], 2, options=dict(temperature=0), echo="x")
    b.submit([recorder.job, other.job])
    assert recorder.text().startswith("the prompt") and other.text().startswith("x")
    assert all(not step.logprobs for step in other.steps)
    scored = [scored for step in recorder.steps for scored in step.logprobs]
    ids = [scored.token for scored in scored]
    assert ids[:14] == prompt and scored[0].logprob is None and len(ids) == 16
    with torch.no_grad():
        logprobs = b.model(torch.tensor([ids[:15]]))[0].log_softmax(-1)
    expected = logprobs[range(15), ids[1:]]
    torch.testing.assert_close(torch.tensor([s.logprob for s in scored[1:]]), expected, rtol=1e-4, atol=1e-4)
    for s, row in zip(scored[1:], logprobs, strict=True):
        values, tokens = row.topk(3)
        assert [token for token, _ in s.top] == tokens.tolist()
        torch.testing.assert_close(torch.tensor([v for _, v in s.top]), values, rtol=1e-4, atol=1e-4)


def test_only_the_prompt_is_scored_where_no_token_is_asked_for(batcher):
    b = batcher()
    recorder = Recorder([1, 2, 3], 0, top_logprobs=0, echo="abc")
    b.submit([recorder.job])
    assert recorder.text() == "abc"
    assert [s.token for step in recorder.steps for s in step.logprobs] == [1, 2, 3]
    assert recorder.steps[-1].ended_by == "length" and recorder.job.completion.tokens == 0


def test_a_full_queue_refuses_all_of_the_jobs_and_a_closed_batcher_too(batcher):
    b = batcher(max_rows=1, max_waiting=2)
    jobs = [Recorder([1], 10_000) for _ in range(3)]
    b.submit([recorder.job for recorder in jobs])
    with pytest.raises(QueueFull):
        b.submit([Recorder([1], 1).job])
    jobs[1].job.is_cancelled = True
    wait_until(lambda: len(b.running) + len(b.waiting) == 2)
    b.submit([Recorder([1], 1).job])
    b.worker.close()
    assert jobs[0].ended.wait(10) and jobs[0].steps[-1].ended_by == "error"
    assert jobs[2].ended.wait(10) and not jobs[1].ended.is_set()
    with pytest.raises(WorkerClosed):
        b.submit([Recorder([1], 1).job])


def test_a_cancelled_job_ends_within_a_step(batcher):
    b = batcher(max_rows=2)
    recorder = Recorder([1], 10_000)
    b.submit([recorder.job])
    wait_until(lambda: len(recorder.steps) > 5)
    recorder.job.is_cancelled = True
    wait_until(lambda: not b.running)
    assert len(recorder.steps) < 10_000 and b.decoder.lengths == []


def test_an_error_ends_the_jobs_that_run_and_later_ones_succeed(batcher, monkeypatch):
    b = batcher()
    with monkeypatch.context() as m:
        m.setattr(b.decoder, "prefill", lambda *a, **k: (_ for _ in ()).throw(MemoryError()))
        failed = Recorder([1], 3)
        b.submit([failed.job])
        assert failed.ended.wait(10) and failed.steps[-1].ended_by == "error"
    fine = Recorder([1], 3, options=dict(temperature=0))
    b.submit([fine.job])
    assert len(fine.text()) == 3


def test_long_prompts_join_one_by_one(batcher, monkeypatch):
    monkeypatch.setattr(batching, "PREFILL_TOKENS", 10)
    b = batcher(max_rows=8)
    b.worker.close()
    b.waiting.extend(Recorder([1] * n, 1).job for n in (4, 4, 4, 16, 3, 3))
    groups = []
    while b.waiting:
        b.choose_joining()
        groups.append([len(job.tokens) for job in b.joining])
        b.joining.clear()
    assert groups == [[4, 4], [4], [16], [3, 3]]


def test_functions_are_called_between_steps_and_their_errors_raised_to_the_caller(batcher):
    b = batcher()
    recorder = Recorder([1], 10_000)
    b.submit([recorder.job])
    assert b.worker.call(lambda: threading.current_thread().name).result(10) == "worker"
    with pytest.raises(ZeroDivisionError):
        b.worker.call(lambda: 1 / 0).result(10)
    assert not recorder.ended.is_set()
    recorder.job.is_cancelled = True


def test_jobs_count_while_their_prompts_are_read(batcher, monkeypatch):
    b = batcher(max_rows=1, max_waiting=0)
    is_reading, may_go_on = threading.Event(), threading.Event()
    prefill = b.decoder.prefill

    def slow(*args, **kwargs):
        is_reading.set()
        assert may_go_on.wait(10)
        return prefill(*args, **kwargs)

    monkeypatch.setattr(b.decoder, "prefill", slow)
    first = Recorder([1], 3)
    b.submit([first.job])
    assert is_reading.wait(10)
    with pytest.raises(QueueFull):
        b.submit([Recorder([1], 1).job])
    may_go_on.set()
    assert len(first.text()) == 3
