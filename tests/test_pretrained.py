"""Folders of models against transformers: what it writes opens here with equal logits, and the other way round."""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import pytest
import torch
from conftest import random_model
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from mingpt import pretrained
from mingpt.config import GPTConfig
from mingpt.errors import UserError
from mingpt.model import GPT
from mingpt.settings import setting

SHAPE = dict(vocab_size=50, n_layer=3, n_head=2, n_embd=32)


def random_gpt2(**settings):
    """A small GPT-2 of transformers with no weight at zero or one, so that each of them matters."""
    torch.manual_seed(0)
    options = SHAPE | dict(n_positions=20, bos_token_id=None, eos_token_id=None) | settings
    model = GPT2LMHeadModel(GPT2Config(**options)).eval()
    for weight in model.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.2)
    return model


def assert_equal_logits(ours, theirs):
    idx = torch.arange(16)[None]
    with torch.no_grad():
        logits = ours.score(ours.hidden_states(idx)[:, -1]) if ours.config.num_labels else ours(idx)
        torch.testing.assert_close(logits, theirs(idx).logits, rtol=1e-5, atol=1e-5)


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def problems_of(folder):
    with pytest.raises(UserError) as caught:
        GPT.from_pretrained(folder)
    assert not any("\n" in problem for problem in caught.value.problems)
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


def write_safetensors(folder, tensors):
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def write_bin(folder, tensors, is_zip=True):
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)


def write_shards(write, file, folder, tensors):
    weight_map = {name: file.replace(".", f"-{i % 3}.") for i, name in enumerate(tensors)}
    for shard in set(weight_map.values()):
        write(folder, {name: tensor for name, tensor in tensors.items() if weight_map[name] == shard})
        (folder / file).rename(folder / shard)
    (folder / f"{file}.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")


FORMATS = {
    "safetensors": write_safetensors,
    "safetensors shards": partial(write_shards, write_safetensors, "model.safetensors"),
    "bin": write_bin,
    "old bin": partial(write_bin, is_zip=False),
    "bin shards": partial(write_shards, write_bin, "pytorch_model.bin"),
}


def write_gpt2(folder, kind, model, tensors=None):
    model.config.save_pretrained(folder)
    FORMATS[kind](folder, tensors or dict(model.state_dict()))


