"""Where data comes from: built-in data sets, files, or folders of files; and the cache."""

from __future__ import annotations

import hashlib
import itertools
import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from mingpt import files
from mingpt.data import phrases, shop, wording
from mingpt.errors import UserError

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
CHUNK = 1 << 20  # characters


def find_documents(data: str) -> tuple[str, list[Path]]:
    """A short name for `--data DATA`, and its files in order. Raises UserError where there are none."""
    if data in TEXTS:
        return data, [TEXTS[data]()]
    path = Path(data)
    if path.is_dir():
        visible = (p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts))
        documents = sorted(p for p in visible if p.is_file())
        if not documents:
            raise UserError(f"--data {data}: the folder has no files")
    elif path.is_file():
        documents = [path]
    else:
        problem = "is neither a file nor a folder" if path.exists() else "no such file or folder"
        raise UserError(f"--data {data}: {problem}; built-in texts: {', '.join(TEXTS)}")
    return path.resolve().stem or "text", documents


def find_dialogues(data: str) -> tuple[str, Path]:
    """A short name for `--data DATA` of dialogues, and its file. Raises UserError where there is none."""
    if data in DIALOGUES:
        return data, DIALOGUES[data]()
    path = Path(data)
    if not path.is_file():
        raise UserError(f"--data {data}: no such file; built-in dialogues: {', '.join(DIALOGUES)}")
    return path.resolve().stem, path


def read_chunks(path: Path) -> Iterator[str]:
    """The text of a UTF-8 file in chunks, line ends as they are. UserError where it is not UTF-8 text."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            while chunk := file.read(CHUNK):
                if "\0" in chunk:
                    raise UserError(f"--data {path}: is a binary file (it contains NUL bytes)")
                yield chunk
        except UnicodeDecodeError as error:
            raise UserError(f"--data {path}: is not UTF-8 text (byte 0x{error.object[error.start]:02X})") from None


def absolute(data: str) -> str:
    """`--data DATA` as it works from any folder: an absolute path, or the name of a built-in data set."""
    return data if data in (*TEXTS, *DIALOGUES) else str(Path(data).resolve())


def python_manual() -> Path:
    """The manual that every CPython carries for help(), without repeats of paragraphs, which would be in both parts."""
    from pydoc_data.topics import topics

    paragraphs = itertools.chain.from_iterable(topics[name].strip().split("\n\n") for name in sorted(topics))
    content = ("\n\n".join(dict.fromkeys(paragraphs)) + "\n").encode()
    return write_cached(f"pydoc-{hashlib.sha256(content).hexdigest()[:16]}.txt", content)  # versions of Python differ


def shakespeare() -> Path:
    """Tiny Shakespeare, 1.1 MB, downloaded once and verified."""
    path = cache_folder() / "shakespeare.txt"
    if path.exists():
        return path
    try:
        with urllib.request.urlopen(SHAKESPEARE_URL, timeout=30) as response:
            content = response.read()
    except OSError as error:
        raise UserError(f"--data shakespeare: the download failed ({error}); --data pydoc needs no network") from None
    if hashlib.sha256(content).hexdigest() != SHAKESPEARE_SHA256:
        raise UserError(f"--data shakespeare: {SHAKESPEARE_URL} has another content than expected")
    return write_cached(path.name, content)


def shop_dialogues() -> Path:
    """Dialogues with a shop's customer service, as many as a GPT learns in minutes; see data/shop.py."""
    code = (Path(module.__file__).read_bytes() for module in (phrases, shop, wording))
    version = hashlib.sha256(b"".join([*code, shop.PHRASES.read_bytes()])).hexdigest()[:16]
    path = cache_folder() / f"shop-{version}.jsonl"
    if not path.exists():
        with files.atomic_write(path) as temporary:
            shop.write_file(temporary, shop.ShopSettings())
    return path


TEXTS: dict[str, Callable[[], Path]] = {"pydoc": python_manual, "shakespeare": shakespeare}
DIALOGUES: dict[str, Callable[[], Path]] = {"shop": shop_dialogues}


def cache_folder() -> Path:
    """The folder of token files and downloads: $MINGPT_CACHE, or mingpt in the user's cache folder."""
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.environ.get("MINGPT_CACHE") or Path(user_cache, "mingpt")).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_cached(name: str, content: bytes) -> Path:
    path = cache_folder() / name
    if not path.exists():
        with files.atomic_write(path) as temporary:
            temporary.write_bytes(content)
    return path
