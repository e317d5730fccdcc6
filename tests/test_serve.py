"""The HTTP API, spoken by OpenAI's own client and by httpx, against the functions that the commands use."""

from __future__ import annotations

import asyncio
import json

import httpx
import openai
import pytest
import torch
from conftest import run_in_process
from serving import models, serve, server  # noqa: F401, fixtures

from mingpt import GPT, load_tokenizer
from mingpt.data.dialogue import encode_prompt
from mingpt.generation.decoding import generate

pytestmark = pytest.mark.xdist_group("serve")
PROMPT = "7: the quick "
QUESTION = [{"role": "user", "content": "how many foxes are 3?"}]


@pytest.fixture
def client(server):  # noqa: F811
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as c:
        yield c


@pytest.fixture(scope="session")
def fox(models):  # noqa: F811
    return GPT.from_pretrained(models / "out/fox"), load_tokenizer(models / "out/fox")


def generated(model, ids, n, **options) -> list[int]:
    return torch.cat(list(generate(model, [ids], n, **options)), dim=1)[0].tolist()


def test_models_are_listed_with_what_they_are(client, models):  # noqa: F811
    listed = {model.id: model for model in client.models.list()}
    assert list(listed) == ["fox", "talk", "rows", "stars"]
    assert [model.task for model in listed.values()] == ["text", "chat", "classify", "regress"]
    fox = client.models.retrieve("fox")
    assert fox == listed["fox"] and fox.object == "model" and fox.owned_by == "mingpt"
    assert (fox.context_length, fox.n_layer, fox.n_embd, fox.dtype) == (64, 2, 32, "float32")
    network = GPT.from_pretrained(models / "out/fox")
    assert fox.parameters == sum(parameter.numel() for parameter in network.parameters())
    rows = [json.loads(line) for line in (models / "out/fox/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    best = min(row["bits_per_byte"] for row in rows)
    assert fox.training["data"] == "fox.txt" and fox.training["value"] == best
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("wolf")


@pytest.mark.parametrize("options", [dict(temperature=0), dict(temperature=0.9, top_p=0.9, seed=5)])
def test_a_completion_is_the_text_that_generate_gives(client, fox, options):
    model, tokenizer = fox
    expected = tokenizer.decode(generated(model, tokenizer.encode(PROMPT), 80, **options))
    answer = client.completions.create(model="fox", prompt=PROMPT, max_tokens=80, **options)
    assert answer.choices[0].text == expected and answer.choices[0].finish_reason == "length"
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": len(PROMPT),
        "completion_tokens": 80,
        "total_tokens": len(PROMPT) + 80,
    }
    assert answer.object == "text_completion" and answer.id and answer.created > 1e9 and answer.model == "fox"
    pieces = [*client.completions.create(model="fox", prompt=PROMPT, max_tokens=80, stream=True, **options)]
    assert "".join(piece.choices[0].text for piece in pieces) == expected
    assert [piece.choices[0].finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert len({piece.id for piece in pieces}) == 1
    ids = client.completions.create(model="fox", prompt=tokenizer.encode(PROMPT), max_tokens=80, **options)
    assert ids.choices[0].text == expected


def test_top_k_and_the_other_options_are_those_of_generate(client, fox):
    model, tokenizer = fox
    ours = dict(top_k=3, min_p=0.01, repetition_penalty=1.2)
    expected = generated(model, tokenizer.encode(PROMPT), 30, seed=1, temperature=1.5, **ours)
    answer = client.completions.create(
        model="fox", prompt=PROMPT, max_tokens=30, seed=1, temperature=1.5, extra_body=ours
    )
    assert answer.choices[0].text == tokenizer.decode(expected)


def test_defaults_are_those_of_openai(client, fox):
    model, tokenizer = fox
    answer = client.completions.create(model="fox", prompt=PROMPT, seed=3)
    assert answer.choices[0].text == tokenizer.decode(generated(model, tokenizer.encode(PROMPT), 16, seed=3))
    null = dict.fromkeys(("max_tokens", "temperature", "top_p", "stop", "n", "logprobs", "stream", "echo"))
    body = {"model": "fox", "prompt": PROMPT, "seed": 3, "unknown": {"field": 1}, **null}
    again = httpx.post(f"{client.base_url}completions", json=body).json()
    assert again["choices"][0]["text"] == answer.choices[0].text and again["choices"][0]["logprobs"] is None


def test_several_prompts_and_several_answers(client):
    def ask(**fields):
        return client.completions.create(model="fox", max_tokens=12, temperature=1, seed=2, **fields).choices

    both = ask(prompt=["1: the", "2: the"], n=3)
    assert [choice.index for choice in both] == [0, 1, 2, 3, 4, 5]
    assert len({choice.text for choice in both[:3]}) > 1
    assert [choice.text for choice in both[:3]] == [choice.text for choice in ask(prompt="1: the", n=3)]
    stream = client.completions.create(
        model="fox", prompt=["1: the", "2: the"], n=3, max_tokens=12, temperature=1, seed=2, stream=True
    )
    texts = [""] * 6
    for piece in stream:
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == [choice.text for choice in both]


def test_stop_strings_end_a_text_before_them(client):
    whole = client.completions.create(model="fox", prompt=PROMPT, max_tokens=60, temperature=0).choices[0].text
    for stop in (whole[10:13], [whole[30:34], whole[10:13], "never"]):
        answer = client.completions.create(model="fox", prompt=PROMPT, max_tokens=60, temperature=0, stop=stop)
        first = min(whole.index(s) for s in ([stop] if isinstance(stop, str) else stop) if s in whole)
        assert answer.choices[0].text == whole[:first] and answer.choices[0].finish_reason == "stop"
    pieces = client.completions.create(
        model="fox", prompt=PROMPT, max_tokens=60, temperature=0, stop=whole[10:13], stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces) == whole[: whole.index(whole[10:13])]


def test_echo_with_logprobs_is_the_log_likelihood_of_the_text(client, fox, models):  # noqa: F811
    model, tokenizer = fox
    text = (models / "fox.txt").read_text(encoding="utf-8")[:60]
    answer = client.completions.create(model="fox", prompt=text, max_tokens=0, echo=True, logprobs=2).choices[0]
    ids = tokenizer.encode(text)
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0].log_softmax(-1)
    assert answer.text == text and answer.logprobs.tokens == list(text) and answer.logprobs.token_logprobs[0] is None
    given = torch.tensor(answer.logprobs.token_logprobs[1:])
    torch.testing.assert_close(given, expected[range(59), ids[1:]], rtol=1e-5, atol=1e-5)
    assert answer.logprobs.text_offset == list(range(60))
    top = answer.logprobs.top_logprobs[1:]
    assert all(
        max(alternatives.values()) == pytest.approx(row.max().item(), abs=1e-4)
        for alternatives, row in zip(top, expected[:59], strict=True)
    )
    (models / "part.txt").write_text(text, encoding="utf-8")
    printed = run_in_process("out/fox", "--data", "part.txt", cwd=models, module="mingpt.evaluate").stdout
    nll = float(printed.split("nll")[1].split()[0])
    assert nll == pytest.approx(-given.mean().item(), rel=1e-4)
    with_one = client.completions.create(model="fox", prompt=text, max_tokens=1, echo=True, logprobs=1, temperature=0)
    assert len(with_one.choices[0].logprobs.token_logprobs) == 61


def test_a_chat_answers_as_the_command_does(client, models):  # noqa: F811
    model, tokenizer = GPT.from_pretrained(models / "out/talk"), load_tokenizer(models / "out/talk")
    ids, _ = encode_prompt(tokenizer, QUESTION, 60)
    new = generated(model, ids, 63 - len(ids), temperature=0)
    ends = [i for i, token in enumerate(new) if token in tokenizer.special_ids.values()]
    expected = tokenizer.decode(new[: ends[0]] if ends else new).lstrip(" ")
    answer = client.chat.completions.create(model="talk", messages=QUESTION, temperature=0)
    assert answer.object == "chat.completion" and answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == ("stop" if ends else "length")
    assert answer.usage.prompt_tokens == len(ids)
    stream = client.chat.completions.create(
        model="talk", messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    pieces = list(stream)
    assert pieces[0].choices[0].delta.role == "assistant" and pieces[0].object == "chat.completion.chunk"
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == expected
    assert pieces[-1].usage == answer.usage and pieces[-1].choices == []
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]}]
    again = client.chat.completions.create(model="talk", messages=parts, temperature=0, max_completion_tokens=2)
    assert expected.startswith(again.choices[0].message.content) and again.choices[0].finish_reason == "length"


