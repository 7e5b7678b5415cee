"""How long after the last word the first word of the answer comes, spoken in real time.

Every utterance (2 to 20 s, held-out recordings) is played at the speed of sound into a listener,
once in each mode; every turn that was found in it is then given to the other contenders, which can
begin only when a turn is over. Or somebody speaks into a real microphone.

    voice ends -- silence --> decided -- compute --> first token     live: most is done before
               |<-- wait -->|         |<- compute ->|
               |<------------ first_token --------->|
                 settle ...            encode, prefill, first token  others: all of it is compute

`wait` is the silence that ends a turn and is the same for all; in it a live listener settles the
sound and begins the answer: `settle` is what that took, `compute` what was left of it when the
silence had lasted. A turn's label `length` is short below 3 s and long from 12 s on.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kokanee.engine import EXACT, FAST, Engine, Streaming
from kokanee.runtime.listener import Listener
from kokanee.runtime.listening import Ask, Listening, unpadded
from kokanee.runtime.sources import Playback, Source
from kokanee.runtime.updates import Final

from .contenders import KOKANEE
from .field import QUESTION, Field, Setup
from .record import Label, Measure, Part
from .utterances import Utterance, utterances

F32 = npt.NDArray[np.float32]

N = 20
MODES = (FAST, EXACT)
MAX_NEW_TOKENS = 32  # of the others; only their first token counts
QUIET_S = 1.0  # before and behind
LENGTHS = {"short": (0.0, 3.0), "middle": (3.0, 12.0), "long": (12.0, 1e9)}  # seconds of a turn
STAGES = ("wait", "settle", "compute", "first_token")


def measure(setup: Setup, data: Path, *, n: int = N) -> Part:
    """Play utterances to a listener in every mode, and their turns to the others.

    Args:
        setup: what, beside whom; rounds are the utterances.
        data: where `heldout.fetch` put the recordings.
        n: utterances.
    """
    started = time.perf_counter()
    said = utterances(data, n)
    rows: list[dict[str, Any]] = []
    with (
        Engine.open(**setup.opening()) as engine,
        Field(setup, "answers", {}, "stream", ours=False) as field,
    ):
        _warm_up(engine, field)
        for i, utterance in enumerate(said):
            setup.progress("stream: utterances in real time", i, n)
            field.watch.control()
            room = np.concatenate(list(in_a_room(utterance.pcm)))
            turns: list[dict[str, Any]] = []
            for streaming in MODES:
                source = Playback([room], realtime=True)
                turns = live(engine, source, streaming)
                rows += turns
            for turn in turns:  # as the last mode found them
                stretch = room[round(turn["start_s"] * 16_000) : round(turn["end_s"] * 16_000)]
                rows.append(offline(engine, stretch, turn["latencies_ms"]["wait"]))
                rows += _others(field, stretch, turn["latencies_ms"]["wait"])
    setup.progress("stream: utterances in real time", n, n)
    return _part(
        setup, field, rows, started, {"n": n, "microphone": None, "utterances_s": _seconds(said)}
    )


def microphone(setup: Setup, source: Source, *, n: int) -> Part:
    """The same of `n` turns that somebody speaks into a microphone, in fast mode alone."""
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    alone = dataclasses.replace(setup, against=())
    with (
        Engine.open(**setup.opening()) as engine,
        Field(alone, "answers", {}, "stream", ours=False) as field,
    ):
        field.watch.control()
        setup.progress("stream: turns heard; speak", 0, n)
        for row in _finals(engine, source, FAST):
            rows.append(row)
            field.watch.control()
            setup.progress("stream: turns heard; speak", len(rows), n)
            if len(rows) == n:
                break
    return _part(setup, field, rows, started, {"n": n, "microphone": source.name})


def live(engine: Engine, source: Source, streaming: Streaming) -> list[dict[str, Any]]:
    """A row for every turn that was found in a source."""
    return list(_finals(engine, source, streaming))


def _finals(engine: Engine, source: Source, streaming: Streaming) -> Iterator[dict[str, Any]]:
    listening = Listening(questions=(Ask(question=QUESTION),), streaming=streaming, barge_in=False)
    with Listener(engine, source, listening) as listener:
        for update in listener:
            if isinstance(update, Final):
                yield {
                    "contender": KOKANEE,
                    "mode": streaming.name,
                    "seconds": update.end_s - update.start_s,
                    "start_s": update.start_s,
                    "end_s": update.end_s,
                    "latencies_ms": dict(update.latencies_ms),
                }


def offline(engine: Engine, pcm: F32, wait_ms: float) -> dict[str, Any]:
    """Hear [n_samples] and ask, the text before the sound prefilled already as it is when live."""
    with engine.session(policy=unpadded(engine.manifest.policy)) as session:
        session.listen()
        started = time.perf_counter()
        session.hear(pcm)
        answer = session.ask(QUESTION)
        next(iter(answer), None)
        compute_ms = (time.perf_counter() - started) * 1e3
    return _row(KOKANEE, len(pcm), compute_ms, wait_ms)


def _others(field: Field, pcm: F32, wait_ms: float) -> Iterator[dict[str, Any]]:
    for name, worker in field.others():
        said = worker.answer(pcm, QUESTION, max_new_tokens=MAX_NEW_TOKENS)
        yield _row(name, len(pcm), said.first_token_ms, wait_ms)


def _row(contender: str, n_samples: int, compute_ms: float, wait_ms: float) -> dict[str, Any]:
    return {
        "contender": contender,
        "mode": "offline",
        "seconds": n_samples / 16_000,
        "latencies_ms": {
            "wait": wait_ms,
            "compute": compute_ms,
            "first_token": wait_ms + compute_ms,
        },
    }


def _warm_up(engine: Engine, field: Field) -> None:
    pcm = np.zeros(16_000, np.float32)
    offline(engine, pcm, 0.0)
    list(_others(field, pcm, 0.0))


def in_a_room(pcm: F32) -> Iterator[F32]:
    """A little noise, [n_samples], the noise again."""
    rng = np.random.default_rng(0)
    quiet = (1e-4 * rng.normal(size=round(QUIET_S * 16_000))).astype(np.float32)
    yield quiet
    yield pcm
    yield quiet


def length_of(seconds: float) -> Literal["short", "middle", "long"]:
    """The label of a turn."""
    if seconds < LENGTHS["short"][1]:
        return "short"
    return "long" if seconds >= LENGTHS["long"][0] else "middle"


def _part(
    setup: Setup,
    field: Field,
    rows: Sequence[dict[str, Any]],
    started: float,
    settings: dict[str, Any],
) -> Part:
    return Part(
        name="stream",
        seconds=time.perf_counter() - started,
        settings=setup.settings(**settings) | {"contenders": field.facts},
        noise=field.watch.noise(),
        measures=tuple(measures(rows)),
        skipped=tuple(field.skipped),
        notes=() if rows else ("no turn was heard",),
    )


def measures(rows: Iterable[dict[str, Any]]) -> Iterator[Measure]:
    """All turns of a contender and mode, and those of each length alone."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        for length in ("all", length_of(row["seconds"])):
            groups[row["contender"], row["mode"], length].append(row)
    for (contender, mode, length), group in groups.items():
        of: dict[str, Label] = {"contender": contender, "mode": mode, "length": length}
        yield Measure(name="turn", unit="s", of=of, samples=tuple(r["seconds"] for r in group))
        for stage in STAGES:
            found = [r["latencies_ms"][stage] for r in group if stage in r["latencies_ms"]]
            if found:
                yield Measure(name=stage, unit="ms", of=of, samples=tuple(found))


def _seconds(said: Sequence[Utterance]) -> dict[str, float]:
    lengths = [u.seconds for u in said]
    return {"least": min(lengths), "median": statistics.median(lengths), "most": max(lengths)}
