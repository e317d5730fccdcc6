"""What a model computes for a text, taken from a forward pass of model.py itself.

Notation as in model.py, and: L number of layers, n_layer. B is 1 and left out. Levels 0 to L of the residual stream are
its states before the first block and after each.

Module outputs are recorded by forward hooks; the attention weights by a torch function mode, which sees each call of
softmax in CausalSelfAttention.explicit.
"""

from __future__ import annotations

import base64
import inspect
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mingpt.data.dialogue import encode_prompt, is_chat_tokenizer
from mingpt.data.tokenizer import Tokenizer, load_tokenizer
from mingpt.errors import UserError
from mingpt.files import read_json
from mingpt.generation.streaming import encode_prompt as encode_text
from mingpt.model import GPT, CausalSelfAttention
from mingpt.pretrained import locate

TOP = 5  # most probable tokens, and largest activations, at each position
ORDERED = 200  # logits of the next token that have names; of the others the page has the values
MAX_TOKENS = 256  # more would make the page large: attention has L nh T^2 / 2 numbers


class Recorder(TorchFunctionMode):
    """A context in which a forward pass of `model` is recorded, by layer."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model = model
        self.scores: list[Tensor] = []  # (nh, T, T) each, before the softmax
        self.weights: list[Tensor] = []  # (nh, T, T), after it
        self.qkv: list[Tensor] = []  # (T, 3C)
        self.heads: list[Tensor] = []  # (T, C), outputs of all heads side by side
        self.attention: list[Tensor] = []  # (T, C), what attention adds
        self.hidden: list[Tensor] = []  # (T, 4C), the hidden layer of the MLP
        self.mlp: list[Tensor] = []  # (T, C), what the MLP adds
        self.stream: list[Tensor] = []  # (T, C), L + 1 of them

    def __enter__(self) -> Recorder:
        self.handles = [self.model.h[0].register_forward_pre_hook(lambda m, args: self.stream.append(args[0][0]))]
        for block in self.model.h:
            block.attn.attend = block.attn.explicit
            self.on_output(block, self.stream)
            self.on_output(block.attn, self.attention)
            self.on_output(block.attn.c_attn, self.qkv)
            self.on_input(block.attn.c_proj, self.heads)
            self.on_output(block.mlp, self.mlp)
            self.on_input(block.mlp.c_proj, self.hidden)
        return super().__enter__()

    def on_output(self, module: torch.nn.Module, record: list[Tensor]) -> None:
        self.handles.append(module.register_forward_hook(lambda m, args, y: record.append(y[0])))

    def on_input(self, module: torch.nn.Module, record: list[Tensor]) -> None:
        self.handles.append(module.register_forward_pre_hook(lambda m, args: record.append(args[0][0])))

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for handle in self.handles:
            handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.softmax:
            self.scores.append(args[0][0])
            self.weights.append(result[0])
        return result


@torch.no_grad()
def explain_model(name: str, text: str, layer: int = 0, head: int = 0) -> dict[str, Any]:
    """What the page shows of the model in a folder and a text; of one head, a row of attention in numbers.

    Raises UserError where the text does not fit the model, or there is no such head.
    """
    folder = locate(name)
    model, tokenizer = GPT.from_pretrained(folder), load_tokenizer(folder)
    config = model.config
    for option, value, count in (("layer", layer, config.n_layer), ("head", head, config.n_head)):
        if value >= count:
            raise UserError(f"--{option} {value}: the model has {count}, counted from 0")
    task = task_of(model, tokenizer)
    ids = encode(task, tokenizer, text, min(config.block_size, MAX_TOKENS))
    idx = torch.tensor([ids])
    with Recorder(model) as r:
        hidden = model.hidden_states(idx)[0]  # (T, C)
    is_language = not config.num_labels
    logprobs = model.head(hidden).log_softmax(-1) if is_language else None  # (T, V)
    return {
        "task": task,
        "architecture": dict(config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens": [tokenizer.name_of(token) for token in ids],
        "attention": pack(torch.stack(r.weights)),
        "lens": [top_tokens(model, tokenizer, x) for x in r.stream] if is_language else [],
        "nll": [None, *(-logprobs[range(len(ids) - 1), ids[1:]]).tolist()] if is_language else [],
        "norms": {key: norms(getattr(r, key)) for key in ("attention", "mlp", "stream")},
        "neurons": [largest(x) for x in r.hidden],
        "row": attention_row(r, config.n_head, layer, head),
        "next": next_token(model, tokenizer, hidden[-1]) if is_language else None,
        "labels": None if is_language else labels(model, folder, ids),
    }


def task_of(model: GPT, tokenizer: Tokenizer) -> str:
    if model.config.num_labels:
        return "regress" if model.config.num_labels == 1 else "classify"
    return "chat" if is_chat_tokenizer(tokenizer) else "text"


def encode(task: str, tokenizer: Tokenizer, text: str, size: int) -> list[int]:
    """The ids of a text; in a chat it is a message of the user, after which the assistant answers."""
    try:
        if task == "chat":
            return encode_prompt(tokenizer, [{"role": "user", "content": text}], size)[0]
        ids = encode_text(tokenizer, text)
    except UserError as error:
        raise UserError(f"--text: {error}") from None
    if len(ids) > size:
        raise UserError(f"--text: has {len(ids):,} tokens; at most {size:,} can be shown")
    return ids


def pack(weights: Tensor) -> str:
    """Attention weights (L, nh, T, T) as the page decodes them: the lower triangles, in steps of 1/65535."""
    rows, columns = np.tril_indices(weights.shape[-1])
    steps = (weights.numpy()[:, :, rows, columns] * 65535).round().astype("<u2")
    return base64.b64encode(steps.tobytes()).decode()


def top_tokens(model: GPT, tokenizer: Tokenizer, x: Tensor) -> list[list[list[Any]]]:
    """The most probable next tokens at each position if `x` (T, C) were the last state of the residual stream
    (nostalgebraist 2020, "interpreting GPT: the logit lens").
    """
    values, tokens = model.head(model.ln_f(x)).softmax(-1).topk(min(TOP, model.config.vocab_size))  # (T, TOP)
    return [
        [[tokenizer.name_of(token), round(p, 6)] for token, p in zip(row, ps, strict=True)]
        for row, ps in zip(tokens.tolist(), values.tolist(), strict=True)
    ]


def norms(tensors: Sequence[Tensor]) -> list[list[float]]:
    return [[round(n, 4) for n in x.norm(dim=-1).tolist()] for x in tensors]


def largest(x: Tensor) -> list[list[list[float]]]:
    """The indices and values of the largest activations at each position of x (T, 4C)."""
    values, indices = x.topk(min(TOP, x.shape[-1]))
    return [
        [[i, round(v, 4)] for i, v in zip(*row, strict=True)]
        for row in zip(indices.tolist(), values.tolist(), strict=True)
    ]


def attention_row(r: Recorder, n_head: int, layer: int, head: int) -> dict[str, Any]:
    """The numbers of a head at the last position: query, keys, values, scores, weights and output."""
    T, C = r.heads[layer].shape
    q, k, v = (x.view(T, n_head, C // n_head)[:, head] for x in r.qkv[layer].split(C, dim=1))  # (T, hs)
    output = r.heads[layer].view(T, n_head, -1)[-1, head]  # (hs,)
    numbers = {"q": q[-1], "k": k, "v": v, "scores": r.scores[layer][head, -1], "weights": r.weights[layer][head, -1]}
    rounded = {key: rounded_list(x) for key, x in (numbers | {"output": output}).items()}
    source = inspect.getsource(CausalSelfAttention.explicit)
    return {"layer": layer, "head": head, "position": T - 1, **rounded, "source": textwrap.dedent(source)}


def rounded_list(x: Tensor) -> list[Any]:
    return x.double().mul(1e6).round().div(1e6).tolist()


def next_token(model: GPT, tokenizer: Tokenizer, x: Tensor) -> dict[str, Any]:
    """All logits of the next token, from the last hidden state (C,), and the names of the highest."""
    logits = model.head(x).numpy().astype("<f4")
    order = np.argsort(-logits, kind="stable")[:ORDERED].tolist()
    names = [tokenizer.name_of(token) for token in order]
    return {"logits": base64.b64encode(logits.tobytes()).decode(), "order": order, "names": names}


def labels(model: GPT, folder: Path, ids: list[int]) -> dict[str, Any]:
    """The classes with their probabilities, or the value, of a text, and of the text without each of its tokens."""
    settings = read_json(folder / "config.json")
    names = settings.get("id2label") or {}
    predict: Callable[[Tensor], Tensor] = lambda scores: scores.softmax(-1)  # noqa: E731
    if model.config.num_labels == 1:
        mean, std = settings.get("target_mean", 0.0), settings.get("target_std", 1.0)
        predict = lambda scores: scores * std + mean  # noqa: E731
    values = predict(model.score(model.hidden_states(torch.tensor([ids]))[0, -1]))
    shorter = torch.tensor([ids[:i] + ids[i + 1 :] for i in range(len(ids))]) if len(ids) > 1 else None
    without = values[None] if shorter is None else predict(model.score(model.hidden_states(shorter)[:, -1]))
    return {
        "names": [names.get(str(i), f"LABEL_{i}") for i in range(model.config.num_labels)],
        "values": rounded_list(values),
        "without": rounded_list(without),
    }
