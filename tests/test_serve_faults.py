"""What a server survives: clients that leave, bursts, wrong keys, signals, and whatever its own schema allows."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
import time

import httpx
import pytest
import schemathesis
from conftest import assert_refused, run_in_process
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from serving import models, serve, server  # noqa: F401, fixtures
from starlette.exceptions import HTTPException

from mingpt.serve import middleware

pytestmark = pytest.mark.xdist_group("serve")
LONG = {"model": "fox", "prompt": "1: ", "max_tokens": 16000, "temperature": 1}


def complete(url: str, **fields) -> httpx.Response:
    body = {"model": "fox", "prompt": "1: the", "max_tokens": 8, **fields}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=60)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_frees_its_row(models, is_stream):  # noqa: F811
    with serve(models, "out/fox", "--max_batch", 1, "--max_queue", 1) as running:
        host, port = running.url.removeprefix("http://").split(":")
        content = json.dumps(LONG | {"stream": is_stream}).encode()
        for _ in range(4):
            with socket.create_connection((host, int(port))) as connection:
                head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
                connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
                if is_stream:
                    assert connection.recv(15) == b"HTTP/1.1 200 OK"
                else:
                    time.sleep(0.1)
            began = time.monotonic()
            assert complete(running.url).status_code == 200  # it waits for the row, and is not refused
            assert time.monotonic() - began < 5  # 16,000 tokens would take longer


def test_a_burst_is_answered_or_refused_and_the_server_goes_on(server):  # noqa: F811
    async def burst() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=300)
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
            body = {"model": "fox", "prompt": "1: the", "max_tokens": 40}
            posts = (client.post("/v1/completions", json=body) for _ in range(300))
            return await asyncio.gather(*posts)

    responses = asyncio.run(burst())
    statuses = [response.status_code for response in responses]
    assert statuses.count(200) >= 96 and set(statuses) <= {200, 429}
    assert complete(server.url).status_code == 200


def test_requests_need_the_key_everywhere_but_for_health(models):  # noqa: F811
    with serve(models, "out/fox", MINGPT_API_KEY="secret") as running:
        basic = base64.b64encode(b"anybody:secret").decode()
        wrong = ["", "Bearer", "Bearer wrong", "Bearer secret2", "Bearer secre", "Basic !!", "Basic c2VjcmV0", "secret"]
        for path in ("/", "/app.js", "/docs", "/openapi.json", "/v1/models", "/v1/nothing"):
            for header in wrong:
                headers = {"authorization": header} if header else {}
                response = httpx.get(running.url + path, headers=headers)
                assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"].startswith("Basic")
        for header in ("Bearer secret", f"Basic {basic}"):
            assert httpx.get(f"{running.url}/v1/models", headers={"authorization": header}).status_code == 200
        assert httpx.get(f"{running.url}/health").status_code == 200
        assert complete(running.url).status_code == 401


def test_other_origins_are_allowed_only_where_asked_for(models, server):  # noqa: F811
    preflight = {"origin": "http://page.example", "access-control-request-method": "POST"}
    refused = httpx.options(f"{server.url}/v1/completions", headers=preflight)
    assert "access-control-allow-origin" not in refused.headers
    with serve(models, "out/fox", "--cors", "http://page.example", "--api_key", "k") as running:
        allowed = httpx.options(f"{running.url}/v1/completions", headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == "http://page.example"
        other = httpx.options(f"{running.url}/v1/completions", headers=preflight | {"origin": "http://b.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_streams_end_before_the_server_does(models, number):  # noqa: F811
    with serve(models, "out/fox") as running:
        body = LONG | {"max_tokens": 1500, "stream": True}
        with httpx.stream("POST", f"{running.url}/v1/completions", json=body, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            running.process.send_signal(number)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]" and json.loads(rest[-2][6:])["choices"][0]["finish_reason"] == "length"
        assert running.process.wait(20) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(running.url)


def test_a_request_ends_at_its_timeout(models):  # noqa: F811
    with serve(models, "out/fox", "--timeout", 1.5) as running:
        response = complete(running.url, **LONG)
        assert response.status_code == 504 and response.json()["error"]["code"] == "timeout"
        assert response.headers["x-should-retry"] == "false"
        with httpx.stream("POST", f"{running.url}/v1/completions", json=LONG | {"stream": True}) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"
        assert complete(running.url).status_code == 200


def test_what_cannot_be_served_is_said_in_a_line(models, server):  # noqa: F811
    def refused(*arguments) -> tuple:
        return run_in_process(*arguments, cwd=models, module="mingpt.serve.__main__")

    assert_refused(refused(), "FOLDERS: is missing")
    assert_refused(refused("out/fox", "--host", "0.0.0.0"), "--host 0.0.0.0: is not loopback and needs --api_key")
    assert_refused(refused("out/fox", "out/fox"), "fox: two folders have this name")
    assert_refused(refused("out/wolf"), "out/wolf")
    assert_refused(refused("out/fox", "--port", server.url.rpartition(":")[2]), "Address already in use")
    assert_refused(refused("out/fox", "--port", 70000), "--port 70000")


def test_a_body_must_arrive_in_time(monkeypatch):
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.2)

    async def trickle():
        await asyncio.sleep(0.15)
        return {"type": "http.request", "body": b"a", "more_body": True}

    async def read():
        receive = middleware.limit_body(trickle)
        while True:
            await receive()

    with pytest.raises(HTTPException) as late:
        asyncio.run(read())
    assert late.value.status_code == 408


def test_pages_of_other_sites_are_refused(server, models):  # noqa: F811
    def post(url: str, **headers: str) -> int:
        headers = {"content-type": "application/json", **headers}
        return httpx.post(
            f"{url}/v1/completions", content=json.dumps(LONG | {"max_tokens": 1}), headers=headers
        ).status_code

    own = server.url.removeprefix("http://")
    assert post(server.url, origin=server.url) == 200
    assert post(server.url, origin="http://evil.example") == 403
    assert post(server.url, origin="null") == 403
    assert post(server.url, host=f"evil.example:{own.rpartition(':')[2]}") == 400
    assert post(server.url, host="localhost") == 200
    with serve(models, "out/fox", "--api_key", "k") as running:
        for host in ("a/health?", "/health", "[", "a/health#"):
            with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as connection:
                connection.sendall(f"GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
                assert connection.recv(12)[9:] in (b"401", b"400")
        assert post(running.url, authorization="Bearer k", origin="http://evil.example") == 403


MODELS = {"/v1/completions": "fox", "/v1/chat/completions": "talk", "/v1/classify": "rows"}


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("path", MODELS)
def test_whatever_the_schema_allows_or_forbids_is_answered_as_it_says(server, path, mode):  # noqa: F811
    operation = schemathesis.openapi.from_url(f"{server.url}/openapi.json")[path]["POST"]

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def call(case):
        if isinstance(case.body, dict):
            if isinstance(case.body.get("model"), str):
                case.body["model"] = MODELS[path]  # another is not found, whatever else is in the body
            for name in ("max_tokens", "max_completion_tokens"):
                if isinstance(case.body.get(name), int):
                    case.body[name] = min(case.body[name], 5)
        # what the schema cannot say: token ids below the vocabulary's size, the tokenizer's characters, the context
        case.call_and_validate(excluded_checks=[schemathesis.checks.positive_data_acceptance])

    call()
