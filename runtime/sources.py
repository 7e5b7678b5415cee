"""Where sound comes from while it is listened to: blocks of 16 kHz in order, lost time stated.

    Microphone (microphone.py) --+
    a file, in real time or not --+--> read() --> Block, Block, Lost, Block ...  None: it is over
    arrays ----------------------+

A source has one clock, the index of a sample at 16 kHz since it was opened. A block says where it
begins; where sound was lost, the next block begins later.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kokanee.engine.features import SAMPLE_RATE

from .updates import Device

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some sound."""

    pcm: F32  # [n_samples], 16 kHz mono, in [-1, 1]
    start: int  # index of its first sample; later than the last block's end where sound was lost
    heard_at: float  # time.monotonic() at which its last sample was there


class Source(Protocol):
    """Sound that arrives."""

    name: str
    live: bool  # sound goes on arriving while nobody reads: read it from a thread of its own

    def read(self, timeout_s: float) -> list[Block | Device] | None:
        """What arrived since, in order; waits up to timeout_s for something. None: it is over."""
        ...

    def close(self) -> None:
        """Stop; may be called from any thread, ends a read that waits, harmless twice."""
        ...


class Playback:
    """Samples from an iterable, as fast as they are read or at the speed of sound."""

    def __init__(
        self, blocks: Iterable[F32], *, name: str = "arrays", realtime: bool = False
    ) -> None:
        """Begins with the first read.

        Args:
            blocks: float32 [n_samples] each, 16 kHz mono, of any length.
            name: for updates.
            realtime: a sample is had no sooner than its time after the first read, in steps of
                20 ms. Otherwise they come in steps of 100 ms at most.
        """
        self.name = name
        self.live = realtime
        self._blocks = _steps(blocks, SAMPLE_RATE // (50 if realtime else 10))
        self._n_read = 0
        self._started: float | None = None
        self._closed = False

    def read(self, timeout_s: float) -> list[Block | Device] | None:
        """The next block; in real time, no sooner than it is due."""
        pcm = None if self._closed else next(self._blocks, None)
        if pcm is None:
            return None
        now = time.monotonic()
        if self._started is None:
            self._started = now
        due = self._started + (self._n_read + len(pcm)) / SAMPLE_RATE
        if self.live and due > now:
            time.sleep(due - now)
        start = self._n_read
        self._n_read += len(pcm)
        heard_at = due if self.live else time.monotonic()
        return [Block(pcm=np.asarray(pcm, np.float32), start=start, heard_at=heard_at)]

    def close(self) -> None:
        """Nothing more is read."""
        self._closed = True


def _steps(blocks: Iterable[F32], n_samples: int) -> Iterator[F32]:
    for block in blocks:
        for at in range(0, len(block), n_samples):
            yield block[at : at + n_samples]
