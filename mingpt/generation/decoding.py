"""Decoding with a key/value cache: each token is computed once, and attends to the stored keys and values.

Notation as in model.py, and: S positions of the cache, at most block_size; length[b] tokens of sequence b are stored.

Sequence b is stored at positions 0 to length[b] - 1 of its row, and so computed as it would be alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.generation import sampling
from mingpt.generation.graph import Graph
from mingpt.generation.linear import cache_dtype
from mingpt.model import GPT, Block

# Tokens of prompts that a CPU reads at once in float32 or int8, or a single longer prompt: more take longer, since
# their intermediate results exceed its caches (tests/benchmarks/LOG.md). In bfloat16 they are half as large.
PROMPT_TOKENS = 1024


@torch.inference_mode()
def generate(
    model: GPT,
    prompts: Tensor | Sequence[Sequence[int]],
    max_new_tokens: int,
    seed: int | None = None,
    first: int = 0,
    repetition_penalty: float = 1.0,
    **options: float,
) -> Iterator[Tensor]:
    """Continue B prompts, of at least one token each; yields columns (B, 1) of new tokens.

    Prompt b draws from the random stream (seed, first + b), so that its text, up to rounding, does not depend on the
    others in the batch; without a seed, from the system's entropy. `options` are those of sampling.sample. The model
    must be in evaluation mode.
    """
    sequences = [[int(token) for token in prompt] for prompt in prompts]
    block_size = model.config.block_size
    decoder = Decoder(model, len(sequences), min(block_size, max(map(len, sequences)) + max_new_tokens))
    rngs = [np.random.default_rng(None if seed is None else (seed, first + b)) for b in range(len(sequences))]
    has_occurred = torch.zeros(len(sequences), model.config.vocab_size, dtype=torch.bool, device=decoder.device)
    for row, sequence in zip(has_occurred, sequences, strict=True):
        row[sequence] = True
    for _ in range(max_new_tokens):
        logits = model.head(decoder.read(sequences))  # (B, V)
        if repetition_penalty != 1:
            logits = sampling.penalize_repetition(logits, has_occurred, repetition_penalty)
        u = torch.tensor([[rng.random()] for rng in rngs], dtype=torch.float64)
        column = sampling.sample(logits, u, **options)  # (B, 1)
        yield column
        has_occurred.scatter_(1, column, True)
        for sequence, token in zip(sequences, column[:, 0].tolist(), strict=True):
            sequence.append(token)


def window_size(block_size: int) -> int:
    """Tokens of a full context that are kept: three quarters; more would fill up sooner, fewer forget more."""
    return max(1, block_size * 3 // 4)


class Decoder:
    """Reads growing sequences, of which it stores at most S tokens each, sequence b in row b of its cache.

    The model must be in evaluation mode.
    """

    def __init__(self, model: GPT, rows: int, S: int):
        self.model, self.device, self.dtype = model, model.wte.weight.device, cache_dtype(model)
        self.blocks = [block_functions(block) for block in model.h]
        self.caches = self.allocate(rows, S)
        self.lengths: list[int] = []  # of the sequences that are stored
        self.graphs: dict[int, Graph] = {}  # on a GPU, by the number of sequences

    def allocate(self, rows: int, S: int) -> Sequence[Tensor]:
        """For each block, keys and values (2, rows, nh, S, hs): zeros, since 0 * NaN is NaN."""
        config = self.model.config
        shape = (config.n_layer, 2, rows, config.n_head, S, config.n_embd // config.n_head)
        return torch.zeros(shape, dtype=self.dtype, device=self.device).unbind()

    def reserve(self, rows: int, S: int) -> None:
        """Make room for so many rows and positions, at least twice as many as before where there is too little."""
        old_rows, old_S = self.caches[0].shape[1], self.caches[0].shape[3]
        if rows <= old_rows and S <= old_S:
            return
        new_rows = max(rows, 2 * old_rows) if rows > old_rows else old_rows
        new_S = min(self.model.config.block_size, max(S, 2 * old_S)) if S > old_S else old_S
        larger = self.allocate(new_rows, new_S)
        for new, old in zip(larger, self.caches, strict=True):
            new[:, :old_rows, :, :old_S] = old
        self.caches = larger
        self.graphs.clear()  # they read the old caches

    def read(self, sequences: list[list[int]]) -> Tensor:
        """The hidden states (B, C) after the last tokens: of whole sequences first, then with one more token each.

        A sequence that fills the context continues from its newest `window_size` tokens, at new positions.
        """
        if not self.lengths:
            n = len(sequences)
            if self.device.type == "cpu" and self.model.wte.weight.dtype == torch.float32:
                n = max(1, PROMPT_TOKENS // min(max(map(len, sequences)), self.model.config.block_size))
            newest = []
            for b in range(0, len(sequences), n):
                x = self.prefill(sequences[b : b + n], row=b)  # (n, T, C)
                newest.append(x[torch.arange(len(x)), torch.tensor(self.lengths[b:]) - 1])
            return torch.cat(newest)
        for b, tokens in enumerate(sequences):
            if self.lengths[b] == self.model.config.block_size:
                self.prefill([tokens[-window_size(self.lengths[b]) :]], row=b)
                self.lengths[b] -= 1  # the newest token is read below
        idx = torch.tensor([tokens[-1:] for tokens in sequences], device=self.device)  # (B, 1)
        x = self.replay(idx) if self.device.type == "cuda" else self.step(idx)  # (B, 1, C)
        self.lengths = [length + 1 for length in self.lengths]
        return x[:, 0]

    def step(self, idx: Tensor) -> Tensor:
        """The hidden states (B, 1, C) of one more token of each sequence, idx (B, 1)."""
        end = max(self.lengths) + 1
        positions: slice | Tensor = slice(end - 1, end)
        if min(self.lengths) != max(self.lengths):
            positions = torch.tensor(self.lengths, device=self.device)[:, None]  # (B, 1)
        return self.hidden_states(idx, positions, slice(0, len(idx)), end)

    def replay(self, idx: Tensor) -> Tensor:
        """The same by a CUDA graph for each B, which attends to the whole cache, since shapes are fixed."""
        B, S = len(idx), self.caches[0].shape[3]
        positions = torch.tensor(self.lengths, device=self.device)[:, None]  # (B, 1)
        if B not in self.graphs:
            self.graphs[B] = Graph(partial(self.hidden_states, rows=slice(0, B), end=S), idx, positions)
        return self.graphs[B](idx, positions)

    def prefill(self, sequences: list[list[int]], row: int = 0) -> Tensor:
        """Store sequences in rows row, row + 1, ...; returns their hidden states (n, T, C), padded on the right.

        Of a sequence that exceeds the context, only the newest `window_size` tokens are read.
        """
        block_size = self.model.config.block_size
        window = window_size(block_size)
        sequences = [tokens if len(tokens) <= block_size else tokens[-window:] for tokens in sequences]
        lengths = [len(tokens) for tokens in sequences]
        n, T = len(lengths), max(lengths)
        padded = [tokens + [0] * (T - len(tokens)) for tokens in sequences]  # on the right: no token sees the padding
        idx = torch.tensor(padded, device=self.device)  # (n, T)
        self.lengths[row : row + n] = lengths
        return self.hidden_states(idx, slice(0, T), slice(row, row + n), T)  # (n, T, C)

    def remove(self, row: int) -> None:
        """Let a sequence leave: the last one takes its row."""
        last, length = len(self.lengths) - 1, self.lengths[-1]
        for cache in self.caches:
            cache[:, row, :, :length] = cache[:, last, :, :length]
        self.lengths[row] = length
        self.lengths.pop()

    @torch.inference_mode()
    def hidden_states(self, idx: Tensor, positions: slice | Tensor, rows: slice, end: int) -> Tensor:
        """The hidden states (B, T, C) of tokens idx (B, T), which attend to the first `end` positions of their rows.

        positions is a slice of T that all sequences share, or (B, 1).
        """
        model, (B, T) = self.model, idx.shape
        index, mask = (rows, positions), None
        if isinstance(positions, Tensor):
            index = (torch.arange(B, device=self.device)[:, None], positions)
            mask = (torch.arange(end, device=self.device) <= positions)[:, None, None]  # (B, 1, 1, end)
        x = model.embed(idx, positions)  # (B, T, C)
        for (ln_1, c_attn, attn_c_proj, ln_2, c_fc, activation, mlp_c_proj), cache in zip(
            self.blocks, self.caches, strict=True
        ):
            qkv = c_attn(ln_1(x)).to(self.dtype).view(B, T, 3, model.config.n_head, -1)  # (B, T, 3, nh, hs)
            cache.permute(1, 3, 0, 2, 4)[index] = qkv[:, :, 1:]
            q, (k, v) = qkv[:, :, 0].transpose(1, 2), cache[:, rows, :, :end]  # (B, nh, T or end, hs)
            y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=T > 1)  # (B, nh, T, hs)
            x = x + attn_c_proj(y.transpose(1, 2).reshape(B, T, -1).to(x.dtype))
            x = x + mlp_c_proj(activation(c_fc(ln_2(x))))
        return model.ln_f(x)


def block_functions(block: Block) -> tuple[Callable[[Tensor], Tensor], ...]:
    """The parts of a block, without dropout, in the order in which x passes them.

    As functions: calling modules took a tenth of the time of a token.
    """
    attn, mlp = block.attn, block.mlp
    return (
        layer_norm(block.ln_1), attn.c_attn.forward, attn.c_proj.forward,
        layer_norm(block.ln_2), mlp.c_fc.forward, mlp.activation, mlp.c_proj.forward,
    )  # fmt: skip


def layer_norm(module: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    """The function of a LayerNorm."""
    shape, eps = module.normalized_shape, module.eps
    return partial(torch.layer_norm, normalized_shape=shape, weight=module.weight, bias=module.bias, eps=eps)
