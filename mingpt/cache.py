"""The keys and values of the tokens already read, so that the next one is computed alone.

Notation: B texts, nh heads of size hs, S places for tokens; text b has length[b] tokens behind it.

Text b holds its tokens in places 0 to length[b] - 1 of its own row, so that it is computed as it would be
alone, whatever its neighbours' lengths. What lies behind its length is never seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mingpt.config import GPTConfig


class Cache:
    """Room for B texts of at most S tokens, taken once.

    It is filled in one pass over whole prompts, or gets one token of each text: `begin`, then every layer's
    `extend`, then `advance`.
    """

    def __init__(self, config: GPTConfig, B: int, S: int, like: Tensor):
        """Beside the weights: of the device and precision of `like`."""
        shape = (B, config.n_head, S, config.n_embd // config.n_head)
        room = [like.new_zeros(shape) for _ in range(2 * config.n_layer)]  # what is not seen must be a number still
        self.layers = [Layer(self, k, v) for k, v in zip(room[::2], room[1::2], strict=True)]
        self.lengths = [0] * B

    def begin(self, T: int, device: torch.device) -> Tensor | slice:
        """Where T more tokens of each text stand: positions (B, 1), or a slice of them where all are equally long."""
        if T > 1 and any(self.lengths):
            raise ValueError("a cache takes whole prompts first, and then one token at a time")
        self.is_even = len(set(self.lengths)) == 1
        self.longest = max(self.lengths)
        if self.is_even:
            self.mask = None
            return slice(self.longest, self.longest + T)
        self.places = torch.tensor(self.lengths, device=device)
        self.rows = torch.arange(len(self.lengths), device=device)
        seen = torch.arange(self.longest + 1, device=device) <= self.places[:, None]  # (B, longest + 1)
        self.mask = seen[:, None, None]  # (B, 1, 1, longest + 1), the same for every head
        return self.places[:, None]

    def advance(self, tokens: list[int]) -> None:
        """So many tokens more of each text are read."""
        self.lengths = [length + more for length, more in zip(self.lengths, tokens, strict=True)]

    def row(self, b: int) -> Cache:
        """Text b alone, forgotten: what is read into it is in this cache too, once `lengths` says so."""
        view = object.__new__(Cache)
        view.layers = [Layer(view, layer.keys[b : b + 1], layer.values[b : b + 1]) for layer in self.layers]
        view.lengths = [0]
        return view


class Layer:
    """The part of one block: keys and values (B, nh, S, hs)."""

    def __init__(self, cache: Cache, keys: Tensor, values: Tensor):
        self.cache, self.keys, self.values = cache, keys, values

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keep the new keys and values (B, nh, T, hs); gives those to look at, and which of them each text may see."""
        cache, T = self.cache, k.shape[2]
        if cache.is_even:
            end = cache.longest + T
            self.keys[:, :, cache.longest : end] = k
            self.values[:, :, cache.longest : end] = v
        else:
            end = cache.longest + 1
            self.keys[cache.rows, :, cache.places] = k[:, :, 0]
            self.values[cache.rows, :, cache.places] = v[:, :, 0]
        return self.keys[:, :, :end], self.values[:, :, :end], cache.mask
