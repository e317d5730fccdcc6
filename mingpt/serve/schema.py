"""Requests and responses, in the names, types and defaults of OpenAI's API; ours beside them are top_k, min_p,
repetition_penalty and truncate_prompt. A field that is not here is ignored, null stands for a default.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_serializer

MAX_TEXTS = 256  # of one request
MAX_TOKENS = 16_384  # of one answer
MAX_MESSAGES = 4096

Text = Annotated[str, Field(min_length=1)]
# fail_fast: of a list, the first problem is enough
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]


class Request(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: str = Field(description="a name that /v1/models lists")

    @field_validator("*")
    @classmethod
    def null_is_default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].get_default() if value is None else value


class ExplainRequest(Request):
    model: str = Field(description="a name that /v1/explain lists")
    text: str | None = Field(
        None,
        min_length=1,
        max_length=10_000,
        description="text that the model reads; default: the beginning of its run's last sample",
    )
    layer: int | None = Field(0, ge=0, description="layer of the attention row in numbers, from 0")
    head: int | None = Field(0, ge=0, description="its head, from 0")


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class GenerationRequest(Request):
    temperature: float | None = Field(1.0, ge=0, le=2, description="sampling temperature; 0: greedy decoding")
    top_p: float | None = Field(1.0, gt=0, le=1, description="keep the most probable tokens that sum to p; 1: all")
    top_k: int | None = Field(0, ge=0, description="keep the k most probable tokens; 0: all")
    min_p: float | None = Field(0.0, ge=0, le=1, description="keep tokens of p times the highest probability; 0: all")
    repetition_penalty: float | None = Field(
        1.0, ge=0.1, le=10, description="above 1: repetition becomes less probable"
    )
    n: int | None = Field(1, ge=1, le=MAX_TEXTS, description="number of answers")
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = Field(None, description="end before these texts")
    seed: int | None = Field(
        None, ge=-(2**63), lt=2**63, description="the same request gives the same text, up to rounding"
    )
    stream: bool | None = Field(False, description="send server-sent events as tokens are generated")
    stream_options: StreamOptions | None = None
    truncate_prompt: bool | None = Field(False, description="leave out the beginning of what exceeds the context")

    def options(self) -> dict[str, float]:
        """As sampling.sample takes them."""
        return {name: getattr(self, name) for name in ("temperature", "top_k", "top_p", "min_p")}

    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(GenerationRequest):
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)]
    ) = Field(description="text or token ids, or a list of either")
    max_tokens: int | None = Field(16, ge=0, le=MAX_TOKENS, description="maximum number of tokens to generate")
    logprobs: int | None = Field(None, ge=0, le=20, description="report log-probabilities, and so many alternatives")
    echo: bool | None = Field(False, description="return the prompt before the completion")


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def to_message(self) -> dict[str, str]:
        """As data/dialogue.py has it. developer is OpenAI's newer name of the system role."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(GenerationRequest):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS, description="default: to the context's end")
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS, description="older name of max_completion_tokens")
    logprobs: bool | None = Field(False, description="report log-probabilities of the answer's tokens")
    top_logprobs: int | None = Field(0, ge=0, le=20, description="so many alternatives to each token")


class ClassifyRequest(Request):
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        description="a text, or a list of texts"
    )


REQUESTS = (CompletionRequest, ChatRequest, ChatMessage, TextPart, StreamOptions, ClassifyRequest, ExplainRequest)
FIELDS = {name for request in REQUESTS for name in request.model_fields}


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(BaseModel):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []
    text_offset: list[int] = []


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class TokenLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(BaseModel):
    content: list[ChatTokenLogprob]
    refusal: None = None


class Answer(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: Answer
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer(mode="wrap")
    def without_null(self, serialize: Any) -> dict[str, str]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class ChatChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Response(BaseModel):
    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    object: str
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str
    usage: Usage | None = None


class Completion(Response):
    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]


class ChatResponse(Response):
    omitted_messages: int = Field(0, description="number of the oldest messages that truncate_prompt left out")


class ChatCompletion(ChatResponse):
    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class ChatCompletionChunk(ChatResponse):
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]


class Prediction(BaseModel):
    index: int
    label: str | None = Field(None, description="of a classification model: the most probable class")
    probabilities: dict[str, float] | None = None
    value: float | None = Field(None, description="of a regression model")
    truncated: bool = Field(description="whether only the end of the text was read")


class Predictions(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[Prediction]
    usage: Usage


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Error(BaseModel):
    error: ErrorDetail
