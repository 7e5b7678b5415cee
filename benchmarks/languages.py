"""Which of seven languages is spoken: recordings that nobody trains on, and what an answer names.

Telephone prompts in French, Spanish, Italian, Russian and English, each by one speaker whose
recordings in that language are kept apart, and those levels of a game with Czech and Dutch actors
that `is_held_out` keeps apart.
Telephone recordings in GSM and in 8 kHz end at 4 kHz, so a language is heard here through the line
that its package happens to have.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .heldout import MAX_SECONDS, PACKAGES, RATE, Clip, Package, is_held_out, read, telephone

F32 = npt.NDArray[np.float32]

MIN_SECONDS = 1.0
CLIPS_EACH = 50
# Packages of prompts hold silence of several lengths too, and signals that nobody speaks.
MIN_PEAK = 0.01
WORDLESS = r"/silence/|beep|tone|monkeys"


@dataclass(frozen=True, slots=True)
class Language:
    """A language, how it is written and where recordings of it are."""

    name: str
    code: str  # ISO 639-1
    words: str  # regular expression over an answer in lower case
    package: Package
    suffix: str  # of its recordings


LANGUAGES: tuple[Language, ...] = (
    Language(
        "Czech",
        "cs",
        r"\bczech|čeština|česk",
        Package(
            "fillets-ng-data-cs",
            "fillets-ng-data-cs_1.0.1-1.1_all.deb",
            "3ecef99b9456f1c80c9625c6f2418642b52d58e7167a46bad7a412db17991b14",
            "GPL-2.0-or-later",
        ),
        ".ogg",
    ),
    Language(
        "Dutch",
        "nl",
        r"\bdutch\b|nederlands",
        Package(
            "fillets-ng-data-nl",
            "fillets-ng-data-nl_1.0.1-1.1_all.deb",
            "afb4443fda9ab507dee578b75be857d121718a1cd6017a474f30e0eb13dc9d10",
            "GPL-2.0-or-later",
        ),
        ".ogg",
    ),
    Language(
        "French",
        "fr",
        r"\bfrench\b|français",
        Package(
            "asterisk-prompt-fr-armelle",
            "asterisk-prompt-fr-armelle_20070613-2.2_all.deb",
            "162570b1a9b3512a98f06b89f60c7c17cf1b9b52297315adca9a4e5be728bea3",
            "BSD-3-Clause",
        ),
        ".gsm",
    ),
    Language(
        "Spanish",
        "es",
        r"\bspanish\b|español|castellano",
        Package(
            "asterisk-prompt-es-co",
            "asterisk-prompt-es-co_0.20070403-2.1_all.deb",
            "6702696e045514699e87dc8fb70f370717e5df91f821f7bec8dd0df1be008e83",
            "GPL-2.0-only",
        ),
        ".gsm",
    ),
    Language(
        "Italian",
        "it",
        r"\bitalian\b|italiano",
        Package(
            "asterisk-prompt-it-menardi-wav",
            "asterisk-prompt-it-menardi-wav_1%3a1.4.22+mm20110907-3.1_all.deb",
            "3094530d98f8758ac275572d59624c41f60969fef883f34f4886d144f3dfeb21",
            "CC-BY-SA-3.0",
        ),
        ".wav",
    ),
    Language(
        "Russian",
        "ru",
        r"\brussian\b|русск",
        Package(
            "asterisk-core-sounds-ru-g722",
            "asterisk-core-sounds-ru-g722_1.6.1-1_all.deb",
            "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b",
            "CC-BY-SA-3.0",
        ),
        ".g722",
    ),
    Language(
        "English",
        "en",
        r"\benglish\b",
        next(p for p in PACKAGES if p.name == "asterisk-core-sounds-en-g722"),
        ".g722",
    ),
)
LANGUAGE_NAMES = tuple(language.name for language in LANGUAGES)


def language_of(answer: str) -> str | None:
    """The language that an answer names first; None if none."""
    found = [
        (m.start(), language.name)
        for language in LANGUAGES
        if (m := re.search(language.words, answer.lower()))
    ]
    return min(found)[1] if found else None


def language_named(written: str) -> str | None:
    """The language that a name or an ISO 639-1 code stands for ("fr", "fr-CA", "French").

    None if it is none of `LANGUAGES`.
    """
    plain = written.strip().lower()
    code = re.split(r"[-_]", plain)[0]
    for language in LANGUAGES:
        if plain == language.name.lower() or code == language.code:
            return language.name
    return None


def clips(cache: Path) -> Iterator[tuple[str, Clip]]:
    """(language, recording), `CLIPS_EACH` of each, always the same.

    They are 1 to 8 s long: longer ones are cut. The packages must be under `cache` (`fetch`).
    """
    for language in LANGUAGES:
        package = language.package
        tree = cache / package.name
        names = (str(path.relative_to(tree)) for path in tree.rglob(f"*{language.suffix}"))
        held_out = [
            name
            for name in names
            if is_held_out(package.name, name) and not re.search(WORDLESS, name)
        ]
        n_taken = 0
        for name in sorted(held_out, key=lambda name: (zlib.crc32(name.encode()), name)):
            pcm = _READ.get(language.suffix, read)(tree / name)[: int(MAX_SECONDS * RATE)]
            if len(pcm) < MIN_SECONDS * RATE or np.abs(pcm).max() < MIN_PEAK:
                continue
            yield language.name, Clip(package.name, name, "speech", "", package.licence, pcm)
            n_taken += 1
            if n_taken == CLIPS_EACH:
                break


_READ: dict[str, Callable[[Path], F32]] = {".g722": telephone, ".gsm": telephone}
