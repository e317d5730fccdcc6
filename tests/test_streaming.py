"""Text that comes in pieces: whole characters, stop strings over several tokens, the end of a text."""

from __future__ import annotations

import pytest
import torch
from conftest import random_model
from hypothesis import given
from hypothesis import strategies as st

from mingpt.data.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer
from mingpt.streaming import Text, beginning, continuation, continuations, pieces_of

BYTES = ByteTokenizer()


def columns(*texts: list[int]) -> list[torch.Tensor]:
    """What generate would give: a column of ids after another."""
    return list(torch.tensor(texts).T[:, :, None])


def test_a_character_of_several_tokens_streams_whole():
    text = "naïve 中文 🎉!"
    for tokenizer in (BYTES, BPETokenizer.gpt2()):
        ids = tokenizer.encode(text)
        parts = [part for (part,) in pieces_of([Text(tokenizer)], columns(ids))]
        assert len(ids) > len(text) or tokenizer.end_of_text
        assert "".join(parts) == text
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(parts)
    half = [part for (part,) in pieces_of([Text(BYTES)], columns([195]))]
    assert "".join(half) == "\N{REPLACEMENT CHARACTER}"


@given(st.text(alphabet="ab\né", max_size=12), st.lists(st.text(alphabet="ab\né", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_the_first_stop_string(written, stop):
    text = Text(BYTES, stop)
    shown = "".join(text.add(i) for i in BYTES.encode(written)) + text.close("length")
    # what a reader of single characters sees: the first moment at which one of the strings is complete
    ends = [i for i in range(len(written) + 1) if any(written[:i].endswith(s) for s in stop)]
    if not ends:
        assert (shown, text.ended_by) == (written, "length")
    else:
        begins = [ends[0] - len(s) for s in stop if written[: ends[0]].endswith(s)]
        assert (shown, text.ended_by) == (written[: min(begins)], "stop")


def test_nothing_is_held_back_that_is_decided():
    text = Text(BYTES, ["END"])
    assert [text.add(i) for i in BYTES.encode("aENEND")] == ["a", "", "", "EN", "", ""]
    assert text.ended_by == "stop" and text.close("length") == ""


def test_a_stop_string_that_spans_tokens():
    tokenizer = BPETokenizer.gpt2()
    ids = tokenizer.encode("one two three")
    text = Text(tokenizer, ["o t"])
    assert "".join(text.add(i) for i in ids) == "one tw"
    assert text.ended_by == "stop" and text.tokens == 3


def test_end_of_text_ends_a_text_and_is_not_shown():
    tokenizer = BPETokenizer.gpt2()
    ids = [*tokenizer.encode("Hello"), tokenizer.end_of_text, *tokenizer.encode(" again")]
    text = Text(tokenizer)
    assert "".join(text.add(i) for i in ids) == "Hello"
    assert text.ended_by == "end_of_text"


def test_texts_end_each_for_itself():
    texts = [Text(BYTES, ["x"]), Text(BYTES, ["x"])]
    parts = list(
        pieces_of(
            texts,
            columns(
                list(b"abxc"),
                list(b"defx"),
            ),
        )
    )
    assert ["".join(each) for each in zip(*parts, strict=True)] == ["ab", "def"]
    assert len(parts) == 4


def test_an_id_that_the_tokenizer_lacks_is_no_text():
    text = Text(CharTokenizer("ab"))
    assert [text.add(i) for i in (0, 7, 1)] == ["a", "", "b"]


def test_an_empty_prompt_begins_where_a_line_or_document_does():
    assert beginning(CharTokenizer("a\nb")) == 0
    assert beginning(CharTokenizer("xyz")) == 0
    assert beginning(BYTES) == ord("\n")
    assert beginning(BPETokenizer.gpt2()) == 50256


def test_a_continuation_is_the_text_of_what_generate_returns():
    tokenizer = CharTokenizer("".join(chr(97 + i) for i in range(37)))
    model = random_model()
    text = "".join(continuation(model, tokenizer, "abc", 20, seed=1, temperature=0.9))
    ids = model.generate(torch.tensor([tokenizer.encode("abc")]), 20, seed=1, temperature=0.9)
    assert "abc" + text == tokenizer.decode(ids[0].tolist())
    both = zip(*continuations(model, tokenizer, ["abc", "a"], 20, seed=1, temperature=0.9), strict=True)
    assert "".join(next(both)) == text
    with pytest.raises(ValueError, match="'!'"):
        continuation(model, tokenizer, "no!", 20)
