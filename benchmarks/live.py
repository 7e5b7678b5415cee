"""How long after the last word the first word of the answer comes, replayed in real time.

    python -m kokanee.benchmarks.live [BUNDLE] [--n 60] [--out FILE]

Every utterance (2 to 20 s, held-out recordings) is played at the speed of sound into a listener,
once in each mode, and is then heard and asked about offline; modes take turns, so that a busy
machine is busy for all of them.

    voice ends ── silence ──► decided ── compute ──► first token     live
               ◄── wait ────►         ◄─ compute ──►
    encode, prefill, question, first token                           offline: all of it is compute

In the wait a live listener settles the sound and begins the answer: `settle` is what that took, and
`compute` what was left of it, and of the answer's beginning, when the silence had lasted. Lengths
are those of the turns that were found: a long utterance with a real pause in it is two.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from kokanee.engine import EXACT, FAST, Engine, Streaming
from kokanee.export.nano import build_nano, default_cache
from kokanee.runtime.listener import Listener
from kokanee.runtime.listening import Ask, Listening, unpadded
from kokanee.runtime.sources import Playback
from kokanee.runtime.updates import Final

from .machine import machine
from .utterances import Utterance, utterances

F32 = npt.NDArray[np.float32]

QUESTION = "Write down what is said."
QUIET_S = 1.0  # before and behind
_SHORT_S, _LONG_S = 3.0, 12.0  # of what is compared: does it cost more to have said more?


def live(engine: Engine, utterance: Utterance, streaming: Streaming) -> list[dict[str, Any]]:
    """Play an utterance in real time; a record for every turn that was found in it."""
    listening = Listening(questions=(Ask(question=QUESTION),), streaming=streaming, barge_in=False)
    source = Playback(_in_a_room(utterance.pcm), realtime=True)
    with Listener(engine, source, listening) as listener:
        finals = [update for update in listener if isinstance(update, Final)]
        busy_s = listener.tally.busy_s
    return [
        {
            "mode": streaming.name,
            "utterance": utterance.name,
            "seconds": round(final.end_s - final.start_s, 3),
            "start_s": final.start_s,
            "end_s": final.end_s,
            "text": final.text,
            "latencies_ms": final.latencies_ms,
            "work_ms": final.work_ms,
            "busy_share": round(busy_s / listener.heard_s, 3),
        }
        for final in finals
    ]


def offline(engine: Engine, pcm: F32) -> dict[str, Any]:
    """Hear [n_samples] and ask, the text before the sound prefilled already as it is when live."""
    with engine.session(policy=unpadded(engine.manifest.policy)) as session:
        session.listen()
        started = time.perf_counter()
        session.hear(pcm)
        answer = session.ask(QUESTION)
        next(iter(answer), None)
        compute_ms = (time.perf_counter() - started) * 1e3
        return {
            "mode": "offline",
            "seconds": round(len(pcm) / 16_000, 3),
            "text": answer.text(),
            "latencies_ms": {"compute": compute_ms},
        }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Percentiles by mode and stage, and by length."""
    made: dict[str, Any] = {}
    for mode in dict.fromkeys(row["mode"] for row in rows):
        ours = [row for row in rows if row["mode"] == mode]
        stages = {name for row in ours for name in row["latencies_ms"]}
        made[mode] = {
            "n": len(ours),
            "ms": {
                name: percentiles([row["latencies_ms"][name] for row in ours])
                for name in sorted(stages)
            },
            "short": _length(ours, 0, _SHORT_S),
            "long": _length(ours, _LONG_S, 1e9),
        }
    return made


def percentiles(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and most."""
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1), "max": round(max(values), 1)}


def _length(rows: list[dict[str, Any]], least_s: float, most_s: float) -> dict[str, Any]:
    chosen = [row for row in rows if least_s <= row["seconds"] < most_s]
    if not chosen:
        return {"n": 0}
    names = ("compute", "settle")
    return {
        "n": len(chosen),
        "seconds": round(statistics.median(row["seconds"] for row in chosen), 2),
        "ms": {
            name: percentiles([row["latencies_ms"][name] for row in chosen])
            for name in names
            if name in chosen[0]["latencies_ms"]
        },
    }


def _in_a_room(pcm: F32) -> Iterator[F32]:
    rng = np.random.default_rng(0)
    quiet = (1e-4 * rng.normal(size=round(QUIET_S * 16_000))).astype(np.float32)
    yield quiet
    yield pcm
    yield quiet


@click.command()
@click.argument("bundle", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option("--n", default=60, show_default=True, help="Utterances.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Recordings.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(bundle: Path | None, n: int, data: Path | None, out: Path | None) -> None:
    """Replay; a table, then one JSON line."""
    said = utterances(data or default_cache() / "heldout", n)
    rows: list[dict[str, Any]] = []
    with Engine.open(bundle or build_nano(), device="cpu") as engine:
        for i, utterance in enumerate(said):
            room = np.concatenate(list(_in_a_room(utterance.pcm)))
            for streaming in (FAST, EXACT):
                rows += live(engine, utterance, streaming)
            for row in [
                r for r in rows if r["mode"] == "exact" and r["utterance"] == utterance.name
            ]:
                stretch = room[round(row["start_s"] * 16_000) : round(row["end_s"] * 16_000)]
                rows.append(offline(engine, stretch) | {"utterance": utterance.name})
            click.echo(f"{i + 1}/{len(said)} {utterance.seconds:.1f} s", err=True)
        name = engine.manifest.name
    by_mode = summary(rows)
    fast, plain = by_mode["fast"]["ms"]["compute"], by_mode["offline"]["ms"]["compute"]
    result = {
        "what": f"end of speech to first token, {name}, {len(said)} utterances in real time",
        "command": f"python -m kokanee.benchmarks.live --n {n}",
        "modes": by_mode,
        "fast_over_offline": {p: round(fast[p] / plain[p], 3) for p in ("p50", "p95")},
        "rows": rows,
        "machine": machine(),
    }
    for mode, figures in by_mode.items():
        for stage, p in figures["ms"].items():
            click.echo(f"{mode:>8} {stage:>14}  p50 {p['p50']:7.1f}  p95 {p['p95']:7.1f} ms")
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps({k: v for k, v in result.items() if k != "rows"}))


if __name__ == "__main__":
    main()
