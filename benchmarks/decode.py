"""Tokens a second: nano's LLM beside llama.cpp with the same weights, threads and tokens.

Why it matters: answers stream at this speed, and llama.cpp is what everybody compares with.

All contenders sit in one process and take turns within each round, so that a busy machine slows
them alike; what counts is the ratio within a round. Each prefills the same prompt and then decodes
the same tokens, taking the arg max of the logits at every step as a greedy decoder would. Nano
carries its adapter (LoRA), llama.cpp has none.

    pip install llama-cpp-python==0.3.36        # builds from source for this machine's CPU
    python -m kokanee.benchmarks.decode --out benchmarks/results/decode_nano.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kokanee.engine.embedding import Embedding
from kokanee.engine.manifest import read_manifest
from kokanee.engine.onnx import SPIN_US
from kokanee.export.nano.build import build_nano, default_cache
from kokanee.export.sources import SMOLLM2, fetch
from kokanee.quant.texts import MEASURED_TEXT

from .machine import machine
from .rivals import Contender, Kokanee, LlamaCpp, llama_cpp, requantized

N_CTX = 512  # positions


def measure(
    contenders: Sequence[Contender], ids: Sequence[int], *, n_prompt: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Tokens a second of each contender in each round: {name: {"prefill": ..., "decode": ...}}.

    The order turns by one every round; a first round warms up and is not counted.
    """
    rates: dict[str, dict[str, list[float]]] = {
        c.name: {"prefill": [], "decode": []} for c in contenders
    }
    for turn in range(rounds + 1):
        for i in range(len(contenders)):
            contender = contenders[(turn + i) % len(contenders)]
            started = time.perf_counter()
            contender.prefill(ids[:n_prompt])
            prefilled = time.perf_counter()
            for token in ids[n_prompt:]:
                contender.step(token)
            ended = time.perf_counter()
            if turn:
                rates[contender.name]["prefill"].append(n_prompt / (prefilled - started))
                rates[contender.name]["decode"].append((len(ids) - n_prompt) / (ended - prefilled))
    return rates


def summary(rates: dict[str, dict[str, list[float]]], ours: str) -> dict[str, Any]:
    """Medians, quartiles, and the median over the rounds of ours / theirs."""
    table: dict[str, Any] = {}
    for name, by_phase in rates.items():
        table[name] = {}
        for phase, values in by_phase.items():
            low, middle, high = statistics.quantiles(values, n=4)
            ratios = [a / b for a, b in zip(rates[ours][phase], values, strict=True)]
            table[name][phase] = {
                "median": round(middle, 1),
                "quartiles": [round(low, 1), round(high, 1)],
                "kokanee_ratio": round(statistics.median(ratios), 3),
            }
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and then one line of JSON."""
    parser = argparse.ArgumentParser(prog="kokanee.benchmarks.decode", description=__doc__)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--bundle", type=Path, help="a built nano; by default this version's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens decoded in a round")
    parser.add_argument("--spin-us", type=int, default=SPIN_US, help="of Kokanee's idle threads")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    options = parser.parse_args(arguments)
    quiet: Callable[..., None] = lambda *_: None  # noqa: E731

    bundle = options.bundle or build_nano(options.cache, keep_parts=True)
    master = fetch(SMOLLM2, options.cache, progress=quiet)
    q4_0 = requantized(master, master.with_name("SmolLM2-135M-Instruct.requantized-Q4_0.gguf"))
    manifest = read_manifest(bundle)
    dims, llm = manifest.dims, manifest.graphs["llm"]
    contenders: list[Contender] = [
        Kokanee(
            f"kokanee {llm.scheme}",
            bundle / llm.file,
            Embedding(bundle, manifest.embedding, n_vocab=dims.n_vocab, d_model=dims.d_model),
            dims,
            n_ctx=N_CTX,
            threads=options.threads,
            lora_scale=manifest.lora.scale,
            spin_us=options.spin_us,
        ),
        LlamaCpp(q4_0, "llama.cpp Q4_0 (requantized)", threads=options.threads),
        LlamaCpp(master, "llama.cpp Q4_1 (the master itself)", threads=options.threads),
    ]
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    ids = tokenizer.encode(MEASURED_TEXT, add_special_tokens=False).ids
    ids = (ids * N_CTX)[: min(N_CTX, options.prompt + options.tokens)]
    load_before = os.getloadavg()
    rates = measure(contenders, ids, n_prompt=options.prompt, rounds=options.rounds)
    table = summary(rates, contenders[0].name)

    write = sys.stdout.write
    write(f"{'':36}{'prefill':>10}{'decode':>10}{'ours / theirs':>16}\n")
    for name, row in table.items():
        ratios = f"{row['prefill']['kokanee_ratio']} {row['decode']['kokanee_ratio']}"
        medians = (row[phase]["median"] for phase in ("prefill", "decode"))
        write(f"{name:36}" + "".join(f"{m:10}" for m in medians) + f"{ratios:>16}\n")
    result = {
        "benchmark": "decode_nano",
        "unit": "tokens/s",
        "results": table,
        "threads": options.threads,
        "spin_us": options.spin_us,
        "n_prompt": options.prompt,
        "n_tokens": len(ids) - options.prompt,
        "rounds": options.rounds,
        "n_bytes": {
            "kokanee": (bundle / "llm.bin").stat().st_size,
            "llama.cpp Q4_0": q4_0.stat().st_size,
            "llama.cpp Q4_1": master.stat().st_size,
        },
        "machine": machine() | {"load_average_before": [round(x, 1) for x in load_before]},
        "versions": {
            "onnxruntime": importlib.metadata.version("onnxruntime"),
            "llama-cpp-python": llama_cpp().__version__,
        },
        "bundle": bundle.name,
        "command": "python -m kokanee.benchmarks.decode " + " ".join(sys.argv[1:]),
    }
    line = json.dumps(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write(line + "\n")


if __name__ == "__main__":
    main()
