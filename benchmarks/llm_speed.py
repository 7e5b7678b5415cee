"""The language model alone, as llama-bench times it: prefill (pp) and decode (tg) at some depths.

Depth is how many positions the cache holds already. Every step of decoding is a sample, so its
percentiles are those of the inter-token latency; rates are positions a second. Ours carries its
adapter (LoRA), as it always does; the others have none.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from .contenders import KOKANEE
from .contenders.worker import WorkerError
from .field import Field, Setup
from .record import Label, Measure, Part

DEPTHS = (64, 512, 1900)
N_STEPS = 32
PREFILLS = ((32, 0), (117, 0), (512, 0), (117, 1024))  # positions, depth
_SLACK = 8


def decode(setup: Setup, *, depths: Sequence[int] = DEPTHS, n_steps: int = N_STEPS) -> Part:
    """Steps of one token."""
    started = time.perf_counter()
    steps: dict[tuple[str, int], list[float]] = defaultdict(list)
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    spec = {"n_ctx": max(depths) + n_steps + _SLACK}
    with Field(setup, "decodes", spec, "decode") as field:
        for index, worker in field.turns():
            try:
                for depth in depths:
                    ms = worker.call("decode", n_past=depth, n_steps=n_steps)["step_ms"]
                    if index >= 0:
                        steps[worker.name, depth] += ms
                        rates[worker.name, depth].append(1e3 * len(ms) / sum(ms))
            except WorkerError as error:
                if worker.name == KOKANEE:
                    raise
                field.drop(worker.name, str(error))
    measures = []
    for (name, depth), samples in steps.items():
        of: dict[str, Label] = {"contender": name, "depth": depth}
        measures.append(Measure(name="step", unit="ms", of=of, samples=tuple(samples)))
        measures.append(
            Measure(
                name="rate",
                unit="tokens/s",
                of=of,
                samples=tuple(rates[name, depth]),
                better="more",
            )
        )
    return Part(
        name="decode",
        seconds=time.perf_counter() - started,
        settings=setup.settings(depths=list(depths), n_steps=n_steps) | {"contenders": field.facts},
        noise=field.watch.noise(),
        measures=tuple(measures),
        skipped=tuple(field.skipped),
    )


def prefill(setup: Setup, *, prefills: Sequence[tuple[int, int]] = PREFILLS) -> Part:
    """Many positions at once, and the logits of the last."""
    started = time.perf_counter()
    times: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    spec = {"n_ctx": max(n + depth for n, depth in prefills) + _SLACK}
    with Field(setup, "decodes", spec, "prefill") as field:
        for index, worker in field.turns():
            try:
                for n, depth in prefills:
                    ms = worker.call("prefill", n_past=depth, n_new=n)["ms"]
                    if index >= 0:
                        times[worker.name, n, depth].append(ms)
            except WorkerError as error:
                if worker.name == KOKANEE:
                    raise
                field.drop(worker.name, str(error))
    measures = []
    for (name, n, depth), samples in times.items():
        of: dict[str, Label] = {"contender": name, "n": n, "depth": depth}
        measures.append(Measure(name="time", unit="ms", of=of, samples=tuple(samples)))
        measures.append(
            Measure(
                name="rate",
                unit="tokens/s",
                of=of,
                samples=tuple(1e3 * n / ms for ms in samples),
                better="more",
            )
        )
    return Part(
        name="prefill",
        seconds=time.perf_counter() - started,
        settings=setup.settings(prefills=[list(p) for p in prefills]) | {"contenders": field.facts},
        noise=field.watch.noise(),
        measures=tuple(measures),
        skipped=tuple(field.skipped),
    )
