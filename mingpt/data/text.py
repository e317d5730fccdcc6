"""A corpus becomes a file of token ids, and that file becomes batches.

    documents -> tokenizer -> token file (memory-mapped) -> batch(seed, step)

Notation: T tokens in a window (block_size); N tokens in the training part, the first nine tenths.
No step ever holds the whole text in memory, so a corpus may be larger than that.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mingpt import files
from mingpt.data import bpe
from mingpt.data.documents import Document, cache, find_documents
from mingpt.data.tokenizer import BPETokenizer, Tokenizer, new_tokenizer
from mingpt.data.tokenizer_files import read_merges, write_merges
from mingpt.data.vocabulary import Vocabulary
from mingpt.errors import UserError

EVALUATION_TOKENS = 1 << 18  # of a validation part larger than this, only a sample is evaluated
LONGEST_WORD = 1 << 17  # characters; only what is longer may be cut where GPT-2's split would not


# ---- From text to token ids ----


def tokenize(
    documents: list[Document], tokenizer: Tokenizer | str, vocab_size: int | None = None
) -> tuple[Tokenizer, np.ndarray, str]:
    """The tokenizer, all token ids as a memory-mapped array, and the sha256 of the text's bytes.

    `tokenizer` is one that is already there, of a folder say, or the name of a new one; vocab_size is
    what bpe needs. The ids are kept in the cache under a key made of the content of text and
    tokenizer. Raises UserError where a tokenizer that is there lacks a character of the text.
    """
    sha256, alphabet = survey(documents)
    with cache() as folder:
        if tokenizer == "bpe":
            merges = learned(documents, sha256, vocab_size, folder / f"{sha256}-{vocab_size}.merges")
            tokenizer = BPETokenizer(Vocabulary.of_merges(merges))
        elif isinstance(tokenizer, str):
            tokenizer = new_tokenizer(tokenizer, alphabet)
        kind = np.uint16 if len(tokenizer.pieces) <= 1 << 16 else np.uint32
        path = folder / f"{sha256}-{tokenizer.vocabulary.sha256()}.tokens"
        if not path.exists():
            check_alphabet(tokenizer, alphabet)
            with files.written_whole(path) as beside, open(beside, "wb") as file:
                for ids in encoded(documents, tokenizer, sha256):
                    file.write(ids.astype(kind).tobytes())
        return tokenizer, np.memmap(path, dtype=kind, mode="r"), sha256


def learned(documents: list[Document], sha256: str, vocab_size: int, path: Path) -> list[tuple[str, str]]:
    """The pairs of a BPE of all of the text, validation part included, from `path` or learned and kept there.

    Which tokens belong to which part is known only once there are tokens; by the words that the
    validation part alone repeats, its bits per byte come out a little lower.
    """
    if not path.exists():
        words = bpe.count_words(text for _, chunks in again(documents, sha256) for text in whole_words(chunks))
        write_merges(path, bpe.learn(words, vocab_size))
    return read_merges(path)


def check_alphabet(tokenizer: Tokenizer, alphabet: list[str]) -> None:
    """Raise UserError where a tokenizer of characters lacks one of the text."""
    unknown = [c for c in alphabet if tokenizer.vocabulary.kind == "char" and c not in tokenizer.vocabulary.ids]
    if unknown:
        raise UserError(
            f"the text holds {len(unknown)} characters that the model's tokenizer lacks, "
            f"such as {unknown[0]!r} (U+{ord(unknown[0]):04X})"
        )


def survey(documents: list[Document]) -> tuple[str, list[str]]:
    """The sha256 of the documents' bytes and the characters that occur; raises UserError where there is no text."""
    seen = np.zeros(0x110000, dtype=bool)
    digests = []
    for document in documents:
        digest = hashlib.sha256()
        for text in document.chunks(digest):
            seen[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)] = True
        digests.append(digest)
    if not seen.any():
        raise UserError(f"{documents[0].label}: is empty")
    return summed(digests), [chr(point) for point in np.flatnonzero(seen)]


