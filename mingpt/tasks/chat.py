"""The task of a chat: answer as the assistant of some dialogues does."""

from __future__ import annotations

import functools
import math
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mingpt.config import Training
from mingpt.data import dialogue
from mingpt.data.dialogue import Dialogue, Message
from mingpt.data.examples import Data, Example
from mingpt.data.sources import find_dialogues
from mingpt.data.tokenizer import Tokenizer
from mingpt.errors import UserError
from mingpt.model import GPT
from mingpt.tasks import answers
from mingpt.tasks.base import default_of, language_metrics
from mingpt.tasks.examples import ExamplesTask, create_tokenizer, encode_parts

BLOCK_SIZE = 256
# From so many dialogues on, few updates see a dialogue again, and a larger model without dropout learns more.
MANY = 5_000
MANY_DEFAULTS: dict[str, Any] = dict(n_layer=2, n_embd=160, batch_size=32, dropout=0.0)
MANY_EXAMPLES = 68_000  # at least so many dialogues are read, some of them more than once
QUESTIONS = 64  # answered at each evaluation; all of them are at the end
CONVERSATIONS = 3  # in the report


@dataclass(frozen=True)
class ChatData(Data):
    dialogues: Sequence[Dialogue] = ()  # of the validation part
    annotated: Sequence[Message] = ()  # answers of the training part


