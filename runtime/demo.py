"""`kokanee demo`: nano on three real recordings that come with the package."""

import json
from dataclasses import dataclass
from pathlib import Path

import click

from kokanee.engine import Engine, read_audio
from kokanee.engine.engine import Cache, Device

from . import options
from .bundle import find_bundle

MAX_NEW_TOKENS = 64
RECORDINGS = Path(__file__).parent / "recordings"


@dataclass(frozen=True, slots=True)
class Example:
    """A recording, and what to ask about it."""

    file: str
    questions: tuple[str, ...]


EXAMPLES = (
    Example("speech.wav", ("Write down what is said.", "Is there music?")),
    Example("sound.wav", ("What do you hear?",)),
    Example(
        "speech_over_sound.wav", ("Write down what is said.", "Is it speech, music or a sound?")
    ),
)


@click.command()
@options.machine
@options.as_json
def command(
    *, device: Device, threads: int | None, kv_cache: Cache, cache_dir: Path | None, as_json: bool
) -> None:
    """Answer about three bundled recordings: speech, a sound, speech over a sound."""
    folder = find_bundle(options.NANO, cache_dir=cache_dir)
    answers = []
    with (
        Engine.open(folder, device=device, threads=threads, kv_cache=kv_cache) as engine,
        engine.session() as session,
    ):
        for example in EXAMPLES:
            audio = read_audio(RECORDINGS / example.file)
            if not as_json:
                click.echo(f"{example.file}, {audio.seconds:.1f} s")
            session.hear(audio.pcm)
            for question in example.questions:
                answer = session.ask(question, max_new_tokens=MAX_NEW_TOKENS)
                if not as_json:
                    click.echo(f"  {question}  ", nl=False)
                    for piece in answer:
                        click.echo(piece, nl=False)
                    click.echo()
                answers.append({"file": example.file, "question": question, "text": answer.text()})
    if as_json:
        click.echo(json.dumps({"bundle": engine.manifest.name, "answers": answers}))
