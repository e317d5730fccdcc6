"""A corpus becomes a file of token ids, and that file becomes batches.

    documents -> UTF-8 text, in chunks -> tokenizer -> token file (memory-mapped) -> batch(seed, step)

Notation: T tokens in a window (block_size); N tokens in the training part, the first nine tenths.
No step ever holds the whole text in memory, so a corpus may be larger than that.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import itertools
import os
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mingpt import files
from mingpt.data.tokenizer import BPETokenizer, Tokenizer, new_tokenizer
from mingpt.errors import UserError

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
CHUNK_BYTES = 1 << 22
EVALUATION_TOKENS = 1 << 18  # of a validation part larger than this, only a sample is evaluated


# ---- Where the text comes from ----


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
    if data == "pydoc":
        return data, [Document("--data pydoc", content=python_manual())]
    if data == "shakespeare":
        return data, [Document("--data shakespeare", path=download_shakespeare())]
    path = Path(data)
    name = path.resolve().stem or "text"
    if path.is_dir():
        paths = sorted(p for p in path.rglob("*") if p.is_file() and not is_hidden(p.relative_to(path)))
        if not paths:
            raise UserError(f"--data {data}: the folder holds no file")
        return name, [Document(f"--data {p}", path=p) for p in paths]
    if not path.exists():
        raise UserError(f"--data {data}: no such file or folder; pydoc and shakespeare need none")
    return name, [Document(f"--data {data}", path=path)]


def is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


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
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("MINGPT_CACHE") or Path(home) / "mingpt")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: the cache cannot be written ({error.strerror}); MINGPT_CACHE names another"
        ) from None
    return folder


def download_shakespeare() -> Path:
    """Tiny Shakespeare, 1.1 MB, fetched once and checked."""
    path = cache_folder() / "shakespeare.txt"
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == SHAKESPEARE_SHA256:
        return path
    try:
        with urllib.request.urlopen(SHAKESPEARE_URL, timeout=30) as response:
            content = response.read()
    except OSError as error:
        raise UserError(
            f"--data shakespeare: could not be downloaded ({error}); it needs the network once, --data pydoc never does"
        ) from None
    if hashlib.sha256(content).hexdigest() != SHAKESPEARE_SHA256:
        raise UserError(f"--data shakespeare: what {SHAKESPEARE_URL} sent is not the text that was expected")
    with files.written_whole(path) as beside:
        beside.write_bytes(content)
    return path


# ---- From text to token ids ----


def tokenize(documents: list[Document], tokenizer_name: str) -> tuple[Tokenizer, np.ndarray, str]:
    """The tokenizer, all token ids as a memory-mapped array, and the sha256 of the text's bytes.

    The ids are kept in the cache under a key made of the content and the tokenizer.
    """
    sha256, alphabet = survey(documents)
    tokenizer = new_tokenizer(tokenizer_name, alphabet)
    kind = np.uint16 if len(tokenizer.pieces) <= 1 << 16 else np.uint32
    path = cache_folder() / f"{sha256}-{tokenizer_name}.tokens"
    if not path.exists():
        try:
            with files.written_whole(path) as beside, open(beside, "wb") as file:
                for ids in encoded(documents, tokenizer):
                    file.write(ids.astype(kind).tobytes())
        except OSError as error:
            raise UserError(f"{path.parent}: the cache cannot be written ({error.strerror})") from None
    return tokenizer, np.memmap(path, dtype=kind, mode="r"), sha256


def survey(documents: list[Document]) -> tuple[str, list[str]]:
    """The sha256 of the documents' bytes and the characters that occur; raises UserError where there is no text.

    For one file it is the sum that `sha256sum` prints; for several, that of their sums in order.
    """
    seen = np.zeros(0x110000, dtype=bool)
    digests = []
    for document in documents:
        digest = hashlib.sha256()
        for text in document.chunks(digest):
            seen[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)] = True
        digests.append(digest)
    if not seen.any():
        raise UserError(f"{documents[0].label}: is empty")
    alphabet = [chr(point) for point in np.flatnonzero(seen)]
    if len(digests) == 1:
        return digests[0].hexdigest(), alphabet
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest(), alphabet


def encoded(documents: list[Document], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Token ids chunk by chunk, an end-of-text token between documents where the tokenizer has one."""
    for i, document in enumerate(documents):
        if i > 0 and tokenizer.end_of_text is not None:
            yield np.array([tokenizer.end_of_text])
        chunks = document.chunks()
        for text in whole_words(chunks) if isinstance(tokenizer, BPETokenizer) else chunks:
            yield tokenizer.encode_array(text)


