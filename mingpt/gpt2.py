"""The border to GPT-2's folder format: config.json and the weights, here and in transformers.

Inside, a setting has the name in config.py and a matrix is a Linear's, (out, in). In the folder a
setting has GPT-2's name and the four matrices of a block lie transposed, (in, out), since GPT-2
wrote them as a convolution of width 1. This file translates and knows no module; in which files
the weights lie, and in which format, is weights.py's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from mingpt import files, weights
from mingpt.config import GPTConfig
from mingpt.errors import UserError
from mingpt.settings import shown

# GPT-2's names for ours. `dropout` has three there, which must agree.
NAMES = {
    "vocab_size": ("vocab_size",),
    "n_layer": ("n_layer",),
    "n_head": ("n_head",),
    "n_embd": ("n_embd",),
    "block_size": ("n_positions",),
    "dropout": ("embd_pdrop", "attn_pdrop", "resid_pdrop"),
    "layer_norm_epsilon": ("layer_norm_epsilon",),
}
MAY_BE_LEFT_OUT = ("dropout", "layer_norm_epsilon")

# What this project's module computes; the first is what is written. A folder that says otherwise is another model.
FIXED = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one formula
    "tie_word_embeddings": (True,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}

# What no folder says, and suits a model that is to be used or fine-tuned.
TO_USE = dict(attention="fused", gelu_in_updates="tanh")

PREFIX = "transformer."
HEAD = "lm_head.weight"
SCORE = "score.weight"
WRITER, SCORER = "GPT2LMHeadModel", "GPT2ForSequenceClassification"
MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # constants that older folders keep among the weights
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def write_folder(
    folder: Path,
    config: GPTConfig,
    tensors: dict[str, Tensor],
    end_of_text: int | None = None,
    more: dict[str, Any] | None = None,
) -> None:
    """Write a model; each of the two files is whole or not there. `more` is what config.json says beside its shape."""
    folder.mkdir(parents=True, exist_ok=True)
    there = {
        name if name == SCORE else PREFIX + name: flipped(name, tensor).contiguous() for name, tensor in tensors.items()
    }
    with files.written_whole(folder / "model.safetensors") as beside:
        try:
            save_file(there, beside, metadata={"format": "pt"})
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from None
    write_config(folder, config, end_of_text, more, tensors["wte.weight"].dtype)


def write_config(
    folder: Path,
    config: GPTConfig,
    end_of_text: int | None = None,
    more: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    settings: dict[str, Any] = {"architectures": [SCORER if config.num_labels else WRITER], "n_inner": None}
    settings |= {name: accepted[0] for name, accepted in FIXED.items()}
    for ours, theirs in NAMES.items():
        settings |= dict.fromkeys(theirs, getattr(config, ours))
    # A key left out would mean 50256, GPT-2's own.
    settings |= {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    settings["dtype"] = str(dtype).removeprefix("torch.")
    if config.num_labels:
        settings["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.num_labels)}
    files.write_json(folder / "config.json", settings | (more or {}))


def read_folder(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The settings, and the tensors by our names, as `dtype`.

    Those that the files hold as such stay mapped there: they take memory only where they are used, or
    written to, and a file must be replaced rather than overwritten meanwhile. The others are converted one by
    one. Raises UserError where a file is missing, torn or another model's.
    """
    config = read_config(folder / "config.json")
    path = weights.find(folder)
    tensors, problems = by_our_names(weights.read(path))
    head = tensors.pop(HEAD, None)
    problems += misfits(tensors, expected_shapes(config))
    if not problems and head is not None and not same(head, tensors["wte.weight"]):
        problems = [f"{HEAD} differs from wte.weight; a head of its own is another model's"]
    if problems:
        raise UserError(*(f"{path}: {problem}" for problem in problems))
    del head
    names = tqdm(list(tensors), desc=f"opening {folder}", unit="tensors", delay=1, leave=False, disable=None)
    return config, {name: converted(flipped(name, tensors.pop(name)), dtype) for name in names}


