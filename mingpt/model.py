"""The transformer: GPT-2's architecture, with multi-head self-attention written out.

Notation, the same on every line of this file:

    B   batch size: sequences that are computed side by side
    T   time: tokens in a sequence, at most block_size
    C   channels: the width of the residual stream, n_embd
    nh  number of attention heads, n_head
    hs  head size, C / nh
    V   vocabulary size

A block adds to the residual stream x, it never replaces it (Radford et al. 2019, "GPT-2"):

    x = x + attention(layer_norm(x))
    x = x + mlp(layer_norm(x))

Modules and parameters have GPT-2's names, so that weights map by name (see pretrained.py).
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.config import GPTConfig

# By the names of transformers' activation functions (Hendrycks and Gimpel 2016).
ACTIVATIONS = {"gelu": F.gelu, "gelu_new": partial(F.gelu, approximate="tanh")}


class CausalSelfAttention(nn.Module):
    """Each position gathers from itself and the positions before it, never from later ones.

    softmax(Q K' / sqrt(hs)) V in nh heads at once (Vaswani et al. 2017, equation 1). `fused` computes the same function
    as `explicit` by PyTorch's kernel, which does not store the (T, T) weights and so is faster where T is long.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.attend = {"explicit": self.explicit, "fused": self.fused}[config.attention]
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # Q, K and V side by side
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)  # (B, T, C) each
        q = q.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, nh, T, hs)
        k = k.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, nh, T, hs)
        v = v.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, nh, T, hs)
        y = self.attend(q, k, v)  # (B, nh, T, hs)
        y = y.transpose(1, 2).reshape(B, T, C)  # concatenate the heads
        return F.dropout(self.c_proj(y), self.dropout, self.training)  # (B, T, C)

    def explicit(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        T, hs = q.shape[-2:]
        scores = (q / math.sqrt(hs)) @ k.transpose(-2, -1)  # (B, nh, T, T)
        future = torch.full((T, T), -math.inf, dtype=q.dtype, device=q.device).triu(1)
        weights = F.softmax(scores + future, dim=-1)  # each row sums to 1, with 0 for the future
        return F.dropout(weights, self.dropout, self.training) @ v  # (B, nh, T, hs)

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)  # (B, nh, T, hs)


class MLP(nn.Module):
    """A two-layer perceptron at each position: four times wider, activation, and back."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.dropout = config.dropout
        self.activation = ACTIVATIONS[config.activation]
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.c_fc(x))  # (B, T, 4C)
        return F.dropout(self.c_proj(x), self.dropout, self.training)  # (B, T, C)


class Block(nn.Module):
    """Attention, then MLP, each after a LayerNorm and added to the residual stream."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))  # (B, T, C)
        return x + self.mlp(self.ln_2(x))  # (B, T, C)


class GPT(nn.Module):
    """Token ids in, logits of each possible next token out.

    >>> model = GPT(GPTConfig(vocab_size=65, n_layer=2, n_head=2, n_embd=32, block_size=16))
    >>> model(torch.zeros(4, 16, dtype=torch.long)).shape
    torch.Size([4, 16, 65])
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # token embedding
        self.wpe = nn.Embedding(config.block_size, config.n_embd)  # position embedding
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        if config.num_labels:
            self.score = nn.Linear(config.n_embd, config.num_labels, bias=False)
        self.init_weights()

    def forward(self, idx: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each of idx (B, T), T at most block_size."""
        return self.head(self.hidden_states(idx))

    def hidden_states(self, idx: Tensor) -> Tensor:
        """The residual stream after the last block and LayerNorm: (B, T, C)."""
        T = idx.shape[1]
        if T > self.config.block_size:
            raise ValueError(f"{T} tokens exceed block_size {self.config.block_size}")
        x = self.embed(idx, slice(T))  # (B, T, C)
        for block in self.h:
            x = block(x)  # (B, T, C)
        return self.ln_f(x)

    def embed(self, idx: Tensor, positions: slice | Tensor) -> Tensor:
        """Token plus position embedding (B, T, C); positions are (B, T), or a slice that all sequences share."""
        x = self.wte(idx) + self.wpe.weight[positions]
        return F.dropout(x, self.config.dropout, self.training)

    def head(self, x: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., C): the head shares the token embedding (Press and Wolf 2017)."""
        return F.linear(x, self.wte.weight)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize the weights for training.

        A matrix that reads the residual stream has standard deviation 0.5 / sqrt(C), 0.02 at GPT-2's width; one
        that writes to it starts at 0, so that a new block is the identity. Embeddings of tokens are larger than those
        of positions (but see attend_to_previous), so that tokens are soon recognized and copied
        (tests/benchmarks/LOG.md); in wide models both shrink, so that the tied head's logit of the current token, C
        times their deviation, stays below 7.
        """
        C = self.config.n_embd
        std = min(0.05, 6.4 / C)
        for name, weight in self.named_parameters():
            if name.endswith("bias") or name.endswith("c_proj.weight"):
                nn.init.zeros_(weight)
            elif name == "wte.weight":
                nn.init.normal_(weight, std=std)
            elif name == "wpe.weight":
                nn.init.normal_(weight, std=0.4 * std)
            elif weight.dim() == 2:
                nn.init.normal_(weight, std=0.5 / math.sqrt(C))
        if C >= 64 and not self.config.num_labels:  # narrower models have no channels to spare, labels need no copying
            self.attend_to_previous(std)

    def attend_to_previous(self, std: float) -> None:
        """Let the first head begin by attending to the previous position.

        By such a head each position knows which token precedes it; a head of a later layer can then find where the
        current token occurred before, and copy what followed it (Olsson et al. 2022, "In-context Learning and Induction
        Heads"). Training finds the first of the two late; begun with it, a model copies sooner (LOG.md).

        The first 2n channels are for positions: their embedding is p(t) = (sin t f, cos t f) with n frequencies f, and
        token embeddings are small there. The query is p(t) and the key p(s) rotated by f, which is p(s + 1): the score
        q(t) k(s), a constant times sum cos((t - 1 - s) f), is largest at s = t - 1.
        """
        C, hs = self.config.n_embd, self.config.n_embd // self.config.n_head
        n = min(8, C // 16, hs // 2)
        f = 1.5 / 100 ** (torch.arange(n) / n)  # radians per position: periods of 4 positions to some 200
        angles = torch.arange(self.config.block_size)[:, None] * f  # (block_size, n)
        self.wpe.weight[:, : 2 * n] = 1.7 * std * torch.cat([angles.sin(), angles.cos()], dim=1)
        self.wte.weight[:, : 2 * n] *= 0.3
        cos, sin = f.cos().diag(), f.sin().diag()
        rotation = torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])
        q, k, _ = self.h[0].attn.c_attn.weight.split(C)  # (C, C) each
        q[: 2 * n], k[: 2 * n] = 0.0, 0.0
        scale = 3 * (hs / 32) ** 0.25  # at any head size, some 3/4 of the attention is there
        q[: 2 * n, : 2 * n] = scale * torch.eye(2 * n)
        k[: 2 * n, : 2 * n] = scale * rotation

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path, dtype: torch.dtype = torch.float32) -> GPT:
        """The model in a folder of GPT-2's format, or of that name on the hub, in evaluation mode (pretrained.py)."""
        from mingpt import pretrained

        return pretrained.from_tensors(cls, *pretrained.read_folder(cls, pretrained.locate(path_or_name), dtype)).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, which open here and in transformers."""
        from mingpt import pretrained

        pretrained.write_folder(Path(folder), self.config, self.state_dict())
