"""Chat with a model that was trained on dialogues: `python -m mingpt.chat out/NAME`."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mingpt import cli
from mingpt.data.dialogue import Message, encode_prompt, is_chat_tokenizer
from mingpt.data.tokenizer import Tokenizer
from mingpt.errors import UserError
from mingpt.generation.settings import TEXT, GenerationSettings, load_model
from mingpt.settings import nearest, setting

DESCRIPTION = "Chat with a model of --task chat. Piped standard input is answered line by line."
COMMANDS = {
    "/reset": "start a new conversation with the same system message",
    "/system": "TEXT: set the system message; without TEXT: remove it",
    "/save": "FILE: append the conversation to a JSONL file, which --task chat can learn from",
    "/quit": "end, as Ctrl-D does; Ctrl-C stops an answer",
}


class ChatSettings(GenerationSettings):
    """How a model answers."""

    message: str | None = setting(None, group=TEXT, min_length=1, help="answer this message and end")
    system: str = setting("", group=TEXT, help="system message")


def main(argv: list[str]) -> int:
    settings = cli.parse(ChatSettings, argv, "python -m mingpt.chat", DESCRIPTION)
    is_interactive = settings.message is None and sys.stdin.isatty()
    chat = Chat(settings, *load_model(settings), is_interactive)
    lines = [("--message: ", f" {settings.message}")] if settings.message else read_lines(is_interactive)
    code = 0
    for name, line in itertools.chain([("--system: ", f"/system {settings.system}")], lines):
        try:
            chat.handle(line)
        except UserError as error:
            print(f"error: {name}{error}", file=sys.stderr)
            if name == "--system: ":
                return 2
            code = 0 if is_interactive else 2  # the other lines are answered all the same
    return code


def read_lines(is_interactive: bool) -> Iterator[tuple[str, str]]:
    """Lines typed at a terminal, or those of standard input with a name for errors, up to /quit."""
    sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")  # no tokenizer encodes a surrogate
    if is_interactive:
        with contextlib.suppress(ImportError):  # on Windows
            import readline  # noqa: F401, lets `input` edit a line
        print("/help lists the commands, Ctrl-D ends")
    with contextlib.suppress(EOFError):
        for number, line in enumerate(iter(lambda: input("> " if is_interactive else "").rstrip(), "/quit"), start=1):
            yield "" if is_interactive else f"standard input, line {number}: ", line


class Chat:
    """A conversation, and the model that answers in it. Raises UserError where that is not a model of --task chat."""

    def __init__(self, settings: ChatSettings, model: Any, tokenizer: Tokenizer, is_interactive: bool):
        if not is_chat_tokenizer(tokenizer):
            raise UserError(f"{settings.folder}: is not a chat model; use python -m mingpt.generate {settings.folder}")
        self.settings, self.model, self.tokenizer, self.is_interactive = settings, model, tokenizer, is_interactive
        self.max_prompt = model.config.block_size * 3 // 4  # the rest of the context is for the answer
        self.messages: list[Message] = []  # apart from the system message

    def handle(self, line: str) -> None:
        """Answer a message, or run a command. Raises UserError where it cannot."""
        name, text = [*line.split(maxsplit=1), "", ""][:2]
        if name and not line.startswith("/"):
            self.reply(line.strip())
        elif name == "/help":
            print(*(f"{command:9}{help}" for command, help in COMMANDS.items()), sep="\n")
        elif name == "/reset":
            self.messages = []
        elif name == "/system":
            system = [{"role": "system", "content": text}] if text else []
            encode_prompt(self.tokenizer, [*system, {"role": "user", "content": ""}], self.max_prompt)  # it must fit
            self.system = system
        elif name == "/save":
            self.save(text)
        elif name:
            raise UserError(f"{name}: unknown command{nearest(name, COMMANDS)}; a space before it makes it a message")

    def reply(self, text: str) -> None:
        """Print the answer to a message as it is generated, and remember both, unless it is empty."""
        from mingpt.generation.streaming import Completion, complete

        messages = [*self.messages, {"role": "user", "content": text}]
        ids, left_out = encode_prompt(self.tokenizer, self.system + messages, self.max_prompt)
        if left_out:
            print(f"note: the context length is reached; the oldest {left_out} turns are left out", file=sys.stderr)
        limit = min(self.settings.max_new_tokens, self.model.config.block_size - len(ids))
        answer = Completion(self.tokenizer, end_ids=self.tokenizer.special_ids.values(), strips_spaces=True)
        content = ""
        with contextlib.suppress(KeyboardInterrupt) if self.is_interactive else contextlib.nullcontext():
            stream = len(self.messages)  # of random numbers, another for each answer
            for piece in complete(self.model, ids, answer, limit, first=stream, **self.settings.sampling()):
                content += piece
                print(piece, end="", flush=True)
        print(flush=True)
        if content.strip():
            self.messages = [*messages, {"role": "assistant", "content": content}]
        if answer.ended_by == "length":
            print(f"note: the answer is cut off at {limit:,} tokens", file=sys.stderr)

    def save(self, name: str) -> None:
        """Append the conversation to a file, as a row of JSONL."""
        if not name or not self.messages:
            raise UserError("/save: the conversation is empty" if name else "/save: needs a FILE")
        row = json.dumps({"messages": self.system + self.messages}, ensure_ascii=False)
        try:
            with open(Path(name).expanduser(), "a", encoding="utf-8") as file:
                print(row, file=file)
        except (OSError, ValueError, RuntimeError) as error:  # a null byte in the name; ~ of an unknown user
            raise UserError(f"/save {name}: cannot be written ({getattr(error, 'strerror', error)})") from None
        print(f"note: saved in {name}", file=sys.stderr)


if __name__ == "__main__":
    cli.run_command(main)
