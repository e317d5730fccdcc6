"""Files that are whole or not there: written beside and renamed; and a lock that dies with its process."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on leaving, it takes the place of `path` in one step.

    Killed at any moment, or on a full disk, `path` is what it was before, or the whole new file. What
    a process killed while writing left beside is removed the next time that the same file is written.
    """
    prefix = f".{path.name}.{platform.node()}."  # another machine may be writing to the same disk
    beside = path.with_name(f"{prefix}{os.getpid()}.tmp")
    remove_leftovers(path.parent, prefix)
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before the name points to it
        beside.chmod(0o666 & ~current_umask())  # some writers make files that only their owner can read
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether `path` is such a file beside another; who alone writes to its folder may remove it."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove the files named `prefix` PROCESS .tmp whose process is no more."""
    for path in folder.glob(".*.tmp"):
        process = path.name.removeprefix(prefix).removesuffix(".tmp")
        if process.isdecimal() and not is_running(int(process)):
            with contextlib.suppress(OSError):  # another was faster, or it is another user's
                path.unlink()


def is_running(process: int) -> bool:
    if os.name == "nt":
        return True  # where signal 0 is Ctrl-C, and so cannot ask
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    with written_whole(path) as beside:
        beside.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises OSError where it cannot be read, ValueError where it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    return content


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