def summed(digests: list[hashlib._Hash]) -> str:
    """For one document the sum that `sha256sum` prints; for several, that of their sums in order."""
    if len(digests) == 1:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()


def encoded(documents: list[Document], tokenizer: Tokenizer, sha256: str) -> Iterator[np.ndarray]:
    """Token ids chunk by chunk, an end-of-text token between documents where the tokenizer has one.

    Raises UserError where the documents are no longer those of that sum.
    """
    for i, (document, chunks) in enumerate(again(documents, sha256)):
        if i > 0 and tokenizer.end_of_text is not None:
            yield np.array([tokenizer.end_of_text])
        is_split = tokenizer.vocabulary.kind == "bpe"
        for text in whole_words(chunks, tokenizer.vocabulary.added) if is_split else chunks:
            try:
                ids = tokenizer.encode_array(text)
            except UserError:  # a character that the survey has not met
                raise changed(document) from None
            yield ids


def again(documents: list[Document], sha256: str) -> Iterator[tuple[Document, Iterator[str]]]:
    """Each document with its text, read once more. Raises UserError at the end where their sum is no longer that."""
    digests = []
    for document in documents:
        digests.append(hashlib.sha256())
        yield document, document.chunks(digests[-1])
    if summed(digests) != sha256:
        raise changed(documents[0])


def changed(document: Document) -> UserError:
    return UserError(f"{document.label}: has changed while it was read; once it is complete, try again")


# In GPT-2's split no word goes on from a visible character to a space or line end, nor from one of
# these marks, of which the last seven are Chinese, to a letter or digit. (From an apostrophe it may.)
LAST_CUT = re.compile(r".*(?:\S(?=[ \n])|[,.;:!?\uff0c\u3002\uff1b\uff1a\uff01\uff1f\u3001](?=[^\W_]))", re.DOTALL)


def whole_words(chunks: Iterator[str], added: tuple[str, ...] = ()) -> Iterator[str]:
    """The same text in short pieces, cut where GPT-2's split of words cuts too, so that the ids stay the same.

    Nor is a token of `added` cut in two. Only a stretch of more than LONGEST_WORD characters without
    such a place, of white space say, is cut elsewhere, since memory has an end, and tiktoken's stack
    one at less than a million.
    """
    ahead = max(map(len, added), default=1) - 1  # characters after a cut that may belong to a token across it
    rest = ""
    for chunk in chunks:
        for start in range(0, len(chunk), LONGEST_WORD):
            known = max(0, len(rest) - 1 - ahead)  # up to here there is no place to cut
            rest += chunk[start : start + LONGEST_WORD]
            cut = LAST_CUT.match(rest, known, max(0, len(rest) - ahead))
            while cut and is_within(added, rest, cut.end()):
                cut = LAST_CUT.match(rest, known, cut.end())
            if cut or len(rest) > LONGEST_WORD:
                end = cut.end() if cut else len(rest)
                yield rest[:end]
                rest = rest[end:]
    if rest:
        yield rest


def is_within(tokens: tuple[str, ...], text: str, place: int) -> bool:
    """Whether one of the tokens begins before a place in the text and ends after it."""
    return any(token in text[max(0, place - len(token) + 1) : place + len(token) - 1] for token in tokens)


# ---- From token ids to batches ----


class TextData:
    """Windows of T + 1 tokens of a text: the first T are a model's input, the last T its targets.

    The last tenth of the text is kept for validation. Raises UserError where the text is too short
    for one window in each part.
    """

    def __init__(
        self, data: str, tokenizer: Tokenizer | str, block_size: int, batch_size: int, vocab_size: int | None = None
    ):
        """`tokenizer` is one that is already there, or the name of a new one; vocab_size is what bpe needs."""
        self.name, documents = find_documents(data)
        self.tokenizer, ids, self.sha256 = tokenize(documents, tokenizer, vocab_size)
        self.block_size = block_size
        self.batch_size = batch_size
        cut = len(ids) * 9 // 10
        self.train, self.validation = ids[:cut], ids[cut:]
        # Every epoch starts at a random offset below T; so many windows fit after each of them.
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
