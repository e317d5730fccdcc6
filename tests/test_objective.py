"""What a study's trials are: the space that is searched, and the settings of each run."""

from __future__ import annotations

import pytest

from mingpt.config import Architecture, GPTConfig, TrainConfig
from mingpt.config_tune import TuneConfig
from mingpt.errors import UserError
from mingpt.objective import Objective, default_space, defaults_in, shared_settings, space_of
from mingpt.resolve import Facts, resolve
from mingpt.tasks.classify import ClassifyTask
from mingpt.tasks.text import TextTask
from mingpt.tuning import Choice, Float, Int, Space

TEXT_FACTS = Facts(TextTask, tokens=50_000)
TABLE_FACTS = Facts(ClassifyTask, examples=3200)


def space_by_default(facts=TEXT_FACTS, **asked):
    shared = shared_settings(TuneConfig(**asked), facts)
    return default_space(resolve(TrainConfig(**shared), facts), facts, asked)


def test_the_default_space_surrounds_the_defaults_without_what_was_given():
    assert {*space_by_default().names} - {*space_by_default(n_layer=3).names} == {"n_layer"}
    assert space_by_default(optimizer="sgd").parameters["learning_rate"] == Float(0.03, 3.0, log=True)
    table = space_by_default(TABLE_FACTS, task="classify")  # a quarter of the optimizer's learning rate
    assert table.parameters["learning_rate"] == Float(0.0005, 0.05, log=True) and "block_size" not in table.names
    base = GPTConfig(n_layer=3, n_head=2, n_embd=64)
    assert space_by_default(Facts(TextTask, base=base), init_from="m").names == [
        "learning_rate",
        "batch_size",
        "dropout",
    ]


def test_a_searched_setting_has_the_type_of_its_flag():
    texts = ("learning_rate=1..2", "weight_decay=0,1", "n_layer=1..8", "compile=true,false", "tokenizer=char,byte")
    parameters = space_of(texts).parameters
    assert parameters["learning_rate"] == Float(1.0, 2.0)
    assert parameters["weight_decay"] == Choice(0.0, 1.0)
    assert type(parameters["weight_decay"].values[0]) is float
    assert parameters["n_layer"] == Int(1, 8)
    assert parameters["compile"] == Choice(True, False)


def test_every_field_of_the_architecture_can_be_searched_and_reaches_the_trial():
    for name, field in Architecture.model_fields.items():
        config = {name: field.default}
        space = space_of((f"{name}={field.default}",))
        assert defaults_in(space, TrainConfig(**config)) == config
        assert Objective({}, TEXT_FACTS, None).settings_of(config) == config


@pytest.mark.parametrize(
    "text, words",
    [
        ("n_layr=1..8", "n_layer"),
        ("n_layer=8..1", "reversed"),
        ("n_layer=0..3", "greater than or equal to 1"),
        ("n_layer=1.5..3", "whole numbers"),
        ("dropout=0..1", "less than 1"),
        ("learning_rate=0..1 log", "greater than 0"),
        ("dropout=0..0.5 log", "logarithm"),
        ("learning_rate=fast", "valid number"),
        ("optimizer=adamw,lion", "'adam', 'adamw', 'sgd' or 'muon'"),
        ("optimizer=1..3", "adam, adamw, sgd, muon"),
        ("momentum=0.5..0.9 when optimiser=sgd", "optimiser"),
        ("seed=1..3", "cannot be searched"),
        ("n_layer", "list such as"),
    ],
)
def test_a_search_that_makes_no_sense_is_a_line(text, words):
    with pytest.raises(UserError) as caught:
        space_of((text,))
    assert len(caught.value.problems) == 1
    assert words in caught.value.problems[0]
    assert text.partition("=")[0] in caught.value.problems[0]


def test_the_first_trial_has_the_defaults_and_nothing_inactive():
    texts = ("optimizer=adamw,sgd,muon", "learning_rate=1e-5..1 log", "momentum=0.5..0.99 when optimizer=sgd,muon")
    space = space_of(texts)
    muon = resolve(TrainConfig(), TEXT_FACTS)
    assert defaults_in(space, muon) == {
        "optimizer": "muon",
        "learning_rate": muon.learning_rate,
        "momentum": muon.momentum,
    }
    assert "momentum" not in defaults_in(space, resolve(TrainConfig(optimizer="adamw"), TEXT_FACTS))


def test_defaults_follow_the_trial_where_nothing_was_asked_for():
    asked = TuneConfig(search=("optimizer=sgd,muon",), schedule="cosine", trials=3)
    shared = shared_settings(asked, TEXT_FACTS)
    assert shared == {"schedule": "cosine", "max_iters": 200}
    assert shared_settings(TuneConfig(task="classify"), TABLE_FACTS) == {"task": "classify", "max_iters": 500}
    objective = Objective(shared, TEXT_FACTS, None)
    sgd = resolve(TrainConfig(**objective.settings_of({"optimizer": "sgd"})), TEXT_FACTS)
    assert (sgd.learning_rate, sgd.momentum, sgd.schedule) == (0.3, 0.9, "cosine")


@pytest.mark.parametrize(("facts", "unit"), [(TEXT_FACTS, 16), (TABLE_FACTS, 1)])
def test_every_trial_sees_as_much_data(facts, unit):
    space = Space({"batch_size": Choice(4, 8, 16), "block_size": Choice(8, 16)})
    shared = dict(max_iters=100, batch_size=8, block_size=16)
    objective = Objective.over(space, shared, facts, None)
    for config in space.configurations():
        settings = objective.settings_of(config)
        size = config["batch_size"] * (config["block_size"] if unit > 1 else 1)
        assert settings["max_iters"] * size == 100 * 8 * unit
    fixed = Objective.over(Space({"n_layer": Int(1, 2)}), shared, facts, None)
    assert fixed.settings_of({"n_layer": 2})["max_iters"] == 100
