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
import ctypes
import importlib
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer

from kokanee.engine.decoder import Decoder
from kokanee.engine.embedding import Embedding
from kokanee.engine.manifest import read_manifest
from kokanee.engine.onnx import SPIN_US, open_graph
from kokanee.export.nano.build import build_nano, default_cache
from kokanee.export.sources import SMOLLM2, fetch

from .machine import machine

N_CTX = 512  # positions
TEXT = (
    "The kokanee is a landlocked salmon. It spends its whole life in lakes and streams, and never"
    " sees the sea. In late summer the fish turn red and swim up the creeks where they hatched, in"
    " such numbers that a person standing on the bank can hear the water move. They dig their nests"
    " in gravel, guard them for a week or two, and die. The eggs lie under the ice until spring,"
    " when the fry wriggle out and drift down to the lake in the dark. Eagles and bears know"
    " the date as well as anyone, and so do the people who come each year to listen."
)


class Contender(Protocol):
    """A decoder that can be put back to the end of its prompt."""

    name: str

    def prefill(self, ids: Sequence[int]) -> None:
        """Forget everything, then take the prompt."""
        ...

    def step(self, token: int) -> int:
        """Append a token; the likeliest next one."""
        ...


class Kokanee:
    """The bundle's LLM graph, adapter included."""

    def __init__(self, bundle: Path, *, threads: int, spin_us: int) -> None:
        manifest = read_manifest(bundle)
        dims, llm = manifest.dims, manifest.graphs["llm"]
        self.name = f"kokanee {llm.scheme}"
        self._decoder = Decoder(
            open_graph(bundle / llm.file, device="cpu", threads=threads, spin_us=spin_us),
            Embedding(bundle, manifest.embedding, n_vocab=dims.n_vocab, d_model=dims.d_model),
            dims,
            n_ctx=N_CTX,
            lora_scale=manifest.lora.scale,
        )

    def prefill(self, ids: Sequence[int]) -> None:
        """Forget everything, then take the prompt."""
        self._decoder.cache.trim(0)
        self._decoder.prefill(self._decoder.embed(ids))

    def step(self, token: int) -> int:
        """Append a token; the likeliest next one."""
        return int(self._decoder.step(token).argmax())


class LlamaCpp:
    """A GGUF file through llama.cpp's own C interface: no Python between two tokens but this."""

    def __init__(self, path: Path, name: str, *, threads: int) -> None:
        self.name, self._cpp = name, _llama_cpp()
        cpp = self._cpp
        model = cpp.llama_model_load_from_file(str(path).encode(), cpp.llama_model_default_params())
        params = cpp.llama_context_default_params()
        params.n_ctx = N_CTX
        params.n_threads = params.n_threads_batch = threads
        self._context = cpp.llama_init_from_model(model, params)
        self._n_vocab = cpp.llama_vocab_n_tokens(cpp.llama_model_get_vocab(model))

    def prefill(self, ids: Sequence[int]) -> None:
        """Forget everything, then take the prompt."""
        self._cpp.llama_memory_clear(self._cpp.llama_get_memory(self._context), True)
        self._append(ids)

    def step(self, token: int) -> int:
        """Append a token; the likeliest next one."""
        self._append([token])
        logits = self._cpp.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._n_vocab,)).argmax())

    def _append(self, ids: Sequence[int]) -> None:
        tokens = (self._cpp.llama_token * len(ids))(*ids)
        status = self._cpp.llama_decode(
            self._context, self._cpp.llama_batch_get_one(tokens, len(ids))
        )
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")


# llama.cpp keeps the callback's address: it must live as long as the module.
_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


def _llama_cpp() -> Any:
    """The module, silenced; imported here because nothing else needs it."""
    cpp = importlib.import_module("llama_cpp")
    cpp.llama_log_set(_QUIET, ctypes.c_void_p(0))
    cpp.llama_backend_init()
    return cpp


def requantized(master: Path, target: Path) -> Path:
    """`master` as llama.cpp's own Q4_0, made once."""
    if not target.is_file():
        cpp = _llama_cpp()
        params = cpp.llama_model_quantize_default_params()
        params.ftype = cpp.LLAMA_FTYPE_MOSTLY_Q4_0
        params.allow_requantize = True
        partial = target.with_suffix(".partial")
        status = cpp.llama_model_quantize(
            str(master).encode(), str(partial).encode(), ctypes.byref(params)
        )
        if status != 0:
            raise RuntimeError(f"llama_model_quantize: {status}")
        partial.rename(target)
    return target


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
    contenders: list[Contender] = [
        Kokanee(bundle, threads=options.threads, spin_us=options.spin_us),
        LlamaCpp(q4_0, "llama.cpp Q4_0 (requantized)", threads=options.threads),
        LlamaCpp(master, "llama.cpp Q4_1 (the master itself)", threads=options.threads),
    ]
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
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
            "llama-cpp-python": _llama_cpp().__version__,
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
