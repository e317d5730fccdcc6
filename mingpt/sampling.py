"""From logits to the ids of new tokens: how each is chosen, apart from the model that scores it.

Notation: B texts, T tokens read, V tokens in the vocabulary, S the model's block_size; p probabilities of the
next token.

A token is drawn by inversion: with u even in [0, 1), it is the first whose p and those of all before it
come to more than u. Each text has a random stream of its own, so that it does not hang on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.cache import Cache
from mingpt.matvec import lay_out

if TYPE_CHECKING:
    from mingpt.model import GPT

GREEDY = 1e-6  # a temperature below it leaves nothing but the most probable token, and float32 cannot divide by it
LIKELY = 256  # tokens that mostly hold the share top_p, so that the whole vocabulary need not be sorted
KEPT = 3 / 4  # of a full context: more would fill up sooner, and less would forget more


def probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """What is left to choose from: (B, V) logits to (B, V) probabilities.

    temperature  divides the logits: below 1 bolder in its favourites, above 1 more adventurous
    top_k        keeps the k most probable tokens; 0 keeps all
    top_p        keeps the fewest most probable tokens whose sum reaches p (Holtzman et al. 2020); 1 keeps all
    min_p        keeps those with at least this share of the most probable one's (Nguyen et al. 2024); 0 keeps all
    """
    logits = logits.float()
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature  # at most 0, so that none overflows
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ordered, places = most_probable(logits, top_p)
        p = ordered.exp() / logits.exp().sum(dim=-1, keepdim=True)
        surplus = p.cumsum(dim=-1) - p >= top_p  # the tokens before this one already reach top_p
        kept = torch.full_like(logits, -torch.inf)
        logits = kept.scatter(1, places, ordered.masked_fill(surplus, -torch.inf))
    if min_p > 0:
        logits = logits.masked_fill(logits.exp() < min_p, -torch.inf)  # the most probable one's logit is 0
    return F.softmax(logits, dim=-1)


def most_probable(logits: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Logits (B, k) and places (B, k) of the most probable tokens in order, enough of them to hold the share."""
    if logits.shape[-1] > LIKELY:
        ordered, places = logits.topk(LIKELY)
        if (ordered.exp().sum(dim=-1) >= share * logits.exp().sum(dim=-1)).all():
            return ordered, places
    return logits.sort(descending=True)


def penalised(logits: Tensor, seen: Tensor, repetition_penalty: float) -> Tensor:
    """Logits (B, V) with those of tokens seen (B, V) lowered: divided where positive, else multiplied.

    The rule of Keskar et al. 2019, "CTRL", section 4.1, in transformers' reading for negative logits.
    """
    lowered = torch.where(logits > 0, logits / repetition_penalty, logits * repetition_penalty)
    return torch.where(seen, lowered, logits)


def choose(logits: Tensor, generators: Sequence[torch.Generator], temperature: float = 1.0, **keep: float) -> Tensor:
    """The next token of each text: logits (B, V) and B generators to ids (B, 1). Temperature 0: the most probable."""
    if temperature < GREEDY:
        return logits.argmax(dim=-1, keepdim=True)
    up_to = probabilities(logits, temperature, **keep).double().cumsum(dim=-1)
    u = torch.cat([torch.rand(1, 1, generator=g, device=g.device, dtype=torch.double) for g in generators])
    return torch.searchsorted(up_to, u * up_to[:, -1:], right=True).clamp_(max=logits.shape[-1] - 1)


