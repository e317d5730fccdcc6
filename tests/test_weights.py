"""The files of the weights: every format opens alike and in no more memory, and a damaged one is refused by name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, assert_same_model, random_gpt2, random_model
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from mingpt import GPT
from mingpt.errors import UserError
from mingpt.gpt2 import TRANSPOSED


def write_safetensors(folder, tensors):
    separate = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(separate, folder / "model.safetensors", metadata={"format": "pt"})


def write_bin(folder, tensors):
    torch.save(tensors, folder / "pytorch_model.bin")


def write_old_bin(folder, tensors):
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def in_shards(write, suffix):
    def write_shards(folder, tensors):
        shards = [dict(list(tensors.items())[i::3]) for i in range(3)]
        whole = f"{'model' if suffix == 'safetensors' else 'pytorch_model'}.{suffix}"
        weight_map = {}
        for i, shard in enumerate(shards):
            write(folder, shard)
            name = whole.replace(".", f"-0000{i + 1}-of-00003.")
            (folder / whole).rename(folder / name)
            weight_map |= dict.fromkeys(shard, name)
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / f"{whole}.index.json").write_text(json.dumps(index), encoding="utf-8")

    return write_shards


FORMATS = {
    "safetensors": write_safetensors,
    "sharded safetensors": in_shards(write_safetensors, "safetensors"),
    "bin": write_bin,
    "old bin": write_old_bin,
    "sharded bin": in_shards(write_bin, "bin"),
    "sharded old bin": in_shards(write_old_bin, "bin"),
}


def without_head(tensors):
    return {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}


def without_prefix(tensors):
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def with_masks(tensors):
    masks = {}
    for i in range(3):
        masks[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 20, 20, dtype=torch.uint8).tril()
        masks[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    return tensors | masks


KEYS = {
    "as saved now": dict,
    "no head": without_head,
    "no prefix": without_prefix,
    "neither": lambda tensors: without_prefix(without_head(tensors)),
    "a head of its own memory": lambda tensors: tensors | {"lm_head.weight": tensors["lm_head.weight"].clone()},
    "masks": with_masks,
    "masks without prefix": lambda tensors: without_prefix(with_masks(tensors)),
}


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_with_every_kind_of_names_is_the_same_model(tmp_path, kind, keys):
    model = random_gpt2()
    model.config.save_pretrained(tmp_path)
    FORMATS[kind](tmp_path, KEYS[keys](dict(model.state_dict())))
    assert_same_model(GPT.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "old bin"])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("asked", [torch.float32, torch.bfloat16])
def test_weights_of_any_precision_become_what_is_asked(tmp_path, kind, stored, asked):
    model = random_gpt2().to(stored)
    model.config.save_pretrained(tmp_path)
    FORMATS[kind](tmp_path, dict(model.state_dict()))
    expected = dict(model.transformer.named_parameters())
    for name, weight in GPT.from_pretrained(tmp_path, dtype=asked).named_parameters():
        assert weight.dtype == asked
        assert torch.equal(weight, (expected[name].T if name.endswith(TRANSPOSED) else expected[name]).to(asked)), name


def test_what_transformers_saves_in_shards_opens_here(tmp_path):
    model = random_gpt2()
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same_model(GPT.from_pretrained(tmp_path), model)


def test_a_model_outlives_its_file(tmp_path):
    for kind in ("safetensors", "bin"):
        place = tmp_path / kind
        model = random_gpt2()
        model.config.save_pretrained(place)
        FORMATS[kind](place, dict(model.state_dict()))
        ours = GPT.from_pretrained(place)
        random_model().save_pretrained(place)  # in its place, as every file here is written
        for path in place.iterdir():
            path.unlink()
        assert_same_model(ours, model)


def test_learning_does_not_write_to_the_file(tmp_path):
    for kind in ("safetensors", "bin"):
        model = random_gpt2()
        model.config.save_pretrained(tmp_path / kind)
        FORMATS[kind](tmp_path / kind, dict(model.state_dict()))
        ours = GPT.from_pretrained(tmp_path / kind)
        with torch.no_grad():
            for weight in ours.parameters():
                weight.add_(1.0)
        assert_same_model(GPT.from_pretrained(tmp_path / kind), model)


@pytest.mark.parametrize("kind", ["safetensors", "sharded safetensors", "bin"])
def test_each_tensor_that_does_not_fit_is_named(tmp_path, kind):
    model = random_gpt2()
    model.config.save_pretrained(tmp_path)
    tensors = dict(model.state_dict())
    del tensors["transformer.h.1.ln_2.bias"]
    tensors["transformer.h.7.ln_1.bias"] = torch.zeros(32)
    tensors["transformer.h.0.attn.c_attn.weight"] = torch.zeros(96, 32)
    tensors["transformer.h.0.ln_1.bias"] = torch.zeros(32, dtype=torch.int8)
    tensors["transformer.wpe.weight"] = torch.zeros(99, 32)
    FORMATS[kind](tmp_path, tensors)
    with pytest.raises(UserError) as caught:
        GPT.from_pretrained(tmp_path)
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "h.0.attn.c_attn.weight has shape (96, 32), and the config asks for (32, 96)",
        "h.0.ln_1.bias is of torch.int8; floating-point numbers are accepted",
        "h.1.ln_2.bias is missing",
        "h.7.ln_1.bias is not a part of this model",
        "wpe.weight has shape (99, 32), and the config asks for (20, 32)",
    ]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("safetensors", "config.json"),
        ("safetensors", "model.safetensors"),
        ("bin", "pytorch_model.bin"),
        ("old bin", "pytorch_model.bin"),
        ("sharded safetensors", "model.safetensors.index.json"),
        ("sharded safetensors", "model-00002-of-00003.safetensors"),
        ("sharded bin", "pytorch_model-00002-of-00003.bin"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "torn", "garbage", "a folder"])
def test_a_damaged_file_is_named(tmp_path, kind, name, damage):
    model = random_gpt2()
    model.config.save_pretrained(tmp_path)
    FORMATS[kind](tmp_path, dict(model.state_dict()))
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "torn": content[: len(content) // 2], "garbage": b"garbage" * 99}[damage])
    with pytest.raises(UserError) as caught:
        GPT.from_pretrained(tmp_path)
    (problem,) = caught.value.problems
    if damage == "missing" and (name.startswith("model.") or name == "pytorch_model.bin"):
        assert problem.startswith(f"{tmp_path}: holds no weights; accepted are model.safetensors or pytorch_model.bin")
    else:
        assert problem.startswith(f"{path}: is torn or no" if damage in ("empty", "torn", "garbage") else f"{path}: ")
    assert "\n" not in problem


@pytest.mark.parametrize("weight_map", [None, [], {"w": 5}, {"w": ["x"]}, {"w": "../model.safetensors"}, {"w": ".."}])
def test_an_index_that_names_no_shards_beside_it_is_refused(tmp_path, weight_map):
    random_gpt2().config.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"{path}: is torn or no index of shards")):
        GPT.from_pretrained(tmp_path)


class Trap:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [write_bin, write_old_bin])
def test_no_code_in_a_file_is_run(tmp_path, write):
    random_gpt2().config.save_pretrained(tmp_path)
    for content in (Trap(str(tmp_path / "sprung")), [1, 2], {"model": {"wte.weight": torch.zeros(3)}}):
        write(tmp_path, content)
        with pytest.raises(
            UserError, match=r"pytorch_model\.bin: (is torn or no file of weights|holds something other)"
        ):
            GPT.from_pretrained(tmp_path)
    assert not (tmp_path / "sprung").exists()


LOADING = """
import gc, sys, threading, time
from pathlib import Path
import torch
from mingpt import GPT

