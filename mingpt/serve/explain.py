"""What the page /explain shows: models, runs and studies in folders, followed while they change.

GET  /v1/explain                     their names, and when each has changed
GET  /v1/explain/{name}              a run or a study, as its files are now
GET  /v1/explain/{name}/{number}     why a trial of a study was suggested
POST /v1/explain                     what a model computes for a text
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from mingpt.errors import UserError, problems_of
from mingpt.explain.activations import explain_model
from mingpt.explain.runs import explain_suggestions, read_run, read_study
from mingpt.generation.worker import Worker, WorkerClosed
from mingpt.pretrained import locate
from mingpt.serve import errors, schema
from mingpt.serve.disconnect import until_disconnect
from mingpt.serve.errors import RESPONSES, ApiError

MODEL, RUN, STUDY = "model.safetensors", "train.json", "journal.jsonl"
CHANGING = (MODEL, RUN, STUDY, "metrics.jsonl")


def find_folders(paths: Sequence[str]) -> list[str]:
    """The given folders and names on the hub; in place of a folder of models, runs or studies, such as out/, these."""
    folders: list[str] = []
    for given in paths:
        path = Path(given)
        inner = sorted(filter(is_model_run_or_study, path.iterdir())) if path.is_dir() else []
        folders += map(str, inner) if inner and not is_model_run_or_study(path) else [given]
    return folders


def name_of(folder: str) -> str:
    return Path(folder).absolute().name


def is_model_run_or_study(path: Path) -> bool:
    """Whether a folder is a model, a run or a study."""
    with contextlib.suppress(PermissionError):
        return any((path / name).exists() for name in ("config.json", RUN, STUDY))
    return False


def has_model(folder: str) -> bool:
    """Whether there is a model to serve; a run before its first evaluation, and a study, have none."""
    path = Path(folder)
    return (path / MODEL).exists() or not any((path / name).exists() for name in (RUN, STUDY))


def describe(folder: str) -> dict[str, Any]:
    """An entry of GET /v1/explain."""
    path, times = Path(folder), []
    for file in CHANGING:
        with contextlib.suppress(FileNotFoundError):
            times.append((path / file).stat().st_mtime_ns)
    return {
        "id": name_of(folder),
        "model": has_model(folder),
        "run": (path / RUN).exists(),
        "study": (path / STUDY).exists(),
        "changed": str(max(times, default=0)),  # more digits than a number has in JavaScript
    }


def explain_routes(paths: Sequence[str], worker: Worker, timeout: float) -> APIRouter:
    router = APIRouter()
    # one model, and one study, is explained at a time
    model_lock, study_lock = asyncio.Lock(), threading.Lock()

    def find(name: str) -> Path:
        for folder in find_folders(paths):
            if name_of(folder) == name:
                return read(locate, folder)
        raise ApiError(404, f"{name!r} does not exist.", "model", "model_not_found")

    @router.get("/v1/explain", responses=RESPONSES)
    def list_folders() -> dict[str, Any]:
        return {"object": "list", "data": [describe(folder) for folder in find_folders(paths)]}

    @router.get("/v1/explain/{name}", responses=RESPONSES)
    def read_folder(name: str) -> dict[str, Any]:
        path = find(name)
        run = read(read_run, path) if (path / RUN).exists() else None
        with study_lock:
            return {"run": run, "study": read(read_study, path) if (path / STUDY).exists() else None}

    @router.get("/v1/explain/{name}/{number}", responses=RESPONSES)
    def explain_trial(name: str, number: int) -> dict[str, Any]:
        with study_lock:
            reasons = read(explain_suggestions, find(name), [number])
        if number not in reasons:
            raise ApiError(404, f"Trial {number} does not exist.")
        return reasons[number]

    @router.post("/v1/explain", responses=RESPONSES)
    async def explain(body: schema.ExplainRequest, http: Request) -> Any:
        async def compute() -> dict[str, Any]:
            folder = await asyncio.to_thread(find, body.model)
            call = functools.partial(read, explain_model, str(folder), body.text, body.layer, body.head)
            async with model_lock:
                return await asyncio.wrap_future(worker.call(call))

        try:
            return await until_disconnect(http, asyncio.wait_for(compute(), timeout))
        except WorkerClosed as error:
            raise errors.queue_error(error) from None
        except asyncio.TimeoutError:  # noqa: UP041, another class in Python 3.10
            raise errors.timeout_error(timeout) from None

    return router


def read(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function makes of files. Raises ApiError where they are missing, or not what it reads."""
    try:
        return function(*arguments)
    except (UserError, OSError) as error:
        raise ApiError(400, f"{' '.join(problems_of(error)).removeprefix('--')}.") from None
