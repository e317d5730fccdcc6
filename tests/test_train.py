"""`python train.py` as a user runs it: what it writes, what it prints, and when it stops."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from conftest import MACHINE, ROOT, RUN, TEXT, TINY, command, evaluation_lines, read_metrics, run_in_process, train
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from mingpt import GPT, cli, load_tokenizer, run
from mingpt.config import TrainConfig
from mingpt.plot import plot_losses


def test_a_run_writes_its_files(folder):
    out = folder / "out" / "fox"
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "train.json"),
        *("metrics.jsonl", "loss.png", "state.pt", "lock"),
    }
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    settings = json.loads((out / "train.json").read_text(encoding="utf-8"))
    assert settings["learning_rate"] == 0.02 and settings["threads"] == 1 and settings["device"] == "cpu"
    assert settings["n_layer"] == 1 and settings["activation"] == "gelu" and len(settings["data_sha256"]) == 64
    metrics = read_metrics(out)
    assert [row["step"] for row in metrics] == [10, 20, 30, 40]
    assert set(metrics[0]) == {"step", "train_loss", "val_loss", "bits_per_byte", "learning_rate", "sample"}
    losses = [row["val_loss"] for row in metrics]
    assert losses[-1] < 2.5 < losses[0] < 4


def test_the_sample_of_an_evaluation_is_what_the_checkpoint_generates(folder):
    last = min(read_metrics(folder / "out/fox"), key=lambda row: row["bits_per_byte"])
    options = ["--prompt", "", "--max_new_tokens", 100, "--temperature", 0.8, "--seed", 0]
    printed = run_in_process("out/fox", *options, cwd=folder, module="mingpt.generate").stdout
    assert printed.strip()[:20] == last["sample"].strip()[:20]  # later a rounding error may change a token
    assert len(last["sample"]) == 100


def test_the_time_of_a_run_is_estimated_without_a_change_to_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8")
    started = run.start(cli.parse(TrainConfig, RUN, "train.py", ""))
    before = [weight.clone() for weight in started.state.model.parameters()]
    seconds = [run.estimate_seconds(started)]
    started.state.progress.step = started.config.max_iters // 2
    seconds.append(run.estimate_seconds(started))
    started.folder.close()
    assert 0 < seconds[0] < 60 and seconds[1] > 0
    for weight, old in zip(started.state.model.parameters(), before, strict=True):
        assert torch.equal(weight, old) and weight.grad is None


def test_transformers_opens_the_folder_and_computes_the_reported_loss(folder):
    out = folder / "out" / "fox"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert isinstance(model, GPT2LMHeadModel)
    assert model.config.eos_token_id is None and model.config.bos_token_id is None
    assert tokenizer.model_max_length == 16 and tokenizer.truncation_side == "left"
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
    best = min(read_metrics(out), key=lambda row: row["val_loss"])
    assert total / (len(validation) - 1) == pytest.approx(best["val_loss"], abs=1e-5)
    assert best["bits_per_byte"] == pytest.approx(best["val_loss"] / math.log(2))  # one byte per token here


def test_what_is_printed(folder):
    printed = (folder / "printed.txt").read_text(encoding="utf-8")
    for words in (
        "data          fox: ",
        "model         n_layer 1, n_head 2",
        "folder        out/fox",
        "a sample of generated text",
        "best          validation loss",
        "plot          out/fox/loss.png",
        "generate      python -m mingpt.generate out/fox\n",  # this text has no "The "
    ):
        assert words in printed, words
    assert "\r" not in printed and "%|" not in printed  # no bar where there is no terminal
    assert [step for step, _ in evaluation_lines(printed)] == [10, 20, 30, 40]
    assert len({len(line) for _, line in evaluation_lines(printed)}) == 1  # aligned


def test_a_second_run_takes_a_new_folder_and_gives_the_same_bytes(folder_copy):
    out = folder_copy / "out"
    before = {path.name: path.read_bytes() for path in (out / "fox").iterdir()}
    train(folder_copy, *RUN)
    assert {path.name: path.read_bytes() for path in (out / "fox").iterdir()} == before
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (out / "fox-2" / name).read_bytes() == before[name]


def test_the_evaluation_interval_changes_nothing_else(folder_copy):
    train(folder_copy, *RUN[:-2], "--eval_interval", "40", "--out_dir", "once")
    assert read_metrics(folder_copy / "once")[-1]["val_loss"] == read_metrics(folder_copy / "out/fox")[-1]["val_loss"]


def test_micro_batches_give_the_loss_curve_of_the_whole_batch(folder_copy):
    train(folder_copy, *RUN, "--gradient_accumulation", "4", "--out_dir", "parts")
    for a, b in zip(read_metrics(folder_copy / "parts"), read_metrics(folder_copy / "out/fox"), strict=True):
        del a["sample"], b["sample"]  # in which a rounding error may change a token
        assert a == pytest.approx(b, rel=1e-3)


def test_patience_stops_a_run_that_no_longer_improves(tmp_path):
    """Of random characters, only the training part can be memorized: the validation loss soon rises."""
    rng = np.random.default_rng(0)
    (tmp_path / "noise.txt").write_text("".join(rng.choice(list("abcdefgh"), size=400)), encoding="utf-8")
    arguments = [*TINY, *MACHINE, "--n_embd", "32", "--data", "noise.txt", "--eval_interval", "20", "--out_dir", "p"]
    printed = train(tmp_path, *arguments, "--max_iters", "2000", "--patience", "3")
    losses = [row["val_loss"] for row in read_metrics(tmp_path / "p")]
    best = losses.index(min(losses))
    assert len(losses) == best + 4 < 100
    assert "early stop    no improvement in 3 evaluations" in printed
    finished = train(tmp_path, "--resume", "--out_dir", "p")
    assert "is finished" in finished
    assert finished.endswith("continue      python train.py --resume --out_dir p --max_iters 4000\n")
    train(tmp_path, "--resume", "--out_dir", "p", "--max_iters", "2001")  # patience starts anew
    assert len(losses) < len(read_metrics(tmp_path / "p")) <= len(losses) + 3


def test_the_threads_asked_for_are_used_and_recorded(tmp_path):
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8")
    code = "import sys, train, torch; train.main(sys.argv[1:]); print('threads', torch.get_num_threads())"
    flags = [*RUN, "--threads", "3", "--max_iters", "2", "--out_dir", "run"]
    for arguments in (flags, ["--resume", "--out_dir", "run", "--max_iters", "3"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            encoding="utf-8",
        )
        assert result.stdout.splitlines()[-1:] == ["threads 3"], result.stderr


def test_a_closed_output_stops_the_run_which_says_how_to_resume(folder_copy):
    process = subprocess.Popen(
        command(*RUN, "--max_iters", "100000", "--out_dir", "unread"),
        cwd=folder_copy,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(timeout=60) == 141
    assert "Traceback" not in errors and "broken pipe" in errors
    assert "resume        python train.py --resume --out_dir unread" in errors
    state = folder_copy / "unread" / "state.pt"
    step = torch.load(state, weights_only=True)["progress"]["step"] if state.exists() else 0
    assert f"stopped after update {step:,}, which is saved" in errors


def test_a_plot_takes_any_name_as_its_title(tmp_path):
    path = tmp_path / "a $ and \\frac$ 中文"
    path.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot = plot_losses(path, [{"step": 1, "train_loss": 2.0, "val_loss": 2.0}], 1)
    assert plot.endswith("loss.png") and (path / "loss.png").stat().st_size > 1000


def test_a_diverging_run_stops_and_keeps_its_last_good_state(folder_copy):
    arguments = [*RUN, "--optimizer", "sgd", "--learning_rate", "1e30", "--grad_clip", "0", "--warmup_iters", "40"]
    result = run_in_process(*arguments, "--eval_interval", "1", "--out_dir", "bad", cwd=folder_copy)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "training has diverged" in result.stderr and "try a new run with --learning_rate 3e+29" in result.stderr
    state = folder_copy / "bad" / "state.pt"
    assert not state.exists() or all(w.isfinite().all() for w in torch.load(state, weights_only=True)["model"].values())


@pytest.mark.parametrize("task", ["regress", "classify"])
def test_outliers_do_not_stop_a_run(tmp_path, task):
    """Losses far above the first one are part of healthy runs: rare large targets, or wrong labels in an easy set."""
    words = "a cat runs here today and sleeps at home".split()
    rng = np.random.default_rng(0)
    targets = [5000 if i % 100 == 50 else i % 5 for i in range(300)] if task == "regress" else ["x"] * 297 + ["y"] * 3
    rows = [f"{' '.join(rng.choice(words, size=5))} {'xy'[i % 2]},{target}" for i, target in enumerate(targets)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    arguments = [*TINY, *MACHINE, "--task", task, "--data", "rows.csv", "--max_iters", "60", "--eval_interval", "20"]
    train(tmp_path, *arguments, "--vocab_size", "300", "--out_dir", "run")
    assert read_metrics(tmp_path / "run")[-1]["step"] == 60


def test_training_continues_from_a_memorized_text(tmp_path):
    """A model that knows its text by heart has a validation loss far above its training loss from the first update."""
    (tmp_path / "short.txt").write_text(TEXT[:700] + "QZXJ" * 20, encoding="utf-8")
    arguments = ["--data", "short.txt", *MACHINE, "--block_size", "16"]
    train(tmp_path, *arguments, "--max_iters", "200", "--eval_interval", "200", "--out_dir", "base")
    more = [*arguments, "--init_from", "base", "--max_iters", "20", "--learning_rate", "1e-9", "--out_dir", "more"]
    train(tmp_path, *more)
    assert read_metrics(tmp_path / "more")[-1]["step"] == 20
