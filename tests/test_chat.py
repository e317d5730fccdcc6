"""Training on dialogues: what the loss counts, what is evaluated, the folder in transformers, data that is refused."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from conftest import MACHINE, random_model, read_metrics, train
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from mingpt.config import TrainConfig
from mingpt.data.dialogue import encode_dialogue
from mingpt.data.tokenizer import TOKENIZERS
from mingpt.errors import UserError
from mingpt.resolve import resolve
from mingpt.run import read_facts
from mingpt.tasks.chat import ChatTask

SOUNDS = {"cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink", "bee": "buzz"}
SMALL = dict(n_layer=1, n_head=2, n_embd=64, block_size=64, vocab_size=300)


def farm_dialogues():
    """An answer follows from the question before it alone."""
    for i, (animal, sound) in enumerate(SOUNDS.items()):
        for j, (other, its_sound) in enumerate(SOUNDS.items()):
            yield [
                *([{"role": "system", "content": "You are a farm."}] if (i + j) % 2 else []),
                {"role": "user", "content": f"and a {animal}?" if (i + j) % 3 else animal},
                {"role": "assistant", "content": f"{sound}!"},
                {"role": "user", "content": f"and a {other}?" if (i + 2 * j) % 3 else other},
                {"role": "assistant", "content": f"{its_sound}!"},
            ]


def write(path, dialogues):
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in dialogues), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def farm(tmp_path_factory, cache):
    """A folder with farm.jsonl, the run in out/farm that has learned it, and what that run printed."""
    folder = tmp_path_factory.mktemp("farm")
    write(folder / "farm.jsonl", farm_dialogues())
    flags = [part for name, value in SMALL.items() for part in (f"--{name}", value)]
    options = ["--max_iters", 200, "--dropout", 0, "--learning_rate", 0.01, "--batch_size", 16]
    printed = train(folder, "--task", "chat", "--data", "farm.jsonl", *flags, *options, *MACHINE)
    (folder / "printed.txt").write_text(printed, encoding="utf-8")
    return folder


def make_task(path, **settings) -> ChatTask:
    asked = TrainConfig(task="chat", data=str(path), **settings)
    data, facts = read_facts(asked)
    return ChatTask(resolve(asked, facts), data)


def losses_at(model, ids, mask, label_smoothing=0.0) -> torch.Tensor:
    """Of each token in the mask, from a pass over one sequence alone."""
    ids, mask = torch.tensor(ids)[: model.config.block_size + 1], torch.tensor(mask)
    with torch.no_grad():
        logits = model(ids[None, :-1])[0][mask[1 : len(ids)]]
    return F.cross_entropy(logits, ids[1:][mask[1 : len(ids)]], reduction="none", label_smoothing=label_smoothing)


def test_the_loss_is_the_mean_over_the_assistants_tokens_and_a_few_others_also_in_micro_batches(farm):
    task = make_task(farm / "farm.jsonl", tokenizer="char", batch_size=9, label_smoothing=0.2)  # answers of any length
    model = random_model(vocab_size=task.tokenizer.vocab_size, block_size=256)
    whole = {tuple(ids[:-1]): (ids, mask) for ids, mask in task.data.train}
    for step in (0, 7):
        batch = [torch.from_numpy(part) for part in task.batch(step)]
        lengths = [int(mask.nonzero().max()) + 1 for mask in batch[2]]
        rows = [tuple(row[:T].tolist()) for row, T in zip(batch[0], lengths, strict=True)]
        masks = [F.pad(mask[:T], (1, 0)) for mask, T in zip(batch[2], lengths, strict=True)]
        answers = [torch.from_numpy(whole[row][1]) for row in rows]
        assert all(mask[answer].all() for mask, answer in zip(masks, answers, strict=True))
        assert sum(map(torch.sum, answers)) < sum(map(torch.sum, masks)) < 1.3 * sum(map(torch.sum, answers))
        pairs = zip(rows, masks, strict=True)
        expected = torch.cat([losses_at(model, whole[row][0], mask.numpy(), 0.2) for row, mask in pairs]).mean()
        torch.testing.assert_close(task.loss(model, *batch), expected, rtol=1e-4, atol=1e-4)
        thirds = [task.loss(model, *part) for part in zip(*(tensor.chunk(3) for tensor in batch), strict=True)]
        torch.testing.assert_close(sum(thirds) / 3, expected, rtol=1e-4, atol=1e-4)


def test_a_tenth_is_held_out_by_seed_and_evaluated_token_by_token(farm):
    task, path = make_task(farm / "farm.jsonl", **SMALL, label_smoothing=0.2), farm / "farm.jsonl"
    dialogues = [task.tokenizer.decode(encode_dialogue(task.tokenizer, messages)[0]) for messages in farm_dialogues()]
    held_out, same, other = (
        [t.tokenizer.decode(ids) for ids, _ in t.data.validation]
        for t in (task, make_task(path, **SMALL), make_task(path, **SMALL, seed=1))
    )
    assert len(held_out) == 4 and len(task.data.train) == 45 and {*held_out} < {*dialogues}
    assert held_out == same != other
    model = random_model(vocab_size=task.tokenizer.vocab_size, block_size=64)
    nll = torch.cat([losses_at(model, *encoded) for encoded in task.data.validation])
    answers = "".join(text.split("<|end|>")[0] for d in held_out for text in d.split("<|assistant|>")[1:])
    metrics = task.evaluate(model)
    assert metrics["val_loss"] == pytest.approx(nll.mean().item(), abs=1e-5)  # without label smoothing
    assert metrics["bits_per_byte"] == pytest.approx(nll.sum().item() / len(answers.encode()) / math.log(2), abs=1e-4)


def test_long_dialogues_are_split_and_what_fits_nowhere_is_truncated(tmp_path):
    contents = [["a", "b"]] * 17 + [["a" * 15, "b"], ["a" * 20, "b"], ["a", "b" * 20, "a", "b"]]
    dialogues = [
        [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)] for texts in contents
    ]
    task = make_task(write(tmp_path / "long.jsonl", dialogues), block_size=16, tokenizer="char")
    assert "3 dialogues longer than 16 tokens are split" in task.describe()
    examples = task.train.examples + task.validation.examples
    assert sorted(int(example.mask.sum()) for example in examples) == [3] * 18 + [12]  # none without an answer
    assert max(len(example.ids) for example in examples) == 16


def test_the_report_shows_conversations_of_held_out_users_with_the_model(farm):
    printed = (farm / "printed.txt").read_text(encoding="utf-8")
    assert "farm: 45 dialogues for training, 4 for validation; " in printed
    assert "python -m mingpt.chat out/farm\n" in printed
    questions, replies = (re.findall(rf"^    {role} +(.*)$", printed, re.MULTILINE) for role in ("user", "assistant"))
    animals = [question.removeprefix("and a ").removesuffix("?") for question in questions]
    assert len(animals) == 6 and replies == [f"{SOUNDS[animal]}!" for animal in animals]  # three of two exchanges


def test_what_is_too_long_for_the_context_is_neither_asked_nor_answered_at_the_end_of_a_run(tmp_path, cache):
    short, long = question_and_answer("a", "yes 1"), question_and_answer("b" * 90, "yes 1")
    rows = [{"messages": short}] * 20 + [{"messages": short + long, "part": "x"}]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    flags = ["--tokenizer", "char", "--block_size", 32, "--n_layer", 1, "--n_head", 2, "--n_embd", 32]
    printed = train(tmp_path, "--task", "chat", "--data", "long.jsonl", *flags, "--max_iters", 10, *MACHINE)
    assert re.search(r"^x +1 ", printed, re.MULTILINE)  # of two questions
    assert printed.count("    user  ") == printed.count("    assistant  ") == 1


def test_many_dialogues_have_a_larger_model_by_default_but_not_a_base_model(tmp_path, farm, monkeypatch):
    monkeypatch.setattr("mingpt.tasks.chat.MANY", 40)
    config = make_task(farm / "farm.jsonl", tokenizer="char").config
    assert (config.n_layer, config.n_embd, config.batch_size, config.dropout) == (2, 160, 32, 0.0)
    assert config.max_iters == 2125
    assert make_task(farm / "farm.jsonl", tokenizer="char", batch_size=68).config.max_iters == 1000
    base = make_task(farm / "farm.jsonl", init_from=str(farm / "out" / "farm")).config
    assert (base.n_layer, base.n_embd, base.batch_size, base.max_iters) == (1, 64, 8, 3 * 6)


def test_greedy_answers_to_annotated_questions_are_measured_by_part(tmp_path, cache):
    """The model learns one answer, so that each part's accuracy follows from how often it is the right one."""
    rows = [{"messages": question_and_answer("a", "yes 1")}] * 40
    rows += [{"messages": question_and_answer("b", "no 2")}]
    rows += [{"messages": question_and_answer("a", "yes 1"), "part": "easy"}] * 2
    rows += [{"messages": question_and_answer("a", "no 1"), "part": "half"}]
    rows += [{"messages": question_and_answer("a", "yes 3"), "part": "half"}]
    (tmp_path / "parts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    flags = [part for name, value in SMALL.items() for part in (f"--{name}", value)]
    options = ["--max_iters", 60, "--dropout", 0, "--learning_rate", 0.02, "--batch_size", 8, "--eval_interval", 30]
    printed = train(tmp_path, "--task", "chat", "--data", "parts.jsonl", *flags, *options, *MACHINE)
    assert "parts: 41 dialogues for training, 4 for validation; " in printed
    assert re.search(r"held-out answers +number +intent +slots\n", printed)
    assert re.search(r"easy +2 +1\.000 +1\.000\n", printed) and re.search(r"half +2 +0\.500 +0\.500\n", printed)
    last = read_metrics(tmp_path / "out" / "parts")[-1]
    assert (last["intent_accuracy"], last["slot_accuracy"]) == (0.75, 0.75)


def question_and_answer(question: str, answer: str) -> list[dict]:
    """Annotated: the intent is the answer's first word, its slot the second."""
    intent, number = answer.split()
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [messages[0], messages[1] | {"intent": intent, "slots": {"number": number}}]


def test_transformers_computes_the_same_loss_and_stops_at_the_end_of_a_turn(farm):
    out = farm / "out" / "farm"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    nll = []
    for ids, _ in make_task(farm / "farm.jsonl", **SMALL).data.validation:
        messages = next(m for m in farm_dialogues() if tokenizer.apply_chat_template(m)["input_ids"] == ids.tolist())
        encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["assistant_masks"], dtype=torch.bool)
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1]
        nll += F.cross_entropy(logits, ids[1:], reduction="none")[mask[1:]].tolist()
    best = min(row["val_loss"] for row in read_metrics(out))
    assert sum(nll) / len(nll) == pytest.approx(best, abs=1e-5)
    question = [{"role": "user", "content": "cow"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    new = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(new) == " moo!<|end|>"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (dict(data="pydoc"), "--data pydoc: no such file; built-in dialogues: shop"),
        (dict(data="one.jsonl"), "one.jsonl: has no dialogue for training beside the 1 for validation"),
        (dict(data="farm.jsonl", block_size=4), "--block_size 4: is too short for any of the answers"),
        (dict(data="farm.jsonl", class_weights=True), "--class_weights: is not used by --task chat"),
        (dict(data="emoji.jsonl", init_from="letters"), "emoji.jsonl: .*🎉"),
    ],
)
def test_what_cannot_be_learned_is_one_line(farm, settings, problem, monkeypatch):
    monkeypatch.chdir(farm)
    first, *_ = farm_dialogues()
    write(farm / "one.jsonl", [first])
    write(farm / "emoji.jsonl", [first, [{"role": "assistant", "content": "🎉"}]] * 9)
    tokenizer = TOKENIZERS["char"](["abcdefghijklmnopqrstuvwxyz ,.?!YF"], [], None)
    random_model(vocab_size=tokenizer.vocab_size).save_pretrained("letters")
    tokenizer.save("letters")
    with pytest.raises(UserError, match=problem) as caught:
        make_task(settings.pop("data"), **settings)
    assert len(caught.value.problems) == 1
