"""Where a text comes from: the manual inside Python, a download, a file, or a folder of files; and the cache.

--data NAME or PATH -> documents -> UTF-8 text, in chunks
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import http.client
import itertools
import os
import stat
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mingpt import files
from mingpt.errors import UserError

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Document:
    """One UTF-8 file, or text that is already here."""

    label: str  # what an error calls it
    path: Path | None = None
    content: str = ""

    def chunks(self, digest: hashlib._Hash | None = None) -> Iterator[str]:
        """The text piece by piece, line ends as they are, a leading byte order mark left out.

        Each byte read also goes to `digest`. Raises UserError where a byte is not UTF-8.
        """
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        position = 0
        for raw in itertools.chain(self.read(), [b""]):
            if digest:
                digest.update(raw)
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                at = position - (len(error.object) - len(raw)) + error.start
                byte = error.object[error.start]
                raise UserError(f"{self.label}: is not UTF-8 text (byte 0x{byte:02X} at position {at})") from None
            if "\0" in text:
                raise UserError(f"{self.label}: is a binary file (it holds zero bytes); UTF-8 text is accepted")
            position += len(raw)
            if text:
                yield text

    def read(self) -> Iterator[bytes]:
        if self.path is None:
            yield self.content.encode("utf-8")
            return
        try:
            with open(self.path, "rb") as file:
                while raw := file.read(CHUNK_BYTES):
                    yield raw
        except OSError as error:
            raise UserError(f"{self.label}: cannot be read ({error.strerror})") from None


def find_documents(data: str) -> tuple[str, list[Document]]:
    """A short name for `--data DATA`, and its documents in order."""
    if data in BUILT_IN:
        return data, [BUILT_IN[data]()]
    path = Path(data)
    try:
        mode = path.stat().st_mode
        paths = sorted(visible_files(path)) if stat.S_ISDIR(mode) else [path]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"--data {data}: no such file or folder; {' and '.join(BUILT_IN)} need none") from None
    except OSError as error:
        raise UserError(f"--data {error.filename or data}: cannot be read ({error.strerror})") from None
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):  # a pipe, say; a text is read twice
        raise UserError(f"--data {data}: is neither a file nor a folder")
    if not paths:
        raise UserError(f"--data {data}: the folder holds no file")
    return path.resolve().stem or "text", [Document(f"--data {p}", path=p) for p in paths]


def located(data: str) -> str:
    """`--data DATA` as it is found from any folder: a path in full, the name of a built-in text as it is."""
    return data if data in BUILT_IN else str(Path(data).resolve())


def visible_files(folder: Path) -> Iterator[Path]:
    """The files below a folder, apart from hidden ones. Raises OSError where a folder cannot be read."""
    for place, folders, names in os.walk(folder, onerror=raise_it):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(place) / name for name in names if not name.startswith(".")]
        yield from (path for path in paths if path.is_file())


def raise_it(error: OSError) -> None:
    raise error


def python_manual() -> str:
    """The manual that every CPython carries for help(), without the paragraphs that it repeats.

    A fifth of them stand there twice or more; left in, some of the validation part would be text
    that the training part already holds.
    """
    from pydoc_data.topics import topics

    paragraphs = itertools.chain.from_iterable(topics[name].strip().split("\n\n") for name in sorted(topics))
    return "\n\n".join(dict.fromkeys(paragraphs)) + "\n"


def cache_folder() -> Path:
    """Where token files and downloads are kept: $MINGPT_CACHE, or mingpt in the user's cache folder."""
    if named := os.environ.get("MINGPT_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mingpt"
    except RuntimeError:
        raise UserError("the cache: this user has no home folder to keep it in; MINGPT_CACHE names one") from None


@contextlib.contextmanager
def cache() -> Iterator[Path]:
    """The cache folder, made if need be. What goes wrong with its files, a full disk say, becomes a UserError."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}: the cache cannot be used ({reason}); MINGPT_CACHE names another") from None


def shakespeare() -> Path:
    """Tiny Shakespeare, 1.1 MB, fetched once and checked."""
    with cache() as folder:
        path = folder / "shakespeare.txt"
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == SHAKESPEARE_SHA256:
            return path
        content = downloaded(SHAKESPEARE_URL)
        if hashlib.sha256(content).hexdigest() != SHAKESPEARE_SHA256:
            raise UserError(f"--data shakespeare: what {SHAKESPEARE_URL} sent is not the text that was expected")
        with files.written_whole(path) as beside:
            beside.write_bytes(content)
        return path


def downloaded(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=30) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"--data shakespeare: could not be downloaded ({error}); it needs the network once, --data pydoc never does"
        ) from None


BUILT_IN: dict[str, Callable[[], Document]] = {
    "pydoc": lambda: Document("--data pydoc", content=python_manual()),
    "shakespeare": lambda: Document("--data shakespeare", path=shakespeare()),
}
