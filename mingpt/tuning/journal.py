"""A study's file: a journal of operations in the format of Optuna's JournalFileBackend, one JSON object per line.

    optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend("FOLDER/journal.jsonl")))

opens it while the study runs; optuna-dashboard as well. What Optuna has no place for stands in user attributes. Lines
are only appended, each by one system call, so that a kill at any moment costs at most the line being written.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mingpt import files
from mingpt.errors import UserError
from mingpt.tuning.parameters import Choice, Int, Parameter
from mingpt.tuning.trial import Trial

NAME = "journal.jsonl"
CREATE_STUDY, SET_STUDY_ATTRIBUTE, CREATE_TRIAL, SET_STATE, SET_INTERMEDIATE_VALUE, SET_ATTRIBUTE = 0, 2, 4, 6, 7, 8
MINIMIZE = 1
STATES = {"running": 0, "done": 1, "stopped": 2, "failed": 3}  # Optuna's RUNNING, COMPLETE, PRUNED, FAIL
STATE_NAMES = {code: name for name, code in STATES.items()}


class History:
    """What the lines of a journal say: the attributes of the study, and its trials."""

    def __init__(self, path: Path):
        self.path = path
        self.attributes: dict[str, Any] = {}
        self.trials: list[Trial] = []

    def read(self) -> Iterator[dict[str, Any]]:
        """Apply the lines that are complete, one by one; yields each before. UserError where they are not a study's."""
        content = self.path.read_bytes() if self.path.exists() else b""
        for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                operation = json.loads(line)
                yield operation
                self.apply(operation)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise UserError(f"{self.path}, line {number}: is corrupt or not of a study ({error!r})") from None
        if content and "mingpt" not in self.attributes:
            raise UserError(f"{self.path}: is not a study of mingpt")

    def apply(self, line: dict[str, Any]) -> None:
        """One operation, read again."""
        op_code = line["op_code"]
        if op_code == SET_STUDY_ATTRIBUTE:
            self.attributes |= line["user_attr"]
        elif op_code == CREATE_TRIAL:
            distributions = {name: json.loads(text) for name, text in line["distributions"].items()}
            choices = {name: each["attributes"].get("choices") for name, each in distributions.items()}
            config = {name: choices[name][value] if choices[name] else value for name, value in line["params"].items()}
            self.trials.append(Trial(len(self.trials), config))
        elif op_code == SET_STATE:
            trial = self.trials[line["trial_id"]]
            trial.state = STATE_NAMES[line["state"]]
            trial.value = line["values"][0] if trial.state == "done" else math.nan
        elif op_code == SET_INTERMEDIATE_VALUE:
            trial = self.trials[line["trial_id"]]
            trial.curve = sorted({**dict(trial.curve), line["step"]: line["intermediate_value"]}.items())
        elif op_code == SET_ATTRIBUTE:
            self.trials[line["trial_id"]].attributes |= line["user_attr"]


class Journal(History):
    """The journal in a folder, which this process alone writes to until `close` or its death."""

    def __init__(self, folder: Path | str, attributes: Mapping[str, Any] | None = None):
        """Read the journal, or begin one with these attributes. Raises UserError where it is in use, or not ours."""
        super().__init__(Path(folder) / NAME)
        if (self.path.parent / "study.sqlite").exists():
            raise UserError(f"{folder}: is a study of an older version of mingpt and cannot be resumed")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.lock = files.lock(self.path.parent / "lock")
        except BlockingIOError:
            raise UserError(f"{folder}: is in use by another process") from None
        try:
            is_new = not list(self.read())
        except UserError:
            self.lock.close()
            raise
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        content = self.path.read_bytes()
        os.ftruncate(self.file, content.rfind(b"\n") + 1)  # a line that a kill cut off
        if is_new:
            create = {"op_code": CREATE_STUDY, "study_name": self.path.parent.resolve().name, "directions": [MINIMIZE]}
            self.attributes = {"mingpt": 1, **(attributes or {})}  # the version of our attributes
            named = [{name: value} for name, value in self.attributes.items()]
            self.write([create, *({"op_code": SET_STUDY_ATTRIBUTE, "study_id": 0, "user_attr": a} for a in named)])

    def close(self) -> None:
        os.close(self.file)
        self.lock.close()

    def append(self, op_code: int, **fields: Any) -> None:
        self.write([{"op_code": op_code, **fields}])

    def write(self, operations: Sequence[Mapping[str, Any]]) -> None:
        """Write operations by one system call. Raises OSError, with nothing written, where it cannot."""
        lines = "".join(json.dumps({"worker_id": "mingpt", **operation}) + "\n" for operation in operations).encode()
        size = os.fstat(self.file).st_size
        try:
            if os.write(self.file, lines) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self.file, size)
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def set_attribute(self, name: str, value: Any) -> None:
        """An attribute of the study."""
        self.append(SET_STUDY_ATTRIBUTE, study_id=0, user_attr={name: value})
        self.attributes[name] = value

    def create_trial(self, parameters: Mapping[str, Parameter], trial: Trial) -> None:
        named = {name: distribution(parameters[name], value) for name, value in trial.config.items()}
        self.append(
            CREATE_TRIAL,
            study_id=0,
            datetime_start=now(),
            distributions={name: json.dumps(distribution) for name, (distribution, _) in named.items()},
            params={name: value for name, (_, value) in named.items()},
        )
        self.trials.append(trial)

    def report(self, trial: Trial, step: int, value: float) -> None:
        self.append(SET_INTERMEDIATE_VALUE, trial_id=trial.number, step=step, intermediate_value=value)

    def set_trial_attribute(self, trial: Trial, name: str, value: Any) -> None:
        self.append(SET_ATTRIBUTE, trial_id=trial.number, user_attr={name: value})

    def end_trial(self, trial: Trial) -> None:
        """Write the state of a trial that has ended; Optuna accepts no change of it afterwards."""
        value = {"done": trial.value, "stopped": trial.lowest}.get(trial.state)
        values = None if value is None else [value]
        self.append(SET_STATE, trial_id=trial.number, state=STATES[trial.state], values=values, datetime_complete=now())


def distribution(parameter: Parameter, value: Any) -> tuple[dict[str, Any], Any]:
    """A parameter as a distribution of Optuna, and the value as Optuna stores it: of a choice its index.

    A value outside the parameter, as a default may be, is added to a choice.
    """
    if isinstance(parameter, Choice):
        choices = list(parameter.values) if parameter.contains(value) else [*parameter.values, value]
        index = parameter.position(value) if parameter.contains(value) else len(parameter.values)
        return {"name": "CategoricalDistribution", "attributes": {"choices": choices}}, index
    name, step = (
        ("IntDistribution", parameter.step or 1)
        if isinstance(parameter, Int)
        else ("FloatDistribution", parameter.step)
    )
    ends = {"low": parameter.low, "high": parameter.value(1.0)}  # the last value, where a step does not reach `high`
    return {"name": name, "attributes": {**ends, "log": parameter.log, "step": step}}, value


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="microseconds")
