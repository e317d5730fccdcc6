"""Pretrained models: GPT-2's folder format, as transformers reads and writes it, and the Hugging Face hub.

config.json holds the fields of GPTConfig, under GPT-2's keys where it has its own; the weights are model.safetensors or
pytorch_model.bin, or shards with an index. Four matrices per block are stored as (in, out), nn.Linear has (out, in).
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mingpt.config import GPTConfig
from mingpt.errors import UserError
from mingpt.files import atomic_write, read_json, write_json
from mingpt.settings import format_value, nearest

Json = dict[str, Any]
# GPT-2's keys in config.json of fields that it names otherwise. num_labels is the length of id2label.
KEYS = {"block_size": ["n_positions"], "activation": ["activation_function"], "num_labels": []}
KEYS["dropout"] = ["embd_pdrop", "attn_pdrop", "resid_pdrop"]  # read from the first
REQUIRED = ("vocab_size", "n_layer", "n_head", "n_embd", "block_size")
DEFAULTS = {"attention": "fused", "activation": "gelu_new"}  # of keys that are absent; for others GPTConfig's
# What GPT computes; with another value, a model computes another function.
FIXED = {"model_type": "gpt2", "tie_word_embeddings": True, "scale_attn_weights": True}
FIXED |= {"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
LANGUAGE_MODEL, CLASSIFIER = "GPT2LMHeadModel", "GPT2ForSequenceClassification"

TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
PREFIX = re.compile(r"^((transformer|model|module|_orig_mod)\.)+")  # of transformers, wrappers, DDP, torch.compile
HEAD, SCORE = "lm_head.weight", "score.weight"
OPTIONAL = re.compile(r"lm_head\.weight|h\.\d+\.attn\.(bias|masked_bias)")  # a copy of wte, and causal masks
# Names of the weights, in order of preference.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SMALL_FILES = ["config.json", "tokenizer*.json", "vocab.json", "merges.txt", "*_tokens*.json", "chat_template.jinja"]
KNOWN = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")


def locate(path_or_name: str | Path) -> Path:
    """The folder of a model: the one given, or the hub's cache of that name. Raises UserError where there is none."""
    name = str(path_or_name)
    if Path(name).is_dir():
        return Path(name)
    if name not in KNOWN and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"{name}: must be a folder, {', '.join(KNOWN)} or OWNER/NAME on the hub{nearest(name, KNOWN)}")
    folder = download(name, SMALL_FILES)
    read_config(folder)  # before gigabytes of another model are downloaded
    download(name, ["config.json", "model*.safetensors*"], revision=folder.name)
    if not any(folder.glob("model*.safetensors*")):
        download(name, ["config.json", "pytorch_model*.bin*"], revision=folder.name)
    return folder


def download(name: str, patterns: list[str], revision: str | None = None) -> Path:
    """The folder in the hub's cache with the files that match, of the latest commit or of `revision`."""
    from huggingface_hub import errors, snapshot_download, utils

    utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except errors.LocalEntryNotFoundError as error:
        problem = f"is not in the hub's cache, and the hub cannot be reached ({summary(error.__cause__ or error)})"
    except errors.GatedRepoError:
        problem = "is gated; accept its terms on the hub, then log in with `hf auth login` or set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        problem = "is not a folder and not on the hub; if it is private, log in with `hf auth login` or set HF_TOKEN"
    except Exception as error:  # a full disk, a lost connection, an invalid name: no common class
        problem = f"cannot be downloaded from the hub ({summary(error)})"
    raise UserError(f"{name}: {problem}")


def read_config(folder: Path) -> GPTConfig:
    """The configuration in config.json. Raises UserError where it is not that of a GPT-2 model."""
    path = folder / "config.json"
    settings = read_json(path)
    if settings.get("model_type", "gpt2") != "gpt2":  # whose other keys have other meanings
        raise UserError(f"{path}: model_type {format_value(settings['model_type'])}: must be gpt2")
    fixed = FIXED | {"n_inner": 4 * (settings.get("n_embd") or 0)}
    wrong = {key: value for key, value in fixed.items() if settings.get(key) not in (None, value)}
    problems = [f"{key} {format_value(settings[key])}: must be {format_value(value)}" for key, value in wrong.items()]
    values: Json = dict(DEFAULTS)
    for name in GPTConfig.model_fields:
        if given := [settings[key] for key in KEYS.get(name, [name]) if settings.get(key) is not None]:
            values[name] = given[0]
    if settings.get("architectures") == [CLASSIFIER]:
        values["num_labels"] = len(settings.get("id2label") or ()) or 2  # transformers' default
    problems += [f"{KEYS.get(name, [name])[0]} is missing" for name in REQUIRED if name not in values]
    try:
        config = GPTConfig(**values)
    except UserError as error:
        problems += [re.sub(r"--(\w+)", lambda match: KEYS.get(match[1], [match[1]])[0], e) for e in error.problems]
    if problems:
        raise UserError(*(f"{path}: {problem}" for problem in problems))
    return config


