"""A source of sound that a test feeds, and a voice detector that goes by loudness alone."""

from __future__ import annotations

import queue
import time

import numpy as np
import numpy.typing as npt

from kokanee.runtime.sources import Block
from kokanee.runtime.updates import Device
from kokanee.runtime.vad import dbfs

F32 = npt.NDArray[np.float32]


class Loud:
    """Takes what is loud for a voice: -9 dBFS and more surely, -26 and less surely not."""

    def __call__(self, frame: F32) -> float:
        return float(np.clip((dbfs(frame) + 26) / 17, 0, 1))

    def reset(self) -> None:
        pass


class Fed:
    """Gives what it is fed; arrays in blocks of 20 ms. None is the end, an error is raised."""

    name = "fed"

    def __init__(self, *items: F32 | Block | Device | Exception | None, live: bool = True) -> None:
        self.live = live
        self.n_fed = 0  # samples, lost ones included
        self.n_closed = 0
        self._items: queue.Queue[Block | Device | Exception | None] = queue.Queue()
        self.feed(*items)

    def feed(self, *items: F32 | Block | Device | Exception | None) -> None:
        for item in items:
            if not isinstance(item, np.ndarray):
                self._items.put(item)
                continue
            for at in range(0, len(item), 320):
                part = item[at : at + 320]
                self._items.put(Block(pcm=part, start=self.n_fed, heard_at=time.monotonic()))
                self.n_fed += len(part)

    def lose(self, n_samples: int) -> None:
        """What is fed next begins so much later."""
        self.n_fed += n_samples

    def read(self, timeout_s: float) -> list[Block | Device] | None:
        try:
            item = self._items.get(timeout=timeout_s)
        except queue.Empty:
            return []
        if item is None or self.n_closed:
            self._items.put(None)
            return None
        if isinstance(item, Exception):
            raise item
        return [item]

    def close(self) -> None:
        self.n_closed += 1
        self._items.put(None)
