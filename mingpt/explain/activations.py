"""What a model computes for a text, taken from a forward pass of model.py itself.

Notation as in model.py, and: L number of layers, n_layer. B is 1 and left out. Levels 0 to L of the residual stream are
its states before the first block and after each.

Module outputs are recorded by forward hooks; the attention weights by a torch function mode, which sees each call of
softmax in CausalSelfAttention.explicit.
"""

from __future__ import annotations

import base64
import inspect
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mingpt.checkpoint import read_metrics
from mingpt.data.dialogue import encode_prompt, is_chat_tokenizer
from mingpt.data.tokenizer import Tokenizer, load_tokenizer
from mingpt.errors import UserError
from mingpt.generation.streaming import encode_prompt as encode_text
from mingpt.model import GPT, CausalSelfAttention
from mingpt.predictor import Predictor
from mingpt.pretrained import locate, read_config

TOP = 5  # most probable tokens, and largest activations, at each position
DEFAULT_TEXT, SAMPLE = "The object is", 40  # tokens
NAMED = 20  # most probable next tokens
MAX_TOKENS, MAX_WEIGHTS = 256, 5e6  # attention has L nh T^2 / 2 weights, of two bytes each on the page


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
        self.attend = [block.attn.attend for block in self.model.h]
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
        for block, attend in zip(self.model.h, self.attend, strict=True):
            block.attn.attend = attend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.softmax:
            self.scores.append(args[0][0])
            self.weights.append(result[0])
        return result


@torch.no_grad()
def explain_model(name: str, text: str | None = None, layer: int = 0, head: int = 0) -> dict[str, Any]:
    """What the page shows of the model in a folder and a text; of one head, a row of attention in numbers.

    Without a text, the beginning of a text model's last sample, else "The object is". Raises UserError where the text
    does not fit the model, or there is no such head.
    """
    folder = locate(name)
    predictor = Predictor(str(folder), "cpu") if read_config(folder).num_labels else None
    model = GPT.from_pretrained(folder) if predictor is None else predictor.model
    tokenizer, config = load_tokenizer(folder), model.config
    for option, value, count in (("layer", layer, config.n_layer), ("head", head, config.n_head)):
        if value >= count:
            raise UserError(f"--{option} {value}: the model has {count}, counted from 0")
    task = task_of(model, tokenizer)
    most = math.isqrt(int(2 * MAX_WEIGHTS / (config.n_layer * config.n_head)))
    size = min(config.block_size, MAX_TOKENS, most)
    if text is None:
        samples = [row["sample"] for row in read_metrics(folder) if "sample" in row]
        text = samples[-1] if samples and task == "text" else DEFAULT_TEXT
        text = tokenizer.decode(tokenizer.encode(text)[: min(size, SAMPLE)])
    ids = encode(task, tokenizer, text, size)
    idx = torch.tensor([ids])
    with Recorder(model) as r:
        hidden = model.hidden_states(idx)[0]  # (T, C)
    is_language = predictor is None
    logprobs = model.head(hidden).log_softmax(-1) if is_language else None  # (T, V)
    return {
        "task": task,
        "text": text,
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
        "labels": None if predictor is None else labels(predictor, ids),
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
    """All logits of the next token, from the last hidden state (C,), and the names of the highest, in order."""
    logits = model.head(x).numpy().astype("<f4")
    names = [tokenizer.name_of(token) for token in np.argsort(-logits, kind="stable")[:NAMED].tolist()]
    return {"logits": base64.b64encode(logits.tobytes()).decode(), "names": names}


def labels(predictor: Predictor, ids: list[int]) -> dict[str, Any]:
    """The classes with their probabilities, or the value, of a text, and of the text without each of its tokens."""
    scores = predictor.scores([ids, *(ids[:i] + ids[i + 1 :] for i in range(len(ids)))])  # (1 + T, num_labels)
    is_number = len(predictor.labels) == 1
    values = predictor.values(scores)[:, None] if is_number else scores.softmax(-1)
    without = values[1:] if len(ids) > 1 else values[:0]  # of a text without any token nothing is predicted
    return {"names": predictor.labels, "values": rounded_list(values[0]), "without": rounded_list(without)}