@pytest.fixture
def folder(tmp_path):
    random_gpt2().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("prefix", ["transformer.", "", "module.transformer.", "_orig_mod.module.", "model."])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_and_naming_of_weights_is_the_same_model(tmp_path, kind, prefix):
    model = random_gpt2()
    tensors = {name.replace("transformer.", prefix): tensor for name, tensor in model.state_dict().items()}
    if not prefix:  # as in the oldest folders
        del tensors["lm_head.weight"]
        tensors |= {"h.0.attn.bias": torch.ones(1, 1, 20, 20).byte().tril(), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    write_gpt2(tmp_path, kind, model, tensors)
    assert_equal_logits(GPT.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("num_labels", [0, 1, 3])
def test_saved_models_open_in_transformers_and_from_there_here(tmp_path, activation, num_labels):
    ours = random_model(activation=activation, num_labels=num_labels, layer_norm_epsilon=0.01, dropout=0.1)
    eos_id = num_labels or None
    pretrained.write_folder(tmp_path, ours.config, ours.state_dict(), eos_id, extra={"target_mean": 2.5})
    theirs = (GPT2ForSequenceClassification if num_labels else GPT2LMHeadModel).from_pretrained(tmp_path)
    assert (theirs.config.eos_token_id, theirs.config.target_mean, theirs.dtype) == (eos_id, 2.5, torch.float32)
    assert_equal_logits(ours, theirs)
    assert GPT.from_pretrained(tmp_path).config == ours.config
    theirs.bfloat16().save_pretrained(tmp_path)
    again = GPT.from_pretrained(tmp_path, torch.bfloat16)
    again.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"
    assert again.config == ours.config
    assert_equal_logits(again.float(), theirs.float())


def test_a_new_field_of_the_architecture_is_written_and_read(tmp_path, monkeypatch):
    class Extended(GPTConfig):
        positions: Literal["learned", "rotary"] = setting("learned", help="kind of position embedding")

    monkeypatch.setattr(pretrained, "GPTConfig", Extended)
    pretrained.write_config(tmp_path, Extended(positions="rotary", attention="explicit"))
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["positions"] == "rotary"
    assert pretrained.read_config(tmp_path) == Extended(positions="rotary", attention="explicit")
    pretrained.write_config(tmp_path, GPTConfig())  # by an older version
    assert pretrained.read_config(tmp_path).positions == "learned"


def test_absent_keys_have_gpt2s_defaults_and_others_no_effect(folder):
    others = dict(n_ctx=99, n_inner=128, use_cache=True, embd_pdrop=0.5, attn_pdrop=0.1)
    for settings in (dict(n_positions=20), dict(n_positions=20) | others):
        (folder / "config.json").write_text(json.dumps(SHAPE | settings), encoding="utf-8")
        model = GPT.from_pretrained(folder)
        assert (model.config.attention, model.config.activation) == ("fused", "gelu_new")
        assert model.config.dropout == settings.get("embd_pdrop", 0.0)
        assert_equal_logits(model, random_gpt2())


def test_all_problems_of_a_config_are_reported_unless_it_is_not_gpt2(folder):
    changes = {
        "tie_word_embeddings false: must be true": dict(tie_word_embeddings=False),
        "scale_attn_weights false: must be true": dict(scale_attn_weights=False),
        "scale_attn_by_inverse_layer_idx true: must be false": dict(scale_attn_by_inverse_layer_idx=True),
        "n_inner 100: must be 128": dict(n_inner=100),
        "n_head is missing": dict(n_head=None),
        "embd_pdrop 1.5: input should be less than 1": dict(embd_pdrop=1.5),
        "n_positions 0: input should be greater than or equal to 1": dict(n_positions=0),
        "activation_function relu: input should be 'gelu' or 'gelu_new'; did you mean gelu?": dict(
            activation_function="relu"
        ),
    }
    for change in changes.values():
        change_config(folder, **change)
    assert {problem.removeprefix("config.json: ") for problem in problems_of(folder)} == changes.keys()
    change_config(folder, model_type="llama")
    assert problems_of(folder) == ["config.json: model_type llama: must be gpt2"]


def test_every_tensor_that_does_not_fit_is_named(folder):
    tensors = dict(random_gpt2().state_dict())
    del tensors["transformer.h.1.ln_2.bias"]
    tensors["transformer.h.7.ln_1.bias"] = torch.zeros(32)
    tensors["transformer.h.0.attn.c_attn.weight"] = torch.zeros(96, 32)
    tensors["transformer.h.0.ln_1.bias"] = torch.zeros(32, dtype=torch.int8)
    write_safetensors(folder, tensors)
    assert sorted(problem.removeprefix("model.safetensors: ") for problem in problems_of(folder)) == [
        "h.0.attn.c_attn.weight is torch.float32 of shape (96, 32); must be floating-point of (32, 96)",
        "h.0.ln_1.bias is torch.int8 of shape (32,); must be floating-point of (32,)",
        "h.1.ln_2.bias is missing",
        "h.7.ln_1.bias is unexpected",
    ]
    write_safetensors(folder, {f"another.{name}": tensor for name, tensor in tensors.items()})
    assert len(problems_of(folder)) == 10
    tensors = dict(random_gpt2().state_dict())
    for head in (tensors["lm_head.weight"] + 1e-6, torch.zeros(49, 32), torch.zeros(50, 32).half()):
        write_safetensors(folder, tensors | {"lm_head.weight": head})
        assert problems_of(folder)[0].startswith("model.safetensors: lm_head.weight differs from wte.weight")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["wte.weight", "h.1.mlp.c_fc.weight", "ln_f.bias"])
def test_a_tensor_that_is_not_finite_is_named(folder, value, name):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        tensors = {key: tensor.to(dtype) for key, tensor in random_gpt2().state_dict().items()}
        tensors[f"transformer.{name}"].flatten()[-1] = value
        write_safetensors(folder, tensors)
        assert problems_of(folder) == [f"model.safetensors: {name} contains NaN or infinity; the weights are damaged"]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("damage", [None, b"", b"{", b"garbage" * 99, "truncate"])
def test_a_damaged_file_is_named(tmp_path, kind, damage):
    write_gpt2(tmp_path, kind, random_gpt2())
    for path in set(tmp_path.iterdir()) - {tmp_path / "generation_config.json"}:
        content = path.read_bytes()
        path.unlink()
        if damage is not None:
            path.write_bytes(content[: len(content) // 2] if damage == "truncate" else damage)
        with pytest.raises((UserError, FileNotFoundError)) as caught:
            GPT.from_pretrained(tmp_path)
        is_any_name = damage is None and path.name in pretrained.WEIGHTS
        assert ("model.safetensors: is missing" if is_any_name else path.name) in str(caught.value)
        path.write_bytes(content)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trap",)


@pytest.mark.parametrize("kind", ["bin", "old bin"])
def test_no_code_in_a_file_is_run_and_other_content_is_named(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    unreadable, nested = "is missing, corrupt or not a file of weights (", {"model": {"wte.weight": torch.zeros(3)}}
    for content, problem in ((Trap(), unreadable), ([1, 2], unreadable), (nested, "model is unexpected")):
        write_gpt2(tmp_path, kind, random_gpt2(), content)
        assert problems_of(tmp_path)[0].startswith(f"pytorch_model.bin: {problem}")
    assert not Path("trap").exists()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_opening_uses_no_random_numbers_and_its_file_stays_as_it_is(tmp_path, kind):
    model = random_gpt2()
    write_gpt2(tmp_path, kind, model)
    state = torch.get_rng_state()
    for weight in GPT.from_pretrained(tmp_path).parameters():
        weight.data.add_(1.0)
    ours = GPT.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    for path in tmp_path.iterdir():
        path.unlink()
    assert_equal_logits(ours, model)


def peak_memory(folder, dtype):
    """The anonymous memory that opening takes at most, in units of the weights."""
    GPT.from_pretrained(folder)  # imports modules
    samples, is_done = [], threading.Event()

    def sample():
        while not samples or not is_done.wait(0.0003):
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            samples.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")))

    thread = threading.Thread(target=sample)
    thread.start()
    while not samples:
        is_done.wait(0.0003)
    model = GPT.from_pretrained(folder, dtype)
    is_done.set()
    thread.join()
    assert model.wte.weight.dtype == dtype
    return (max(samples) - samples[0]) / sum(weight.nbytes for weight in model.parameters())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_opening_takes_no_more_memory_than_the_weights(tmp_path, monkeypatch):
    """A fifth of these 55 MB is the embedding, so that one copy too many shows in each format."""
    model = random_gpt2(vocab_size=6500, n_positions=256, n_embd=384, n_layer=6, n_head=6)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # freed memory is returned at once
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for kind, stored, asked, limit in (
            ("safetensors", torch.float32, torch.float32, 0.15),  # the weights stay in their file
            ("safetensors", torch.float16, torch.float32, 1.15),
            ("safetensors shards", torch.float32, torch.bfloat16, 1.15),
            ("bin", torch.float32, torch.bfloat16, 1.15),
            ("old bin", torch.float32, torch.float32, 1.15),
        ):
            write_gpt2(tmp_path / f"{kind} {stored}", kind, model.to(stored))
            assert pool.submit(peak_memory, tmp_path / f"{kind} {stored}", asked).result() < limit, (kind, stored)
