"""Byte-level byte-pair encoding: a vocabulary of pieces of words, learned from a text.

    words -> bytes -> pairs of neighbours -> the most frequent pair becomes a token -> again

Gage (1994) compresses a file so: give the most frequent pair of neighbouring bytes a name of its
own, replace it everywhere, and repeat. Sennrich et al. (2016) take the names for the vocabulary of a
model, and join pairs within words only: then the text is read once, to count its words. GPT-2 begins
with bytes instead of characters, so that no text is without ids.

Notation. All different words lie in one row of bytes, a gap before each and after the last:

    token[i]   the id of the token that begins at byte i; -1 in a gap, or where none begins
    first[i]   where the token that ends at byte i begins; i itself in a gap
    weight[i]  how often the word of byte i occurs in the text
    count[p]   how often the pair p = (a, b) of neighbours occurs, words weighted by their number
    places[p]  where it was seen to begin, in order; it may be gone from there since

A token that begins at i ends before i + its length, where its right neighbour begins; its left
neighbour begins at first[i - 1]. So joining a pair takes a few steps at each of its places, and since
each shortens the row by a token, there are fewer of them in all than the text's words have bytes.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import regex  # which tiktoken needs as well; re does not know \p{L} and \p{N}, the letters and digits of all scripts

from mingpt.data.vocabulary import BYTE_CHARACTERS, GPT2_PATTERN

Pair = tuple[int, int]
FEWEST = 2  # a pair that occurs once saves nothing


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word of GPT-2's split occurs in some texts, none of which ends within a word.

    >>> count_words(["the cat, the dog"])
    Counter({'the': 1, ' cat': 1, ',': 1, ' the': 1, ' dog': 1})
    """
    words: Counter[str] = Counter()
    for text in texts:
        words.update(regex.findall(GPT2_PATTERN, text))
    return words


def learn(words: Mapping[str, int], vocab_size: int) -> list[tuple[str, str]]:
    """The pairs to join, first learned first, each token written in BYTE_CHARACTERS.

    Together with the 256 bytes and the end of a text they make vocab_size tokens, or fewer where no
    pair occurs twice any more. Of equally frequent pairs the one with the smaller ids comes first.

    >>> learn({"low": 5, "lower": 2, "new": 3}, vocab_size=260)
    [('l', 'o'), ('lo', 'w'), ('e', 'w')]
    """
    tokens = sorted(BYTE_CHARACTERS)
    row = Row(words, {character: i for i, character in enumerate(tokens)})
    queue = [(-count, pair) for pair, count in row.count.items() if count >= FEWEST]
    heapq.heapify(queue)
    merges: list[tuple[str, str]] = []
    while queue and len(merges) < vocab_size - 257:
        expected, pair = heapq.heappop(queue)
        count = row.count[pair]
        if count != -expected:  # it has become rarer since it was put there
            if count >= FEWEST:
                heapq.heappush(queue, (-count, pair))
            continue
        left, right = (tokens[i] for i in pair)
        merges.append((left, right))
        for new in row.join(pair, len(tokens), len(left), len(right)):
            if row.count[new] >= FEWEST:
                heapq.heappush(queue, (-row.count[new], new))
        tokens.append(left + right)
    return merges


class Row:
    """The words, as tokens that grow."""

    def __init__(self, words: Mapping[str, int], ids: Mapping[str, int]):
        of_byte = [ids[character] for character in BYTE_CHARACTERS]
        self.token = array("i", [-1])
        self.weight = array("q", [0])
        for word, times in words.items():
            begin = len(self.token)
            self.token.extend(of_byte[byte] for byte in word.encode("utf-8"))
            self.weight.extend([times] * (len(self.token) - begin))
            self.token.append(-1)
            self.weight.append(0)
        self.first = array("q", range(len(self.token)))
        self.count: Counter[Pair] = Counter()
        self.places: defaultdict[Pair, array[int]] = defaultdict(lambda: array("q"))
        for i in range(1, len(self.token) - 1):
            if self.token[i] >= 0 and self.token[i + 1] >= 0:
                self.add(i, (self.token[i], self.token[i + 1]))

    def add(self, place: int, pair: Pair) -> None:
        self.count[pair] += self.weight[place]
        self.places[pair].append(place)

    def join(self, pair: Pair, new: int, length_a: int, length_b: int) -> set[Pair]:
        """Replace the pair by the token `new` wherever it stands; gives the pairs that there were not before.

        In a row of the same tokens, a a a, the left pair is joined: places are in order from the start.
        """
        token, first = self.token, self.first
        a, b = pair
        found: set[Pair] = set()
        for i in self.places.pop(pair):
            middle = i + length_a
            if token[i] != a or token[middle] != b:
                continue
            right, left = middle + length_b, first[i - 1]
            token[i], token[middle], first[right - 1] = new, -1, i
            if token[left] >= 0:
                self.count[token[left], a] -= self.weight[i]
                self.add(left, (token[left], new))
                found.add((token[left], new))
            if token[right] >= 0:
                self.count[b, token[right]] -= self.weight[i]
                self.add(i, (new, token[right]))
                found.add((new, token[right]))
        return found
