"""Files that are complete or absent: written beside and renamed; and a lock that is released when its process dies."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mingpt.errors import UserError

CHUNK_BYTES = 1 << 22


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on success it replaces `path` in one step.

    After a kill at any moment, or on a full disk, `path` is the old file or the new one, never a part.
    A temporary file that a killed process left behind is removed by `remove_temporary_files`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # the content reaches the disk before the name points to it
        os.umask(mask := os.umask(0))
        temporary.chmod(0o666 & ~mask)  # some writers create files that only their owner can read
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path) if error.filename == str(temporary) else error.filename
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed writers left in a folder. Only for the process that holds the folder's lock."""
    for path in filter(is_temporary, list(folder.iterdir())):
        path.unlink()


def write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError where it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is corrupt or not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a JSON object")
    return content


def sha256(*paths: Path) -> str:
    """The hash of a file's content, as `sha256sum` prints it; of several files, the hash of their hashes."""
    hashes = []
    for path in paths:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        hashes.append(digest.hexdigest())
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def lock(path: Path) -> BinaryIO:
    """Hold `path` until the returned file is closed, which the system does when the process dies.

    Raises BlockingIOError where another process holds it.
    """
    file = open(path, "ab")  # noqa: SIM115, the caller closes it
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter on Windows
        file.close()
        raise BlockingIOError(f"{path} is locked by another process") from None
    return file
