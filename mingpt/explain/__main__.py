"""Explain a model, its run or a study in one HTML file: `python -m mingpt.explain out/pydoc --text "The object is"`."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from mingpt import cli
from mingpt.errors import UserError
from mingpt.files import atomic_write
from mingpt.settings import Settings, setting

DESCRIPTION = "Write a page that explains a model, its training run, or a study; it opens anywhere, without a network."
EXPLAINED = 100  # newest trials whose suggestion is explained: a Gaussian process for each
STYLES = ("serve/page/style.css", "explain/page/explain.css")
MODULES = ("chart", "attention", "model", "run", "study", "standalone")  # the last uses all
SCRIPTS = ("serve/page/dom.js", *(f"explain/page/{name}.js" for name in MODULES))


class ExplainSettings(Settings):
    folders: tuple[str, ...] = setting(
        min_length=1, help="a model or a run, such as out/pydoc; further runs, to compare them; or a study"
    )
    text: str | None = setting(
        None,
        group="model",
        min_length=1,
        help="text that the first folder's model reads",
        follows="run: the beginning of its last sample",
    )
    layer: int = setting(0, group="model", ge=0, help="layer of the attention row that is shown in numbers, from 0")
    head: int = setting(0, group="model", ge=0, help="its head, from 0")
    output: str = setting("explain.html", group="model", metavar="FILE", help="the page")


def main(argv: list[str]) -> int:
    settings = cli.parse(ExplainSettings, argv, "python -m mingpt.explain", DESCRIPTION)
    data = collect(settings)
    page = build_page(data)
    with atomic_write(Path(settings.output)) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"{settings.output}: {len(page.encode()) / 1e6:.2f} MB")
    return 0


def collect(settings: ExplainSettings) -> dict[str, Any]:
    """The data of the page."""
    from mingpt.explain.activations import explain_model
    from mingpt.explain.runs import explain_suggestions, read_run, read_study

    first, *others = settings.folders
    if Path(first, "journal.jsonl").exists():
        if others:
            raise UserError(f"{others[0]}: a study is explained alone")
        study = read_study(Path(first))
        count = len(study["trials"])
        reasons = explain_suggestions(Path(first), range(max(0, count - EXPLAINED), count))
        return {"title": first, "model": None, "runs": [], "study": study | {"reasons": reasons}}
    folders = [Path(folder) for folder in settings.folders if Path(folder, "train.json").exists()]
    if missing := [folder for folder in others if Path(folder) not in folders]:
        raise UserError(f"{missing[0]}: is not a run (train.json is missing)")
    model = explain_model(first, settings.text, settings.layer, settings.head)
    return {"title": first, "model": model, "runs": [read_run(folder) for folder in folders], "study": None}


def build_page(data: dict[str, Any]) -> str:
    """One file with the style, the modules and the data. What the data says is never markup."""
    root = resources.files("mingpt")
    style, script = (
        "\n".join((root / name).read_text(encoding="utf-8") for name in names) for names in (STYLES, SCRIPTS)
    )
    script = re.sub(r"^import .*\n", "", script, flags=re.MULTILINE)  # all modules are one
    script = re.sub(r"^export ", "", script, flags=re.MULTILINE)
    content = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"/*STYLE*/": style, "/*SCRIPT*/": script, "/*DATA*/": content}
    template = (root / "explain/page/standalone.html").read_text(encoding="utf-8")
    return re.sub(r"/\*(STYLE|SCRIPT|DATA)\*/", lambda match: parts[match[0]], template)


if __name__ == "__main__":
    cli.run_command(main)
