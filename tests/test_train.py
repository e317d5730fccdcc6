"""`python train.py` as a user runs it: a folder that opens elsewhere, kills survived to the bit, errors that help."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time

import pytest
import torch
from conftest import ROOT, TEXT, TINY, command, run_command
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from mingpt import GPT, load_tokenizer

RUN = [*TINY, "--data", "fox.txt", "--threads", "1", "--max_iters", "40", "--eval_interval", "10"]


def train(folder, *arguments, **options):
    result = run_command(*arguments, cwd=folder, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def rows(folder):
    """metrics.jsonl without the times, which no two runs share."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    times = ("seconds", "tokens_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in times} for line in lines]


def table(printed):
    """The lines of evaluations among what was printed, each with its step."""
    lines = [line for line in printed.splitlines() if re.fullmatch(r" *[\d,]+( +[-+.,e\d]+){6}", line)]
    return [(int(line.split()[0].replace(",", "")), line) for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A place with a text and one finished run, out/fox; tests leave both as they are."""
    place = tmp_path_factory.mktemp("place")
    (place / "fox.txt").write_text(TEXT, encoding="utf-8")
    (place / "printed.txt").write_text(train(place, *RUN), encoding="utf-8")
    return place


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of that place, to change and break."""
    place = shutil.copytree(folder, tmp_path / "copy")
    settings = json.loads((place / "out" / "fox" / "train.json").read_text(encoding="utf-8"))
    settings["data"] = str((place / "fox.txt").resolve())
    (place / "out" / "fox" / "train.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return place


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
    assert "stopped early: 3 evaluations without a better loss" in printed
    assert "is finished" in train(copy, "--resume", "--out_dir", "p")


# ---- Going on ----


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam", "sgd"])
def test_killed_at_random_moments_and_resumed_it_is_the_same_run(copy, optimizer):
    """SIGKILL, several times over, with dropout and accumulation: the bytes of a run that was never killed."""
    arguments = [*RUN, "--optimizer", optimizer, "--dropout", "0.1", "--gradient_accumulation", "2"]
    arguments += ["--max_iters", "400", "--eval_interval", "7"]
    began = time.monotonic()
    train(copy, *arguments, "--out_dir", "whole")
    duration = time.monotonic() - began
    chance = random.Random(optimizer)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed_with_state, arguments = 0, [*arguments, "--out_dir", "killed"]
    for _ in range(12):
        has_run = (copy / "killed" / "train.json").exists()
        todo = ["--resume", "--out_dir", "killed"] if has_run else arguments
        with open(copy / "printed.txt", "w", encoding="utf-8") as output:
            process = subprocess.Popen(command(*todo), cwd=copy, env=environment, stdout=output, stderr=output)
            until((copy / "killed" / "train.json").exists)
            time.sleep(chance.uniform(0.0, duration / 2))
            process.kill()
            process.wait()
        killed_with_state += (copy / "killed" / "state.pt").exists()
        check_nothing_is_run_again((copy / "printed.txt").read_text(encoding="utf-8"))
        if killed_with_state >= 3:
            break
    assert killed_with_state >= 3
    check_nothing_is_run_again(train(copy, "--resume", "--out_dir", "killed"))
    assert (copy / "killed" / "model.safetensors").read_bytes() == (copy / "whole" / "model.safetensors").read_bytes()
    assert rows(copy / "killed") == rows(copy / "whole")
    assert not list((copy / "killed").glob(".*"))


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def check_nothing_is_run_again(printed):
    """What a resumed process evaluates comes after the state that it says it goes on from."""
    said = [line for line in printed.splitlines() if line.startswith("resuming ") and "after update" in line]
    if said:
        after = int(said[0].split()[-1].replace(",", ""))
        assert after > 0
        assert all(after < step <= after + 7 * (i + 1) for i, (step, _) in enumerate(table(printed)))


def test_killed_before_its_first_state_it_starts_again_and_says_so(copy):
    shutil.copytree(copy / "out" / "fox", copy / "early")
    for name in ("state.pt", "model.safetensors", "config.json", "loss.png", "tokenizer.json"):
        (copy / "early" / name).unlink()
    (copy / "early" / "metrics.jsonl").write_bytes(b"")
    printed = train(copy, "--resume", "--out_dir", "early")
    assert "resuming early from the start: it was stopped before its first state was saved" in printed
    assert rows(copy / "early") == rows(copy / "out" / "fox")


def test_a_finished_run_says_so_and_may_grow(copy):
    printed = train(copy, "--resume", "--out_dir", "out/fox")
    assert "out/fox is finished: validation loss" in printed
    before = rows(copy / "out" / "fox")
    train(copy, "--resume", "--out_dir", "out/fox", "--max_iters", "60")
    after = rows(copy / "out" / "fox")
    assert after[:4] == before and [row["step"] for row in after[4:]] == [50, 60]
    assert json.loads((copy / "out" / "fox" / "train.json").read_text(encoding="utf-8"))["max_iters"] == 60


def test_a_moved_folder_goes_on_from_anywhere(copy, tmp_path):
    shutil.move(copy / "out" / "fox", tmp_path / "moved")
    settings = json.loads((tmp_path / "moved" / "train.json").read_text(encoding="utf-8"))
    settings["data"] = str(copy / "fox.txt")
    (tmp_path / "moved" / "train.json").write_text(json.dumps(settings), encoding="utf-8")
    assert "resuming moved after update 40" in train(tmp_path, "--resume", "--out_dir", "moved", "--max_iters", "41")


def test_ctrl_c_saves_says_how_to_go_on_and_loses_nothing(copy):
    arguments = [*RUN, "--max_iters", "1000", "--eval_interval", "400", "--out_dir", "stopped"]
    process = subprocess.Popen(
        command(*arguments),
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    for line in process.stdout:
        if "bits/byte" in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "python train.py --resume --out_dir stopped" in printed
    step = torch.load(copy / "stopped" / "state.pt", weights_only=True)["progress"]["step"]
    assert 0 < step < 1000 and f"stopped after update {step:,}" in printed
    resumed = train(copy, "--resume", "--out_dir", "stopped")
    assert f"after update {step:,}" in resumed
    train(copy, *arguments[:-1], "whole")
    assert rows(copy / "stopped") == rows(copy / "whole")
    assert (copy / "stopped" / "model.safetensors").read_bytes() == (copy / "whole" / "model.safetensors").read_bytes()


def test_a_diverging_run_stops_names_the_step_and_keeps_the_good_state(copy):
    arguments = [*RUN, "--optimizer", "sgd", "--learning_rate", "100", "--grad_clip", "0", "--warmup_iters", "40"]
    result = run_command(*arguments, "--eval_interval", "1", "--out_dir", "bad", cwd=copy)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "error: the loss of update" in result.stderr and "--learning_rate" in result.stderr
    saved = torch.load(copy / "bad" / "state.pt", weights_only=True)
    assert f"keeps the last good state, of update {saved['progress']['step']}" in result.stderr
    assert all(weight.isfinite().all() for weight in saved["model"].values())


# ---- What a user can put right ----

BAD = {
    "no such text": (["--data", "no.txt"], "--data no.txt: no such file"),
    "empty text": (["--data", "empty.txt"], "empty.txt: is empty"),
    "binary text": (["--data", "binary.bin"], "binary.bin: is"),
    "latin-1 text": (["--data", "latin.txt"], "latin.txt: is not UTF-8"),
    "too short text": (["--data", "short.txt"], "too short"),
    "text shorter than a window": (["--data", "fox.txt", "--block_size", "99999"], "--block_size 99999: is too long"),
    "empty folder": (["--data", "hollow"], "hollow: the folder holds no file"),
    "indivisible heads": (["--n_embd", "10", "--n_head", "4"], "--n_head 4: does not divide --n_embd 10"),
    "unknown flag": (["--layers", "3"], "--layers: unknown flag"),
    "unknown optimizer": (["--optimizer", "lion"], "--optimizer lion: accepted are adam, adamw, sgd, muon"),
    "unknown device": (["--device", "tpu"], "--device tpu: accepted are auto, cpu, cuda, mps"),
    "not a number": (["--learning_rate", "fast"], "--learning_rate fast: a number in (0, inf) is accepted"),
    "not whole": (["--n_layer", "2.5"], "--n_layer 2.5: a whole number in [1, inf) is accepted"),
    "out of range": (["--dropout", "1"], "--dropout 1.0: a number in [0, 1) is accepted"),
    "negative": (["--max_iters", "-5"], "--max_iters -5: a whole number in [1, inf) is accepted"),
    "no value": (["--n_layer"], "--n_layer: needs a value"),
    "no config": (["--config", "no.json"], "--config no.json: cannot be read"),
    "torn config": (["--config", "short.txt"], "--config short.txt: is not JSON"),
    "resume of nothing": (["--resume", "--out_dir", "nothing"], "--resume: nothing holds no run"),
    "resume of what": (["--resume"], "--resume: needs --out_dir"),
    "folder in use": (["--out_dir", "out/fox"], "--out_dir out/fox: already holds a run; --resume goes on with it"),
    "folder with files": (["--out_dir", "hollow/.."], "already holds files"),
    "place that cannot be": (["--out_dir", "fox.txt/x"], "--out_dir fox.txt/x: cannot be written"),
    "other layers": (["--resume", "--out_dir", "out/fox", "--n_layer", "2"], "--n_layer 2: the run in out/fox has 1"),
    "fewer updates": (
        ["--resume", "--out_dir", "out/fox", "--max_iters", "9"],
        "--max_iters 9: the run in out/fox has 40",
    ),
    "other data": (["--resume", "--out_dir", "out/fox", "--data", "short.txt"], "the run in out/fox has"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(folder, tmp_path, case):
    arguments, problem = BAD[case]
    (folder / "hollow").mkdir(exist_ok=True)
    for name, content in {
        "empty.txt": b"",
        "binary.bin": bytes(range(256)) * 9,
        "latin.txt": "café ".encode("latin-1") * 99,
        "short.txt": b"short",
    }.items():
        (folder / name).write_bytes(content)
    before = sorted(str(path) for path in folder.rglob("*"))
    result = run_command(*arguments, cwd=folder)
    assert result.returncode == 2
    assert result.stdout == ""
    assert problem in result.stderr
    assert [line[:7] for line in result.stderr.splitlines()] == ["error: "]
    assert sorted(str(path) for path in folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["train.json", "state.pt", "model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("damage", ["torn", "missing", "another's"])
def test_a_damaged_folder_is_named_and_left_as_it_is(copy, name, damage):
    path = copy / "out" / "fox" / name
    content = path.read_bytes()
    if damage == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "missing":
        path.unlink()
    else:
        other = ["--n_embd", "32", "--tokenizer", "byte", "--max_iters", "1", "--out_dir", "other"]
        train(copy, *RUN, *other)
        shutil.copy(copy / "other" / name, path)
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    result = run_command("--resume", "--out_dir", "out/fox", "--max_iters", "50", cwd=copy)
    assert result.returncode == 2
    assert all(line.startswith("error: ") for line in result.stderr.splitlines())
    assert result.stderr.count("\n") >= 1 and "Traceback" not in result.stderr
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before


def test_another_text_is_refused(copy):
    (copy / "fox.txt").write_text(TEXT + "more\n", encoding="utf-8")
    result = run_command("--resume", "--out_dir", "out/fox", "--max_iters", "50", cwd=copy)
    assert result.returncode == 2 and "is not the text that the run in out/fox began with" in result.stderr


def test_two_processes_do_not_write_to_one_folder(copy):
    arguments = [*RUN, "--max_iters", "100000", "--out_dir", "busy"]
    process = subprocess.Popen(
        command(*arguments), cwd=copy, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=-3, stderr=-3
    )
    try:
        until((copy / "busy" / "state.pt").exists)
        result = run_command("--resume", "--out_dir", "busy", cwd=copy)
        assert result.returncode == 2
        assert result.stderr == "error: --out_dir busy: another process is writing to it\n"
    finally:
        process.kill()
        process.wait()
    result = run_command("--resume", "--out_dir", "busy", "--n_layer", "9", cwd=copy)
    assert "--n_layer 9: the run in busy has 1" in result.stderr  # the lock died with its process


@pytest.mark.parametrize("limit", [2_000, 30_000, 60_000])
def test_a_full_disk_leaves_whole_what_was_saved_and_goes_on_later(copy, limit):
    """A limit on the size of files stands for the full disk: some files fit and the larger do not."""
    train(copy, *RUN, "--out_dir", "full")
    before = (copy / "full" / "state.pt").read_bytes()

    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    grow = ["--resume", "--out_dir", "full", "--max_iters", "60"]
    result = run_command(*grow, cwd=copy, preexec_fn=full)
    if result.returncode:
        assert result.returncode == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: full: could not be saved (") and "--resume --out_dir full" in line
        assert (copy / "full" / "state.pt").read_bytes() == before
        assert GPT.from_pretrained(copy / "full")
    train(copy, *grow)
    assert [row["step"] for row in rows(copy / "full")] == [10, 20, 30, 40, 50, 60]
    assert not list((copy / "full").glob(".*"))


# ---- Text from a run ----


def generate(folder, *arguments):
    return run_command(*arguments, cwd=folder, module="mingpt.generate")


def test_generate_continues_a_prompt_the_same_way_with_the_same_seed(folder):
    arguments = ["out/fox", "--prompt", "the ", "--max_new_tokens", "50", "--seed", "1"]
    one, two = generate(folder, *arguments), generate(folder, *arguments)
    assert one.returncode == 0 and one.stdout == two.stdout
    assert one.stdout.startswith("the ") and len(one.stdout) == len("the ") + 50 + 1
    assert generate(folder, *arguments[:-1], "2").stdout != one.stdout
    greedy = [generate(folder, *arguments[:-1], str(seed), "--temperature", "0").stdout for seed in (1, 2)]
    assert greedy[0] == greedy[1]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "FOLDER: is missing"),
        (["nowhere"], "nowhere"),
        (["out/fox", "--prompt", "café"], "--prompt café: the character 'é' (U+00E9) at position 3"),
        (["out/fox", "--temperature", "-1"], "--temperature -1.0: a number in [0, inf) is accepted"),
        (["out/fox", "--top_p", "0"], "--top_p 0.0: a number in (0, 1] is accepted"),
        (["out/fox", "--tmperature", "1"], "--tmperature: unknown flag; the nearest is --temperature"),
    ],
)
def test_bad_input_to_generate_is_one_line(folder, arguments, problem):
    result = generate(folder, *arguments)
    assert result.returncode == 2
    assert problem in result.stderr
    assert all(line.startswith("error: ") for line in result.stderr.splitlines())
    assert result.stdout == ""
