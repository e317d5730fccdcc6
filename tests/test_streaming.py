"""Text in pieces: whole characters, stop strings over several tokens, and what ends a text."""

from __future__ import annotations

import pytest
import torch
from conftest import random_model
from hypothesis import given
from hypothesis import strategies as st

from mingpt.data.tokenizer import TOKENIZERS
from mingpt.generation.decoding import generate
from mingpt.generation.streaming import Completion, complete, encode_prompt, stream

BYTE = TOKENIZERS["byte"]([], [], None)
LETTERS = "".join(chr(97 + i) for i in range(37))  # as many as random_model has tokens


def char_tokenizer(alphabet: str = LETTERS):
    return TOKENIZERS["char"]([alphabet], [], None)


def columns(*sequences: list[int]) -> list[torch.Tensor]:
    """What `generate` yields for these tokens."""
    return list(torch.tensor(sequences).T[:, :, None])


@pytest.mark.parametrize("name", ["byte", "gpt2"])
def test_a_character_of_several_tokens_is_returned_whole(name):
    tokenizer, text = TOKENIZERS[name]([], [], None), "naïve 中文 🎉!"
    ids = tokenizer.encode(text)
    pieces = [piece for (piece,) in stream([Completion(tokenizer)], columns(ids))]
    assert "" in pieces[:-1] and "".join(pieces) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    cut = [piece for (piece,) in stream([Completion(BYTE)], columns([97, 195]))]
    assert "".join(cut) == "a\N{REPLACEMENT CHARACTER}"


@given(st.text(alphabet="ab\né", max_size=12), st.lists(st.text(alphabet="ab\né", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_the_first_stop_string(text, stop):
    completion = Completion(BYTE, stop)
    result = "".join(completion.add(token) for token in BYTE.encode(text)) + completion.end("length")
    # character by character: the first moment at which a stop string is complete
    end = next((end for end in range(len(text) + 1) if text[:end].endswith(tuple(stop))), None)
    if end is None:
        assert (result, completion.ended_by) == (text, "length")
    else:
        start = min(end - len(s) for s in stop if text[:end].endswith(s))
        assert (result, completion.ended_by) == (text[:start], "stop")


def test_text_is_held_back_only_while_it_may_become_a_stop_string():
    completion = Completion(BYTE, ["END"])
    assert [completion.add(token) for token in b"aENEND!"] == ["a", "", "", "EN", "", "", ""]
    assert (completion.ended_by, completion.tokens, completion.end("length")) == ("stop", 6, "")


def test_each_text_of_a_batch_ends_for_itself():
    tokenizer = TOKENIZERS["gpt2"]([], [], None)
    ids = [tokenizer.encode("a b c d x e f"), [*tokenizer.encode("a b"), tokenizer.eos_id, 1, 2, 3, 4]]
    completions = [Completion(tokenizer, [" x"]) for _ in ids]
    pieces = list(stream(completions, columns(*ids)))
    assert ["".join(column) for column in zip(*pieces, strict=True)] == ["a b c d", "a b"]
    assert [completion.ended_by for completion in completions] == ["stop", "end_of_text"]
    assert [completion.tokens for completion in completions] == [len(pieces), 3] == [5, 3]


def test_an_empty_prompt_begins_as_a_document_or_a_line_does():
    assert encode_prompt(TOKENIZERS["gpt2"]([], [], None), "") == [50256]
    assert encode_prompt(BYTE, "") == [ord("\n")]
    assert encode_prompt(char_tokenizer("a\nb"), "") == [0]
    assert encode_prompt(char_tokenizer("xyz"), "") == [0]
    assert encode_prompt(char_tokenizer("xyz"), "z") == [2]


def test_a_continuation_is_the_text_of_what_generate_yields():
    tokenizer, model = char_tokenizer(), random_model()
    ids = torch.cat(list(generate(model, [tokenizer.encode("abc")], 20, seed=1, temperature=0.9)), dim=1)[0].tolist()
    text = tokenizer.decode(ids)
    for stop, expected in (((), text), ([text[5:8]], text[:5])):
        completion = Completion(tokenizer, stop)
        pieces = complete(model, tokenizer.encode("abc"), completion, 20, seed=1, temperature=0.9)
        assert "".join(pieces) == expected


def test_an_answer_ends_at_any_special_token():
    tokenizer = char_tokenizer(LETTERS[:35]).with_special(["<|user|>", "<|end|>"], eos_token="<|end|>")
    for special in tokenizer.special_ids.values():
        model = random_model()
        with torch.no_grad():
            model.ln_f.bias.zero_()
            model.wte.weight[special] *= 30  # now and then by far the most probable token
        completion = Completion(tokenizer, end_ids=tokenizer.special_ids.values())
        text = "".join(complete(model, [1, 2, 3], completion, 200, seed=0))
        assert "<" not in text
        ids = torch.cat(list(generate(model, [[1, 2, 3]], 200, seed=0)))[:, 0].tolist()
        assert special in ids
        assert text == tokenizer.decode(ids[: ids.index(special)])
