"""`kokanee listen`: a microphone, or a recording in its place; answers to what is said."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import soundfile
from rich.console import Console
from rich.table import Table

from kokanee.engine import Engine, read_audio
from kokanee.engine.engine import Cache, Device
from kokanee.engine.growing import STREAMING

from . import options
from .bundle import find_bundle
from .endpoint import TurnDetection
from .keys import enter_talks
from .listener import Listener
from .listening import Ask, Listening
from .microphone import Microphone
from .portaudio import list_devices, none_found
from .show import choose
from .sources import Playback, Source
from .updates import Update
from .vad import EnergyVAD, SileroVAD

EXAMPLES = """\b
Examples:
  kokanee listen
  kokanee listen --ask "What is said?" --ask "Is anybody upset?"
  kokanee listen --ask-sound "What do you hear?" --json | jq -r 'select(.event=="final").text'
  kokanee listen --in-writing
  kokanee listen --push-to-talk --mic "USB"
  kokanee listen salmonn-7b/ --file meeting.wav --realtime --record heard.wav
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", default=options.NANO)
@click.option(
    "--ask", "questions", multiple=True, help="Asked about every turn; several times for several."
)
@click.option("--task", "tasks", multiple=True, help="A named task of the bundle, likewise.")
@click.option("--raw-prompt", metavar="TEXT", help="A whole prompt with <SpeechHere> in it.")
@click.option("--ask-sound", "sound_questions", multiple=True, help="Asked about what is no voice.")
@click.option(
    "--in-writing",
    is_flag=True,
    help="Have the bare language model answer what was said, once it is written down; it knows of"
    " no other turn.",
)
@click.option(
    "--sounds/--no-sounds",
    help="Sounds that are no voices open turns too.  [default: with --ask-sound]",
    default=None,
)
@click.option(
    "--mode",
    type=click.Choice(list(STREAMING)),
    default="fast",
    show_default=True,
    help="exact: as nano hears it as a whole, to the bit. fast: encoded in short pieces while it is"
    " spoken.",
)
@click.option(
    "--partials",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Show what is understood so far, so often.",
)
@click.option("--mic", metavar="NAME|INDEX", help="Which microphone.  [default: the system's]")
@click.option("--list-devices", is_flag=True, help="Show the microphones and leave.")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Listen to a recording in place of a microphone.",
)
@click.option(
    "--realtime", is_flag=True, help="With --file: at the speed of sound, as a microphone would."
)
@click.option(
    "--record",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write down what is heard, as a 16 kHz wav.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after so much sound."
)
@click.option("--push-to-talk", is_flag=True, help="Enter opens a turn, Enter closes it.")
@click.option(
    "--vad",
    type=click.Choice(["silero", "energy"]),
    default="silero",
    show_default=True,
    help="What tells a voice; energy goes by loudness alone.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="How sure of a voice to be.",
)
@click.option(
    "--prefix-ms",
    type=click.IntRange(min=0),
    default=300,
    show_default=True,
    help="Sound kept before a voice.",
)
@click.option(
    "--silence-ms",
    type=click.IntRange(min=32),
    default=500,
    show_default=True,
    help="Quiet that ends a turn.",
)
@click.option(
    "--max-turn-s",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    help="Longest turn; the next one begins at the very next sample.",
)
@click.option(
    "--barge-in/--no-barge-in",
    default=True,
    show_default=True,
    help="Who speaks up stops the answer that is being given.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="TURNS",
    help="Earlier turns that stay in the context.",
)
@options.max_new_tokens(120)
@click.option("--lora-scale", type=click.FloatRange(min=0), help="Strength of the adapter.")
@click.option("--n-ctx", type=click.IntRange(min=1), help="Positions of the KV cache.")
@options.machine
@click.option("--plain", is_flag=True, help="Lines of text, for pipes.")
@click.option("--levels", is_flag=True, help="With --json: loudness too, ten times a second.")
@click.option("--json", "as_json", is_flag=True, help="One event a line, as JSON.")
def command(
    *,
    bundle: str,
    mic: str | None,
    list_devices: bool,
    file: Path | None,
    realtime: bool,
    record: Path | None,
    seconds: float | None,
    push_to_talk: bool,
    vad: str,
    device: Device,
    threads: int | None,
    kv_cache: Cache,
    cache_dir: Path | None,
    plain: bool,
    levels: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Listen to a microphone and answer the moment the speaker stops.

    Sound goes into the model's memory while it is spoken, so that the answer is there at once. Stop
    with Ctrl-C. BUNDLE is a folder, or nano (the default), which is made when it is first needed.
    """
    if list_devices:
        _show_devices(as_json)
        return
    if realtime and file is None:
        raise click.UsageError("--realtime goes with --file.")
    if mic is not None and file is not None:
        raise click.UsageError("--mic and --file: only one of them can be listened to.")
    if push_to_talk and sys.stdin is None:
        raise click.UsageError("--push-to-talk reads Enter from standard input, which is closed.")
    if record is not None:
        _check_record(record, file)
    listening = _listening(push_to_talk=push_to_talk, record=record, **how)
    # Before a bundle is made or opened: there may be no such file, and no microphone at all.
    source: Source
    if file is None:
        source = Microphone(int(mic) if mic is not None and mic.isdecimal() else mic)
    else:
        pcm = read_audio(file, options.FOUR_HOURS).pcm
        source = Playback([pcm], name=str(file), realtime=realtime)
    with contextlib.closing(source):
        folder = find_bundle(bundle, cache_dir=cache_dir)
        with (
            Engine.open(folder, device=device, threads=threads, kv_cache=kv_cache) as engine,
            _say_what_stops(record),
        ):
            options.say_notes(engine)
            try:
                voice = EnergyVAD() if vad == "energy" else SileroVAD()
                listener = Listener(engine, source, listening, voice=voice)
            except ValueError as error:
                raise click.UsageError(str(error)) from None
            show = choose(
                json=as_json,
                plain=plain,
                levels=levels,
                n_answers=max(1, len(listening.questions)),  # one in writing may come, or not
            )
            with listener:
                try:
                    with enter_talks(listener) if push_to_talk else contextlib.nullcontext(), show:
                        for update in _until(listener, seconds):
                            show(update)
                except KeyboardInterrupt:
                    pass  # how one stops listening
                except BrokenPipeError:  # whoever read has gone; nothing is left to say
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                listener.close()
    if not as_json:
        click.echo(_summary(listener, source), err=True)


def _listening(
    *,
    questions: tuple[str, ...],
    tasks: tuple[str, ...],
    raw_prompt: str | None,
    sound_questions: tuple[str, ...],
    in_writing: bool,
    sounds: bool | None,
    mode: str,
    partials: float | None,
    record: Path | None,
    push_to_talk: bool,
    threshold: float,
    prefix_ms: int,
    silence_ms: int,
    max_turn_s: float,
    barge_in: bool,
    memory: int,
    max_new_tokens: int,
    lora_scale: float | None,
    n_ctx: int | None,
) -> Listening:
    asked = [Ask(task=task) for task in tasks] + [Ask(question=q) for q in questions]
    if raw_prompt is not None:
        asked.append(Ask(raw_prompt=raw_prompt))
    hear_sounds = bool(sound_questions) if sounds is None else sounds
    try:
        return Listening(
            questions=tuple(asked),
            sound_questions=tuple(Ask(question=q) for q in sound_questions),
            in_writing=in_writing,
            streaming=STREAMING[mode],
            turns=TurnDetection(
                threshold=threshold,
                prefix_padding_ms=prefix_ms,
                silence_duration_ms=silence_ms,
                suffix_padding_ms=min(200, silence_ms),
                max_turn_s=max_turn_s,
                sounds=hear_sounds,
                push_to_talk=push_to_talk,
            ),
            partial_s=partials,
            barge_in=barge_in,
            memory_turns=memory,
            max_new_tokens=max_new_tokens,
            lora_scale=lora_scale,
            n_ctx=n_ctx,
            record=record,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _check_record(record: Path, file: Path | None) -> None:
    """Before anything is heard that could then not be written."""
    if record.suffix.lower() != ".wav":
        raise click.UsageError(f"--record: expected a name that ends in .wav, got {record}.")
    if not record.parent.is_dir():
        raise click.UsageError(f"--record: there is no folder {record.parent}.")
    if file is not None and record.exists() and file.exists() and record.samefile(file):
        raise click.UsageError(f"--record would overwrite what is listened to: {record}.")


@contextlib.contextmanager
def _say_what_stops(record: Path | None) -> Iterator[None]:
    """A recording that cannot be written, in one line: nothing else writes sound here."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise OSError(f"{record} cannot be written ({reason}); is the disk full?") from None


def _until(listener: Listener, seconds: float | None) -> Iterator[Update]:
    """Updates up to so many seconds of sound; the turn that is open then is not answered."""
    for update in listener:
        yield update
        if seconds is not None and getattr(update, "at_s", 0.0) >= seconds:
            return


def _show_devices(as_json: bool) -> None:
    devices = list_devices()
    if as_json:
        rows = [
            {
                "index": d.index,
                "name": d.name,
                "host_api": d.host_api,
                "channels": d.n_channels,
                "rate": d.rate,
                "default": d.is_default,
            }
            for d in devices
        ]
        click.echo(json.dumps(rows))
    if not devices:
        raise none_found()
    if as_json:
        return
    table = Table("", "name", "by", "channels", "rate")
    for d in devices:
        name = f"{d.name} (default)" if d.is_default else d.name
        table.add_row(str(d.index), name, d.host_api, str(d.n_channels), f"{d.rate:.0f} Hz")
    Console().print(table)


def _summary(listener: Listener, source: Source) -> str:
    tally, heard_s = listener.tally, listener.heard_s
    lost_s = tally.dropped_s
    if isinstance(source, Microphone):
        counters = source.counters
        lost_s += counters.gap_s
    lost = f"{lost_s:.2f} s lost" if lost_s else "nothing lost"
    turns = "1 turn" if tally.turns == 1 else f"{tally.turns} turns"
    return f"heard {heard_s:.1f} s, {turns}, {lost}; model busy {tally.busy_s:.1f} s"
