"""CTranslate2 in a process of its own, for generation.py: converts a GPT-2 to int8, and times it on request.

    python tests/benchmarks/ctranslate2_peer.py FOLDER THREADS

Each line of the input has a batch size and a number of tokens; the answer has the seconds to the first tokens, and
those of all after them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import ctranslate2
from ctranslate2.converters import TransformersConverter


def main(folder: Path, threads: int) -> None:
    converted = folder / "ctranslate2"
    TransformersConverter(str(folder)).convert(str(converted), quantization="int8", force=True)
    model = ctranslate2.Generator(str(converted), compute_type="int8", inter_threads=1, intra_threads=threads)
    words = json.loads((converted / "vocabulary.json").read_text(encoding="utf-8"))

    def seconds(batch: int, tokens: int) -> float:
        prompts = [words[1000 * b : 1000 * b + 16] for b in range(batch)]
        length = dict(max_length=tokens, min_length=tokens)
        began = time.perf_counter()
        model.generate_batch(prompts, **length, sampling_topk=1, include_prompt_in_result=False)
        return time.perf_counter() - began

    for line in sys.stdin:
        batch, tokens = map(int, line.split())
        first = seconds(batch, 1)
        print(first, seconds(batch, tokens) - first, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
