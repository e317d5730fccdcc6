"""A run's folder: one writer, files that are always whole, and what it takes to go on after a kill.

    config.json, model.safetensors     the best model so far; open in transformers as they are
                                       (config.json is there from the start)
    tokenizer.json, tokenizer_config.json, and of pieces of words vocab.json and merges.txt
    train.json                         every flag as resolved, and the sha256 of the data
    metrics.jsonl                      a line per evaluation
    loss.png                           its picture
    state.pt                           the last state: weights, optimizer, progress, metrics
    lock                               held by the process that writes here

An evaluation writes the model, if it is the best, then the state, then the metrics. Killed between
two of these, a run goes on from the state that is there and writes the same bytes again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mingpt import files, gpt2, lora
from mingpt.config import TrainConfig
from mingpt.data.documents import located
from mingpt.errors import UserError
from mingpt.model import GPT
from mingpt.settings import as_kind, shown, type_of

if TYPE_CHECKING:
    from mingpt.tasks import Task
    from mingpt.trainer import State

Sums = dict[str, str]
MAY_BE_NONE = ("init_from", "label_column")
PLACE = ("out_dir", "resume", "config")  # flags that say where, not what: a folder may be moved


class Run:
    """A folder that this process alone writes to, until `close` or its death."""

    def __init__(self, folder: Path):
        """Take the lock. Raises UserError where another process holds it or the folder cannot be written."""
        self.folder = folder
        try:
            self.lock = files.lock(folder / "lock")
        except files.Locked:
            raise UserError(f"--out_dir {folder}: another process is writing to it") from None
        except OSError as error:
            raise UserError(f"--out_dir {folder}: cannot be written ({error.strerror})") from None
        for path in folder.iterdir():
            if files.is_leftover(path):
                path.unlink()

    @classmethod
    def create(cls, out_dir: str | None, name: str) -> Run:
        """A new folder: out_dir, or the first of out/NAME, out/NAME-2, ... that is free. Never one that holds files."""
        try:
            if out_dir is not None:
                return cls.create_in(Path(out_dir))
            Path("out").mkdir(exist_ok=True)
            for number in itertools.count(1):
                folder = Path("out") / (name if number == 1 else f"{name}-{number}")
                with contextlib.suppress(FileExistsError):
                    folder.mkdir()
                    return cls(folder)
        except OSError as error:
            raise UserError(f"--out_dir {out_dir or 'out'}: cannot be written ({error.strerror})") from None
        raise AssertionError("unreachable: numbers do not end")

    @classmethod
    def create_in(cls, folder: Path) -> Run:
        folder.mkdir(parents=True, exist_ok=True)
        check_is_free(folder)  # before there is a lock in it
        run = cls(folder)
        try:
            check_is_free(folder)  # again: another process may have had the lock before
        except UserError:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, out_dir: str | None) -> tuple[Run, TrainConfig, Sums]:
        """An earlier run's folder, its settings and the sums of what it learns from. Raises UserError where none is."""
        if out_dir is None:
            raise UserError("--resume: needs --out_dir, the folder of the run to go on with")
        folder = Path(out_dir)
        path = folder / "train.json"
        try:
            if (folder / "lock").exists() and is_free(folder):
                reason = "was stopped before its settings were saved; start it again without --resume"
                raise UserError(f"--resume: the run in {out_dir} {reason}")
            path.stat()
        except OSError as error:
            raise UserError(f"--resume: {out_dir} holds no run ({path}: {error.strerror})") from None
        return cls(folder), *read_settings(path)

    def close(self) -> None:
        """Let another process write here."""
        self.lock.close()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Around every write: a full disk ends the run with a line, and leaves whole what was saved before."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.folder}: could not be saved ({error.strerror or error}); what was saved before is whole, "
                f"and goes on with --resume --out_dir {self.folder}"
            ) from None

    def restore(self, config: TrainConfig, task: Task, state: State, sums: Sums) -> bool:
        """Bring a fresh state to where the run was; False where it had saved none.

        Raises UserError where the data or the tokenizer are others than those of `sums`, or a file of the
        folder is torn, missing or of another model: then nothing goes on, and nothing is overwritten.
        """
        found = sums_of(task)
        if found["text_sha256"] != sums["text_sha256"]:
            raise UserError(f"--data {config.data}: is not the text that the run in {self.folder} began with")
        if found["tokenizer_sha256"] != sums["tokenizer_sha256"]:
            raise UserError(f"{self.folder / 'tokenizer.json'}: is another run's")
        if any(getattr(state.model.config, name) != getattr(config, name) for name in ("n_layer", "n_head", "n_embd")):
            raise UserError(f"{self.folder / 'config.json'}: is another run's")
        path = self.folder / "state.pt"
        saved = self.load_state()
        if saved is None:
            metrics = self.folder / "metrics.jsonl"
            if metrics.exists() and metrics.stat().st_size:  # they are written after a state
                raise UserError(f"{path}: is missing; without it the run in {self.folder} cannot go on")
            return False
        try:
            state.load_state_dict(saved)
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: is another model's ({first_line(error)})") from None
        if state.progress.best_step:
            gpt2.read_folder(self.folder)  # where it is torn, that is said now
        self.save_metrics(state.metrics)  # it may have been killed between a state and its metrics
        return True

    def save_settings(self, config: TrainConfig, task: Task) -> None:
        settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in PLACE}
        settings["data"] = located(config.data)
        with self.saving():
            task.tokenizer.save(self.folder)
            gpt2.write_config(self.folder, task.model_config(), task.tokenizer.end_of_text, task.settings())
            files.write_json(self.folder / "train.json", settings | sums_of(task))

    def save_model(self, model: GPT, task: Task) -> None:
        with self.saving():
            end, more = task.tokenizer.end_of_text, task.settings()
            gpt2.write_folder(self.folder, model.config, lora.merged(model), end, more)

    def save_state(self, state: dict[str, Any]) -> None:
        with self.saving(), files.written_whole(self.folder / "state.pt") as beside:
            try:
                torch.save(state, beside)
            except RuntimeError as error:  # what torch makes of a full disk
                raise OSError(str(error)) from None

    def has_state(self) -> bool:
        """Whether there is more to go on from than the beginning."""
        return (self.folder / "state.pt").exists()

    def load_state(self) -> dict[str, Any] | None:
        """The last state, on the CPU; None where the run was killed before its first."""
        path = self.folder / "state.pt"
        if not self.has_state():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torn in different places, a file raises errors that have no class in common
            raise UserError(f"{path}: is torn or no state of a run ({type(error).__name__})") from None

    def save_metrics(self, rows: list[dict[str, float]]) -> None:
        with self.saving(), files.written_whole(self.folder / "metrics.jsonl") as beside:
            beside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def draw(self, rows: list[dict[str, float]], best_step: int) -> str:
        """Draw loss.png of some rows of metrics, and mark the best; say where it is, or how to get it."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return 'none; pip install -e ".[plot]" draws one'
        if not rows:
            return "none before the first evaluation"
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        steps = [row["step"] for row in rows]
        best = next(row for row in rows if row["step"] == best_step)
        axes.plot(steps, [row["train_loss"] for row in rows], color="0.6", label="training, mean since the last point")
        axes.plot(steps, [row["val_loss"] for row in rows], color="C0", label="validation")
        axes.plot(best["step"], best["val_loss"], "o", color="C0", label="the model that is kept")
        axes.annotate(
            f"{best['val_loss']:.3f}",
            (best["step"], best["val_loss"]),
            (0, -14),
            textcoords="offset points",
            ha="center",
        )
        axes.set(xlabel="updates", ylabel="loss", xlim=(0, None))
        axes.set_title(str(self.folder), parse_math=False)  # a $ in a name is no formula
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        with self.saving(), files.written_whole(self.folder / "loss.png") as beside, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for a letter that the font lacks
            figure.savefig(beside, format="png", dpi=150)
        return str(self.folder / "loss.png")


def is_free(folder: Path) -> bool:
    """Whether a folder holds nothing but a lock and half a file of a process that was killed."""
    return all(path.name == "lock" or files.is_leftover(path) for path in folder.iterdir())


def check_is_free(folder: Path) -> None:
    if not is_free(folder):
        what = "a run; --resume goes on with it" if (folder / "train.json").exists() else "files"
        raise UserError(f"--out_dir {folder}: already holds {what}, or name another folder")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def sums_of(task: Task) -> Sums:
    """What tells the data and the tokenizer of a run from others."""
    return {"text_sha256": task.sha256, "tokenizer_sha256": task.tokenizer.vocabulary.sha256()}


def read_settings(path: Path) -> tuple[TrainConfig, Sums]:
    """The settings and sums in a train.json. Raises UserError where it does not hold them."""
    try:
        recorded = files.read_json_object(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: is torn or no JSON object ({error})") from None
    names = [f.name for f in dataclasses.fields(TrainConfig) if f.name not in PLACE]
    sums = ("text_sha256", "tokenizer_sha256")
    missing = [name for name in [*names, *sums] if recorded.get(name) is None and name not in MAY_BE_NONE]
    if missing:
        raise UserError(f"{path}: is of another program or version; it lacks {', '.join(missing)}")
    config = TrainConfig(**{name: as_kind(type_of(TrainConfig, name), recorded.get(name)) for name in names})
    problems = config.problems()
    if problems:
        raise UserError(*(f"{path}: {problem.removeprefix('--')}" for problem in problems))
    return config, {name: recorded[name] for name in sums}


def settings_to_go_on(asked: TrainConfig, given: set[str], recorded: TrainConfig) -> TrainConfig:
    """The recorded settings, with max_iters grown or the data found elsewhere if asked.

    Raises UserError where a flag given says otherwise. That the data are the same, `restore` checks.
    """
    changes, problems = {}, []
    for name in sorted(given - set(PLACE)):
        value, was = getattr(asked, name), getattr(recorded, name)
        if value in (was, "auto"):
            continue
        if name == "data" or (name == "max_iters" and value > was):
            changes[name] = value
        else:
            may = "more may follow, never fewer" if name == "max_iters" else "it goes on as it began"
            problems.append(f"--{name} {shown(value)}: the run in {asked.out_dir} has {shown(was)}, and {may}")
    if problems:
        raise UserError(*problems)
    return dataclasses.replace(recorded, out_dir=asked.out_dir, **changes)
