"""`kokanee trace`: every array between samples and answer, for comparing with a reference."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from kokanee.engine import Engine, read_audio
from kokanee.engine.engine import Cache, Device
from kokanee.engine.prompt import fill

from . import options
from .bundle import find_bundle

EXAMPLES = """\b
Examples:
  kokanee trace nano call.wav --out arrays.npz
  kokanee trace call.wav "Write down what is said." --out arrays.npz
  kokanee trace my-bundle/ call.wav --task asr --out arrays.npz --max-new-tokens 1
"""


@click.command(epilog=EXAMPLES)
@click.argument("words", nargs=-1, metavar='[BUNDLE] FILE ["QUESTION"]')
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The .npz file to write.",
)
@options.prompt
@options.max_new_tokens(16)
@options.hearing
@options.machine
@options.as_json
def command(
    *,
    words: tuple[str, ...],
    out: Path,
    task: str | None,
    raw_prompt: str | None,
    lora_scale: float | None,
    max_new_tokens: int,
    pad_to_s: options.PadTo | None,
    long_audio: Any,
    audio_encoder: bool,
    device: Device,
    threads: int | None,
    kv_cache: Cache,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Write down every array between samples and answer.

    Names are those of the golden vectors (tests/golden/README.md); decoding is greedy. Only the
    first stretch of a long recording is traced. Without a question, the bundle's first task is
    asked.
    """
    asked = options.read_words(words, task=task, raw_prompt=raw_prompt, needs_question=False)
    audio = read_audio(asked.file)
    folder = find_bundle(asked.bundle, cache_dir=cache_dir)
    with Engine.open(folder, device=device, threads=threads, kv_cache=kv_cache) as engine:
        options.say_notes(engine)
        form = engine.manifest.prompt
        if asked.question is None and raw_prompt is None:
            task = task or next(iter(form.tasks), None)
        try:
            text = fill(form, asked.question, task=task, raw=raw_prompt)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        arrays = engine.trace(
            audio.pcm,
            text,
            max_new_tokens=max_new_tokens,
            lora_scale=lora_scale,
            policy=options.hearing_policy(engine.manifest.policy, pad_to_s, long_audio),
            audio_encoder=audio_encoder,
        )
    partial = out.with_name(f".{out.name}.part")
    try:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if as_json:
        click.echo(json.dumps({"out": str(out), "arrays": shapes}))
        return
    for name, shape in shapes.items():
        click.echo(f"{name:20} {arrays[name].dtype!s:8} {shape}")
