"""From logits to the next token, by inversion: the first at which the cumulative sum of p exceeds u.

Notation: B sequences, V vocabulary size; p probabilities of the next token, u uniform random numbers in [0, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

GREEDY = 1e-6  # below this temperature only the most probable token is left, and float32 cannot divide by it


def sample(logits: Tensor, u: Tensor, temperature: float = 1.0, **filters: float) -> Tensor:
    """The next token of each sequence, (B, 1): logits (B, V), u (B, 1). Temperature 0: greedy; filters as below.

    >>> sample(torch.tensor([[0.0, 5.0, 1.0]]), torch.tensor([[0.9]]), top_k=1)
    tensor([[1]])
    """
    if temperature < GREEDY:
        return logits.argmax(dim=-1, keepdim=True)
    p = probabilities(logits, temperature, **filters)
    cumulative = p.to(torch.float32 if p.device.type == "mps" else torch.float64).cumsum(dim=-1)  # mps lacks float64
    threshold = u.to(cumulative) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).clamp_(max=logits.shape[-1] - 1)


def probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """Probabilities (B, V) to sample from, of logits (B, V); 0 for tokens that are filtered out.

    temperature  divides the logits: below 1 sharpens the distribution, above 1 flattens it
    top_k        keeps the k most probable tokens; 0 keeps all
    top_p        keeps the fewest most probable tokens whose sum reaches top_p (Holtzman et al. 2020); 1 keeps all
    min_p        keeps tokens with at least min_p times the highest probability (Nguyen et al. 2024); 0 keeps all
    """
    logits = logits.float()
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature  # at most 0, so that exp cannot overflow
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ordered, tokens = logits.sort(descending=True)
        p = F.softmax(ordered, dim=-1)
        is_surplus = p.cumsum(dim=-1) - p >= top_p  # the tokens before this one already reach top_p
        nucleus = ordered.masked_fill(is_surplus, -torch.inf)
        logits = torch.full_like(logits, -torch.inf).scatter(1, tokens, nucleus)
    if min_p > 0:
        logits = logits.masked_fill(logits.exp() < min_p, -torch.inf)  # the highest logit is 0
    return F.softmax(logits, dim=-1)


def penalize_repetition(logits: Tensor, has_occurred: Tensor, penalty: float) -> Tensor:
    """Logits (B, V), lowered where has_occurred (B, V): divided by the penalty, or multiplied if negative.

    Keskar et al. 2019, "CTRL", section 4.1, extended to negative logits as in transformers.
    """
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(has_occurred, lowered, logits)
