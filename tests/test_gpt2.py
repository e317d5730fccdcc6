"""The border to GPT-2's format: what is no GPT-2 of this kind is refused, and the reason names it."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import random_model
from safetensors.torch import load_file, save_file

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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "llama"),
        ("activation_function", "relu"),
        ("layer_norm_epsilon", 1e-6),
        ("n_inner", 100),
        ("tie_word_embeddings", False),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
    ],
)
def test_a_setting_that_this_module_does_not_compute_is_refused(folder, key, value):
    change_config(folder, **{key: value})
    with pytest.raises(UserError, match=f"{key} {value!r}"):
        GPT.from_pretrained(folder)


def test_settings_without_effect_are_ignored(folder):
    change_config(folder, summary_type="cls_index", _name_or_path="somewhere", use_cache=True)
    assert GPT.from_pretrained(folder).config.n_layer == 2


def test_each_tensor_that_does_not_fit_is_named(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.ln_2.bias"]
    tensors["transformer.h.7.ln_1.bias"] = torch.zeros(24)
    tensors["transformer.wpe.weight"] = torch.zeros(99, 24)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError) as caught:
        GPT.from_pretrained(folder)
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "h.1.ln_2.bias is missing",
        "h.7.ln_1.bias is not a part of this model",
        "wpe.weight has shape (99, 24), and the config asks for (16, 24)",
    ]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "torn"])
def test_a_damaged_file_is_named(folder, name, damage):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        GPT.from_pretrained(folder)


def test_a_config_of_another_size_is_refused(folder):
    change_config(folder, n_layer=3)
    with pytest.raises(UserError, match="h.2.attn.c_attn.weight is missing"):
        GPT.from_pretrained(folder)
    change_config(folder, n_layer="three")
    with pytest.raises(UserError, match="n_layer three"):
        GPT.from_pretrained(folder)
