"""A server process for tests, with a small model of each task."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from conftest import MACHINE, ROOT, train, write_data

SHAPE = ["--n_layer", "2", "--n_head", "2", "--n_embd", "32", "--block_size", "64", "--batch_size", "8", *MACHINE]
RUNS = {
    "fox": ["--data", "fox.txt"],
    "talk": ["--task", "chat", "--data", "talk.jsonl", "--vocab_size", "300"],
    "rows": ["--task", "classify", "--data", "rows.csv", "--vocab_size", "300"],
    "stars": ["--task", "regress", "--data", "rows.csv", "--vocab_size", "300"],
}


@dataclass
class Running:
    process: subprocess.Popen[str]
    url: str

    def stop(self, seconds: float = 20) -> int:
        """Send SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextlib.contextmanager
def serve(cwd: Path, *arguments: object, **environment: str) -> Iterator[Running]:
    """`python -m mingpt.serve ARGUMENTS` on a free port."""
    command = [sys.executable, "-m", "mingpt.serve", *map(str, arguments), "--port", "0"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with open(cwd / "server.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = process.stdout.readline()
        assert "http://" in line, (cwd / "server.log").read_text(encoding="utf-8")
        running = Running(process, line[line.index("http://") :].strip())
        # the socket takes connections before it is ready: this waits for the answer
        httpx.get(f"{running.url}/health", timeout=60)
        yield running
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def models(tmp_path_factory, cache) -> Path:
    """A folder with a run of each task, out/fox, out/talk, out/rows and out/stars."""
    path = tmp_path_factory.mktemp("serve")
    write_data(path)
    for name, flags in RUNS.items():
        train(path, *SHAPE, *flags, "--max_iters", "30", "--out_dir", f"out/{name}")
    return path


@pytest.fixture(scope="session")
def server(models) -> Iterator[Running]:
    """A server of these four, which tests leave running."""
    with serve(models, *(f"out/{name}" for name in RUNS)) as running:
        yield running
