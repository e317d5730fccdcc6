"""The page /explain of the server: what it answers is what mingpt.explain computes, and the page follows the files."""

from __future__ import annotations

import json
import shutil

import httpx
import pytest
from playwright.sync_api import expect
from serving import models, serve, server  # noqa: F401, fixtures
from test_page import browser  # noqa: F401, a fixture

from mingpt.explain.activations import explain_model
from mingpt.explain.runs import explain_suggestions, read_run
from mingpt.tuning import Choice, Float, Space, Study
from mingpt.tuning.journal import Journal

pytestmark = pytest.mark.xdist_group("serve")


@pytest.fixture
def live(models, tmp_path):  # noqa: F811
    """A folder out/ with a run that has made one evaluation, a finished one, and a study; and its running server."""
    out = tmp_path / "out"
    for name in ("fox", "rows"):
        shutil.copytree(models / "out" / name, out / name)
    metrics = out / "fox/metrics.jsonl"
    metrics.write_text(metrics.read_text(encoding="utf-8").splitlines(keepends=True)[0], encoding="utf-8")
    (out / "notes.txt").write_text("not a folder", encoding="utf-8")
    (out / "empty").mkdir()
    with serve(tmp_path, "out/") as running:
        yield running, out


def start_study(folder) -> Study:
    space = Space({"x": Float(1e-3, 1, log=True), "kind": Choice("a", "b")})
    journal = Journal(folder, {"space": space.as_text(), "first": 1, "asked": {}})
    return Study(space, first=[{"x": 0.1, "kind": "a"}], journal=journal)


def make_trials(study: Study, count: int) -> None:
    for _ in range(count):
        trial = study.ask()
        study.tell(trial, trial.config["x"] + (trial.config["kind"] == "a"))


def test_a_folder_of_runs_is_served_with_all_that_is_in_it(live):
    running, out = live
    assert [model["id"] for model in httpx.get(f"{running.url}/v1/models").json()["data"]] == ["fox", "rows"]
    study = start_study(out / "study")
    study.journal.close()
    listed = {entry["id"]: entry for entry in httpx.get(f"{running.url}/v1/explain").json()["data"]}
    assert {name: [p for p in ("model", "run", "study") if entry[p]] for name, entry in listed.items()} == {
        "fox": ["model", "run"],
        "rows": ["model", "run"],
        "study": ["study"],
    }
    answer = httpx.get(f"{running.url}/v1/explain/rows").json()
    assert answer["study"] is None and answer["run"] == read_run(out / "rows") | {"name": "out/rows"}


def test_it_explains_as_the_command_does(server, models):  # noqa: F811
    body = {"model": "fox", "text": "7: the quick", "layer": 1}
    answer = httpx.post(f"{server.url}/v1/explain", json=body).json()
    expected = json.loads(json.dumps(explain_model(str(models / "out/fox"), "7: the quick", layer=1)))
    assert set(answer) == set(expected) and answer["tokens"] == expected["tokens"] and answer["text"] == "7: the quick"
    assert answer["nll"][1:] == pytest.approx(expected["nll"][1:], rel=1e-4)
    assert answer["row"]["layer"] == 1 and answer["row"]["weights"] == pytest.approx(
        expected["row"]["weights"], abs=1e-4
    )


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"model": "wolf"}, 404, "'wolf' does not exist"),
        ({"model": "../out/fox"}, 404, "does not exist"),
        ({"layer": 2}, 400, "layer 2: the model has 2"),
        ({"layer": -1}, 400, "layer: Input should be greater than or equal to 0"),
        ({"text": ""}, 400, "text: String should have at least 1 character"),
        ({"text": "\u4e2d"}, 400, "U+4E2D"),
        ({"text": "a" * 65}, 400, "has 65 tokens; at most 64"),
    ],
)
def test_what_cannot_be_explained_is_said(server, fields, status, message):  # noqa: F811
    response = httpx.post(f"{server.url}/v1/explain", json={"model": "fox", "text": "7", **fields})
    assert response.status_code == status and message in response.json()["error"]["message"]


def test_other_files_of_the_machine_are_not_read(server):  # noqa: F811
    for path in ("/v1/explain/wolf", "/v1/explain/wolf/0", "/standalone.html"):
        assert httpx.get(f"{server.url}{path}").status_code == 404


