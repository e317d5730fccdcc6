"""A table of real runs of this project's own training: a full grid of levels over six flags, two seeds each.

    python tests/benchmarks/table.py [--processes 2] [--output tests/benchmarks/table.json]

Made once, in about 16 minutes of two idle cores; a search is then measured on it in seconds (tuning.py). Each run
is one of `python train.py` on the first 50,000 characters of Python's manual, with equal tokens
whatever the batch size, so that a smaller batch makes more updates. Kept of each: bits per byte at
ten evaluations, and the seconds of processor time on one thread, evaluations included, which other
work on the machine changes less than seconds of the clock.

Finished runs are kept in a file of lines beside the output until all are there; started again, the
script makes those that are missing, and says what is in the table once it is whole.

    table.json    flags    {name: levels}, in the order of the grid, the last flag varying fastest
                  rows     for each setting, for each seed: [seconds, [bits per byte, ...]];
                           the curve of a run that diverged ends early, with null
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FILE = HERE / "table.json"
# Learning rates by fours: too low for every optimizer at one end, and far too high at the other.
FLAGS: dict[str, list[Any]] = {
    "learning_rate": [0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096],
    "optimizer": ["adamw", "sgd", "muon"],
    "n_layer": [1, 3],
    "batch_size": [4, 8, 16],
    "dropout": [0.0, 0.1],
    "schedule": ["linear", "constant"],
}
FIXED = dict(
    **dict(n_embd=32, n_head=2, block_size=32, attention="fused", tokenizer="char"),
    **dict(threads=1, device="cpu", dtype="float32"),
)
SEEDS = (0, 1)
CHARACTERS = 50_000
TOKENS = 49_152  # 384, 192 or 96 updates
EVALUATIONS = 10

Run = tuple[float, list[float | None]]  # seconds, and the curve


@dataclass
class Setting:
    """A setting of the table, as the mean of its seeds."""

    config: dict[str, Any]
    value: float  # the least bits per byte of the curve; nan where a seed diverged
    curve: list[float]  # at equal shares of the run; as far as all seeds came
    seconds: float
    deviation: float  # standard, of the seeds' own least values


def settings(flags: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """The settings of the grid, in the order of the table."""
    for levels in itertools.product(*flags.values()):
        yield dict(zip(flags, levels, strict=True))


def read(path: Path = FILE) -> tuple[dict[str, list[Any]], list[Setting]]:
    """The flags with their levels, and every setting."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = zip(settings(content["flags"]), content["rows"], strict=True)
    return content["flags"], [summary(config, runs) for config, runs in rows]


def summary(config: dict[str, Any], runs: list[Run]) -> Setting:
    curves = [[value for value in curve if value is not None] for _, curve in runs]
    diverged = any(None in curve for _, curve in runs)
    curve = [statistics.fmean(values) for values in zip(*curves, strict=False)]
    return Setting(
        config,
        value=math.nan if diverged else min(curve),
        curve=curve,
        seconds=statistics.fmean(seconds for seconds, _ in runs),
        deviation=math.nan if diverged else statistics.stdev(min(values) for values in curves),
    )


def description(path: Path = FILE) -> str:
    """What is in the table, in a few lines."""
    flags, found = read(path)
    whole = sorted((setting for setting in found if not math.isnan(setting.value)), key=lambda s: s.value)
    values = [setting.value for setting in whole]
    best = ", ".join(f"{name} {value}" for name, value in whole[0].config.items())
    lines = [
        f"{path}: {len(found)} settings of {len(flags)} flags, {path.stat().st_size / 1000:.0f} kB",
        f"bits per byte    best {values[0]:.4f}, then {', '.join(f'{value:.4f}' for value in values[1:5])}",
        f"                 quartiles {', '.join(f'{value:.3f}' for value in statistics.quantiles(values))}",
        f"seeds            differ by {statistics.median(s.deviation for s in whole):.4f} (standard deviation)",
        f"diverged         {len(found) - len(whole)} settings",
        f"seconds          {statistics.fmean(s.seconds for s in found):.2f} for a run, on average",
        f"best             {best}",
    ]
    return "\n".join(lines)


# ---- Making it ----


