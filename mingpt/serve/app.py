"""The HTTP API: OpenAI's routes for text and chat, /v1/classify for labels and numbers, and the page that uses them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from importlib import resources
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response, StreamingResponse

from mingpt.cli import StopRequest
from mingpt.errors import UserError
from mingpt.generation.batching import Closed, QueueFull, Worker
from mingpt.serve import errors, schema
from mingpt.serve.errors import RESPONSES, ApiError
from mingpt.serve.gate import Gate
from mingpt.serve.jobs import ChatFormat, CompletionFormat, Generation, chat_prompt, completion_prompts
from mingpt.serve.models import LabelModel, LanguageModel, Model

Format = CompletionFormat | ChatFormat

SHUTDOWN_SECONDS = 30  # that running requests have to end
CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; style-src 'self'; frame-ancestors 'none'",
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}


def create_app(
    models: dict[str, Model],
    worker: Worker,
    descriptions: Sequence[dict[str, Any]],
    api_key: str | None = None,
    cors: Sequence[str] = (),
    timeout: float = 300,
) -> FastAPI:
    """The application that serves models by name. `timeout` is the most seconds of a request."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.close)

    app = FastAPI(title="mingpt", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, api_key=api_key)
    if cors:  # outside of Gate: a browser asks for permission without the key
        app.add_middleware(CORSMiddleware, allow_origins=list(cors), allow_methods=["*"], allow_headers=["*"])
    errors.add_handlers(app)
    add_pages(app)

    def find(name: str, kind: type, use: str) -> Any:
        if name not in models:
            known = ", ".join(models)
            raise ApiError(404, f"The model {name!r} does not exist; there are: {known}.", "model", "model_not_found")
        if not isinstance(models[name], kind):
            raise ApiError(400, f"{name} is a model of task {models[name].task}; use {use}.", "model")
        return models[name]

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models", responses=RESPONSES)
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": descriptions}

    @app.get("/v1/models/{name}", responses=RESPONSES)
    async def get_model(name: str) -> dict[str, Any]:
        found = [description for description in descriptions if description["id"] == name]
        if not found:
            raise ApiError(404, f"The model {name!r} does not exist.", "model", "model_not_found")
        return found[0]

    @app.post("/v1/completions", response_model=schema.Completion, responses=RESPONSES)
    async def completions(body: schema.CompletionRequest, http: Request) -> Response:
        served = find(body.model, LanguageModel, "/v1/classify")
        prompts = completion_prompts(served, body)
        generation = Generation(served, body, prompts, body.logprobs, body.echo)
        form = CompletionFormat(served.tokenizer, body.logprobs is not None, len(generation.jobs))
        return await respond(http, body, generation, form, timeout)

    @app.post("/v1/chat/completions", response_model=schema.ChatCompletion, responses=RESPONSES)
    async def chat_completions(body: schema.ChatRequest, http: Request) -> Response:
        served = find(body.model, LanguageModel, "/v1/classify")
        if served.task != "chat":
            raise ApiError(400, f"{body.model} is not a chat model; use /v1/completions.", "model")
        prompt = chat_prompt(served, body)
        generation = Generation(served, body, [prompt], body.top_logprobs if body.logprobs else None)
        form = ChatFormat(served.tokenizer, body.logprobs, len(generation.jobs), prompt.left_out)
        return await respond(http, body, generation, form, timeout)

    @app.post("/v1/classify", response_model=schema.Predictions, responses=RESPONSES)
    async def classify(body: schema.ClassifyRequest) -> Response:
        served: LabelModel = find(body.model, LabelModel, "/v1/completions or /v1/chat/completions")
        texts = [body.input] if isinstance(body.input, str) else body.input
        try:
            data, tokens = await served.predict(texts)
        except UserError as error:
            raise ApiError(400, f"{error}.", "input") from None
        except (QueueFull, Closed) as error:
            raise errors.busy(error) from None
        usage = schema.Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens)
        predictions = schema.Predictions(model=body.model, data=data, usage=usage)
        return JSONResponse(predictions.model_dump(exclude_none=True))

    return app


def add_pages(app: FastAPI) -> None:
    """The files of the page, read once: no request names a file of this machine."""
    for file in (resources.files("mingpt.serve") / "page").iterdir():
        suffix = file.name[file.name.rindex(".") :]
        content, kind = file.read_bytes(), CONTENT_TYPES[suffix]
        path = {"index.html": "/", "docs.html": "/docs"}.get(file.name, f"/{file.name}")

        async def page(request: Request, content: bytes = content, kind: str = kind) -> Response:
            return Response(content, headers=PAGE_HEADERS, media_type=kind)

        app.add_route(path, page)


async def respond(
    http: Request, body: schema.GenerationRequest, generation: Generation, form: Format, timeout: float
) -> Response:
    """All of the text at once, or its events as they happen."""
    if body.stream:
        return EventStream(events(body, generation, form, timeout), generation)

    async def collect() -> Response:
        choices: list[list[Any]] = [[] for _ in generation.jobs]
        async for i, step in generation.steps(timeout):
            choices[i].append(form.choice(i, step))
        merged = [form.merge(parts) for parts in choices]
        whole = form.whole(model=body.model, choices=merged, usage=generation.usage(), **form.extra)
        return Response(whole.model_dump_json(), media_type="application/json")

    collecting, leaving = asyncio.ensure_future(collect()), asyncio.ensure_future(disconnected(http))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return collecting.result() if collecting.done() else Response(status_code=499)  # which nobody reads
    finally:
        collecting.cancel()
        leaving.cancel()
        generation.cancel()


async def disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def events(
    body: schema.GenerationRequest, generation: Generation, form: Format, timeout: float
) -> AsyncIterator[str]:
    """Server-sent events: a choice each, the usage where it is asked for, and [DONE]; or an error in their place."""
    chunk = form.chunk(model=body.model, choices=[], **form.extra)

    def event(choices: list[Any], usage: schema.Usage | None = None) -> str:
        return f"data: {chunk.model_copy(update={'choices': choices, 'usage': usage}).model_dump_json()}\n\n"

    try:
        for i in range(len(generation.jobs)):
            for choice in form.first(i):
                yield event([choice])
        async for i, step in generation.steps(timeout):
            if step.text or step.scored or step.ended_by:
                yield event([form.choice(i, step)])
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


class Server(uvicorn.Server):
    """uvicorn, which ends when `stop` is set: it takes no more connections, and running requests end first."""

    def __init__(self, app: FastAPI, stop: StopRequest):
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_SECONDS))
        self.stop = stop

    def capture_signals(self) -> AbstractContextManager[None]:
        return nullcontext()  # StopRequest handles them

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.stop.is_set
