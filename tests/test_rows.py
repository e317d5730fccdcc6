"""Tables of all kinds that people have, and what is said of those that cannot be read."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingpt.data import labelled, rows
from mingpt.data.text import whole_words
from mingpt.data.tokenizer import tokenizer_for
from mingpt.errors import UserError
from mingpt.tasks import measures


@pytest.fixture
def written(tmp_path):
    """Write a file; gives its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


def fields(path):
    found = list(rows.every_row(path))
    assert not any(row.problem for row in found), found
    return [row.fields for row in found]


def problem(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert len(caught.value.problems) == 1
    return str(caught.value)


TRICKY = 'a "quoted" word, a comma; a tab\t, a break\nand\r\nanother, ünïcode 漢字 🙂'


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.CSV", ","), ("b.tsv", "\t"), ("c.csv", ";")])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_python_writes_is_read(written, name, delimiter, mark, end):
    table = [["id", "text"], ["1", TRICKY], ["2", ""], ["3", " plain "], ["4", '"']]
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator=end).writerows(table)
    path = written(name, mark + buffer.getvalue())
    assert fields(path) == [dict(zip(table[0], row, strict=True)) for row in table[1:]]
    assert rows.columns_of(path) == ["id", "text"]
    assert rows.separator(path) == delimiter


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.text("ab,\"\n ;'"))))
def test_every_table_comes_back(tmp_path_factory, table):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text,1", "other"), *table])
    assert [tuple(found.values()) for found in fields(path)] == table
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps({"text": a, "b": b}) + "\n" for a, b in table) or "\n{}", encoding="utf-8")
    assert [tuple(found.values()) for found in fields(path)] == (table or [()])


def test_a_row_is_known_by_the_line_on_which_it_begins(written):
    path = written("a.csv", 'text,label\n"two\nlines",x\n\n\ny,z\n')
    assert [(row.number, row.fields["label"]) for row in rows.every_row(path)] == [(2, "x"), (6, "z")]
    path = written("a.jsonl", '{"a": 1}\n\n{"a": "\u2028"}\r\n{"a": null}')
    assert [(row.number, row.fields["a"]) for row in rows.every_row(path)] == [(1, 1), (3, "\u2028"), (4, None)]


