"""Learning from conversations: what a packed row computes, what is measured, and the folder in transformers."""

from __future__ import annotations

import math
import re

import pytest
import torch
from conftest import FARM, animals, random_model, rows, written
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from mingpt import GPT, load_tokenizer
from mingpt.config import TrainConfig, resolve
from mingpt.data.dialogue import encode
from mingpt.data.packing import epoch_order
from mingpt.data.tokenizer import CharTokenizer
from mingpt.errors import UserError
from mingpt.tasks import new_task


def task_of(path, **settings):
    return new_task(resolve(TrainConfig(**dict(task="chat", data=str(path), tokenizer="bpe") | FARM | settings)))


def nats_alone(task, model, dialogues, T):
    """Of each learned token, from a pass over its conversation alone."""
    nats = []
    for messages in dialogues:
        ids, learned = encode(task.tokenizer, messages)
        assert len(ids) <= T + 1
        with torch.no_grad():
            loss = F.cross_entropy(model(torch.tensor([ids[:-1]]))[0], torch.tensor(ids[1:]), reduction="none")
        nats += loss[torch.tensor(learned[1:])].tolist()
    return nats


# ---- Learning ----


@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_in_a_packed_row_each_conversation_has_the_logits_that_it_has_alone(farm, attention):
    task = task_of(farm / "farm.jsonl", block_size=120)
    model = random_model(vocab_size=len(task.tokenizer.pieces), block_size=120, attention=attention)
    x, y, positions, owner, _ = task.batch(2)
    assert int(owner.max()) >= 2
    mask = (owner[:, :, None] == owner[:, None, :]).tril()
    logits = model.head(model.states(x, positions=positions, mask=mask))
    for b in range(len(x)):
        for number in range(1, int(owner[b].max()) + 1):
            its = owner[b] == number
            torch.testing.assert_close(logits[b, its], model(x[b, its][None])[0], rtol=1e-4, atol=1e-4)
            turn_ends = y[b, its] == task.tokenizer.end_of_text
            assert turn_ends[-1] and turn_ends.sum() == 2  # the assistant's, and none of the user's


def test_the_loss_is_the_mean_over_learned_tokens_and_that_of_slices_adds_up(farm):
    task = task_of(farm / "farm.jsonl", batch_size=9, tokenizer="char", vocab_size=1024)
    model = random_model(vocab_size=len(task.tokenizer.pieces), block_size=64)
    batch = task.batch(0)
    _, y, _, owner, _ = batch
    alone = []
    for b, number in enumerate(epoch_order(task.config.seed, 0, len(task.rows))[:9]):
        for count, i in enumerate(task.rows.rows[number], start=1):
            ids, learned = torch.tensor(task.rows.ids[i]), torch.tensor(task.rows.learned[i])
            alone.append(F.cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="none")[learned[1:]])
            assert (y[b][owner[b] == count] >= 0).sum() == len(alone[-1])
    expected = torch.cat(alone).mean()
    torch.testing.assert_close(task.loss(model, *batch), expected, rtol=1e-4, atol=1e-4)
    thirds = [task.loss(model, *part) for part in zip(*(tensor.chunk(3) for tensor in batch), strict=True)]
    torch.testing.assert_close(sum(thirds) / 3, expected, rtol=1e-4, atol=1e-4)


def test_a_held_out_tenth_is_chosen_by_seed_and_measured_token_by_token(farm):
    path = farm / "farm.jsonl"
    task = task_of(path)
    dialogues = list(animals())
    assert len(task.held_out) == 4 and task.learned_from == 45
    assert all(messages in dialogues for messages in task.held_out)
    assert task.held_out == task_of(path).held_out != task_of(path, seed=1).held_out
    model = random_model(vocab_size=len(task.tokenizer.pieces), block_size=64)
    found = task.evaluate(model, "cpu")
    nats = nats_alone(task, model, task.held_out, 64)
    assert found["val_loss"] == pytest.approx(sum(nats) / len(nats), abs=1e-5)
    said = "".join(m["content"] for messages in task.held_out for m in messages if m["role"] == "assistant")
    assert found["bits_per_byte"] == pytest.approx(sum(nats) / len(said.encode()) / math.log(2), abs=1e-4)
    assert task.evaluate(model, "cpu") == found


def test_label_smoothing_changes_the_loss_and_not_the_measure(farm):
    plain, smoothed = task_of(farm / "farm.jsonl"), task_of(farm / "farm.jsonl", label_smoothing=0.2)
    model = random_model(vocab_size=len(plain.tokenizer.pieces), block_size=64)
    assert plain.loss(model, *plain.batch(0)) != smoothed.loss(model, *smoothed.batch(0))
    assert plain.evaluate(model, "cpu") == smoothed.evaluate(model, "cpu")


def test_long_conversations_are_cut_between_turns_and_that_is_said(farm):
    task = task_of(farm / "farm.jsonl", block_size=16)
    assert f"; {task.cut} longer than 16 are cut between turns" in task.description()
    assert 0 < task.cut < 49
    lengths = [len(encode(task.tokenizer, messages)[0]) for messages in animals()]
    assert task.cut == sum(n > 17 for n in lengths)
    assert all(len(ids) <= 17 for ids in task.rows.ids)
    assert "cut" not in task_of(farm / "farm.jsonl", block_size=64).description()


