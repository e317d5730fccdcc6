"""uvicorn, which ends as a command of this project does: at the first Ctrl-C or SIGTERM, after what is running."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractContextManager, nullcontext

import uvicorn
from fastapi import FastAPI

from mingpt.cli import StopRequest
from mingpt.generation.worker import Worker

SHUTDOWN_SECONDS = 30  # that running requests have to end; then they end with an error
CLOSE_SECONDS = 5  # and to report it


class Server(uvicorn.Server):
    def __init__(self, app: FastAPI, worker: Worker, stop: StopRequest):
        seconds = SHUTDOWN_SECONDS + CLOSE_SECONDS
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=seconds))
        self.worker, self.stop = worker, stop

    def capture_signals(self) -> AbstractContextManager[None]:
        return nullcontext()  # StopRequest handles them

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.stop.is_set

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(SHUTDOWN_SECONDS, lambda: loop.run_in_executor(None, self.worker.close))
        await super().shutdown(sockets)
        timer.cancel()
