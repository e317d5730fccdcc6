"""A study: its trials, in one file that outlives the processes that run them.

    study.sqlite     facts      the search as it was last asked for: space, strategy, seed, stopping, first
                     trials     a row for each trial
                     reports    a row for each point of a trial's curve
    study.sqlite-*   parts of it that are there while it is in use, and after a kill
    locks/NUMBER     held by the process that runs trial NUMBER

What a call says is on the disk when it returns. Several processes may work on one study: a suggestion
is made and written down in one transaction, so that each sees the trials of all the others.

Killed at any moment, a study loses at most the steps since the last checkpoint of a trial's own. The
system frees the lock of a process that died; the next to ask finds a running trial whose lock is
free, and takes it up again with its own configuration. As a suggestion follows from the seed, the
number and the history alone, a study of one worker has the same trials whether it was killed or not.

Without a folder the same happens in memory. A folder must be on a disk of this machine: SQLite's log
and these locks do not work over a network.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mingpt.errors import UserError
from mingpt.tuning.evidence import inside
from mingpt.tuning.space import Space
from mingpt.tuning.stopping import PRUNERS, should_stop
from mingpt.tuning.storage import Database, Locks, StudyError
from mingpt.tuning.strategies import STRATEGIES, grid_size
from mingpt.tuning.trial import Trial

if TYPE_CHECKING:
    import sqlite3

FILE = "study.sqlite"
ENDS = ("done", "stopped", "failed")
ATTEMPTS = 3  # begun once, taken up again twice: what ended three processes would end a fourth


class Study:
    """Ask for a trial, report its curve, tell its value; all of it by one process, in one thread.

    >>> from mingpt.tuning import Choice
    >>> study = Study(Space({"x": Choice(1, 2, 3)}), strategy="grid")
    >>> trial = study.ask()
    >>> study.tell(trial, value=trial.config["x"] ** 2)
    >>> study.best.config
    {'x': 1}
    """

    def __init__(
        self,
        space: Space,
        strategy: str = "gp",
        seed: int = 0,
        stopping: str = "off",
        folder: Path | str | None = None,
        first: dict[str, Any] | None = None,
    ):
        """A new study, or the one in the folder, which goes on with what is asked for now.

        `first` is the configuration of trial 0, in the space or not. Afterwards `total` says how many
        trials there were, and `counting` how many of them lie in the space. Raises UserError where an
        argument makes no sense, StudyError where the folder cannot be used, and KeyError for a name that is
        not in STRATEGIES or PRUNERS.
        """
        self.suggest, self.prune = STRATEGIES[strategy], PRUNERS[stopping]
        self.space, self.strategy, self.seed, self.stopping, self.first = space, strategy, seed, stopping, first
        self.folder = None if folder is None else Path(folder)
        facts = self.facts()
        self.locks = Locks(None if self.folder is None else self.folder / "locks")
        self.database = Database(None if self.folder is None else self.folder / FILE, self.locks.folder)
        self.locks.make_folder()  # after the file: where they are, a study was
        with self.database.transaction() as db:
            if dict(db.execute("SELECT name, value FROM facts")) != facts:
                db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())
            trials = read_trials(db)
        self.total = len(trials)
        self.counting = sum(space.contains(trial.config) for trial in trials)

    @classmethod
    def open(cls, folder: Path | str) -> Study:
        """The study in a folder, as it was last asked for. Raises StudyError where there is none."""
        path = Path(folder) / FILE
        if not path.exists():
            raise StudyError(f"{path}: is missing; {folder} holds no study")
        with closing(Database(path, Path(folder) / "locks")) as database, database.transaction() as db:
            facts = {name: json.loads(text) for name, text in db.execute("SELECT name, value FROM facts")}
        if not facts:
            raise StudyError(f"{path}: is empty; {folder} holds no study")
        return cls(Space.from_json(facts.pop("space")), **facts, folder=folder)

    def facts(self) -> dict[str, str]:
        """What was asked for, as JSON. Raises UserError where it makes no sense."""
        if self.strategy == "grid":
            grid_size(self.space)
        facts = {"space": self.space.to_json(), "strategy": self.strategy, "seed": self.seed}
        facts.update(stopping=self.stopping, first=self.first)
        try:
            texts = {name: json.dumps(value) for name, value in facts.items()}
        except TypeError as error:
            raise UserError(f"a study keeps text, numbers, true, false and null ({error})") from None
        if {name: json.loads(text) for name, text in texts.items()} != facts:  # a tuple comes back as a list
            raise UserError("a study keeps text, numbers, true, false and null, and another value is among these")
        return texts

    def opening(self) -> tuple[Any, ...]:
        """What another process makes the same study of: Study(*opening)."""
        return self.space, self.strategy, self.seed, self.stopping, self.folder, self.first

    @property
    def trials(self) -> list[Trial]:
        """All trials by number, as they are now."""
        with self.database.transaction("DEFERRED") as db:
            return read_trials(db)

    @property
    def best(self) -> Trial | None:
        """The done trial with the lowest value."""
        return min((trial for trial in self.trials if trial.state == "done"), key=lambda t: t.value, default=None)

    def ask(self, limit: int | None = None) -> Trial | None:
        """A trial to run: one whose process is gone, or else a new one.

        None where the space is used up, or the study has `limit` trials.
        """
        held = set(self.locks.held)
        trial = None
        try:
            with self.database.transaction() as db:
                history = read_trials(db)
                trial = self.take_up(db, history) or self.begin(db, history, limit)
        except BaseException:
            if trial is not None:  # Ctrl-C may have come just after it was written down
                with suppress(StudyError):
                    self.put_back(trial)
            for number in set(self.locks.held) - held:
                self.locks.free(number)
            raise
        return trial

    def take_up(self, db: sqlite3.Connection, history: list[Trial]) -> Trial | None:
        """The first running trial that no process runs; those begun too often become failed."""
        for trial in history:
            if trial.state != "running" or not self.locks.take(trial.number):
                continue
            if trial.attempts < ATTEMPTS:
                trial.attempts += 1
                db.execute("UPDATE trials SET attempts = ? WHERE number = ?", (trial.attempts, trial.number))
                return trial
            trial.state, trial.why = "failed", f"its process died {ATTEMPTS} times"
            db.execute("UPDATE trials SET state = ?, why = ? WHERE number = ?", (trial.state, trial.why, trial.number))
            self.locks.free(trial.number)
        return None

    def begin(self, db: sqlite3.Connection, history: list[Trial], limit: int | None) -> Trial | None:
        number = len(history)
        if limit is not None and number >= limit:
            return None
        if number == 0 and self.first is not None:
            config = dict(self.first)
        else:
            config = self.suggest(self.space, inside(self.space, history), self.seed, number)
        if config is None:
            return None
        trial = Trial(number, config)
        row = (number, json.dumps(config), trial.state, None, 0.0, trial.attempts, "")
        db.execute("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        if not self.locks.take(number):
            raise StudyError(f"{self.folder}: its files cannot be locked; a study needs a disk of this machine")
        return trial

    def report(self, trial: Trial, step: float, value: float) -> bool:
        """A point of the trial's curve; whether it should go on. A step reported again replaces what was there."""
        step, value = float(step), float(value)
        if not math.isfinite(step):
            raise ValueError(f"step {step}: is not finite")
        self.check_is_ours(trial)
        with self.database.transaction() as db:
            row = (trial.number, step, math.inf if math.isnan(value) else value)  # as bad as can be, and comparable
            db.execute("INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", row)
            if self.stopping == "off":
                return True
            history = read_trials(db)
        # A trial taken up again may have reported further: it is judged as if it had not.
        curve = [point for point in history[trial.number].curve if point[0] <= step]
        return not should_stop(self.prune, trial.number, curve, history)

    def tell(self, trial: Trial, value: float, state: str = "done", why: str = "") -> None:
        """The end of a trial. It is failed where it should have a value, or a curve if stopped, and that is no number.

        Only who asked for a trial may report and tell; ValueError otherwise.
        """
        if state not in ENDS:
            raise ValueError(f"state {state}: {', '.join(ENDS)} are accepted")
        value = float(value)
        self.check_is_ours(trial)
        with self.database.transaction() as db:
            values = [v for (v,) in db.execute("SELECT value FROM reports WHERE number = ?", (trial.number,))]
            if state == "done" and not math.isfinite(value):
                state, why = "failed", why or f"its value is {value}"
            if state == "stopped" and not any(map(math.isfinite, values)):
                state, why = "failed", why or "none of its values is a number"
            db.execute(
                "UPDATE trials SET state = ?, value = ?, seconds = seconds + ?, why = ? WHERE number = ?",
                (state, value if state == "done" else None, self.locks.seconds(trial.number), why, trial.number),
            )
        self.locks.free(trial.number, has_ended=True)

    def put_back(self, trial: Trial) -> None:
        """Leave a trial running, for the next that asks; not counted as an attempt, for nothing went wrong."""
        self.check_is_ours(trial)
        with self.database.transaction() as db:
            db.execute(
                "UPDATE trials SET attempts = attempts - 1, seconds = seconds + ?"
                " WHERE number = ? AND attempts = ? AND state = 'running'",
                (self.locks.seconds(trial.number), trial.number, trial.attempts),
            )
        self.locks.free(trial.number)

    def check_is_ours(self, trial: Trial) -> None:
        if trial.number not in self.locks.held:
            raise ValueError(f"trial {trial.number} is not run by this process: it has ended, or another asked for it")

    def close(self) -> None:
        """Let go of the file and of all trials."""
        self.locks.close()
        self.database.close()


def read_trials(db: sqlite3.Connection) -> list[Trial]:
    """All trials by number. Two queries, whatever their number."""
    curves = defaultdict(list)
    for number, step, value in db.execute("SELECT number, step, value FROM reports ORDER BY number, step"):
        curves[number].append((step, value))
    rows = db.execute("SELECT number, config, state, value, seconds, attempts, why FROM trials ORDER BY number")
    return [
        Trial(
            number,
            json.loads(config),
            state,
            math.nan if value is None else value,
            curves[number],
            math.nan if state == "running" else seconds,
            attempts,
            why,
        )
        for number, config, state, value, seconds, attempts, why in rows
    ]
