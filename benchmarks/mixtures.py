"""Held-out speech over held-out sounds at a stated ratio: does a model hear both?

sound, looped   |~~~~~~~~~~~~~~~~~~~~~~~~~~~~|      length: speech and half a second
speech              |====================|          begins after a quarter of a second
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .heldout import RATE, Clip, class_of
from .quality import KIND_WORDS

F32 = npt.NDArray[np.float32]

N_MIXTURES = 100
SNR_DB = 5.0  # of the speech over the sound
PACKAGE = "mixtures-1"  # raise the number with any change of what is made: answers are kept
_SPEECH_SECONDS = (1.0, 5.0)
_MARGIN = RATE // 4  # samples of sound alone on either side of the speech


@dataclass(frozen=True, slots=True)
class Mixture:
    """Speech over a sound."""

    clip: Clip
    text: str  # what is said
    label: str  # the sound's class


def mixtures(clips: Sequence[Clip]) -> Iterator[Mixture]:
    """`N_MIXTURES` of them, always the same: each speech once, the sounds class by class in turn.

    Args:
        clips: The held-out recordings; speech of 1 to 5 s and all sounds are taken from them.
    """
    least, most = (seconds * RATE for seconds in _SPEECH_SECONDS)
    speech = _shuffled(c for c in clips if c.kind == "speech" and least <= len(c.pcm) <= most)
    of_class: dict[str, list[Clip]] = {}
    for sound in _shuffled(c for c in clips if c.kind == "sound" and c.pcm.any()):
        of_class.setdefault(sound.text, []).append(sound)
    labels = sorted(of_class)
    for i, spoken in enumerate(speech[:N_MIXTURES] if labels else ()):
        label = labels[i % len(labels)]
        sounds = of_class[label]
        sound = sounds[i // len(labels) % len(sounds)]
        pcm = mixed(spoken.pcm, sound.pcm, snr_db=SNR_DB)
        name = f"{spoken.name} over {sound.name}"
        licence = " and ".join(dict.fromkeys((spoken.licence, sound.licence)))
        clip = Clip(PACKAGE, name, "mixture", spoken.text, licence, pcm)
        yield Mixture(clip, spoken.text, label)


def mixed(speech: F32, sound: F32, *, snr_db: float) -> F32:
    """Speech with a sound around and under it.

    Args:
        speech: [n_samples].
        sound: [n_samples], looped or cut to half a second more than the speech.
        snr_db: Power of the speech over that of the sound, means over each.

    Returns:
        [n_samples + RATE // 2], within -1..1: both are made softer where their sum is not.
    """
    under = np.resize(sound, len(speech) + 2 * _MARGIN).astype(np.float64)
    power, power_under = np.square(speech, dtype=np.float64).mean(), np.square(under).mean()
    if power_under:
        under *= np.sqrt(power / power_under / 10 ** (snr_db / 10))
    under[_MARGIN : _MARGIN + len(speech)] += speech
    peak = np.abs(under).max()
    return np.asarray(under / max(1.0, peak), np.float32)


def names_class(answer: str, label: str) -> bool:
    """Whether the sound that an answer names, whatever it says of voices, is the right one."""
    without_speech = re.sub(rf"\b\w*(?:{KIND_WORDS['speech']})\w*", " ", answer.lower())
    return class_of(without_speech) == label


def names_both(answer: str, label: str) -> bool:
    """Whether an answer names speech and the right class of sound."""
    return bool(re.search(KIND_WORDS["speech"], answer.lower())) and names_class(answer, label)


def _shuffled(clips: Iterator[Clip]) -> list[Clip]:
    return sorted(clips, key=lambda clip: (zlib.crc32(clip.name.encode()), clip.package, clip.name))
