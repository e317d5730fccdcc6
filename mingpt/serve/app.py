"""The HTTP API: OpenAI's routes for text and chat, /v1/classify for classes and numbers, and the pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import PurePath
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response, StreamingResponse

from mingpt.errors import UserError
from mingpt.generation.worker import QueueFull, Worker, WorkerClosed
from mingpt.serve import errors, schema
from mingpt.serve.disconnect import until_disconnect
from mingpt.serve.errors import RESPONSES, ApiError
from mingpt.serve.explain import explain_routes
from mingpt.serve.formats import ChatFormat, CompletionFormat
from mingpt.serve.jobs import Generation, chat_prompt, completion_prompts
from mingpt.serve.middleware import RequestGuard
from mingpt.serve.models import LanguageModel, Model, PredictionModel

Format = CompletionFormat | ChatFormat

CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
PATHS = {"index.html": "/", "docs.html": "/docs", "explain.html": "/explain"}  # of other files: their names
POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}


def create_app(
    models: dict[str, Model],
    worker: Worker,
    descriptions: Sequence[dict[str, Any]],
    folders: Sequence[str],
    api_key: str | None = None,
    cors: Sequence[str] = (),
    timeout: float = 300,
) -> FastAPI:
    """The application that serves models by name, and explains what is in folders.

    `timeout` is the most seconds of a request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.close)

    app = FastAPI(title="mingpt", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(RequestGuard, api_key=api_key, origins=cors)
    if cors:  # outside of RequestGuard: a browser asks for permission without the key
        app.add_middleware(CORSMiddleware, allow_origins=list(cors), allow_methods=["*"], allow_headers=["*"])
    errors.add_handlers(app)
    add_pages(app)
    app.include_router(description_routes(worker, descriptions))
    app.include_router(generation_routes(models, timeout))
    app.include_router(prediction_routes(models, timeout))
    app.include_router(explain_routes(folders, worker, timeout))
    return app


def find(models: dict[str, Model], name: str, kind: type[Model], use: str) -> Any:
    """The model of that name. Raises ApiError where there is none of that kind; `use` says what it is used by."""
    if name not in models:
        known = ", ".join(models)
        raise ApiError(404, f"The model {name!r} does not exist; there are: {known}.", "model", "model_not_found")
    if not isinstance(models[name], kind):
        raise ApiError(400, f"{name} is a model of task {models[name].task}; use {use}.", "model")
    return models[name]


def description_routes(worker: Worker, descriptions: Sequence[dict[str, Any]]) -> APIRouter:
    router = APIRouter()

    @router.get("/health", responses=RESPONSES)
    async def health() -> dict[str, str]:
        if not worker.thread.is_alive():
            raise ApiError(503, "The server is shutting down.", code="shutting_down")
        return {"status": "ok"}

    @router.get("/v1/models", responses=RESPONSES)
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": descriptions}

    @router.get("/v1/models/{name}", responses=RESPONSES)
    async def get_model(name: str) -> dict[str, Any]:
        for description in descriptions:
            if description["id"] == name:
                return description
        raise ApiError(404, f"The model {name!r} does not exist.", "model", "model_not_found")

    return router


def generation_routes(models: dict[str, Model], timeout: float) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions", response_model=schema.Completion, responses=RESPONSES)
    async def completions(body: schema.CompletionRequest, http: Request) -> Response:
        model: LanguageModel = find(models, body.model, LanguageModel, "/v1/classify")
        prompts = await asyncio.to_thread(completion_prompts, model, body)
        generation = Generation(model, body, prompts, body.logprobs, body.echo)
        formatter = CompletionFormat(model.tokenizer, body.logprobs is not None, len(generation.jobs))
        return await respond(http, body, generation, formatter, timeout)

    @router.post("/v1/chat/completions", response_model=schema.ChatCompletion, responses=RESPONSES)
    async def chat_completions(body: schema.ChatRequest, http: Request) -> Response:
        model: LanguageModel = find(models, body.model, LanguageModel, "/v1/classify")
        if model.task != "chat":
            raise ApiError(400, f"{body.model} is not a chat model; use /v1/completions.", "model")
        prompt = await asyncio.to_thread(chat_prompt, model, body)
        generation = Generation(model, body, [prompt], body.top_logprobs if body.logprobs else None)
        formatter = ChatFormat(model.tokenizer, body.logprobs, prompt.omitted_messages)
        return await respond(http, body, generation, formatter, timeout)

    return router


def prediction_routes(models: dict[str, Model], timeout: float) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/classify", response_model=schema.Predictions, responses=RESPONSES)
    async def classify(body: schema.ClassifyRequest, http: Request) -> Response:
        model: PredictionModel = find(models, body.model, PredictionModel, "/v1/completions or /v1/chat/completions")
        texts = [body.input] if isinstance(body.input, str) else body.input

        async def predict() -> Response:
            data, tokens = await asyncio.wait_for(model.predict(texts), timeout)
            usage = schema.Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens)
            predictions = schema.Predictions(model=body.model, data=data, usage=usage)
            return Response(predictions.model_dump_json(exclude_none=True), media_type="application/json")

        try:
            return await until_disconnect(http, predict())
        except UserError as error:
            raise ApiError(400, f"{error}.", "input") from None
        except (QueueFull, WorkerClosed) as error:
            raise errors.queue_error(error) from None
        except asyncio.TimeoutError:  # noqa: UP041, another class in Python 3.10
            raise errors.timeout_error(timeout) from None

    return router