def anonymous():
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.0003)

peak = 0
GPT.from_pretrained(sys.argv[1])
threading.Thread(target=watch, daemon=True).start()
for argument in sys.argv[2:]:
    folder, dtype = argument.split("=")
    peak = before = anonymous()
    model = GPT.from_pretrained(folder, getattr(torch, dtype))
    weights = sum(weight.nbytes for weight in model.parameters())
    print((peak - before) / weights, (anonymous() - before) / weights)
    del model
    gc.collect()
"""


def test_opening_takes_no_more_memory_than_the_weights(tmp_path):
    """A fifth of these 55 MB are the embedding, so that one tensor too many is seen in each format."""
    shape = dict(vocab_size=6500, n_positions=256, n_embd=384, n_layer=6, n_head=6)
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=None, eos_token_id=None))
    stored = {"float32": dict(model.state_dict()), "float16": dict(model.half().state_dict())}
    cases = [
        ("safetensors", "float32", "float32"),
        ("safetensors", "float16", "float32"),
        ("safetensors", "float32", "bfloat16"),
        ("sharded safetensors", "float32", "float32"),
        ("bin", "float32", "float32"),
        ("bin", "float16", "float32"),
        ("old bin", "float32", "float32"),
        ("old bin", "float16", "float32"),
    ]
    arguments = []
    for kind, dtype, asked in cases:
        place = tmp_path / f"{kind} {dtype}"
        if not place.exists():
            model.config.save_pretrained(place)
            FORMATS[kind](place, stored[dtype])
        arguments.append(f"{place}={asked}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is gone
    random_model().save_pretrained(tmp_path / "first")
    command = [sys.executable, "-c", LOADING, str(tmp_path / "first"), *arguments]
    printed = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True).stdout
    for case, line in zip(cases, printed.splitlines(), strict=True):
        most, after = map(float, line.split())
        assert most < 1.15, case
        assert after < 1.05, case
