"""The numbers of the page against a forward pass by hand, mingpt.evaluate, mingpt.predict and the search itself."""

from __future__ import annotations

import base64
import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import assert_refused, run_in_process
from safetensors.torch import load_file, save_file
from serving import models  # noqa: F401, a fixture
from torch.nn import functional as F

from mingpt import GPT, load_tokenizer
from mingpt.explain.activations import explain_model
from mingpt.explain.runs import explain_suggestions, read_run, read_study
from mingpt.tuning import Choice, Float, Int, Space, Study, bayesian
from mingpt.tuning.journal import Journal

pytestmark = pytest.mark.xdist_group("serve")
TEXT = "7: the quick brown fox"


@pytest.fixture(scope="module")
def explained(models):  # noqa: F811
    return explain_model(str(models / "out/fox"), TEXT, layer=1, head=1)


def unpack(explained) -> np.ndarray:
    """Attention weights (L, nh, T, T)."""
    architecture, T = explained["architecture"], len(explained["tokens"])
    flat = np.frombuffer(base64.b64decode(explained["attention"]), "<u2") / 65535
    weights = np.zeros((architecture["n_layer"], architecture["n_head"], T, T))
    rows, columns = np.tril_indices(T)
    weights[:, :, rows, columns] = flat.reshape(*weights.shape[:2], -1)
    return weights


