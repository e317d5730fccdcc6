"""Whether the search finds better settings in fewer trials than the libraries that people use.

    python tests/benchmarks/tuning.py [--seeds 20] [--trials 40] [--processes 2] [--keep]
                                      [--only branin,table] [--methods gp,optuna-tpe] [--skip speed,stopping]

Every search minimizes every problem of functions.py, each seed apart; peers.py says how each library is set up.
For one problem and seed all searches run one after the other in one process of one thread, a
different one first each time. Regret is that of the setting whose value, as the search saw it, is the lowest so
far, without noise. On the table a query gives the mean of the setting's two seeds, always the same.

Then the time of a suggestion (each search alone, one process), and early stopping (early_stopping.py). All
that is found is in results_tuning.json, written after each seed of a problem, and drawn in tuning.png.
`--keep` makes only those runs that are missing there; `--keep --skip regret,speed,stopping` makes none, and
prints and draws what is there.
"""

from __future__ import annotations

import os

# Before numpy is imported, here and in the processes started from here.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import early_stopping
import functions
import numpy as np
import peers
import table
import tuning_report
from tqdm import tqdm

from mingpt.tuning.space import Space

HERE = Path(__file__).parent
RESULTS, PICTURE = HERE / "results_tuning.json", HERE / "tuning.png"
SPEED_AT = (20, 50, 100, 200)
NOISE = 99  # keeps the stream of noise apart from the searches' own random numbers
LIBRARIES = ("numpy", "scipy", "torch", "optuna", "botorch", "gpytorch", "hyperopt")

Job = tuple[str, int, list[str], int]  # problem, seed, searches, trials


class Recorder:
    """A problem as a search sees it, and what came of each call."""

    def __init__(self, problem: functions.Problem, seed: int):
        self.problem = problem
        self.rng = np.random.default_rng([NOISE, seed])  # the same noise for every search
        self.best, self.regret = math.inf, math.inf
        self.regrets: list[float] = []
        self.waits: list[float] = []  # seconds of processor time between the end of a call and the next
        self.left = time.process_time()

    def __call__(self, config: functions.Config) -> float:
        self.waits.append(time.process_time() - self.left)
        seen = self.problem.value(config) + self.problem.noise * self.rng.standard_normal()
        if seen < self.best:
            self.best, self.regret = seen, self.problem.regret(config)
        self.regrets.append(self.regret)
        self.left = time.process_time()
        return seen


def record(problem: functions.Problem, search: str, trials: int, seed: int) -> Recorder:
    recorder = Recorder(problem, seed)
    peers.SEARCHES[search](Space(problem.parameters), recorder, trials, seed)
    if len(recorder.regrets) != trials:
        raise RuntimeError(f"{search} made {len(recorder.regrets)} trials of {trials}")
    return recorder


def one_job(job: Job) -> tuple[Job, dict[str, list[float | None]], dict[str, str]]:
    """The regrets of each search after each trial (None before the first value), and the errors of those without."""
    name, seed, searches, trials = job
    problem = functions.problem(name)
    first = seed % len(searches)
    regrets: dict[str, list[float | None]] = {}
    errors: dict[str, str] = {}
    for search in searches[first:] + searches[:first]:
        try:
            found = record(problem, search, trials, seed).regrets
            regrets[search] = [float(f"{r:.4g}") if math.isfinite(r) else None for r in found]
        except Exception as error:  # of a library: the others' runs are not to be lost with it
            errors[search] = f"{type(error).__name__}: {error}"
    return job, regrets, errors


def one_stopping(seed: int) -> tuple[int, dict[str, dict[str, float | None]]]:
    return seed, early_stopping.compare(seed)


