"""Continue a prompt: `python -m mingpt.generate out/NAME --prompt "The "`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from mingpt import cli
from mingpt.settings import Settings, setting, shown


@dataclass(kw_only=True)
class GenerateConfig(Settings):
    """What a continuation is made from."""

    folder: str = setting(help="a model's folder, such as out/pydoc")
    prompt: str = setting("", group="text", help="what the text begins with")
    max_new_tokens: int = setting(200, group="text", within="[0, inf)", help="tokens to add")
    temperature: float = setting(
        0.8, group="choice", within="[0, inf)", help="0: always the most probable token; 1: as the model scores them"
    )
    top_k: int = setting(0, group="choice", within="[0, inf)", help="choose among the k most probable; 0: all")
    top_p: float = setting(
        1.0, group="choice", within="(0, 1]", help="choose among the most probable that make up this share"
    )
    seed: int | None = setting(
        None, group="choice", within="[0, 2147483647]", follows="chance", help="the same seed, the same text"
    )
    device: str = setting(
        "auto", group="machine", choices=("auto", "cpu", "cuda", "mps"), help="auto: a GPU where there is one"
    )


def main(argv: list[str]) -> int:
    config, _ = cli.parse(GenerateConfig, argv, "python -m mingpt.generate", "Continue a prompt with a trained GPT.")

    from mingpt import sampling
    from mingpt.data.tokenizer import load_tokenizer
    from mingpt.device import choose_device
    from mingpt.errors import UserError
    from mingpt.model import GPT

    device = choose_device(config.device)
    tokenizer = load_tokenizer(config.folder)
    model = GPT.from_pretrained(config.folder).to(device)
    if len(tokenizer.pieces) != model.config.vocab_size:
        raise UserError(
            f"{config.folder}: the tokenizer has {len(tokenizer.pieces)} tokens and the model {model.config.vocab_size}"
        )
    choice = dict(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
    try:
        new = sampling.continuation(model, tokenizer, config.prompt, config.max_new_tokens, seed=config.seed, **choice)
    except ValueError as error:
        raise UserError(f"--prompt {shown(config.prompt)}: {error}") from None
    for text in itertools.chain([config.prompt], new, ["\n"]):
        print(text, end="", flush=True)
    return 0


if __name__ == "__main__":
    cli.run_command(main)