def test_a_stop_string_of_a_chat_does_not_match_the_space_before_the_content(client):
    whole = client.chat.completions.create(model="talk", messages=QUESTION, temperature=0, max_tokens=20)
    content = whole.choices[0].message.content
    answer = client.chat.completions.create(model="talk", messages=QUESTION, temperature=0, max_tokens=20, stop=" ")
    assert answer.choices[0].message.content == content.partition(" ")[0] != ""


def test_log_probabilities_of_a_chat(client):
    answer = client.chat.completions.create(
        model="talk", messages=QUESTION, temperature=0, logprobs=True, top_logprobs=2, max_tokens=5
    ).choices[0]
    content = answer.logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in content).decode().lstrip(" ") == answer.message.content
    assert all(entry.logprob == pytest.approx(entry.top_logprobs[0].logprob) for entry in content)


def test_labels_and_numbers_are_those_of_predict(server, models):  # noqa: F811
    texts = ["the 3 cats run to 3", "the 8 cats run 4", "to to"]
    for name in ("rows", "stars"):
        body = httpx.post(f"{server.url}/v1/classify", json={"model": name, "input": texts}).json()
        for text, item in zip(texts, body["data"], strict=True):
            printed = run_in_process(f"out/{name}", "--text", text, cwd=models, module="mingpt.predict").stdout.split()
            if name == "rows":
                assert item["label"] == printed[0] and sum(item["probabilities"].values()) == pytest.approx(1)
                assert item["probabilities"][item["label"]] == pytest.approx(float(printed[1]), rel=1e-4)
            else:
                assert item["value"] == pytest.approx(float(printed[0]), rel=1e-4)
    single = httpx.post(f"{server.url}/v1/classify", json={"model": "rows", "input": "cats " * 200}).json()
    assert single["data"][0]["truncated"] and single["usage"]["prompt_tokens"] == 64


