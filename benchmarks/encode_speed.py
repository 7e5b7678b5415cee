"""A sound into soft tokens, stage by stage, beside other runtimes of the same encoders."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from .contenders import KOKANEE
from .contenders.worker import WorkerError
from .field import Field, Setup, sound
from .record import Label, Measure, Part

SECONDS = (30.0,)


def measure(setup: Setup, *, seconds: Sequence[float] = SECONDS) -> Part:
    """Features, Whisper, BEATs, Q-Former; the language model apart."""
    started = time.perf_counter()
    clips = {s: sound(s) for s in seconds}
    totals: dict[tuple[str, float], list[float]] = defaultdict(list)
    stages: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    with Field(setup, "encodes", {}, "encode") as field:
        for index, worker in field.turns():
            try:
                for length, pcm in clips.items():
                    taken = worker.call("encode", pcm=pcm)
                    if index < 0:
                        continue
                    totals[worker.name, length].append(taken["total_ms"])
                    for stage, ms in taken["stages_ms"].items():
                        stages[worker.name, length, stage].append(ms)
            except WorkerError as error:
                if worker.name == KOKANEE:
                    raise
                field.drop(worker.name, str(error))
    measures = []
    for (name, length), samples in totals.items():
        of: dict[str, Label] = {"contender": name, "seconds": length}
        measures.append(Measure(name="total", unit="ms", of=of, samples=tuple(samples)))
    for (name, length, stage), samples in stages.items():
        of = {"contender": name, "seconds": length, "stage": stage}
        measures.append(Measure(name="stage", unit="ms", of=of, samples=tuple(samples)))
    return Part(
        name="encode",
        seconds=time.perf_counter() - started,
        settings=setup.settings(seconds=list(seconds)) | {"contenders": field.facts},
        noise=field.watch.noise(),
        measures=(*measures, *field.held()),
        skipped=tuple(field.skipped),
        notes=("every call is the first of a new process",) if field.alone else (),
    )
