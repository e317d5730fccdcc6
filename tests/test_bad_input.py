"""What a user can put right: one line each, exit code 2, nothing written, through the real command line."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import RUN, TEXT, generate, run_command, train

from mingpt import gpt2
from mingpt.errors import UserError
from mingpt.run import Run

BAD = {
    "no such text": (["--data", "no.txt"], "--data no.txt: no such file"),
    "empty text": (["--data", "empty.txt"], "empty.txt: is empty"),
    "binary text": (["--data", "binary.bin"], "binary.bin: is"),
    "latin-1 text": (["--data", "latin.txt"], "latin.txt: is not UTF-8"),
    "too short text": (["--data", "short.txt"], "too short"),
    "text shorter than a window": (["--data", "fox.txt", "--block_size", "99999"], "--block_size 99999: is too long"),
    "a device": (["--data", "/dev/null"], "--data /dev/null: is neither a file nor a folder"),
    "long name": (["--data", "x" * 300], "xxx: cannot be read (File name too long)"),
    "too large": (
        ["--n_embd", "1000000"],
        "--n_layer 2 with --n_embd 1000000 and a vocabulary of 103: does not fit in the memory of cpu",
    ),
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
    "other data": (
        ["--resume", "--out_dir", "out/fox", "--data", "other.txt"],
        "--data other.txt: is not the text that the run in out/fox began with",
    ),
    "out of range, to go on": (["--resume", "--out_dir", "out/fox", "--n_layer", "0"], "--n_layer 0: a whole number"),
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
        "other.txt": b"another text " * 9,
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


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(range(256)) * 9, b"\x80\x02}q\x00."])
def test_a_state_that_is_none_is_one_line(copy, content):
    path = copy / "out" / "fox" / "state.pt"
    path.write_bytes(content)
    run, _, _ = Run.open(str(path.parent))
    with pytest.raises(UserError) as caught:
        run.load_state()
    (problem,) = str(caught.value).splitlines()
    assert problem.startswith(f"{path}: is torn or no state of a run")


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"learning_rate": None}, ["is of another program or version; it lacks learning_rate"]),
        (
            {"threads": None, "eval_interval": None},
            ["is of another program or version; it lacks eval_interval, threads"],
        ),
        ({"text_sha256": None}, ["is of another program or version; it lacks text_sha256"]),
        ({"max_iters": "40"}, ["max_iters 40: a whole number in [1, inf) is accepted, not a text"]),
        ({"dropout": 2, "data": 5}, ["dropout 2.0: a number in [0, 1) is accepted", "data 5: a text is accepted"]),
        ({"n_head": 3}, ["n_head 3: does not divide --n_embd 16; these do: 1, 2, 4, 8, 16"]),
    ],
)
def test_settings_damaged_by_hand_are_named_by_their_file(copy, changes, problems):
    path = copy / "out" / "fox" / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        Run.open(str(path.parent))
    assert str(caught.value).splitlines() == [f"{path}: {problem}" for problem in problems]


def test_a_config_of_the_same_shape_and_other_heads_is_another_runs(copy):
    path = copy / "out" / "fox" / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"n_head": 4}), encoding="utf-8")
    assert gpt2.read_folder(path.parent)  # it fits the weights
    result = run_command("--resume", "--out_dir", "out/fox", "--max_iters", "50", cwd=copy)
    assert (result.returncode, result.stderr) == (2, "error: out/fox/config.json: is another run's\n")


def test_another_text_is_refused(copy):
    (copy / "fox.txt").write_text(TEXT + "more\n", encoding="utf-8")
    result = run_command("--resume", "--out_dir", "out/fox", "--max_iters", "50", cwd=copy)
    assert result.returncode == 2 and "is not the text that the run in out/fox began with" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "FOLDER: is missing"),
        (["--top_p", "2"], "FOLDER: is missing"),
        (["--top_p", "2"], "--top_p 2.0: a number in (0, 1] is accepted"),
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
