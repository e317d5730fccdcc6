"""Each registry: every name works, differs from its neighbours, and is a choice of the settings."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from conftest import random_model

from mingpt import GPT
from mingpt.config import TASKS, TrainConfig
from mingpt.data.tokenizer import TOKENIZERS, load_tokenizer
from mingpt.errors import UserError
from mingpt.losses import LOSSES
from mingpt.model import ACTIVATIONS
from mingpt.optim import OPTIMIZERS
from mingpt.resolve import resolve
from mingpt.run import build_model_config, load_task, read_facts
from mingpt.schedules import SCHEDULES
from mingpt.settings import choices
from mingpt.tasks.base import to_tensors

TEXT = "to be, or not to be: that is the question, said 3 of 7 minds. " * 10
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
TABLE = "text,label,rating\n" + "".join(f"{'xyz'[i % 3]} movie {i},{'abc'[i % 3]},{i % 3}\n" for i in range(60))
DATA = {"text": ("a.txt", TEXT), "chat": ("a.jsonl", (json.dumps({"messages": MESSAGES}) + "\n") * 20)}


def run_optimizer(name: str, folder) -> list[float]:
    """Some weights after two updates, with equal hyperparameters."""
    model, rates = random_model(), dict(learning_rate=0.01, weight_decay=0.1, momentum=0.9, beta1=0.8, beta2=0.95)
    optimizer = OPTIMIZERS[name](model, TrainConfig(optimizer=name, dtype="float32", **rates))
    for _ in range(2):
        model.zero_grad()
        model(torch.arange(16)[None]).square().mean().backward()
        optimizer.step()
    return model.h[0].mlp.c_fc.weight[:, 0].tolist()


def run_loss(name: str, folder) -> list[float]:
    """Of three classes, or of three numbers."""
    targets = torch.tensor(2) if name == "cross_entropy" else torch.tensor([0.0, 1.0, 0.5])
    return [LOSSES[name](torch.tensor([0.5, -1.0, 3.0]), targets).item()]


def run_tokenizer(name: str, folder) -> list[int]:
    """The ids of a text, which it decodes to, also after it was saved and loaded."""
    tokenizer = TOKENIZERS[name]([TEXT], ["?!"], 300)
    tokenizer.save(folder)
    ids = tokenizer.encode(TEXT)
    assert load_tokenizer(folder).encode(TEXT) == ids and max(ids) < tokenizer.vocab_size
    assert tokenizer.decode(ids) == TEXT
    return ids


def run_task(name: str, folder) -> list[float]:
    """The loss of the first batch and the metrics: from the file to a model, as a run computes them."""
    file, content = DATA.get(name, ("a.csv", TABLE))
    (folder / file).write_text(content, encoding="utf-8")
    shape = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=4, dtype="float32", device="cpu")
    asked = TrainConfig(task=name, data=str(folder / file), tokenizer="byte", **shape)
    data, facts = read_facts(asked)
    task = load_task(name)(resolve(asked, facts), data)
    torch.manual_seed(0)
    model = GPT(build_model_config(task.config, task, None))
    loss = task.loss(model, *to_tensors(task.batch(0), model))
    loss.backward()
    assert model.h[0].mlp.c_proj.weight.grad.abs().sum() > 0 and task.describe()
    with torch.no_grad():
        metrics = task.evaluate(model.eval())
    assert {"val_loss", task.metric} <= metrics.keys() and np.isfinite(task.objective(metrics))
    return [loss.item(), *metrics.values()]


REGISTRIES = {
    "schedule": (SCHEDULES, lambda name, _: [SCHEDULES[name](t / 10) for t in range(11)]),
    "optimizer": (OPTIMIZERS, run_optimizer),
    "loss": (LOSSES, run_loss),
    "tokenizer": (TOKENIZERS, run_tokenizer),
    "activation": (ACTIVATIONS, lambda name, _: ACTIVATIONS[name](torch.linspace(-3, 3, 9)).tolist()),
    "task": (TASKS, run_task),
}


@pytest.mark.parametrize("setting", REGISTRIES)
def test_every_name_is_a_choice_and_gives_a_result_of_its_own_and_another_name_raises(setting, tmp_path):
    registry, call = REGISTRIES[setting]
    results = {name: call(name, tmp_path) for name in registry}
    for (name, one), (other, two) in itertools.combinations(results.items(), 2):
        is_equal = len(one) == len(two) and np.allclose(one, two, rtol=1e-4, atol=1e-6)
        assert not is_equal, f"{name} and {other} give the same result"
    assert {*choices(TrainConfig, setting)} == {*registry}
    with pytest.raises(UserError, match=f"--{setting} other: "):
        TrainConfig(**{setting: "other"})
    with pytest.raises((KeyError, UserError)):
        call("other", tmp_path)
