"""Tables as people, spreadsheets and programs write them, and the errors for those that cannot be read."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingpt.data.tables import Row, column_names, label_of, load_examples, number_of, read_rows, text_of
from mingpt.errors import UserError

TRICKY = 'a "quoted" word, a comma; a tab\t, a break\nand\r\nanother\rone, ünïcode 漢字 🙂'


@pytest.fixture
def write(tmp_path):
    """A function that writes a file and returns its path."""

    def write(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return tmp_path / name

    return write


def fields(path):
    rows = list(read_rows(path))
    assert not any(row.problem for row in rows), rows
    return [row.fields for row in rows]


def problem(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert len(caught.value.problems) == 1 and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.CSV", ";"), ("b.tsv", "\t"), ("c.csv", "\t")])
@pytest.mark.parametrize(("mark", "end"), [("", "\n"), ("\ufeff", "\r\n"), ("", "\r")])
def test_what_python_writes_is_read(write, name, delimiter, mark, end):
    table = [["id", "text"], ["1", TRICKY], ["2", ""], ["3", " plain "], ["4", '"']]
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(table)
    assert fields(write(name, mark + buffer.getvalue())) == [dict(zip(table[0], row, strict=True)) for row in table[1:]]


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.text("ab,\"\n ;'"))))
def test_every_table_is_read_back(tmp_path_factory, table):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    table = [*table, ("last", "row")]
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text,1", "other"), *table])
    assert [tuple(row.values()) for row in fields(path)] == table
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps({"text": a, "b": b}) + "\n" for a, b in table), encoding="utf-8")
    assert [tuple(row.values()) for row in fields(path)] == table


# ---- Headers ----


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    "content",
    [
        "text|label\nso kind|yes\n'rude, late'|no\n",
        "text| label\nso kind| yes\n'rude, late'| no\n",
        " text | label \nso kind|yes\n'rude, late'|no\n",
        "'text'| 'label'\n'so kind'| 'yes'\n'rude, late'| 'no'\n",
        "\n\n'text'|'label'\n\n'so kind'|'yes'\n'rude, late'|'no'\n\n",
        "sep=|\ntext|label\nso kind|yes\n'rude, late'|no\n",
        "\nsep=|\r\n\r\n'text'|'label'\r\n'so kind'|'yes'\r\n'rude, late'|'no'\r\n",
    ],
)
def test_headers_and_separators_as_people_and_spreadsheets_write_them(write, content, delimiter):
    path = write("a.csv", content.replace("|", delimiter).replace("'", '"'))
    assert fields(path) == [{"text": "so kind", "label": "yes"}, {"text": "rude, late", "label": "no"}]
    assert column_names(path) == ["text", "label"]


@pytest.mark.parametrize(
    ("delimiter", "header", "names"),
    [
        (";", 'text;"label, of it"', ["text", "label, of it"]),
        (";", '"a, b, c, d";label', ["a, b, c, d", "label"]),
        (",", 'text,"a; b; c"', ["text", "a; b; c"]),
        (";", '"a ""quoted"", name";label', ['a "quoted", name', "label"]),
        (";", 'id;label;"How was it,\nall in all, today?"', ["id", "label", "How was it, all in all, today?"]),
        (",", 'id,5" screen', ["id", '5" screen']),
        (",", "text or title", ["text or title"]),
        (",", ",text", ["column 1", "text"]),
        (",", "text,,label,,", ["text", "column 2", "label", "column 4", "column 5"]),
    ],
)
def test_names_may_hold_separators_or_be_missing(write, delimiter, header, names):
    values = [f"value {i}" for i in range(len(names))]
    path = write("a.csv", f"{header}\n{delimiter.join(values)}\n{delimiter * (len(names) - 1) or 'x'}\n")
    assert fields(path)[0] == dict(zip(names, values, strict=True))


def test_spaces_that_belong_to_a_value_stay(write):
    assert fields(write("a.csv", "text,label\n a , b\n")) == [{"text": " a ", "label": " b"}]


def test_a_tsv_is_separated_by_tabs_alone(write):
    assert fields(write("a.tsv", "a, b, c\tlabel\n1,2,3\tx\n")) == [{"a, b, c": "1,2,3", "label": "x"}]


def test_header_errors(write):
    path = write("a.csv", "text,label, text\na,b,c\n")
    assert problem(column_names, path) == f"{path}, row 1: has two columns text"
    path = write("a.csv", '\ntext,"label\na,b\n')
    assert problem(column_names, path) == f"{path}, row 2: cannot be parsed (unexpected end of data)"


# ---- Rows that cannot be read ----


@pytest.mark.parametrize("line", ["only one", "one,two,three", "one,two,", " "])
def test_a_row_that_does_not_fit_the_header_keeps_its_values_and_those_after_it_are_read(write, line):
    rows = list(read_rows(write("a.csv", f'text,label\n"two\nlines",y\n\n{line}\nsep=,\nlast,y\n')))
    assert [row.number for row in rows] == [2, 5, 6, 7]
    assert rows[1].problem == problem(text_of, rows[1], "text") == f"has {line.count(',') + 1} values for 2 columns"
    assert list(rows[1].fields.values()) == line.split(",")[:2]
    assert [row.fields["text"] for row in rows[2:]] == ["sep=", "last"] and not rows[2].problem


@pytest.mark.parametrize(
    ("line", "said"), [('"abc"d,x', "',' expected after '\"'"), ('"open,y', "unexpected end of data")]
)
def test_a_quote_that_is_misplaced_or_never_closed_is_named_where_it_opens(write, line, said):
    path = write("a.csv", f'text,label\n"two\nlines",x\n{line}\n' + "b,z\n" * 1000)
    assert problem(list, read_rows(path)) == f"{path}, row 4: cannot be parsed ({said})"
    assert column_names(path) == ["text", "label"]


def test_a_value_may_be_long_but_not_exhaust_the_memory(write):
    long = "long " * 200_000
    assert fields(write("a.csv", f'text\n"{long}"\n')) == [{"text": long}]
    path = write("a.csv", 'text\n"' + long * 17)
    assert problem(list, read_rows(path)).startswith(f"{path}, row 2: cannot be parsed (field larger than")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a"', "is not valid JSON (Expecting ',' delimiter"),
        ('["a"]', 'is ["a"]; it must be a JSON object'),
        ("[" * 100_000, "is not valid JSON"),
        ("nothing", "is not valid JSON"),
    ],
)
def test_a_line_that_is_not_an_object(write, line, said):
    rows = list(read_rows(write("a.jsonl", f'{{"text": "good"}}\r\n\n{line}\n{{"text": "\u2028"}}')))
    assert [(row.number, bool(row.problem)) for row in rows] == [(1, False), (3, True), (4, False)]
    assert said in rows[1].problem and rows[1].fields == {} and rows[2].fields == {"text": "\u2028"}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_other_encodings_are_named_with_the_row(write, suffix):
    lines = {"csv": "text,label\na,b\n", "tsv": "text\tlabel\na\tb\n", "jsonl": '{"text": "a"}\n\n'}[suffix]
    path = write(f"a.{suffix}", lines.encode() + "café".encode("cp1252"))
    assert problem(list, read_rows(path)) == f"{path}, row 3: is not UTF-8 (byte 0xE9)"
    for encoding, byte in (("utf-16", "FF"), ("utf-16-le", "00")):
        path = write(f"a.{suffix}", lines.encode(encoding))
        assert problem(column_names, path) == f"{path}, row 1: is not UTF-8 (byte 0x{byte})"
    path = write(f"a.{suffix}", lines + "null\0byte")
    assert "row 3: is not UTF-8 (byte 0x00)" in problem(list, read_rows(path))


def test_files_that_are_not_tables(write, tmp_path):
    for content in (b"", b"\n \r\n", b"\xef\xbb\xbf", b"text,label\n"):
        assert problem(list, read_rows(path := write("a.csv", content))) == f"{path}: has no rows"
    assert problem(column_names, path := write("a.jsonl", "\n")) == f"{path}: has no rows"
    for name in ("a.txt", "a.xlsx", "a", "a.json"):
        said = problem(column_names, write(name, "text,label\n"))
        assert said == f"{tmp_path / name}: the file name must end in .csv, .tsv, .jsonl"
    with pytest.raises(FileNotFoundError, match="none.csv"):  # cli.run_command prints these in one line
        column_names(tmp_path / "none.csv")


# ---- Values ----


def test_texts_and_labels():
    row = Row(3, {"a": " good ", "b": 1, "c": True, "d": 2.5, "e": None, "f": " \n", "g": float("nan"), "h": [1]})
    assert text_of(row, "a") == " good "
    assert [label_of(row, name) for name in "abcd"] == ["good", "1", "true", "2.5"]
    for parse, column, said in ((text_of, "b", "1"), (text_of, "e", "null"), (label_of, "e", "null")):
        assert problem(parse, row, column) == f"{column} is {said}; it must be a non-empty text"
    for column, said in (("f", "empty"), ("g", "NaN"), ("h", "[1]")):
        assert problem(label_of, row, column) == f"{column} is {said}; it must be a non-empty text"
    said = problem(text_of, Row(3, {"text": "", "label": ""}), "texts")
    assert said == "has no column texts; it has text, label; did you mean text?"
    many = Row(1, {"n": "very\n" * 100_000, **{f"name {i}": i for i in range(500)}})
    assert max(len(problem(number_of, many, "n")), len(problem(text_of, many, "x"))) < 300


def test_numbers():
    for value, number in (("3.5", 3.5), (" -2 ", -2), ("+.5", 0.5), ("1e3", 1000), ("1.", 1), (4, 4), (0.25, 0.25)):
        assert number_of(Row(1, {"n": value}), "n") == number
    for value in ("good", "", "nan", "inf", "3,5", "1_000", "1e999", ".", None, True, [1], float("nan"), 10**400, {}):
        said = problem(number_of, Row(1, {"n": value}), "n")
        assert said.startswith("n is ") and said.endswith("; it must be a number such as 3.5")


# ---- Examples ----


def test_examples_are_in_order_and_all_problems_are_reported(write):
    good = [f"text {i},{i}\n" for i in range(20)]
    examples = load_examples(write("a.csv", "text,stars\n" + "".join(good)), "text", "stars", number_of)
    assert [(example.text, example.target) for example in examples] == [(f"text {i}", i) for i in range(20)]
    path = write("a.csv", "text,stars\n" + "".join(good[:19]))
    assert problem(load_examples, path, "text", "stars", number_of) == f"{path}: has 19 rows; at least 20 are needed"
    assert problem(load_examples, path, "text", "star", number_of) == (
        f"{path}: has no column star; it has text, stars; did you mean stars?; --label_column names the column"
    )
    path = write("a.csv", "text,stars\n" + "".join(good) + ",5\nfine,good\nfine\n" + "fine,\n" * 9)
    with pytest.raises(UserError) as caught:
        load_examples(path, "text", "stars", number_of)
    assert [line.removeprefix(f"{path}, row ") for line in caught.value.problems[:3]] == [
        "22: text is empty; it must be a non-empty text",
        "23: stars is good; it must be a number such as 3.5",
        "24: has 1 values for 2 columns",
    ]
    assert len(caught.value.problems) == 11 and caught.value.problems[10] == f"{path}: 2 more rows cannot be used"
