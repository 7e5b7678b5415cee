"""Whether the benchmark's own clock is right, and what measuring costs.

known_stage   what is reported for a stage that lasts as long as another clock says
              (CLOCK_MONOTONIC_RAW, which no time server bends)
reading       milliseconds of reading the clock once
overhead      an answer while everything that `bench` does is done (clocks, a control before
              every round, memory sampled every 50 ms), over the same answer without; in turns
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from kokanee.engine import Engine

from .field import QUESTION, Setup, sound
from .memory import Sampler
from .noise import Watch
from .record import Measure, Part

LENGTHS_MS = (1.0, 10.0, 100.0)
SECONDS = 3.0
_READINGS = 100_000


def measure(setup: Setup, *, repeats: int = 100) -> Part:
    """All three."""
    started = time.perf_counter()
    with Watch() as watch:
        known = list(_known())
        reading = _reading()
        bare, measured, looking = [], [], []
        pcm = sound(SECONDS)
        with (
            Engine.open(**setup.opening()) as engine,
            engine.session() as session,
        ):

            def answer() -> float:
                began = time.perf_counter()
                session.hear(pcm)
                session.ask(QUESTION, max_new_tokens=8).text()
                return (time.perf_counter() - began) * 1e3

            answer()
            for i in range(repeats):
                setup.progress("timers: overhead", i, repeats)
                watch.control()
                for sampled in (False, True) if i % 2 else (True, False):
                    if sampled:
                        with Sampler(os.getpid()) as sampler:
                            measured.append(answer())
                        looking.append(sampler.cost_s * 1e3 / measured[-1])
                    else:
                        bare.append(answer())
        setup.progress("timers: overhead", repeats, repeats)
    overhead = tuple(a / b for a, b in zip(measured, bare, strict=True))
    return Part(
        name="timers",
        seconds=time.perf_counter() - started,
        settings={"repeats": repeats, "seconds": SECONDS},
        noise=watch.noise(),
        measures=(
            *known,
            Measure(name="reading", unit="ms", samples=(reading,)),
            Measure(name="answer", unit="ms", of={"sampled": "no"}, samples=tuple(bare)),
            Measure(name="answer", unit="ms", of={"sampled": "yes"}, samples=tuple(measured)),
            Measure(name="sampling", unit="share", samples=tuple(looking)),
            Measure(name="overhead", unit="x", samples=overhead),
        ),
    )


def _known() -> Iterator[Measure]:
    """Spins until the other clock says that the time is over: what ours says then."""
    raw = getattr(time, "CLOCK_MONOTONIC_RAW", None)
    for ms in LENGTHS_MS:
        samples = []
        for _ in range(20):
            began = time.perf_counter()
            _spin(ms / 1e3, raw)
            samples.append((time.perf_counter() - began) * 1e3)
        yield Measure(name="known_stage", unit="ms", of={"length_ms": ms}, samples=tuple(samples))


def _spin(seconds: float, raw: int | None) -> None:
    now = time.monotonic if raw is None else lambda: time.clock_gettime(raw)
    end = now() + seconds
    while now() < end:
        pass


def _reading() -> float:
    """Milliseconds of reading the clock once."""
    began = time.perf_counter()
    for _ in range(_READINGS):
        time.perf_counter()
    return (time.perf_counter() - began) * 1e3 / _READINGS
