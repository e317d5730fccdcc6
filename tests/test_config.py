"""Settings, their checks and their command line."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from mingpt import GPTConfig, cli
from mingpt.config import TrainConfig, resolve
from mingpt.defaults import OPTIMIZERS
from mingpt.errors import UserError
from mingpt.generate import GenerateConfig
from mingpt.settings import is_accepted, is_within, type_of

FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}
NAMES = """n_layer n_head n_embd block_size dropout attention data tokenizer batch_size gradient_accumulation max_iters
eval_interval patience optimizer learning_rate min_learning_rate warmup_iters schedule weight_decay beta1 beta2 momentum
grad_clip device dtype compile threads seed vocab_size init_from lora_rank task loss label_smoothing
class_weights text_column label_column out_dir resume config""".split()


def parse(*argv: str) -> TrainConfig:
    return cli.parse(TrainConfig, list(argv), "train.py", "")[0]


def problems(*argv: str) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        resolve(parse(*argv))
    return caught.value.problems


def test_the_names_are_the_agreed_ones():
    assert sorted(FIELDS) == sorted(NAMES)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"n_layer": 5, "n_head": 2, "learning_rate": 1, "compile": True}), encoding="utf-8")
    config, given_names = cli.parse(TrainConfig, ["--n_layer", "7", "--config", str(path)], "train.py", "")
    assert (config.n_layer, config.n_head, config.n_embd) == (7, 2, TrainConfig().n_embd)
    assert config.learning_rate == 1.0 and type(config.learning_rate) is float
    assert config.compile is True
    assert given_names == {"n_layer", "n_head", "learning_rate", "compile", "config"}


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--n_layer", "6"], "n_layer", 6),
        (["--n_layer=6"], "n_layer", 6),
        (["--n_layer", "5", "--n_layer", "6"], "n_layer", 6),
        (["--dropout", "1e-1"], "dropout", 0.1),
        (["--dropout", "0"], "dropout", 0.0),
        (["--data", "a=b.txt"], "data", "a=b.txt"),
        (["--data", "-odd name-.txt"], "data", "-odd name-.txt"),
        (["--compile"], "compile", True),
        (["--compile", "false"], "compile", False),
        (["--compile", "--n_layer", "2"], "compile", True),
        (["--learning_rate", "0.5"], "learning_rate", 0.5),
        ([], "learning_rate", None),
    ],
)
def test_a_flag_is_read(argv, name, value):
    read = getattr(parse(*argv), name)
    assert read == value and type(read) is type(value)


def test_all_problems_are_reported_together(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"n_headd": 2, "beta1": "x"}', encoding="utf-8")
    found = problems(
        *["--n_layr", "3", "--dropout", "1", "--optimizer", "adamv", "--max_iters", "--learning_rate", "-1e-3"],
        *["--compile=maybe", "stray", "--n_embd", "1.5", "--config", str(path)],
    )
    assert set(found) == {
        "--n_layr: unknown flag; the nearest is --n_layer",
        "stray: not expected here; flags begin with --",
        "--max_iters: needs a value; a whole number in [1, inf) is accepted",
        f"--config {path}: unknown key n_headd; the nearest is n_head",
        "--dropout 1.0: a number in [0, 1) is accepted",
        "--optimizer adamv: accepted are adam, adamw, sgd, muon; the nearest is adam",
        "--learning_rate -0.001: a number in (0, inf) is accepted",
        "--compile maybe: true or false is accepted",
        "--n_embd 1.5: a whole number in [1, inf) is accepted",
        "--beta1 x: a number in [0, 1) is accepted",
    }


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--n_head", "5"], "--n_head 5: does not divide --n_embd"),
        (["--gradient_accumulation", "3"], "--gradient_accumulation 3: does not divide --batch_size"),
        (["--learning_rate", "0.1", "--min_learning_rate", "0.2"], "--min_learning_rate 0.2: is above"),
        (["--min_learning_rate", "9"], "--min_learning_rate 9.0: is above"),
        (["--max_iters", "5", "--warmup_iters", "6"], "--warmup_iters 6: is above --max_iters 5"),
        (["--learning_rate", "nan"], "--learning_rate nan: a number in (0, inf) is accepted"),
        (["--grad_clip", "inf"], "--grad_clip inf: a number in [0, inf) is accepted"),
        (["--out_dir", ""], "--out_dir '': a text is accepted"),
        (["--data="], "--data '': a text is accepted"),
    ],
)
def test_what_does_not_fit_is_named(argv, problem):
    (found,) = problems(*argv)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--n_head", "5", "--gradient_accumulation", "3"], {"--n_head 5", "--gradient_accumulation 3"}),
        (["--n_head", "5", "--dropout", "1"], {"--n_head 5", "--dropout 1.0"}),
        (["--n_head", "5", "--min_learning_rate", "9"], {"--n_head 5", "--min_learning_rate 9.0"}),
        (["--n_head", "5", "--n_embd", "0", "--warmup_iters", "9999999"], {"--n_embd 0", "--warmup_iters 9999999"}),
        (["--learning_rate", "fast", "--min_learning_rate", "9"], {"--learning_rate fast"}),
    ],
)
def test_settings_that_do_not_fit_are_found_beside_others_out_of_range(argv, expected):
    with pytest.raises(UserError) as caught:
        parse(*argv)
    assert {problem.split(":")[0] for problem in caught.value.problems} == expected


def test_a_command_may_check_a_part_of_its_settings():
    asked, given_names = cli.parse(TrainConfig, ["--n_head", "5"], "", "", lambda asked: asked.out_of_range().values())
    assert asked.n_head == 5 and given_names == {"n_head"}
    with pytest.raises(UserError, match="--n_head 0: a whole number"):
        cli.parse(TrainConfig, ["--n_head", "0"], "", "", lambda asked: asked.out_of_range().values())


def test_what_is_missing_is_reported_with_what_is_out_of_range():
    with pytest.raises(UserError) as caught:
        cli.parse(GenerateConfig, ["--top_p", "2", "--tempurature", "1"], "", "")
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["--tempurature", "FOLDER", "--top_p 2.0"]


@pytest.mark.parametrize("name", ["learning_rate", "n_layer", "max_iters"])
def test_a_number_without_end_is_out_of_range(tmp_path, name):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({name: 10**400}), encoding="utf-8")
    (problem,) = problems("--config", str(path))
    assert problem.startswith(f"--{name} 1000") and problem.endswith(", inf) is accepted")


def test_a_number_written_as_text_is_told_apart(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"n_layer": "6", "compile": "true"}', encoding="utf-8")
    assert problems("--config", str(path)) == (
        "--n_layer 6: a whole number in [1, inf) is accepted, not a text",
        "--compile true: true or false is accepted, not a text",
    )


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"', b"\xff", "[" * 100_000])
def test_a_file_that_is_no_object_is_named(tmp_path, content):
    path = tmp_path / "c.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert all(problem.startswith(f"--config {path}: ") for problem in problems("--config", str(path)))
    assert problems("--config", str(tmp_path / "no.json"))[0].startswith(
        f"--config {tmp_path / 'no.json'}: cannot be read"
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_defaults_follow_what_they_hang_on(name):
    config = resolve(TrainConfig(optimizer=name, max_iters=1000))
    known = OPTIMIZERS[name]
    assert {key: getattr(config, key) for key in known if key != "warmup"} == {
        key: value for key, value in known.items() if key != "warmup"
    }
    assert config.min_learning_rate == pytest.approx(config.learning_rate / 10)
    assert config.warmup_iters == round(1000 * known["warmup"])
    may_be_none = ("out_dir", "config", "init_from", "label_column")
    assert all(getattr(config, f.name) is not None for f in FIELDS.values() if f.name not in may_be_none)
    assert resolve(TrainConfig(optimizer=name, momentum=0.5, learning_rate=0.25)).momentum == 0.5


@pytest.mark.parametrize("max_iters", [1, 2, 30, 1000, 30_000])
def test_a_run_of_any_length_is_evaluated_a_few_times(max_iters):
    config = resolve(TrainConfig(max_iters=max_iters, optimizer="adamw"))
    assert 1 <= math.ceil(max_iters / config.eval_interval) <= 20
    assert config.warmup_iters <= max_iters / 10


def expected_to_be_accepted(name, value) -> bool:
    """An oracle of its own: ranges as written in the list that users are given."""
    if name in ("n_layer", "n_head", "n_embd", "block_size", "batch_size", "max_iters"):
        return type(value) is int and value >= 1
    if name in ("dropout", "beta1", "momentum"):
        return type(value) in (int, float) and 0 <= value < 1
    return type(value) in (int, float) and 0 < value < math.inf  # learning_rate


@given(
    name=st.sampled_from(
        ["n_layer", "n_head", "block_size", "max_iters", "dropout", "beta1", "momentum", "learning_rate"]
    ),
    value=st.integers(-3, 3) | st.floats() | st.booleans() | st.text(max_size=3),
)
def test_a_value_is_accepted_where_it_should_be_and_named_where_not(name, value):
    assert is_accepted(FIELDS[name], type_of(TrainConfig, name), value) == expected_to_be_accepted(name, value)
    if not expected_to_be_accepted(name, value):
        assert [p for p in TrainConfig(**{name: value}).problems() if p.startswith(f"--{name} ")]


@given(st.floats(allow_nan=False), st.floats(-5, 5), st.floats(-5, 5))
def test_intervals(value, low, high):
    assert is_within(value, f"[{low}, {high}]") == (low <= value <= high)
    assert is_within(value, f"({low}, {high})") == (low < value < high)


def test_a_model_that_cannot_be_is_refused_in_python_too():
    with pytest.raises(ValueError, match="n_head 5"):
        GPTConfig(vocab_size=10, n_embd=12, n_head=5)
    with pytest.raises(ValueError, match="dropout 1.0"):
        GPTConfig(vocab_size=10, dropout=1.0)


def test_help_names_every_flag_in_groups_and_needs_no_torch():
    code = (
        "import sys, runpy; sys.argv = ['train.py', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        "finally: print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.endswith("False False\n")
    for name in FIELDS:
        assert f"--{name} " in result.stdout
    for group in ("architecture:", "data:", "training:", "optimizer:", "machine and files:"):
        assert f"\n{group}\n" in result.stdout


def test_only_bpe_takes_a_size_of_the_vocabulary():
    assert resolve(parse("--tokenizer", "bpe", "--vocab_size", "300")).vocab_size == 300
    assert problems("--vocab_size", "300") == (
        "--vocab_size 300: needs --tokenizer bpe; char has a vocabulary of its own",
    )
    (problem,) = problems("--tokenizer", "bpe", "--vocab_size", "256")
    assert problem.startswith("--vocab_size 256: a whole number in [257, inf)")
    assert GPTConfig(vocab_size=5).vocab_size == 5


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--task", "regress", "--label_smoothing", "0.1"], "--label_smoothing 0.1: is of cross_entropy"),
        (["--task", "regress", "--class_weights"], "--class_weights: needs --task classify; this is --task regress"),
        (["--label_column", "stars"], "--label_column: needs --task classify or regress; this is --task text"),
        (["--task", "chat", "--text_column", "words"], "--text_column: needs --task classify or regress"),
    ],
)
def test_what_a_task_has_no_use_for_is_refused(flags, said):
    (problem,) = problems(*flags)
    assert problem.startswith(said)