def test_exchanges_that_fit_no_row_lose_their_end_and_that_is_counted(tmp_path):
    def said(user, assistant):
        return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]

    dialogues = [said("a", "b")] * 17
    dialogues += [
        said("a" * 15, "b"),
        said("a" * 20, "b"),
        said("a", "b" * 20) + said("a", "b"),
    ]  # 15: its end has place
    task = task_of(written(tmp_path / "long.jsonl", dialogues), block_size=16, tokenizer="char", vocab_size=1024)
    assert task.description().endswith(
        "; 3 longer than 16 are cut between turns, and 3 exchanges that do not fit even so lose their end"
    )
    learned = sorted(sum(learned) for rows in (task.rows, task.validation) for learned in rows.learned)
    assert learned == [2] * 18 + [13]  # of a conversation that only its user has a place for, nothing


def test_a_question_that_nobody_answers_and_none_at_all(farm):
    task = task_of(farm / "farm.jsonl", block_size=64)
    model = random_model(vocab_size=len(task.tokenizer.pieces), block_size=64)
    with torch.no_grad():  # the end of a turn is always the most probable
        model.ln_f.weight.zero_()
        model.ln_f.bias.copy_(10 * model.wte.weight[task.tokenizer.end_of_text])
        model.ln_f.bias[0] = model.wte.weight[task.tokenizer.end_of_text, 0] = 100
    assert task.ending(model, farm)[-2] == "    assistant     (nothing)"
    task.held_out = [[{"role": "assistant", "content": "moo!"}]]
    assert task.ending(model, farm) == [f"talk to it    python -m mingpt.chat {farm}"]


@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_other_tokenizers(farm, tokenizer):
    task = task_of(farm / "farm.jsonl", tokenizer=tokenizer, vocab_size=1024)
    assert task.tokenizer.vocabulary.kind == tokenizer
    model = random_model(vocab_size=len(task.tokenizer.pieces), block_size=64)
    assert math.isfinite(task.loss(model, *task.batch(0)).item())


# ---- The folder ----


def test_the_run_says_what_it_learns_and_shows_an_answer(farm):
    printed = (farm / "printed.txt").read_text(encoding="utf-8")
    assert "data          farm: 45 conversations to learn from and 4 held out; " in printed
    assert "talk to it    python -m mingpt.chat out/farm\n" in printed
    sample = printed[printed.index("its answer to a question that it has not seen") :]
    assert re.search(r"    user          (and a )?duck\??\n    assistant     quack!\n", sample)
    assert rows(farm / "out" / "farm")[-1]["val_loss"] < 0.1


def test_transformers_opens_the_folder_measures_the_same_loss_and_stops_at_the_end_of_a_turn(farm):
    out = farm / "out" / "farm"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    best = min(rows(out), key=lambda row: row["val_loss"])
    total = count = 0
    for messages in task_of(farm / "farm.jsonl").held_out:
        found = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = torch.tensor(found["input_ids"]), torch.tensor(found["assistant_masks"], dtype=torch.bool)
        with torch.no_grad():
            logits = model(ids[None]).logits[0]
        total += F.cross_entropy(logits[:-1][mask[1:]], ids[1:][mask[1:]], reduction="sum").item()
        count += int(mask.sum())
    assert total / count == pytest.approx(best["val_loss"], abs=1e-5)
    question = [{"role": "user", "content": "cow"}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    new = model.generate(**asked, max_new_tokens=20, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(new) == "moo!<|end|>"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--data pydoc: --task chat learns from a .jsonl file, such as data/support.jsonl"),
        (["--data", "none.jsonl"], "none.jsonl: cannot be read"),
        (["--data", "one.jsonl"], "one.jsonl: holds a single conversation"),
        (["--data", "bad.jsonl"], "bad.jsonl, row 2: message 1 has the role bot"),
        (
            ["--data", "farm.jsonl", "--block_size", "4"],
            "--block_size 4: is too short for any of the answers in 45 of the conversations in farm.jsonl",
        ),
        (["--data", "farm.jsonl", "--init_from", "letters"], "--data farm.jsonl: the character '"),
        (["--data", "farm.jsonl", "--loss", "mse"], "--loss mse: does not fit --task chat; accepted are cross_entropy"),
    ],
)
def test_data_that_cannot_be_learned_from(farm, options, said, monkeypatch):
    first, *_ = animals()
    CharTokenizer("abc").save(farm / "letters")
    written(farm / "one.jsonl", [first])
    written(farm / "bad.jsonl", [first, [{"role": "bot", "content": "a"}]])
    monkeypatch.chdir(farm)
    settings = dict(zip((name.removeprefix("--") for name in options[::2]), options[1::2], strict=True))
    if "block_size" in settings:
        settings["block_size"] = int(settings["block_size"])
    with pytest.raises(UserError) as caught:
        new_task(resolve(TrainConfig(task="chat", tokenizer="char", **settings)))
    assert said in str(caught.value) and len(caught.value.problems) == 1


def test_another_run_may_start_from_a_chat(farm, monkeypatch):
    monkeypatch.chdir(farm)
    task = new_task(resolve(TrainConfig(task="chat", data="farm.jsonl", init_from="out/farm", block_size=64)))
    assert task.tokenizer.vocabulary == load_tokenizer("out/farm").vocabulary
    assert task.evaluate(GPT.from_pretrained("out/farm"), "cpu")["val_loss"] < 0.1
