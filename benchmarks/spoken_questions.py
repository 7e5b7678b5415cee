"""Spoken questions, and whether a model answers them as its language model answers the text.

    questions.json --flite, two voices--> clips --model--> answer --same_answer--> yes or no
                   `------------- the bare language model, greedy, in text --> answer'

The measure is agreement with the text, not truth: a small language model is often wrong, and what
is tested here is hearing. No part of nano was trained on these questions or on these voices.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .heldout import Clip, Package, normalised, read

QUESTIONS_FILE = Path(__file__).parent / "questions.json"
PACKAGE = "flite-1"  # raise the number with any change of what is made: answers are kept
VOICES = ("rms", "awb")  # Carnegie Mellon's, male, US and Scottish English
SAME_F1 = 0.5

# The voices come as a program; it and what it links to are unpacked, not installed.
PACKAGES = (
    Package(
        "flite",
        "flite_2.2-5_amd64.deb",
        "f4ce03470bf9974c2cb9cacd981e6be29339ef4c97cf994dd6fa3f90e6544db9",
        "BSD-style (CMU)",
    ),
    Package(
        "libflite1",
        "libflite1_2.2-5_amd64.deb",
        "bfa8c591f1b47730b30b372ec38e02918a1c9795eada67684e1746390ad2f061",
        "BSD-style (CMU)",
    ),
    Package(
        "libasound2",
        "libasound2_1.2.8-1+b1_amd64.deb",
        "44c77b076a7b11ae99712439022d822245b1994c435da564ebd320bb676faf4c",
        "LGPL-2.1-or-later",
    ),
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and what nano's language model answers to its text."""

    question: str
    answer: str


def questions() -> list[Question]:
    """All of them, in a fixed order."""
    return [Question(**item) for item in json.loads(QUESTIONS_FILE.read_text("utf-8"))]


def clips(cache: Path) -> Iterator[tuple[Question, Clip]]:
    """Each question, spoken by one of the two voices in turn; `PACKAGES` must be under `cache`.

    Recordings are made once, into `cache / "spoken-questions"`. A clip is called as its question.

    Raises:
        RuntimeError: The program does not run here: it is built for x86-64 Debian.
    """
    for i, question in enumerate(questions()):
        voice = VOICES[i % len(VOICES)]
        plain = re.sub(r"[^a-z0-9]+", "-", question.question.lower()).strip("-")
        path = cache / "spoken-questions" / f"{voice}-{plain}.wav"
        if not path.exists():
            _speak(cache, voice, question.question, path)
        licence = PACKAGES[0].licence
        yield question, Clip(PACKAGE, question.question, "speech", "", licence, read(path))


def _speak(cache: Path, voice: str, text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    program = (cache / "flite" / "usr" / "bin" / f"flite_cmu_us_{voice}").absolute()
    libraries = sorted({str(lib.parent.absolute()) for lib in cache.glob("*/usr/lib/*/*.so.*")})
    # In a folder of this run's own: another may be making the same right now.
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}.", dir=path.parent) as folder:
        part = Path(folder) / path.name
        try:
            subprocess.run(
                [str(program), "-t", text, "-o", str(part)],
                env=os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(libraries)},
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(
                f"{program}: spoken questions are made by a program for x86-64 Debian, which does"
                f" not run here ({error})"
            ) from None
        part.replace(path)


# --- the same answer? -----------------------------------------------------------------------------

_STOP_WORDS = """
    a an the this that these those is are was were be been being am do does did has have had it
    its they them their there here he she his her we us our you your i my me of in on at to from
    by with for as and or but not no so than then very also which who what when where how can
    could will would may might should most more many much one's it's that's called answer question
"""
_STOP = frozenset(_STOP_WORDS.split())
_YES_NO = frozenset(("yes", "no"))


def first_sentence(answer: str) -> str:
    """Up to the first full stop, question mark, exclamation mark or line's end."""
    return re.split(r"(?<=[.!?])\s|\n", answer.strip(), maxsplit=1)[0].strip()


def content_words(sentence: str, question: str) -> set[str]:
    """What a sentence says that its question did not, numbers as words."""
    return set(normalised(sentence).split()) - _STOP - set(normalised(question).split())


def same_answer(question: str, expected: str, answer: str) -> bool:
    """Whether two answers to a question say the same: their first sentences' content words.

    The same means an F1 of at least a half. Where one says yes or no, or nothing beyond the
    question, the first words are compared.
    """
    first, second = first_sentence(expected), first_sentence(answer)
    opening, other = (normalised(s).split()[:1] for s in (first, second))
    wanted, said = content_words(first, question), content_words(second, question)
    if not wanted or not said or _YES_NO & {*opening, *other}:
        return opening == other
    return 2 * len(wanted & said) / (len(wanted) + len(said)) >= SAME_F1