def test_the_page_follows_a_run_and_a_study(live, models, browser):  # noqa: F811
    running, out = live
    study = start_study(out / "study")
    make_trials(study, 3)
    problems = []
    page = browser.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(f"{running.url}/#model=fox&view=write")
    page.get_by_role("link", name="Look inside").click()
    written = json.loads((models / "out/fox/metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])["sample"]
    expect(page.locator("#text")).to_have_value(written[:40].strip())
    expect(page.locator("#tokens .token")).to_have_count(len(written[:40].strip()))
    page.locator("#text").fill("7: the")
    page.locator("#model-form .primary").click()
    expect(page.locator("#tokens .token")).to_have_count(6)
    expect(page.locator("#run-name")).to_have_values(["fox"])
    expect(page.locator("#legend")).to_contain_text("at step 10")
    expect(page.locator("#trials tbody tr")).to_have_count(3)
    page.locator("#trials tbody tr").nth(1).click()
    page.locator("#trials th button", has_text="value").click()

    shutil.copy(models / "out/fox/metrics.jsonl", out / "fox/new")
    (out / "fox/new").replace(out / "fox/metrics.jsonl")  # as a run writes it
    expect(page.locator("#legend")).to_contain_text("at step 30", timeout=20_000)
    make_trials(study, 2)
    expect(page.locator("#trials tbody tr")).to_have_count(5, timeout=20_000)
    study.journal.close()
    expect(page.locator("#trial h3").first).to_contain_text("Trial 1")  # what was selected stays
    assert page.locator("#trials th").nth(2).get_attribute("aria-sort") == "ascending"
    expect(page.locator("#tokens .token")).to_have_count(6)
    page.locator("#run-name").select_option(["fox", "rows"])
    expect(page.locator("#settings-diff")).to_contain_text("classify")
    assert not problems
    running.process.terminate()
    expect(page.locator("#problem")).to_contain_text("cannot be reached", timeout=20_000)
    page.close()


def test_a_study_alone_opens_the_page(tmp_path, browser):  # noqa: F811
    study = start_study(tmp_path / "tuned")
    make_trials(study, 2)
    study.journal.close()
    with serve(tmp_path, "tuned") as running:
        page = browser.new_page()
        page.goto(running.url)
        expect(page.locator("#trials tbody tr")).to_have_count(2)
        assert page.url == f"{running.url}/explain"
        expect(page.locator("#model-form")).to_be_hidden()
        page.close()


def test_a_damaged_model_does_not_keep_the_others_from_being_served(models, tmp_path):  # noqa: F811
    for name in ("fox", "rows"):
        shutil.copytree(models / "out" / name, tmp_path / "out" / name)
    (tmp_path / "out/fox/model.safetensors").write_bytes(b"damaged")
    (tmp_path / "out/rows/train.json").write_text("{}", encoding="utf-8")
    with serve(tmp_path, "out") as running:
        assert [model["id"] for model in httpx.get(f"{running.url}/v1/models").json()["data"]] == ["rows"]
        answer = httpx.get(f"{running.url}/v1/explain/rows")
        assert answer.status_code == 400 and "is not of a run of mingpt" in answer.json()["error"]["message"]
        answer = httpx.post(f"{running.url}/v1/explain", json={"model": "fox", "text": "7"})
        assert answer.status_code == 400 and "fox" in answer.json()["error"]["message"]
    assert "note: out/fox is not served" in (tmp_path / "server.log").read_text(encoding="utf-8")


def test_a_trial_is_explained_as_the_journal_says(live):
    running, out = live
    study = start_study(out / "study")
    make_trials(study, 6)
    study.journal.close()
    expected = json.loads(json.dumps(explain_suggestions(out / "study", [5])[5]))
    assert httpx.get(f"{running.url}/v1/explain/study/5").json() == expected and "slices" in expected
    assert httpx.get(f"{running.url}/v1/explain/study/6").status_code == 404
    assert httpx.get(f"{running.url}/v1/explain/study/-1").status_code == 404
    assert httpx.get(f"{running.url}/v1/explain/fox/0").status_code == 404
