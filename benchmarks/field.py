"""Who takes part in a measurement, and in what order: every contender once a round, in turns.

    round   -1 (warm-up)      0               1               2
            A  B  C           B  C  A         C  A  B         A  B  C
            control first, before every round

A slow minute is thus slow for all of them, and the ratio within a round says more than two medians.
That holds for a slow machine, not for one whose cores others use: see `noise`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kokanee.engine import Manifest, read_audio, read_manifest
from kokanee.engine.manifest import FILE_NAME, sha256
from kokanee.runtime.memory import machine_mb

from .contenders import CONTENDERS, KOKANEE, Role
from .contenders.worker import Worker, WorkerError
from .noise import Watch
from .record import Label, Measure, Skipped

F32 = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]

QUESTION = "Write down what is said."
RECORDING = Path(__file__).parents[1] / "runtime" / "recordings" / "speech.wav"
_PAUSE = 8_000  # samples between two times of the recording

# Shapes of which alternatives can make weights of their own, where the bundle's are random.
_SHAPES = {(22, 2048): "1b", (32, 4096): "7b", (40, 5120): "13b"}  # layers, d_model

# Above this share of the machine's memory, contenders are not alive at the same time.
_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is measured, beside whom, how often."""

    bundle: Path
    threads: int
    device: str = "cpu"
    kv_cache: str = "auto"
    rounds: int = 5
    warmup: int = 1
    against: tuple[str, ...] = ()  # names in CONTENDERS beside ours
    work: Path  # where alternatives keep the weights they make
    progress: Progress = lambda what, done, total: None

    def manifest(self) -> Manifest:
        """Of the bundle."""
        return read_manifest(self.bundle)

    def opening(self) -> dict[str, Any]:
        """Arguments of `Engine.open`."""
        return {
            "folder": self.bundle,
            "device": self.device,
            "threads": self.threads,
            "kv_cache": self.kv_cache,
        }

    def spec(self, **more: Any) -> dict[str, Any]:
        """What contenders are told."""
        dims = self.manifest().dims
        return {
            "bundle": str(self.bundle),
            "threads": self.threads,
            "device": self.device,
            "kv_cache": self.kv_cache,
            "work": str(self.work),
            "shape": _SHAPES.get((dims.n_layers, dims.d_model)),
            **more,
        }

    def settings(self, **more: Any) -> dict[str, Any]:
        """What a part's record says of it."""
        return {
            "rounds": self.rounds,
            "warmup": self.warmup,
            "against": list(self.against),
            "kv_cache": self.kv_cache,
            **more,
        }


def subject(folder: Path) -> dict[str, Any]:
    """A bundle in a few facts; the hash is that of its manifest, which holds all others."""
    manifest = read_manifest(folder)
    return {
        "name": manifest.name,
        "manifest_sha256": sha256(folder / FILE_NAME),
        "bytes": sum(f.n_bytes for f in manifest.files.values()),
        "schemes": {name: graph.scheme for name, graph in manifest.graphs.items()},
        "int8_cache": manifest.int8_cache is not None,
    }


def is_large(manifest: Manifest) -> bool:
    """Whether several contenders of its size would not fit this machine's memory together."""
    memory = machine_mb()
    n_bytes = sum(f.n_bytes for f in manifest.files.values())
    return memory is not None and n_bytes / 1e6 > _SHARE * memory


def sound(seconds: float) -> F32:
    """Real speech of any length: the bundled recording again and again, with pauses."""
    pcm = np.pad(read_audio(RECORDING).pcm, (0, _PAUSE))
    return np.resize(pcm, round(seconds * 16_000))


@dataclass(slots=True)
class Field:
    """The contenders of one part, started when entered and ended when left."""

    setup: Setup
    role: Role
    spec: Mapping[str, Any]
    what: str  # for the progress bar
    ours: bool = True  # whether Kokanee is one of them
    anew: bool = False  # start every contender for every turn, even where all fit
    skipped: list[Skipped] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    watch: Watch = field(default_factory=Watch)
    _peaks: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _ready: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _alive: dict[str, Worker] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)

    def __enter__(self) -> Field:
        """Find out who can take part; start them unless they are too large to be alive together."""
        for name in (*(KOKANEE,) * self.ours, *self.setup.against):
            contender = CONTENDERS[name]
            if self.role not in contender.roles:
                continue
            if missing := contender.missing():
                why = f"{', '.join(missing)} not installed"
                self.skipped.append(Skipped(name=name, why=why, install=contender.install))
                continue
            self._names.append(name)
        if not self.alone:
            for name in tuple(self._names):
                self._start(name)
        self.watch.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """End them all."""
        self.watch.__exit__(*error)
        for worker in self._alive.values():
            worker.close()
        self._alive.clear()

    @property
    def alone(self) -> bool:
        """Whether each contender is started anew for every turn and ended behind it."""
        return self.anew or is_large(self.setup.manifest())

    @property
    def names(self) -> tuple[str, ...]:
        """Those that take part."""
        return tuple(self._names)

    def turns(self) -> Iterator[tuple[int, Worker]]:
        """Round and contender; rounds below 0 warm up and are not to be kept."""
        total = self.setup.rounds + self.setup.warmup
        for i in range(total):
            self.watch.control()
            at = i % max(1, len(self._names))
            for name in (*self._names[at:], *self._names[:at]):
                if name not in self._names:  # dropped in this round
                    continue
                self.setup.progress(f"{self.what}: {name}", i, total)
                worker = self._alive.get(name) or self._start(name)
                if worker is None:
                    continue
                try:
                    yield i - self.setup.warmup, worker
                    if i >= self.setup.warmup and name in self._names:
                        self._peaks[name].append(worker.memory_mb()["peak"])
                        self._ready[name].append(worker.hello["ready_s"])
                finally:
                    if self.alone:
                        worker.close()
                        self._alive.pop(name, None)
        self.setup.progress(self.what, total, total)

    def held(self) -> Iterator[Measure]:
        """What every contender's process held at most, and how soon it could be asked."""
        for name, peaks in self._peaks.items():
            of: dict[str, Label] = {"contender": name}
            yield Measure(name="rss_peak", unit="MB", of=of, samples=tuple(peaks))
            ready = self._ready[name] if self.alone else self._ready[name][:1]
            yield Measure(name="ready", unit="s", of=of, samples=tuple(ready))

    def others(self) -> Iterator[tuple[str, Worker]]:
        """Those beside ours, outside rounds.

        Raises:
            ValueError: they are too large to be alive together.
        """
        if self.alone and len(self._names) > 1:
            raise ValueError("contenders that are started for every turn answer in rounds only")
        for name in self._names:
            if name != KOKANEE:
                yield name, self._alive[name]

    def drop(self, name: str, why: str) -> None:
        """A contender that turned out not to be able to: it is left out from here on."""
        self.skipped.append(Skipped(name=name, why=why))
        self._names.remove(name)
        if worker := self._alive.pop(name, None):
            worker.close()

    def _start(self, name: str) -> Worker | None:
        try:
            worker = Worker.start(name, self.role, self.setup.spec(**self.spec))
        except WorkerError as error:
            if name == KOKANEE:
                raise
            self.drop(name, str(error).removeprefix(f"{name}: "))
            return None
        self.facts[name] = worker.hello
        self._alive[name] = worker
        return worker