class ChatTask(ExamplesTask):
    """Predict what the assistant says. A model reads all of a dialogue; the loss counts the assistant's tokens, and in
    training a random 7 % of the others."""

    losses, uses = ("cross_entropy",), ("label_smoothing",)
    defaults: ClassVar = dict(
        data="shop", tokenizer="bpe", vocab_size=4096, block_size=BLOCK_SIZE, batch_size=6, dropout=0.1
    )
    epochs, learning_rate_scale = 6, 0.75
    metric, higher_is_better = "bits_per_byte", False
    prompt_share = 0.07  # with it, users' words are understood and values copied sooner (tests/benchmarks/LOG.md)
    items, cutting = "dialogues", "split between exchanges"

    @classmethod
    def read(cls, asked: Training, tokenizer: Tokenizer | None) -> ChatData:
        """The dialogues. Those that the file holds out are for validation, else a random tenth, at least one."""
        name, path = find_dialogues(default_of(cls.defaults, asked, "data"))
        parts = split_held_out(dialogue.read_dialogues(path), path, asked.seed)
        defaults = {}
        if len(parts[0]) >= MANY and asked.init_from is None:
            batch_size = asked.given().get("batch_size", MANY_DEFAULTS["batch_size"])
            defaults = MANY_DEFAULTS | {"max_iters": math.ceil(max(MANY_EXAMPLES, len(parts[0])) / batch_size)}
        texts = [[dialogue.SPACE + message["content"] for d in part for message in d.messages] for part in parts]
        tokenizer = dialogue.add_markers(tokenizer or create_tokenizer(cls.defaults, asked, *texts))
        data = encode_parts(path, tokenizer, lambda d: dialogue.encode_dialogue(tokenizer, d.messages), *parts)
        changes = {
            "name": name,
            "defaults": defaults,
            "examples": sum(-(-len(ids) // BLOCK_SIZE) for ids, _ in data.train),  # a long dialogue is several
        }
        annotated = [message for d in parts[0] for message in d.messages if "intent" in message]
        return ChatData(**vars(data) | changes, dialogues=parts[1], annotated=annotated)

    def cut(self, encoded: dialogue.Encoded) -> Iterator[Example]:
        return cut_dialogue(self.tokenizer, encoded, self.config.block_size)

    def describe_targets(self) -> str:
        return f"{sum(int(mask.sum()) for _, mask in self.data.train):,} tokens of the assistant for training"

    @functools.cached_property
    def max_prompt(self) -> int:
        return self.config.block_size * 3 // 4  # the rest of the context is for the answer, as in mingpt.chat

    @functools.cached_property
    def questions(self) -> list[answers.Question]:
        return answers.find_questions(self.tokenizer, self.data.dialogues, self.max_prompt)

    @functools.cached_property
    def intent_of(self) -> answers.IntentMatcher:
        return answers.IntentMatcher(self.data.annotated)

    def evaluate(self, model: GPT) -> dict[str, float]:
        """val_loss in nats per token, and bits per byte, of what the assistant says; whether greedy answers are right,
        where answers are annotated, of a sample."""
        predict = functools.partial(self.predict, model)
        batches = self.validation_batches()
        metrics = language_metrics(batches, predict, self.criterion, self.tokenizer.byte_lengths)
        return metrics | self.score(model, self.questions[:: max(1, len(self.questions) // QUESTIONS)])

    def score(self, model: GPT, questions: Sequence[answers.Question]) -> dict[str, float]:
        if not questions or not self.data.annotated:
            return {}
        texts = answers.answer_greedily(model, self.tokenizer, [question.prompt for question in questions])
        return answers.score(questions, texts, self.intent_of)

    @functools.cached_property
    def longest_dialogues(self) -> list[Dialogue]:
        return sorted(self.data.dialogues, key=lambda d: -len(d.messages))[:CONVERSATIONS]

    def sample(self, model: GPT) -> str:
        """A conversation of a held-out user with the model."""
        return "\n".join(self.converse(model, self.longest_dialogues[0].messages))

    def config_extra(self) -> dict[str, Any]:
        return {"task_specific_params": {"mingpt": {"task": "chat"}}}

    def report(self, model: GPT, folder: Path) -> list[str]:
        """How many held-out answers are right, and conversations of held-out users with the model."""
        lines = []
        questions: dict[str, list[answers.Question]] = defaultdict(list)
        for question in self.questions:
            questions[question.part].append(question)
        scores = {part: self.score(model, asked) for part, asked in questions.items()}
        if any(scores.values()):
            lines = [f"{'held-out answers':20}{'number':>8}{'intent':>8}{'slots':>8}"]
            lines += [
                f"{part:20}{len(questions[part]):>8,}{s['intent_accuracy']:>8.3f}{s['slot_accuracy']:>8.3f}"
                for part, s in scores.items()
            ]
        for d in self.longest_dialogues:
            lines += ["", *(f"    {line}" for line in self.converse(model, d.messages))]
        return ["", *lines, "", f"chat          python -m mingpt.chat {shlex.quote(str(folder))}"]

    def converse(self, model: GPT, messages: Sequence[Message]) -> Iterator[str]:
        """The user's messages of a dialogue, each answered by the model, which sees its own answers before."""
        history: list[Message] = []
        for message in messages:
            if message["role"] != "assistant":
                history.append(message)
            elif history and history[-1]["role"] == "user":
                try:
                    prompt, _ = dialogue.encode_prompt(self.tokenizer, history, self.max_prompt)
                except UserError:  # the message is too long for the context: the conversation ends before it
                    history.pop()
                    break
                [text] = answers.answer_greedily(model, self.tokenizer, [prompt])
                history.append({"role": "assistant", "content": text})
        return (f"{message['role']:11}{message['content']}" for message in history)


def cut_dialogue(tokenizer: Tokenizer, encoded: dialogue.Encoded, T: int) -> Iterator[Example]:
    """The pieces of a dialogue in which something is learned. An exchange of more than T tokens loses its end."""
    for ids, mask in dialogue.split_dialogue(tokenizer, encoded, T + 1):  # a token's target is the next one
        if mask[1 : T + 1].any():
            yield Example(ids[:-1][:T], ids[1 : T + 1], mask[1 : T + 1])


def split_held_out(dialogues: list[Dialogue], path: Path, seed: int) -> list[list[Dialogue]]:
    """The training and the validation part."""
    parts = [[d for d in dialogues if (d.part is None) == is_training] for is_training in (True, False)]
    if not parts[1]:
        order = np.random.default_rng(seed).permutation(len(dialogues))
        held_out = max(1, len(dialogues) // 10)
        parts = [[dialogues[i] for i in indices] for indices in (order[held_out:], order[:held_out])]
    if not parts[0]:
        raise UserError(f"{path}: has no dialogue for training beside the {len(parts[1])} for validation")
    return parts
