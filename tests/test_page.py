"""The page of the server in a real Chromium, against the API's own answers."""

from __future__ import annotations

import csv
import shutil
import time

import httpx
import pytest
from conftest import wait_until
from playwright.sync_api import expect, sync_playwright
from serving import models, serve, server  # noqa: F401, fixtures

pytestmark = pytest.mark.xdist_group("serve")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# without these it looks for the network at each start
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")  # while it is open, asyncio cannot be used in this thread
def browser():
    assert CHROMIUM, "these tests need Chromium, such as Debian's package chromium"
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, server):  # noqa: F811
    """A new visitor's page, on which no error is logged."""
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.problems = problems
    page.goto(server.url)
    page.wait_for_function("document.querySelector('#about').textContent != ''")
    yield page
    context.close()
    assert not [problem for problem in problems if "status of 4" not in problem]


def completion(server, **fields) -> str:  # noqa: F811
    body = {"model": "fox", "max_tokens": 20, "temperature": 0, **fields}
    return httpx.post(f"{server.url}/v1/completions", json=body).json()["choices"][0]["text"]


def set_greedy(page, max_tokens: int) -> None:
    page.locator("#settings summary").click()
    page.locator("[name=temperature]").fill("0")
    page.locator("[name=max_tokens]").fill(str(max_tokens))


def test_it_says_what_each_model_is_and_keeps_it_over_a_reload(page):
    assert page.locator("#model option").all_text_contents() == ["fox", "talk", "rows", "stars"]
    expect(page.locator("#about")).to_contain_text("task text")
    expect(page.locator("#about")).to_contain_text("2 layers x 32")
    expect(page.locator("#about")).to_contain_text("fox.txt")
    page.locator("#model").select_option("rows")
    expect(page.locator("#about")).to_contain_text("accuracy")
    expect(page.locator("#tab-label")).to_be_visible()
    expect(page.locator("#tab-write")).to_be_hidden()
    page.reload()
    expect(page.locator("#model")).to_have_value("rows")


