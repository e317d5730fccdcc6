"""Whether tuning pays in a real run: the default settings, our study and Optuna's, trained anew and tested.

    python tests/benchmarks/job.py TEXT.txt TABLE.csv ... [--minutes 15] [--max_iters N] [--seeds 3] [--output FOLDER]

Each file is cut in two: what is searched with, and a test part that no search sees, the last tenth of a text or a
fifth of a table's rows. Three arms get the same space, the same time for each trial and the same minutes:

    defaults    the settings of train.py
    ours        python tune.py --minutes M, confirmation included
    optuna      TPESampler and HyperbandPruner, beginning with the defaults; all minutes are for its search

With --max_iters a run with the defaults makes so many updates. Then `train.py --config` trains each arm's settings with
fresh seeds, in turn, and each model is evaluated on its own validation part and on the test part. Everything is written
to FOLDER/results.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from mingpt import GPT, cli, load_tokenizer, run, trainer  # noqa: E402
from mingpt.budget import EVALUATIONS  # noqa: E402
from mingpt.config import TrainConfig  # noqa: E402
from mingpt.config_tune import TuneConfig  # noqa: E402
from mingpt.data.examples import Data  # noqa: E402
from mingpt.data.tables import read_rows  # noqa: E402
from mingpt.device import default_threads  # noqa: E402
from mingpt.files import read_json, write_json  # noqa: E402
from mingpt.objective import Objective, settings_to_repeat  # noqa: E402
from mingpt.plan import prepare  # noqa: E402
from mingpt.predict import row_writer  # noqa: E402
from mingpt.predictor import Predictor  # noqa: E402
from mingpt.settings import format_value  # noqa: E402
from mingpt.tuning import Choice, Int, Space, Trial  # noqa: E402
from mingpt.tuning.journal import Journal  # noqa: E402

FIRST_SEED = 100  # of the final runs; no search uses it
TABLES = (".csv", ".tsv", ".jsonl")


def split(path: Path, folder: Path) -> tuple[Path, Path]:
    """Write the part to search with and the test part."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = folder / path.name, folder / f"test{path.suffix}"
    if path.suffix in TABLES:
        rows = [row.fields for row in read_rows(path)]
        random.Random(0).shuffle(rows)
        cut = len(rows) * 4 // 5
        for part, chosen in zip(parts, (rows[:cut], rows[cut:]), strict=True):
            with open(part, "w", encoding="utf-8", newline="") as file:
                write = row_writer(file, str(path), list(rows[0]))
                for row in chosen:
                    write(row)
    else:
        text = path.read_text(encoding="utf-8-sig")
        cut = len(text) * 9 // 10
        known = set(text[: cut * 9 // 10])  # a character tokenizer has no other characters
        parts[0].write_text(text[:cut], encoding="utf-8")
        parts[1].write_text("".join(c for c in text[cut:] if c in known), encoding="utf-8")
    return parts


def our_study(flags: list[str], folder: Path, minutes: float) -> None:
    command = [sys.executable, "tune.py", *flags, "--minutes", minutes, "--study", folder]
    with open(folder.with_suffix(".log"), "w", encoding="utf-8") as log:
        subprocess.run(list(map(str, command)), cwd=ROOT, check=True, stdout=log, stderr=log)


def optuna_study(flags: list[str], folder: Path, minutes: float, updates: int) -> dict[str, Any]:
    """The settings that Optuna finds; each trial is timed and trained as ours are."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = prepare(cli.parse(TuneConfig, flags, "", ""))
    objective = Objective(plan.shared, plan.facts, folder.resolve(), updates)
    trials: dict[int, dict[str, Any]] = {}
    end = time.monotonic() + 60 * minutes

    def evaluate(trial: Any) -> float:
        config = suggest(plan.space, trial)
        settings = objective.settings_of(config)
        current = run.start(TrainConfig(**settings, out_dir=str(objective.run_folder(trial.number))))
        trials[trial.number] = config | {"max_iters": settings["max_iters"]}
        best = math.inf
        training = trainer.train(current.config, current.task, current.folder, current.state, samples=False)
        with contextlib.closing(current.folder), contextlib.closing(training):
            for step, metrics in enumerate(training, start=1):
                best = min(best, current.task.objective(metrics))
                trial.report(best, step)
                if trial.should_prune():
                    raise optuna.TrialPruned
        objective.remove(Trial(trial.number, config), "state.pt")
        return best

    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=EVALUATIONS)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0), pruner=pruner)
    study.enqueue_trial(
        {name: getattr(plan.base, name) for name in plan.space.names if getattr(plan.base, name) is not None}
    )
    while time.monotonic() < end:
        study.optimize(evaluate, n_trials=1, catch=(Exception,))
    best = study.best_trial.number
    write_json(folder / "trials.json", {"best": best, "value": study.best_value, "trials": len(study.trials)})
    return plan.shared | trials[best]


def suggest(space: Space, trial: Any) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name in space.parents_first:
        p = space.parameters[name]
        if space.is_active(name, config):
            if isinstance(p, Choice):
                config[name] = trial.suggest_categorical(name, p.values)
            elif isinstance(p, Int):
                config[name] = trial.suggest_int(name, p.low, p.high, log=p.log)
            else:
                config[name] = trial.suggest_float(name, p.low, p.high, log=p.log)
    return config


def train(settings: dict[str, Any], seed: int, folder: Path) -> None:
    """`python train.py --config`, as a user trains."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.with_suffix(".json")
    kept = {name: value for name, value in settings.items() if name not in ("seed", "threads")}
    write_json(config, kept | {"eval_interval": settings["max_iters"] // EVALUATIONS})
    command = [sys.executable, "train.py", "--config", config, "--seed", seed, "--out_dir", folder]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def evaluate(folder: Path, test: Path) -> dict[str, float]:
    """The objective of a finished run on its validation and on the test part, and the seconds of its training."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    config = TrainConfig(**{k: v for k, v in read_json(folder / "train.json").items() if k in TrainConfig.model_fields})
    task = run.load_task(config.task)
    validation = min(map(task.objective, rows))
    if test.suffix in TABLES:
        predictor = Predictor(str(folder), "cpu")
        texts = [row.fields for row in read_rows(test)]
        predicted = predictor.predict([predictor.encode(fields[config.text_column]) for fields in texts])
        hits = [label == fields[config.label_column] for (label, _), fields in zip(predicted, texts, strict=True)]
        value = 1 - float(np.mean(hits))
    else:
        tokenizer = load_tokenizer(folder)
        ids = tokenizer.encode_array(test.read_text(encoding="utf-8"))
        metrics = task(config, Data("test", "", tokenizer, ids, ids, len(ids))).evaluate(GPT.from_pretrained(folder))
        value = task.objective(metrics)
    return {"validation": validation, "test": value, "seconds": rows[-1]["seconds"]}


def run_job(path: Path, folder: Path, minutes: float, max_iters: int | None, seeds: int) -> dict[str, Any]:
    task = "classify" if path.suffix in TABLES else "text"
    data, test = split(path, folder / "data")
    flags = ["--task", task, "--data", str(data), *([] if max_iters is None else ["--max_iters", str(max_iters)])]
    our_study(flags, folder / "ours", minutes)
    with contextlib.closing(Journal(folder / "ours")) as journal:
        updates, shared = journal.attributes["updates"], {"task": task, "data": str(data)}
        arms = {"defaults": shared | settings_to_repeat(journal.trials[0])}
    arms["ours"] = {"max_iters": updates, **read_json(folder / "ours" / "best.json")}
    arms["optuna"] = optuna_study(flags, folder / "optuna", minutes, updates)
    results: dict[str, Any] = {name: {"settings": settings, "runs": []} for name, settings in arms.items()}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for name, settings in arms.items():
            out = folder / "final" / f"{name}-{seed}"
            train(settings, seed, out)
            results[name]["runs"].append(evaluate(out, test))
            print(path.name, name, seed, results[name]["runs"][-1], flush=True)
    return results


def print_results(name: str, results: dict[str, Any]) -> None:
    print(f"\n{name}")
    for arm, result in results.items():
        columns = {key: [row[key] for row in result["runs"]] for key in result["runs"][0]}
        spreads = "   ".join(f"{key} {np.mean(v):.4f} +- {np.std(v, ddof=1):.4f}" for key, v in columns.items())
        changed = {k: v for k, v in result["settings"].items() if k not in ("data", "task", "threads", "device")}
        print(f"  {arm:9} {spreads}\n{'':12}{', '.join(f'{k} {format_value(v)}' for k, v in changed.items())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--max_iters", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("out/job"))
    arguments = parser.parse_args()
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": default_threads(),
    }
    results: dict[str, Any] = {"machine": machine, "minutes": arguments.minutes}
    for path in arguments.data:
        folder = arguments.output / path.stem
        results[path.name] = run_job(path, folder, arguments.minutes, arguments.max_iters, arguments.seeds)
        write_json(arguments.output / "results.json", results)
        print_results(path.name, results[path.name])


if __name__ == "__main__":
    main()
