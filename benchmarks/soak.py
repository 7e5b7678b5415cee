"""A day of listening, as fast as it can be computed: does anything grow, do answers stay as good?

    python -m kokanee.benchmarks.soak [BUNDLE] [--hours 24] [--memory TURNS] [--out FILE]

    |  part 1: the list  |  part 2: others  |   ...   |  part n: the list again  |
    '-- warm-up ---------'-- memory, descriptors, threads are held to its end ---'

What runs all day must not leak, and must hear at night as it did in the morning. Sound goes through
one Listener: rooms that change, digital silence, noise bursts, held-out sounds and music, and some
3 % held-out speech. The first and the last part are the same samples to the last bit, with a
fixed list of clips in them: their answers are compared. Ctrl-C leaves no file behind.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kokanee.engine import Engine
from kokanee.engine.growing import STREAMING
from kokanee.export.nano import build_nano, default_cache
from kokanee.runtime.listener import Listener
from kokanee.runtime.listening import Listening
from kokanee.runtime.sources import Playback
from kokanee.runtime.updates import Final, Forgotten, Level, SpeechStarted

from .heldout import RATE, Clip, clips, normalised, word_error_rate
from .machine import machine, spread
from .quality import chosen

F32 = npt.NDArray[np.float32]

PART_S = 3600  # at most
N_LIST = 36  # clips an hour of the fixed list
SPEECH_SHARE = 0.031  # of the time, in the other parts: as much as the list has
BURSTS, SOUNDS = 20, 12  # an hour
GAP_S = 5  # of no event between two, at least: longer than any silence that ends a turn
LOOP_S = 30  # after which a room's noise repeats
SCENE_S = (60, 360)  # how long a room stays as it is
LEVELS = (-60.0, -45.0)  # dBFS of a room's noise
SAMPLE_S = 300  # of sound between two looks at the process


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something to be heard over the room."""

    start: int  # sample of its part
    pcm: F32
    text: str = ""  # what is said; empty if it is no speech


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A room from one second of a part to the next scene's."""

    at_s: int
    room: int | None  # which noise; None: digital silence
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An hour, or less."""

    seconds: int
    events: tuple[Event, ...]  # in order, none over another
    scenes: tuple[Scene, ...]  # the first begins at 0


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and the sound that it is about."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The process and the listener at one moment; memory in 1e6 bytes."""

    heard_s: float
    wall_s: float
    rss_mb: float
    anon_mb: float  # of it, what no file backs: mapped weights are read page by page, on demand
    python_blocks: int  # objects in Python's own allocator
    threads: int
    descriptors: int
    n_used: int
    kv_bytes: int
    tally: dict[str, Any]


# --- what is played ------------------------------------------------------------------------------


def part(
    dice: np.random.Generator, seconds: int, spoken: Sequence[Clip], others: Sequence[Clip]
) -> Part:
    """An hour: the clips in any order, some of `others`, bursts; each in a slot of its own.

    Raises:
        ValueError: there is more than fits into so many seconds.
    """
    hours = seconds / 3600
    events = [(clip.pcm, clip.text) for clip in spoken]
    for i in dice.choice(len(others), round(SOUNDS * hours)):
        events.append((others[i].pcm, ""))
    for _ in range(round(BURSTS * hours)):
        n_samples = int(dice.uniform(0.05, 0.5) * RATE)
        gain = 10 ** (dice.uniform(-35, -10) / 20)
        events.append(((gain * dice.standard_normal(n_samples)).astype(np.float32), ""))
    slot = seconds * RATE // max(1, len(events))
    placed = []
    for i, at in enumerate(dice.permutation(len(events))):
        pcm, text = events[at]
        room = slot - len(pcm) - GAP_S * RATE
        if room < 0:
            raise ValueError(f"{len(pcm) / RATE:.1f} s and a gap do not fit {slot / RATE:.1f} s")
        placed.append(Event(start=i * slot + int(dice.integers(room + 1)), pcm=pcm, text=text))
    scenes, at_s = [], 0
    while at_s < seconds:
        gain = 10 ** (dice.uniform(*LEVELS) / 20)
        room_i = int(dice.integers(-1, len(_ROOMS)))  # one in four: digital silence
        scenes.append(Scene(at_s=at_s, room=None if room_i < 0 else room_i, gain=gain))
        at_s += int(dice.integers(*SCENE_S))
    return Part(seconds=seconds, events=tuple(placed), scenes=tuple(scenes))


