"""What a user can fix: one line for each problem, exit code 2, nothing written, through the real command line."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import MACHINE, RUN, TEXT, TINY, assert_refused, run_command, run_in_process, train

from mingpt.checkpoint import RunFolder
from mingpt.errors import UserError

RESUME = ["--resume", "--out_dir", "out/fox"]
BASE = ["--data", "fox.txt", "--init_from", "out/fox"]
BAD = {
    "missing text": (["--data", "no.txt"], "--data no.txt: no such file"),
    "empty text": (["--data", "empty.txt"], "empty.txt: has 0 characters"),
    "binary text": (["--data", "binary.bin"], "binary.bin: is"),
    "latin-1 text": (["--data", "latin.txt"], "latin.txt: is not UTF-8"),
    "short text": (["--data", "short.txt"], "short.txt: has 5 characters; at least 20 are needed"),
    "text shorter than a window": (["--data", "fox.txt", "--block_size", "99999"], "--block_size 99999: is too long"),
    "a device file": (["--data", "/dev/null"], "--data /dev/null: is neither a file nor a folder"),
    "long name": (["--data", "x" * 300], "xxx: File name too long"),
    "out of memory": (
        ["--data", "fox.txt", "--n_embd", "1000000"],
        "--n_layer 2, --n_embd 1000000, vocabulary 41: the model does not fit in the memory of cpu",
    ),
    "empty folder": (["--data", "hollow"], "hollow: the folder has no files"),
    "indivisible heads": (["--n_embd", "10", "--n_head", "4"], "--n_head 4: does not divide --n_embd 10"),
    "unknown flag": (["--layers", "3"], "--layers: unknown flag"),
    "misspelt flag": (["--n_layr", "3"], "--n_layr: unknown flag; did you mean --n_layer?"),
    "unknown optimizer": (["--optimizer", "adm"], "--optimizer adm: input should be"),
    "not a number": (["--learning_rate", "fast"], "--learning_rate fast: input should be a valid number"),
    "not an integer": (["--n_layer", "2.5"], "--n_layer 2.5: input should be a valid integer"),
    "out of range": (["--dropout", "1"], "--dropout 1: input should be less than 1"),
    "negative": (["--max_iters", "-5"], "--max_iters -5: input should be greater than or equal to 1"),
    "no value": (["--n_layer"], "--n_layer: needs a value"),
    "a table's task without a table": (["--task", "classify"], "--data: a CSV, TSV or JSONL file is needed by --task"),
    "another task's loss": (["--loss", "mse"], "--loss mse: does not fit --task text, which accepts cross_entropy"),
    "another task's setting": (["--class_weights"], "--class_weights: is not used by --task text"),
    "vocabulary of characters": (
        ["--tokenizer", "char", "--vocab_size", "300"],
        "--vocab_size 300: applies to --tokenizer bpe, not to char",
    ),
    "adapters of nothing": (["--lora_rank", "4"], "--lora_rank 4: needs --init_from"),
    "start from nothing": (["--init_from", "nowhere"], "--init_from nowhere: must be a folder, gpt2"),
    "start from another shape": ([*BASE, "--n_layer", "6"], "--n_layer 6: the model in --init_from has 1"),
    "longer than the model": ([*BASE, "--block_size", "64"], "--block_size 64: the model in --init_from has 16"),
    "another tokenizer": ([*BASE, "--tokenizer", "char"], "--tokenizer char: the model in --init_from has its own"),
    "no config": (["--config", "no.json"], "--config no.json: No such file or directory"),
    "corrupt config": (["--config", "short.txt"], "--config short.txt: is corrupt or not JSON"),
    "key of a config": (["--config", "key.json"], "--config key.json: n_layr: unknown setting; did you mean n_layer?"),
    "resume of nothing": (["--resume", "--out_dir", "nothing"], "--resume: nothing contains no run"),
    "resume of what": (["--resume"], "--resume: needs --out_dir"),
    "a finished run's folder": (["--out_dir", "out/fox"], "--out_dir out/fox: contains a run; add --resume"),
    "a folder with files": (["--out_dir", "hollow/.."], "contains files"),
    "an impossible folder": (["--out_dir", "fox.txt/x"], "fox.txt/x: Not a directory"),
    "resume with other layers": ([*RESUME, "--n_layer", "2"], "--n_layer 2: the run in out/fox has 1"),
    "resume with fewer updates": ([*RESUME, "--max_iters", "9"], "--max_iters 9: the run in out/fox has 40"),
    "resume with other data": ([*RESUME, "--data", "other.txt"], "is not the data that the run in out/fox began with"),
    "resume out of range": ([*RESUME, "--n_layer", "0"], "--n_layer 0: input should be greater than or equal to 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(folder, case):
    arguments, problem = BAD[case]
    (folder / "hollow").mkdir(exist_ok=True)
    for name, content in {
        "empty.txt": b"",
        "binary.bin": bytes(range(256)) * 9,
        "latin.txt": "café ".encode("latin-1") * 99,
        "short.txt": b"short",
        "other.txt": b"another text " * 9,
        "key.json": b'{"n_layr": 3}',
    }.items():
        (folder / name).write_bytes(content)
    before = sorted(str(path) for path in folder.rglob("*"))
    result = run_in_process(*arguments, cwd=folder)
    assert_refused(result, problem)
    assert result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert sorted(str(path) for path in folder.rglob("*")) == before


def test_an_update_that_exhausts_the_memory_is_one_line(folder):
    size = ["--batch_size", "10000000000000"]
    result = run_in_process("--data", "fox.txt", "--n_embd", "8", "--out_dir", "out/large", *size, cwd=folder)
    problem = f"{' '.join(size)}, --gradient_accumulation 1: an update does not fit in the memory of cpu"
    assert_refused(result, problem)
    assert len(result.stderr.splitlines()) == 1


def test_all_problems_are_reported_at_once(folder):
    arguments = ["--n_layr", "3", "--dropout", "2", "--n_head", "5", "--config", "no.json", "--seed"]
    result = run_command(*arguments, cwd=folder)
    assert_refused(result, "--n_layr", "--dropout 2", "--n_head 5", "no.json", "--seed: needs a value")
    assert len(result.stderr.splitlines()) == 5


@pytest.mark.parametrize("tokenizer", ["char", "byte", "gpt2"])
@pytest.mark.parametrize("task", ["classify", "chat"])
def test_every_tokenizer_fits_every_task(tmp_path, task, tokenizer):
    rows = "".join(f"some text {i},{i % 2}\n" for i in range(40))
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    (tmp_path / "talk.jsonl").write_text(f"{json.dumps({'messages': messages})}\n" * 20, encoding="utf-8")
    data = {"classify": "rows.csv", "chat": "talk.jsonl"}[task]
    flags = [*TINY, *MACHINE, "--task", task, "--data", data, "--tokenizer", tokenizer, "--max_iters", "1"]
    result = run_in_process(*flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["train.json", "state.pt", "model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_folder_is_named_and_left_as_it_is(folder_copy, name, damage):
    path = folder_copy / "out" / "fox" / name
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    result = run_in_process(*RESUME, "--max_iters", "50", cwd=folder_copy)
    if (name, damage) == ("state.pt", "missing"):  # it starts again
        assert result.returncode == 0
        return
    assert_refused(result, "out/fox")
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before


def test_the_state_of_another_model_is_refused(folder_copy):
    train(folder_copy, *RUN, "--n_embd", "32", "--max_iters", "1", "--out_dir", "other")
    shutil.copy(folder_copy / "other" / "state.pt", folder_copy / "out" / "fox" / "state.pt")
    result = run_in_process(*RESUME, "--max_iters", "50", cwd=folder_copy)
    assert_refused(result, "out/fox/state.pt: is the state of another model")


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(range(256)) * 9, b"\x80\x02}q\x00."])
def test_a_corrupt_state_is_one_line(folder_copy, content):
    path = folder_copy / "out" / "fox" / "state.pt"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        RunFolder.open(str(path.parent)).load_state()
    assert str(error.value).startswith(f"{path}: is corrupt or not a state of a run")


def test_settings_damaged_by_hand_are_named_by_their_file(folder_copy):
    path = folder_copy / "out" / "fox" / "train.json"
    changes = {"dropout": 2, "n_head": 3, "format": 2}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    result = run_in_process(*RESUME, cwd=folder_copy)
    assert_refused(result, "train.json: dropout 2: input should be", "train.json: n_head 3: does not divide")


def test_a_run_of_an_earlier_version_is_refused_by_name_and_usable(folder_copy):
    path = folder_copy / "out" / "fox" / "train.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != "format"}), encoding="utf-8")
    assert_refused(run_in_process(*RESUME, cwd=folder_copy), "is of another version of mingpt")
    more = [*MACHINE, "--data", "fox.txt", "--init_from", "out/fox", "--max_iters", "1", "--out_dir", "more"]
    train(folder_copy, *more)


def test_another_text_is_refused(folder_copy):
    (folder_copy / "fox.txt").write_text(TEXT + "more\n", encoding="utf-8")
    result = run_in_process(*RESUME, "--data", "fox.txt", "--max_iters", "50", cwd=folder_copy)
    assert_refused(result, "is not the data that the run in out/fox began with")