def make(output: Path, processes: int, limit: int | None) -> None:
    """Make the runs that are missing, and the table once none is."""
    jobs = [(number, config, seed) for number, config in enumerate(settings(FLAGS)) for seed in SEEDS]
    lines = output.with_suffix(".jsonl")
    finished = read_lines(lines)
    missing = [job for job in jobs if (job[0], job[2]) not in finished][:limit]
    print(f"{len(jobs)} runs, {len(jobs) - len(finished)} of them missing", flush=True)

    with tempfile.TemporaryDirectory() as place:
        text = Path(place) / "manual.txt"
        text.write_text(manual(), encoding="utf-8")
        os.environ["MINGPT_CACHE"] = str(Path(place) / "cache")  # of the processes started below
        with get_context("spawn").Pool(processes) as pool, lines.open("a", encoding="utf-8") as f:
            if not f.tell():
                f.write(heading() + "\n")
            began = time.perf_counter()
            work = ((str(text), *job) for job in missing)
            for done, row in enumerate(pool.imap_unordered(one_run, work, chunksize=4), start=1):
                finished[row["setting"], row["seed"]] = (row["seconds"], row["curve"])
                f.write(json.dumps(row) + "\n")
                f.flush()
                if done % 20 == 0:
                    left = (time.perf_counter() - began) / done * (len(missing) - done)
                    print(f"{done:>5} of {len(missing)}, {left / 60:.0f} minutes left", flush=True)
            pool.close()
            pool.join()
    if len(finished) == len(jobs):
        write(output, finished)


def heading() -> str:
    """What the lines of the unfinished file are runs of."""
    return json.dumps(dict(flags=FLAGS, fixed=FIXED, characters=CHARACTERS, tokens=TOKENS))


def read_lines(path: Path) -> dict[tuple[int, int], Run]:
    """The runs of the unfinished file, by setting and seed; a torn last line is none."""
    if not path.exists():
        return {}
    first, *lines = path.read_text(encoding="utf-8").split("\n")
    if first != heading():
        raise SystemExit(f"{path}: holds runs of another grid; take it away first")
    if lines and lines[-1]:
        path.write_text("\n".join([first, *lines[:-1], ""]), encoding="utf-8")
    rows = [json.loads(line) for line in lines[:-1]]
    return {(row["setting"], row["seed"]): (row["seconds"], row["curve"]) for row in rows}


def write(output: Path, finished: dict[tuple[int, int], Run]) -> None:
    """The table, a setting to a line."""
    import torch

    about = dict(
        made_by="python tests/benchmarks/table.py",
        text=f"the first {CHARACTERS:,} characters of Python {platform.python_version()}'s manual",
        torch=torch.__version__,
        fixed=FIXED,
        tokens=TOKENS,
        seeds=list(SEEDS),
    )
    rows = [[finished[number, seed] for seed in SEEDS] for number, _ in enumerate(settings(FLAGS))]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    output.write_text(
        f'{{"about": {json.dumps(about)},\n"flags": {json.dumps(FLAGS)},\n"rows": [\n{lines}\n]}}\n', encoding="utf-8"
    )


def manual() -> str:
    from mingpt.data.sources import python_manual

    return python_manual().read_text(encoding="utf-8")[:CHARACTERS]


def one_run(job: tuple[str, int, dict[str, Any], int]) -> dict[str, Any]:
    """A row of the unfinished file: the curve of one training run, and its seconds."""
    from mingpt.config import TrainConfig
    from mingpt.run import start
    from mingpt.trainer import Diverged, train

    text, number, flags, seed = job
    updates = TOKENS // (flags["batch_size"] * FIXED["block_size"])
    flags = FIXED | flags | dict(data=text, seed=seed, max_iters=updates, eval_interval=-(-updates // EVALUATIONS))
    curve: list[float | None] = []
    with tempfile.TemporaryDirectory() as place:
        run = start(TrainConfig(out_dir=place, **flags))
        began = time.process_time()
        try:
            for row in train(run.config, run.task, run.folder, run.state):
                curve.append(round(row["bits_per_byte"], 4))
        except Diverged:
            curve.append(None)
        seconds = time.process_time() - began
    return dict(setting=number, seed=seed, seconds=round(seconds, 3), curve=curve)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=FILE)
    parser.add_argument("--limit", type=int, help="runs to make at most; the others another time")
    options = parser.parse_args()
    if not options.output.exists():
        make(options.output, options.processes, options.limit)
    if options.output.exists():
        print(description(options.output))


if __name__ == "__main__":
    main()