def forward_by_hand(folder, text: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Attention weights (nh, T, T) of each layer, and the residual stream (T, C) at each level, from the weights."""
    model, tokenizer = GPT.from_pretrained(folder), load_tokenizer(folder)
    w = {name: tensor.double() for name, tensor in model.state_dict().items()}
    nh, C = model.config.n_head, model.config.n_embd
    x = w["wte.weight"][tokenizer.encode(text)] + w["wpe.weight"][: len(tokenizer.encode(text))]
    weights, stream = [], [x]
    for layer in range(model.config.n_layer):
        p = {name.removeprefix(f"h.{layer}."): t for name, t in w.items() if name.startswith(f"h.{layer}.")}
        y = F.layer_norm(x, (C,), p["ln_1.weight"], p["ln_1.bias"])
        q, k, v = (y @ p["attn.c_attn.weight"].T + p["attn.c_attn.bias"]).split(C, dim=1)
        heads = []
        for h in range(nh):
            columns = slice(h * C // nh, (h + 1) * C // nh)
            scores = q[:, columns] @ k[:, columns].T / math.sqrt(C // nh)
            scores[torch.triu(torch.ones_like(scores), 1).bool()] = -math.inf
            heads.append((scores.softmax(1), scores.softmax(1) @ v[:, columns]))
        weights.append(torch.stack([a for a, _ in heads]).numpy())
        x = x + torch.cat([o for _, o in heads], 1) @ p["attn.c_proj.weight"].T + p["attn.c_proj.bias"]
        y = F.layer_norm(x, (C,), p["ln_2.weight"], p["ln_2.bias"])
        y = F.gelu(y @ p["mlp.c_fc.weight"].T + p["mlp.c_fc.bias"])
        x = x + y @ p["mlp.c_proj.weight"].T + p["mlp.c_proj.bias"]
        stream.append(x)
    return weights, [x.numpy() for x in stream]


def test_attention_weights_and_norms_are_those_of_a_forward_pass_by_hand(explained, models):  # noqa: F811
    weights, stream = forward_by_hand(models / "out/fox", TEXT)
    np.testing.assert_allclose(unpack(explained), weights, atol=2e-5)
    np.testing.assert_allclose(unpack(explained).sum(-1), 1, atol=2e-4)
    np.testing.assert_allclose(explained["norms"]["stream"], [np.linalg.norm(x, axis=1) for x in stream], rtol=1e-3)
    assert explained["tokens"] == list(TEXT)


def test_the_prediction_after_each_layer_is_the_head_applied_there(explained, models):  # noqa: F811
    model, tokenizer = GPT.from_pretrained(models / "out/fox"), load_tokenizer(models / "out/fox")
    _, stream = forward_by_hand(models / "out/fox", TEXT)
    assert len(explained["lens"]) == 3
    for level, x in zip(explained["lens"], stream, strict=True):
        with torch.no_grad():
            p = (model.ln_f(torch.tensor(x).float()) @ model.wte.weight.T).softmax(-1)
        for row, expected in zip(level, p, strict=True):
            values, ids = expected.topk(5)
            assert [value for _, value in row] == pytest.approx(values.tolist(), abs=1e-4)
            assert {name for name, _ in row[:2]} <= {tokenizer.decode([i]) for i in ids.tolist()}


def test_losses_and_the_next_token_are_those_of_evaluate_and_of_the_model(explained, models):  # noqa: F811
    (models / "text.txt").write_text(TEXT, encoding="utf-8")
    printed = run_in_process("out/fox", "--data", "text.txt", cwd=models, module="mingpt.evaluate").stdout
    nll = float(printed.split("nll")[1].split()[0])
    assert explained["nll"][0] is None and np.mean(explained["nll"][1:]) == pytest.approx(nll, rel=1e-4)
    model, tokenizer = GPT.from_pretrained(models / "out/fox"), load_tokenizer(models / "out/fox")
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer.encode(TEXT)]))[0, -1]
    given = np.frombuffer(base64.b64decode(explained["next"]["logits"]), "<f4")
    np.testing.assert_allclose(given, logits, rtol=1e-4, atol=1e-4)
    assert given.argmax() == logits.argmax()
    assert explained["next"]["names"][0] == tokenizer.decode([int(given.argmax())])


def test_the_numbers_of_a_row_follow_from_each_other(explained):
    row = explained["row"]
    q, k, v = (np.array(row[name]) for name in "qkv")
    scores = k @ q / math.sqrt(len(q))
    np.testing.assert_allclose(row["scores"], scores, atol=1e-4)
    weights = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    np.testing.assert_allclose(row["weights"], weights, atol=1e-4)
    np.testing.assert_allclose(row["output"], weights @ v, atol=1e-4)
    np.testing.assert_allclose(unpack(explained)[1, 1, -1], row["weights"], atol=2e-5)
    assert "F.softmax(scores + future" in row["source"] and row["source"].startswith("def explicit")


@pytest.mark.parametrize("name", ["rows", "stars"])
def test_labels_are_those_of_predict_also_without_each_token(models, name):  # noqa: F811
    folder = models / "out" / name
    tokenizer = load_tokenizer(folder)
    labels = explain_model(str(folder), "the 3 cats run")["labels"]

    def predicted(text: str) -> list[str]:
        return run_in_process(f"out/{name}", "--text", text, cwd=models, module="mingpt.predict").stdout.split()

    ids = tokenizer.encode("the 3 cats run")
    for values, text in [
        (labels["values"], "the 3 cats run"),
        (labels["without"][1], tokenizer.decode([ids[0], *ids[2:]])),
    ]:
        assert tokenizer.encode(text) in (ids, [ids[0], *ids[2:]])
        best = int(np.argmax(values))
        expected = predicted(text)
        assert values[best] == pytest.approx(float(expected[-1]), rel=1e-3, abs=1e-5)
        assert name == "stars" or labels["names"][best] == expected[0]


def test_without_a_text_it_is_the_beginning_of_the_last_sample_that_fits(models, tmp_path):  # noqa: F811
    sample = json.loads((models / "out/fox/metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["sample"]
    shown = explain_model(str(models / "out/fox"))
    assert shown["text"] == sample[:40] == "".join(shown["tokens"])
    shutil.copytree(models / "out/fox", tmp_path / "short")
    config = json.loads((tmp_path / "short/config.json").read_text(encoding="utf-8")) | {"n_positions": 16}
    (tmp_path / "short/config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = load_file(tmp_path / "short/model.safetensors")
    [wpe] = [name for name in tensors if name.endswith("wpe.weight")]
    save_file(tensors | {wpe: tensors[wpe][:16].clone()}, tmp_path / "short/model.safetensors", {"format": "pt"})
    assert explain_model(str(tmp_path / "short"))["text"] == sample[:16]
    assert explain_model(str(models / "out/rows"))["text"] == "The object is"


def test_a_chat_model_reads_the_text_as_a_message(models):  # noqa: F811
    tokens = explain_model(str(models / "out/talk"), "how many foxes are 3?")["tokens"]
    assert tokens[0] == "<|user|>" and tokens[-2:] == ["<|end|>", "<|assistant|>"]


def test_a_run_is_what_its_files_say(models):  # noqa: F811
    shown = read_run(models / "out/rows")
    assert (shown["metric"], shown["higher_is_better"]) == ("accuracy", True)
    assert shown["settings"]["task"] == "classify" and shown["settings"]["n_embd"] == 32
    lines = (models / "out/rows/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert shown["metrics"] == [json.loads(line) for line in lines]


def test_why_a_trial_was_suggested_is_what_the_search_saw(tmp_path):
    space = Space({"x": Float(1e-3, 1, log=True), "n": Int(1, 9), "kind": Choice("a", "b")})
    first = [{"x": 0.1, "n": 3, "kind": "a"}]
    attributes = {"space": space.as_text(), "first": 1, "asked": {"strategy": "gp"}}
    journal = Journal(tmp_path, attributes)
    study = Study(space, first=first, journal=journal)
    for _ in range(9):
        trial = study.ask()
        config = trial.config
        study.tell(trial, (math.log(config["x"]) + 3) ** 2 + (config["n"] - 5) ** 2 + (config["kind"] == "a"))
    pending = study.ask(), study.ask()  # while one of them runs, the other is suggested
    journal.close()
    shown, reasons = read_study(tmp_path), explain_suggestions(tmp_path, range(11))
    assert shown["best"] == study.best.number and len(shown["trials"]) == 11
    assert "initial configuration" in reasons[0]["note"] and "point, near the best one" in reasons[3]["note"]
    assert list(reasons) == list(range(11)) and {n for n in reasons if "slices" in reasons[n]} == set(range(4, 11))
    assert explain_suggestions(tmp_path, [5]) == {5: reasons[5]} and explain_suggestions(tmp_path, [11]) == {}
    for trial in pending:
        why = reasons[trial.number]
        assert why["informed_by"] == list(range(9))
        before = study.trials[: trial.number]
        assert next(bayesian.suggestions(space, before, 0, trial.number, True)) == trial.config
        posterior, acquisition = bayesian.acquisition(space, before, trial.number, True)
        at = acquisition(space.point(trial.config)[None])[0]
        for name, part in why["slices"].items():
            assert len(part["x"]) == len(part["median"]) == (2 if name == "kind" else 33)
            assert max(part["acquisition"]) <= at + 1e-3  # nowhere along the parameter is it higher
            values = zip(part["low"], part["median"], part["high"], strict=True)
            assert all(low <= median <= high for low, median, high in values)
        i = why["slices"]["kind"]["x"].index(trial.config["kind"])
        expected = posterior.values(space.point(trial.config)[None])[0]
        assert why["slices"]["kind"]["median"][i] == pytest.approx(expected, rel=1e-4)


def test_a_trial_is_explained_by_the_search_that_chose_it(tmp_path):
    """A study that is resumed with another strategy and another space."""
    narrow, wide = Space({"x": Float(0, 1)}), Space({"x": Float(0, 2), "n": Int(1, 3)})
    journal = Journal(tmp_path, {"space": narrow.as_text(), "first": 0, "asked": {"strategy": "random"}})
    study = Study(narrow, "random", journal=journal)
    for _ in range(2):
        trial = study.ask()
        study.tell(trial, trial.config["x"])
    journal.set_attribute("space", wide.as_text())
    journal.set_attribute("asked", {"strategy": "gp"})
    study = Study(wide, journal=journal)
    for _ in range(6):
        trial = study.ask()
        study.tell(trial, trial.config["x"])
    journal.close()
    reasons = explain_suggestions(tmp_path, range(8))
    assert "random" in reasons[0]["note"] and "random" in reasons[1]["note"] and "(Sobol) point." in reasons[2]["note"]
    assert set(reasons[7]["slices"]) == {"x", "n"} and reasons[7]["informed_by"] == [2, 3, 4, 5, 6]
    assert set(read_study(tmp_path)["parameters"]) == {"x", "n"}


def test_what_cannot_be_explained_is_said_in_a_line(models):  # noqa: F811
    def refused(*arguments):
        return run_in_process(*arguments, cwd=models, module="mingpt.explain.__main__")

    assert_refused(refused(), "FOLDERS: is missing")
    assert_refused(refused("out/fox", "--layer", 2), "--layer 2: the model has 2, counted from 0")
    assert_refused(refused("out/fox", "--text", "\u4e2d"), "--text: the character", "U+4E2D")
    assert_refused(refused("out/fox", "--text", "a" * 65), "--text: has 65 tokens; at most 64 can be shown")
    assert_refused(refused("out/fox", "out/wolf"), "out/wolf: is not a run")
