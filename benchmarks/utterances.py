"""Held-out speech as it is spoken to a microphone: real recordings of 2 to 20 s, always the same.

Single prompts as long as they come, and, for the lengths that few of them have, prompts of the same
speaker one after the other with a breath between.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from . import heldout

F32 = npt.NDArray[np.float32]

SHORTEST_S, LONGEST_S = 2.0, 20.0
_BREATH = heldout.RATE // 7  # samples: 140 ms, too short to end a turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """Something said in one go."""

    name: str
    text: str
    pcm: F32  # [n_samples], 16 kHz
    n_clips: int  # recordings in it

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.pcm) / heldout.RATE


def utterances(data: Path, n: int) -> list[Utterance]:
    """`n` utterances whose lengths are spread evenly over 2 to 20 s on a scale of ratios.

    Args:
        data: where `heldout.fetch` put the recordings.
        n: how many.
    """
    clips = [clip for clip in heldout.clips(data) if clip.kind == "speech" and clip.text]
    spare = [clip for clip in clips if len(clip.pcm) < 4 * heldout.RATE]
    made, used = [], set[str]()
    for wanted_s in np.geomspace(SHORTEST_S, LONGEST_S, n):
        single = min(
            (clip for clip in clips if clip.name not in used),
            key=lambda clip: abs(np.log(len(clip.pcm) / heldout.RATE / wanted_s)),
        )
        if abs(np.log(len(single.pcm) / heldout.RATE / wanted_s)) < 0.05:
            used.add(single.name)
            made.append(Utterance(name=single.name, text=single.text, pcm=single.pcm, n_clips=1))
            continue
        parts, texts, n_samples = [], [], 0
        while n_samples < wanted_s * heldout.RATE - heldout.RATE // 2:
            clip = spare.pop(0)
            texts.append(clip.text)
            parts += [clip.pcm, np.zeros(_BREATH, np.float32)]
            n_samples += len(clip.pcm) + _BREATH
        name = f"{len(texts)} prompts up to {clip.name}"
        pcm = np.concatenate(parts[:-1])
        made.append(Utterance(name=name, text=" ".join(texts), pcm=pcm, n_clips=len(texts)))
    return made
