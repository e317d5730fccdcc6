"""`python -m mingpt.chat`: one message, lines from a pipe, and someone at a terminal."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import time

import pytest
import torch
from conftest import ROOT, SOUNDS, command, random_model

from mingpt import chat, gpt2, load_tokenizer
from mingpt.data.dialogue import encode, read_dialogues, with_markers
from mingpt.data.tokenizer import CharTokenizer
from mingpt.errors import UserError


@pytest.fixture(scope="module")
def place(farm):
    """A place with out/farm, which has learned the sounds of animals, and endless, which knows letters and no end."""
    endless(farm / "endless")
    return farm


def endless(folder):
    """A chat that never ends a turn: its markers are never probable."""
    tokenizer = with_markers(CharTokenizer("abcdefghijklmnopqrstuvwxyz"))
    model = random_model(vocab_size=len(tokenizer.pieces), block_size=4096)
    with torch.no_grad():
        model.ln_f.bias[0] = 10
        model.wte.weight[26:, 0] = -10
    more = {"task_specific_params": {"mingpt": {"task": "chat"}}}
    gpt2.write_folder(folder, model.config, model.state_dict(), tokenizer.end_of_text, more)
    tokenizer.save(folder)


def talk(place, monkeypatch, capsys, *options, said: str | bytes = ""):
    """What `python -m mingpt.chat out/farm` prints on both outputs, with some lines piped in."""
    monkeypatch.chdir(place)
    raw = said.encode() if isinstance(said, str) else said
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="ascii"))
    assert chat.main(["out/farm", "--temperature", "0", *options]) == 0
    return capsys.readouterr()


def test_one_message(place, monkeypatch, capsys):
    assert talk(place, monkeypatch, capsys, "--message", "duck", said="cat\n") == ("quack!\n", "")


def test_a_conversation_by_pipe_is_remembered_and_saved(place, monkeypatch, capsys):
    lines = (
        "\ufeffcat\n/save talk.jsonl\n\nand a pig?\n/save talk.jsonl\n/system\tYou are  a farm. \n/system\n"
        "/system You are a farm.\n/reset\nbee\n/save new.jsonl\n/quit\ndog\n"
    )
    notes = ["saved in talk.jsonl"] * 2
    notes += ["the system's turn is now You are  a farm.", "there is no system's turn any more"]
    notes += ["the system's turn is now You are a farm.", "what was said is forgotten", "saved in new.jsonl"]
    expected = "".join(f"note: {note}\n" for note in notes)
    assert talk(place, monkeypatch, capsys, said=lines) == ("meow!\noink!\nbuzz!\n", expected)
    messages = [("user", "cat"), ("assistant", "meow!"), ("user", "and a pig?"), ("assistant", "oink!")]
    assert read_dialogues(place / "talk.jsonl") == [[{"role": role, "content": said} for role, said in messages]]
    messages = [("system", "You are a farm."), ("user", "bee"), ("assistant", "buzz!")]
    assert read_dialogues(place / "new.jsonl") == [[{"role": role, "content": said} for role, said in messages]]


def test_help_and_the_system_turn_by_flag(place, monkeypatch, capsys):
    out, _ = talk(place, monkeypatch, capsys, "--system", "You are a farm.", said="/help\ncow\n/save system.jsonl\n")
    assert out == f"{chat.HELP}\nmoo!\n"
    assert all(name in chat.HELP for name in chat.COMMANDS if name != "/help")
    assert read_dialogues(place / "system.jsonl")[0][0] == {"role": "system", "content": "You are a farm."}


def test_the_oldest_turns_are_forgotten_and_that_is_said_once_for_each(place, monkeypatch, capsys):
    lines = [f"and a {animal}?" for animal in [*SOUNDS, *SOUNDS]]
    out, err = talk(place, monkeypatch, capsys, said="\n".join(lines))
    notes = err.splitlines()
    assert notes[0] == "note: the context of 64 tokens is full; of what was said, the oldest 2 turns are forgotten"
    # of the 64 tokens, 48 are for what was said, and the marker after which the answer begins
    tokenizer, sizes, expected = load_tokenizer(place / "out" / "farm"), [], []
    for line, answer in zip(lines, out.splitlines(), strict=True):
        turn = {"role": "user", "content": line}
        room = 48 - len(encode(tokenizer, [turn])[0]) - 1
        expected.append(next(2 * k for k in range(len(sizes) + 1) if sum(sizes[k:]) <= room))
        sizes.append(len(encode(tokenizer, [turn, {"role": "assistant", "content": answer}])[0]))
    found = [int(note.split("the oldest ")[1].split()[0]) for note in notes]
    assert found == [n for n in dict.fromkeys(expected) if n]


def test_an_answer_that_has_no_room_is_cut_and_that_is_said(place, monkeypatch, capsys):
    _, err = talk(place, monkeypatch, capsys, "--message", "sheep", "--max_new_tokens", "1")
    assert err == "note: the answer was cut off at --max_new_tokens 1\n"
    options = ["--message", "sheep", "--temperature", "1000", "--max_new_tokens", "1000", "--seed"]
    errors = {talk(place, monkeypatch, capsys, *options, str(seed)).err for seed in range(9)}
    assert errors <= {"", "note: the answer was cut off at the end of the context of 64 tokens\n"} and len(errors) == 2


def test_the_same_seed_gives_the_same_answers(place, monkeypatch, capsys):
    options = ["--temperature", "3", "--seed", "5", "--max_new_tokens", "8"]
    first = talk(place, monkeypatch, capsys, *options, said="cat\ncat\n/reset\ncat\n")
    assert first == talk(place, monkeypatch, capsys, *options, said="cat\ncat\n/reset\ncat\n")
    answers = first.out.split("\n")  # other ends of a line may be part of an answer
    assert answers[0] == answers[2] != answers[1]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"cat\n" + b"x" * 60, "standard input, line 2: 62 tokens are too long a message: there is room for 47"),
        (b"/rest\n", "standard input, line 1: /rest: is no command; the nearest is /reset; /help lists them"),
        (b"/save\n", "line 1: /save: needs a FILE"),
        (b"/save a.jsonl\n", "/save: there is nothing yet to save"),
        (b"cat\n/save farm.jsonl\n", "/save farm.jsonl: is there already; name another file"),
        (b"cat\n/save no/where.jsonl\n", "/save no/where.jsonl: cannot be written (No such file or directory)"),
        (b"cat\n/save ~nobody at all/a\n", "line 2: /save ~nobody at all/a: cannot be written ("),
        (b"cat\n/save a\0b\n", "cannot be written (embedded null"),
        (b"cat\n/save " + b"a" * 300, "cannot be written (File name too long)"),
        (b"cat\n/save two.jsonl\n/reset\ndog\n/save two.jsonl\n", "line 5: /save two.jsonl: is there already"),
        (b"/system " + b"x" * 60, "line 1: /system: 62 tokens are too long a system's turn: there is room for 44"),
        (b"cat\n\xff\n", "standard input, line 2: is no UTF-8 text"),
    ],
)
def test_a_line_that_cannot_be_obeyed_ends_a_pipe(place, monkeypatch, capsys, lines, said):
    with pytest.raises(UserError) as caught:
        talk(place, monkeypatch, capsys, said=lines)
    assert said in str(caught.value) and len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere"], "nowhere: is neither a folder nor a known model"),
        (["text"], "text: was not trained with --task chat; python -m mingpt.generate continues a text with it"),
        (["odd"], "odd: was not trained with --task chat; another program made it"),
        (["sorter"], "sorter: was not trained with --task chat; python -m mingpt.predict labels texts with it"),
        (["unmarked"], "unmarked: its tokenizer lacks the markers of turns"),
        (["endless", "--message", "aé"], "--message: the character 'é'"),
        (["out/farm", "--message", " "], "--message: is empty"),
        (["endless", "--system", "aé"], "--system: the character 'é'"),
        (["out/farm", "--system", "x" * 60, "--message", "cat"], "--system: 62 tokens are too long a system's turn"),
        (["out/farm", "--max_new_tokens", "0"], "--max_new_tokens 0: a whole number in [1, inf) is accepted"),
        (["out/farm", "--mesage", "a"], "--mesage: unknown flag; the nearest is --message"),
    ],
)
def test_what_cannot_be_done_is_one_line(place, options, said, monkeypatch):
    model = random_model()
    for name, task in {"text": None, "sorter": "classify", "odd": ["chat"], "unmarked": "chat"}.items():
        more = {"task_specific_params": {"mingpt": {"task": task}}} if task else {}
        gpt2.write_folder(place / name, model.config, model.state_dict(), more=more)
        CharTokenizer("abc").save(place / name)
    monkeypatch.chdir(place)
    with pytest.raises(UserError) as caught:
        chat.main(options)
    assert said in str(caught.value) and len(caught.value.problems) == 1


# ---- At a terminal ----


class Terminal:
    """`python -m mingpt.chat`, as someone at a terminal has it."""

    def __init__(self, place, *arguments):
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command(*arguments, module="mingpt.chat"),
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run where it is ignored
        )
        os.close(theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def until(self, text: str) -> str:
        """What is shown up to a text, which must come."""
        while text not in self.seen:
            self.read()
        found, _, self.seen = self.seen.partition(text)
        return found

    def read(self) -> None:
        """More of what is shown."""
        assert select.select([self.ours], [], [], 60)[0], f"nothing comes after {self.seen!r}"
        self.seen += os.read(self.ours, 4096).decode(errors="replace").replace("\r", "")


def test_at_a_terminal_ctrl_c_stops_an_answer_and_then_ends(place):
    terminal = Terminal(place, "endless", "--max_new_tokens", "100000", "--seed", "1")
    assert "endless remembers up to 3,072 tokens" in terminal.until("> ")
    terminal.type("hello\n")
    terminal.until("hello\n")
    while len(terminal.seen) < 20:
        terminal.read()
    terminal.process.send_signal(signal.SIGINT)
    answer = terminal.until("note: stopped\n")
    assert "cut off" not in answer
    terminal.until("> ")
    terminal.type("A\n")
    terminal.until("error: the character 'A'")
    terminal.until("> ")
    terminal.type("/save stopped.jsonl\n")
    terminal.until("note: saved in stopped.jsonl\n")
    terminal.until("> ")
    assert read_dialogues(place / "stopped.jsonl")[0][1]["content"].startswith(answer.strip()[:20])
    time.sleep(0.5)  # at this very moment, the system's line editor would not notice
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(timeout=60) == 0


def test_at_a_terminal_ctrl_c_before_an_answer_forgets_the_question_and_ends_one_message(place, monkeypatch, capsys):
    class Typed(io.TextIOWrapper):
        def isatty(self):
            return True

    def interrupted(*_, **__):
        def parts():
            yield " "
            raise KeyboardInterrupt

        return None, parts()

    monkeypatch.setattr("mingpt.streaming.answer", interrupted)
    monkeypatch.setattr("sys.stdin", Typed(io.BytesIO(b"cat\n/save none.jsonl\n")))
    monkeypatch.chdir(place)
    assert chat.main(["out/farm"]) == 0
    stopped = "note: stopped before there was an answer, and the question is forgotten\n"
    assert capsys.readouterr().err == f"{stopped}error: /save: there is nothing yet to save\n"
    with pytest.raises(KeyboardInterrupt):
        chat.main(["out/farm", "--message", "cat"])


def test_at_a_terminal_the_end_of_input_ends(place):
    terminal = Terminal(place, "out/farm", "--temperature", "0")
    terminal.until("> ")
    terminal.type("cow\n")
    terminal.until("moo!\n")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.process.wait(timeout=60) == 0
