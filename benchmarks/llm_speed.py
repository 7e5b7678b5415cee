"""The language model alone, as llama-bench times it: prefill (pp) and decode (tg) at some depths.

Depth is how many positions the cache holds already. Every step of decoding is a sample, so its
percentiles are those of the inter-token latency; rates are positions a second. Ours carries its
adapter (LoRA), as it always does; the others have none.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

from .contenders import KOKANEE
from .contenders.worker import WorkerError
from .field import Field, Setup
from .record import Label, Measure, Part

T = TypeVar("T")

DEPTHS = (64, 512, 1900)
N_STEPS = 32
PREFILLS = ((32, 0), (117, 0), (512, 0), (117, 1024))  # positions, depth
_SLACK = 8


def decode(setup: Setup, *, depths: Sequence[int] = DEPTHS, n_steps: int = N_STEPS) -> Part:
    """Steps of one token."""
    started = time.perf_counter()
    room = setup.manifest().dims.n_positions - n_steps - _SLACK
    depths, notes = _fitting(depths, {depth: depth for depth in depths}, room)
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
        measures=(*measures, *field.held()),
        skipped=tuple(field.skipped),
        notes=notes,
    )


def prefill(setup: Setup, *, prefills: Sequence[tuple[int, int]] = PREFILLS) -> Part:
    """Many positions at once, and the logits of the last."""
    started = time.perf_counter()
    room = setup.manifest().dims.n_positions - _SLACK
    prefills, notes = _fitting(prefills, {p: sum(p) for p in prefills}, room)
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
        measures=(*measures, *field.held()),
        skipped=tuple(field.skipped),
        notes=notes,
    )


def _fitting(
    wanted: Sequence[T], needs: Mapping[T, int], room: int
) -> tuple[list[T], tuple[str, ...]]:
    """Those that the model has positions for; what is said of the others.

    Raises:
        ValueError: it has for none.
    """
    fit = [one for one in wanted if needs[one] <= room]
    if not fit:
        raise ValueError(f"expected at most {room} positions, got {', '.join(map(str, wanted))}")
    left_out = [str(one) for one in wanted if one not in fit]
    notes = (f"left out, more than the model's positions: {', '.join(left_out)}",)
    return fit, notes if left_out else ()
