"""Starting from a model: its weights, the defaults, and a run against a plain loop around transformers' GPT-2."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from mingpt import GPT, pretrained
from mingpt.checkpoint import RunFolder
from mingpt.config import TrainConfig
from mingpt.data.tokenizer import TOKENIZERS
from mingpt.resolve import resolve
from mingpt.run import build_model_config, load_task, read_facts, starting_weights
from mingpt.trainer import State, train

TEXT = "".join(f"line {i}, and {i * i} is the square of it;\n" for i in range(300))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cache):
    """A text, and a model as transformers writes it, with more ids than its tokenizer."""
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "lines.txt").write_text(TEXT, encoding="utf-8")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=260, n_layer=2, n_head=2, n_embd=16, n_positions=32, layer_norm_epsilon=1e-3)
    model = GPT2LMHeadModel(config)
    model.transformer.wte.weight.data += 0.1  # a mean that is not 0
    model.save_pretrained(folder / "base")
    TOKENIZERS["byte"]([], [], None).save(folder / "base")
    return folder


def start(folder, **settings):
    """The task, with the resolved settings, and the configuration of the model."""
    settings |= dict(device="cpu", dtype="float32", threads=1)
    asked = TrainConfig(init_from=str(folder / "base"), data=str(folder / "lines.txt"), **settings)
    data, facts = read_facts(asked)
    task = load_task("text")(resolve(asked, facts), data)
    return task, build_model_config(task.config, task, facts.base)


def test_the_model_gives_the_architecture_and_fine_tuning_the_defaults(folder):
    config, (task, model) = start(folder)[0].config, start(folder, block_size=8, batch_size=2)
    assert task.batch(0)[0].shape == (2, 8)  # shorter windows, and the model's own positions
    assert (model.block_size, model.vocab_size, model.layer_norm_epsilon) == (32, 260, 1e-3)
    assert (config.n_layer, config.n_head, config.n_embd, config.block_size) == (2, 2, 16, 32)
    assert (config.dropout, config.activation, config.attention) == (0.1, "gelu_new", "explicit")
    assert (config.optimizer, config.tokenizer, config.vocab_size) == ("adamw", None, None) and config.patience > 0
    assert config.max_iters == 3 * -(-(len(TEXT) * 9 // 10 // 32) // 8)  # three epochs
    assert config.warmup_iters == round(0.1 * config.max_iters)
    assert config.learning_rate == 2.4e-3  # 5e-5 at GPT-2's width of 768, more for narrower models
    assert start(folder, lora_rank=2)[0].config.learning_rate == pytest.approx(10 * config.learning_rate)


def test_new_tokens_resemble_the_others_and_a_score_head_is_new(folder, tmp_path):
    base, tensors = pretrained.read_folder(GPT, folder / "base")
    larger = base.model_copy(update={"vocab_size": 560, "num_labels": 3})
    weights, again, other = (starting_weights(folder / "base", larger, seed) for seed in (0, 0, 1))
    old, new = weights["wte.weight"].split([260, 300])
    assert torch.equal(old, tensors["wte.weight"]) and len(new.unique(dim=0)) == 300
    torch.testing.assert_close(new.mean(dim=0), old.mean(dim=0), rtol=0, atol=5 * 0.02 / 300**0.5)
    torch.testing.assert_close(new.std(dim=0), old.std(dim=0), rtol=0.2, atol=0)
    assert all(torch.equal(weight, again[name]) and weight.is_contiguous() for name, weight in weights.items())
    changed = {name for name in weights if not torch.equal(weights[name], other[name])}
    assert changed == {"wte.weight", "score.weight"} and weights["score.weight"].std() > 0.01
    same = tensors.keys() - {"wte.weight"}
    assert all(torch.equal(weights[name], tensors[name]) for name in same) and len(weights) == len(same) + 2
    pretrained.write_folder(tmp_path, larger, weights)  # a head of as many labels is kept, another is new
    assert torch.equal(starting_weights(tmp_path, larger, 1)["score.weight"], weights["score.weight"])
    assert "score.weight" not in starting_weights(tmp_path, base.model_copy(update={"vocab_size": 560}), 1)


def test_a_run_is_a_plain_loop_around_transformers(folder):
    """Eight updates by AdamW on the same batches: every loss, and at the end every weight."""
    task, model_config = start(folder, max_iters=8, dropout=0, batch_size=4, schedule="constant", warmup_iters=0)
    state = State(task.config, model_config, starting_weights(folder / "base", model_config, seed=0))
    losses, loss_of = [], task.loss
    task.loss = lambda *batch: losses.append(loss_of(*batch)) or losses[-1]
    list(train(task.config, task, RunFolder.create(str(folder / "run"), ""), state))

    peer = GPT2LMHeadModel.from_pretrained(folder / "base").eval()  # eval: without dropout
    config, weights = task.config, list(peer.parameters())
    groups = [
        {"params": [w for w in weights if w.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))
    for step, ours in enumerate(losses):
        x, y = map(torch.from_numpy, task.batch(step))
        loss = F.cross_entropy(peer(x).logits.flatten(0, 1), y.flatten())
        torch.testing.assert_close(ours, loss, rtol=0, atol=2e-5)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, config.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
    theirs = dict(peer.transformer.named_parameters())
    for name, weight in state.model.named_parameters():
        expected = theirs[name].T if name.endswith(pretrained.TRANSPOSED) else theirs[name]
        torch.testing.assert_close(weight, expected, rtol=1e-3, atol=1e-4, msg=name)
