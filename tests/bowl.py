"""An objective for the tests of mingpt.tuning.loop: `python tests/bowl.py FOLDER WORKERS TRIALS SECONDS [DASK]`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from mingpt.tuning import Float, Int, Space, Study
from mingpt.tuning.journal import Journal
from mingpt.tuning.loop import dask_cluster, process_pool, run_trials

STEPS = 8
SPACE = Space({"x": Float(-1, 1), "n": Int(0, 99)})


class Bowl:
    """Appends a value to a trial's file at each step, from where it was interrupted. `bad` says what goes wrong."""

    def __init__(self, folder: Path, seconds: float = 0.01, bad: dict[int, str] | None = None):
        self.folder, self.seconds, self.bad = folder, seconds, bad or {}

    def path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number}.{suffix}"

    def __call__(self, number: int, config: dict) -> bool:
        with open(self.path(number, "pids"), "a", encoding="utf-8") as file:
            print(os.getpid(), file=file)
        if self.bad.get(number) == "raises":
            raise RuntimeError("too bad\nindeed")
        if self.bad.get(number) == "disk is full":
            raise OSError(28, "No space left on device")
        while (step := len(self.read(number))) < STEPS:
            if self.path(number, "stop").exists():
                return False
            if self.bad.get(number) == "dies" and step == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
            value = (
                float("nan") if self.bad.get(number) == "nan" else config["x"] ** 2 + config["n"] / 99 + 1 / (step + 1)
            )
            with open(self.path(number, "txt"), "a", encoding="utf-8") as file:
                file.write(f"{value!r}\n")
        return True

    def read(self, number: int) -> list[float]:
        path = self.path(number, "txt")
        return [float(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def curve(self, trial) -> list[tuple[int, float]]:
        return list(enumerate(self.read(trial.number), start=1))

    def prepare(self, trial) -> None:
        self.path(trial.number, "stop").unlink(missing_ok=True)

    def stop(self, trial) -> None:
        self.path(trial.number, "stop").touch()

    def attributes(self, trial) -> dict:
        return {"steps": len(self.read(trial.number))}


def run_study(folder: Path, workers: int, limit: int, executor=None, strategy="random", should_stop=None, **options):
    """The trials of a study of a Bowl, which is resumed."""
    with contextlib.closing(Journal(folder)) as journal:
        study = Study(SPACE, strategy, seed=1, pruner="forecast", journal=journal)
        executor = executor or partial(process_pool, workers)
        objective = Bowl(folder, **options)
        may_start, never = lambda: len(study.trials) < limit, lambda: False
        run_trials(study, objective, executor, workers, may_start, should_stop or never)
        return study.trials


if __name__ == "__main__":
    folder, workers, limit, seconds, *address = sys.argv[1:]
    executor = partial(dask_cluster, address[0]) if address else None
    pressed: list[bool] = []
    signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    options = {"seconds": float(seconds), "should_stop": lambda: bool(pressed)}
    run_study(Path(folder), int(workers), int(limit), executor, **options)