def test_fields_may_be_longer_than_pythons_limit(written):
    long = "word, " * 100_000
    path = written("a.csv", f'text,label\n"{long}",x\n')
    assert fields(path) == [{"text": long, "label": "x"}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('"abc"d,x', "cannot be parsed (',' expected after '\"')"),
        ("only one", "has 1 values, and there are 2 columns (text, label)"),
        ("one,two,three", "has 3 values, and there are 2 columns (text, label)"),
        ("a\0b,x", "zero byte"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_kept_and_those_after_it_are_read(written, line, said):
    path = written("a.csv", f"text,label\n{'good' * 100},y\n{line}\nlast,y\n")
    found = list(rows.every_row(path))
    assert [row.number for row in found] == [2, 3, 4]
    assert said in found[1].problem and found[2].fields == {"text": "last", "label": "y"}
    assert ",".join(found[1].fields.values()).rstrip(",") == line
    assert not found[0].problem and not found[2].problem


def test_a_quote_that_is_never_closed_is_named_where_it_opens(written):
    found = list(rows.every_row(written("a.csv", 'text,label\na,x\n"open,y\nb,z\n')))
    assert found[1].number == 3 and found[1].problem == "cannot be parsed (a quote is opened and not closed)"
    assert found[1].fields["text"] == '"open,y\nb,z'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a"', "is no JSON (Expecting ',' delimiter"),
        ('["a"]', 'is no object such as {"text": "..."} but ["a"]'),
        ("[" * 100_000, "is no JSON"),
        ('"' + "\0" * 3 + '"', "zero byte"),
    ],
)
def test_a_line_that_is_no_object(written, line, said):
    good = json.dumps({"text": "good " * 100})
    found = list(rows.every_row(written("a.jsonl", f"{good}\n{line}\n{good}\n")))
    assert [bool(row.problem) for row in found] == [False, True, False]
    assert said in found[1].problem and found[1].number == 2 and found[1].fields == {"line": line}


def test_another_encoding_is_named_with_the_row_and_how_to_convert(written):
    french = "text,label\nplain,x\nun café très agréable,y\n".encode("cp1252")
    first, second = rows.every_row(path := written("a.csv", french))
    assert not first.problem
    assert second.problem.startswith("is not UTF-8 (byte 0xE9), most likely Windows-1252; save it as UTF-8")
    assert f"iconv -f WINDOWS-1252 -t UTF-8 {path} > utf8.csv" in second.problem
    russian = written("a.jsonl", '{"a": "очень хорошая книга"}\n'.encode("cp1251"))
    assert "(byte 0xEE), but the encoding of another script" in next(rows.every_row(russian)).problem
    for encoding, texts in (
        ("cp1252", ("Größe", "à", "5 €", "“naïve” très")),
        ("gbk", ("汤很好喝", "好")),
        ("cp1251", ("очень хорошая книга",)),
        ("shift-jis", ("スープはとてもおいしい", "テレビ")),
        ("euc-kr", ("국물이 좋다",)),
    ):
        for text in texts:
            path = written("c.jsonl", f'{{"text": "{text}", "label": "positive", "id": 12}}\n'.encode(encoding))
            (row,) = rows.every_row(path)
            assert ("Windows-1252" in row.problem) == (encoding == "cp1252"), (text, row.problem)
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        path = written("b.csv", "text,label\nin einem Café,y\n".encode(encoding))
        assert problem(rows.columns_of, path).startswith(f"{path}: is UTF-16; save it as UTF-8, or convert it: iconv")
    path = written("my table.csv", "text,label\nja,y\n".encode("utf-16"))
    assert f"-t UTF-8 '{path}' > utf8.csv" in problem(rows.columns_of, path)
    assert "row 1: is not UTF-8" in problem(rows.columns_of, written("c.csv", "größe,label\n".encode("cp1252")))


def test_files_that_are_no_tables(written, tmp_path):
    for content in (b"", b"\n \r\n", b"\xef\xbb\xbf"):
        assert problem(rows.columns_of, path := written("a.csv", content)) == f"{path}: is empty"
        assert problem(list, rows.every_row(written("a.jsonl", content))).endswith("is empty")
    assert "binary file" in problem(rows.columns_of, written("a.csv", b"PK\x03\x04\x14\0\0\0\x08\0\x21\0\0\0\0\0\0\0"))
    noise = np.random.default_rng(1).integers(1, 256, 5000, dtype=np.uint8).tobytes()  # as in a picture or an archive
    assert "binary file" in problem(rows.columns_of, written("a.csv", noise))
    for name in ("a.txt", "a.xlsx", "a", "a.json"):
        said = problem(rows.columns_of, written(name, "text,label\n"))
        assert said == f"{tmp_path / name}: accepted are files that end in .csv, .tsv or .jsonl"
    assert "cannot be read (No such file" in problem(rows.columns_of, tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "cannot be read (Is a directory" in problem(rows.columns_of, tmp_path / "folder.csv")
    assert problem(rows.columns_of, path := written("a.csv", "a,b,a\n")) == (
        f"{path}, row 1: two columns are called a; give each a name of its own"
    )
    assert "row 1: cannot be parsed" in problem(rows.columns_of, written("a.csv", 'text,"label\n'))


# ---- Values ----


def test_texts():
    row = rows.Row(3, {"text": " kept as it is ", "none": " \n", "null": None, "number": 5})
    assert rows.text_of(row, "text") == " kept as it is "
    assert problem(rows.text_of, row, "none") == "none is empty"
    assert problem(rows.text_of, row, "null") == "null is null; a text is accepted"
    assert problem(rows.text_of, row, "number") == "number is 5; a text is accepted"
    assert problem(rows.text_of, rows.Row(3, {"text": "cut \ud83d"}), "text") == "text holds half a character, U+D83D"
    assert problem(rows.text_of, row, "texts") == (
        "has no column texts; it has text, none, null, number; the nearest is text"
    )


def test_labels():
    row = rows.Row(3, {"a": " good ", "b": 1, "c": True, "d": 2.5, "e": None, "f": "", "g": 10**400})
    assert [rows.label_of(row, name) for name in "abcdg"] == ["good", "1", "true", "2.5", "1" + "0" * 400]
    assert problem(rows.label_of, row, "e") == "e is null; a text is accepted"
    assert problem(rows.label_of, row, "f") == "f is empty"
    for value, said in ((float("nan"), "NaN"), (float("-inf"), "-Infinity")):
        assert problem(rows.label_of, rows.Row(1, {"a": value}), "a") == f"a is {said}; a text is accepted"


@pytest.mark.parametrize(("value", "number"), [("3.5", 3.5), (" -2 ", -2), ("1e3", 1000), (4, 4), (0.25, 0.25)])
def test_numbers(value, number):
    assert rows.number_of(rows.Row(1, {"n": value}), "n") == number


@pytest.mark.parametrize(
    "value", ["good", "", "nan", "NaN", "inf", "3,5", "1_000", "1e999", None, True, [1], float("nan"), 10**400]
)
def test_what_is_no_number(value):
    said = problem(rows.number_of, rows.Row(1, {"n": value}), "n")
    assert said.startswith("n is ") and said.endswith("; a number such as 3.5 is accepted")


def test_what_is_said_of_a_row_is_one_line_of_some_words():
    long = rows.Row(1, {"n": "very " * 100_000, "two\nlines": "a\nb", **{f"column {i}": i for i in range(500)}})
    assert problem(rows.number_of, long, "n").startswith("n is very very ")
    assert problem(rows.number_of, long, "two\nlines").startswith("two\nlines is a b; ")
    for said in (problem(rows.number_of, long, "n"), problem(rows.text_of, long, "none")):
        assert len(said) < 400 and "\n" not in said
    assert " and 482 more" in problem(rows.text_of, long, "none")


# ---- What is learned from a table ----


def test_no_row_is_held_out_where_every_label_is_another():
    assert problem(labelled.split, np.arange(30), 0).startswith("every row has a label of its own")
    learned, held_out = labelled.split(np.array([*range(29), 28]), 0)
    assert len(learned) == 29 and held_out[0] in (28, 29)


@given(st.lists(st.integers(0, 5), min_size=20, max_size=200), st.integers(0, 2**31 - 1))
def test_of_each_stratum_a_tenth_is_held_out(strata, seed):
    learned, held_out = labelled.split(np.array(strata), seed)
    assert sorted([*learned, *held_out]) == list(range(len(strata))) and len(held_out)
    for stratum in set(strata):
        count, held = strata.count(stratum), sum(strata[i] == stratum for i in held_out)
        assert count // 10 <= held <= -(-count // 10) - (count == 1)


def test_a_file_in_another_encoding_is_said_once(written):
    path = written("a.csv", b"text,label\n" + "schöne Größe,x\n".encode("cp1252") * 50)
    assert "row 2: is not UTF-8" in problem(labelled.read_examples, path, "text", "label", rows.label_of)


@given(st.text())
def test_a_short_text_has_the_ids_of_its_words(text):
    tokenizer = tokenizer_for("bpe", ["low lower, lowest; wide wider"] * 3, [], 270)
    words = np.concatenate([[], *map(tokenizer.encode_array, whole_words(iter([text])))])
    assert np.array_equal(labelled.encode(tokenizer, text), words)


def test_measures_of_numbers_that_are_all_alike():
    alike, others = np.full(3, 0.1), np.array([0.1, 0.2, 0.3])
    assert alike.std() > 0  # by rounding
    found = measures.of_numbers(alike, others)
    assert found["r2"] == found["correlation"] == 0
    found = measures.of_numbers(others, alike)
    assert found["r2"] == pytest.approx(-1.5) and found["correlation"] == 0


def test_a_table_of_confusions_lines_up_whatever_the_labels_are():
    n = np.array([[1, 20_000, 0], [3, 4, 5], [6, 7, 8]])
    assert measures.table(n, ["good", "评论", "two\nlines"]) == [
        "             good    评论  two lines",
        "good            1  20,000          0",
        "评论            3       4          5",
        "two lines       6       7          8",
    ]
    assert max(map(len, measures.table(n, ["good", "bad", "very " * 1000]))) < 150


def test_of_many_classes_the_commonest_mistakes_are_listed():
    n = np.diag([9] * 12)
    labels = [f"class {i}" for i in range(12)]
    assert measures.table(n, labels) == []
    n[3, 5], n[7, 0], n[0, 1] = 1, 1200, 1
    assert [line.strip() for line in measures.table(n, labels)] == [
        "1,200  class 7 taken for class 0",
        "1  class 0 taken for class 1",
        "1  class 3 taken for class 5",
    ]
