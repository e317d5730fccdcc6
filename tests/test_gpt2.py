"""The border to GPT-2's format, against transformers: whatever it opens opens here alike, or is refused by name."""

from __future__ import annotations

import json
import re

import pytest
import torch
from conftest import assert_same_model, random_gpt2, random_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from mingpt import GPT
from mingpt.errors import UserError


@pytest.fixture
def folder(tmp_path):
    random_model().save_pretrained(tmp_path)
    return tmp_path


def change_config(folder, **changes):
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | changes), encoding="utf-8")


def test_load_save_load_is_exact_and_opens_in_transformers(tmp_path):
    model = random_gpt2(layer_norm_epsilon=0.01)
    model.save_pretrained(tmp_path / "a")
    for dtype in (torch.float32, torch.bfloat16):
        first = GPT.from_pretrained(tmp_path / "a", dtype)
        first.save_pretrained(tmp_path / "b")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
        assert again.dtype == dtype
        assert_same_model(first.float(), again.float())
        second = GPT.from_pretrained(tmp_path / "b", dtype)
        assert second.config == first.config
        second.save_pretrained(tmp_path / "c")
        for name in ("config.json", "model.safetensors"):
            assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


def test_the_epsilon_of_layer_norm_is_used(tmp_path):
    model = random_gpt2(layer_norm_epsilon=0.5)
    model.save_pretrained(tmp_path)
    assert_same_model(GPT.from_pretrained(tmp_path), model)
    change_config(tmp_path, layer_norm_epsilon=0)
    with pytest.raises(UserError, match=r"config.json: layer_norm_epsilon 0: a number in \(0, inf\)"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "llama"),
        ("activation_function", "relu"),
        ("activation_function", "gelu"),
        ("n_inner", 100),
        ("tie_word_embeddings", False),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
    ],
)
def test_a_setting_that_this_module_does_not_compute_is_refused(folder, key, value):
    change_config(folder, **{key: value})
    with pytest.raises(UserError) as caught:
        GPT.from_pretrained(folder)
    (problem,) = caught.value.problems
    shown = value if isinstance(value, str) else json.dumps(value)
    assert problem.startswith(f"{folder / 'config.json'}: {key} {shown} is another model's; this one has ")


def test_all_that_is_wrong_with_the_settings_is_said_at_once_unless_it_is_no_gpt2(folder):
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"scale_attn_weights": False, "embd_pdrop": 0.5}
    del settings["n_head"]
    path.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        GPT.from_pretrained(folder)
    assert [problem.removeprefix(f"{path}: ") for problem in caught.value.problems] == [
        "scale_attn_weights false is another model's; this one has true",
        "n_head is missing",
        "embd_pdrop, attn_pdrop, resid_pdrop differ (0.5, 0.0, 0.0)",
    ]
    path.write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False}), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        GPT.from_pretrained(folder)
    assert caught.value.problems == (f"{path}: model_type llama is another model's; this one has gpt2",)


@pytest.mark.parametrize(
    "changes",
    [
        dict(summary_type="cls_index", _name_or_path="somewhere", use_cache=True, n_special=0, bos_token_id=3),
        dict(reorder_and_upcast_attn=True),  # another order of the same operations
        dict(activation_function="gelu_pytorch_tanh", n_inner=128),
    ],
)
def test_settings_without_effect_are_ignored(tmp_path, changes):
    random_gpt2().save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    assert_same_model(GPT.from_pretrained(tmp_path), GPT2LMHeadModel.from_pretrained(tmp_path))


def test_the_config_of_an_old_folder_is_enough(tmp_path):
    """n_ctx for n_positions, and none of the keys that came later."""
    model = random_gpt2()
    model.save_pretrained(tmp_path)
    old = dict(vocab_size=50, n_layer=3, n_head=2, n_embd=32, n_ctx=20, initializer_range=0.02)
    (tmp_path / "config.json").write_text(json.dumps(old), encoding="utf-8")
    assert_same_model(GPT.from_pretrained(tmp_path), model)
    (tmp_path / "config.json").write_text(json.dumps(old | {"n_positions": 20, "n_ctx": 99}), encoding="utf-8")
    assert_same_model(GPT.from_pretrained(tmp_path), model)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda wte: {"lm_head.weight": wte + 1e-7}, "lm_head.weight differs from wte.weight"),
        (
            lambda wte: {"transformer.wte.weight": wte * 0, "lm_head.weight": wte.half() * 0},
            "lm_head.weight differs from wte.weight",
        ),
        (lambda wte: {"lm_head.weight": wte[:-1]}, "lm_head.weight differs from wte.weight"),
        (lambda wte: {"wte.weight": wte}, "wte.weight is there twice"),
        (lambda wte: {"score.weight": wte}, "score.weight is not a part of this model"),
    ],
)
def test_a_second_use_of_the_embedding_is_the_same_one_or_refused(tmp_path, change, problem):
    model = random_gpt2()
    model.config.save_pretrained(tmp_path)
    tensors = dict(model.state_dict())
    tensors |= change(tensors["transformer.wte.weight"])
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=re.escape(problem)):
        GPT.from_pretrained(tmp_path)


def test_a_config_of_another_size_is_refused(folder):
    change_config(folder, n_layer=3)
    with pytest.raises(UserError, match="h.2.attn.c_attn.weight is missing"):
        GPT.from_pretrained(folder)
    change_config(folder, n_layer="three", n_positions=0)
    with pytest.raises(UserError) as caught:
        GPT.from_pretrained(folder)
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "n_layer three: a whole number in [1, inf) is accepted",
        "n_positions 0: a whole number in [1, inf) is accepted",
    ]
