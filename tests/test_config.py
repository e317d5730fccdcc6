"""Settings: their validation, and how a run's are resolved from the task, the base model, the data and the flags."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import ClassVar

import pytest

from mingpt import GPTConfig, files
from mingpt.checkpoint import FORMAT, RunFolder
from mingpt.config import OPTIMIZER_DEFAULTS, Architecture, TrainConfig
from mingpt.errors import UserError
from mingpt.resolve import Facts, resolve
from mingpt.run import build_model_config, load_task
from mingpt.settings import choices
from mingpt.tasks.base import Task


class SomeTask(Task):
    losses, uses = ("huber", "mae"), ("text_column",)
    defaults: ClassVar = dict(batch_size=6, dropout=0.3)
    epochs = 5


class LongTask(SomeTask):
    epochs, min_iters = 1, 90


BASE = GPTConfig(vocab_size=50, n_layer=3, n_head=2, n_embd=48, block_size=32, dropout=0.1, activation="gelu_new")


def problems(call, *arguments, **settings) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        call(*arguments, **settings)
    return caught.value.problems


def resolve_for(task: str, **settings) -> TrainConfig:
    return resolve(TrainConfig(task=task, **settings), Facts(load_task(task), examples=100))


def test_every_problem_is_reported_at_once_with_the_nearest_right_name():
    lines = problems(TrainConfig, n_layr=3, dropout=1, optimizer="adamv", n_head=5, lora_rank=4)
    names = ["--dropout 1", "--lora_rank 4", "--n_head 5", "--n_layr", "--optimizer adamv"]
    assert sorted(line.partition(":")[0] for line in lines) == names
    assert "--n_layr: unknown setting; did you mean n_layer?" in lines
    assert any(line.endswith("'adam', 'adamw', 'sgd' or 'muon'; did you mean adam?") for line in lines)


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [
        ("n_layer", [1, 10**6], [0, 1.5, "many"]),
        ("dropout", [0, 0.99], [-0.1, 1, math.nan]),
        ("learning_rate", [1e-9, 5, "1e-3"], [0, math.inf, math.nan, 10**400, "fast"]),
        ("vocab_size", [257, 10**6], [256]),
        ("compile", [True, "false"], ["maybe", 2]),
        ("attention", ["explicit", "fused"], ["flash", "", 1]),
        ("data", ["a=b.txt"], [""]),
    ],
)
def test_a_value_is_accepted_in_its_range_and_named_outside_it(name, accepted, refused):
    assert all(name in TrainConfig(**{name: value}).given() for value in accepted)
    for value in refused:
        (line,) = problems(TrainConfig, **{name: value})
        assert line.startswith(f"--{name} ") and ": " in line


@pytest.mark.parametrize(
    ("task", "settings", "line"),
    [
        ("text", dict(n_head=5), "--n_head 5: does not divide --n_embd 96; its divisors: 1, 2, 3, 4, 6,"),
        ("text", dict(min_learning_rate=9), "--min_learning_rate 9.0: is above --learning_rate 0.02"),
        ("chat", dict(gradient_accumulation=16), "--gradient_accumulation 16: does not divide --batch_size"),
        ("text", dict(vocab_size=300), "--vocab_size 300: applies to --tokenizer bpe, not to char"),
        ("regress", dict(loss="cross_entropy"), "--loss cross_entropy: does not fit --task regress, which accepts mse"),
        ("chat", dict(text_column="words"), "--text_column: is not used by --task chat"),
    ],
)
def test_settings_that_contradict_each_other_or_the_task_are_refused(task, settings, line):
    assert problems(resolve_for, task, **settings)[0].startswith(line)


@pytest.mark.parametrize(
    ("name", "values"),  # from scratch, with a base model, and as asked for with that base model
    [
        ("batch_size", (6, 8, 2)),
        ("dropout", (0.3, 0.1, 0.0)),
        ("optimizer", ("muon", "adamw", "sgd")),
        ("grad_clip", (0.0, 1.0, 0.0)),
        ("block_size", (64, 32, 16)),
        ("text_column", ("review", "review", "body")),
    ],
)
def test_what_was_asked_for_wins_over_fine_tuning_that_over_the_task_and_that_over_the_fields(name, values):
    scratch, base = (Facts(SomeTask, 100, from_data=dict(text_column="review"), base=base) for base in (None, BASE))
    asked = TrainConfig(), TrainConfig(init_from="x"), TrainConfig(init_from="x", **{name: values[2]})
    configs = map(resolve, asked, (scratch, base, base))
    assert tuple(getattr(config, name) for config in configs) == values


@pytest.mark.parametrize("name", OPTIMIZER_DEFAULTS)
def test_a_resolved_config_is_complete_and_follows_the_optimizer(name):
    config = resolve_for("text", optimizer=name, max_iters=1000)
    expected = dict(OPTIMIZER_DEFAULTS[name])
    if name == "muon":  # which for texts has a weight decay
        assert resolve_for("chat", optimizer=name, max_iters=1000).weight_decay == expected["weight_decay"] == 0
        expected["weight_decay"] = 0.1
    assert config.warmup_iters == round(1000 * expected.pop("warmup"))
    assert {key: getattr(config, key) for key in expected} == expected
    assert config.min_learning_rate == pytest.approx(config.learning_rate / 10)
    optional = {"out_dir", "config", "init_from", "label_column", "text_column", "vocab_size"}
    assert {key for key, value in config if value is None} == optional


def test_attention_is_fused_for_long_contexts_and_on_a_gpu():
    def attention(base=None, device="cpu", dtype="bfloat16", **settings):
        return resolve(TrainConfig(**settings), Facts(SomeTask, 100, base=base, device=device, dtype=dtype)).attention

    assert attention() == attention(block_size=511) == attention(base=BASE) == attention(dtype="float32") == "explicit"
    assert (
        attention(block_size=512) == attention(device="cuda") == attention(block_size=128, dtype="float32") == "fused"
    )
    long = BASE.model_copy(update={"block_size": 1024})
    assert attention(base=long) == attention(base=long, block_size=64) == "fused"
    assert attention(device="cuda", attention="explicit") == "explicit"


def test_batches_and_their_number_follow_task_and_data():
    def max_iters(base=None, task=SomeTask, **facts):
        return resolve(TrainConfig(batch_size=8, block_size=32), Facts(task, base=base, **facts)).max_iters

    assert max_iters(examples=100) == 5 * 13  # epochs, of ceil(100 / 8) updates each
    assert max_iters(tokens=3200) == 5 * 13  # in windows of block_size
    assert max_iters(task=LongTask, examples=100) == 90
    assert resolve_for("classify", gradient_accumulation=32).batch_size == 32  # which 32 divides, not the 16 of others


@pytest.mark.parametrize("task", ["classify", "regress", "chat"])
def test_only_bpe_has_a_vocabulary_size(task):
    assert all(resolve_for(task, tokenizer=name).vocab_size is None for name in ("char", "byte", "gpt2"))
    assert [resolve_for(task).vocab_size, resolve_for(task, vocab_size=300).vocab_size] == [4096, 300]


def test_settings_that_contradict_the_base_model_are_refused_together():
    asked = TrainConfig(init_from="x", n_layer=6, block_size=64, tokenizer="char", activation="gelu", n_head=2)
    lines = problems(resolve, asked, Facts(SomeTask, examples=9, base=BASE))
    names = [line.partition(":")[0] for line in lines]
    assert sorted(names) == ["--activation gelu", "--block_size 64", "--n_layer 6", "--tokenizer char"]


@pytest.mark.parametrize("base", [None, BASE])
def test_every_architecture_field_reaches_the_model(base):
    fields = Architecture.model_fields.items()
    values = {
        name: ({*choices(Architecture, name)} - {f.default} or {f.default * 2 or 0.25}).pop() for name, f in fields
    }
    task = SimpleNamespace(tokenizer=SimpleNamespace(vocab_size=49), num_labels=3)
    config = build_model_config(TrainConfig(**values), task, base)
    expected = values if base is None else values | {"block_size": 32}  # a base model keeps its positions
    assert {name: getattr(config, name) for name in values} == expected
    assert (config.vocab_size, config.num_labels) == (49 if base is None else 50, 3)


def test_a_setting_that_an_older_train_json_lacks_has_its_default(tmp_path):
    files.write_json(tmp_path / "train.json", {"format": FORMAT, "n_layer": 5, "data_sha256": "0"})
    config, others = RunFolder(tmp_path).load_settings()
    assert config == TrainConfig(n_layer=5) and others["data_sha256"] == "0"
