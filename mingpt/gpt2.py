"""The border to GPT-2's folder format: config.json and model.safetensors, here and in transformers.

Inside, a setting has the name in config.py and a matrix is a Linear's, (out, in). In the folder a
setting has GPT-2's name and the four matrices of a block lie transposed, (in, out), since GPT-2
wrote them as a convolution of width 1. This file translates and knows no module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mingpt import files
from mingpt.config import GPTConfig
from mingpt.errors import UserError

# GPT-2's names for ours. `dropout` has three there, which must agree.
NAMES = {
    "vocab_size": ("vocab_size",),
    "n_layer": ("n_layer",),
    "n_head": ("n_head",),
    "n_embd": ("n_embd",),
    "block_size": ("n_positions",),
    "dropout": ("embd_pdrop", "attn_pdrop", "resid_pdrop"),
}

# What this project's module computes. A folder that says otherwise is another model.
FIXED = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_inner": None,
    "tie_word_embeddings": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}

PREFIX = "transformer."
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def write_folder(folder: Path, config: GPTConfig, tensors: dict[str, Tensor], end_of_text: int | None = None) -> None:
    """Write a model; each of the two files is whole or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"architectures": ["GPT2LMHeadModel"], **FIXED}
    for ours, theirs in NAMES.items():
        settings |= dict.fromkeys(theirs, getattr(config, ours))
    # A key left out would mean 50256, GPT-2's own.
    settings |= {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "dtype": "float32"}
    there = {PREFIX + name: flipped(name, tensor).contiguous() for name, tensor in tensors.items()}
    with files.written_whole(folder / "model.safetensors") as beside:
        try:
            save_file(there, beside, metadata={"format": "pt"})
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from None
    files.write_json(folder / "config.json", settings)


def read_folder(folder: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The settings and the tensors by our names. Raises UserError where a file is missing, torn or another model's."""
    config = read_config(folder / "config.json")
    path = folder / "model.safetensors"
    try:
        there = load_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except SafetensorError as error:
        raise UserError(f"{path}: is torn or no safetensors file ({error})") from None
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in there.items()}
    problems = misfits({name: tuple(flipped(name, t).shape) for name, t in tensors.items()}, expected_shapes(config))
    if problems:
        raise UserError(*(f"{path}: {problem}" for problem in problems))
    return config, {name: flipped(name, tensor).contiguous() for name, tensor in tensors.items()}


def read_config(path: Path) -> GPTConfig:
    try:
        settings = files.read_json_object(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: is torn or no JSON ({error})") from None
    problems = [
        f"{path}: {name} {settings[name]!r} is another model's; this one has {value!r}"
        for name, value in FIXED.items()
        if settings.get(name, value) != value
    ]
    ours = {}
    for name, theirs in NAMES.items():
        found = {key: settings[key] for key in theirs if key in settings}
        if name != "dropout" and not found:
            problems.append(f"{path}: {theirs[0]} is missing")
        elif len({str(value) for value in found.values()}) > 1:
            problems.append(f"{path}: {', '.join(found)} differ ({', '.join(map(str, found.values()))})")
        elif found:
            ours[name] = next(iter(found.values()))
    if problems:
        raise UserError(*problems)
    try:
        return GPTConfig(**ours)
    except UserError as error:
        raise UserError(*(f"{path}: {problem.removeprefix('--')}" for problem in error.problems)) from None


def expected_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by our names, with Linear's (out, in)."""
    C, V = config.n_embd, config.vocab_size
    block = {
        **{f"{norm}.{part}": (C,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")},
        **{"attn.c_attn.weight": (3 * C, C), "attn.c_attn.bias": (3 * C,)},
        **{"attn.c_proj.weight": (C, C), "attn.c_proj.bias": (C,)},
        **{"mlp.c_fc.weight": (4 * C, C), "mlp.c_fc.bias": (4 * C,)},
        **{"mlp.c_proj.weight": (C, 4 * C), "mlp.c_proj.bias": (C,)},
    }
    return {
        "wte.weight": (V, C),
        "wpe.weight": (config.block_size, C),
        **{f"h.{i}.{name}": shape for i in range(config.n_layer) for name, shape in block.items()},
        "ln_f.weight": (C,),
        "ln_f.bias": (C,),
    }


def misfits(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> list[str]:
    """Missing, surplus and misshapen tensors, a line each."""
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name} is not a part of this model" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} has shape {found[name]}, and the config asks for {expected[name]}"
        for name in expected.keys() & found.keys()
        if found[name] != expected[name]
    ]
    return sorted(problems)


def flipped(name: str, tensor: Tensor) -> Tensor:
    """A matrix as the other side of the border has it; all else as it is."""
    return tensor.T if name.endswith(TRANSPOSED) and tensor.dim() == 2 else tensor