@torch.no_grad()
def generate(
    model: GPT,
    prompts: Tensor | Sequence[Sequence[int]],
    max_new_tokens: int,
    seed: int | None = None,
    repetition_penalty: float = 1.0,
    on_slide: Callable[[], None] = lambda: None,
    **choice: float,
) -> Iterator[Tensor]:
    """Continue prompts, (B, T) or B lists of at least one id each, by one column of new ids (B, 1) at a time.

    The prompts are read in one pass, then each step reads the newest tokens alone. Where a text has
    filled the context of S tokens, it goes on from its newest three quarters, read anew; on_slide is
    called before that is done the first time. `choice` is as in `probabilities`. Text b has the same ids
    for the same seed whatever stands beside it. Call model.eval() first, or activations are dropped here too.
    """
    reader = Reader(model, prompts, max_new_tokens)
    generators = [generator_of(seed, b, model.wte.weight.device) for b in range(len(reader.texts))]
    seen = None if repetition_penalty == 1 else reader.seen()
    for _ in range(max_new_tokens):
        if reader.is_full and not reader.has_slid:
            on_slide()
        logits = reader.logits()  # (B, V)
        if seen is not None:
            logits = penalised(logits, seen, repetition_penalty)
        new = choose(logits, generators, **choice)  # (B, 1)
        yield new
        reader.append(new)
        if seen is not None:
            seen.scatter_(1, new, True)


def kept(block_size: int) -> int:
    """How many of its newest tokens a text goes on from, once it has filled the context."""
    return max(1, int(KEPT * block_size))


class Reader:
    """B texts that grow, and a model that has read them: each token once, until a context is full."""

    def __init__(self, model: GPT, prompts: Tensor | Sequence[Sequence[int]], max_new_tokens: int):
        if not model.training:  # where an update comes next, another layout would round otherwise
            lay_out(model)
        self.model, self.device = model, model.wte.weight.device
        self.texts = [list(map(int, prompt)) for prompt in prompts]
        self.S = model.config.block_size
        self.kept = kept(self.S)
        longest = max(map(len, self.texts))
        self.cache = Cache(model.config, len(self.texts), min(self.S, longest + max_new_tokens), model.wte.weight)
        self.has_slid = False

    def logits(self) -> Tensor:
        """Of the token after each text: (B, V)."""
        if not any(self.cache.lengths):
            x = self.read(self.cache, [text if len(text) <= self.S else text[-self.kept :] for text in self.texts])
        else:
            for b, length in enumerate(self.cache.lengths):
                if length == self.S:
                    self.slide(b)
            x = self.read(self.cache, [text[-1:] for text in self.texts])
        return self.model.head(x)

    def read(self, cache: Cache, tokens: list[list[int]]) -> Tensor:
        """The states (B, C) of the last of some tokens of each text, which cache then holds."""
        lengths = [len(ids) for ids in tokens]
        T = max(lengths)
        idx = torch.tensor([ids + [0] * (T - len(ids)) for ids in tokens], device=self.device)  # (B, T)
        x = self.model.states(idx, cache)  # what stands behind a text's end changes nothing before it
        cache.advance(lengths)
        return x[torch.arange(len(tokens)), torch.tensor(lengths) - 1]

    def slide(self, b: int) -> None:
        """Forget the oldest quarter of text b: the rest, but for its newest token, is read at new positions."""
        ids = self.texts[b][-self.kept : -1]
        if ids:
            self.read(self.cache.row(b), [ids])
        self.cache.lengths[b] = len(ids)
        self.has_slid = True

    @property
    def is_full(self) -> bool:
        """Whether the next token of a text has no place."""
        return max(self.cache.lengths) == self.S or max(map(len, self.texts)) > self.S

    def append(self, new: Tensor) -> None:
        """One more token (B, 1) of each text."""
        for text, i in zip(self.texts, new[:, 0].tolist(), strict=True):
            text.append(i)

    def seen(self) -> Tensor:
        """Which tokens each text has: (B, V)."""
        seen = torch.zeros(len(self.texts), self.model.config.vocab_size, dtype=torch.bool, device=self.device)
        for row, text in zip(seen, self.texts, strict=True):
            row[text] = True
        return seen


def generator_of(seed: int | None, b: int, device: torch.device) -> torch.Generator:
    """Random numbers for text b alone; neighbouring seeds and texts have nothing in common."""
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
        return generator
    return generator.manual_seed(int(np.random.SeedSequence((seed, b)).generate_state(1)[0]))
