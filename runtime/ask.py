"""`kokanee ask`: a sound file and a question; the answer as it comes."""

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kokanee.engine import (
    Answer,
    Audio,
    BeamSearch,
    Engine,
    Heard,
    Sampling,
    Session,
    read_audio,
)
from kokanee.engine.engine import DEFAULT_N_CTX, Cache, Device
from kokanee.engine.manifest import Policy
from kokanee.engine.prompt import fill
from kokanee.engine.segments import apply_policy
from kokanee.engine.session import DEFAULT_MAX_NEW_TOKENS

from . import options
from .bundle import find_bundle
from .in_writing import check_bundle, write_down
from .memory import peak_rss_mb
from .phrases import max_new_tokens as _transcript_tokens

TEXT = 512  # positions kept free for template and question

EXAMPLES = """\b
Examples:
  kokanee ask call.wav "Write down what is said."
  kokanee ask call.wav --task asr --json | jq -r .text
  kokanee ask question.wav --in-writing
  kokanee ask my-bundle/ call.wav "What do you hear?" --temperature 0.7 --seed 1
  kokanee ask salmonn-7b/ call.wav --task audio_story_telling --beams 4 --lora-scale 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An answer and what it took."""

    text: str
    ids: list[int]
    finish_reason: str | None
    notes: tuple[str, ...]
    seconds: float  # of sound
    n_soft_tokens: int
    n_segments: int
    timings_ms: dict[str, float]
    question: str | None = None  # what was asked in the recording, where that was written down

    @property
    def tokens_per_s(self) -> float | None:
        """Speed of the decode steps alone; None where there were none."""
        decode_s = self.timings_ms.get("decode", 0.0) / 1e3
        # The end token takes a step too, but is not among the ids.
        n_steps = len(self.ids) - (self.finish_reason != "stop")
        return n_steps / decode_s if decode_s > 0 and n_steps > 0 else None

    @property
    def real_time_factor(self) -> float:
        """Seconds of work per second of sound, the opening of the bundle apart."""
        work = (
            *_WORK,
            "transcript",
            "first_token",
            "decode",
        )  # the first token's time includes its prefill
        return sum(self.timings_ms.get(name, 0.0) for name in work) / 1e3 / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "text": self.text,
            **({} if self.question is None else {"question": self.question}),
            "ids": self.ids,
            "finish_reason": self.finish_reason,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
            "n_soft_tokens": self.n_soft_tokens,
            "n_segments": self.n_segments,
            "timings_ms": {name: round(ms, 2) for name, ms in self.timings_ms.items()},
            "tokens_per_s": self.tokens_per_s and round(self.tokens_per_s, 1),
            "real_time_factor": round(self.real_time_factor, 4),
            "memory_mb": (mb := peak_rss_mb()) and round(mb, 1),
        }

    def as_line(self) -> str:
        """For people, on standard error."""
        parts = [
            f"{name.replace('_', ' ')} {self.timings_ms[name]:.0f}"
            for name in _SHOWN
            if name in self.timings_ms
        ]
        line = f"ms: {', '.join(parts)}"
        if self.tokens_per_s is not None:
            line += f"; {self.tokens_per_s:.0f} tokens/s"
        line += f"; {self.real_time_factor:.2f} x real time"
        mb = peak_rss_mb()
        return line if mb is None else f"{line}; {mb:.0f} MB"


_CUT_OFF = "the question was too long to be written down as a whole"
_WORK = ("read", "features", "speech_encoder", "audio_encoder", "connector", "prefill_audio")
_SHOWN = ("verify", "load", *_WORK, "transcript", "first_token", "decode", "total")


def hear_and_answer(
    session: Session, audio: Audio, *, say: Callable[[str], object], **asked: Any
) -> Report:
    """Hears a recording and says the answer piece by piece.

    Args:
        session: Hears and answers.
        audio: The recording.
        say: Called with each piece of the answer.
        asked: Arguments of `Session.ask`.
    """
    heard = session.hear(audio.pcm)
    return _report(heard, session.ask(**asked), say)


def hear_and_answer_in_writing(
    session: Session,
    audio: Audio,
    *,
    say: Callable[[str], object],
    search: Sampling | BeamSearch,
    sampling: Sampling | BeamSearch,
    max_new_tokens: int,
) -> Report:
    """Hears a spoken question, writes it down and says the bare language model's answer.

    Where nobody speaks nothing is answered.

    Args:
        session: Hears and answers.
        audio: The recording.
        say: Called with each piece of the answer.
        search: For the question.
        sampling: For the answer.
        max_new_tokens: Of the answer.
    """
    heard = session.hear(audio.pcm)
    started = time.perf_counter()
    question = write_down(session, audio.pcm, search=search)
    heard = dataclasses.replace(
        heard,
        notes=(*heard.notes, *(() if question.whole else (_CUT_OFF,))),
        timings_ms=heard.timings_ms | {"transcript": _ms_since(started)},
    )
    if not question.text:
        return _report(heard, None, say, question="")
    answer = session.ask_in_writing(question.text, sampling=sampling, max_new_tokens=max_new_tokens)
    return _report(heard, answer, say, question=question.text)


