"""A run's folder: one writer, files that are always complete, and what it takes to resume after a kill.

    config.json, model.safetensors     the best checkpoint, in GPT-2's format (config.json from the start)
    tokenizer.json, ...                its tokenizer
    train.json                         every setting as resolved, and the sha256 of the data
    metrics.jsonl, loss.png            a line per evaluation, with a sample of generated text, and their plot
    state.pt                           the last state: weights, optimizer, progress, metrics
    lock                               held by the process that writes here

An evaluation writes the model, if it is the best, then the state, then the metrics. Killed between two of these, a run
resumes from the state that is there and writes the same bytes again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import torch

from mingpt import distributed, files, lora, pretrained
from mingpt.config import GPTConfig, TrainConfig
from mingpt.data.sources import absolute
from mingpt.errors import UserError
from mingpt.model import GPT
from mingpt.settings import format_value
from mingpt.tasks.base import Task

FORMAT = 2  # of train.json; a run of another format cannot be resumed
LOCATION = ("out_dir", "resume", "config")  # settings that say where, not what: a folder may be moved


class RunFolder:
    """A folder that this process alone writes to, until `close` or its death; of several ranks (distributed.py), only
    the first writes. Raises OSError where it cannot.
    """

    def __init__(self, path: Path):
        """Take the lock. Raises UserError where another run holds it."""
        self.path = path
        distributed.call_on_all_ranks(self.take_lock)

    def take_lock(self) -> None:
        self.lock = None
        if not distributed.is_main():
            return
        try:
            self.lock = files.lock(self.path / "lock")
        except BlockingIOError:
            raise UserError(f"--out_dir {self.path}: is in use by another process") from None
        files.remove_temporary_files(self.path)

    @classmethod
    def create(cls, out_dir: str | None, name: str) -> RunFolder:
        """A new folder: out_dir, or the first of out/NAME, out/NAME-2, ... that does not exist."""
        return cls(distributed.broadcast_from_main(lambda: create_folder(out_dir, name)))

    @classmethod
    def open(cls, out_dir: str | None) -> RunFolder:
        """The folder of a run to resume."""
        return cls(distributed.call_on_all_ranks(lambda: find_run(out_dir)))

    def close(self) -> None:
        if self.lock is not None:
            self.lock.close()

    def save_settings(self, config: TrainConfig, task: Task, model_config: GPTConfig, base_sha256: str | None) -> None:
        settings = {name: value for name, value in config if name not in LOCATION}
        if config.init_from is not None:
            settings["init_from"] = str(pretrained.locate(config.init_from).resolve())
        settings |= {"data": absolute(config.data), "data_sha256": task.data.sha256, "base_sha256": base_sha256}
        task.tokenizer.save(self.path, model_max_length=model_config.block_size, truncation_side="left")
        pretrained.write_config(self.path, model_config, task.tokenizer.eos_id, task.config_extra())
        files.write_json(self.path / "train.json", {"format": FORMAT, **settings})

    def load_settings(self) -> tuple[TrainConfig, dict[str, Any]]:
        """The settings in train.json, and what it says beside them. A setting it lacks has its default."""
        path = self.path / "train.json"
        recorded = files.read_json(path)
        if recorded.get("format") != FORMAT:
            use = "its model can be used, also by --init_from"
            raise UserError(f"--resume: {path} is of another version of mingpt and cannot be resumed; {use}")
        settings = {name: recorded.pop(name) for name in TrainConfig.model_fields if name in recorded}
        try:
            return TrainConfig(**settings), recorded
        except UserError as error:
            raise UserError(*(f"{path}: {problem.removeprefix('--')}" for problem in error.problems)) from None

    def save_model(self, model: GPT, task: Task) -> None:
        tensors = lora.merged_state_dict(model)
        pretrained.write_folder(self.path, model.config, tensors, task.tokenizer.eos_id, task.config_extra())

    def save_state(self, state: dict[str, Any]) -> None:
        with files.atomic_write(self.path / "state.pt") as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # torch's error for a full disk
                raise OSError(f"{self.path / 'state.pt'} cannot be written ({error})") from None

    def has_state(self) -> bool:
        return (self.path / "state.pt").exists()

    def load_state(self) -> dict[str, Any]:
        """The last state, on the CPU."""
        path = self.path / "state.pt"
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # the errors of a corrupt file have no class in common
            raise UserError(f"{path}: is corrupt or not a state of a run ({type(error).__name__})") from None

    def save_metrics(self, metrics: list[dict[str, Any]]) -> None:
        with files.atomic_write(self.path / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in metrics), encoding="utf-8")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, which may be in progress; none where there is no run."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def create_folder(out_dir: str | None, name: str) -> Path:
    """The path of a new folder. Raises UserError where it has files."""
    path = create_numbered(Path("out"), name) if out_dir is None else Path(out_dir)
    path.mkdir(parents=True, exist_ok=True)
    if not all(file.name == "lock" or files.is_temporary(file) for file in path.iterdir()):
        content = "a run; add --resume to resume it, or" if (path / "train.json").exists() else "files;"
        raise UserError(f"--out_dir {path}: contains {content} name another folder")
    return path


def find_run(out_dir: str | None) -> Path:
    """The path of a run. Raises UserError where there is none."""
    if out_dir is None:
        raise UserError("--resume: needs --out_dir, the folder of the run")
    if not (Path(out_dir) / "train.json").exists():
        raise UserError(f"--resume: {out_dir} contains no run (train.json is missing); start it without --resume")
    return Path(out_dir)


def create_numbered(parent: Path, name: str) -> Path:
    """A new folder NAME, NAME-2, NAME-3, ... in `parent`."""
    for number in itertools.count(1):
        path = parent / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError("unreachable: the numbers do not end")


def settings_to_resume(asked: TrainConfig, recorded: TrainConfig) -> TrainConfig:
    """The recorded settings with what may change: more updates, and other paths to the same data or base model.

    Raises UserError where a flag contradicts the recorded settings. That the files are the same is checked by run.py.
    """
    changes: dict[str, Any] = {}
    problems = []
    for name, value in sorted(asked.given().items()):
        old = getattr(recorded, name)
        if name in LOCATION or value in (old, "auto"):
            continue
        if (name in ("data", "init_from") and old is not None) or (name == "max_iters" and value > old):
            changes[name] = value
        else:
            rule = "it can only grow" if name == "max_iters" else "it cannot change"
            old_value = f"the run in {asked.out_dir} has {format_value(old)}"
            problems.append(f"--{name} {format_value(value)}: {old_value}, {rule}")
    if problems:
        raise UserError(*problems)
    return recorded.model_copy(update={"out_dir": asked.out_dir, **changes})