def write_config(
    folder: Path, config: GPTConfig, eos_id: int | None = None, extra: Json | None = None, dtype: str = "float32"
) -> None:
    """Write config.json. `eos_id` is the token that ends a text; `extra` are further keys."""
    settings: Json = {"architectures": [CLASSIFIER if config.num_labels else LANGUAGE_MODEL], "dtype": dtype, **FIXED}
    for name, value in config:
        settings |= dict.fromkeys(KEYS.get(name, [name]), value)
    settings |= {"bos_token_id": eos_id, "eos_token_id": eos_id}  # where they are absent, transformers takes 50256
    if config.num_labels:
        settings["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.num_labels)}
    write_json(folder / "config.json", settings | (extra or {}))


def write_folder(
    folder: Path, config: GPTConfig, tensors: dict[str, Tensor], eos_id: int | None = None, extra: Json | None = None
) -> None:
    """Write model.safetensors and config.json; each file is complete or absent. Raises OSError on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    prefixes = {name: "" if name == SCORE else "transformer." for name in tensors}
    stored = {prefixes[name] + name: transpose(name, tensor).contiguous() for name, tensor in tensors.items()}
    with atomic_write(folder / "model.safetensors") as path:
        try:
            save_file(stored, path, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from None
    write_config(folder, config, eos_id, extra, str(tensors["wte.weight"].dtype).removeprefix("torch."))


def read_folder(
    model_class: Callable[[GPTConfig], nn.Module], folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The configuration, and the weights by the names of the model's parameters, matrices as (out, in).

    Weights stored as `dtype` stay mapped from the file, which takes no memory; others are converted one by one.
    Raises UserError for corrupt files, and tensors that do not fit or are not finite.
    """
    config = read_config(folder)
    path = next((folder / name for name in WEIGHTS if (folder / name).exists()), folder / WEIGHTS[0])
    tensors = {PREFIX.sub("", key): tensor for key, tensor in read_tensors(path).items()}
    with skip_initialization():
        expected = {name: tuple(transpose(name, t).shape) for name, t in model_class(config).state_dict().items()}
    if problems := validate(tensors, expected):
        raise UserError(*(f"{path}: {problem}" for problem in problems[:10]))
    return config, {name: transpose(name, tensors.pop(name).detach().to(dtype)) for name in expected}


def from_tensors(model_class: type[nn.Module], config: GPTConfig, tensors: dict[str, Tensor]) -> nn.Module:
    """A model with these weights, which are not copied."""
    with skip_initialization():
        model = model_class(config)
    model.load_state_dict(tensors, assign=True)
    return model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of the shards of an index {"weight_map": {tensor: file}}, mapped to memory."""
    if path.suffix == ".json":
        shards = sorted({path.parent / name for name in read_json(path).get("weight_map", {}).values()})
        return {name: tensor for shard in shards for name, tensor in read_tensors(shard).items()}
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # PyTorch's format before 1.6 is not a zip file, and cannot be mapped
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)))
    except Exception as error:  # where a file is truncated decides which class
        raise UserError(f"{path}: is missing, corrupt or not a file of weights ({summary(error)})") from None


def validate(tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> list[str]:
    """What is wrong with stored tensors, given the shapes of those that there must be."""
    problems = [f"{name} is unexpected" for name in tensors if name not in expected and not OPTIONAL.fullmatch(name)]
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            problems.append(f"{name} is missing")
        elif tensor.shape != shape or not tensor.is_floating_point():
            problems.append(f"{name} is {tensor.dtype} of shape {(*tensor.shape,)}; must be floating-point of {shape}")
        elif not torch.stack(torch.aminmax(tensor)).isfinite().all():  # tensor.isfinite() makes copies
            problems.append(f"{name} contains NaN or infinity; the weights are damaged")
    if not problems and HEAD in tensors:
        wte = tensors["wte.weight"]
        if not torch.equal(tensors[HEAD].to(wte.dtype), wte):
            problems.append(f"{HEAD} differs from wte.weight; must be equal (tied embeddings)")
    return problems


def transpose(name: str, tensor: Tensor) -> Tensor:
    """A matrix in the other layout, (in, out) for (out, in); other tensors as they are."""
    return tensor.T if name.endswith(TRANSPOSED) else tensor


class skip_initialization(TorchFunctionMode):
    """A context in which modules are built on the meta device: without weights, which takes neither time nor memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.init.normal_:  # on the meta device, its first call imports for 2 s
            return kwargs["tensor"]
        with torch.device("meta"):
            return func(*args, **(kwargs or {}))


def summary(error: BaseException) -> str:
    """The class and the first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
