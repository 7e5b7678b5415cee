"""How well a bundle hears, as `kokanee eval` scores it, in the same record as its speed.

Word error rate, top-1 over the sound classes, and speech / music / sound, on held-out recordings;
beside them the word error rate of the cascade's transcripts of the same clips. All of it is greedy,
so it is the same on every run of the same code on the same kind of processor: counts, not samples.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kokanee.engine import Engine, Session
from kokanee.engine.manifest import FILE_NAME, sha256
from kokanee.runtime.phrases import max_new_tokens

from . import heldout, quality
from .contenders import CONTENDERS, KOKANEE
from .field import Field, Setup
from .heldout import Clip, word_error_rate
from .record import Better, Count, Label, Part

F32 = npt.NDArray[np.float32]


def measure(setup: Setup, cache: Path, *, limit: int | None = None, fresh: bool = False) -> Part:
    """Ask about every clip, or at most `limit` of each kind.

    Args:
        setup: what, beside whom.
        cache: recordings are fetched to `heldout` in it, answers kept in `eval`: an interrupted
            run goes on, and one that was finished costs nothing.
        limit: clips of each kind.
        fresh: ask again what was answered already.
    """
    started = time.perf_counter()
    heldout.fetch(cache / "heldout")
    clips = quality.chosen(heldout.clips(cache / "heldout"), limit)
    transcribing = tuple(name for name in setup.against if CONTENDERS[name].transcribes)
    writing = dataclasses.replace(setup, against=transcribing)
    with Field(writing, "answers", {"transcript_only": True}, "quality", ours=False) as field:
        counts = list(_ours(setup, clips, _log(setup, cache, fresh=fresh)))
        for name, worker in field.others():
            spoken = [clip for clip in clips if clip.kind == "speech" and clip.text]
            answers = []
            for i, clip in enumerate(spoken):
                setup.progress(f"quality: {name}", i, len(spoken))
                said = worker.answer(clip.pcm, "", max_new_tokens=max_new_tokens(clip.pcm))
                answers.append(said.text)
            counts.append(_wer(name, [c.text for c in spoken], answers))
        noise = field.watch
    return Part(
        name="quality",
        seconds=time.perf_counter() - started,
        settings={"limit": limit, "fresh": fresh, "against": list(setup.against)},
        noise=noise.noise(),
        counts=tuple(counts),
        skipped=tuple(field.skipped),
    )


def _log(setup: Setup, cache: Path, *, fresh: bool) -> Path:
    digest = sha256(setup.bundle / FILE_NAME)[:12]
    log = cache / "eval" / f"{digest}.jsonl"  # as `kokanee eval` has it
    if fresh:
        log.unlink(missing_ok=True)
    return log


def _ours(setup: Setup, clips: Sequence[Clip], log: Path) -> Iterator[Count]:
    with (
        Engine.open(**setup.opening()) as engine,
        engine.session() as session,
    ):
        rows = quality.ask_all(
            lambda clip, questions: answers(session, clip.pcm, questions),
            clips,
            log,
            progress=lambda n, total: setup.progress(f"quality: {KOKANEE}", n, total),
        )
    yield from counted(quality.scores(rows))


def answers(session: Session, pcm: F32, questions: Sequence[str]) -> list[str]:
    """To each question about a sound.

    A transcript that is cut off counts as misheard; the longest of the set's but one has 81 words.
    """
    session.hear(pcm)
    most = max_new_tokens(pcm)
    return [session.ask(q, max_new_tokens=most).text() for q in questions]


def counted(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[Count]:
    """`quality.scores` as counts, each beside what the best constant answer reaches."""
    of: dict[str, Label] = {"contender": KOKANEE}
    for task, name, constant in (
        ("words", "word_error_rate", "majority_wer"),
        ("sound", "sound_accuracy", "majority"),
        ("kind", "kind_accuracy", "majority"),
    ):
        found = scores[task]
        yield Count(name=f"{task}_clips", unit="", value=found["n"])
        if not found["n"]:
            continue
        value = found["wer"] if task == "words" else found["top1"]
        better: Better = "less" if task == "words" else "more"
        yield Count(name=name, unit="share", value=value, of=of, better=better)
        plain: dict[str, Label] = {"contender": "constant answer"}
        yield Count(name=name, unit="share", value=found[constant], of=plain)
        if task == "kind":
            yield Count(
                name="kind_balanced", unit="share", value=found["balanced"], of=of, better="more"
            )
        if task == "sound":
            yield Count(name="sound_classes", unit="", value=found["n_classes"])


def _wer(name: str, truths: Sequence[str], answers: Sequence[str]) -> Count:
    value = round(word_error_rate(truths, answers), 4)
    return Count(name="word_error_rate", unit="share", value=value, of={"contender": name})