def run_regrets(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Fill results["regrets"][problem][search][seed]."""
    found = results["regrets"]
    jobs = []
    for seed in range(options.seeds):
        for problem in options.only:
            missing = [m for m in options.methods if str(seed) not in found.get(problem, {}).get(m, {})]
            if missing:
                jobs.append((problem, seed, missing, options.trials))
    for (problem, seed, searches, _), regrets, errors in in_processes(one_job, jobs, options.processes):
        by_search = found.setdefault(problem, {})
        for search in searches:
            if search in regrets:
                by_search.setdefault(search, {})[str(seed)] = regrets[search]
        for search, error in errors.items():
            print(f"{problem}, seed {seed}: {search} failed and is left out ({error})", flush=True)
        save(results)


def run_speed(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Fill results["milliseconds"][search][n]: ten suggestions around the n-th."""
    for search in options.methods:
        if search in results["milliseconds"] or search == "random":
            continue
        record(functions.GPT_LIKE8, search, 30, seed=1)  # imports, and what is compiled on first use
        waits = record(functions.GPT_LIKE8, search, max(SPEED_AT) + 5, seed=0).waits
        results["milliseconds"][search] = {
            str(n): [round(1_000 * seconds, 2) for seconds in waits[n - 5 : n + 5]] for n in SPEED_AT
        }
        save(results)


def run_stopping(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Fill results["stopping"][seed]."""
    missing = [seed for seed in range(options.seeds) if str(seed) not in results["stopping"]]
    for seed, found in in_processes(one_stopping, missing, options.processes):
        results["stopping"][str(seed)] = found
        save(results)


def in_processes(work: Callable[[Any], Any], jobs: list[Any], processes: int) -> Iterator[Any]:
    """The results as they come."""
    with get_context("spawn").Pool(processes) as pool:
        yield from tqdm(pool.imap_unordered(work, jobs), total=len(jobs), disable=None, leave=False)
        pool.close()
        pool.join()


def save(results: dict[str, Any]) -> None:
    """Write the results whole: beside, then in place."""
    beside = RESULTS.with_suffix(".part")
    beside.write_text(as_text(results), encoding="utf-8")
    beside.replace(RESULTS)


def as_text(value: Any, depth: int = 0) -> str:
    """JSON with a line for each run."""
    if not isinstance(value, dict) or depth > 3:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    entries = (f"{json.dumps(key)}: {as_text(entry, depth + 1)}" for key, entry in value.items())
    return "{\n" + ",\n".join(entries) + "\n}"


def report(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the tables and draw the picture."""
    problems = {}
    for problem in options.only:
        runs = results["regrets"].get(problem, {})
        curves = tuning_report.curves_of({m: runs[m] for m in options.methods if m in runs})
        if curves:
            problems[problem] = curves
            print("\n".join(tuning_report.regret_lines(problem, curves)), end="\n\n")
    if results["milliseconds"]:
        print("\n".join(tuning_report.speed_lines(results["milliseconds"])), end="\n\n")
    if results["stopping"]:
        print("\n".join(early_stopping.lines(list(results["stopping"].values()))), end="\n\n")
    if problems:
        tuning_report.draw(problems, PICTURE, {"Title": "regret of each search"})
        print(f"picture       {PICTURE}\nresults       {RESULTS}")


def made_with() -> dict[str, str]:
    versions = {"python": platform.python_version(), "processor": platform.processor() or platform.machine()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "not installed"
    return versions


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def names_from(known: Any) -> Callable[[str], list[str]]:
        def split(text: str) -> list[str]:
            wrong = [name for name in text.split(",") if name not in known]
            if wrong:
                raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: {', '.join(known)} are known")
            return text.split(",")

        return split

    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=names_from(functions.NAMES), default=functions.NAMES, metavar="PROBLEMS")
    parser.add_argument("--methods", type=names_from(peers.SEARCHES), default=list(peers.SEARCHES), metavar="NAMES")
    parser.add_argument("--skip", type=names_from(("regret", "speed", "stopping")), default=[], metavar="PARTS")
    parser.add_argument("--keep", action="store_true", help="make only the runs that results_tuning.json lacks")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    absent = [name for name in options.methods if not peers.is_installed(name)]
    if absent:
        print(f'not installed, left out: {", ".join(absent)}; pip install -e ".[bench]" brings them')
        options.methods = [name for name in options.methods if name not in absent]
    if "table" in options.only and not table.FILE.exists():
        print(f"{table.FILE} is missing: python tests/benchmarks/table.py makes it")
        options.only = [name for name in options.only if name != "table"]

    results: dict[str, Any] = {"made_with": made_with(), "trials": options.trials}
    results |= {"regrets": {}, "milliseconds": {}, "stopping": {}}
    if options.keep and RESULTS.exists():
        results |= json.loads(RESULTS.read_text(encoding="utf-8"))
        if results["trials"] != options.trials:
            raise SystemExit(f"{RESULTS}: holds runs of {results['trials']} trials, not of {options.trials}")
    if "regret" not in options.skip:
        run_regrets(results, options)
    if "speed" not in options.skip:
        run_speed(results, options)
    if "stopping" not in options.skip and "table" in options.only and peers.is_installed("optuna-tpe"):
        run_stopping(results, options)
    report(results, options)


if __name__ == "__main__":
    main()