def test_it_writes_what_the_api_writes_with_the_alternatives_of_each_token(page, server):  # noqa: F811
    set_greedy(page, 20)
    page.locator("#prompt").fill("7: the ")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("#write-status")).to_contain_text("20 tokens")
    expected = completion(server, prompt="7: the ")
    assert page.locator("#output").text_content() == expected
    tokens = page.locator("#output .token")
    assert tokens.count() == 20
    page.locator("#output").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(tokens.nth(2)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#alternatives")).to_contain_text(f'"{expected[2]}"')
    assert page.locator("#alternatives li").count() == 5
    tokens.nth(4).hover()
    expect(tokens.nth(4)).to_have_attribute("aria-selected", "true")
    page.locator("#continue").click()
    expect(page.locator("#prompt")).to_have_value("7: the " + expected)


def test_it_stops_and_says_errors_in_words(page):
    page.locator("#settings summary").click()
    page.locator("[name=max_tokens]").fill("16000")
    page.locator("#prompt").fill("1")
    page.locator("#generate").click()
    expect(page.locator("#output .token").nth(5)).to_be_attached()
    page.keyboard.press("Escape")
    expect(page.locator("#write-status")).to_contain_text("stopped")
    count = page.locator("#output .token").count()
    time.sleep(0.3)
    assert page.locator("#output .token").count() == count < 16000
    page.locator("#prompt").fill("\u4e2d")
    page.locator("#generate").click()
    expect(page.locator("#error")).to_contain_text("U+4E2D")
    page.locator("[name=temperature]").fill("9")
    page.locator("#generate").click()
    expect(page.locator("#error")).to_contain_text("0 to 2")


def test_a_conversation_survives_a_reload_and_can_be_edited_and_regenerated(page):
    page.locator("#model").select_option("talk")
    set_greedy(page, 10)
    for text in ("how many foxes are 3?", "how many foxes are 4?"):
        page.locator("#message").fill(text)
        page.locator("#message").press("Enter")
        expect(page.locator("#chat-log")).to_have_attribute("aria-busy", "false")
        expect(page.locator(".turn").last).to_have_attribute("data-role", "assistant")
    turns = page.locator(".turn p").all_text_contents()
    assert len(turns) == 4 and turns[0] == "how many foxes are 3?" and turns[3]
    page.reload()
    expect(page.locator(".turn")).to_have_count(4)
    assert page.locator(".turn p").all_text_contents() == turns
    page.locator("#regenerate").click()
    expect(page.locator("#chat-log")).to_have_attribute("aria-busy", "false")
    wait_until(lambda: page.locator(".turn p").all_text_contents() == turns, 10)  # greedy: the same again
    page.locator(".edit").first.click()
    expect(page.locator("#message")).to_have_value("how many foxes are 3?")
    page.locator("#message").fill("<img src=x onerror=alert(1)>")
    page.locator("#send").click()
    expect(page.locator(".turn p").first).to_have_text("<img src=x onerror=alert(1)>")
    expect(page.locator(".turn")).to_have_count(2)
    assert page.locator(".turn img").count() == 0
    page.locator("#new-chat").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_a_conversation_that_exceeds_the_context_goes_on_without_its_oldest_turns(page):
    page.locator("#model").select_option("talk")
    set_greedy(page, 4)
    for i in range(9):
        page.locator("#message").fill(f"how many foxes are {i}?")
        page.locator("#message").press("Enter")
        expect(page.locator("#chat-log")).to_have_attribute("aria-busy", "false")
        expect(page.locator(".turn")).to_have_count(2 * i + 2)
    expect(page.locator("#chat-status")).to_contain_text("left out")
    expect(page.locator("#error")).to_be_empty()


def test_it_labels_a_text_and_the_rows_of_a_table(page, server, tmp_path):  # noqa: F811
    page.locator("#model").select_option("rows")
    page.locator("#text").fill("the 3 cats run")
    page.locator("#classify").click()
    body = {"model": "rows", "input": "the 3 cats run"}
    expected = httpx.post(f"{server.url}/v1/classify", json=body).json()["data"][0]
    expect(page.locator("#value")).to_have_text(expected["label"])
    expect(page.locator("#bars li").first).to_contain_text(f"{100 * max(expected['probabilities'].values()):.1f} %")
    rows = [
        ["id", "text", "prediction"],
        ["1", 'the "3" cats, run\nto', "x"],
        ["2", "", "y"],
        ["3", "\u4e2d\u6587 run", "z"],
    ]
    rows += [[str(i), f"the {i} cats", ""] for i in range(4, 100)]
    with open(tmp_path / "rows.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";", lineterminator="\r\n").writerows(rows)
    page.locator("#file").set_input_files(tmp_path / "rows.csv")
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "predicted.csv")
    text = (tmp_path / "predicted.csv").read_text(encoding="utf-8-sig")
    written = list(csv.reader(text.splitlines(keepends=True), delimiter=";"))
    assert written[0] == ["id", "text", "prediction", "prediction_2", "probability_2"]
    assert [row[:3] for row in written] == rows
    inputs = [row[1] for row in rows[1:]]
    readable = [i for i, value in enumerate(inputs) if value]
    body = {"model": "rows", "input": [inputs[i] for i in readable]}
    data = httpx.post(f"{server.url}/v1/classify", json=body).json()["data"]
    for i, item in zip(readable, data, strict=True):
        assert written[i + 1][3] == item["label"]
    assert written[2][3:] == ["", ""]
    page.locator("#model").select_option("stars")
    page.locator("#text").fill("the 3 cats run")
    page.locator("#classify").click()
    value = httpx.post(f"{server.url}/v1/classify", json={"model": "stars", "input": "the 3 cats run"}).json()
    expect(page.locator("#value")).to_contain_text(f"{value['data'][0]['value']:.4f}"[:4])


def test_the_documentation_lists_the_routes_without_the_network(page, server):  # noqa: F811
    page.goto(f"{server.url}/docs")
    for route in httpx.get(f"{server.url}/openapi.json").json()["paths"]:
        expect(page.locator("main")).to_contain_text(route)
    expect(page.locator("main")).to_contain_text("sampling temperature")


def test_a_server_that_is_gone_is_said_in_words(browser, models):  # noqa: F811
    with serve(models, "out/fox") as running:
        page = browser.new_page()
        page.goto(running.url)
        expect(page.locator("#about")).to_contain_text("task text")
        running.process.kill()
        running.process.wait()
        page.locator("#prompt").fill("1")
        page.locator("#generate").click()
        expect(page.locator("#error")).to_contain_text("cannot be reached")
        page.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 1000), ("light", 360), ("dark", 360)])
def test_it_fits_the_screen(browser, server, scheme, width):  # noqa: F811
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 700})
    page = context.new_page()
    for model in ("fox", "talk", "rows"):
        page.goto(f"{server.url}/#model={model}")
        expect(page.locator("#model")).to_have_value(model)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
