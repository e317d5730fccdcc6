"""The steps of a generation as choices of a response or of its events, in the forms of OpenAI's two routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mingpt.data.tokenizer import Tokenizer
from mingpt.generation.batching import Step, TokenLogprob
from mingpt.serve import schema

PARTIAL = "bytes:"  # the name of a token that is a part of a character
FINISH_REASONS = {"stop": "stop", "end_of_text": "stop", "length": "length"}


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
