"""Where a text comes from: what is read, in which order, and what is refused."""

from __future__ import annotations

import hashlib
import io
from urllib.error import URLError

import pytest
from conftest import TEXT

from mingpt.data import sources
from mingpt.data.sources import find_documents, read_chunks
from mingpt.errors import UserError


def read(data: object) -> str:
    """All documents of `--data DATA`, with | between them."""
    return "|".join("".join(read_chunks(path)) for path in find_documents(str(data))[1])


def problem(data: object) -> str:
    with pytest.raises(UserError) as caught:
        read(data)
    return str(caught.value)


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_a_text_is_read_as_it_is_without_its_byte_order_mark(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(sources, "CHUNK", chunk)
    path, text = tmp_path / "a.txt", "one\r\ntwo\rthree\n\ttab  中文 🎉 \ufeffe\u0301"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(path) == text


def test_the_files_of_a_folder_are_read_in_order_without_hidden_ones(tmp_path):
    folder = tmp_path / ".cache" / "my corpus"  # a hidden folder above does not count
    contents = {"b.txt": "two", "a/z.md": "one", "c": "three", ".hidden": "\0", ".git/x": "no", "a/.y": "no"}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    assert read(folder) == "one|two|three"
    assert [find_documents(str(path))[0] for path in (folder, folder / "b.txt")] == ["my corpus", "b"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"abc\xff" * 50, "is not UTF-8 text (byte 0xFF"),
        ("aé".encode() * 9 + "é".encode()[:1], "is not UTF-8 text (byte 0xC3"),
        (b"some text, then\0" * 50, "is a binary file (it contains NUL bytes)"),
    ],
)
def test_what_is_not_utf8_text_is_refused(tmp_path, monkeypatch, content, expected):
    monkeypatch.setattr(sources, "CHUNK", 5)
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert problem(path).startswith(f"--data {path}: {expected}")


def test_what_is_missing_or_empty_is_named(tmp_path):
    assert problem(tmp_path) == f"--data {tmp_path}: the folder has no files"
    assert problem("/dev/null").startswith("--data /dev/null: is neither a file nor a folder")
    assert problem("no.txt") == "--data no.txt: no such file or folder; built-in texts: pydoc, shakespeare"


def test_shakespeare_is_downloaded_once_and_verified(monkeypatch, tmp_path):
    replies = [b"", b"an error page", TEXT.encode()]

    def urlopen(*arguments, **options):
        if reply := replies.pop(0):
            return io.BytesIO(reply)
        raise URLError("unreachable")

    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "SHAKESPEARE_SHA256", hashlib.sha256(TEXT.encode()).hexdigest())
    monkeypatch.setattr(sources.urllib.request, "urlopen", urlopen)
    assert "the download failed (<urlopen error unreachable>)" in problem("shakespeare")
    assert "has another content than expected" in problem("shakespeare")
    assert read("shakespeare") == read("shakespeare") == TEXT
