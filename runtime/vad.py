"""A frame of sound into how loud it is, how loud its room is, and whether it is a voice.

frame [512] --+-- dbfs() --> level --> NoiseFloor --> what a room is like when nothing happens
              +-- SileroVAD or EnergyVAD ----------> voice, 0 to 1
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kokanee.engine.features import SAMPLE_RATE
from kokanee.engine.onnx import Binding, open_graph

F32 = npt.NDArray[np.float32]

FRAME = 512  # samples: 32 ms, what Silero VAD was trained on
CONTEXT = 64  # samples of the frame before, which Silero VAD sees again
D_STATE = 128  # its LSTM's width

QUIETEST = -120.0  # dBFS: digital silence

SILERO = Path(__file__).parent / "silero_vad.onnx"

_FLOOR_FRAMES = 10 * SAMPLE_RATE // FRAME  # what a noise floor remembers: 10 s
_FLOOR_SHARE = 10  # one frame in so many lies below the floor
_SURE_DB = 24.0  # above the noise floor, where EnergyVAD is certain


class VoiceDetector(Protocol):
    """Tells voices from everything else; hears frames in order, from one thread at a time."""

    def __call__(self, frame: F32) -> float:
        """How sure it is, 0 to 1, that somebody speaks in [512] samples."""
        ...

    def reset(self) -> None:
        """The next frame does not follow on the last: sound was lost between them."""
        ...


class SileroVAD:
    """Silero VAD 6.2.3 at 16 kHz: a tenth of a millisecond per frame of 32.

    Source: snakers4/silero-vad, src/silero_vad/utils_vad.py (`OnnxWrapper`). One stream instead of
    a batch and one rate instead of two; context and state are written in place, so that a frame
    allocates nothing.
    """

    def __init__(self, graph: Any | None = None) -> None:
        """With a state of its own.

        Args:
            graph: another SileroVAD's `graph`, to hold its weights once; opened if not given.
        """
        self.graph = graph or open_graph(SILERO, device="cpu", threads=1, spin_us=0)
        self._input = np.zeros((1, CONTEXT + FRAME), np.float32)
        self._state = np.zeros((2, 1, D_STATE), np.float32)
        self._voice = np.zeros((1, 1), np.float32)
        self._binding = Binding(self.graph)
        self._binding.input("input", self._input)
        self._binding.input("state", self._state)
        self._binding.input("sr", np.array(SAMPLE_RATE, np.int64))
        self._binding.output("output", self._voice)
        self._binding.output("stateN", self._state)

    def __call__(self, frame: F32) -> float:
        """How sure it is, 0 to 1, that somebody speaks in [512] samples."""
        self._input[0, CONTEXT:] = frame
        self._binding.run()
        self._input[0, :CONTEXT] = frame[-CONTEXT:]
        return float(self._voice[0, 0])

    def reset(self) -> None:
        """Forget what was heard."""
        self._input.fill(0)
        self._state.fill(0)


class EnergyVAD:
    """A stand-in where Silero VAD cannot run: whatever is louder than the room counts as a voice.

    0 at the noise floor, 0.5 at 12 dB above it, 1 at 24 dB. It takes a slammed door for a voice and
    misses one that speaks without a pause from the very first frame, before it knows the room.
    """

    def __init__(self) -> None:
        self._floor = NoiseFloor()

    def __call__(self, frame: F32) -> float:
        """How far [512] samples stand out from the last ten seconds, 0 to 1."""
        level = dbfs(frame)
        # Whoever speaks 12 dB above less than this is not heard by the microphone either.
        above = level - max(self._floor.hear(level), -70.0)
        return min(max(above / _SURE_DB, 0.0), 1.0)

    def reset(self) -> None:
        """Nothing to do: it judges each frame alone, and the room is the same as before."""


class NoiseFloor:
    """The level that a tenth of the last ten seconds stayed below.

    Pauses between words keep it down while somebody speaks. A fan that starts to run takes nine
    seconds to become part of it, and one second to leave it again.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def hear(self, level: float) -> float:
        """Take in a frame's level; the floor, both in dBFS."""
        self._recent.append(level)
        insort(self._sorted, level)
        if len(self._recent) > _FLOOR_FRAMES:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        return self._sorted[len(self._sorted) // _FLOOR_SHARE]

    @property
    def known_s(self) -> float:
        """Seconds of sound that it knows, 10 at most."""
        return len(self._recent) * FRAME / SAMPLE_RATE


def dbfs(pcm: F32) -> float:
    """Level of [n_samples], at least one, below full scale: 0 for a square wave, -120 at least.

    NaN if a sample is, infinite if their squares are too large for float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        power = float(pcm.dot(pcm)) / len(pcm)
    return QUIETEST if power < 1e-12 else 10.0 * math.log10(power)
