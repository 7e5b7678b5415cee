"""Finds recordings that the held-out sets have too, under another name or in another format.

Packages borrow from each other: bambam and Gamine carry sounds of GCompris. What is one of the
evaluation's recordings, by its waveform, is not trained on.
"""

import functools

import numpy as np
import numpy.typing as npt

from kokanee.benchmarks import heldout
from kokanee.export.nano.build import default_cache

F32 = npt.NDArray[np.float32]
ALIKE = 0.9  # peak of the normalised cross-correlation
LONGEST = 2 * 16_000  # samples that are compared; the whole lengths must agree, too


@functools.cache
def held_out() -> tuple[list[str], list[F32]]:
    """Names and waveforms of the evaluation's sounds and music."""
    cache = default_cache() / "heldout"
    heldout.fetch(cache)
    clips = [clip for clip in heldout.clips(cache) if clip.kind != "speech"]
    return [clip.name for clip in clips], [_sounding(clip.pcm) for clip in clips]


def _sounding(pcm: F32) -> F32:
    """From where it begins to where it ends."""
    loud = np.flatnonzero(np.abs(pcm) > 0.02 * np.abs(pcm).max(initial=1e-9))
    return pcm[loud[0] : loud[-1] + 1] if len(loud) else pcm[:0]


def likeness(a: F32, b: F32) -> float:
    """The peak of two waveforms' normalised cross-correlation, 1 for copies."""
    a, b = a[:LONGEST], b[:LONGEST]
    n = 1 << (len(a) + len(b)).bit_length()
    product = np.fft.rfft(a, n) * np.conj(np.fft.rfft(b, n))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.abs(np.fft.irfft(product, n)).max()) / max(norms, 1e-9)


def copy_of(pcm: F32, names: list[str], waveforms: list[F32]) -> str | None:
    """The held-out recording that this is a copy of; only equally long ones are compared.

    Or those of which it may have the beginning only, because it cuts what is long.
    """
    sound = _sounding(pcm)
    for name, other in zip(names, waveforms, strict=True):
        alike = len(sound) > 0 and abs(len(sound) - len(other)) <= 0.03 * len(other)
        # The evaluation cuts what is long; of that no more than the beginning can be compared.
        alike |= len(sound) >= len(other) >= 0.9 * heldout.MAX_SECONDS * heldout.RATE
        if alike and likeness(sound, other) > ALIKE:
            return name
    return None
