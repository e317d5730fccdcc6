"""Where a text comes from: what is read, what is refused, and what is kept in the cache."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import platform
import subprocess
import sys

import pytest
from conftest import TEXT, data_of, read

from mingpt.data import documents, text
from mingpt.data.documents import find_documents, python_manual
from mingpt.data.text import tokenize
from mingpt.data.tokenizer import ByteTokenizer
from mingpt.errors import UserError


def test_bytes_are_read_as_they_are_and_a_byte_order_mark_is_left_out(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n\ttab  \xe4\xb8\xad")
    assert read(path) == read(path, "char") == "one\r\ntwo\rthree\n\ttab  中"


def test_the_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode())
    assert data_of(path).sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


def test_a_changed_text_is_not_taken_from_the_cache(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc" * 100, encoding="utf-8")
    assert read(path, "char") == "abc" * 100
    path.write_text("xyz" * 100, encoding="utf-8")
    assert read(path, "char") == "xyz" * 100


def test_the_manual_repeats_no_paragraph():
    paragraphs = python_manual().strip().split("\n\n")
    assert len(paragraphs) == len(set(paragraphs)) > 1000


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"abc\xff" * 50, "is not UTF-8 text (byte 0xFF at position 3)"),
        ("中文".encode("gb18030") * 50, "is not UTF-8 text"),
        ("ok".encode("utf-16") * 50, "is not UTF-8 text (byte 0xFF at position 0)"),
        (b"\x89PNG\r\n", "is not UTF-8 text"),
        (b"MZ\0\0" * 50, "is a binary file"),
        ("é".encode()[:1], "is not UTF-8 text (byte 0xC3 at position 0)"),
        (b"too short", "is too short (9 tokens)"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, problem):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        data_of(path)
    assert str(caught.value).startswith(f"--data {path}: ") and problem in str(caught.value)


def test_a_bad_byte_is_found_where_it_is_in_a_long_file(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "CHUNK_BYTES", 10)
    path = tmp_path / "a.txt"
    path.write_bytes("é".encode() * 17 + b"\xff")
    with pytest.raises(UserError, match="byte 0xFF at position 34"):
        data_of(path)


def test_a_text_that_changes_while_it_is_read_is_refused_and_not_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    for after in ("abcabd" * 50, "abcabz" * 50):  # with known and with new characters
        path.write_text("abcabc" * 50 + "d", encoding="utf-8")
        _, found = find_documents(str(path))
        original = text.survey

        def survey(found, after=after, original=original):
            result = original(found)
            path.write_text(after, encoding="utf-8")
            return result

        with monkeypatch.context() as patch:
            patch.setattr(text, "survey", survey)
            with pytest.raises(UserError, match=r"a\.txt: has changed while it was read"):
                tokenize(found, "char")
        assert list((tmp_path / "cache").iterdir()) == []


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: is neither a file nor a folder"):
        find_documents(str(tmp_path / "pipe"))


def test_a_file_by_its_descriptor_is_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    with open(path, encoding="utf-8") as file:
        assert read(f"/dev/fd/{file.fileno()}") == TEXT


def test_what_cannot_be_looked_at_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--data x+: cannot be read .*too long"):
        find_documents("x" * 300)
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    original = os.scandir

    def scandir(place):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return original(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match="--data .*/closed: cannot be read .Permission denied"):
        find_documents(str(tmp_path))


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        data_of(tmp_path / "nowhere")
    with pytest.raises(UserError, match="the folder holds no file"):
        data_of(tmp_path)


@pytest.mark.parametrize("error", [OSError("Network is unreachable"), http.client.IncompleteRead(b"half")])
def test_shakespeare_without_a_network_says_so(monkeypatch, tmp_path, error):
    def offline(*args, **kwargs):
        raise error

    monkeypatch.setattr(documents.urllib.request, "urlopen", offline)
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="--data shakespeare: could not be downloaded .*(unreachable|IncompleteRead)"):
        data_of("shakespeare")


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(documents, "SHAKESPEARE_SHA256", hashlib.sha256(TEXT.encode()).hexdigest())
    monkeypatch.setattr(documents.urllib.request, "urlopen", lambda *a, **k: io.BytesIO(TEXT.encode()))
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(UserError, match="cache: the cache cannot be used .No space left.*MINGPT_CACHE"):
            data_of("shakespeare")
    assert read("shakespeare") == TEXT
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="file: the cache cannot be used"):
        read("pydoc")


def test_a_user_without_a_home_needs_only_a_name_for_the_cache(monkeypatch, tmp_path):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", homeless)
    assert documents.cache_folder()  # MINGPT_CACHE is set
    monkeypatch.delenv("MINGPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert documents.cache_folder() == tmp_path / "mingpt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(UserError, match="the cache: .*MINGPT_CACHE"):
        documents.cache_folder()


def test_half_a_file_of_a_dead_process_is_removed_and_that_of_a_living_one_is_not(monkeypatch, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("MINGPT_CACHE", str(cache))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    name = f"{hashlib.sha256(TEXT.encode()).hexdigest()}-{ByteTokenizer().vocabulary.sha256()}.tokens"
    here, elsewhere = f".{name}.{platform.node()}", f".{name}.another-machine"
    for leftover in (f"{here}.{dead.pid}.tmp", f"{here}.{os.getppid()}.tmp", f"{elsewhere}.{dead.pid}.tmp"):
        (cache / leftover).write_bytes(b"half")
    read(path)
    assert {p.name for p in cache.iterdir()} == {*(name, f"{here}.{os.getppid()}.tmp", f"{elsewhere}.{dead.pid}.tmp")}
