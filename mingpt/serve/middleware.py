"""Access control and limits, before a request is read: Host and Origin headers, API key, size and time of the body."""

from __future__ import annotations

import base64
import hmac
import re
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from mingpt.serve import LOOPBACK
from mingpt.serve.errors import ApiError

MAX_BODY = 4 << 20  # bytes
BODY_SECONDS = 30  # in which the whole body must arrive
OPEN_PATH = "/health"

Receive = Callable[[], Awaitable[dict[str, Any]]]


class RequestGuard:
    """ASGI middleware. Pages of other sites are refused: by their Origin, unless it is one of `origins`, and without a
    key also by the Host header, since their name may be pointed at this machine (DNS rebinding).
    """

    def __init__(self, app: Any, api_key: str | None, origins: Collection[str] = ()):
        self.app, self.api_key, self.origins = app, api_key, origins

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Any) -> None:
        if scope["type"] == "http":
            problem = self.problem(scope["path"], Headers(scope=scope))
            if problem is not None:
                await problem.response()(scope, receive, send)
                return
            receive = limit_body(receive)
        await self.app(scope, receive, send)

    def problem(self, path: str, headers: Headers) -> ApiError | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.api_key is None and host_name(host) not in LOOPBACK:
            return ApiError(400, f"Host {host}: must be one of {', '.join(LOOPBACK)}.")
        if origin is not None and origin not in self.origins and urlsplit(origin).netloc != host:
            return ApiError(403, f"Origin {origin}: is not allowed; --cors allows it.")
        if self.api_key is not None and path != OPEN_PATH and not self.has_key(headers.get("authorization", "")):
            problem = "The API key is missing or wrong; send Authorization: Bearer KEY."
            return ApiError(401, problem, code="invalid_api_key")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY:
            return too_large()
        return None

    def has_key(self, authorization: str) -> bool:
        """Whether the header has the key: as a bearer token, or as the password that a browser asks for."""
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                password = base64.b64decode(credentials, validate=True).partition(b":")[2]
            except ValueError:
                return False
        elif scheme.lower() == "bearer":
            password = credentials.encode("latin-1")  # as headers are decoded
        else:
            return False
        return hmac.compare_digest(password, self.api_key.encode())  # in constant time


def host_name(host: str) -> str:
    """The name in a Host header, without the port and the brackets of IPv6.

    >>> host_name("[::1]:8000"), host_name("localhost")
    ('::1', 'localhost')
    """
    return re.sub(r":\d+$", "", host).strip("[]").lower()


def too_large() -> ApiError:
    return ApiError(413, f"The body exceeds {MAX_BODY:,} bytes.", code="request_too_large")


def limit_body(receive: Receive) -> Receive:
    """Wrap `receive`: HTTPException 413 where the body is too large, 408 where it takes too long."""
    size, is_complete, deadline = 0, False, time.monotonic() + BODY_SECONDS

    async def limited() -> dict[str, Any]:
        nonlocal size, is_complete
        if is_complete:
            return await receive()  # which waits until the client disconnects
        try:
            with anyio.fail_after(deadline - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"The body has not arrived within {BODY_SECONDS} seconds") from None
        size += len(message.get("body", b""))
        is_complete = not message.get("more_body", False)
        if size > MAX_BODY:
            raise HTTPException(413, too_large().detail.message)
        return message

    return limited
