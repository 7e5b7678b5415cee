"""Clips in which nobody speaks, made from formulas, and whether an answer makes words up for them.

A model that was trained to transcribe tends to hear sentences in noise; who listens for days gets
them as turns. Every clip is the same on every machine: names seed what is random.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from .heldout import RATE, Clip, normalised

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

PACKAGE = "formulas-1"  # raise the number with any change of what is made: answers are kept
_SECONDS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
_LEVELS_DB = (-45, -32, -22, -12)  # RMS, full scale is 0
_PER_FORMULA = 12
_N_SILENT = 8

# What voices do is no invention to write down: these may hold words.
VOICED_CLASSES = ("laugh", "cough", "scream")


def clips() -> Iterator[Clip]:
    """80 clips of 1 to 6 s: digital silence (kind "silence"), and six formulas (kind "noise")."""
    for i in range(_N_SILENT):
        silence = np.zeros(round(_SECONDS[i % len(_SECONDS)] * RATE), np.float32)
        yield Clip(PACKAGE, f"silence {i}", "silence", "silence", "CC0-1.0", silence)
    for formula, make in FORMULAS.items():
        for i in range(_PER_FORMULA):
            # Levels and lengths go round at different speeds: no pair of them comes twice.
            n_samples = round(_SECONDS[i % len(_SECONDS)] * RATE)
            level_db = _LEVELS_DB[i % len(_LEVELS_DB)]
            name = f"{formula} {i}"
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            raw = make(n_samples, rng)
            raw *= 10 ** (level_db / 20) / np.sqrt(np.square(raw).mean())
            pcm = np.clip(raw, -1, 1).astype(np.float32)
            yield Clip(PACKAGE, name, "noise", formula, "CC0-1.0", pcm)


def _coloured(n_samples: int, rng: np.random.Generator, exponent: float) -> F64:
    """White noise whose power falls with frequency to the given power."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    frequencies = np.fft.rfftfreq(n_samples, 1 / RATE)
    # Below 20 Hz nothing is audible, and brown noise would be little else.
    return np.fft.irfft(
        spectrum * np.maximum(frequencies, 20.0) ** (-exponent / 2) * (frequencies >= 20),
        n_samples,
    )


def _hum(n_samples: int, rng: np.random.Generator) -> F64:
    """Mains at 50 or 60 Hz, its harmonics, and a little hiss."""
    mains = rng.choice([50.0, 60.0])
    t = np.arange(n_samples) / RATE
    out = 0.01 * rng.standard_normal(n_samples)
    for k in range(1, 12):
        phase = rng.uniform(0, 2 * np.pi)
        out += rng.uniform(0.3, 1.0) / k * np.sin(2 * np.pi * mains * k * t + phase)
    return out


def _crackle(n_samples: int, rng: np.random.Generator) -> F64:
    """Clicks of a millisecond or so at random times, as of a worn record, over faint hiss."""
    out = 0.002 * rng.standard_normal(n_samples)
    for at in rng.integers(n_samples, size=max(8, round(rng.uniform(5, 40) * n_samples / RATE))):
        length = min(int(rng.integers(4, 40)), n_samples - int(at))
        decay = np.exp(-np.arange(length) / (length / 3))
        out[at : at + length] += rng.uniform(0.1, 1.0) * rng.standard_normal(length) * decay
    return out


def _swelling(n_samples: int, rng: np.random.Generator) -> F64:
    """Pink noise that comes and goes as slowly as wind or waves, far from a speaker's syllables."""
    t = np.arange(n_samples) / RATE
    swell = np.sin(2 * np.pi * rng.uniform(0.1, 0.8) * t + rng.uniform(0, 2 * np.pi))
    return _coloured(n_samples, rng, 1.0) * (0.55 + 0.45 * swell)


FORMULAS: dict[str, Callable[[int, np.random.Generator], F64]] = {
    "white": lambda n, rng: _coloured(n, rng, 0.0),
    "pink": lambda n, rng: _coloured(n, rng, 1.0),
    "brown": lambda n, rng: _coloured(n, rng, 2.0),
    "hum": _hum,
    "crackle": _crackle,
    "swelling": _swelling,
}


# "No one is speaking." is right, "No one is available to take your call." is invented: what is
# missing must be speech or words, or be missing altogether.
_SPEAKS = r"(?:speak|talk|say|said|spoke|hear|voic)\w*"
_SPEECH = r"(?:speech|words?|voices?|talk(?:ing)?|speak(?:ing)?|dialogue|speakers?|sentences?)"
_NOBODY_SPEAKS = re.compile(
    rf"""
      (?:nothing|no\ ?one|nobody|no\ (?:person|one|body))
        (?:\ (?:at\ all|is|was|are|has|had|have|been|being|to\ be|to|can\ be|really|there))*
        \ {_SPEAKS}
    | \b(?:no|not|without|isn't|wasn't|aren't)
        \ (?:(?:a|any|an|actual|real|audible|clear|human|intelligible|spoken|recognizable)\ )*
        {_SPEECH}\b
    | \b(?:do\ not|don't|did\ not|didn't|cannot|can't|could\ not|couldn't)\ hear
        (?:\ (?:any|a|anything|anyone|anybody|speech|words?|voices?|one)\b)
    | ^(?:(?:there\ is|it\ is|this\ is|it's|that\ is|only|just|complete|total|i\ hear)\ )*
        (?:silence|silent|quiet|nothing|(?:a\ )?(?:noise|sound)|static|music|nobody|no\ one|none)
        (?:\ (?:here|at\ all|only|is\ there|there|and\ (?:noise|silence)))?$
    """,
    re.VERBOSE,
)


def invents_speech(answer: str) -> bool:
    """Whether an answer to "Write down what is said." has words that nobody can have said.

    "", "[...]", "(music)", "Silence." and a first sentence that says that nobody speaks are right
    about a clip without speech; everything else pretends to be a transcript.
    """
    without_remarks = re.sub(r"[\[(<*].*?[\])>*]", " ", answer)
    said = [s for s in re.split(r"[.!?;\n]+", without_remarks) if re.search(r"\w", s)]
    return bool(said) and not _NOBODY_SPEAKS.search(normalised(said[0]))
