"""What listening costs at the speed of sound: a core's share in a quiet room, and under speech.

    python -m kokanee.benchmarks.attention [BUNDLE] [--seconds 60] [--out FILE]

An assistant listens all day: what it costs while nobody speaks is what it costs. While somebody
does, sound must be worked off faster than it comes, or it is dropped in the end. Everything goes
through a Listener with Silero, from arrays that arrive like a microphone's. Processor time is of
the whole process, over time on the clock; trust it more than "busy" on a machine that others use.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kokanee.engine import EXACT, FAST, Engine
from kokanee.export.nano import build_nano, default_cache
from kokanee.runtime.listener import Listener
from kokanee.runtime.listening import Listening
from kokanee.runtime.sources import Playback
from kokanee.runtime.updates import Device, Final, Level

from .heldout import RATE, Clip, clips
from .machine import machine
from .quality import chosen

F32 = npt.NDArray[np.float32]

ROOM_DBFS = -50.0
SETTLE_S = 12.0  # after which a sentence is answered, and silence is watched


def quiet(
    engine: Engine, clip: F32, room: F32, seconds: float, told: Callable[[float], None]
) -> dict[str, Any]:
    """A clip is answered, then nothing is said in `room`, a second [RATE] of noise that repeats."""
    n_seconds = round(SETTLE_S + seconds)
    pcm = np.tile(room, n_seconds)
    pcm[RATE : RATE + len(clip)] += clip
    n_answers, begun, ended = 0, (os.times(), 0.0), (os.times(), 0.0)
    with Listener(engine, Playback([pcm], realtime=True)) as listener:
        for update in listener:
            n_answers += isinstance(update, Final)
            if isinstance(update, Level):
                told(update.at_s)
                if update.at_s >= SETTLE_S:
                    ended = (os.times(), time.perf_counter())
                if update.at_s >= SETTLE_S and not begun[1]:
                    begun, tally = ended, listener.tally
    (before, started), (after, stopped) = begun, ended
    cpu_s = after.user + after.system - before.user - before.system
    return {
        "seconds": stopped - started,
        "cpu_s": cpu_s,
        "share_of_a_core": cpu_s / (stopped - started),
        "answers_before": n_answers,
        "turns_meanwhile": listener.tally.turns - tally.turns,
        "dropped_s": listener.tally.dropped_s,
    }


def spoken(
    engine: Engine, speech: F32, how: Listening, told: Callable[[float], None]
) -> dict[str, Any]:
    """Somebody speaks without a pause that ends a turn, then stops."""
    pcm = np.concatenate([speech, np.zeros(2 * RATE, np.float32)])
    finals: list[Final] = []
    n_lost = 0
    before, started = os.times(), time.perf_counter()
    with Listener(engine, Playback([pcm], realtime=True), how) as listener:
        for update in listener:
            if isinstance(update, Level):
                told(update.at_s)
            elif isinstance(update, Final):
                finals.append(update)
            n_lost += isinstance(update, Device)
    after, wall_s = os.times(), time.perf_counter() - started
    cpu_s = after.user + after.system - before.user - before.system
    seconds, tally = len(speech) / RATE, listener.tally
    # "first_token" holds "prefill_question". Guesses that came to nothing are not in here.
    worked_ms = sum(
        ms for final in finals for what, ms in final.work_ms.items() if what != "prefill_question"
    )
    return {
        "mode": how.streaming.name,
        "seconds": seconds,
        "wall_s": wall_s,
        "busy_s": tally.busy_s,
        "real_time_factor": tally.busy_s / seconds,
        "worked_s": worked_ms / 1e3,  # by the answers' own count of their stages
        "worked_s_per_s": worked_ms / 1e3 / seconds,
        "cpu_s": cpu_s,
        "cpu_s_per_s": cpu_s / seconds,
        "tally": asdict(tally),
        "losses": n_lost,
        "answers": [
            {
                "seconds": final.end_s - final.start_s,
                "words": len(final.text.split()),
                "finish_reason": final.finish_reason,
                "latencies_ms": final.latencies_ms,
                "work_ms": final.work_ms,
            }
            for final in finals
        ],
    }


def joined(recordings: Sequence[Clip], seconds: float) -> F32:
    """Sentences, one right after the other, of at least so many seconds."""
    sentences = [
        clip for clip in recordings if clip.kind == "speech" and 2 <= len(clip.pcm) / RATE <= 8
    ]
    taken: list[F32] = []
    for clip in chosen(sentences, None):
        taken.append(clip.pcm)
        if sum(map(len, taken)) >= seconds * RATE:
            break
    return np.concatenate(taken)


def table(result: dict[str, Any]) -> str:
    """What people want to know."""
    rows = [
        (name, f"{one['share_of_a_core']:.2%} of a core, {one['turns_meanwhile']} turns")
        for name, one in result["silence"].items()
    ]
    for name, one in result["speech"].items():
        said = f"busy {one['real_time_factor']:.2f}, CPU {one['cpu_s_per_s']:.2f} s a second"
        tally = one["tally"]
        rows.append(
            (
                f"speech, {name}",
                f"{said}, {tally['hops']} hops, {tally['turns']} turns,"
                f" {tally['dropped_s']:.2f} s dropped",
            )
        )
    return "\n".join(f"{name:>16}  {what}" for name, what in rows)


@click.command()
@click.argument("bundle", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option("--seconds", default=60.0, show_default=True, help="Of each.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(bundle: Path | None, seconds: float, out: Path | None) -> None:
    """Listen in real time; a table, then one JSON line. Needs what `kokanee eval` has fetched."""
    recordings = list(clips(default_cache() / "heldout"))
    speech = joined(recordings, seconds)
    word = joined(recordings, 1.0)  # one sentence
    hiss = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    rooms = {"digital silence": 0.0 * hiss, "room noise": 10 ** (ROOM_DBFS / 20) * hiss}
    total_s = len(rooms) * (SETTLE_S + seconds) + 2 * (len(speech) / RATE + 2)
    columns = (TextColumn("listening"), BarColumn(), TextColumn("{task.fields[what]}"))
    silence: dict[str, Any] = {}
    speaking: dict[str, Any] = {}
    with (
        Engine.open(bundle or build_nano(), device="cpu") as engine,
        Progress(
            *columns, TimeRemainingColumn(), console=Console(stderr=True), auto_refresh=False
        ) as bar,
    ):
        shown, before_s = bar.add_task("", total=total_s, what=""), 0.0

        def told(heard_s: float) -> None:
            if before_s + heard_s >= bar.tasks[shown].completed + 1:  # drawing costs time, too
                bar.update(shown, completed=before_s + heard_s, refresh=True)

        for name, room in rooms.items():
            bar.update(shown, what=name)
            silence[name] = quiet(engine, word, np.asarray(room, np.float32), seconds, told)
            before_s += SETTLE_S + seconds
        for mode in (FAST, EXACT):
            bar.update(shown, what=f"speech, {mode.name}")
            how = Listening(streaming=mode)
            speaking[mode.name] = spoken(engine, speech, how, told)
            before_s += len(speech) / RATE + 2
        name = engine.manifest.name
    result = {
        "what": f"{name} listens at the speed of sound",
        "command": f"python -m kokanee.benchmarks.attention --seconds {seconds:g}",
        "room_dbfs": ROOM_DBFS,
        "silence": silence,
        "speech": speaking,
        "machine": machine(),
    }
    click.echo(table(result))
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
