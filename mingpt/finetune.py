"""Starting from a model that is already there: what its folder decides, and the defaults that fit fine-tuning."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from mingpt import gpt2, hub
from mingpt.config import EPOCHS, FINE_TUNING, Training
from mingpt.errors import UserError
from mingpt.settings import shown

if TYPE_CHECKING:
    from torch import Tensor

    from mingpt.tasks import Task

SHAPE = ("n_layer", "n_head", "n_embd")

T = TypeVar("T", bound=Training)


def with_model(asked: T, given: set[str]) -> T:
    """The settings with init_from as a folder, its model's shape, and fine-tuning's defaults for what was not given.

    block_size may be shorter than the model's: updates then see shorter windows, and the model keeps its
    positions. Raises UserError where there is no such model, or a flag asks for another shape.
    """
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
    """The settings with as many updates as a few passes over the data take, where fine-tuning was not told."""
    if asked.init_from is None or asked.max_iters is not None:
        return asked
    return dataclasses.replace(asked, max_iters=EPOCHS * task.updates_in_epoch())


def starting_weights(config: Training) -> dict[str, Tensor] | None:
    """The tensors that fine-tuning starts from, to be changed; None where a model is trained from scratch."""
    if config.init_from is None:
        return None
    _, tensors = gpt2.read_folder(Path(config.init_from))
    # laid out as a fresh model's: another layout rounds otherwise, and a run that goes on has a fresh one's
    return {name: tensors.pop(name).clone(memory_format=torch.contiguous_format) for name in list(tensors)}
