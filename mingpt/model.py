"""The transformer: GPT-2's architecture, with multi-head self-attention written out.

Notation, the same on every line of this file:

    B   batch: sequences that are computed side by side
    T   time: tokens in a sequence, at most block_size
    C   channels: the width of the residual stream, n_embd
    nh  heads of attention, n_head
    hs  size of a head, C / nh
    V   size of the vocabulary

A block adds to the residual stream x, it never replaces it (Radford et al. 2019, "GPT-2"):

    x = x + attention(layer_norm(x))
    x = x + mlp(layer_norm(x))

Modules and parameters carry GPT-2's own names, so that weights map by name (see gpt2.py).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt import gpt2, sampling
from mingpt.config import GPTConfig


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
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # Q, K and V side by side
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)  # (B, T, C) each
        q = q.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, nh, T, hs)
        k = k.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, nh, T, hs)
        v = v.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, nh, T, hs)
        y = self.attend(q, k, v)  # (B, nh, T, hs)
        y = y.transpose(1, 2).reshape(B, T, C)  # the heads side by side again
        return F.dropout(self.c_proj(y), self.dropout, self.training)  # (B, T, C)

    def explicit(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        T, hs = q.shape[-2:]
        future = torch.full((T, T), -math.inf, dtype=q.dtype, device=q.device).triu(1)
        scores = (q / math.sqrt(hs)) @ k.transpose(-2, -1) + future  # (B, nh, T, T)
        weights = F.softmax(scores, dim=-1)  # each row sums to 1; 0 where the key is in the future
        return F.dropout(weights, self.dropout, self.training) @ v

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


class MLP(nn.Module):
    """Each position thinks for itself: four times wider, GELU, and back.

    GPT-2 computes GELU by its tanh approximation (Hendrycks and Gimpel 2016), and so does every
    loss that is reported here. Only updates are made with the exact one: the values differ by at
    most 0.0005, and on a CPU it takes a third of the time.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.c_fc(x), approximate="none" if self.training else "tanh")  # (B, T, 4C)
        return F.dropout(self.c_proj(x), self.dropout, self.training)  # (B, T, C)


class Block(nn.Module):
    """Attention, then MLP, each behind a LayerNorm and added to the residual stream."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))  # (B, T, C)
        return x + self.mlp(self.ln_2(x))  # (B, T, C)


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
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.initialise()

    def forward(self, idx: Tensor) -> Tensor:
        """Logits (B, T, V) for the token after each of idx (B, T), T at most block_size.

        The head is the token embedding read backwards: one matrix for both (Press and Wolf 2017).
        """
        B, T = idx.shape
        if T > self.config.block_size:
            raise ValueError(f"{T} tokens are more than block_size {self.config.block_size}")
        x = self.wte(idx) + self.wpe.weight[:T]  # (B, T, C)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.h:
            x = block(x)  # (B, T, C)
        return F.linear(self.ln_f(x), self.wte.weight)  # (B, T, V)

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
    def from_pretrained(cls, folder: str | Path) -> GPT:
        """The model in a folder of GPT-2's format. Raises UserError where its files do not make one."""
        config, tensors = gpt2.read_folder(Path(folder))
        with torch.device("meta"):  # no memory and no random numbers for weights that are about to be replaced
            model = cls(config)
        model.load_state_dict(tensors, assign=True)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """config.json and model.safetensors, which open here and in transformers' GPT2LMHeadModel."""
        gpt2.write_folder(Path(folder), self.config, self.state_dict())

    def generate(self, idx: Tensor, max_new_tokens: int, **choice: float) -> Tensor:
        """Continue idx (B, T) by max_new_tokens: (B, T + max_new_tokens). See sampling.generate for the choice."""
        return torch.cat([idx, *sampling.generate(self, idx, max_new_tokens, **choice)], dim=1)
