"""The loss of each optimizer at its defaults and an equal number of updates.

    python tests/benchmarks/optimizers.py TEXT [--max_iters 600] [--seeds 2] [--learning_rate X ...]

With learning rates given, each optimizer is run at each of them instead: that is how the defaults in
mingpt/config.py were chosen.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from mingpt.config import OPTIMIZER_DEFAULTS, TrainConfig
from mingpt.run import start
from mingpt.trainer import Diverged, train


def final_loss(**flags: object) -> float:
    with tempfile.TemporaryDirectory() as place:
        run = start(TrainConfig(eval_interval=flags["max_iters"], out_dir=place, **flags))
        try:
            rows = list(train(run.config, run.task, run.folder, run.state))
        except Diverged:
            return float("nan")
    return rows[-1]["val_loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--max_iters", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--optimizer", nargs="*", default=list(OPTIMIZER_DEFAULTS))
    parser.add_argument("--learning_rate", type=float, nargs="*", default=[None])
    options = parser.parse_args()
    print(f"{'optimizer':<12}{'learning rate':>14}{'validation loss':>17}")
    for name in options.optimizer:
        for rate in options.learning_rate:
            flags = dict(data=str(options.text), optimizer=name, learning_rate=rate, max_iters=options.max_iters)
            losses = [final_loss(seed=seed, **flags) for seed in range(options.seeds)]
            shown = OPTIMIZER_DEFAULTS[name]["learning_rate"] if rate is None else rate
            print(f"{name:<12}{shown:>14g}{statistics.mean(losses):>17.4f}", flush=True)


if __name__ == "__main__":
    main()
