"""`python -m mingpt.chat`: a message, lines of standard input, and a user at a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess

import pytest
import torch
from conftest import ROOT, command, random_model

from mingpt import GPT, chat, load_tokenizer
from mingpt.data.dialogue import Dialogue, add_markers, encode_dialogue, encode_prompt, read_dialogues
from mingpt.data.tokenizer import TOKENIZERS
from mingpt.errors import UserError
from mingpt.generation.streaming import Completion, complete

OPTIONS = dict(temperature=0.9, seed=3)
FLAGS = ["--max_new_tokens", "6", "--temperature", "0.9", "--seed", "3"]


@pytest.fixture(scope="module")
def models(tmp_path_factory, cache):
    """A folder with models of random weights: small and large, which never end a turn, and two of other tasks."""
    folder = tmp_path_factory.mktemp("chat")
    plain = TOKENIZERS["char"](["abcdefghijklmnopqrstuvwxyz /?"], [], None)
    marked = add_markers(plain)
    for name, tokenizer, settings in (
        ("small", marked, dict(block_size=64)),
        ("large", marked, dict(block_size=4096)),
        ("text", plain, {}),
        ("classifier", plain, dict(num_labels=3)),
    ):
        model = random_model(**{"vocab_size": tokenizer.vocab_size, **settings})
        with torch.no_grad():
            model.ln_f.bias[0] = 10
            model.wte.weight[len(plain.vocab) :, 0] = -10
        model.save_pretrained(folder / name)
        tokenizer.save(folder / name)
    return folder


@pytest.fixture
def run(models, monkeypatch, capsys):
    """Runs the command in that folder, stdin piped to it; returns its exit code, answers and lines on stderr."""
    monkeypatch.chdir(models)

    def call(*arguments, stdin=b""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="ascii"))
        code = chat.main([*FLAGS, *arguments])
        out, err = capsys.readouterr()
        return code, out.splitlines(), [line for line in err.splitlines() if "cut off" not in line]

    return call


def expected_dialogue(folder, *messages, system=""):
    """The dialogue as the library's own functions conduct it."""
    model, tokenizer = GPT.from_pretrained(folder), load_tokenizer(folder)
    first = [{"role": "system", "content": system}] if system else []
    dialogue = []
    for message in messages:
        dialogue += [{"role": "user", "content": message}]
        ids, _ = encode_prompt(tokenizer, first + dialogue, 48)  # three quarters of the context
        answer = Completion(tokenizer, end_ids=tokenizer.special_ids.values())
        text = "".join(complete(model, ids, answer, 6, first=len(dialogue) - 1, **OPTIONS))
        content = text.lstrip(" ")
        dialogue += [{"role": "assistant", "content": content}]
    return first + dialogue


def answers_in(dialogue):
    return [message["content"] for message in dialogue if message["role"] == "assistant"]


def test_a_message_and_a_system_message(models, run):
    expected = answers_in(expected_dialogue(models / "small", "/cat", system="a farm"))
    assert run("small", "--message", "/cat", "--system", "a farm", stdin=b"dog\n") == (0, expected, [])


def test_a_piped_conversation_is_remembered_and_saved(models, run):
    lines = "\ufeffcat\r\n/save a.jsonl\n\n /dog\n/save a.jsonl\n/system\ta farm\n/reset\n"
    lines += "/save a.jsonl\nbee\n/save b.jsonl\n/save a.jsonl\n/quit\nz"
    code, out, err = run("small", stdin=lines.encode())
    first = expected_dialogue(models / "small", "cat", "/dog")
    second = expected_dialogue(models / "small", "bee", system="a farm")
    assert (code, out) == (2, answers_in(first + second))
    saved = [f"note: saved in {name}.jsonl" for name in "aaba"]
    assert err == [*saved[:2], "error: standard input, line 8: /save: the conversation is empty", *saved[2:]]
    assert read_dialogues(models / "a.jsonl") == [Dialogue(first[:2]), Dialogue(first), Dialogue(second)]
    assert read_dialogues(models / "b.jsonl") == [Dialogue(second)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/rest", "/rest: unknown command; did you mean /reset?"),
        ("/etc/hosts is missing", "/etc/hosts: unknown command"),
        ("x" * 60, "a message of 63 tokens: at most 47 fit"),
        ("/system " + "x" * 60, "at most 0 fit beside the system message"),
        ("caté", "'é'"),
        ("\udcff", "is a lone surrogate"),  # a byte that is not UTF-8
        ("/save", "/save: needs a FILE"),
        ("/save text", "/save text: cannot be written (Is a directory)"),
        ("/save a\0b", "cannot be written (embedded null"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_the_others_are_answered(models, run, line, problem):
    lines = f"cat\n{line}\ndog\n".encode(errors="surrogateescape")
    code, out, err = run("small", stdin=lines)
    assert (code, out) == (2, answers_in(expected_dialogue(models / "small", "cat", "dog")))
    assert len(err) == 1 and err[0].startswith("error: standard input, line 2: ") and problem in err[0]


def test_the_oldest_turns_are_left_out_and_that_is_said(models, run):
    messages = ["abcdef"] * 5
    code, out, err = run("small", stdin="\n".join(messages).encode())
    dialogue = expected_dialogue(models / "small", *messages)
    assert (code, out) == (0, answers_in(dialogue))
    exchange = len(encode_dialogue(load_tokenizer(models / "small"), dialogue[:2])[0])
    counts = [2 * max(0, n - (47 - 9) // exchange) for n in range(5)]  # of 47 tokens, the message takes nine
    assert [int(re.search("oldest (.*) turns", line)[1]) for line in err] == [n for n in counts if n]


def test_an_answer_that_is_cut_off_is_said(models, run, capsys):
    for limit, most in (("4", 4), ("1000", 64 - 7)):
        chat.main(["small", "--message", "cat", "--max_new_tokens", limit])
        assert f"note: the answer is cut off at {most} tokens\n" == capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["text"], "text: is not a chat model; use python -m mingpt.generate text"),
        (["classifier"], "use python -m mingpt.predict classifier"),
        (["small", "--message", ""], "--message '': "),
        (["small", "--mesage", "a"], "--mesage: unknown flag; did you mean --message?"),
    ],
)
def test_a_folder_or_flag_that_cannot_be_used_is_one_line(run, arguments, problem):
    with pytest.raises(UserError) as caught:
        run(*arguments)
    assert problem in str(caught.value)
    code, out, err = run("small", "--system", "aé", stdin=b"cat\n")
    assert (code, out) == (2, []) and err[0].startswith("error: --system: ")


def test_at_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_ends(models):
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        command("large", "--max_new_tokens", "100000", module="mingpt.chat"),
        cwd=models,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"},
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run where it is ignored
    )
    os.close(other_end)

    def read_until(pattern: str) -> None:
        text = ""
        while not re.search(pattern, text):
            assert select.select([terminal], [], [], 120)[0], f"nothing follows {text!r}"
            text += os.read(terminal, 4096).decode(errors="replace")

    read_until("> ")
    os.write(terminal, b"hello\n")
    read_until("hello\r\n.{9}")
    process.send_signal(signal.SIGINT)
    read_until("> ")
    os.write(terminal, b"/save stopped.jsonl\n")
    read_until("note: saved in stopped.jsonl(.|\n)*> ")
    os.write(terminal, b"\x04")
    assert process.wait(timeout=120) == 0
    [saved] = read_dialogues(models / "stopped.jsonl")
    question, reply = saved.messages
    assert question["content"] == "hello" and 9 <= len(reply["content"]) < 4000
