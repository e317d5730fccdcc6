"""A corpus becomes files of token ids, and those become batches.

    documents -> tokenizer -> token files (memory-mapped) -> batch(seed, step)

Notation: T tokens in a window (block_size). The training part is the first nine tenths of the characters, the
validation part the rest. No step holds the whole text in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mingpt import files
from mingpt.data.examples import Data, EpochSampler
from mingpt.data.sources import cache_folder, find_documents, read_chunks
from mingpt.data.tokenizer import TOKENIZERS, Tokenizer, load_tokenizer, split_between_words
from mingpt.errors import UserError

EVALUATION_TOKENS = 1 << 18  # a larger validation part is evaluated on a sample of about so many
MIN_CHARACTERS = 20
# From so many characters on, of at most so many bytes each, tokens of several characters (BPE) learn more in the same
# time (tests/benchmarks/LOG.md). A shorter text repeats before that matters; Chinese has three bytes a character.
LONG, ALPHABET = 500_000, 2.2


def load_text(data: str, tokenizer: Tokenizer | str | None, vocab_size: int | None = None) -> Data:
    """`--data DATA` as token ids of a tokenizer, or of a new one of that name, learned from the training part.

    Without a tokenizer, of the one that suits the text.
    """
    name, documents = find_documents(data)
    corpus = Corpus(documents)
    tokenizer, defaults = tokenizer or default_tokenizer(corpus), {}
    if isinstance(tokenizer, str):
        defaults = {"tokenizer": tokenizer}
        tokenizer = learn_tokenizer(corpus, tokenizer, vocab_size)
    try:
        train, validation = (tokenize(corpus, tokenizer, part) for part in corpus.bounds)
    except UserError as error:  # a character that the tokenizer lacks
        raise UserError(f"--data {data}: {error}") from None
    if len(validation) < 2:
        raise UserError(f"--data {data}: is too short ({len(train) + len(validation)} tokens)")
    return Data(name, corpus.sha256, tokenizer, train, validation, tokens=len(train), defaults=defaults)


def default_tokenizer(corpus: Corpus) -> str:
    """bpe for a long text in an alphabet, else char."""
    return "bpe" if corpus.length >= LONG and corpus.bytes <= ALPHABET * corpus.length else "char"


def learn_tokenizer(corpus: Corpus, name: str, vocab_size: int | None) -> Tokenizer:
    """The tokenizer of that name for a corpus, cached: learning BPE takes seconds, and a study needs it many times."""
    folder = cache_folder() / f"tokenizer-{corpus.sha256[:16]}-{name}-{vocab_size}"
    if not (folder / "tokenizer_config.json").exists():  # written last
        pieces = (itertools.chain.from_iterable(corpus.texts(part)) for part in corpus.bounds)
        TOKENIZERS[name](*pieces, vocab_size).save(folder)
    return load_tokenizer(folder)


class Corpus:
    """Documents, their characters counted and divided into a training and a validation part."""

    def __init__(self, documents: list[Path]):
        """Reads all of it once. Raises UserError where it is too short."""
        self.documents = documents
        self.sha256 = files.sha256(*documents)
        self.bytes = sum(document.stat().st_size for document in documents)
        self.lengths = [sum(map(len, read_chunks(document))) for document in documents]
        self.length = sum(self.lengths)
        if self.length < MIN_CHARACTERS:
            raise UserError(
                f"--data {documents[0]}: has {self.length} characters; at least {MIN_CHARACTERS} are needed"
            )
        cut = self.length * 9 // 10
        self.bounds = {"train": (0, cut), "validation": (cut, self.length)}

    def texts(self, part: str) -> Iterator[Iterator[str]]:
        """Each document's text in a part ("train" or "validation"), in pieces cut between words."""
        start, stop = self.bounds[part]
        position = 0
        for document, length in zip(self.documents, self.lengths, strict=True):
            if position < stop and start < position + length:
                yield split_between_words(clip(read_chunks(document), start - position, stop - position))
            position += length


def clip(chunks: Iterable[str], start: int, stop: int) -> Iterator[str]:
    """The characters from start to stop of a text in chunks.

    >>> list(clip(["abc", "def", "ghi"], 2, 5))
    ['c', 'de', '']
    """
    position = 0
    for chunk in chunks:
        yield chunk[max(0, start - position) : max(0, stop - position)]
        position += len(chunk)


def tokenize(corpus: Corpus, tokenizer: Tokenizer, part: str) -> np.ndarray:
    """The token ids of a part, memory-mapped from the cache, with an end-of-text token between documents."""
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    eos = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    path = cache_folder() / f"{corpus.sha256}-{tokenizer.sha256()}.{part}"
    if not path.exists():
        with files.atomic_write(path) as temporary, open(temporary, "wb") as file:
            for i, text in enumerate(corpus.texts(part)):
                np.array(eos if i else [], dtype=dtype).tofile(file)
                for piece in text:
                    tokenizer.encode_array(piece).astype(dtype).tofile(file)
    return np.memmap(path, dtype=dtype, mode="r")


class Windows:
    """Windows of T + 1 tokens: the first T are a model's input, the last T its targets."""

    def __init__(self, data: Data, block_size: int, batch_size: int):
        """Raises UserError where the training part is too short for one window."""
        self.train, self.validation, self.T = data.train, data.validation, block_size
        # Every epoch starts at a random offset below T; so many windows fit after each of them.
        self.count = (len(self.train) - block_size) // block_size
        if self.count < 1:
            limit = f"of {len(self.train):,} training tokens; at most {len(self.train) // 2:,} is accepted"
            raise UserError(f"--block_size {block_size}: is too long for {data.name} {limit}")
        self.sampler = EpochSampler(self.count, batch_size)
        self.stride = -(-len(self.validation) // EVALUATION_TOKENS)  # of the validation windows that are evaluated

    def batch(self, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of update `step`: (batch_size, T) int64 each, a pure function of (seed, step)."""
        epoch = step // self.sampler.batches
        offset = np.random.default_rng([seed, epoch, 1]).integers(self.T)
        starts = offset + self.T * self.sampler.indices(seed, step)
        both = np.stack([self.train[start : start + self.T + 1] for start in starts]).astype(np.int64)  # (B, T + 1)
        return both[:, :-1], both[:, 1:]

    def validation_batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Every `stride`-th window of the validation part."""
        return disjoint_windows(self.validation, self.T, batch_size, self.stride)


def disjoint_windows(tokens: np.ndarray, T: int, batch_size: int, stride: int = 1) -> Iterator[np.ndarray]:
    """Every `stride`-th window of T + 1 tokens, in which each token but the first is a target once:
    (at most batch_size, T + 1); the last, shorter one alone.
    """
    starts = range(0, len(tokens) - 1, T)[::stride]
    complete = [start for start in starts if start + T < len(tokens)]
    for i in range(0, len(complete), batch_size):
        yield np.stack([tokens[start : start + T + 1] for start in complete[i : i + batch_size]]).astype(np.int64)
    if len(complete) < len(starts):
        yield tokens[None, starts[-1] :].astype(np.int64)
