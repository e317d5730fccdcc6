"""The command line: flags, --help, the config file, errors and exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from mingpt import cli
from mingpt.config import TrainConfig
from mingpt.errors import UserError
from mingpt.settings import Settings, setting


class Example(Settings):
    folder: str = setting(help="a model's folder")
    stop: tuple[str, ...] = setting((), "may be repeated")
    top_p: float = setting(1.0, "a fraction", gt=0, le=1)


def parse(*argv: str, settings: type[Settings] = TrainConfig) -> Settings:
    return cli.parse(settings, list(argv), "train.py", "")


def problems(*argv: str, settings: type[Settings] = TrainConfig) -> set[str]:
    with pytest.raises(UserError) as caught:
        parse(*argv, settings=settings)
    return set(caught.value.problems)


def run_script(body: str, **options) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, with `cli`, `sys` and `UserError` imported."""
    head = "import signal, sys\nfrom mingpt import cli\nfrom mingpt.errors import UserError\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment) | options
    return subprocess.run([sys.executable, "-c", head + body], timeout=100, check=False, **options)


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--n_layer=6"], "n_layer", 6),
        (["--data", "-odd name-.txt"], "data", "-odd name-.txt"),
        (["--data=--odd"], "data", "--odd"),
        (["--compile"], "compile", True),
        (["--compile", "false"], "compile", False),
        (["--compile", "--n_layer", "2"], "n_layer", 2),
    ],
)
def test_a_flag_is_parsed(argv, name, value):
    assert parse(*argv).given()[name] == value


def test_a_flag_that_may_be_repeated_collects_its_values():
    example = parse("out/fox", "--stop", "-1", "--top_p", "0.5", "--stop", "\n\n", settings=Example)
    assert example == Example(folder="out/fox", stop=("-1", "\n\n"), top_p=0.5)
    lines = problems("--stop", "a", "--stop", "--top_p", "2", settings=Example)
    assert {line.partition(":")[0] for line in lines} == {"--stop", "FOLDER", "--top_p 2"}


def test_flags_override_the_config_file_and_that_the_defaults(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"n_layer": 5, "n_head": 2, "learning_rate": 1, "compile": true}', encoding="utf-8")
    given = parse("--n_layer", "7", "--config", str(path)).given()
    assert given == dict(n_layer=7, n_head=2, learning_rate=1.0, compile=True, config=str(path))


def test_all_problems_of_flags_and_file_are_reported_together(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"n_headd": 2, "beta1": 1.5}', encoding="utf-8")
    flags = ["--n_layr", "3", "--dropout", "1", "--max_iters", "--n_head", "5", "stray", "--config", str(path)]
    in_file = f"--config {path}: "
    lines = {line.removeprefix(in_file).partition(":")[0]: line for line in problems(*flags)}
    assert lines.keys() == {"--n_layr", "--dropout 1", "--max_iters", "--n_head 5", "stray", "beta1 1.5", "n_headd"}
    assert lines["--n_layr"].endswith("; did you mean --n_layer?")
    assert lines["n_headd"] == f"{in_file}n_headd: unknown setting; did you mean n_head?"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'"x"', b"\xff", b"[" * 100_000, None])
def test_a_config_file_that_is_not_a_json_object_is_named(tmp_path, content):
    path = tmp_path / "c.json"
    if content is not None:
        path.write_bytes(content)
    (line,) = problems("--config", str(path))
    assert line.startswith("--config ") and str(path) in line


def test_help_has_every_flag_in_its_group_with_range_and_default(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    printed = capsys.readouterr().out
    flags = re.findall(r"^  --(\w+)", printed, flags=re.MULTILINE)
    assert ended.value.code == 0 and set(flags) == TrainConfig.model_fields.keys()
    firsts = {"architecture": "n_layer", "data": "data", "training": "init_from", "optimizer": "optimizer"}
    assert all(f"\n{group}:\n  --{name} " in printed for group, name in firsts.items())
    assert set(flags[flags.index("device") :]) >= {"seed", "config", "out_dir", "resume"}  # the last group
    text = " ".join(printed.split())
    assert "dropout probability (>= 0, < 1, default: 0.0)" in text
    assert "(>= 0, default: from learning_rate / 10)" in text and "the last 30 % (default: linear)" in text


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), (["--n_layr", "3"], 2)])
def test_help_and_a_mistyped_flag_need_no_torch(argv, code):
    body = f"import train\nsys.argv = ['train.py', *{argv}]\ntry: cli.run_command(train.main)\n"
    result = run_script(body + "finally: print('torch' in sys.modules, 'mingpt.config' in sys.modules)")
    assert result.returncode == code and result.stdout.endswith("False True\n"), result.stderr


@pytest.mark.parametrize(
    ("main", "code", "stderr"),
    [
        ("raise UserError('a: is wrong', 'b: too')", 2, "error: a: is wrong\nerror: b: too\n"),
        ("signal.raise_signal(signal.SIGINT)", 130, "\nstopped\n"),
        ("open('no.txt')", 2, "error: no.txt: No such file or directory\n"),
        ("print('\\ud800'); return 0", 0, ""),
    ],
)
def test_the_exit_code_of_a_command(main, code, stderr):
    result = run_script(f"def main(argv): {main}\ncli.run_command(main)")
    assert (result.returncode, result.stderr) == (code, stderr)


@pytest.mark.parametrize("lines", [1, 100_000])  # that fit into the buffer of stdout, and that do not
def test_a_command_whose_output_nobody_reads_ends_quietly(lines):
    read_end, write_end = os.pipe()
    os.close(read_end)
    result = run_script(f"cli.run_command(lambda argv: print('line\\n' * {lines}) or 0)", stdout=write_end)
    os.close(write_end)
    assert (result.returncode, result.stderr) == (0, "")
