"""What happens where a client disconnects before it has its response."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response

T = TypeVar("T")


async def until_disconnect(http: Request, response: Coroutine[Any, Any, T]) -> T | Response:
    """The response, given up where the client disconnects first."""

    async def disconnect() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(response), asyncio.ensure_future(disconnect())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else Response(status_code=499)  # which nobody reads
    finally:
        for task in tasks:
            task.cancel()