def rooms(dice: np.random.Generator) -> list[F32]:
    """Noises [LOOP_S * RATE] of level 0 dBFS that repeat without a seam."""
    spectrum = np.fft.rfft(dice.standard_normal((len(_ROOMS), LOOP_S * RATE)))
    hertz = np.fft.rfftfreq(LOOP_S * RATE, 1 / RATE)
    made = []
    for row, slope in zip(spectrum, _ROOMS, strict=True):
        pcm = np.fft.irfft(row * np.maximum(hertz, 40.0) ** slope)
        made.append((pcm / np.sqrt(np.square(pcm).mean())).astype(np.float32))
    return made


_ROOMS = (0.0, -0.5, -1.0)  # white, pink, brown: the exponent of amplitude over frequency


def sound(one: Part, noises: Sequence[F32]) -> Iterator[F32]:
    """A part in seconds of [RATE] samples."""
    n_event, n_scene = 0, 0
    for second in range(one.seconds):
        start, end = second * RATE, (second + 1) * RATE
        while n_scene + 1 < len(one.scenes) and one.scenes[n_scene + 1].at_s <= second:
            n_scene += 1
        scene = one.scenes[n_scene]
        pcm = np.zeros(RATE, np.float32)
        if scene.room is not None:
            at = second % LOOP_S * RATE
            np.multiply(noises[scene.room][at : at + RATE], np.float32(scene.gain), out=pcm)
        for event in one.events[n_event:]:
            if event.start >= end:
                break
            from_, to = max(event.start, start), min(event.start + len(event.pcm), end)
            if from_ < to:
                pcm[from_ - start : to - start] += event.pcm[from_ - event.start : to - event.start]
            if event.start + len(event.pcm) <= end:
                n_event += 1
        yield pcm


