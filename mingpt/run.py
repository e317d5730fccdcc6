"""A run's folder: one writer, files that are always whole, and what it takes to go on after a kill.

    config.json, model.safetensors     the best model so far; open in transformers as they are
    tokenizer.json, tokenizer_config.json
    train.json                         every flag as resolved, and the sha256 of the text
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
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mingpt import files, gpt2
from mingpt.config import TrainConfig
from mingpt.data.tokenizer import load_tokenizer
from mingpt.errors import UserError
from mingpt.model import GPT

if TYPE_CHECKING:
    from mingpt.tasks import TextTask
    from mingpt.trainer import State

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
            if is_leftover(path):
                path.unlink()

    @classmethod
    def create(cls, out_dir: str | None, name: str) -> Run:
        """A new folder: out_dir, or the first of out/NAME, out/NAME-2, ... that is free. Never one that holds files."""
        try:
            if out_dir is not None:
                folder = Path(out_dir)
                folder.mkdir(parents=True, exist_ok=True)
                if any(path.name != "lock" and not is_leftover(path) for path in folder.iterdir()):
                    what = "a run; --resume goes on with it" if (folder / "train.json").exists() else "files"
                    raise UserError(f"--out_dir {out_dir}: already holds {what}, or name another folder")
                return cls(folder)
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
    def open(cls, out_dir: str | None) -> tuple[Run, dict[str, Any]]:
        """An earlier run's folder and its train.json. Raises UserError where none is."""
        if out_dir is None:
            raise UserError("--resume: needs --out_dir, the folder of the run to go on with")
        path = Path(out_dir) / "train.json"
        try:
            recorded = json.loads(path.read_text(encoding="utf-8"))
            missing = {f.name for f in dataclasses.fields(TrainConfig)} - {*recorded, *PLACE}
        except OSError as error:
            raise UserError(f"--resume: {out_dir} holds no run ({path}: {error.strerror})") from None
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: is torn or no JSON object ({error})") from None
        if missing:
            raise UserError(f"{path}: is of another program or version; it lacks {', '.join(sorted(missing))}")
        return cls(Path(out_dir)), recorded

    def close(self) -> None:
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

    def restore(self, state: State, task: TextTask, recorded: dict[str, Any]) -> bool:
        """Bring a fresh state to where the run was; False where it had saved none.

        Raises UserError where the text is another, or a file of the folder is torn, missing or of
        another model: then nothing goes on, and nothing is overwritten.
        """
        if task.data.sha256 != recorded.get("text_sha256"):
            raise UserError(f"--data {recorded['data']}: is not the text that the run in {self.folder} began with")
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
            raise UserError(f"{path}: is another model's ({str(error).splitlines()[0]})") from None
        if load_tokenizer(self.folder).pieces != task.tokenizer.pieces:
            raise UserError(f"{self.folder / 'tokenizer.json'}: is another run's")
        if state.progress.best_step:
            gpt2.read_folder(self.folder)
        return True

    def save_settings(self, config: TrainConfig, task: TextTask) -> None:
        settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in PLACE}
        settings["data"] = located(config.data)
        with self.saving():
            files.write_json(self.folder / "train.json", settings | {"text_sha256": task.data.sha256})
            task.tokenizer.save(self.folder)

    def save_model(self, model: GPT, end_of_text: int | None) -> None:
        with self.saving():
            gpt2.write_folder(self.folder, model.config, model.state_dict(), end_of_text)

    def save_state(self, state: dict[str, Any]) -> None:
        with self.saving(), files.written_whole(self.folder / "state.pt") as beside:
            try:
                torch.save(state, beside)
            except RuntimeError as error:  # what torch makes of a full disk
                raise OSError(str(error)) from None

    def load_state(self) -> dict[str, Any] | None:
        """The last state, on the CPU; None where the run was killed before its first."""
        path = self.folder / "state.pt"
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: is torn or no state of a run ({reason})") from None

    def save_metrics(self, rows: list[dict[str, float]]) -> None:
        with self.saving(), files.written_whole(self.folder / "metrics.jsonl") as beside:
            beside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def draw(self, rows: list[dict[str, float]]) -> str:
        """Draw loss.png of some rows of metrics and say where it is, or how to get it."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return 'none; pip install -e ".[plot]" draws one'
        if not rows:
            return "none before the first evaluation"
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        steps = [row["step"] for row in rows]
        best = min(rows, key=lambda row: row["val_loss"])
        axes.plot(steps, [row["train_loss"] for row in rows], color="0.6", label="training, mean since the last point")
        axes.plot(steps, [row["val_loss"] for row in rows], color="C0", label="validation")
        axes.plot(best["step"], best["val_loss"], "o", color="C0")
        axes.annotate(
            f"{best['val_loss']:.3f}",
            (best["step"], best["val_loss"]),
            (0, -14),
            textcoords="offset points",
            ha="center",
        )
        axes.set(xlabel="updates", ylabel="loss", title=str(self.folder), xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        with self.saving(), files.written_whole(self.folder / "loss.png") as beside:
            figure.savefig(beside, format="png", dpi=150)
        return str(self.folder / "loss.png")


def is_leftover(path: Path) -> bool:
    """Half a file, of a process that was killed while writing it."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def settings_to_go_on(asked: TrainConfig, given: set[str], recorded: dict[str, Any]) -> TrainConfig:
    """The recorded settings, with max_iters grown if asked. UserError where a flag given says otherwise."""
    names = {f.name for f in dataclasses.fields(TrainConfig)} - set(PLACE)
    config = dataclasses.replace(asked, **{name: recorded[name] for name in names})
    problems = config.problems()
    for name in sorted(given & names):
        value, was = getattr(asked, name), recorded[name]
        if name == "data":
            value = located(value)
        if value == was or value == "auto":
            continue
        if name == "max_iters" and value > was:
            config = dataclasses.replace(config, max_iters=value)
        else:
            may = "more may follow, never fewer" if name == "max_iters" else "it goes on as it began"
            problems.append(f"--{name} {value}: the run in {asked.out_dir} has {was}, and {may}")
    if problems:
        raise UserError(*problems)
    return config


def located(data: str) -> str:
    """--data as it is found from any folder: a path in full, a name as it is."""
    return data if data in ("pydoc", "shakespeare") else str(Path(data).resolve())
