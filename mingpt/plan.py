"""What a study is about, before its first trial: its settings, its space and the first configurations.

prepare   of a new study
resume    of one that has a journal, whose new trials must be comparable with the old ones
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mingpt import objective, pretrained, run
from mingpt.budget import MINUTES
from mingpt.config import TrainConfig, Training
from mingpt.config_tune import TuneConfig
from mingpt.data.sources import absolute
from mingpt.device import default_threads
from mingpt.errors import UserError
from mingpt.resolve import Facts, resolve
from mingpt.settings import format_value
from mingpt.tuning.journal import Journal
from mingpt.tuning.space import Space
from mingpt.tuning.strategies import STRATEGIES

# When a study is resumed, the first may differ and are not recorded; the others may change, and are recorded anew.
NOT_RECORDED = ("study", "config", "workers", "dask")
MAY_CHANGE = ("strategy", "search", "trials", "minutes", "pruner", "data", "init_from")


@dataclass(frozen=True)
class Plan:
    """What a study needs before it has a folder."""

    shared: dict[str, Any]  # settings of all trials, as asked for
    facts: Facts
    base: TrainConfig  # the defaults, resolved
    space: Space
    first: list[dict[str, Any]]  # configurations
    minutes: float | None
    description: str  # of the data
    hashes: dict[str, str]  # of the data, and of the model of --init_from

    def attributes(self, asked: TuneConfig) -> dict[str, Any]:
        """What the journal says of the study."""
        recorded = {name: value for name, value in sorted(asked.given().items()) if name not in NOT_RECORDED}
        places = {name: self.shared[name] for name in ("data", "init_from") if name in self.shared}
        study = {"space": self.space.as_text(), "first": len(self.first), "tokenizer": self.base.tokenizer}
        return {"asked": recorded | places, **self.hashes, **study}


def prepare(asked: TuneConfig) -> Plan:
    """The plan of a new study. Raises UserError before anything is written."""
    space = objective.parse_space(asked.search, asked.init_from) if asked.search else None
    data, facts = run.read_facts(asked)
    given = {name: value for name, value in asked.given().items() if name in Training.model_fields and name != "config"}
    shared = given | {"data": absolute(resolve(TrainConfig(**given), facts).data)}
    hashes = {"data_sha256": data.sha256}
    if asked.init_from:
        base_folder = pretrained.locate(asked.init_from)
        shared["init_from"] = str(base_folder.resolve())
        hashes["init_from_sha256"] = run.hash_weights(base_folder)
    if not asked.dask:
        shared["threads"] = asked.threads or default_threads(asked.workers)
    base = resolve(TrainConfig(**shared), facts)
    space = space or objective.default_space(base, facts, given)
    if both := [name for name in space.names if name in given]:
        raise UserError(*(f"--{name}: is searched and has a fixed value; leave one of the two out" for name in both))
    STRATEGIES[asked.strategy](space, asked.seed)  # raises UserError where it cannot search this space
    first = objective.first_configs(space, shared, facts)
    is_grid = asked.strategy == "grid"
    minutes = asked.minutes or (None if is_grid or asked.trials else MINUTES)
    description = run.load_task(asked.task)(base, data).describe()
    return Plan(shared, facts, base, space, first[:1] if is_grid else first, minutes, description, hashes)


def resume(typed: TuneConfig, journal: Journal) -> tuple[TuneConfig, Plan]:
    """What was asked for in all, and the plan. Raises UserError where new trials would not be comparable."""
    asked, folder = merge(typed, journal), journal.path.parent
    plan = prepare(asked)
    old_default = "char" if asked.task == "text" and asked.init_from is None else plan.base.tokenizer
    if asked.tokenizer is None and journal.attributes.get("tokenizer", old_default) != plan.base.tokenizer:
        raise UserError(f"--study {folder}: began when --tokenizer had another default; begin a new study")
    for name, sha256 in plan.hashes.items():
        if journal.attributes.get(name, sha256) != sha256:  # studies of earlier versions have that of the data alone
            flag = name.removesuffix("_sha256")
            raise UserError(f"--{flag} {plan.shared[flag]}: is not what the study in {folder} began with")
    return asked, plan


def merge(typed: TuneConfig, journal: Journal) -> TuneConfig:
    """What was asked for when the study began, with what is asked for now.

    Raises UserError where a flag would make new trials another thing than the old ones.
    """
    if "asked" not in journal.attributes:
        raise UserError(f"--study {typed.study}: is not a study of tune.py")
    recorded, given = dict(journal.attributes["asked"]), typed.given()
    if {"trials", "minutes"} & given.keys():  # either lifts the other's limit
        recorded = {name: value for name, value in recorded.items() if name not in ("trials", "minutes")}
    before = TuneConfig(**recorded)
    problems = [
        f"--{name} {format_value(value)}: the study in {typed.study} has {format_value(getattr(before, name))}; "
        "its trials would not be comparable"
        for name, value in sorted(given.items())
        if name not in NOT_RECORDED + MAY_CHANGE and value != getattr(before, name)
    ]
    if problems:
        raise UserError(*problems)
    return TuneConfig(**recorded | given)
