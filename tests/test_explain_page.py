"""The page of mingpt.explain in a real Chromium: what it shows is what the data says."""

from __future__ import annotations

import base64
import json
import math
import re

import numpy as np
import pytest
from conftest import run_in_process
from playwright.sync_api import expect
from serving import models  # noqa: F401, a fixture
from test_page import browser  # noqa: F401, a fixture

from mingpt.explain.__main__ import build_page
from mingpt.tuning import Choice, Float, Space, Study
from mingpt.tuning.journal import Journal

pytestmark = pytest.mark.xdist_group("serve")


@pytest.fixture
def show(browser, tmp_path):  # noqa: F811
    """Open a page from disk; no error is logged, nothing is loaded."""
    problems = []
    context = browser.new_context(viewport={"width": 1000, "height": 800})

    def open_page(path):
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: problems.append(request.url) if request.url[:4] == "http" else None)
        page.goto(path.as_uri())
        return page

    yield open_page
    context.close()
    assert not problems


def explain(models, tmp_path, *arguments):  # noqa: F811
    output = tmp_path / "explain.html"
    done = run_in_process(*arguments, "--output", output, cwd=models, module="mingpt.explain.__main__")
    assert done.returncode == 0, done.stderr
    data = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', output.read_text(encoding="utf-8"), re.S
    )
    return output, json.loads(data[1])


def test_a_model_and_its_runs(models, tmp_path, show):  # noqa: F811
    output, data = explain(models, tmp_path, "out/fox", "out/talk", "--text", "7: the quick", "--layer", "1")
    page = show(output)
    tokens = page.locator("#tokens .token")
    assert tokens.count() == len(data["model"]["tokens"]) == 12
    tokens.nth(5).click()
    nll = data["model"]["nll"][5]
    expect(page.locator("#nll")).to_contain_text(f"{nll:.4g}"[:4])
    assert page.locator("#heads .head").count() == 4
    page.locator('.head[data-layer="1"][data-head="1"]').click()
    flat = np.frombuffer(base64.b64decode(data["model"]["attention"]), "<u2").reshape(2, 2, -1) / 65535
    weight = flat[1, 1, 5 * 6 // 2]  # of position 5 on position 0
    expect(page.locator("#attention-row")).to_contain_text(f"{weight:.3f}")
    expect(page.locator("#row")).to_contain_text("F.softmax(scores + future")
    expect(page.locator("#settings-diff")).to_contain_text("task")
    written = [row["sample"] for row in data["runs"][0]["metrics"]]
    assert page.locator(".samples").first.locator("p").all_text_contents() == written and len(written) == 3
    logits = np.frombuffer(base64.b64decode(data["model"]["next"]["logits"]), "<f4").astype(float)
    for temperature in (1.0, 0.5):
        page.locator("#temperature").fill(str(temperature))
        p = np.exp((logits - logits.max()) / temperature)
        expect(page.locator("#distribution")).to_contain_text(f"{100 * p.max() / p.sum():.1f} %")
    page.locator("#top-k").fill("3")
    expect(page.locator("#remaining")).to_contain_text("3 of")


def test_a_study_says_why_each_trial_was_suggested(tmp_path, show, models):  # noqa: F811
    space = Space({"x": Float(1e-3, 1, log=True), "kind": Choice("a", "<b>")})
    journal = Journal(tmp_path / "study", {"space": space.as_text(), "first": 1, "asked": {}})
    study = Study(space, first=[{"x": 0.1, "kind": "a"}], journal=journal)
    for _ in range(9):
        trial = study.ask()
        study.tell(trial, (math.log(trial.config["x"]) + 3) ** 2 + (trial.config["kind"] == "a"))
    journal.close()
    output, data = explain(models, tmp_path, tmp_path / "study")
    page = show(output)
    assert page.locator("#trials tbody tr").count() == 9
    page.locator("#trials th button", has_text="value").click()
    best = min(data["study"]["trials"], key=lambda t: t["value"])["number"]
    expect(page.locator("#trials tbody tr").first.locator("td").first).to_have_text(str(best))
    page.locator("#trials tbody tr", has_text="8").first.click()
    expect(page.locator("#why svg")).to_have_count(2)
    expect(page.locator("#importance")).to_contain_text("x")


def test_text_is_never_markup(tmp_path, show):
    hostile = "</script><img src=x onerror=alert(1)>/*DATA*/"
    run = {"name": hostile, "settings": {"data": hostile}, "metric": "bits_per_byte", "higher_is_better": False}
    metrics = [{"step": 1, "val_loss": 1.0, "bits_per_byte": 1.0, "sample": hostile}]
    data = {"title": hostile, "model": None, "runs": [run | {"metrics": metrics}], "study": None}
    path = tmp_path / "page.html"
    path.write_text(build_page(data), encoding="utf-8")
    page = show(path)
    expect(page.locator("body")).to_contain_text(hostile)
    assert page.locator("img").count() == 0
