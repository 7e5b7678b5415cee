"""`kokanee transcribe`: what is said in a recording of up to four hours, with times."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import click

from kokanee.engine import Engine, read_audio
from kokanee.engine.engine import Cache, Device

from . import options
from .bundle import find_bundle
from .phrases import LONGEST_S, Phrase, transcribe

_LONG_S = 600.0  # from here on it is said that voices are looked for: that takes a while

EXAMPLES = """\b
Examples:
  kokanee transcribe meeting.ogg
  kokanee transcribe meeting.ogg --format srt > meeting.srt
  kokanee transcribe salmonn-7b/ meeting.ogg --longest 30 --beams 4
  kokanee transcribe meeting.ogg --json | jq -r '.phrases[] | "\\(.start_s) \\(.text)"'
"""


@click.command(epilog=EXAMPLES)
@click.argument("words", nargs=-1, metavar="[BUNDLE] FILE")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "srt", "vtt"]),
    default="text",
    show_default=True,
    help="A line a phrase, or subtitles.",
)
@click.option(
    "--longest",
    type=click.FloatRange(min=1),
    default=LONGEST_S,
    show_default=True,
    metavar="SECONDS",
    help="Hear no more than so much at once: cut there, at the longest pause.",
)
@click.option(
    "--task",
    help="A named task of the bundle, in place of writing down what is said: a translation, say."
    "  [default: asr]",
)
@options.sampling
@options.machine
@options.as_json
def command(
    *,
    words: tuple[str, ...],
    form: str,
    longest: float,
    task: str | None,
    device: Device,
    threads: int | None,
    kv_cache: Cache,
    cache_dir: Path | None,
    as_json: bool,
    **knobs: Any,
) -> None:
    """Write down what is said in a sound file of up to four hours.

    Speech is found (Silero VAD) and cut at its pauses, and each phrase written down as soon as it
    is heard, on standard output. Where nobody speaks nothing is written. To ask about a recording
    as a whole there is `kokanee ask`.
    """
    started = time.perf_counter()
    if not 1 <= len(words) <= 2:
        raise click.UsageError(f"Expected [BUNDLE] FILE, got: {' '.join(words) or 'nothing'}")
    options.check_search(**knobs)
    audio = read_audio(Path(words[-1]), options.FOUR_HOURS)  # before a bundle is made or opened
    folder = find_bundle(words[0] if len(words) == 2 else options.NANO, cache_dir=cache_dir)
    phrases: list[Phrase] = []
    with (
        Engine.open(folder, device=device, threads=threads, kv_cache=kv_cache) as engine,
        engine.session() as session,
    ):
        options.say_notes(engine)
        tasks = engine.manifest.prompt.tasks
        if (task or "asr") not in tasks:
            raise click.UsageError(f"--task: expected one of {', '.join(sorted(tasks))}")
        policy = engine.manifest.policy
        search = options.make_transcript_search(session.transcript_search, **knobs)
        if policy.long_audio == "cut" and longest > policy.max_s:
            raise click.UsageError(
                f"--longest: {engine.manifest.name} hears {policy.max_s:g} s at once at most"
            )
        if audio.seconds > _LONG_S:
            click.echo(f"looking for voices in {audio.seconds / 60:.0f} minutes of sound", err=True)
        if form == "vtt" and not as_json:
            click.echo("WEBVTT\n")
        for phrase in transcribe(session, audio.pcm, longest_s=longest, task=task, sampling=search):
            phrases.append(phrase)
            if not as_json:
                click.echo(_written(phrase, form, len(phrases)))
    wall_s = time.perf_counter() - started
    if as_json:
        said = {
            "bundle": engine.manifest.name,
            "seconds": round(audio.seconds, 3),
            "text": " ".join(phrase.text for phrase in phrases),
            "phrases": [dataclasses.asdict(phrase) for phrase in phrases],
            "wall_s": round(wall_s, 2),
        }
        click.echo(json.dumps(said))
        return
    click.echo(f"{len(phrases)} phrases in {audio.seconds:.1f} s, {wall_s:.1f} s of work", err=True)


def _written(phrase: Phrase, form: str, number: int) -> str:
    if form == "text":
        return phrase.text
    point = "," if form == "srt" else "."
    times = f"{_clock(phrase.start_s, point)} --> {_clock(phrase.end_s, point)}"
    head = f"{number}\n" if form == "srt" else ""
    return f"{head}{times}\n{phrase.text}\n"


def _clock(seconds: float, point: str) -> str:
    """Hours, minutes, seconds and milliseconds, as subtitles have them."""
    ms = round(seconds * 1000)
    minutes, ms = divmod(ms, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"
