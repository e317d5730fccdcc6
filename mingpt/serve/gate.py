"""What every request passes before it is read: the Host header, the API key, and limits on the body."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from mingpt.serve.errors import ApiError

MAX_BODY = 4 << 20  # bytes
BODY_SECONDS = 30  # in which a body must arrive
LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN_PATH = "/health"

Receive = Callable[[], Awaitable[dict[str, Any]]]


class Gate:
    """ASGI middleware. Without a key, only requests that name this machine are answered: those of another site's page,
    whose name may be pointed at this machine, are not.
    """

    def __init__(self, app: Any, api_key: str | None):
        self.app, self.api_key = app, api_key

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Any) -> None:
        if scope["type"] == "http":
            connection = HTTPConnection(scope)
            problem = self.problem(connection)
            if problem is not None:
                await problem.response()(scope, receive, send)
                return
            receive = limit_body(receive)
        await self.app(scope, receive, send)

    def problem(self, connection: HTTPConnection) -> ApiError | None:
        if self.api_key is None:
            host = connection.headers.get("host", "")
            if host.rpartition(":")[0].strip("[]") not in LOOPBACK and host.strip("[]") not in LOOPBACK:
                return ApiError(400, f"Host {host}: must be one of {', '.join(LOOPBACK)}.")
        elif connection.url.path != OPEN_PATH and not self.has_key(connection.headers.get("authorization", "")):
            return ApiError(
                401, "The API key is missing or wrong; send Authorization: Bearer KEY.", code="invalid_api_key"
            )
        length = connection.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY:
            return too_large()
        return None

    def has_key(self, authorization: str) -> bool:
        """Whether the header has the key: as a bearer token, or as the password that a browser asks for."""
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except ValueError:
                return False
        return hmac.compare_digest(given.encode(), self.api_key.encode())  # in constant time


def too_large() -> ApiError:
    return ApiError(413, f"The body exceeds {MAX_BODY:,} bytes.", code="request_too_large")


def limit_body(receive: Receive) -> Receive:
    """The same, with an HTTPException where the body is too large or takes too long."""
    size, is_complete = 0, False

    async def limited() -> dict[str, Any]:
        nonlocal size, is_complete
        if is_complete:
            return await receive()  # which waits until the client disconnects
        try:
            with anyio.fail_after(BODY_SECONDS):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"The body has not arrived within {BODY_SECONDS} seconds") from None
        size += len(message.get("body", b""))
        is_complete = not message.get("more_body", False)
        if size > MAX_BODY:
            raise HTTPException(413, too_large().detail.message)
        return message

    return limited