def programme(hours: float, seed: int, recordings: Sequence[Clip]) -> list[Part]:
    """Two parts at least, an hour each at most; the first comes again as the last."""
    dice = np.random.default_rng(seed)
    seconds = min(PART_S, int(hours * 3600) // 2)
    speech = [clip for clip in recordings if clip.kind == "speech"]
    others = [clip for clip in recordings if clip.kind != "speech"]
    sentences = [clip for clip in speech if 1.5 <= len(clip.pcm) / RATE <= 8]
    listed = chosen(sentences, max(1, round(N_LIST * seconds / 3600)))
    first = part(dice, seconds, listed, others)
    middle = []
    for _ in range(int(hours * 3600) // seconds - 2):
        spoken, n_left = [], SPEECH_SHARE * seconds * RATE
        while n_left > 0:
            clip = speech[int(dice.integers(len(speech)))]
            if 0.7 <= len(clip.pcm) / RATE <= 12:
                spoken.append(clip)
                n_left -= len(clip.pcm)
        middle.append(part(dice, seconds, spoken, others))
    return [first, *middle, first]


# --- what is made of it --------------------------------------------------------------------------


def texts_of(events: Sequence[Event], at_s: float, said: Sequence[Said]) -> list[str]:
    """What was answered to each event of a part that begins at `at_s`: its turns, joined."""
    texts = []
    for event in events:
        start_s = at_s + event.start / RATE
        end_s = start_s + len(event.pcm) / RATE
        turns = [one.text for one in said if one.start_s < end_s and one.end_s > start_s]
        texts.append(" ".join(text.strip() for text in turns))
    return texts


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least squares: how much y grows when x does by 1; 0 for fewer than two different x."""
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    square = sum((a - mean_x) ** 2 for a in x)
    if square == 0:
        return 0.0
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / square


def memory_of(samples: Sequence[Sample], warm_s: float) -> dict[str, Any]:
    """How the process grew after `warm_s` of sound."""
    warm = [s for s in samples if s.heard_s >= warm_s]
    hours, rss = [s.heard_s / 3600 for s in warm], [s.rss_mb for s in warm]
    return {
        "warm_up_s": warm_s,
        "rss_mb_before": samples[0].rss_mb,
        "rss_mb_warm": rss[0],
        "rss_mb_end": rss[-1],
        "rss_mb_most": max(s.rss_mb for s in samples),
        "rss_growth_mb": rss[-1] - rss[0],
        "rss_growth_mb_per_hour": slope(hours, rss),
        "anon_growth_mb": warm[-1].anon_mb - warm[0].anon_mb,
        "python_blocks_growth": warm[-1].python_blocks - warm[0].python_blocks,
        "threads": sorted({s.threads for s in warm}),
        "descriptors": sorted({s.descriptors for s in warm}),
        "kv_bytes": sorted({s.kv_bytes for s in samples}),
    }


def answers_of(parts: Sequence[Part], said: Sequence[Said]) -> dict[str, Any]:
    """The list's answers in the first part and in the last."""
    spoken = [event for event in parts[0].events if event.text]
    truths = [event.text for event in spoken]
    last_s = (len(parts) - 1) * parts[0].seconds
    first, last = texts_of(spoken, 0.0, said), texts_of(spoken, last_s, said)
    at_s, no_speech = 0.0, len(said)
    for one in parts:
        for event in one.events:
            start_s = at_s + event.start / RATE
            end_s = start_s + len(event.pcm) / RATE
            if event.text:
                no_speech -= sum(a.start_s < end_s and a.end_s > start_s for a in said)
        at_s += one.seconds
    return {
        "clips": len(spoken),
        "heard_first": sum(bool(text) for text in first),
        "heard_last": sum(bool(text) for text in last),
        "identical": sum(a == b for a, b in zip(first, last, strict=True)),
        "identical_normalised": sum(
            normalised(a) == normalised(b) for a, b in zip(first, last, strict=True)
        ),
        "wer_first": word_error_rate(truths, first),
        "wer_last": word_error_rate(truths, last),
        "answers": len(said),
        "answers_to_no_speech": no_speech,
        "different": [
            {"said": t, "first": a, "last": b}
            for t, a, b in zip(truths, first, last, strict=True)
            if a != b
        ],
    }


# --- the run -------------------------------------------------------------------------------------


def look(listener: Listener, heard_s: float, started: float) -> Sample:
    """The process, after what is garbage is gone."""
    gc.collect()
    process, session = psutil.Process(), listener._session  # what it holds is no user's business
    memory = process.memory_info()
    return Sample(
        heard_s=round(heard_s, 1),
        wall_s=round(time.perf_counter() - started, 2),
        rss_mb=memory.rss / 1e6,
        anon_mb=(memory.rss - getattr(memory, "shared", 0)) / 1e6,  # Linux alone tells
        python_blocks=sys.getallocatedblocks(),
        threads=process.num_threads(),
        descriptors=process.num_fds() if hasattr(process, "num_fds") else process.num_handles(),
        n_used=session.n_used,
        kv_bytes=session.kv_bytes,
        tally=asdict(listener.tally),
    )


def run(engine: Engine, parts: Sequence[Part], how: Listening, *, seed: int) -> dict[str, Any]:
    """Listens to all parts."""
    noises = rooms(np.random.default_rng(seed))
    total_s = sum(one.seconds for one in parts)
    source = Playback((pcm for one in parts for pcm in sound(one, noises)), name="soak")
    said: list[Said] = []
    samples: list[Sample] = []
    latencies: list[float] = []
    n_used, n_forgotten, n_opened, cut = [0], 0, 0, 0
    started, cpu_before = time.perf_counter(), os.times()
    console = Console(stderr=True)
    columns = (TextColumn("listening"), BarColumn(), TextColumn("{task.fields[what]}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with (
        Listener(engine, source, how) as listener,
        Progress(*columns, *times, console=console) as bar,
    ):
        shown = bar.add_task("", total=total_s, what="")
        every_s = min(SAMPLE_S, parts[0].seconds / 4)
        for update in listener:
            match update:
                case Level() if update.at_s >= len(samples) * every_s:
                    samples.append(look(listener, update.at_s, started))
                    what = f"{update.at_s / 3600:.1f} h, {samples[-1].rss_mb:.1f} MB"
                    bar.update(shown, completed=update.at_s, what=what)
                    if not console.is_terminal:  # a bar is not seen there before its end
                        console.print(f"{what}, {samples[-1].tally['turns']} turns")
                case SpeechStarted():
                    n_opened += 1
                case Final():
                    said.append(Said(update.start_s, update.end_s, update.text))
                    cut += update.finish_reason != "stop"
                    latencies.append(update.work_ms.get("decode", 0.0))
                    n_used.append(listener._session.n_used)
                case Forgotten():
                    n_forgotten += len(update.turns)
                case _:
                    pass
        samples.append(look(listener, listener.heard_s, started))
        bar.update(shown, completed=total_s)
        n_ctx = listener._session.n_ctx
    wall_s, cpu = time.perf_counter() - started, os.times()
    tally = samples[-1].tally
    n_speech = sum(len(e.pcm) for one in parts for e in one.events if e.text)
    return {
        "hours": total_s / 3600,
        "parts": len(parts),
        "seed": seed,
        "mode": how.streaming.name,
        "memory_turns": how.memory_turns,
        "speech_share": n_speech / RATE / total_s,
        "wall_s": wall_s,
        "times_real_time": total_s / wall_s,
        "cpu_s": cpu.user + cpu.system - cpu_before.user - cpu_before.system,
        "memory": memory_of(samples, parts[0].seconds),
        "answers": answers_of(parts, said),
        "context": {
            "n_ctx": n_ctx,
            "n_used_most": max(n_used),
            "turns_forgotten": n_forgotten,
        },
        "turns_opened": n_opened,
        "not_stopped_by_themselves": cut,
        "busy_s_per_turn": tally["busy_s"] / max(1, tally["turns"]),
        "decode_ms": spread(latencies or [0.0]),
        "tally": tally,
        "samples": [asdict(sample) for sample in samples],
    }


def table(result: dict[str, Any]) -> str:
    """What people want to know."""
    memory, answers, context = result["memory"], result["answers"], result["context"]
    rows = [
        ("sound", f"{result['hours']:.2f} h, {result['speech_share']:.1%} of it speech"),
        ("wall", f"{result['wall_s']:.0f} s, {result['times_real_time']:.0f} times real time"),
        ("turns", f"{result['turns_opened']}, {answers['answers_to_no_speech']} to no speech"),
        ("RSS", f"{memory['rss_mb_warm']:.1f} MB warm, {memory['rss_mb_end']:.1f} at the end"),
        ("growth", f"{memory['rss_growth_mb']:+.2f} MB, {memory['anon_growth_mb']:+.2f} anonymous"),
        ("threads", f"{memory['threads']}, descriptors {memory['descriptors']}"),
        ("context", f"{context['n_used_most']} of {context['n_ctx']} positions at most"),
        ("forgotten", f"{context['turns_forgotten']} turns"),
        ("word errors", f"{answers['wer_first']:.1%} first, {answers['wer_last']:.1%} last"),
        ("identical", f"{answers['identical']} of {answers['clips']} answers"),
    ]
    return "\n".join(f"{name:>12}  {what}" for name, what in rows)


def write(out: Path, name: str, result: dict[str, Any]) -> None:
    """Set one entry of a JSON file; the file is whole at every moment."""
    before = json.loads(out.read_text("utf-8")) if out.exists() else {}
    new = out.with_suffix(".part")
    new.write_text(json.dumps(before | {name: result}, indent=1) + "\n", encoding="utf-8")
    new.replace(out)


@click.command()
@click.argument("bundle", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option("--hours", default=24.0, show_default=True, help="Of sound.")
@click.option("--memory", default=0, show_default=True, metavar="TURNS", help="Turns that stay.")
@click.option("--mode", type=click.Choice(list(STREAMING)), default="fast", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write JSON here too: an entry for each mode, with and without --memory.",
)
def main(
    bundle: Path | None, hours: float, memory: int, mode: str, seed: int, out: Path | None
) -> None:
    """Listen for hours; a table, then one JSON line. Needs what `kokanee eval` has fetched."""
    parts = programme(hours, seed, list(clips(default_cache() / "heldout")))
    how = Listening(memory_turns=memory, streaming=STREAMING[mode])
    with Engine.open(bundle or build_nano(), device="cpu") as engine:
        result = {
            "what": f"{engine.manifest.name} listens to {hours:g} h of sound",
            "command": f"python -m kokanee.benchmarks.soak --hours {hours:g}"
            + (f" --memory {memory}" if memory else "")
            + (f" --mode {mode}" if mode != "fast" else ""),
            **run(engine, parts, how, seed=seed),
            "machine": machine(),
        }
    click.echo(table(result))
    if out:
        write(out, mode + (f"_memory_{memory}" if memory else ""), result)
    click.echo(json.dumps({k: v for k, v in result.items() if k != "samples"}))


if __name__ == "__main__":
    main()
