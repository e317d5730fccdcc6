"""What the HTTP API refuses: the form of its errors, and what OpenAI's client makes of them."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from serving import models, serve, server  # noqa: F401, fixtures

pytestmark = pytest.mark.xdist_group("serve")
QUESTION = [{"role": "user", "content": "how many foxes are 3?"}]


REFUSED = {
    "another type": (
        "completions",
        {"prompt": 7},
        400,
        "prompt",
        "prompt: Input should be a valid string or a valid list",
    ),
    "an object": ("completions", {"prompt": "a", "temperature": "hot"}, 400, "temperature", "a valid number"),
    "out of range": ("completions", {"prompt": "a", "temperature": 3}, 400, "temperature", "less than or equal to 2"),
    "a token id": ("completions", {"prompt": [1, 41]}, 400, "prompt", "below 41"),
    "no prompt": ("completions", {}, 400, "prompt", "Field required"),
    "a character": ("completions", {"prompt": "\u4e2d"}, 400, "prompt", "U+4E2D"),
    "too long": ("completions", {"prompt": "a" * 65}, 400, "prompt", "64 tokens, and the prompt has 65"),
    "too many stops": ("completions", {"prompt": "a", "stop": list("abcde")}, 400, "stop", "at most 4"),
    "too many answers": ("completions", {"prompt": ["a"] * 20, "n": 20}, 400, "n", "at most 96"),
    "half a character": ("completions", {"prompt": "\ud800"}, 400, "prompt", "lone surrogate"),
    "unknown model": ("completions", {"model": "../fox", "prompt": "a"}, 404, "model", "'../fox' does not exist"),
    "a label model": ("completions", {"model": "rows", "prompt": "a"}, 400, "model", "use /v1/classify"),
    "no messages": ("chat/completions", {"model": "talk", "messages": []}, 400, "messages", "at least 1"),
    "a role": (
        "chat/completions",
        {"model": "talk", "messages": [{"role": "king", "content": "a"}]},
        400,
        "messages",
        "messages.0.role",
    ),
    "no content": ("chat/completions", {"model": "talk", "messages": [{"role": "user"}]}, 400, "messages", "content"),
    "a long message": (
        "chat/completions",
        {"model": "talk", "messages": [{"role": "user", "content": "fox " * 99}]},
        400,
        "messages",
        "64 tokens, and the messages have",
    ),
    "no chat model": ("chat/completions", {"messages": QUESTION}, 400, "model", "use /v1/completions"),
    "no label model": ("classify", {"input": "a"}, 400, "model", "use /v1/completions"),
    "an empty text": ("classify", {"model": "rows", "input": [""]}, 400, "input", "input.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_the_field(server, name):  # noqa: F811
    route, fields, status, param, message = REFUSED[name]
    content = json.dumps({"model": "fox", **fields})
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{server.url}/v1/{route}", content=content, headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert message in error["message"] and set(error) == {"message", "type", "param", "code"}


def test_malformed_requests_are_errors_in_the_same_form(server):  # noqa: F811
    def post(**options):
        return httpx.post(f"{server.url}/v1/completions", **options)

    cases = [
        (post(content=b"{", headers={"content-type": "application/json"}), 400, "not valid JSON"),
        (post(content=b"[]", headers={"content-type": "application/json"}), 400, "The body: "),
        (post(content=b"\xff\xfe", headers={"content-type": "application/json"}), 400, ""),
        (post(content=b"a=b", headers={"content-type": "application/x-www-form-urlencoded"}), 400, ""),
        (post(json={"model": "fox", "prompt": "a" * (5 << 20)}), 413, "4,194,304"),
        (post(content=(b"a" * 65536 for _ in range(80))), 413, "4,194,304"),
        (httpx.get(f"{server.url}/v1/completions"), 405, "Method Not Allowed"),
        (httpx.get(f"{server.url}/etc/passwd"), 404, "Not Found"),
        (httpx.get(f"{server.url}/..%2f..%2fsetup.cfg"), 404, ""),
        (httpx.get(f"{server.url}/v1/models/..%2fout"), 404, ""),
        (httpx.get(f"{server.url}/v1/models", headers={"host": "evil.example"}), 400, "evil.example"),
    ]
    for response, status, message in cases:
        assert response.status_code == status and message in response.json()["error"]["message"], response.text
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}


def test_the_clients_errors_and_retries(server):  # noqa: F811
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        with pytest.raises(openai.NotFoundError) as not_found:
            client.completions.create(model="wolf", prompt="a")
        assert not_found.value.code == "model_not_found" and "fox" in not_found.value.message
        with pytest.raises(openai.BadRequestError) as bad:
            client.completions.create(model="fox", prompt="a", max_tokens=-1)
        assert bad.value.param == "max_tokens"


def test_a_full_queue_is_429_with_retry_after_and_the_client_tries_again(models):  # noqa: F811
    with serve(models, "out/fox", "--max_batch", 1, "--max_queue", 0) as running:
        body = {"model": "fox", "prompt": "a", "max_tokens": 16000, "stream": True}
        with httpx.stream("POST", f"{running.url}/v1/completions", json=body) as stream:
            lines = stream.iter_lines()  # which closes the stream where it is no longer referred to
            next(lines)
            refused = httpx.post(f"{running.url}/v1/completions", json=body)
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "queue_full"
            with (
                openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
                pytest.raises(openai.RateLimitError),
            ):
                client.completions.create(model="fox", prompt="a")
        # the stream was closed: its row is free within a token, and the client's own retries find it so
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=3) as client:
            assert len(client.completions.create(model="fox", prompt="a", max_tokens=3).choices[0].text) == 3