def whole_words(chunks: Iterator[str]) -> Iterator[str]:
    """The same text cut only where GPT-2's split of words cuts too, so that chunks do not change the ids.

    No word of that split has a space or line end after another character, so each such place is a cut.
    """
    rest = ""
    for chunk in chunks:
        rest += chunk
        ready = re.match(r".*\S(?=[ \n])", rest, re.DOTALL)
        if ready:
            yield ready.group()
            rest = rest[ready.end() :]
    if rest:
        yield rest


# ---- From token ids to batches ----


class TextData:
    """Windows of T + 1 tokens of a text: the first T are a model's input, the last T its targets.

    The last tenth of the text is kept for validation. Raises UserError where the text is too short
    for one window in each part.
    """

    def __init__(self, data: str, tokenizer_name: str, block_size: int, batch_size: int):
        self.name, documents = find_documents(data)
        self.tokenizer, ids, self.sha256 = tokenize(documents, tokenizer_name)
        self.block_size = block_size
        self.batch_size = batch_size
        cut = len(ids) * 9 // 10
        self.train, self.validation = ids[:cut], ids[cut:]
        # Every epoch starts at another offset below T and still has the same number of windows.
        self.windows = (len(self.train) - block_size) // block_size
        if len(self.validation) < 2:
            raise UserError(f"--data {data}: is too short ({len(ids)} tokens); at least 20 are needed")
        if self.windows < 1:
            raise UserError(
                f"--block_size {block_size}: is too long for {data}, whose training part has {len(self.train):,} "
                f"tokens; at most {len(self.train) // 2:,} is accepted"
            )

    def batch(self, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The inputs and targets of update `step`, counted from 0: (batch_size, T) int64 each.

        A pure function of (seed, step). Each epoch has a new random offset and a new order of
        windows, each of which comes once; a batch may span two epochs.
        """
        T = self.block_size
        rows = []
        for i in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, place = divmod(i, self.windows)
            offset, order = epoch_order(seed, epoch, self.windows, T)
            start = offset + int(order[place]) * T
            rows.append(self.train[start : start + T + 1])
        both = np.stack(rows).astype(np.int64)  # (batch_size, T + 1)
        return both[:, :-1], both[:, 1:]

    def validation_windows(self) -> list[np.ndarray]:
        """What evaluation covers: all of the validation part in windows without overlap, the last one shorter.

        Of a large part, every k-th window; `validation_note` says so.
        """
        starts = range(0, len(self.validation) - 1, self.block_size)
        return [self.validation[s : s + self.block_size + 1].astype(np.int64) for s in starts[:: self.stride]]

    @property
    def stride(self) -> int:
        return -(-len(self.validation) // EVALUATION_TOKENS)

    @property
    def validation_note(self) -> str:
        """What an evaluation covers, in words."""
        if self.stride == 1:
            return "all of it"
        return f"every {self.stride}th window of {self.block_size}"


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, windows: int, T: int) -> tuple[int, np.ndarray]:
    """The offset below T of an epoch's first window, and the order of its windows."""
    generator = np.random.default_rng([seed, epoch])
    return int(generator.integers(T)), generator.permutation(windows)
