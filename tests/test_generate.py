"""`python -m mingpt.generate` as a user runs it: one prompt, many, and what it says beside the text."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest
from conftest import ROOT, command, generate, random_model, run_command
from transformers import LlamaConfig

from mingpt import GPT, load_tokenizer
from mingpt.data.tokenizer import CharTokenizer
from mingpt.streaming import continuation

LETTERS = "abcdefghijklmnopqrstuvwxyz .,!?'-\n0123"  # as many as the model has tokens


@pytest.fixture(scope="module")
def place(tmp_path_factory, cache):
    """A folder with a model of random weights and a context of sixteen letters, m."""
    place = tmp_path_factory.mktemp("generate")
    random_model().save_pretrained(place / "m")
    CharTokenizer(LETTERS[:37]).save(place / "m")
    return place


def written(place, prompt, tokens, **choice):
    model, tokenizer = GPT.from_pretrained(place / "m"), load_tokenizer(place / "m")
    return "".join(continuation(model, tokenizer, prompt, tokens, **choice))


def test_a_prompt_is_continued_on_standard_output_alone(place):
    result = generate(place, "m", "--prompt", "abc", "--max_new_tokens", "10", "--seed", "3")
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout == "abc" + written(place, "abc", 10, seed=3, temperature=0.8) + "\n"


def test_prompts_of_a_file_are_continued_in_order(place):
    prompts = ["abc", "", "a longer one, of several words", "x"] * 3
    lines = [prompts[0], prompts[1], json.dumps({"prompt": prompts[2], "id": 7}), *prompts[3:]]
    (place / "prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    options = ["--prompts", "prompts.txt", "--max_new_tokens", "6", "--temperature", "0", "--jsonl"]
    result = generate(place, "m", *options)
    assert result.returncode == 0, result.stderr
    entries = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["prompt"] for entry in entries] == prompts
    for entry in entries:
        assert entry["text"] == written(place, entry["prompt"], 6, temperature=0)
        assert (entry["tokens"], entry["ended_by"]) == (6, "length")
    assert "the prompt in line 3 has 30 tokens and the model sees 16; its last 12 are read" in result.stderr
    plain = generate(place, "m", *options[:-1])
    assert plain.stdout.split("\n---\n")[0] == "abc" + entries[0]["text"]
    assert plain.stdout.count("\n---\n") == len(prompts) - 1


def test_standard_input_and_samples(place):
    options = ["--prompts", "-", "--max_new_tokens", "8", "--seed", "1", "--num_samples", "3", "--jsonl"]
    result = run_command("m", *options, cwd=place, module="mingpt.generate", input="abc\nxyz")
    entries = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["prompt"] for entry in entries] == ["abc"] * 3 + ["xyz"] * 3
    assert len({entry["text"] for entry in entries[:3]}) == 3
    assert entries[0]["text"] == written(place, "abc", 8, seed=1, temperature=0.8)


def test_stop_strings_speed_and_a_full_context(place):
    whole = written(place, "abc", 60, temperature=0)
    stop = whole[9:12]
    options = ["--prompt", "abc", "--max_new_tokens", "60", "--temperature", "0", "--stop", "@@", "--speed"]
    stopped = generate(place, "m", *options, "--stop", stop)
    assert stopped.stdout == "abc" + whole[: whole.index(stop)] + "\n"
    result = generate(place, "m", *options)
    assert result.stdout == "abc" + whole + "\n"
    note, speed = result.stderr.splitlines()
    assert note == "note: a context of 16 tokens was full; the text went on from its newest 12"
    assert speed.startswith("60 tokens; the first after") and speed.endswith("per second")


def test_bfloat16_and_the_other_choices(place):
    options = [
        "--prompt",
        "abc",
        "--max_new_tokens",
        "12",
        "--seed",
        "1",
        "--min_p",
        "0.05",
        "--repetition_penalty",
        "1.2",
    ]
    assert generate(place, "m", *options, "--dtype", "bfloat16").returncode == 0
    result = generate(place, "m", *options)
    assert (
        result.stdout
        == "abc" + written(place, "abc", 12, seed=1, temperature=0.8, min_p=0.05, repetition_penalty=1.2) + "\n"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere"], "nowhere: is neither a folder nor a known model"),
        (["llama"], "model_type llama is another model's"),
        (["torn"], "torn/model.safetensors: is torn"),
        (["m", "--stop", ""], "--stop '': a text of at least one character is accepted"),
        (["m", "--temperature", "-1"], "--temperature -1.0: a number in [0, inf) is accepted"),
        (["m", "--top_p", "0"], "--top_p 0.0: a number in (0, 1] is accepted"),
        (["m", "--prompt", "Ä"], "--prompt Ä: the character 'Ä'"),
        (["m", "--prompts", "none.txt"], "--prompts none.txt: cannot be read"),
        (["m", "--prompts", "bad.jsonl"], "--prompts bad.jsonl, line 2: is no object"),
        (["m", "--prompts", "empty.txt"], "--prompts empty.txt: is empty"),
        (["m", "--prompts", "a.txt", "--prompt", "b"], "--prompts: takes the place of --prompt"),
    ],
)
def test_what_cannot_be_done_is_one_line(place, options, said):
    LlamaConfig().save_pretrained(place / "llama")
    CharTokenizer("ab").save(place / "llama")
    random_model().save_pretrained(place / "torn")
    CharTokenizer(LETTERS[:37]).save(place / "torn")
    (place / "torn" / "model.safetensors").write_bytes((place / "m" / "model.safetensors").read_bytes()[:500])
    (place / "bad.jsonl").write_text('{"prompt": "a"}\n[1]\n', encoding="utf-8")
    (place / "empty.txt").write_text("", encoding="utf-8")
    result = generate(place, *options)
    assert result.returncode == 2
    assert said in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr


def test_ctrl_c_ends_calmly(place):
    process = subprocess.Popen(
        command("m", "--prompt", "a", "--max_new_tokens", "1000000", module="mingpt.generate"),
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run where it is ignored
    )
    assert process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped" in said and "Traceback" not in said
