"""Blocks as they come into samples in their place: what is late waits, what is lost leaves a hole.

    callbacks       |--|--|--|          |--|--|--|--|--|
    the clock   ----+--+--+--+----------+--+--+--+--+--+---->
                              <- behind ->  caught up within half a second: it was late, no hole
                                            evenly as far behind for so long: some was lost

Sound which is behind the clock by more than a quarter of a second is kept back until it is known
which of the two it is; if it was lost, the samples' own clock jumps by as much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from kokanee.engine.features import SAMPLE_RATE

from .sources import Block
from .updates import Device

F32 = npt.NDArray[np.float32]
I16 = npt.NDArray[np.int16]

BLOCK_S = 0.02  # longer blocks come in bursts
LATE_S = 0.25  # behind the clock by less than this is nothing
SETTLE_S = 0.5  # what is evenly behind for so long will not catch up
JITTER_S = 0.05  # "evenly"; callbacks that fight for the interpreter vary by far more
HOLD_S = 2.0  # nothing is kept back for longer than this
DRIFT = 0.001  # a sound card's clock may be this wrong; real ones are within 0.0002


@dataclass(frozen=True, slots=True)
class Piece:
    """One callback's samples, and where they stand among the stream's."""

    pcm: I16  # [n_samples], at the device's rate
    start: int
    time: float

    @property
    def end(self) -> int:
        """Index one past its last sample."""
        return self.start + len(self.pcm)


class Ring:
    """The newest blocks of a stream, between PortAudio's thread and the reader's.

    No lock: the writer never waits. The reader copies, then looks how far the writer has come, and
    throws away what was overwritten meanwhile.
    """

    def __init__(
        self, rate: int, seconds: float, notify: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self.rate = rate
        self.n_block = round(rate * BLOCK_S)
        n_slots = max(2, round(seconds / BLOCK_S)) + 1  # one is being written
        self._pcm = np.zeros((n_slots, self.n_block), np.int16)
        self._starts = np.zeros(n_slots, np.int64)  # samples since the stream began
        self._sizes = np.zeros(n_slots, np.int64)
        self._times = np.zeros(n_slots, np.float64)
        self._notify, self._clock = notify, clock
        self.n_put = 0  # blocks
        self.n_captured = self.n_taken = self.n_dropped = 0  # samples
        self.n_dropped_blocks = 0
        self.n_overflows = 0
        self.worst_interval_s = 0.0
        self.finished = False
        self.heard_at = clock()
        self._next = 0  # block to read
        self._read_to = 0  # samples: taken or dropped

    def put(self, indata: I16, n_frames: int, _info: object, status: Any) -> None:
        """PortAudio's callback: keeps the first channel of indata [n_frames, n_channels]."""
        now = self._clock()
        slot = self.n_put % len(self._pcm)
        n = min(n_frames, self.n_block)
        self._pcm[slot, :n] = indata[:n, 0]
        self._starts[slot] = self.n_captured
        self._sizes[slot] = n
        self.n_captured += n
        self._times[slot] = now
        if status and status.input_overflow:
            self.n_overflows += 1
        if self.n_put:
            self.worst_interval_s = max(self.worst_interval_s, now - self.heard_at)
        self.heard_at = now
        self.n_put += 1
        self._notify()

    def finish(self) -> None:
        """PortAudio's word that no callback follows."""
        self.finished = True
        self._notify()

    def take(self) -> list[Piece]:
        """Everything not yet read and still there."""
        n_slots, n_put = len(self._pcm), self.n_put
        first = max(self._next, n_put + 1 - n_slots)
        pieces: list[tuple[int, Piece]] = []
        for block in range(first, n_put):
            slot = block % n_slots
            pcm = self._pcm[slot, : self._sizes[slot]].copy()
            piece = Piece(pcm, int(self._starts[slot]), float(self._times[slot]))
            pieces.append((block, piece))
        oldest = self.n_put + 1 - n_slots
        kept = [(block, piece) for block, piece in pieces if block >= oldest]
        for block, piece in kept:
            self.n_dropped_blocks += block - self._next
            self.n_dropped += piece.start - self._read_to
            self.n_taken += len(piece.pcm)
            self._next, self._read_to = block + 1, piece.end
        return [piece for _, piece in kept]


