"""From logits to text: how the next token is chosen, apart from the model that scores it.

Notation: B sequences, T tokens each, V tokens in the vocabulary; p probabilities of the next token.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.data.tokenizer import Tokenizer

GREEDY = 1e-6  # a temperature below it leaves nothing but the most probable token, and float32 cannot divide by it


def probabilities(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """What is left to choose from: (B, V) logits to (B, V) probabilities.

    temperature  divides the logits: below 1 bolder in its favourites, above 1 more adventurous
    top_k        keeps the k most probable tokens; 0 keeps all
    top_p        keeps the fewest most probable tokens whose sum reaches p (Holtzman et al. 2020); 1 keeps all
    """
    logits = logits.float()
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature  # at most 0, so that none overflows
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ordered, places = logits.sort(descending=True)
        p = F.softmax(ordered, dim=-1)
        surplus = p.cumsum(dim=-1) - p >= top_p  # the tokens before this one already reach top_p
        logits = logits.masked_fill(surplus.scatter(1, places, surplus), -torch.inf)
    return F.softmax(logits, dim=-1)


def choose(logits: Tensor, generator: torch.Generator | None, temperature: float = 1.0, **keep: float) -> Tensor:
    """The next token of each sequence: (B, V) logits to (B, 1) ids. Temperature 0 takes the most probable."""
    if temperature < GREEDY:
        return logits.argmax(dim=-1, keepdim=True)
    return torch.multinomial(probabilities(logits, temperature, **keep), 1, generator=generator)


@torch.no_grad()
def generate(
    model: nn.Module, idx: Tensor, max_new_tokens: int, seed: int | None = None, **choice: float
) -> Iterator[Tensor]:
    """Continue idx (B, T >= 1), one (B, 1) column of new ids at a time.

    Past block_size the context slides: the oldest tokens are forgotten. The same seed gives the
    same ids; `choice` is temperature, top_k and top_p as in `probabilities`. A model in training
    mode would drop activations here too: call model.eval() first.
    """
    generator = torch.Generator(idx.device)
    generator.seed() if seed is None else generator.manual_seed(seed)
    block_size = model.config.block_size
    for _ in range(max_new_tokens):
        logits = model(idx[:, -block_size:])[:, -1]  # (B, V)
        new = choose(logits, generator, **choice)
        yield new
        idx = torch.cat([idx, new], dim=1)


def continuation(
    model: nn.Module, tokenizer: Tokenizer, prompt: str, max_new_tokens: int, **choice: float | None
) -> Iterator[str]:
    """The text that follows a prompt, as it comes; see `generate` for the choice.

    An empty prompt begins where a document or a line begins. Raises ValueError where the prompt
    holds a character that the tokenizer lacks.
    """
    device = next(model.parameters()).device
    start = tokenizer.encode(prompt) or [beginning(tokenizer)]
    new = generate(model, torch.tensor([start], device=device), max_new_tokens, **choice)
    return stream(tokenizer.pieces, (column.item() for column in new))


def beginning(tokenizer: Tokenizer) -> int:
    """The id after which a text begins: end-of-text, else a line end, else the first there is."""
    if tokenizer.end_of_text is not None:
        return tokenizer.end_of_text
    return tokenizer.pieces.index(b"\n") if b"\n" in tokenizer.pieces else 0


def stream(pieces: list[bytes], ids: Iterable[int]) -> Iterator[str]:
    """Text as its ids arrive. A character whose bytes are spread over tokens comes whole, with the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for i in ids:
        yield decoder.decode(pieces[i])
    yield decoder.decode(b"", final=True)
