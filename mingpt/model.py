"""The transformer: GPT-2's architecture, with multi-head self-attention written out.

Notation, the same on every line of this file:

    B   batch: sequences that are computed side by side
    T   time: tokens in a sequence, at most block_size
    C   channels: the width of the residual stream, n_embd
    nh  heads of attention, n_head
    hs  size of a head, C / nh
    S   time: tokens to look at; T of them, and with a cache those before as well
    V   size of the vocabulary

A block adds to the residual stream x, it never replaces it (Radford et al. 2019, "GPT-2"):

    x = x + attention(layer_norm(x))
    x = x + mlp(layer_norm(x))

Modules and parameters carry GPT-2's own names, so that weights map by name (see gpt2.py).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mingpt import gpt2, hub, sampling
from mingpt.cache import Cache, Layer
from mingpt.config import GPTConfig
from mingpt.matvec import Linear, linear


class CausalSelfAttention(nn.Module):
    """Each position gathers from itself and the positions before it, never from later ones.

    softmax(Q K' / sqrt(hs)) V in nh heads at once (Vaswani et al. 2017, equation 1). `explicit`
    and `fused` compute the same numbers; the second is one call to PyTorch's kernel, which does
    not hold the (T, T) weights in memory and so wins where T is long.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.attend = {"explicit": self.explicit, "fused": self.fused}[config.attention]
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)  # Q, K and V side by side
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, past: Layer | None = None, mask: Tensor | None = None) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)  # (B, T, C) each
        q = q.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, nh, T, hs)
        k = k.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, nh, T, hs)
        v = v.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, nh, T, hs)
        k, v, mask = (k, v, mask) if past is None else past.extend(k, v)  # (B, nh, S, hs)
        y = self.attend(q, k, v, mask)  # (B, nh, T, hs)
        y = y.transpose(1, 2).reshape(B, T, C)  # the heads side by side again
        return F.dropout(self.c_proj(y), self.dropout, self.training)  # (B, T, C)

    def explicit(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        T, hs = q.shape[-2:]
        scores = (q / math.sqrt(hs)) @ k.transpose(-2, -1)  # (B, nh, T, S)
        if T > 1:
            scores = scores + torch.full((T, T), -math.inf, dtype=q.dtype, device=q.device).triu(1)  # the future
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        weights = F.softmax(scores, dim=-1)  # each row sums to 1; 0 where the key may not be seen
        return F.dropout(weights, self.dropout, self.training) @ v

    def fused(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        is_causal = mask is None and q.shape[-2] > 1  # a mask keeps the future away itself
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)


class MLP(nn.Module):
    """Each position thinks for itself: four times wider, GELU, and back.

    GPT-2 computes GELU by its tanh approximation (Hendrycks and Gimpel 2016), and so does every
    loss that is reported here. Only updates from scratch are made with the exact one: the values
    differ by at most 0.0005, and on a CPU it takes a third of the time.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.dropout = config.dropout
        self.gelu_in_updates = config.gelu_in_updates
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        approximation = self.gelu_in_updates if self.training else "tanh"
        x = F.gelu(self.c_fc(x), approximate=approximation)  # (B, T, 4C)
        return F.dropout(self.c_proj(x), self.dropout, self.training)  # (B, T, C)


class Block(nn.Module):
    """Attention, then MLP, each behind a LayerNorm and added to the residual stream."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, past: Layer | None = None, mask: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), past, mask)  # (B, T, C)
        return x + self.mlp(self.ln_2(x))  # (B, T, C)


class NoNormal(TorchFunctionMode):
    """While it lasts, nn.init.normal_ does nothing: on the meta device, that alone takes PyTorch 1.3 s of imports."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **kwargs)


class GPT(nn.Module):
    """Token ids in, a score for each possible next token out.

    >>> model = GPT(GPTConfig(vocab_size=65, n_layer=2, n_head=2, n_embd=32, block_size=16))
    >>> model(torch.zeros(4, 16, dtype=torch.long)).shape
    torch.Size([4, 16, 65])
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # word (token) embedding
        self.wpe = nn.Embedding(config.block_size, config.n_embd)  # word position embedding
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        if config.num_labels:
            self.score = Linear(config.n_embd, config.num_labels, bias=False)
        self.initialise()

    def forward(self, idx: Tensor) -> Tensor:
        """Logits (B, T, V) for the token after each of idx (B, T), T at most block_size."""
        return self.head(self.states(idx))

    def states(
        self, idx: Tensor, cache: Cache | None = None, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """What each token of idx (B, T) has gathered: (B, T, C). With a cache, idx follows what it holds.

        Where several texts share a row, `positions` (B, T) say where each token stands in its own, and
        `mask` (B, T, T) which tokens it may see: those of its own text, up to itself.
        """
        B, T = idx.shape
        if T > self.config.block_size:
            raise ValueError(f"{T} tokens are more than block_size {self.config.block_size}")
        if positions is None:
            positions = slice(T) if cache is None else cache.begin(T, idx.device)
        if mask is not None:
            mask = mask[:, None]  # (B, 1, T, T), the same for every head
        x = self.wte(idx) + self.wpe.weight[positions]  # (B, T, C)
        x = F.dropout(x, self.config.dropout, self.training)
        for i, block in enumerate(self.h):
            x = block(x, cache and cache.layers[i], mask)  # (B, T, C)
        return self.ln_f(x)

    def head(self, x: Tensor) -> Tensor:
        """Logits (..., V) of states (..., C): the token embedding read backwards (Press and Wolf 2017)."""
        return linear(x, self.wte.weight)

    def scores(self, idx: Tensor, last: Tensor) -> Tensor:
        """What each text of idx (B, T) scores (B, num_labels), by the state of its last token, in place last (B,)."""
        x = self.states(idx)
        return self.score(x[torch.arange(len(idx), device=idx.device), last])

    @torch.no_grad()
    def initialise(self) -> None:
        """Random weights to train from.

        Not GPT-2's 0.02 everywhere: a matrix that reads the residual stream has standard
        deviation 0.5 / sqrt(C), the same 0.02 at GPT-2's width and right at any other, and one
        that writes to it begins at 0, so that a fresh block changes nothing. After 200 updates of
        Muon on Tiny Shakespeare the loss is 0.06 lower than from GPT-2's (tests/benchmarks/LOG.md).
        """
        for name, weight in self.named_parameters():
            if name.endswith("bias") or name.endswith("c_proj.weight"):
                nn.init.zeros_(weight)
            elif name == "wte.weight":
                nn.init.normal_(weight, std=0.02)
            elif name == "wpe.weight":
                nn.init.normal_(weight, std=0.05)
            elif weight.dim() == 2:
                nn.init.normal_(weight, std=0.5 / math.sqrt(self.config.n_embd))

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path, dtype: torch.dtype = torch.float32) -> GPT:
        """The model in a folder of GPT-2's format, or of that name on the hub, with its weights as `dtype`.

        Raises UserError where there is none (see hub.locate), or its files do not make one.
        """
        return cls.of(*gpt2.read_folder(hub.locate(path_or_name), dtype)).eval()

    @classmethod
    def of(cls, config: GPTConfig, tensors: dict[str, Tensor]) -> GPT:
        """A model of these weights, which are not copied."""
        with torch.device("meta"), NoNormal():  # neither memory nor chance for weights that are about to be replaced
            model = cls(config)
        model.load_state_dict(tensors, assign=True)
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """config.json and model.safetensors, which open here and in transformers' GPT2LMHeadModel."""
        gpt2.write_folder(Path(folder), self.config, self.state_dict())

    def generate(self, idx: Tensor, max_new_tokens: int, **choice: float) -> Tensor:
        """Continue idx (B, T) by max_new_tokens: (B, T + max_new_tokens). See sampling.generate for the choice."""
        return torch.cat([idx, *sampling.generate(self, idx, max_new_tokens, **choice)], dim=1)