def add_pages(app: FastAPI) -> None:
    """The files of the pages, read once: no request names a file of this machine."""
    folders = [resources.files(package) / "page" for package in ("mingpt.serve", "mingpt.explain")]
    for file in [file for folder in folders for file in folder.iterdir()]:
        media_type = CONTENT_TYPES.get(PurePath(file.name).suffix)
        if media_type is None or "standalone" in file.name:
            continue

        async def page(request: Request, content: bytes = file.read_bytes(), kind: str = media_type) -> Response:
            return Response(content, headers=PAGE_HEADERS, media_type=kind)

        app.add_route(PATHS.get(file.name, f"/{file.name}"), page)


async def respond(
    http: Request, body: schema.GenerationRequest, generation: Generation, formatter: Format, timeout: float
) -> Response:
    """All of the text at once, or its events as they happen."""
    if body.stream:
        return EventStream(events(body, generation, formatter, timeout), generation)

    async def collect() -> Response:
        choices: list[list[Any]] = [[] for _ in generation.jobs]
        async for i, step in generation.steps(timeout):
            choices[i].append(formatter.choice(i, step))
        merged = [formatter.merge(parts) for parts in choices]
        response = formatter.response_type(
            model=body.model, choices=merged, usage=generation.usage(), **formatter.extra_fields
        )
        return Response(response.model_dump_json(), media_type="application/json")

    try:
        return await until_disconnect(http, collect())
    finally:
        generation.cancel()


async def events(
    body: schema.GenerationRequest, generation: Generation, formatter: Format, timeout: float
) -> AsyncIterator[str]:
    """Server-sent events: a choice each, the usage where it is asked for, and [DONE]; or an error in their place."""
    chunk = formatter.chunk_type(model=body.model, choices=[], **formatter.extra_fields)

    def event(choices: list[Any], usage: schema.Usage | None = None) -> str:
        return f"data: {chunk.model_copy(update={'choices': choices, 'usage': usage}).model_dump_json()}\n\n"

    try:
        for i in range(len(generation.jobs)):
            for choice in formatter.initial_choices(i):
                yield event([choice])
        async for i, step in generation.steps(timeout):
            if step.text or step.logprobs or step.ended_by:
                yield event([formatter.choice(i, step)])
        if body.includes_usage():
            yield event([], generation.usage())
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield f"data: {error.body()}\n\n"


class EventStream(StreamingResponse):
    """A stream that stops its generation however it ends, also when the client disconnects."""

    def __init__(self, content: AsyncIterator[str], generation: Generation):
        super().__init__(content, headers={"cache-control": "no-cache"}, media_type="text/event-stream")
        self.generation = generation

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.generation.cancel()
