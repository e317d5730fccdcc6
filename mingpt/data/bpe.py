"""Byte-level byte-pair encoding (BPE): learns a vocabulary of subwords from a text.

    words -> bytes -> count adjacent pairs -> merge the most frequent pair into a new token -> repeat

Gage (1994) compresses a file by this loop. Sennrich et al. (2016) use its tokens as a model's vocabulary and merge
within words only: a text is read once, to count them. GPT-2 starts from bytes, so that every text can be encoded.

Notation:

    word      its tokens, at first its bytes; frequency[w] is how often word w occurs in the text
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
    ids = [tokens.index(character) for character in BYTE_CHARACTERS]  # ids[byte]
    words = [[ids[byte] for byte in word.encode("utf-8")] for word in frequencies]
    frequency = list(frequencies.values())
    count: Counter[tuple[int, int]] = Counter()
    where: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
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
        changed = set()
        for w in where.pop(pair):
            before = words[w]
            words[w] = after = merge(before, pair, len(tokens))
            for old in itertools.pairwise(before):
                count[old] -= frequency[w]
                changed.add(old)
            for new in itertools.pairwise(after):
                count[new] += frequency[w]
                where[new].add(w)
                changed.add(new)
        for other in changed:
            heapq.heappush(queue, (-count[other], other))
        left, right = (tokens[i] for i in pair)
        merges.append((left, right))
        tokens.append(left + right)
    return merges


def merge(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """The word with each occurrence of the pair, from left to right, replaced by the token `new`.

    >>> merge([1, 1, 1, 2], (1, 1), 3)
    [3, 1, 2]
    """
    result: list[int] = []
    for token in word:
        if result and (result[-1], token) == pair:
            result[-1] = new
        else:
            result.append(token)
    return result