def _report(
    heard: Heard,
    answer: Answer | None,
    say: Callable[[str], object],
    *,
    question: str | None = None,
) -> Report:
    for piece in answer or ():
        say(piece)
    return Report(
        text="" if answer is None else answer.text(),
        question=question,
        ids=[] if answer is None else answer.ids,
        finish_reason=None if answer is None else answer.finish_reason,
        notes=heard.notes,
        seconds=heard.seconds,
        n_soft_tokens=heard.n_soft_tokens,
        n_segments=heard.n_segments,
        timings_ms=heard.timings_ms | ({} if answer is None else answer.timings_ms),
    )


@click.command(epilog=EXAMPLES)
@click.argument("words", nargs=-1, metavar='[BUNDLE] FILE ["QUESTION"]')
@options.prompt
@options.max_new_tokens(DEFAULT_MAX_NEW_TOKENS)
@options.sampling
@options.hearing
@click.option(
    "--in-writing",
    is_flag=True,
    help="Write down the question that is spoken, and have the bare language model answer that.",
)
@click.option(
    "--n-ctx",
    type=click.IntRange(min=1),
    help="Room for sound, question and answer.  [default: enough for the file]",
)
@options.machine
@options.as_json
def command(
    *,
    words: tuple[str, ...],
    task: str | None,
    raw_prompt: str | None,
    lora_scale: float | None,
    max_new_tokens: int,
    in_writing: bool,
    n_ctx: int | None,
    pad_to_s: options.PadTo | None,
    long_audio: Any,
    audio_encoder: bool,
    device: Device,
    threads: int | None,
    kv_cache: Cache,
    cache_dir: Path | None,
    as_json: bool,
    **knobs: Any,
) -> None:
    """Answer a question about a sound file.

    FILE is wav, flac, ogg, opus, mp3, aiff, au or caf. BUNDLE is a folder, or nano (the default),
    which is made when it is first needed. The answer goes to standard output as it comes, what it
    took to standard error.
    """
    started = time.perf_counter()
    if in_writing and (task, raw_prompt, lora_scale) != (None, None, None):
        raise click.UsageError("--in-writing goes without --task, --raw-prompt and --lora-scale.")
    # Both steps are fixed: the question is in the recording.
    task = "asr" if in_writing else task
    asked = options.read_words(words, task=task, raw_prompt=raw_prompt)
    if in_writing and asked.question is not None:
        raise click.UsageError(f"--in-writing: the question is in the recording, got: {words[-1]}")
    sampling = options.make_search(**knobs)
    audio = read_audio(asked.file)  # before a bundle is made or opened: it may be no sound at all
    read_ms = _ms_since(started)
    folder = find_bundle(asked.bundle, cache_dir=cache_dir)
    with Engine.open(folder, device=device, threads=threads, kv_cache=kv_cache) as engine:
        options.say_notes(engine)
        policy = options.hearing_policy(engine.manifest.policy, pad_to_s, long_audio)
        n_new = max(max_new_tokens, _transcript_tokens(audio.pcm)) if in_writing else max_new_tokens
        # Each beam takes a position a token.
        n_beams = sampling.n_beams if isinstance(sampling, BeamSearch) else 1
        if in_writing:
            n_beams = max(n_beams, engine.manifest.prompt.transcript_beams)
        n_answer = n_new * n_beams
        try:
            if in_writing:
                check_bundle(engine.manifest.prompt)
            fill(engine.manifest.prompt, asked.question, task=task, raw=raw_prompt)
            session = engine.session(
                n_ctx=n_ctx or _enough(engine, audio, policy, n_answer),
                lora_scale=lora_scale,
                policy=policy,
                audio_encoder=audio_encoder,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        with session:
            say = _nothing if as_json else _say
            if in_writing:
                # The question is never drawn at random, only the answer.
                steady = knobs | {"temperature": 0.0}
                report = hear_and_answer_in_writing(
                    session,
                    audio,
                    say=say,
                    search=options.make_transcript_search(session.transcript_search, **steady),
                    sampling=sampling,
                    max_new_tokens=max_new_tokens,
                )
            else:
                report = hear_and_answer(
                    session,
                    audio,
                    say=say,
                    question=asked.question,
                    task=task,
                    raw_prompt=raw_prompt,
                    sampling=sampling,
                    max_new_tokens=max_new_tokens,
                )
    report.timings_ms.update(engine.timings_ms | {"read": read_ms, "total": _ms_since(started)})
    if as_json:
        click.echo(json.dumps({"bundle": engine.manifest.name, **report.as_dict()}))
        return
    click.echo()
    if report.question is not None:
        click.echo(f"(asked: {report.question or 'nothing that I could write down'})", err=True)
    for note in report.notes:
        click.echo(f"({note})", err=True)
    click.echo(report.as_line(), err=True)


def _enough(engine: Engine, audio: Audio, policy: Policy, n_answer: int) -> int:
    """Positions that hold the sound, a question and the answer, within what the model knows."""
    n_soft_tokens = apply_policy(audio.pcm, policy).n_windows * policy.n_queries
    wanted = max(DEFAULT_N_CTX, n_soft_tokens + TEXT + n_answer)
    return min(wanted, engine.manifest.dims.n_positions)


def _say(piece: str) -> None:
    click.echo(piece, nl=False)


def _nothing(piece: str) -> None:
    """Takes a piece and keeps it to itself."""


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
