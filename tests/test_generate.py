"""`python -m mingpt.generate`: one prompt, many of them, and what it says beside the text."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest
from conftest import ROOT, command, random_model, run_command

from mingpt import GPT, generate, load_tokenizer, pretrained
from mingpt.data.tokenizer import TOKENIZERS
from mingpt.errors import UserError
from mingpt.generation.linear import has_int8
from mingpt.generation.streaming import Completion, complete, encode_prompt

LETTERS = "abcdefghijklmnopqrstuvwxyz .,!?'-\n0123"[:37]  # as many as random_model has tokens
NOTE = "note: a text exceeds the context length of 16; the last 12 are used\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory, cache):
    """A folder with m, a model of random weights and a context of sixteen characters, and classifier."""
    folder = tmp_path_factory.mktemp("generate")
    tokenizer = TOKENIZERS["char"]([LETTERS], [], None)
    for name, num_labels in (("m", 0), ("classifier", 3)):
        random_model(num_labels=num_labels).save_pretrained(folder / name)
        tokenizer.save(folder / name)
    return folder


@pytest.fixture
def run(models, monkeypatch, capsys):
    """Runs the command in that folder; returns its standard output and error."""
    monkeypatch.chdir(models)

    def call(*arguments):
        assert generate.main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr()

    return call


def expected_text(models, prompt, tokens, **options):
    model, tokenizer = GPT.from_pretrained(models / "m"), load_tokenizer(models / "m")
    completion = Completion(tokenizer, options.pop("stop", ()))
    return "".join(complete(model, encode_prompt(tokenizer, prompt), completion, tokens, **options))


def test_every_sampling_option_is_used(models, run):
    texts = set()
    other = dict(seed=2, temperature=1, top_k=3, top_p=0.5, min_p=0.3, repetition_penalty=1.5)
    for options in [dict(seed=1, temperature=3) | {name: value} for name, value in other.items()]:
        flags = [f"--{name}={value}" for name, value in options.items()]
        texts.add(expected := expected_text(models, "abc", 12, **options))
        assert run("m", "--prompt", "abc", "--max_new_tokens", 12, *flags) == (f"abc{expected}\n", "")
    assert len(texts) == len(other)
    assert run("m", "--prompt", "abc", "--dtype", "bfloat16").out.startswith("abc")


def test_int8_generates_on_a_cpu_that_has_it_and_is_refused_elsewhere(run, monkeypatch):
    if has_int8():
        texts = [run("m", "--prompt", "abc", "--dtype", "int8", "--temperature", 0).out for _ in range(2)]
        assert texts[0] == texts[1] and texts[0].startswith("abc")
    monkeypatch.setattr("mingpt.generation.linear.has_int8", lambda: False)
    with pytest.raises(UserError, match="--dtype int8: needs an x86 CPU"):
        run("m", "--dtype", "int8")


def test_prompts_of_a_file_are_continued_in_order(models, run):
    prompts = ["abc", "", "a longer one, of several words", "x"] * 5  # more than a batch
    lines = [*prompts[:2], json.dumps({"prompt": prompts[2], "id": 7}), *prompts[3:]]
    (models / "prompts.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    options = ["m", "--prompts", "prompts.txt", "--max_new_tokens", 6, "--seed", 5]
    out, err = run(*options, "--jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        text = expected_text(models, prompt, 6, seed=5, first=i, temperature=0.8)
        other_keys = {"id": 7} if i == 2 else {}
        assert row == {"prompt": prompt, **other_keys, "text": text, "tokens": 6, "ended_by": "length"}
    exceeds = "30 tokens exceed the context length of 16; the last 12 are used"
    assert err.splitlines()[0] == f"note: --prompts prompts.txt, line 3: {exceeds}"
    assert len(err.splitlines()) == 5 + 1  # a prompt of 12 tokens and six more exceed the context, too
    assert run(*options).out == "---\n".join(f"{row['prompt']}{row['text']}\n" for row in rows)


def test_each_sample_has_its_own_random_stream(models, run):
    out, _ = run("m", "--prompt", "abc", "--max_new_tokens", 12, "--seed", 1, "--num_samples", 20, "--jsonl")
    texts = [json.loads(line)["text"] for line in out.splitlines()]
    assert len(texts) == len(set(texts)) == 20
    (models / "same.jsonl").write_text('{"prompt": "abc"}\n\n' * 20, encoding="utf-8")
    out, _ = run("m", "--prompts", "same.jsonl", "--max_new_tokens", 12, "--seed", 1, "--jsonl")
    assert [json.loads(line)["text"] for line in out.splitlines()] == texts


def test_stop_strings_and_a_full_context(models, run):
    text = expected_text(models, "abc", 60, temperature=0)
    options = ["m", "--prompt", "abc", "--max_new_tokens", 60, "--temperature", 0, "--stop", "@@"]
    assert run(*options) == (f"abc{text}\n", NOTE)
    result = json.loads(run(*options, "--stop", text[9:12], "--jsonl").out)
    assert (result["text"], result["ended_by"]) == (text[: text.index(text[9:12])], "stop")


def test_prompts_of_standard_input(models):
    options = ["m", "--prompts", "-", "--max_new_tokens", "8", "--temperature", "0"]
    result = run_command(*options, cwd=models, module="mingpt.generate", input="abc\nxyz")
    texts = [prompt + expected_text(models, prompt, 8, temperature=0) for prompt in ("abc", "xyz")]
    assert (result.stdout, result.stderr) == ("\n---\n".join(texts) + "\n", "")


@pytest.mark.parametrize("is_ctrl_c", [True, False])
def test_ctrl_c_or_a_reader_that_ends_stops_it_without_a_traceback(models, is_ctrl_c):
    process = subprocess.Popen(
        command("m", "--prompt", "a", "--max_new_tokens", 1000000, module="mingpt.generate"),
        cwd=models,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run where it is ignored
    )
    assert process.stdout.read(5)
    if is_ctrl_c:
        process.send_signal(signal.SIGINT)
    process.stdout.close()
    assert process.stderr.read().strip() == ("stopped" if is_ctrl_c else "")
    assert process.wait(timeout=120) == (130 if is_ctrl_c else 0)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["classifier"], "classifier: is a classification or regression model; use python -m mingpt.predict classif"),
        (["other"], "other: its tokenizer has 40 tokens, the model 37"),
        (["m", "--stop", ""], "--stop '': is empty"),
        (["m", "--prompt", "Ä"], "--prompt Ä: "),
        (["m", "--prompts", "none.txt"], "--prompts none.txt: cannot be read (No such file or directory)"),
        (["m", "--prompts", "latin.txt"], "--prompts latin.txt: cannot be read (not UTF-8)"),
        (["m", "--prompts", "bad.jsonl"], "--prompts bad.jsonl, line 3: is not an object such as"),
        (["m", "--prompts", "clash.jsonl", "--jsonl"], "--prompts clash.jsonl, line 1: has the key text"),
        (["m", "--prompts", "empty.txt"], "--prompts empty.txt: is empty"),
        (["m", "--prompts", "a.txt", "--prompt", "b"], "--prompts a.txt: cannot be combined with --prompt"),
    ],
)
def test_what_cannot_be_used_is_one_line(models, monkeypatch, arguments, problem):
    monkeypatch.chdir(models)
    pretrained.write_folder(models / "other", random_model().config, random_model().state_dict())
    TOKENIZERS["char"]([LETTERS + "äöü"], [], None).save(models / "other")
    contents = {"bad.jsonl": b'{"prompt": "a"}\n\n[1]\n', "clash.jsonl": b'{"prompt": "a", "text": "b"}\n'}
    for name, content in {**contents, "empty.txt": b"", "latin.txt": b"\xff"}.items():
        (models / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        generate.main(arguments)
    assert problem in str(caught.value) and len(caught.value.problems) == 1
