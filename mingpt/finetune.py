"""What a run's task and the model that it starts from decide, where a flag was not given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from mingpt import gpt2, hub
from mingpt.config import TABLES, GPTConfig, Training
from mingpt.defaults import FEWEST_UPDATES, FINE_TUNING, FINE_TUNING_PASSES, PASSES, TASKS
from mingpt.errors import UserError
from mingpt.settings import shown

if TYPE_CHECKING:
    from torch import Tensor

    from mingpt.tasks import Task

SHAPE = ("n_layer", "n_head", "n_embd")

T = TypeVar("T", bound=Training)


def with_defaults(asked: T, given: set[str]) -> T:
    """The settings with the task's defaults for what was not given; and with init_from as a folder, its model's shape,
    and the defaults of fine-tuning.

    block_size may be shorter than the model's: updates then see shorter windows, and the model keeps its
    positions. Raises UserError where there is no such model, or a flag asks for another shape.
    """
    for_task = {name: value for name, value in TASKS[asked.task].items() if name not in given}
    asked = dataclasses.replace(asked, **for_task)
    if asked.init_from is None:
        return asked
    try:
        folder = hub.locate(asked.init_from)
        found = gpt2.read_config(folder / "config.json")
    except UserError as error:
        raise UserError(*(f"--init_from {problem}" for problem in error.problems)) from None
    problems = [
        f"--{name} {shown(getattr(asked, name))}: the model in {asked.init_from} has {shown(getattr(found, name))}"
        for name in SHAPE
        if name in given and getattr(asked, name) != getattr(found, name)
    ]
    if "block_size" in given and asked.block_size > found.block_size:
        problems.append(
            f"--block_size {asked.block_size}: the model in {asked.init_from} has {found.block_size} positions"
        )
    problems += [
        f"--{name} {getattr(asked, name)}: the model in {asked.init_from} has its own"
        for name in ("tokenizer", "vocab_size")
        if name in given
    ]
    if problems:
        raise UserError(*problems)
    decided = {name: getattr(found, name) for name in (*SHAPE, "block_size", "dropout")} | FINE_TUNING
    missing = {name: value for name, value in decided.items() if name not in given}
    return dataclasses.replace(asked, init_from=str(folder.resolve()), **missing)


def with_updates(asked: T, task: Task) -> T:
    """The settings with as many updates as some passes over the data take, where no number was given."""
    is_fresh = asked.init_from is None
    passes = PASSES.get(asked.task) if is_fresh else FINE_TUNING_PASSES
    if passes is None or asked.max_iters is not None:
        return asked
    fewest = FEWEST_UPDATES if is_fresh and asked.task in TABLES else 1
    return dataclasses.replace(asked, max_iters=max(fewest, passes * task.updates_in_epoch()))


def starting_weights(config: Training, model_config: GPTConfig) -> dict[str, Tensor] | None:
    """The tensors that fine-tuning starts from, to be changed; None where a model is trained from scratch.

    Tokens that the model has not met begin at random about the mean of those that it has met (Hewitt 2021,
    "Initializing new word embeddings"), as far from it as they are: so the markers of turns can be told apart even
    where embeddings do not learn, as in LoRA. Scores begin at random.
    """
    if config.init_from is None:
        return None
    found, tensors = gpt2.read_folder(Path(config.init_from))
    # laid out as a fresh model's: another layout rounds otherwise, and a run that goes on has a fresh one's
    tensors = {name: tensors.pop(name).clone(memory_format=torch.contiguous_format) for name in list(tensors)}
    chance = torch.Generator().manual_seed(config.seed)
    new = model_config.vocab_size - found.vocab_size
    if new > 0:
        wte = tensors["wte.weight"]
        apart = wte.std(dim=0) * torch.randn(new, model_config.n_embd, generator=chance)
        tensors["wte.weight"] = torch.cat([wte, wte.mean(dim=0) + apart])
    if found.num_labels != model_config.num_labels:
        tensors.pop(gpt2.SCORE, None)
    if model_config.num_labels and gpt2.SCORE not in tensors:
        tensors[gpt2.SCORE] = 0.02 * torch.randn(model_config.num_labels, model_config.n_embd, generator=chance)
    return tensors