def read_config(path: Path) -> GPTConfig:
    """The settings in a config.json. Raises UserError where one is missing, out of range or another model's."""
    try:
        settings = files.read_json_object(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: is torn or no JSON ({error})") from None
    others = {key: accepted for key, accepted in FIXED.items() if settings.get(key, accepted[0]) not in accepted}
    problems = [not_ours(path, key, settings[key], accepted) for key, accepted in others.items()]
    if "model_type" in others:  # what else it says means nothing here
        raise UserError(problems[0])
    if "n_ctx" in settings:  # as the oldest folders call it
        settings.setdefault("n_positions", settings["n_ctx"])
    ours = {}
    for name, theirs in NAMES.items():
        found = {key: settings[key] for key in theirs if key in settings}
        if not found and name not in MAY_BE_LEFT_OUT:
            problems.append(f"{path}: {theirs[0]} is missing")
        elif len({str(value) for value in found.values()}) > 1:
            problems.append(f"{path}: {', '.join(found)} differ ({', '.join(map(str, found.values()))})")
        elif found:
            ours[name] = next(iter(found.values()))
    if problems:
        raise UserError(*problems)
    try:
        config = GPTConfig(**ours, **TO_USE, num_labels=labels(settings))
    except UserError as error:
        raise UserError(*(f"{path}: {in_their_words(problem)}" for problem in error.problems)) from None
    inner = (None, 4 * config.n_embd)
    if settings.get("n_inner") not in inner:
        raise UserError(not_ours(path, "n_inner", settings["n_inner"], inner))
    return config


def labels(settings: dict[str, Any]) -> int:
    """How many scores a model gives. GPT2ForSequenceClassification has two where its settings do not say."""
    if settings.get("architectures") != [SCORER]:
        return 0
    return len(settings["id2label"]) if settings.get("id2label") else settings.get("num_labels", 2)


def not_ours(path: Path, key: str, value: Any, accepted: tuple[Any, ...]) -> str:
    return f"{path}: {key} {shown(value)} is another model's; this one has {' or '.join(map(shown, accepted))}"


def in_their_words(problem: str) -> str:
    """A problem with the settings, with the names that they have in the file.

    >>> in_their_words("--block_size 0: a whole number in [1, inf) is accepted")
    'n_positions 0: a whole number in [1, inf) is accepted'
    """
    for ours, theirs in NAMES.items():
        problem = problem.replace(f"--{ours} ", f"{theirs[0]} ")
    return problem


def by_our_names(there: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without prefix and without masks, and a line for each that is there twice."""
    tensors: dict[str, Tensor] = {}
    problems = []
    for key, tensor in there.items():
        name = key.removeprefix(PREFIX)
        if name in tensors:
            problems.append(f"{name} is there twice, with {PREFIX} before it and without")
        if not MASK.fullmatch(name):
            tensors[name] = tensor
    return tensors, problems


def expected_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """The shape that every parameter has in the folder."""
    C, V = config.n_embd, config.vocab_size
    block = {
        **{f"{norm}.{part}": (C,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")},
        **{"attn.c_attn.weight": (C, 3 * C), "attn.c_attn.bias": (3 * C,)},
        **{"attn.c_proj.weight": (C, C), "attn.c_proj.bias": (C,)},
        **{"mlp.c_fc.weight": (C, 4 * C), "mlp.c_fc.bias": (4 * C,)},
        **{"mlp.c_proj.weight": (4 * C, C), "mlp.c_proj.bias": (C,)},
    }
    return {
        "wte.weight": (V, C),
        "wpe.weight": (config.block_size, C),
        **{f"h.{i}.{name}": shape for i in range(config.n_layer) for name, shape in block.items()},
        "ln_f.weight": (C,),
        "ln_f.bias": (C,),
        **({SCORE: (config.num_labels, C)} if config.num_labels else {}),
    }


def misfits(found: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> list[str]:
    """Missing, surplus and misshapen tensors, and those without fractions, a line each."""
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name} is not a part of this model" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        shape, dtype = tuple(found[name].shape), found[name].dtype
        if shape != expected[name]:
            problems.append(f"{name} has shape {shape}, and the config asks for {expected[name]}")
        elif not dtype.is_floating_point:
            problems.append(f"{name} is of {dtype}; floating-point numbers are accepted")
    return sorted(problems)


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def flipped(name: str, tensor: Tensor) -> Tensor:
    """A matrix as the other side of the border has it; all else as it is."""
    return tensor.T if name.endswith(TRANSPOSED) else tensor


def converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor itself where it has the dtype already: then it lies in its file, and is read when it is used."""
    return tensor.detach().to(dtype)
