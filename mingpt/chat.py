"""Talk to a model that was trained on conversations: `python -m mingpt.chat out/NAME`."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mingpt import cli, files
from mingpt.errors import UserError
from mingpt.settings import nearest, setting
from mingpt.writing import Writing, opened

if TYPE_CHECKING:  # torch takes a second to import
    from mingpt.data.dialogue import Message
    from mingpt.data.tokenizer import Tokenizer
    from mingpt.model import GPT

DESCRIPTION = "Talk to a model that was trained with --task chat. What is piped in is answered line by line."
ASK = "> "
SHORTEST = 4  # tokens that a question takes at least: one between its two markers, and the marker of the answer
HELP = """\
/reset        begin anew; the system's turn stays
/system TEXT  what the model is told before all else; without TEXT: nothing
/save FILE    write the conversation as a row of .jsonl, which --task chat can learn from
/quit         end, as Ctrl-D does; Ctrl-C stops an answer"""
COMMANDS = ("/help", "/reset", "/system", "/save", "/quit")
OTHERS = {  # what to do with the folder of another task
    "text": "python -m mingpt.generate continues a text with it",
    "classify": "python -m mingpt.predict labels texts with it",
    "regress": "python -m mingpt.predict rates texts with it",
}


@dataclass(kw_only=True)
class ChatConfig(Writing):
    """How a model is talked to."""

    folder: str = setting(help="a folder that was trained with --task chat, such as out/support")
    max_new_tokens: int = setting(200, group="text", within="[1, inf)", help="tokens of an answer, at most")
    temperature: float = setting(
        0.7, group="choice", within="[0, inf)", help="0: always the most probable token; 1: as the model scores them"
    )
    message: str | None = setting(None, group="text", help="answer this and end; left out: a conversation")
    system: str = setting("", group="text", help="what the model is told before all else")


def main(argv: list[str]) -> int:
    config, _ = cli.parse(ChatConfig, argv, "python -m mingpt.chat", DESCRIPTION)
    check_is_chat(config.folder)
    chat = Chat(config, *opened(config))
    if config.message is not None:
        if not config.message.strip():
            raise UserError("--message: is empty")
        try:
            chat.reply(config.message)
        except UserError as error:
            raise UserError(f"--message: {error}") from None
    elif sys.stdin.isatty():
        converse(chat)
    else:
        answer_lines(chat)
    return 0


def check_is_chat(folder: str) -> None:
    """Raise UserError where a folder was trained for another task. Whether it is a model at all is not seen here."""
    try:
        settings = files.read_json_object(Path(folder) / "config.json")
    except (OSError, ValueError):
        return
    task = "text"
    with contextlib.suppress(KeyError, TypeError):
        task = settings["task_specific_params"]["mingpt"]["task"]
    if task != "chat":
        other = OTHERS.get(str(task), "another program made it")
        raise UserError(f"{folder}: was not trained with --task chat; {other}")


def converse(chat: Chat) -> None:
    """Talk to whoever sits at the terminal."""
    sys.stdin.reconfigure(errors="replace")
    with contextlib.suppress(ImportError):  # not every system has it
        import readline  # noqa: F401, with it `input` lets a line be edited
    print(f"{chat.config.folder} remembers up to {chat.room:,} tokens; /help lists what else there is, Ctrl-D ends")
    while True:
        try:
            if not chat.take(input(ASK)):
                return
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        except (EOFError, KeyboardInterrupt):
            print()
            return


def answer_lines(chat: Chat) -> None:
    """Answer standard input line by line."""
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            if not chat.take(line.decode("utf-8-sig")):
                return
        except UnicodeDecodeError:
            raise UserError(f"standard input, line {number}: is no UTF-8 text") from None
        except UserError as error:
            raise UserError(f"standard input, line {number}: {error}") from None


class Chat:
    """A conversation, and the model that answers in it."""

    def __init__(self, config: ChatConfig, model: GPT, tokenizer: Tokenizer):
        """Raises UserError where the tokenizer lacks the markers of turns, or --system cannot be read."""
        from mingpt.data.dialogue import END, MARKERS
        from mingpt.sampling import kept

        if not {*MARKERS.values(), END} <= {*tokenizer.vocabulary.special}:
            reason = "it was not trained with --task chat, or its tokenizer is another run's"
            raise UserError(f"{config.folder}: its tokenizer lacks the markers of turns; {reason}")
        self.config, self.model, self.tokenizer = config, model, tokenizer
        self.room = kept(model.config.block_size)  # for what was said; the rest of the context is for the answer
        self.begin()
        self.instruct("--system", config.system)

    def begin(self) -> None:
        """Forget all that was said, and where it was saved."""
        self.said: list[Message] = []
        self.saved: set[Path] = set()
        self.forgotten = 0

    def instruct(self, name: str, text: str) -> None:
        """Make a text the system's turn, or none where it is empty. Raises UserError, which calls it `name`."""
        from mingpt.data.dialogue import encode

        system = text.strip()
        try:
            ids, _ = encode(self.tokenizer, [{"role": "system", "content": system}])
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        if system and len(ids) + SHORTEST > self.room:
            room = max(0, self.room - SHORTEST)
            raise UserError(f"{name}: {len(ids):,} tokens are too long a system's turn: there is room for {room:,}")
        self.system = system

    @property
    def messages(self) -> list[Message]:
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.said]

    def take(self, line: str) -> bool:
        """Do what a line says; False where it ends the conversation. Raises UserError where it cannot be done."""
        line = line.strip()
        name, rest = [*line.split(maxsplit=1), "", ""][:2]
        if name == "/quit":
            return False
        if name == "/help":
            print(HELP)
        elif name == "/reset":
            self.begin()
            tell("what was said is forgotten")
        elif name == "/system":
            self.instruct(name, rest)
            tell(f"the system's turn is now {self.system}" if self.system else "there is no system's turn any more")
        elif name == "/save":
            self.save(rest)
        elif name.startswith("/"):
            raise UserError(f"{name}: is no command{nearest(name, COMMANDS)}; /help lists them")
        elif line:
            self.reply(line)
        return True

    def reply(self, text: str) -> None:
        """Print the answer to a message as it comes, and remember both. Raises UserError where it cannot be read."""
        from mingpt.data.dialogue import prompt
        from mingpt.streaming import answer

        config, S = self.config, self.model.config.block_size
        asked = [*self.messages, {"role": "user", "content": text}]
        ids, forgotten = prompt(self.tokenizer, asked, self.room)
        if forgotten > self.forgotten:
            tell(f"the context of {S:,} tokens is full; of what was said, the oldest {forgotten} turns are forgotten")
        self.forgotten = forgotten
        seed = None if config.seed is None else config.seed + len(self.said)  # each answer with a chance of its own
        longest = min(config.max_new_tokens, S - len(ids))
        written, parts = answer(self.model, self.tokenizer, ids, longest, seed=seed, **config.choice())
        content, is_stopped = "", False
        try:
            for part in parts:
                content += part
                print(part, end="", flush=True)
        except KeyboardInterrupt:
            if config.message is not None or not sys.stdin.isatty():  # there is no conversation to go on with
                raise
            is_stopped = True
        print()
        if content.strip():
            self.said += [asked[-1], {"role": "assistant", "content": content}]
        if is_stopped:
            tell("stopped" if content.strip() else "stopped before there was an answer, and the question is forgotten")
        elif not content.strip():
            tell("there was no answer, and the question is forgotten")
        elif written.ended_by == "length":
            is_full = longest < config.max_new_tokens
            end = f"the end of the context of {S:,} tokens" if is_full else f"--max_new_tokens {longest}"
            tell(f"the answer was cut off at {end}")

    def save(self, name: str) -> None:
        """Write the conversation to a file, which may be there only where this conversation was saved before."""
        if not name:
            raise UserError("/save: needs a FILE")
        if not self.said:
            raise UserError("/save: there is nothing yet to save")
        row = json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n"
        try:
            path = Path(name).expanduser()
            is_free = not path.exists() or path.resolve() in self.saved
            if is_free:
                with files.written_whole(path) as beside:
                    beside.write_text(row, encoding="utf-8")
                self.saved.add(path.resolve())
        except (OSError, ValueError, RuntimeError) as error:  # a zero byte in the name; the ~ of nobody
            raise UserError(f"/save {name}: cannot be written ({getattr(error, 'strerror', error)})") from None
        if not is_free:
            raise UserError(f"/save {name}: is there already; name another file")
        tell(f"saved in {path}")


def tell(note: str) -> None:
    print(f"note: {note}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run_command(main)
