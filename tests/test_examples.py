"""Batches of sequences of unequal length, against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.data.examples import EpochSampler, Example, Examples


def make_examples(lengths, seed=0) -> list[Example]:
    """Example i has the ids 1000 i + 1, 1000 i + 2, ..., targets 5 larger, and at least the last one counts."""
    rng = np.random.default_rng(seed)
    examples = []
    for i, length in enumerate(lengths):
        ids = 1000 * i + 1 + np.arange(length)
        mask = rng.random(length) < 0.5
        mask[-1] = True
        examples.append(Example(ids, ids + 5, mask))
    return examples


def padded_length(longest: int) -> int:
    """A multiple of 16, but no more than the longest of all."""
    return min(next(length for length in range(16, 1000, 16) if length >= longest), max(LENGTHS))


LENGTHS = np.random.default_rng(1).integers(1, 40, 150)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 2**31 - 1), st.booleans())
def test_each_epoch_has_every_example_once_and_fills_its_last_batch(count, batch_size, seed, by_length):
    sampler = EpochSampler(count, batch_size, LENGTHS[:count] if by_length else None)
    for epoch in range(2):
        first = epoch * sampler.batches
        batches = [sampler.indices(seed, step) for step in range(first, first + sampler.batches)]
        assert all(len(batch) == batch_size for batch in batches)
        times = np.bincount(np.concatenate(batches), minlength=count)
        assert times.min() >= 1 and times.sum() < count + batch_size
        if count >= batch_size:
            assert times.max() <= 2


def test_a_batch_is_a_pure_function_of_seed_and_step():
    one, other = (Examples(make_examples(LENGTHS), 8, token_dropout=0.3) for _ in range(2))
    batches = {step: one.batch(3, step) for step in (0, 40, 7, 19, 1)}
    for step in (1, 7, 40, 0, 19):
        assert all(np.array_equal(a, b) for a, b in zip(batches[step], other.batch(3, step), strict=True))
    orders = [
        Examples(make_examples(LENGTHS), 8).sampler.shuffle(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert not np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[0], orders[2])


def test_a_batch_has_examples_of_similar_length_padded_on_the_right():
    examples = [
        replace(example, targets=(example.targets / 2).astype(np.float32)) for example in make_examples(LENGTHS)
    ]
    batches = Examples(examples, 8, pad_id=99_999)
    cells = 0
    for step in range(batches.sampler.batches):
        x, y, mask, weight = batches.batch(0, step)
        cells += x.size
        assert (x.dtype, y.dtype, mask.dtype, weight.dtype) == (np.int64, np.float32, bool, np.float32)
        for b in range(8):
            example = examples[x[b, 0] // 1000]
            T = len(example.ids)
            assert np.array_equal(x[b, :T], example.ids) and (x[b, T:] == 99_999).all()
            assert np.array_equal(mask[b, :T], example.mask) and not mask[b, T:].any()
            assert np.array_equal(y[b][mask[b]], example.targets[example.mask])
        assert x.shape[1] == padded_length(max(len(examples[i // 1000].ids) for i in x[:, 0]))
        assert weight == pytest.approx(mask.sum(axis=1) / mask.sum(axis=1).mean())
    assert cells < 1.7 * LENGTHS.sum()  # in batches at random it would be more than twice


def test_token_dropout_leaves_out_tokens_without_a_target():
    examples = make_examples([30] * 200)
    batches = Examples(examples, 8, token_dropout=0.25)
    left, total = 0, 0
    for step in range(batches.sampler.batches):
        x, y, mask, _ = batches.batch(0, step)
        for b in range(8):
            example = examples[x[b].max() // 1000]
            assert np.array_equal(y[b][mask[b]], example.targets[example.mask])  # all targets remain
            ids = x[b][x[b] > 0]
            assert (np.diff(ids) > 0).all() and {*ids} <= {*example.ids}
            left, total = left + len(ids) - example.mask.sum(), total + (~example.mask).sum()
    assert 0.7 < left / total < 0.8


def test_prompt_share_counts_some_positions_outside_the_mask():
    examples = make_examples([30] * 200)
    plain, changed = Examples(examples, 8), Examples(examples, 8, prompt_share=0.25)
    added = []
    for step in range(plain.sampler.batches):
        (x, y, mask, _), (x2, y2, mask2, weight) = plain.batch(0, step), changed.batch(0, step)
        assert np.array_equal(x, x2) and np.array_equal(y, y2)
        assert mask2[mask].all()
        assert np.allclose(weight, mask2.sum(axis=1) / mask2.sum(axis=1).mean())
        added.append(mask2[~mask].mean())
    assert 0.2 < np.mean(added) < 0.3
    alone = Examples(examples[:1], 1, prompt_share=0.25)
    assert not np.array_equal(alone.batch(0, 0)[2], alone.batch(0, 1)[2])  # the same example, drawn anew
    assert all(np.array_equal(a, b) for a, b in zip(changed.batch(0, 3), changed.batch(0, 3), strict=True))
    for evaluated, whole in zip(changed.batches(7), plain.batches(7), strict=True):
        assert np.array_equal(evaluated[2], whole[2])


def test_evaluation_has_every_example_once_and_whole_the_shortest_first():
    batches = [x for x, *_ in Examples(make_examples(LENGTHS), 8, token_dropout=0.5).batches(7)]
    assert [len(x) for x in batches] == [7] * 21 + [3]
    longest = [max(sorted(LENGTHS)[i : i + 7]) for i in range(0, 150, 7)]
    assert [x.shape[1] for x in batches] == [padded_length(length) for length in longest]
    assert sorted(i // 1000 for x in batches for i in x[:, 0]) == list(range(150))
