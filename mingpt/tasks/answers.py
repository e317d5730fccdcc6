"""Whether greedy answers are right, for dialogues whose answers are annotated.

Notation: a an answer of the model, r an annotated answer; w(.) the set of its words, slot values replaced by names.

    similarity(a, r) = 2 |w(a) & w(r)| / (|w(a)| + |w(r)|)

The intent of an answer is that of the most similar annotated answer for training. Its slots are right if it contains
the value of each, in any case of letters.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mingpt import distributed
from mingpt.data.dialogue import SPACE, Dialogue, Message, encode_prompt
from mingpt.data.tokenizer import Tokenizer
from mingpt.errors import UserError
from mingpt.generation.decoding import generate
from mingpt.generation.streaming import Completion, stream
from mingpt.model import GPT

BATCH_SIZE, MAX_TOKENS = 64, 80  # of the answers generated at a time


@dataclass(frozen=True)
class Question:
    """What precedes an annotated answer, as token ids, and that answer."""

    prompt: list[int]
    answer: Message
    part: str


def find_questions(tokenizer: Tokenizer, dialogues: Iterable[Dialogue], size: int) -> list[Question]:
    """The annotated answers of some dialogues, each after what was really said before it, in at most `size` ids."""
    questions = []
    for dialogue in dialogues:
        for i, message in enumerate(dialogue.messages):
            if i and "intent" in message:
                with contextlib.suppress(UserError):  # the message before it is too long for the context
                    prompt, _ = encode_prompt(tokenizer, dialogue.messages[:i], size)
                    questions.append(Question(prompt, message, dialogue.part or "answers"))
    return questions


class IntentMatcher:
    """Finds the intent of an answer among those of annotated answers."""

    def __init__(self, answers: Iterable[Message]):
        intents = {frozenset(words_of(a["content"], a["slots"])): a["intent"] for a in answers}
        self.intents = [*intents.values()]
        self.columns = {word: i for i, word in enumerate(sorted(set().union(*intents)))}
        self.words = np.array([self.to_vector(words) for words in intents])  # (answers, words), 0 or 1
        self.sizes = self.words.sum(axis=1)

    def to_vector(self, words: Iterable[str]) -> np.ndarray:
        vector = np.zeros(len(self.columns), dtype=np.float32)
        vector[[self.columns[word] for word in words if word in self.columns]] = 1
        return vector

    def __call__(self, text: str, slots: dict[str, str]) -> str:
        words = words_of(text, slots)
        similarity = 2 * self.words @ self.to_vector(words) / (self.sizes + len(words))
        return self.intents[similarity.argmax()]


def words_of(text: str, slots: dict[str, str]) -> set[str]:
    """The words of an answer, with slot values replaced by their names.

    >>> sorted(words_of("Order 4711 is late.", {"order": "4711"}))
    ['is', 'late', 'order', '{order}']
    """
    for name, value in sorted(slots.items(), key=lambda slot: -len(slot[1])):
        text = re.sub(re.escape(value), f"{{{name}}}", text, flags=re.IGNORECASE)
    return {*re.findall(r"\{\w+\}|\w+", text.lower())}


def answer_greedily(model: GPT, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]]) -> list[str]:
    """The model's most probable answer to each prompt."""

    def answer(batch: Sequence[Sequence[int]]) -> list[str]:
        completions = [Completion(tokenizer, end_ids=tokenizer.special_ids.values()) for _ in batch]
        columns = stream(completions, generate(model, batch, MAX_TOKENS, temperature=0))
        return ["".join(pieces).removeprefix(SPACE) for pieces in zip(*columns, strict=True)]

    size = min(BATCH_SIZE, -(-len(prompts) // distributed.world_size()))
    batches = [prompts[i : i + size] for i in range(0, len(prompts), size)]
    return [text for texts in distributed.shared_map(answer, batches) for text in texts]


def score(questions: Sequence[Question], answers: Sequence[str], intent_of: IntentMatcher) -> dict[str, float]:
    """intent_accuracy, and slot_accuracy of the answers that have slots."""
    intents, slots = [], []
    for question, answer in zip(questions, answers, strict=True):
        intents.append(intent_of(answer, question.answer["slots"]) == question.answer["intent"])
        if question.answer["slots"]:
            slots.append(all(value.lower() in answer.lower() for value in question.answer["slots"].values()))
    return {"intent_accuracy": float(np.mean(intents)), "slot_accuracy": float(np.mean(slots or [0.0]))}
