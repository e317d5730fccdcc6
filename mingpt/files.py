"""Files that are whole or not there: written beside and renamed; and a lock that dies with its process."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on leaving, it takes the place of `path` in one step.

    Killed at any moment, or on a full disk, `path` is what it was before, or the whole new file.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before the name points to it
        beside.chmod(0o666 & ~current_umask())  # some writers make files that only their owner can read
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    with written_whole(path) as beside:
        beside.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


class Locked(Exception):
    """Another process holds the lock."""


def lock(path: Path) -> BinaryIO:
    """Hold `path` until the file returned is closed; the system does that when the process dies.

    Raises Locked where another process holds it.
    """
    file = open(path, "ab")  # noqa: SIM115, the caller holds it
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise Locked(str(path)) from None
    return file
