"""Errors in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mingpt.generation.worker import QueueFull, WorkerClosed
from mingpt.serve import schema
from mingpt.serve.schema import ErrorDetail

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
# the documentation of every route
RESPONSES: dict[int | str, dict[str, Any]] = {"4XX": {"model": schema.Error, "description": "Error"}}
RESPONSES["5XX"] = RESPONSES["4XX"]
EXPECTED = "Input should be "  # pydantic's beginning of a problem
RETRY_AFTER = "1"  # seconds; a row of the batch is free again after some hundred tokens


class ApiError(Exception):
    """A request that is refused, or a generation that fails."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.status, self.detail = status, ErrorDetail(message=message, type=kind, param=param, code=code)

    def body(self) -> str:
        # ASCII, since a message may quote half a character
        return json.dumps({"error": self.detail.model_dump()})

    def response(self) -> Response:
        headers = {"retry-after": RETRY_AFTER} if self.status in (429, 503) else {}
        if self.status == 504:  # which OpenAI's client would send again, for as long
            headers["x-should-retry"] = "false"
        if self.status == 401:
            headers["www-authenticate"] = 'Basic realm="mingpt: any user name, and the API key"'
        return Response(self.body(), self.status, headers, "application/json")


def queue_error(error: QueueFull | WorkerClosed) -> ApiError:
    """The answer to a request for which there is no room, or no time."""
    if isinstance(error, QueueFull):
        return ApiError(429, "Too many requests are waiting.", code="queue_full")
    return ApiError(503, "The server is shutting down.", code="shutting_down")


def timeout_error(seconds: float) -> ApiError:
    return ApiError(504, f"The request took more than {seconds:g} seconds.", code="timeout")


def describe_validation(error: RequestValidationError) -> ApiError:
    """The first problem of a request's body. Where a field may have several types, each has a problem of its own; that
    of the right type is the one that is found deepest.
    """
    problems = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON: {first['ctx']['error']}.", code="invalid_json")
    place = max((field_path(p) for p in problems if field_path(p)[:1] == field_path(first)[:1]), key=len)
    messages = dict.fromkeys(problem["msg"] for problem in problems if field_path(problem) == place)
    text = " or ".join(messages).replace(f" or {EXPECTED}", " or ")
    return ApiError(400, f"{'.'.join(place) or 'The body'}: {text}.", place[0] if place else None, first["type"])


def field_path(problem: dict[str, Any]) -> list[str]:
    """The field of a problem, without the names of the types that were tried."""
    return [str(part) for part in problem["loc"][1:] if isinstance(part, int) or part in schema.FIELDS]


def add_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return describe_validation(error).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        response = ApiError(error.status_code, f"{error.detail}: {request.method} {request.url.path}").response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def failure(request: Request, error: Exception) -> Response:
        return ApiError(500, f"{type(error).__name__}; the server's log says where").response()
