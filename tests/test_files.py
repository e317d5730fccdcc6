"""Files are complete or absent, and a lock has one holder."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from mingpt import files


def test_a_file_is_replaced_at_once_or_stays_as_it_was(tmp_path):
    path, content = tmp_path / "a.json", {"text": "中文 \u2028", "list": [0.1, None, True]}
    files.write_json(path, content)
    with pytest.raises(ZeroDivisionError), files.atomic_write(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise ZeroDivisionError
    assert files.read_json(path) == content and list(tmp_path.iterdir()) == [path]
    with open(path, encoding="utf-8") as reader:
        with files.atomic_write(path) as temporary:
            temporary.write_text("new", encoding="utf-8")
            temporary.chmod(0o600)
        assert json.load(reader) == content and path.read_bytes() == b"new"
    temporary.write_text("half", encoding="utf-8")  # as a killed writer leaves it
    assert temporary.stat().st_mode == path.stat().st_mode
    files.remove_temporary_files(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_has_one_holder_until_it_dies(tmp_path):
    body = "import sys; from mingpt import files; lock = files.lock(sys.argv[1]); print(flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", body, tmp_path / "lock"]
    holder = subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline()
    with pytest.raises(BlockingIOError):
        files.lock(tmp_path / "lock")
    holder.kill()
    holder.communicate()
    with files.lock(tmp_path / "lock"), pytest.raises(BlockingIOError):
        files.lock(tmp_path / "lock")
