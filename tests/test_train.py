"""`python train.py` as a user runs it: what it makes, what it shows, and text from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from conftest import ROOT, RUN, TEXT, TINY, command, generate, rows, run_command, table, train
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from mingpt import GPT, load_tokenizer
from mingpt.run import Run


def test_the_folder_holds_what_it_should(folder):
    out = folder / "out" / "fox"
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "train.json"),
        *("metrics.jsonl", "loss.png", "state.pt", "lock"),
    }
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    settings = json.loads((out / "train.json").read_text(encoding="utf-8"))
    assert (
        settings["learning_rate"] == 0.02 and settings["threads"] == 1 and settings["device"] in ("cpu", "cuda", "mps")
    )
    assert settings["dtype"] in ("float32", "bfloat16")
    assert len(settings["text_sha256"]) == 64
    found = rows(out)
    assert [row["step"] for row in found] == [10, 20, 30, 40]
    assert set(found[0]) == {"step", "train_loss", "val_loss", "bits_per_byte", "learning_rate"}


def test_transformers_opens_the_folder_and_computes_the_reported_loss(folder):
    out = folder / "out" / "fox"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert isinstance(model, GPT2LMHeadModel)
    assert model.config.eos_token_id is None and model.config.bos_token_id is None
    ids = tokenizer.encode(TEXT)
    assert ids == load_tokenizer(out).encode(TEXT)
    validation = torch.tensor(ids[len(TEXT) * 9 // 10 :])
    ours = GPT.from_pretrained(out)
    total = 0.0
    for start in range(0, len(validation) - 1, 16):
        window = validation[None, start : start + 17]
        with torch.no_grad():
            logits = model(window[:, :-1]).logits
            torch.testing.assert_close(ours(window[:, :-1]), logits, rtol=1e-4, atol=1e-4)
        total += F.cross_entropy(logits[0], window[0, 1:], reduction="sum").item()
    best = min(rows(out), key=lambda row: row["val_loss"])
    assert total / (len(validation) - 1) == pytest.approx(best["val_loss"], abs=1e-5)
    assert best["bits_per_byte"] == pytest.approx(best["val_loss"] / 0.6931471805599453)  # one byte a token here


def test_what_the_user_sees(folder):
    printed = (folder / "printed.txt").read_text(encoding="utf-8")
    for words in (
        "text          fox: ",
        "model         n_layer 1, n_head 2",
        "saved in      out/fox",
        "a sample of its writing",
    ):
        assert words in printed
    assert "best          validation loss" in printed
    assert "picture       out/fox/loss.png" in printed
    assert "write more    python -m mingpt.generate out/fox\n" in printed  # this text has no T to begin "The " with
    assert "\r" not in printed and "%|" not in printed  # no bar where there is no terminal
    assert [step for step, _ in table(printed)] == [10, 20, 30, 40]
    assert len({len(line) for _, line in table(printed)}) == 1  # aligned


def test_training_learns(folder):
    losses = [row["val_loss"] for row in rows(folder / "out" / "fox")]
    assert losses[-1] < losses[0] < 4
    assert losses[-1] < 2.5


def test_a_second_run_takes_a_new_folder_and_is_the_same(copy):
    before = {path.name: path.read_bytes() for path in (copy / "out" / "fox").iterdir()}
    train(copy, *RUN)
    assert {path.name: path.read_bytes() for path in (copy / "out" / "fox").iterdir()} == before
    for name in ("model.safetensors", "config.json", "tokenizer.json", "train.json"):
        assert (copy / "out" / "fox-2" / name).read_bytes() == before[name]


def test_how_often_it_is_evaluated_changes_nothing_else(copy):
    train(copy, *RUN[:-2], "--eval_interval", "40", "--out_dir", "once")
    assert rows(copy / "once")[-1]["val_loss"] == rows(copy / "out" / "fox")[-1]["val_loss"]
    assert (copy / "once" / "model.safetensors").read_bytes() == (
        copy / "out" / "fox" / "model.safetensors"
    ).read_bytes()


def test_accumulation_is_one_big_batch(copy):
    train(copy, *RUN, "--gradient_accumulation", "4", "--out_dir", "parts")
    for a, b in zip(rows(copy / "parts"), rows(copy / "out" / "fox"), strict=True):
        assert a == pytest.approx(b, rel=1e-3)


def test_patience_ends_a_run_that_no_longer_improves(copy):
    arguments = [
        *TINY,
        "--data",
        "fox.txt",
        "--optimizer",
        "sgd",
        "--learning_rate",
        "1e-9",
        "--min_learning_rate",
        "0",
    ]
    arguments += ["--dtype", "float32", "--max_iters", "90", "--eval_interval", "1", "--warmup_iters", "0"]
    arguments += ["--patience", "3", "--out_dir", "p"]
    printed = train(copy, *arguments)
    losses = [row["val_loss"] for row in rows(copy / "p")]
    best = losses.index(min(losses))
    assert len(losses) == best + 4 < 90
    assert "stopped early: 3 evaluations in a row were no better" in printed
    finished = train(copy, "--resume", "--out_dir", "p")
    assert "is finished" in finished
    assert finished.endswith("to train on   python train.py --resume --out_dir p --max_iters 180\n")
    train(copy, "--resume", "--out_dir", "p", "--max_iters", "180")  # and is patient again
    assert len(losses) < len(rows(copy / "p")) < 180


def test_the_threads_asked_for_are_used_and_those_of_a_run_again(tmp_path):
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8")
    code = "import sys, train, torch; train.main(sys.argv[1:]); print('threads', torch.get_num_threads())"
    flags = [*RUN, "--threads", "3", "--max_iters", "2", "--out_dir", "run"]
    for arguments in (flags, ["--resume", "--out_dir", "run", "--max_iters", "3"]):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
        )
        assert result.stdout.splitlines()[-1:] == ["threads 3"], result.stderr


def test_a_reader_that_leaves_stops_the_run_which_says_how_to_go_on(copy):
    process = subprocess.Popen(
        command(*RUN, "--max_iters", "100000", "--out_dir", "unread"),
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(timeout=60) == 141
    stopped, to_go_on = errors.splitlines()
    assert stopped.startswith("stopped after update ") and "nobody reads" in stopped
    assert to_go_on == "to go on      python train.py --resume --out_dir unread"
    saved = copy / "unread" / "state.pt"
    step = torch.load(saved, weights_only=True)["progress"]["step"] if saved.exists() else 0
    assert f"after update {step:,};" in stopped


def test_generate_ends_quietly_where_its_reader_leaves(folder):
    process = subprocess.Popen(
        command("out/fox", "--max_new_tokens", "100000", module="mingpt.generate"),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.read(1)
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == (b"", 0)


def test_a_picture_takes_any_name_as_its_title(tmp_path):
    run = Run.create(str(tmp_path / "a $ and \\frac$ 中文"), "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = run.draw([{"step": 1, "train_loss": 2.0, "val_loss": 2.0}], 1)
    assert picture.endswith("loss.png") and (run.folder / "loss.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("eval_interval", "what"), [(1, "the validation loss after update 3 is "), (2, "the loss of update 4 is ")]
)
def test_a_diverging_run_stops_names_the_step_and_keeps_the_good_state(copy, eval_interval, what):
    arguments = [*RUN, "--optimizer", "sgd", "--learning_rate", "100", "--grad_clip", "0", "--warmup_iters", "40"]
    result = run_command(*arguments, "--eval_interval", eval_interval, "--out_dir", "bad", cwd=copy)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f"error: {what}" in result.stderr and "--learning_rate" in result.stderr
    saved = torch.load(copy / "bad" / "state.pt", weights_only=True)
    assert f"keeps the last good state, of update {saved['progress']['step']}" in result.stderr
    assert all(weight.isfinite().all() for weight in saved["model"].values())


# ---- Text from a run ----


def test_generate_continues_a_prompt_the_same_way_with_the_same_seed(folder):
    arguments = ["out/fox", "--prompt", "the ", "--max_new_tokens", "50", "--seed", "1"]
    one, two = generate(folder, *arguments), generate(folder, *arguments)
    assert one.returncode == 0 and one.stdout == two.stdout
    assert one.stdout.startswith("the ") and len(one.stdout) == len("the ") + 50 + 1
    assert generate(folder, *arguments[:-1], "2").stdout != one.stdout
    greedy = [generate(folder, *arguments[:-1], str(seed), "--temperature", "0").stdout for seed in (1, 2)]
    assert greedy[0] == greedy[1]
