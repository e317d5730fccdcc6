"""Continue prompts: `python -m mingpt.generate out/NAME --prompt "The "`, or with gpt2 in place of out/NAME."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mingpt import cli
from mingpt.errors import UserError
from mingpt.generation.settings import TEXT, GenerationSettings, load_model
from mingpt.settings import format_value, setting

if TYPE_CHECKING:  # importing torch takes a second
    from mingpt.generation.streaming import Completion

DESCRIPTION = "Continue prompts with a GPT, trained here or from the Hugging Face hub."
BATCH = 16  # texts that are generated side by side
RESULTS = ("text", "tokens", "ended_by")  # keys that --jsonl adds to those of the prompt's row


class GenerateSettings(GenerationSettings):
    """What is continued, and how it is written."""

    prompt: str = setting("", group=TEXT, help="beginning of the text")
    prompts: str | None = setting(
        None, group=TEXT, metavar="FILE", help='prompts, one per line, or JSONL of {"prompt": ...}; -: standard input'
    )
    num_samples: int = setting(1, group=TEXT, ge=1, le=1024, help="continuations of each prompt")
    stop: tuple[str, ...] = setting((), group=TEXT, help="stop string: end before it; may be repeated")
    jsonl: bool = setting(False, group=TEXT, help="write a JSON object per line for each continuation")

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.prompt and self.prompts is not None:
            yield ("prompt", "prompts"), f"--prompts {self.prompts}: cannot be combined with --prompt"
        if "" in self.stop:
            yield ("stop",), "--stop '': is empty"


def main(argv: list[str]) -> int:
    settings = cli.parse(GenerateSettings, argv, "python -m mingpt.generate", DESCRIPTION)
    single = [(f"--prompt {format_value(settings.prompt)}", {"prompt": settings.prompt})]
    prompts = single if settings.prompts is None else list(read_prompts(settings.prompts, settings.jsonl))
    model, tokenizer = load_model(settings)
    from mingpt.generation.decoding import generate, window_size
    from mingpt.generation.streaming import Completion, encode_prompt, stream

    block_size = model.config.block_size
    limit = f"the context length of {block_size:,}; the last {window_size(block_size):,} are used"
    samples = []
    for name, row in prompts:
        try:
            ids = encode_prompt(tokenizer, row["prompt"])
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        if len(ids) > block_size:
            print(f"note: {name}: {len(ids):,} tokens exceed {limit}", file=sys.stderr)
        samples += [(row, ids)] * settings.num_samples
    is_exceeded = False
    for first in range(0, len(samples), BATCH):  # sample i draws from the random stream (seed, i)
        rows, ids = zip(*samples[first : first + BATCH], strict=True)
        options = settings.sampling() | {"first": first}
        texts = [Completion(tokenizer, settings.stop) for _ in rows]
        pieces = stream(texts, generate(model, ids, settings.max_new_tokens, **options))
        write(rows, texts, pieces, settings.jsonl, is_first=first == 0)
        is_exceeded |= any(len(i) + text.tokens > block_size for i, text in zip(ids, texts, strict=True))
    if is_exceeded:
        print(f"note: a text exceeds {limit}", file=sys.stderr)
    return 0


def read_prompts(path: str, is_output_jsonl: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The prompts of a file: a name for messages, and {"prompt": ...} with any other keys. Raises UserError."""
    try:
        with open(0 if path == "-" else path, encoding="utf-8-sig", closefd=path != "-") as file:
            lines = file.readlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts {path}: cannot be read ({getattr(error, 'strerror', 'not UTF-8')})") from None
    if not lines:
        raise UserError(f"--prompts {path}: is empty")
    for number, line in enumerate(lines, start=1):
        name, is_jsonl = f"--prompts {path}, line {number}", path.lower().endswith(".jsonl")
        if is_jsonl and not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        is_object = isinstance(row, dict) and isinstance(row.get("prompt"), str)
        if is_jsonl and not is_object:
            raise UserError(f'{name}: is not an object such as {{"prompt": "Once"}}')
        row = row if is_object else {"prompt": line.rstrip("\n")}
        if is_output_jsonl and (clash := row.keys() & RESULTS):
            raise UserError(f"{name}: has the key {min(clash)}, which --jsonl writes; rename it")
        yield name, row


def write(rows: Sequence[dict], texts: Sequence[Completion], pieces: Iterator, jsonl: bool, is_first: bool) -> None:
    """Print prompts with their continuations: a single one as it is generated, several when all have ended."""
    columns = [(piece for (piece,) in pieces)] if len(rows) == 1 else zip(*pieces, strict=True)
    for row, text, column in zip(rows, texts, columns, strict=True):
        if jsonl:
            results = zip(RESULTS, ("".join(column), text.tokens, text.ended_by), strict=True)
            print(json.dumps(row | dict(results), ensure_ascii=False), flush=True)
            continue
        beginning = row["prompt"] if is_first else f"---\n{row['prompt']}"
        for piece in itertools.chain([beginning], column, ["\n"]):
            print(piece, end="", flush=True)
        is_first = False


if __name__ == "__main__":
    cli.run_command(main)
