"""From what the user asked for to a run that is ready to train: data, facts, settings, model, folder.

asked -> data -> facts -> resolve -> task -> state -> folder
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mingpt import distributed, files, pretrained
from mingpt.checkpoint import RunFolder, settings_to_resume
from mingpt.config import TASKS, Architecture, GPTConfig, TrainConfig, Training
from mingpt.data.tokenizer import load_tokenizer
from mingpt.device import choose_device, choose_dtype, default_threads
from mingpt.errors import UserError
from mingpt.model import GPT
from mingpt.resolve import Facts, resolve
from mingpt.tasks.base import Data, Task
from mingpt.trainer import State, micro_batches

WARM_UP, TIMED, OVERHEAD = 2, 4, 1.2  # passes; time of a run relative to that of its passes alone


@dataclass(frozen=True)
class Run:
    """Everything that `trainer.train` needs."""

    config: TrainConfig
    task: Task
    folder: RunFolder
    state: State


def load_task(name: str) -> type[Task]:
    """The class of a task by its name in config.TASKS."""
    module, _, class_name = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), class_name)


def locate_base(asked: Training) -> Path | None:
    """The folder of the model to start from."""
    if asked.init_from is None:
        return None
    try:
        return pretrained.locate(asked.init_from)
    except UserError as error:
        raise UserError(*(f"--init_from {problem}" for problem in error.problems)) from None


def read_facts(asked: Training) -> tuple[Data, Facts]:
    """Read the data, and gather what `resolve` needs to know."""
    task, base = load_task(asked.task), locate_base(asked)
    base_config = None if base is None else pretrained.read_config(base)
    data = task.read(asked, None if base is None else load_tokenizer(base))
    device = choose_device(asked.device)
    return data, Facts(
        task=task,
        examples=data.examples,
        tokens=data.tokens,
        from_data=data.defaults,
        base=base_config,
        device=device,
        dtype=choose_dtype(asked.dtype, device),
        threads=default_threads(distributed.local_world_size()) * distributed.local_world_size(),
    )


def build_model_config(config: Training, task: Task, base: GPTConfig | None) -> GPTConfig:
    """The model of a run: every architecture field of the settings, and room for the task's tokens and labels.

    A base model keeps its positions, and its vocabulary where that is larger.
    """
    base = base or GPTConfig(vocab_size=1, block_size=config.block_size)
    architecture = {name: getattr(config, name) for name in Architecture.model_fields}
    vocab_size = max(task.tokenizer.vocab_size, base.vocab_size)
    sizes = {"block_size": base.block_size, "vocab_size": vocab_size, "num_labels": task.num_labels}
    return base.model_copy(update=architecture | sizes)


def starting_weights(folder: Path, config: GPTConfig, seed: int) -> dict[str, Tensor]:
    """The tensors of the model in `folder` as a model of `config` starts with them.

    New tokens start at random around the mean of the others (Hewitt 2021, "Initializing new word embeddings"), with
    their standard deviation, so that they differ even where embeddings are frozen, as with LoRA. A new score head
    starts at random.
    """
    base, tensors = pretrained.read_folder(GPT, folder)
    # in the memory layout of a new model, which a resumed run has: another layout rounds differently
    tensors = {name: tensors.pop(name).clone(memory_format=torch.contiguous_format) for name in list(tensors)}
    generator = torch.Generator().manual_seed(seed)
    new_tokens = config.vocab_size - base.vocab_size
    if new_tokens > 0:
        wte = tensors["wte.weight"]
        noise = wte.std(dim=0) * torch.randn(new_tokens, config.n_embd, generator=generator)
        tensors["wte.weight"] = torch.cat([wte, wte.mean(dim=0) + noise])
    if base.num_labels != config.num_labels:
        tensors.pop(pretrained.SCORE, None)
    if config.num_labels and pretrained.SCORE not in tensors:
        tensors[pretrained.SCORE] = 0.02 * torch.randn(config.num_labels, config.n_embd, generator=generator)
    return tensors


def hash_weights(folder: Path) -> str:
    """The hash of a model's weights, by which a run is resumed only with the model it started from."""
    return files.sha256(*sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin")))


def prepare_machine(config: TrainConfig) -> None:
    """Threads and precision. Raises UserError where the processes of torchrun do not fit."""
    parts = config.gradient_accumulation * distributed.world_size()
    if config.batch_size % parts:
        divisors = f"{distributed.world_size()} processes x --gradient_accumulation {config.gradient_accumulation}"
        raise UserError(f"--batch_size {config.batch_size}: is not divisible by {divisors}")
    local = distributed.local_world_size()
    available = {"cuda": torch.cuda.device_count(), "mps": 1}.get(config.device, local)
    if local > available:
        raise UserError(f"--device {config.device}: {local} processes need as many, and this machine has {available}")
    torch.set_num_threads(max(1, config.threads // local))
    torch.set_float32_matmul_precision("high" if config.device == "cuda" else "highest")  # TF32


def start(asked: TrainConfig) -> Run:
    """A new run in a new folder."""
    data, facts = distributed.local_main_first(lambda: read_facts(asked))
    config = resolve(asked, facts)
    prepare_machine(config)
    task = load_task(config.task)(config, data)
    model_config = build_model_config(config, task, facts.base)
    base = locate_base(config)

    def initialize() -> State:
        tensors = None if base is None else starting_weights(base, model_config, config.seed)
        return State(config, model_config, tensors)

    state = distributed.call_on_all_ranks(initialize)  # before there is a folder: it may not fit in memory
    folder = RunFolder.create(config.out_dir, data.name)
    if distributed.is_main():
        folder.save_settings(config, task, model_config, None if base is None else hash_weights(base))
    return Run(config, task, folder, state)


def resume(asked: TrainConfig) -> Run:
    """An earlier run, from its last state. Raises UserError where its files or its data are not the same."""
    folder = RunFolder.open(asked.out_dir)
    recorded, sums = distributed.call_on_all_ranks(folder.load_settings)
    config = settings_to_resume(asked, recorded)
    choose_device(config.device)  # raises UserError where it is not available here
    prepare_machine(config)
    data = distributed.local_main_first(lambda: load_task(config.task).read(config, load_tokenizer(folder.path)))
    if data.sha256 != sums["data_sha256"]:
        raise UserError(f"--data {config.data}: is not the data that the run in {folder.path} began with")
    task = load_task(config.task)(config, data)
    model_config = build_model_config(config, task, pretrained.read_config(folder.path))
    base_sha256, is_moved = sums["base_sha256"], config.init_from != recorded.init_from
    state = distributed.call_on_all_ranks(lambda: load_state(folder, config, model_config, base_sha256, is_moved))
    if distributed.is_main():
        if folder.has_state():  # the process may have been killed between state and metrics
            folder.save_metrics(state.metrics)
        folder.save_settings(config, task, model_config, base_sha256)
    return Run(config, task, folder, state)


def load_state(
    folder: RunFolder, config: TrainConfig, model_config: GPTConfig, base_sha256: str | None, is_moved: bool
) -> State:
    """The last state of a run; its first where there is none yet. `is_moved`: the base model has another path."""
    tensors = None
    if config.init_from is not None and (not folder.has_state() or is_moved):
        base = locate_base(config)
        if hash_weights(base) != base_sha256:
            raise UserError(
                f"--init_from {config.init_from}: is not the model that the run in {folder.path} began with"
            )
        tensors = None if folder.has_state() else starting_weights(base, model_config, config.seed)
    state = State(config, model_config, tensors)
    if folder.has_state():
        saved = folder.load_state()
        try:
            state.load_state_dict(saved)
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            problem = str(error).splitlines()[0]
            raise UserError(f"{folder.path / 'state.pt'}: is the state of another model ({problem})") from None
        if state.progress.best_step:
            pretrained.read_folder(GPT, folder.path)  # raises UserError where the best checkpoint is corrupt
    return state


def estimate_seconds(run: Run) -> float:
    """About how long the remaining updates take, from passes over a few micro-batches."""
    config, task, model = run.config, run.task, run.state.model
    autocast = torch.autocast(config.device, torch.bfloat16, enabled=config.dtype == "bfloat16")
    for step in range(WARM_UP + TIMED):
        if step == WARM_UP:
            start = time.perf_counter()
        _, micro_batch = next(micro_batches(task.batch(step), config, model))
        with autocast:
            loss = task.loss(model, *micro_batch)
        loss.backward()
        loss.item()  # waits for a GPU
    seconds = (time.perf_counter() - start) / TIMED
    model.zero_grad()
    return (config.max_iters - run.state.progress.step) * config.gradient_accumulation * seconds * OVERHEAD
