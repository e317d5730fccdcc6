"""How the users of generated dialogues write: phrasings, synonyms, slips, and the values of slots.

A tenth of the `user` phrasings, of the values and of the invented words, by their checksum, never occurs in training.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from mingpt.data.phrases import SLOT, Intent, Phrases, expand, fill, is_held_out

INVENTED = 0.4  # share of invented words among values that allow them
SYLLABLES = [
    start + vowel for start in "b d f g h k l m n p r s t v w z br dr gr kl pl st tr sh".split() for vowel in "aeiou"
]
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"


class Wording:
    """The wording of one dialogue, for training or for a part of the held-out ones."""

    def __init__(self, phrases: Phrases, rng: random.Random, part: str | None):
        self.phrases, self.rng, self.part = phrases, rng, part

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def phrasing(self, intent: Intent) -> str:
        """A phrasing, or a noun phrase in a frame that fits many intents."""
        is_tested = self.part == "phrasings"
        if intent.about and not is_tested and self.chance(0.15):
            template = fill(self.rng.choice(self.phrases.noise["frame"]), {"about": self.rng.choice(intent.about)})
        else:
            template = self.rng.choice(self.phrases.split_user[intent.name][is_tested])
        return expand(self.rng, template)

    def decorate(self, text: str) -> str:
        """Synonyms, and what people write around a request."""
        noise = self.phrases.noise
        text = self.phrases.synonym_pattern.sub(self.replace_synonym, text)
        if self.chance(0.08):
            remark = self.compose("remark")
            text = f"{remark}. {text}" if self.chance(0.6) else f"{text}. {remark}"
        if self.chance(0.2):
            text = f"{expand(self.rng, self.rng.choice(noise['opener']))} {text}"
        if self.chance(0.12):
            text = f"{text} {expand(self.rng, self.rng.choice(noise['closer']))}"
        return text

    def replace_synonym(self, match: re.Match) -> str:
        return self.rng.choice(self.phrases.synonyms[match[0].lower()]) if self.chance(0.4) else match[0]

    def mistype(self, words: list[str]) -> Iterator[str]:
        """Words as typed in a hurry: some left out, with a slip, or replaced by an invented one. Slots stay."""
        for word in words:
            is_short = word in self.phrases.noise["dropped"]
            if "{" in word or (is_short and not self.chance(0.06)):
                yield word
            elif not is_short:
                yield self.slip(word)

    def slip(self, word: str) -> str:
        i = self.rng.randrange(len(word))
        if self.chance(0.01):
            return self.invent()
        if len(word) < 4 or not word.isalpha() or not self.chance(0.03):
            return word
        return self.rng.choice(
            [word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:], word[:i] + word[i : i + 2][::-1] + word[i + 2 :]]
        )

    # Values.

    def value(self, name: str) -> str:
        """A value of a slot or a fact, held out from training or not as the part demands."""
        is_tested = self.part == ("facts" if name in self.phrases.facts else "values")
        for _ in range(100):  # a list as short as that of the tones may hold nothing out
            text = self.compose(name)
            if self.part == "words" or is_held_out(text) == is_tested:
                break
        return text

    def compose(self, name: str) -> str:
        """A value of a list: an invented word, or one of its values, with its own slots filled."""
        values = self.phrases.values[name]
        if name in self.phrases.invented and self.chance({None: INVENTED, "words": 1.0}.get(self.part, 0.0)):
            return self.invent().capitalize() if values[0][0].isupper() else self.invent()
        template = re.sub("#+|@", self.random_characters, expand(self.rng, self.rng.choice(values)))
        return SLOT.sub(lambda match: self.compose(match[1]), template)

    def random_characters(self, match: re.Match) -> str:
        """A number of as many digits as there are #, or a letter for @."""
        digits = len(match[0])
        return self.rng.choice(LETTERS) if match[0] == "@" else str(self.rng.randrange(10 ** (digits - 1), 10**digits))

    def invent(self) -> str:
        """An invented word; training and held-out parts never share one."""
        while True:
            word = "".join(self.rng.choices(SYLLABLES, k=self.rng.choice((2, 2, 3)))) + self.rng.choice(
                ["", "n", "r", "s", "l", "x"]
            )
            if is_held_out(word) == (self.part is not None):
                return word
