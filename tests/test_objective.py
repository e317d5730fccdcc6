"""What a study's trials are: the space that is searched, the first configurations, and the settings of each run."""

from __future__ import annotations

import pytest

from mingpt.config import Architecture, GPTConfig, TrainConfig
from mingpt.errors import UserError
from mingpt.objective import Objective, default_space, first_configs, parse_space, settings_to_repeat
from mingpt.resolve import Facts, resolve
from mingpt.run import load_task
from mingpt.tasks.classify import ClassifyTask
from mingpt.tasks.text import TextTask
from mingpt.tuning import Choice, Float, Int
from mingpt.tuning.trial import Trial

TEXT_FACTS = Facts(TextTask, tokens=50_000)
TABLE_FACTS = Facts(ClassifyTask, examples=3200)


def space_by_default(facts=TEXT_FACTS, **given):
    return default_space(resolve(TrainConfig(**given), facts), facts, given)


def test_the_default_space_surrounds_the_defaults_without_what_was_given():
    assert {*space_by_default().names} - {*space_by_default(n_layer=3).names} == {"n_layer"}
    assert space_by_default(optimizer="sgd").parameters["learning_rate"] == Float(0.06, 1.5, log=True)
    table = space_by_default(TABLE_FACTS, task="classify")  # a quarter of the optimizer's learning rate
    assert table.parameters["learning_rate"] == Float(0.001, 0.025, log=True) and "block_size" not in table.names
    base = GPTConfig(n_layer=3, n_head=2, n_embd=64)
    fine_tuning = space_by_default(Facts(TextTask, base=base), init_from="m")
    assert fine_tuning.names == ["learning_rate", "batch_size", "dropout"]
    assert "vocab_size" in space_by_default(tokenizer="bpe").names
    assert not {"tokenizer", "vocab_size"} & {*space_by_default(tokenizer="char").names}


def test_the_search_begins_with_the_defaults_and_one_change_of_each_category():
    base = resolve(TrainConfig(), TEXT_FACTS)
    defaults, *others = first_configs(space_by_default(), {}, TEXT_FACTS)
    assert all(defaults[name] == getattr(base, name) for name in defaults) and "vocab_size" not in defaults
    changes = [{name: value for name, value in config.items() if defaults.get(name) != value} for config in others]
    assert changes == [{"tokenizer": "bpe", "vocab_size": size} for size in (1024, 4096)]


def test_a_changed_category_has_the_defaults_that_follow_from_it():
    texts = ("optimizer=adamw,sgd,muon", "learning_rate=1e-5..1 log", "momentum=0.5..0.99 when optimizer=sgd,muon")
    muon, adamw, sgd = first_configs(parse_space(texts), {}, TEXT_FACTS)
    assert muon == {"optimizer": "muon", "learning_rate": 0.02, "momentum": 0.85}
    assert adamw == {"optimizer": "adamw", "learning_rate": 0.003}
    assert sgd == {"optimizer": "sgd", "learning_rate": 0.3, "momentum": 0.9}


@pytest.mark.parametrize("task", ["text", "chat", "classify", "regress"])
def test_the_default_space_contains_the_defaults_of_each_task(task):
    facts = TEXT_FACTS if task == "text" else Facts(load_task(task), examples=1000)
    for given in ({}, {"n_embd": 48, "n_head": 3}, {"batch_size": 6, "learning_rate": 0.5}):
        space = space_by_default(facts, task=task, **given)
        configs = first_configs(space, {"task": task, **given}, facts)
        assert all(map(space.contains, configs)) and not {*given} & {*space.names}


def test_a_searched_setting_has_the_type_of_its_flag():
    texts = ("learning_rate=1..2", "weight_decay=0,1", "n_layer=1..8", "compile=true,false", "tokenizer=char,byte")
    parameters = parse_space(texts).parameters
    assert parameters["learning_rate"] == Float(1.0, 2.0)
    assert parameters["weight_decay"] == Choice(0.0, 1.0)
    assert type(parameters["weight_decay"].values[0]) is float
    assert parameters["n_layer"] == Int(1, 8)
    assert parameters["compile"] == Choice(True, False)


def test_a_condition_holds_for_the_value_however_it_is_written():
    for zero in ("0", "0.0", "0e5"):
        space = parse_space(("dropout=0,0.1", f"weight_decay=0..0.1 when dropout={zero}"))
        assert space.is_active("weight_decay", {"dropout": 0.0}) and not space.is_active(
            "weight_decay", {"dropout": 0.1}
        )


def test_every_field_of_the_architecture_can_be_searched_and_reaches_the_trial():
    for name, field in Architecture.model_fields.items():
        config = {name: field.default}
        space = parse_space((f"{name}={field.default}",))
        assert first_configs(space, config, TEXT_FACTS) == [config]
        settings = Objective({}, TEXT_FACTS, None, 80).settings_of(config)
        assert settings == config | {"max_iters": 80, "eval_interval": 10, "patience": 0}


@pytest.mark.parametrize(
    "text, words",
    [
        ("n_layr=1..8", "n_layer"),
        ("n_layer=8..1", "8..1"),
        ("n_layer=0..3", "greater than or equal to 1"),
        ("n_layer=1.5..3", "whole numbers"),
        ("dropout=0..1", "less than 1"),
        ("learning_rate=0..1 log", "above 0"),
        ("dropout=0..0.5 log", "above 0"),
        ("learning_rate=fast", "valid number"),
        ("optimizer=adamw,lion", "'adam', 'adamw', 'sgd' or 'muon'"),
        ("optimizer=1..3", "adam, adamw, sgd, muon"),
        ("momentum=0.5..0.9 when optimiser=sgd", "optimiser"),
        ("seed=1..3", "cannot be searched"),
        ("n_layer", "must be like 1..8"),
    ],
)
def test_a_search_that_makes_no_sense_is_a_line(text, words):
    with pytest.raises(UserError) as caught:
        parse_space((text,))
    assert len(caught.value.problems) == 1
    assert words in caught.value.problems[0]
    assert text.partition("=")[0] in caught.value.problems[0]


def test_a_trial_is_repeated_with_the_updates_that_it_had():
    trial = Trial(3, {"n_layer": 1}, "done", 1.5, attributes={"seconds": 9.0, "max_iters": 160})
    assert settings_to_repeat(trial) == {"n_layer": 1, "max_iters": 160}
    repeated = Objective({"dropout": 0.1}, TEXT_FACTS, None, 80)
    expected = {"dropout": 0.1, "n_layer": 1, "max_iters": 160, "eval_interval": 20, "patience": 0, "seed": 5}
    assert repeated.settings_of(settings_to_repeat(trial) | {"seed": 5}) == expected
