"""Continue prompts: `python -m mingpt.generate out/NAME --prompt "The "`, or with gpt2 in place of out/NAME."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mingpt import cli
from mingpt.errors import UserError
from mingpt.settings import setting, shown
from mingpt.writing import Writing, opened

if TYPE_CHECKING:  # torch takes a second to import
    from torch import Tensor

    from mingpt.data.tokenizer import Tokenizer
    from mingpt.model import GPT
    from mingpt.streaming import Text

DESCRIPTION = "Continue prompts with a trained GPT, or with GPT-2 from the hub."
BATCH = 8  # prompts of a file that are continued side by side
BETWEEN = "---"  # the line between two texts


@dataclass(kw_only=True)
class GenerateConfig(Writing):
    """What continuations are made from."""

    prompt: str = setting("", group="text", help="what the text begins with")
    prompts: str | None = setting(
        None,
        group="text",
        metavar="FILE",
        help='a prompt in each line, or in each object {"prompt": ...} of a .jsonl file; -: standard input',
    )
    num_samples: int = setting(1, group="text", within="[1, 1024]", help="continuations of each prompt")
    stop: tuple[str, ...] = setting((), group="text", help="end before this text; may be given several times")
    jsonl: bool = setting(False, group="text", help="write an object for each continuation, a line each")
    speed: bool = setting(False, group="text", help="say at the end how many tokens came in a second")

    def misfits(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.prompt and self.prompts is not None:
            yield ("prompt", "prompts"), "--prompts: takes the place of --prompt; leave one of the two out"


def main(argv: list[str]) -> int:
    config, _ = cli.parse(GenerateConfig, argv, "python -m mingpt.generate", DESCRIPTION)
    if "" in config.stop:
        raise UserError("--stop '': is empty, and would end every text before it begins")
    prompts = [config.prompt] if config.prompts is None else list(read_prompts(config.prompts))
    model, tokenizer = opened(config)
    check(prompts, model, tokenizer, config)
    watch = Watch()
    try:
        for i in range(0, len(prompts), BATCH):
            samples = [prompt for prompt in prompts[i : i + BATCH] for _ in range(config.num_samples)]
            if config.jsonl or config.prompts is not None or config.num_samples > 1:
                write_all(config, model, tokenizer, samples, watch, is_first=i == 0)
            else:
                stream(config, model, tokenizer, samples[0], watch)
    finally:
        watch.report(config.speed, model.config.block_size)
    return 0


def read_prompts(name: str) -> Iterator[str]:
    """The prompts in a file, one for each line; a line that holds an object with a prompt stands for that prompt."""
    where = "standard input" if name == "-" else name
    try:
        text = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        lines = text.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"--prompts {name}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--prompts {name}: is no UTF-8 text (byte {error.start})") from None
    if not lines:
        raise UserError(f"--prompts {name}: is empty")
    for number, line in enumerate(lines, start=1):
        prompt = prompt_of(line)
        if prompt is None and name.endswith(".jsonl"):
            raise UserError(f'--prompts {where}, line {number}: is no object such as {{"prompt": "Once"}}')
        yield line if prompt is None else prompt


def prompt_of(line: str) -> str | None:
    """The prompt in an object of JSON; None where the line is something else."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    prompt = found.get("prompt") if isinstance(found, dict) else None
    return prompt if isinstance(prompt, str) else None


def check(prompts: list[str], model: GPT, tokenizer: Tokenizer, config: GenerateConfig) -> None:
    """Say which prompts are too long to be read whole. Raises UserError where one cannot be encoded."""
    from mingpt.sampling import kept

    S = model.config.block_size
    for number, prompt in enumerate(prompts, start=1):
        name = f"--prompt {shown(prompt)}" if config.prompts is None else f"--prompts {config.prompts}, line {number}"
        try:
            tokens = len(tokenizer.encode(prompt))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
        if tokens > S:
            name = "the prompt" if config.prompts is None else f"the prompt in line {number}"
            print(
                f"note: {name} has {tokens:,} tokens and the model sees {S:,}; its last {kept(S):,} are read",
                file=sys.stderr,
            )


def stream(config: GenerateConfig, model: GPT, tokenizer: Tokenizer, prompt: str, watch: Watch) -> None:
    """Print a prompt and its continuation as it comes."""
    print(prompt, end="", flush=True)
    for (piece,) in pieces(config, model, tokenizer, [prompt], watch)[1]:
        print(piece, end="", flush=True)
    print()


def write_all(
    config: GenerateConfig, model: GPT, tokenizer: Tokenizer, prompts: list[str], watch: Watch, is_first: bool
) -> None:
    """Print prompts that were continued side by side, each with its continuation once all have ended."""
    texts, columns = pieces(config, model, tokenizer, prompts, watch)
    written = ["".join(parts) for parts in zip(*columns, strict=True)]
    for prompt, continuation, text in zip(prompts, written, texts, strict=True):
        if config.jsonl:
            entry = {"prompt": prompt, "text": continuation, "tokens": text.tokens, "ended_by": text.ended_by}
            print(json.dumps(entry, ensure_ascii=False), flush=True)
        else:
            print(("" if is_first else f"{BETWEEN}\n") + prompt + continuation, flush=True)
        is_first = False


def pieces(
    config: GenerateConfig, model: GPT, tokenizer: Tokenizer, prompts: list[str], watch: Watch
) -> tuple[list[Text], Iterator[list[str]]]:
    """The texts that follow some prompts, and their pieces as they come."""
    from mingpt.sampling import generate
    from mingpt.streaming import Text, pieces_of, starts

    texts = [Text(tokenizer, config.stop) for _ in prompts]
    ids = starts(tokenizer, prompts)
    columns = generate(model, ids, config.max_new_tokens, config.seed, on_slide=watch.slid, **config.choice())
    return texts, pieces_of(texts, watch.timed(columns, texts))


class Watch:
    """How long the tokens took, and what there is to say at the end."""

    def __init__(self) -> None:
        self.first, self.rest = 0.0, 0.0  # seconds until the first tokens of each batch, and after them
        self.batches, self.tokens, self.firsts = 0, 0, 0
        self.has_slid = False

    def slid(self) -> None:
        self.has_slid = True

    def timed(self, columns: Iterable[Tensor], texts: list[Text]) -> Iterator[Tensor]:
        """The same columns."""
        self.batches += 1
        began, is_first = time.perf_counter(), True
        for column in columns:
            now = time.perf_counter()
            live = sum(text.ended_by is None for text in texts)
            self.tokens += live
            if is_first:
                self.first, self.firsts = self.first + now - began, self.firsts + live
            else:
                self.rest += now - began
            is_first = False
            yield column
            began = time.perf_counter()

    def report(self, speed: bool, block_size: int) -> None:
        """Say on standard error what was asked for, and what a user should know."""
        from mingpt.sampling import kept

        if self.has_slid:
            went_on = f"the text went on from its newest {kept(block_size):,}"
            print(f"note: a context of {block_size:,} tokens was full; {went_on}", file=sys.stderr)
        if speed and self.tokens:
            rate = (self.tokens - self.firsts) / self.rest if self.rest else 0.0
            first = f"the first after {self.first / self.batches:.2f} s"
            print(f"{self.tokens:,} tokens; {first}, then {rate:,.1f} per second", file=sys.stderr)


if __name__ == "__main__":
    cli.run_command(main)
