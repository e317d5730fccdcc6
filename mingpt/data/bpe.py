"""Byte-level byte-pair encoding (BPE): learns a vocabulary of subwords from a text.

    words -> bytes -> count adjacent pairs -> merge the most frequent pair into a new token -> repeat

Gage (1994) compresses a file by this loop. Sennrich et al. (2016) use its tokens as a model's vocabulary and merge
within words only: a text is read once, to count them. GPT-2 starts from bytes, so that every text can be encoded.

Notation:

    word      its tokens as characters, chr(id), at first its bytes; frequency[w] is how often word w occurs in the text
    count[p]  frequency of the pair p = (a, b) of adjacent tokens, in all words
    where[p]  the words in which p was seen; later merges may have removed it there
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

MIN_FREQUENCY = 2  # merging a pair that occurs once saves nothing

# GPT-2's words: English contractions; letters, digits or other symbols, each with the space before; white space.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_characters() -> list[str]:
    """GPT-2's printable character for each byte, so that its files hold no control characters (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


BYTE_CHARACTERS = byte_characters()  # BYTE_CHARACTERS[byte]


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Frequency of each word of GPT-2's split; each of the texts must end at the end of a word.

    >>> count_words(["the cat, the dog"])
    Counter({'the': 1, ' cat': 1, ',': 1, ' the': 1, ' dog': 1})
    """
    import regex  # unlike re, it supports \p{L} and \p{N}, the letters and digits of all scripts

    return Counter(word for text in texts for word in regex.findall(GPT2_PATTERN, text))


def learn(frequencies: Mapping[str, int], vocab_size: int) -> list[tuple[str, str]]:
    """The merges in the order learned, each token written in BYTE_CHARACTERS.

    With the 256 bytes and one end-of-text token they give vocab_size tokens, or fewer if no pair is left that occurs
    twice. Among equally frequent pairs the one with the smaller ids is merged first.

    >>> learn({"low": 5, "lower": 2, "new": 3}, vocab_size=260)
    [('l', 'o'), ('lo', 'w'), ('e', 'w')]
    """
    tokens = sorted(BYTE_CHARACTERS)
    byte_ids = [chr(tokens.index(character)) for character in BYTE_CHARACTERS]
    words = ["".join(byte_ids[byte] for byte in word.encode("utf-8")) for word in frequencies]
    frequency = list(frequencies.values())
    count: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for w, word in enumerate(words):
        for pair in itertools.pairwise(word):
            count[pair] += frequency[w]
            where[pair].add(w)
    queue = [(-n, pair) for pair, n in count.items()]  # a heap: the most frequent pair first
    heapq.heapify(queue)
    merges: list[tuple[str, str]] = []
    while queue and len(merges) < vocab_size - 257:
        negative, pair = heapq.heappop(queue)
        if count[pair] != -negative:  # it has changed since it was queued, and is queued again with its new count
            continue
        if count[pair] < MIN_FREQUENCY:
            break
        new = chr(len(tokens))
        changed = set()
        for w in where.pop(pair):
            words[w], change = merge(words[w], pair, new)
            for other, n in change.items():
                count[other] += n * frequency[w]
                changed.add(other)
                if n > 0:
                    where[other].add(w)
        count[pair] = 0
        for other in changed:
            heapq.heappush(queue, (-count[other], other))
        left, right = (tokens[ord(character)] for character in pair)
        merges.append((left, right))
        tokens.append(left + right)
    return merges


def merge(word: str, pair: tuple[str, str], new: str) -> tuple[str, Counter[tuple[str, str]]]:
    """The word with each occurrence of the pair, from left to right, replaced by the token `new`; and by how much the
    number of each other pair has changed. Only the neighbours of an occurrence are looked at: words may be long.

    >>> merge("abcab", ("a", "b"), "X")
    ('XcX', Counter({('X', 'c'): 1, ('c', 'X'): 1, ('b', 'c'): -1, ('c', 'a'): -1}))
    """
    left, right = pair
    parts = word.split(left + right)
    change: Counter[tuple[str, str]] = Counter()
    for i, (before, after) in enumerate(itertools.pairwise(parts)):
        follows_another = i > 0 and not before  # then its left neighbour is `right`, and becomes `new`
        if before or follows_another:
            change[right if follows_another else before[-1], left] -= 1
            change[new if follows_another else before[-1], new] += 1
        if after:
            change[right, after[0]] -= 1
            change[new, after[0]] += 1
    return new.join(parts), change