def test_many_clients_at_once_get_the_text_that_each_gets_alone(server):  # noqa: F811
    async def ask(client, i):
        return await client.completions.create(
            model="fox", prompt=f"{i}: the", max_tokens=30 + i % 5, temperature=1, seed=i
        )

    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            together = await asyncio.gather(*(ask(client, i) for i in range(64)))
            alone = [await ask(client, i) for i in range(0, 64, 9)]
            stream = await client.completions.create(model="fox", prompt="1: ", max_tokens=5, stream=True)
            pieces = [piece async for piece in stream]
        assert [answer.choices[0].text for answer in together[::9]] == [a.choices[0].text for a in alone]
        assert all(answer.usage.completion_tokens == 30 + i % 5 for i, answer in enumerate(together))
        assert len("".join(piece.choices[0].text for piece in pieces)) == 5

    asyncio.run(all_at_once())


def test_what_exceeds_the_context_is_cut_where_the_client_asks_for_it(client, fox, models):  # noqa: F811
    model, tokenizer = fox
    text = "1: the quick brown fox jumps over the lazy dog, said 1 of them.\n" * 2
    cut = dict(temperature=0, extra_body={"truncate_prompt": True})
    answer = client.completions.create(model="fox", prompt=text, max_tokens=5, **cut)
    expected = generated(model, tokenizer.encode(text[-48:]), 5, temperature=0)
    assert answer.choices[0].text == tokenizer.decode(expected) and answer.usage.prompt_tokens == 48
    messages = [*QUESTION, {"role": "assistant", "content": "3 of them."}] * 8 + QUESTION
    ids, left_out = encode_prompt(load_tokenizer(models / "out/talk"), messages, 48)
    answer = client.chat.completions.create(model="talk", messages=messages, **cut)
    assert answer.omitted_messages == left_out > 0 and answer.usage.prompt_tokens == len(ids)
    with pytest.raises(openai.BadRequestError, match="64 tokens, and the messages have") as refused:
        client.chat.completions.create(model="talk", messages=messages)
    assert refused.value.code == "context_length_exceeded"
