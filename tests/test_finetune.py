"""Starting from a model: the real command, against a plain loop around transformers' own GPT-2."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time

import pytest
import torch
from conftest import ROOT, command, generate, rows, run_command, train, until
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from mingpt import GPT, load_tokenizer
from mingpt.config import GPTConfig, TrainConfig, resolve
from mingpt.data.tokenizer import ByteTokenizer
from mingpt.finetune import starting_weights, with_defaults
from mingpt.run import Run
from mingpt.tasks.text import TextTask
from mingpt.trainer import State
from mingpt.trainer import train as updates

OTHER = "".join(f"line {i}, and {i * i} is the square of it;\n" for i in range(300))


@pytest.fixture(scope="module")
def place(tmp_path_factory, cache):
    """A text, and a model as transformers writes it, with more ids than its tokenizer and a vocabulary of bytes."""
    place = tmp_path_factory.mktemp("finetune")
    (place / "other.txt").write_text(OTHER, encoding="utf-8")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=260, n_layer=2, n_head=2, n_embd=16, n_positions=32, layer_norm_epsilon=1e-3)
    config.bos_token_id = config.eos_token_id = None
    GPT2LMHeadModel(config).save_pretrained(place / "base")
    ByteTokenizer().save(place / "base")
    return place


def asked_for(place, **settings) -> tuple[TrainConfig, set[str]]:
    settings = dict(init_from=str(place / "base"), data=str(place / "other.txt"), threads=1, device="cpu") | settings
    return TrainConfig(**settings), set(settings)


def test_the_model_decides_its_shape_and_fine_tuning_its_defaults(place):
    config = with_defaults(*asked_for(place))
    assert (config.n_layer, config.n_head, config.n_embd, config.block_size) == (2, 2, 16, 32)
    assert config.dropout == 0.1  # that of its config.json
    assert config.optimizer == "adamw" and config.patience > 0
    scratch, tuned = resolve(TrainConfig()), resolve(config)
    assert tuned.learning_rate < scratch.learning_rate * 100  # narrow models take larger ones
    wide = resolve(TrainConfig(init_from="x", optimizer="adamw", n_embd=768, max_iters=100))
    assert wide.learning_rate == 5e-5 and wide.warmup_iters == 10
    chosen = with_defaults(*asked_for(place, optimizer="sgd", block_size=8, patience=0, batch_size=2, dropout=0.0))
    assert (chosen.optimizer, chosen.block_size, chosen.patience, chosen.batch_size) == ("sgd", 8, 0, 2)


def test_its_losses_are_those_of_a_plain_loop_around_transformers(place, tmp_path):
    """Updates by AdamW on the same batches: every loss, and at the end every weight."""
    asked, given = asked_for(place, max_iters=12, dropout=0.0, batch_size=4, eval_interval=12, schedule="constant")
    config = resolve(with_defaults(asked, given))
    config.dtype, config.warmup_iters = "float32", 0
    task = TextTask(config)
    state = State(config, task.model_config(), starting_weights(config, task.model_config()))
    losses, plain = [], task.loss

    def noted(model, *batch):
        loss = plain(model, *batch)
        losses.append(loss.item())
        return loss

    task.loss = noted
    run = Run.create(str(tmp_path / "run"), "")
    for _ in updates(config, task, run, state):
        pass

    peer = GPT2LMHeadModel.from_pretrained(place / "base")
    for dropout in (m for m in peer.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.0
    peer.config.attn_pdrop = 0.0
    peer.train()
    groups = [
        {"params": [w for w in peer.parameters() if w.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [w for w in peer.parameters() if w.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))
    for step in range(12):
        x, y = task.batch(step)
        logits = peer(x).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        assert losses[step] == pytest.approx(loss.item(), abs=2e-5)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
    ours = state.model.state_dict()
    for name, weight in peer.transformer.state_dict().items():
        if name in ours:
            mine = ours[name].T if ours[name].shape != weight.shape else ours[name]
            if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
                mine = ours[name].T
            torch.testing.assert_close(mine, weight, rtol=1e-3, atol=1e-4)


def test_the_command_fine_tunes_and_the_folder_opens_in_transformers(place):
    options = [
        "--init_from",
        "base",
        "--data",
        "other.txt",
        "--threads",
        "1",
        "--optimizer",
        "muon",
        "--block_size",
        "16",
    ]
    printed = train(place, *options, "--max_iters", "60", "--eval_interval", "20", "--out_dir", "tuned")
    assert "starts from" in printed and "fine-tuning" in printed and "block_size 32" in printed
    found = rows(place / "tuned")
    assert found[-1]["val_loss"] < found[0]["val_loss"]
    ids = torch.tensor([load_tokenizer(place / "tuned").encode("line 5, and")])
    theirs = AutoModelForCausalLM.from_pretrained(place / "tuned").eval()
    assert theirs.config.n_positions == 32 and theirs.config.vocab_size == 260
    assert theirs.config.layer_norm_epsilon == 1e-3
    torch.testing.assert_close(GPT.from_pretrained(place / "tuned")(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(place / "tuned").encode("line 5, and") == ids[0].tolist()
    assert generate(place, "tuned", "--prompt", "line", "--max_new_tokens", "5").returncode == 0
    # and from that one again, as from any
    train(
        place,
        "--init_from",
        "tuned",
        "--data",
        "other.txt",
        "--threads",
        "1",
        "--max_iters",
        "10",
        "--out_dir",
        "again",
    )
    # a run that is finished, and one that may go on, are told from its folder alone
    shutil.move(place / "tuned", place / "moved")
    more = train(place, "--resume", "--out_dir", "again", "--max_iters", "20")
    assert "resuming again after update 10" in more


def test_tokens_that_are_new_are_like_the_others_and_can_be_told_apart(place):
    config = resolve(with_defaults(*asked_for(place)))
    found = load_file(place / "base" / "model.safetensors")["transformer.wte.weight"]
    shape = GPTConfig(vocab_size=560, n_layer=2, n_head=2, n_embd=16, block_size=32)
    wte = starting_weights(config, shape)["wte.weight"]
    assert torch.equal(wte[:260], found) and len(wte) == 560
    new = wte[260:]
    assert torch.equal(new, starting_weights(config, shape)["wte.weight"][260:])
    torch.testing.assert_close(new.mean(dim=0), found.mean(dim=0), rtol=0, atol=4 * 0.02 / 300**0.5)
    torch.testing.assert_close(new.std(dim=0), found.std(dim=0), rtol=0.2, atol=0)


def test_without_a_length_it_passes_three_times_over_the_text(place):
    printed = train(place, "--init_from", "base", "--data", "other.txt", "--threads", "1", "--out_dir", "three")
    settings = json.loads((place / "three" / "train.json").read_text(encoding="utf-8"))
    tokens = len(OTHER) * 9 // 10
    assert settings["max_iters"] == 3 * (((tokens - 32) // 32) // 8)
    assert settings["learning_rate"] == 2.4e-3 and settings["warmup_iters"] == round(0.1 * settings["max_iters"])
    assert "best" in printed


@pytest.mark.parametrize("rank", [0, 3])
def test_killed_and_resumed_it_is_the_same_run(place, rank):
    options = [
        "--init_from",
        "base",
        "--data",
        "other.txt",
        "--threads",
        "1",
        "--max_iters",
        "300",
        "--eval_interval",
        "9",
    ]
    options += ["--lora_rank", rank, "--patience", "0"]
    whole, killed = place / f"whole{rank}", place / f"killed{rank}"
    train(place, *options, "--out_dir", whole.name)
    process = subprocess.Popen(
        command(*options, "--out_dir", killed.name),
        cwd=place,
        env={**__import__("os").environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    until((killed / "state.pt").exists)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    train(place, "--resume", "--out_dir", killed.name)
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert rows(killed) == rows(whole)


def test_lora_trains_little_and_saves_a_plain_model(place):
    options = [
        "--init_from",
        "base",
        "--data",
        "other.txt",
        "--threads",
        "1",
        "--max_iters",
        "60",
        "--eval_interval",
        "20",
    ]
    printed = train(place, *options, "--lora_rank", "4", "--out_dir", "lora")
    assert "million learn" in printed
    assert rows(place / "lora")[-1]["val_loss"] < rows(place / "lora")[0]["val_loss"]
    base, tuned = (load_file(place / name / "model.safetensors") for name in ("base", "lora"))
    assert set(tuned) <= set(base)
    changed = {name for name in tuned if not torch.equal(base[name], tuned[name])}
    assert changed == {f"transformer.h.{i}.{part}.weight" for i in (0, 1) for part in (
        "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--init_from", "nowhere"], "nowhere: is neither a folder nor a known model"),
        (["--init_from", "base", "--n_layer", "6"], "--n_layer 6: the model in base has 2"),
        (["--init_from", "base", "--block_size", "64"], "--block_size 64: the model in base has 32 positions"),
        (["--init_from", "base", "--tokenizer", "char"], "--tokenizer char: the model in base has its own"),
        (["--lora_rank", "4"], "--lora_rank 4: needs --init_from"),
        (["--init_from", "base", "--lora_rank", "-1"], "--lora_rank -1: a whole number in [0, inf)"),
    ],
)
def test_what_does_not_fit_is_one_line(place, options, said):
    result = run_command(*options, "--data", "other.txt", cwd=place)
    assert result.returncode == 2 and said in result.stderr
    assert len(result.stderr.splitlines()) == 1