class Timeline:
    """Where samples belong, as indices at 16 kHz, and whether sound that stayed away is lost.

    The recording's sample 0 has a time, its anchor. The anchor follows the sound card by DRIFT at
    most, so that a card whose clock is a little wrong is not taken for one that loses sound.
    """

    def __init__(self) -> None:
        self.end = 0  # of all that was released
        self.late_s = self.worst_late_s = 0.0
        self.at_start = True  # of a stream
        self._anchor: float | None = None
        self._anchored_at = 0.0
        self._rate = SAMPLE_RATE
        self._origin = 0.0  # of the stream's sample 0
        self._seen = 0  # the stream's samples
        self._ready: list[Piece] = []
        self._held: list[Piece] = []
        self._level_s = self._level_since = 0.0  # how far behind they evenly are, since when
        self._least_s = 0.0  # the least of it
        self._resampler: soxr.ResampleStream | None = None
        self._in_run = False
        self._last_time = 0.0

    @property
    def n_held(self) -> int:
        """Samples kept back, at the device's rate."""
        return sum(len(piece.pcm) for piece in list(self._held))

    def begin(self, rate: int) -> None:
        """A new stream."""
        self._rate = rate
        self._origin = float(self.end)
        self._seen = 0
        self.at_start = True

    def join(self, piece: Piece) -> int:
        """Places a later stream by its first piece; how many samples are missing before it."""
        if self._anchor is None:
            return 0
        begun = (piece.time - self._anchor) * SAMPLE_RATE - piece.end * self._scale
        self._origin = max(float(self.end), round(begun))
        return round(self._origin) - self.end

    def skip(self, piece: Piece) -> int:
        """How many of the stream's samples are missing before the piece."""
        missing = piece.start - self._seen
        if missing:
            self._ready += self._held  # their place is before what is missing
            self._held = []
        return missing

    def add(self, piece: Piece) -> None:
        """Takes a piece; keeps it back while sound before it may be late or lost."""
        self.at_start = False
        self._seen = piece.end
        due = (self._origin + piece.end * self._scale) / SAMPLE_RATE
        if self._anchor is None:
            self._anchor = piece.time - due
            self._anchored_at = piece.time
        late_s = piece.time - self._anchor - due
        if late_s < 0 and piece.time - self._anchored_at < SETTLE_S:
            self._anchor += late_s  # a stream may begin with a burst
            late_s = 0.0
        self.late_s = late_s
        self.worst_late_s = max(self.worst_late_s, late_s)
        if late_s <= LATE_S:
            most = DRIFT * len(piece.pcm) / self._rate
            self._anchor += min(max(late_s, -most), most)
            self._ready += [*self._held, piece]
            self._held = []
            return
        if not self._held or abs(late_s - self._level_s) > JITTER_S:
            self._level_s = self._least_s = late_s
            self._level_since = piece.time
        self._least_s = min(self._least_s, late_s)
        self._held.append(piece)
        if piece.time - self._held[0].time >= HOLD_S and not self.is_lost:
            # Still unsteady: this machine is too busy to call back in time, and sound waits.
            self._ready, self._held = self._ready + self._held, []

    @property
    def is_lost(self) -> bool:
        """Whether what is missing before the pieces kept back will not come any more."""
        return bool(self._held) and self._held[-1].time - self._level_since >= SETTLE_S

    def give_up(self) -> int:
        """Leaves out what is missing before the pieces kept back, after flush(): how much."""
        if not self._held:
            return 0
        jump = round(self._least_s * SAMPLE_RATE)
        self._origin += jump
        self._ready, self._held = self._ready + self._held, []
        return jump

    def release(self) -> list[Block | Device]:
        """The sound that is in its place, as one block."""
        ready, self._ready = self._ready, []
        if not ready:
            return []
        if not self._in_run:
            self._in_run = True
            place = round(self._origin + ready[0].start * self._scale)
            self.end = max(self.end, place)
            if self._rate != SAMPLE_RATE:
                self._resampler = soxr.ResampleStream(
                    self._rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ"
                )
        self._last_time = ready[-1].time
        pcm = np.concatenate([piece.pcm for piece in ready]).astype(np.float32) / np.float32(32768)
        return self._block(pcm, last=False)

    def flush(self) -> list[Block | Device]:
        """Ends a run of samples without a hole: what is ready, and the resampler's tail."""
        out = self.release()
        if self._resampler is not None:
            out += self._block(np.empty(0, np.float32), last=True)
        self._resampler = None
        self._in_run = False
        return out

    def _block(self, pcm: F32, *, last: bool) -> list[Block | Device]:
        if self._resampler is not None:
            pcm = self._resampler.resample_chunk(pcm, last=last)
            np.clip(pcm, np.float32(-1), np.float32(1), out=pcm)  # it overshoots
        if not len(pcm):
            return []
        block = Block(pcm=pcm, start=self.end, heard_at=self._last_time)
        self.end += len(pcm)
        return [block]

    @property
    def _scale(self) -> float:
        return SAMPLE_RATE / self._rate
