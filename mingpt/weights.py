"""The files that hold a model's tensors: safetensors' or PyTorch's own, whole or in shards beside an index.

An index is JSON, {"weight_map": {"the name of a tensor": "the shard that holds it", ...}}. This file
knows no model: what the tensors are called and which there must be is gpt2.py's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mingpt import files
from mingpt.errors import UserError

# What a folder's weights may be called; where there are several, the first is read.
NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ACCEPTED = "model.safetensors or pytorch_model.bin, whole or in shards beside an index"
ZIP = b"PK\x03\x04"  # what a zip archive begins with


def find(folder: Path) -> Path:
    """The file of the weights, or the index of their shards. Raises UserError where there is none."""
    for name in NAMES:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder}: holds no weights; accepted are {ACCEPTED}")


def shards(path: Path) -> list[Path]:
    """The files that hold the tensors: `path` itself, or those in an index. Raises UserError where it is torn."""
    if path.suffix != ".json":
        return [path]
    suffix = Path(path.name.removesuffix(".index.json")).suffix
    try:
        names = sorted(set(files.read_json_object(path)["weight_map"].values()))
        if not all(name.endswith(suffix) and Path(name).name == name for name in names):
            raise ValueError(f"a shard is a {suffix} file in the same folder")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is torn or no index of shards ({type(error).__name__}: {error})") from None
    return [path.with_name(name) for name in names]


def read(path: Path) -> dict[str, Tensor]:
    """All tensors by the names that they have there, mapped: they lie in their file and take no memory until used.

    Only PyTorch's old format, which is no zip archive, cannot be mapped. Raises UserError where a
    file is missing, torn, or holds something else.
    """
    tensors: dict[str, Tensor] = {}
    for shard in shards(path):
        tensors |= read_safetensors(shard) if shard.suffix == ".safetensors" else read_pickle(shard)
    return tensors


def read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except SafetensorError as error:
        raise UserError(f"{path}: is torn or no safetensors file ({error})") from None


def read_pickle(path: Path) -> dict[str, Tensor]:
    """What torch.save wrote. Nothing but tensors and plain values is unpickled."""
    try:
        with open(path, "rb") as file:
            is_zip = file.read(len(ZIP)) == ZIP
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # torn in different places, a file raises errors that have no class in common
        raise UserError(f"{path}: is torn or no file of weights ({type(error).__name__})") from None
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"{path}: holds something other than tensors by their names")
    return content
