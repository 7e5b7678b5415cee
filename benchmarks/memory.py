"""What has to be in memory: steady and at most, by part, over time, and what the cache takes.

    rss_steady   resident when a contender is open and has answered once
    rss_peak     most that was ever resident, opening included
    ready        seconds until it could be asked
    part_rss     what opening one graph alone adds to a process, its weights included
    kv_bytes     of the cache by positions: exact, from the arrays themselves
    rss          over time, sampled every 50 ms from outside

Every contender is a process of its own, started anew for every repeat. Resident memory counts what
is mapped from files and shared; it is what the system's monitor shows.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from kokanee.engine.manifest import GRAPHS

from .contenders import KOKANEE
from .contenders.worker import Worker, WorkerError
from .counts import CONTEXTS, counts
from .field import QUESTION, Field, Setup, sound
from .machine import gpu
from .record import Mark, Measure, Part, Series

SECONDS = 10.0  # of the sound that is answered
MAX_NEW_TOKENS = 32
EVERY_S = 0.05


def measure(setup: Setup) -> Part:
    """Start, ask, ask again; every contender anew every round."""
    started = time.perf_counter()
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    series: list[Series] = []
    pcm = sound(SECONDS)
    with Field(setup, "answers", {}, "memory", anew=True) as field:
        for index, worker in field.turns():
            try:
                over_time, marks = [], []
                with Sampler(worker.pid) as sampler:
                    marks.append(Mark(t_s=0.0, what="open, nothing heard"))
                    time.sleep(0.2)
                    marks.append(Mark(t_s=sampler.now(), what="asked"))
                    worker.answer(pcm, QUESTION, max_new_tokens=MAX_NEW_TOKENS)
                    marks.append(Mark(t_s=sampler.now(), what="asked again"))
                    worker.answer(pcm, QUESTION, max_new_tokens=MAX_NEW_TOKENS)
                    marks.append(Mark(t_s=sampler.now(), what="done"))
                    time.sleep(0.2)
                    over_time = sampler.samples
                memory = worker.memory_mb()
            except WorkerError as error:
                if worker.name == KOKANEE:
                    raise
                field.drop(worker.name, str(error))
                continue
            if index < 0:
                continue
            samples[worker.name, "rss_steady"].append(memory["rss"])
            samples[worker.name, "anonymous"].append(memory["anonymous"])
            if index == setup.rounds - 1:
                series.append(
                    Series(
                        name="rss",
                        unit="MB",
                        of={"contender": worker.name},
                        t_s=tuple(round(t, 3) for t, _ in over_time),
                        values=tuple(round(mb, 1) for _, mb in over_time),
                        marks=tuple(marks),
                    )
                )
        parts = list(_part_rss(setup, field))
    measures = [
        Measure(
            name=what,
            unit="MB",
            of={"contender": name},
            samples=tuple(values),
        )
        for (name, what), values in samples.items()
    ]
    return Part(
        name="memory",
        seconds=time.perf_counter() - started,
        settings=setup.settings(seconds=SECONDS, contexts=list(CONTEXTS))
        | {"contenders": field.facts},
        noise=field.watch.noise(),
        measures=(*measures, *field.held(), *parts, *_device(setup)),
        counts=tuple(counts(setup.bundle)),
        series=tuple(series),
        skipped=tuple(field.skipped),
    )


class Sampler:
    """Resident memory of a process over time, looked at from outside."""

    def __init__(self, pid: int) -> None:
        self.samples: list[tuple[float, float]] = []  # seconds since entering, MB
        self.cost_s = 0.0  # processor time that looking took, once left
        self._pid = pid
        self._started = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        """Begin."""
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def now(self) -> float:
        """Seconds since entering."""
        return round(time.monotonic() - self._started, 3)

    def _run(self) -> None:
        import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own

        look = _resident(self._pid)
        began = time.thread_time()
        try:
            while True:
                self.samples.append((self.now(), look() / 1e6))
                if self._stop.wait(EVERY_S):
                    return
        except (psutil.NoSuchProcess, OSError):  # it ended
            return
        finally:
            self.cost_s = time.thread_time() - began


def _resident(pid: int) -> Callable[[], float]:
    """Bytes of a process, as cheaply as the system tells them."""
    import psutil

    statm = Path(f"/proc/{pid}/statm")
    if not statm.is_file():
        process = psutil.Process(pid)
        return lambda: float(process.memory_info().rss)
    page = os.sysconf("SC_PAGE_SIZE")
    return lambda: int(statm.read_bytes().split()[1]) * page


# --- by part --------------------------------------------------------------------------------------


def _part_rss(setup: Setup, field: Field) -> Iterator[Measure]:
    """Every graph alone, in a process that has imported what opens it and nothing more."""
    manifest = setup.manifest()
    for name in GRAPHS:
        file = manifest.graphs[name].file
        if name == "llm" and manifest.int8_cache is not None and setup.kv_cache != "float32":
            file = manifest.int8_cache.graph
        samples = []
        for i in range(setup.rounds):
            setup.progress(f"memory: {name} alone", i, setup.rounds)
            field.watch.control()
            spec = {"file": str(setup.bundle / file), "threads": setup.threads}
            with Worker.start(KOKANEE, "opens", spec | {"arena": name == "llm"}) as worker:
                samples.append(worker.hello["facts"]["added_mb"])
        setup.progress(f"memory: {name} alone", setup.rounds, setup.rounds)
        yield Measure(name="part_rss", unit="MB", of={"part": name}, samples=tuple(samples))


def _device(setup: Setup) -> Iterator[Measure]:
    """Memory of the GPU that opening and answering takes, as NVML tells it."""
    before = gpu()
    if setup.device != "cuda" or before is None:
        return
    with Worker.start(KOKANEE, "answers", setup.spec()) as worker:
        worker.answer(sound(SECONDS), QUESTION, max_new_tokens=MAX_NEW_TOKENS)
        after: dict[str, Any] = gpu() or before
    taken = 1e3 * (after["used_gb"] - before["used_gb"])
    yield Measure(name="device_used", unit="MB", of={"contender": KOKANEE}, samples=(taken,))
