"""A request for text becomes jobs of the batcher, and their steps become what the client receives.

request -> prompts (ids) -> a job for each answer -> steps, in a queue of the event loop (then formats.py)
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mingpt.data import dialogue
from mingpt.data.tokenizer import Tokenizer
from mingpt.errors import UserError
from mingpt.generation.batching import Job, Step
from mingpt.generation.decoding import window_size
from mingpt.generation.streaming import Completion, encode_prompt
from mingpt.generation.worker import QueueFull, WorkerClosed
from mingpt.serve import schema
from mingpt.serve.errors import ApiError, queue_error, timeout_error
from mingpt.serve.models import LanguageModel

MAX_UNREAD = 20_000  # steps of a client that does not read; then its request ends


@dataclass
class Prompt:
    ids: list[int]
    text: str
    max_new_tokens: int
    omitted_messages: int = 0


def completion_prompts(model: LanguageModel, request: schema.CompletionRequest) -> list[Prompt]:
    """The prompts of a request. Raises ApiError where one cannot be read or exceeds the context."""
    value = request.prompt
    is_list = isinstance(value, list) and not isinstance(value[0], int)
    size, prompts = model.config.block_size, []
    for prompt in value if is_list else [value]:
        ids = encode(model.tokenizer, prompt)
        if len(ids) > size and not request.truncate_prompt:
            problem = f"The context length of this model is {size:,} tokens, and the prompt has {len(ids):,}"
            raise ApiError(400, f"{problem}; truncate_prompt cuts it.", "prompt", "context_length_exceeded")
        is_whole = len(ids) <= size
        ids = ids if is_whole else ids[-window_size(size) :]
        text = prompt if isinstance(prompt, str) and is_whole else model.tokenizer.decode(ids)
        prompts.append(Prompt(ids, text, request.max_tokens))
    return prompts


def encode(tokenizer: Tokenizer, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, list):
        if max(prompt) >= tokenizer.vocab_size:
            raise ApiError(400, f"prompt: token ids must be below {tokenizer.vocab_size:,}.", "prompt")
        return prompt
    try:
        return encode_prompt(tokenizer, prompt)
    except UserError as error:
        raise ApiError(400, f"prompt: {error}.", "prompt") from None


def chat_prompt(model: LanguageModel, request: schema.ChatRequest) -> Prompt:
    """The conversation, and room for an answer. Raises ApiError where it exceeds the context.

    With truncate_prompt its oldest exchanges are left out, so that a quarter of the context is for the answer.
    """
    messages, size = [message.to_message() for message in request.messages], model.config.block_size
    omitted = 0
    try:
        if request.truncate_prompt:
            ids, omitted = dialogue.encode_prompt(model.tokenizer, messages, size * 3 // 4)
        else:
            encoded, _ = dialogue.encode_dialogue(model.tokenizer, messages)
            ids = [*encoded.tolist(), model.tokenizer.special_ids[dialogue.MARKERS["assistant"]]]
    except UserError as error:
        raise ApiError(400, f"messages: {error}.", "messages") from None
    if len(ids) >= size:
        problem = f"The context length of this model is {size:,} tokens, and the messages have {len(ids):,}"
        reason = "an answer needs one more at least; truncate_prompt leaves out the oldest messages"
        raise ApiError(400, f"{problem}; {reason}.", "messages", "context_length_exceeded")
    limit = request.max_completion_tokens or request.max_tokens or schema.MAX_TOKENS
    return Prompt(ids, "", min(limit, size - len(ids)), omitted)


class Generation:
    """The jobs of a request, and the steps that they report, as (index of the answer, step)."""

    def __init__(
        self,
        model: LanguageModel,
        request: schema.GenerationRequest,
        prompts: Sequence[Prompt],
        top_logprobs: int | None,
        echo: bool = False,
    ):
        """Submit the jobs. Raises ApiError where the queue is full."""
        batcher, count = model.batcher, len(prompts) * request.n
        limit = batcher.max_rows + batcher.max_waiting
        if count > limit:
            raise ApiError(400, f"The request asks for {count:,} answers; at most {limit:,} fit the queue.", "n")
        self.loop, self.queue, self.prompts = asyncio.get_running_loop(), asyncio.Queue(), prompts
        self.jobs = []
        is_chat = isinstance(request, schema.ChatRequest)  # where a space precedes the content
        for i, prompt in enumerate(prompt for prompt in prompts for _ in range(request.n)):
            self.jobs.append(
                Job(
                    prompt=prompt.ids,
                    completion=Completion(model.tokenizer, request.stop_strings(), model.end_ids, is_chat),
                    max_new_tokens=prompt.max_new_tokens,
                    on_step=functools.partial(self.put, i),
                    options=request.options(),
                    repetition_penalty=request.repetition_penalty,
                    seed=None if request.seed is None else (request.seed % 2**64, i),
                    top_logprobs=top_logprobs,
                    echo=prompt.text if echo else None,
                )
            )
        try:
            batcher.submit(self.jobs)
        except (QueueFull, WorkerClosed) as error:
            raise queue_error(error) from None

    def put(self, i: int, step: Step) -> None:
        """Called by the worker's thread."""
        if self.queue.qsize() > MAX_UNREAD:
            self.cancel()
            step = Step(ended_by="error")
        with suppress(RuntimeError):  # the event loop was closed: nobody waits
            self.loop.call_soon_threadsafe(self.queue.put_nowait, (i, step))

    def expire(self) -> None:
        self.cancel()
        self.queue.put_nowait((0, Step(ended_by="timeout")))

    async def steps(self, seconds: float) -> AsyncIterator[tuple[int, Step]]:
        """Until all answers have ended. Raises ApiError after so many seconds, and where decoding fails."""
        timer = self.loop.call_later(seconds, self.expire)
        running = len(self.jobs)
        try:
            while running:
                i, step = await self.queue.get()
                if step.ended_by == "timeout":
                    raise timeout_error(seconds)
                if step.ended_by == "error":
                    raise ApiError(503, "Generation was interrupted.", code="interrupted")
                running -= step.ended_by is not None
                yield i, step
                await asyncio.sleep(0)  # with many unread steps, that a disconnect is seen
        finally:
            timer.cancel()
            self.cancel()

    def cancel(self) -> None:
        """Stop what is still running: nobody reads it."""
        for job in self.jobs:
            job.is_cancelled = True

    def usage(self) -> schema.Usage:
        prompt = sum(len(prompt.ids) for prompt in self.prompts)
        new = sum(job.completion.tokens for job in self.jobs)
        return schema.Usage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)
