"""The task of a chat: answer as the assistant of some dialogues does."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mingpt.config import Training
from mingpt.data import dialogue
from mingpt.data.examples import Data, Example
from mingpt.data.tokenizer import Tokenizer
from mingpt.errors import UserError
from mingpt.model import GPT
from mingpt.tasks.base import language_metrics
from mingpt.tasks.examples import ExamplesTask, create_tokenizer, encode_parts

BLOCK_SIZE = 256
ANSWER_TOKENS, TEMPERATURE = 200, 0.7  # of the answer in the report


class ChatTask(ExamplesTask):
    """Predict what the assistant says. A model reads all of a dialogue; the loss counts the assistant's tokens."""

    losses, uses = ("cross_entropy",), ("label_smoothing",)
    defaults: ClassVar = dict(tokenizer="bpe", vocab_size=4096, block_size=BLOCK_SIZE, batch_size=6, dropout=0.1)
    epochs, learning_rate_scale = 6, 0.5
    metric, higher_is_better = "bits_per_byte", False
    items, cutting = "dialogues", "split between exchanges"

    @classmethod
    def read(cls, asked: Training, tokenizer: Tokenizer | None) -> Data:
        """The dialogues; a random tenth, at least one, is for validation. A long one counts as several examples."""
        dialogues = dialogue.read_dialogues(asked.data)
        if len(dialogues) < 2:
            raise UserError(f"{asked.data}: has a single dialogue; at least 2 are needed, one of them for validation")
        order = np.random.default_rng(asked.seed).permutation(len(dialogues))
        held_out = max(1, len(dialogues) // 10)
        parts = [[dialogues[i] for i in indices] for indices in (order[held_out:], order[:held_out])]
        texts = [[message["content"] for messages in part for message in messages] for part in parts]
        tokenizer = dialogue.add_markers(tokenizer or create_tokenizer(cls, asked, *texts))
        data = encode_parts(asked, tokenizer, partial(dialogue.encode_dialogue, tokenizer), *parts)
        return replace(data, examples=sum(-(-len(ids) // BLOCK_SIZE) for ids, _ in data.train))

    def cut(self, encoded: dialogue.Encoded) -> Iterator[Example]:
        """The pieces of a dialogue in which something is learned. An exchange that is too long loses its end."""
        T = self.config.block_size
        for ids, mask in dialogue.split_dialogue(self.tokenizer, encoded, T + 1):  # a token's target is the next one
            if mask[1 : T + 1].any():
                yield Example(ids[:-1][:T], ids[1 : T + 1], mask[1 : T + 1])

    def describe_targets(self) -> str:
        return f"{sum(int(mask.sum()) for _, mask in self.data.train):,} tokens of the assistant for training"

    def evaluate(self, model: GPT) -> dict[str, float]:
        """val_loss in nats per token, and bits per byte, of what the assistant says."""
        return language_metrics(self.validate(model), self.criterion, self.tokenizer.byte_lengths)

    def config_extra(self) -> dict[str, Any]:
        return {"task_specific_params": {"mingpt": {"task": "chat"}}}

    def report(self, model: GPT, folder: Path) -> list[str]:
        """A held-out question and the model's answer."""
        from mingpt.generation.streaming import Completion, complete

        command = f"chat          python -m mingpt.chat {shlex.quote(str(folder))}"
        prompts = (ids[: mask.argmax()].tolist() for ids, mask in self.data.validation)  # up to the assistant's marker
        prompt = next((ids for ids in prompts if 1 < len(ids) <= model.config.block_size // 2), None)
        if prompt is None:
            return [command]
        answer = Completion(self.tokenizer, end_ids=self.tokenizer.special_ids.values())
        text = complete(model, prompt, answer, ANSWER_TOKENS, seed=self.config.seed, temperature=TEMPERATURE)
        turns = (self.tokenizer.decode(prompt) + "".join(text)).split(dialogue.END)
        return ["a held-out question and the model's answer", "", *(f"    {turn}" for turn in turns), command]
