"""Serve models over HTTP: `python -m mingpt.serve out/`, or with the models' folders, then http://127.0.0.1:8000."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Iterator
from typing import Literal

from mingpt import cli
from mingpt.errors import UserError, problems_of
from mingpt.serve import LOOPBACK
from mingpt.settings import Settings, setting

DESCRIPTION = "Serve models: an OpenAI-compatible HTTP API, a page to write, chat and classify, and one to look inside."


class ServeSettings(Settings):
    """Which models are served, where, and to whom."""

    folders: tuple[str, ...] = setting(
        metavar="FOLDER",
        help="models' folders, such as out/pydoc, or names on the hub; for out/, all models, runs and studies in it",
        min_length=1,
    )
    host: str = setting("127.0.0.1", group="network", help="address to listen on; others than loopback need an API key")
    port: int = setting(8000, group="network", ge=0, lt=2**16, help="port to listen on; 0: any that is free")
    api_key: str | None = setting(
        None, group="network", min_length=1, follows="MINGPT_API_KEY", help="key that every request must have"
    )
    cors: tuple[str, ...] = setting(
        (), group="network", metavar="ORIGIN", help="origin of other pages; may be repeated"
    )
    max_batch: int = setting(32, group="limits", ge=1, le=256, help="maximum batch size of generation, per model")
    max_queue: int = setting(64, group="limits", ge=0, help="requests that may wait, per model; more get status 429")
    timeout: float = setting(300.0, group="limits", gt=0, help="seconds after which a request is ended")
    device: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "auto", group="machine", help="auto: a GPU if available, else the CPU"
    )
    dtype: Literal["float32", "bfloat16", "int8"] = setting(
        "float32", group="machine", help="dtype of language models, as for mingpt.generate"
    )

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.host not in LOOPBACK and self.key is None:
            yield ("host",), f"--host {self.host}: is not loopback and needs --api_key, or MINGPT_API_KEY"

    @property
    def key(self) -> str | None:
        return self.api_key or os.environ.get("MINGPT_API_KEY") or None


def main(argv: list[str]) -> int:
    settings = cli.parse(ServeSettings, argv, "python -m mingpt.serve", DESCRIPTION)
    try:
        from mingpt.serve.app import create_app
        from mingpt.serve.explain import find_folders, has_model, name_of
        from mingpt.serve.server import Server
    except ModuleNotFoundError as error:
        raise UserError(f'{error.name}: is not installed; install it with pip install -e ".[serve]"') from None
    from mingpt.generation.worker import Worker
    from mingpt.serve import models

    listener = listen(settings.host, settings.port)  # before the models are loaded: it may be in use
    folders = find_folders(settings.folders)
    names = [name_of(folder) for folder in folders]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{repeated[0]}: two folders have this name; rename one")
    worker, served, descriptions = Worker(), {}, []
    for name, folder in zip(names, folders, strict=True):
        if not has_model(folder):
            continue
        load = functools.partial(models.load, folder, settings, worker)
        try:
            served[name] = worker.call(load).result()
        except (UserError, OSError) as error:
            if folder in settings.folders:
                raise
            cli.print_error(f"note: {folder} is not served: {' '.join(problems_of(error))}")
            continue
        descriptions.append(models.describe(name, folder, served[name]))
    app = create_app(served, worker, descriptions, settings.folders, settings.key, settings.cors, settings.timeout)
    with cli.StopRequest("stopping as soon as running requests have ended") as stop:
        print(f"{', '.join(names)}: http://{format_address(listener)}", flush=True)
        Server(app, worker, stop).run([listener])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """The socket to listen on. Raises UserError where the address is not free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small pieces at once, as a stream of tokens needs it, only where the protocol is named
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()  # whoever connects before the server is ready waits
    except OSError as error:
        listener.close()
        raise UserError(f"--host {host} --port {port}: {error.strerror}") from None
    return listener


def format_address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    cli.run_command(main)
