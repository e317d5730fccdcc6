"""A request for text becomes jobs of the batcher, and their steps become what the client receives.

request -> prompts (ids) -> a job for each answer -> steps, in a queue of the event loop -> choices -> JSON or events
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from mingpt.data import dialogue
from mingpt.data.tokenizer import Tokenizer
from mingpt.errors import UserError
from mingpt.generation.batching import Job, Step, TokenLogprob
from mingpt.generation.decoding import window_size
from mingpt.generation.streaming import Completion, encode_prompt
from mingpt.generation.worker import QueueFull, WorkerClosed
from mingpt.serve import schema
from mingpt.serve.errors import ApiError, queue_error, timeout_error
from mingpt.serve.models import LanguageModel

MAX_UNREAD = 20_000  # steps of a client that does not read; then its request ends
PARTIAL = "bytes:"  # the name of a token that is a part of a character
FINISH_REASONS = {"stop": "stop", "end_of_text": "stop", "length": "length"}


@dataclass
class Prompt:
    ids: list[int]
    text: str
    max_new_tokens: int
    omitted_messages: int = 0


def completion_prompts(served: LanguageModel, request: schema.CompletionRequest) -> list[Prompt]:
    """The prompts of a request. Raises ApiError where one cannot be read or exceeds the context."""
    given = request.prompt
    is_list = isinstance(given, list) and not isinstance(given[0], int)
    size, prompts = served.config.block_size, []
    for prompt in given if is_list else [given]:
        ids = encode(served.tokenizer, prompt)
        if len(ids) > size and not request.truncate_prompt:
            problem = f"The context length of this model is {size:,} tokens, and the prompt has {len(ids):,}"
            raise ApiError(400, f"{problem}; truncate_prompt cuts it.", "prompt", "context_length_exceeded")
        is_whole = len(ids) <= size
        ids = ids if is_whole else ids[-window_size(size) :]
        text = prompt if isinstance(prompt, str) and is_whole else served.tokenizer.decode(ids)
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


def chat_prompt(served: LanguageModel, request: schema.ChatRequest) -> Prompt:
    """The conversation, and room for an answer. Raises ApiError where it exceeds the context.

    With truncate_prompt its oldest exchanges are left out, so that a quarter of the context is for the answer.
    """
    messages, size = [message.to_message() for message in request.messages], served.config.block_size
    omitted = 0
    try:
        if request.truncate_prompt:
            ids, omitted = dialogue.encode_prompt(served.tokenizer, messages, size * 3 // 4)
        else:
            encoded, _ = dialogue.encode_dialogue(served.tokenizer, messages)
            ids = [*encoded.tolist(), served.tokenizer.special_ids[dialogue.MARKERS["assistant"]]]
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
        served: LanguageModel,
        request: schema.GenerationRequest,
        prompts: Sequence[Prompt],
        top_logprobs: int | None,
        echo: bool = False,
    ):
        """Submit the jobs. Raises ApiError where the queue is full."""
        batcher, count = served.batcher, len(prompts) * request.n
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
                    completion=Completion(served.tokenizer, request.stop_strings(), served.end_ids, is_chat),
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


class CompletionFormat:
    """Steps as choices of /v1/completions."""

    chunk_type, response_type = schema.Completion, schema.Completion
    extra_fields: ClassVar = {}

    def __init__(self, tokenizer: Tokenizer, has_logprobs: bool, answers: int):
        self.tokenizer, self.has_logprobs, self.offsets = tokenizer, has_logprobs, [0] * answers

    def initial_choices(self, index: int) -> list[schema.CompletionChoice]:
        return []

    def choice(self, index: int, step: Step) -> schema.CompletionChoice:
        logprobs = self.logprobs(index, step.logprobs) if self.has_logprobs else None
        reason = FINISH_REASONS.get(step.ended_by)
        return schema.CompletionChoice(index=index, text=step.text, logprobs=logprobs, finish_reason=reason)

    def logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> schema.CompletionLogprobs:
        result = schema.CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for s in entries:
            name = self.tokenizer.name_of(s.token)
            top = {self.tokenizer.name_of(token): logprob for token, logprob in s.top}
            result.tokens.append(name)
            result.token_logprobs.append(s.logprob)
            result.top_logprobs.append(None if s.logprob is None else top)
            result.text_offset.append(self.offsets[index])
            self.offsets[index] += 0 if name.startswith(PARTIAL) else len(name)
        return result

    def merge(self, choices: Sequence[schema.CompletionChoice]) -> schema.CompletionChoice:
        """All choices of an answer as one."""
        last, logprobs = choices[-1], None
        if self.has_logprobs:
            parts = [choice.logprobs for choice in choices]
            fields = schema.CompletionLogprobs.model_fields
            logprobs = schema.CompletionLogprobs(**{f: [x for part in parts for x in getattr(part, f)] for f in fields})
        text = "".join(choice.text for choice in choices)
        return schema.CompletionChoice(index=last.index, text=text, logprobs=logprobs, finish_reason=last.finish_reason)


class ChatFormat:
    """Steps as choices of /v1/chat/completions."""

    chunk_type, response_type = schema.ChatCompletionChunk, schema.ChatCompletion

    def __init__(self, tokenizer: Tokenizer, has_logprobs: bool, omitted_messages: int):
        self.tokenizer, self.has_logprobs = tokenizer, has_logprobs
        self.extra_fields = {"omitted_messages": omitted_messages}

    def initial_choices(self, index: int) -> list[schema.ChatChunkChoice]:
        return [schema.ChatChunkChoice(index=index, delta=schema.Delta(role="assistant", content=""))]

    def choice(self, index: int, step: Step) -> schema.ChatChunkChoice:
        logprobs = None
        if self.has_logprobs:
            logprobs = schema.ChatLogprobs(content=[self.token_logprob(entry) for entry in step.logprobs])
        return schema.ChatChunkChoice(
            index=index,
            delta=schema.Delta(content=step.text or None),
            logprobs=logprobs,
            finish_reason=FINISH_REASONS.get(step.ended_by),
        )

    def token_logprob(self, entry: TokenLogprob) -> schema.ChatTokenLogprob:
        top = [schema.TokenLogprob(**self.token_fields(token, logprob)) for token, logprob in entry.top]
        return schema.ChatTokenLogprob(**self.token_fields(entry.token, entry.logprob), top_logprobs=top)

    def token_fields(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.tokenizer.token_bytes.get(token, b"")
        return {"token": self.tokenizer.name_of(token), "logprob": logprob, "bytes": list(text)}

    def merge(self, choices: Sequence[schema.ChatChunkChoice]) -> schema.ChatChoice:
        logprobs = None
        if self.has_logprobs:
            logprobs = schema.ChatLogprobs(content=[s for choice in choices for s in choice.logprobs.content])
        content = "".join(choice.delta.content or "" for choice in choices)
        last = choices[-1]
        return schema.ChatChoice(
            index=last.index,
            message=schema.Answer(content=content),
            logprobs=logprobs,
            finish_reason=last.finish_reason,
        )
