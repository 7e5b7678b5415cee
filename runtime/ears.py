"""The part of listening that is never late: sound in, turns marked, all of it queued in order.

    source ──► record ──► Endpointer ──► | Stretch | Stretch | ... ──► take()
               (a file)        │ a turn begins: on_start(), at once
                               ▼

With a live source this goes on in a thread of its own while the model thinks; a few microseconds a
frame, and the only place that waits for sound. Without one, each `take` reads one block.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from kokanee.engine.features import SAMPLE_RATE

from .endpoint import Endpointer, Mark, Resume, Start
from .sources import Block, Source
from .updates import Device

F32 = npt.NDArray[np.float32]

_WAIT_S = 0.25  # how long a read may block: what close() waits for at most
# How long the thread rests while nothing is on, at most. Frames that follow on one another find the
# detector in the processor's caches, and nobody is woken for each: two thirds of the cost.
_REST_S = 0.08
_BEHIND_S = 0.02  # sound that old was waiting: no rest
_FAINT = 0.15  # voice below which nobody is about to speak


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A block of sound, and what it brought."""

    pcm: F32  # [n_samples]; empty for what is no sound
    start: int  # index of its first sample
    heard_at: float  # time.monotonic() at which its last sample was there
    marks: tuple[Mark, ...] = ()
    device: Device | None = None
    lost: int = 0  # samples of it that were thrown away, as nobody took them in time

    @property
    def end(self) -> int:
        """Index one past its last sample."""
        return self.start + len(self.pcm) + self.lost


class Ears:
    """Reads a source to its end, however long the reader of `take` is away.

    What nobody takes is kept up to `backlog_s` of sound; beyond, the oldest samples go, counted,
    while the marks stay.
    """

    def __init__(
        self,
        source: Source,
        endpointer: Endpointer,
        *,
        backlog_s: float,
        record: Path | None = None,
    ) -> None:
        """A live source is not read before `begin`.

        Args:
            source: read by nobody else; closed with this.
            endpointer: marks the turns.
            backlog_s: seconds of a live source's sound kept for a reader that is late.
            record: a sound file that gets every sample, with silence where sound was lost.
        """
        self._source = source
        self._endpointer = endpointer
        self._room = round(backlog_s * SAMPLE_RATE)
        self._on_start: Callable[[], None] | None = None
        self._on_pause: Callable[[], None] | None = None
        self._queue: deque[Stretch] = deque()
        self._n_queued = 0
        self._n_dropped = 0
        self._changed = threading.Condition()  # guards queue, endpointer, and the fields below
        self._over = False
        self._error: BaseException | None = None
        self._n_read = 0
        self._heard_at = 0.0  # of the last block
        # A voice that has to last twice as long to open a turn is found out no later for it.
        self._rest_s = min(_REST_S, endpointer.settings.min_speech_ms / 2 / 1000)
        self._file = None if record is None else _opened(record)
        self._writing = threading.Lock()  # taken before the one above: a disk may be slow
        self._thread: threading.Thread | None = None

    def begin(self, *, on_start: Callable[[], None], on_pause: Callable[[], None]) -> None:
        """Listen from now on.

        Args:
            on_start: called in the reading thread the moment a turn begins, and can be seen to; it
                must not wait for anybody who takes.
            on_pause: likewise, the moment a turn may be over, or is.
        """
        self._on_start, self._on_pause = on_start, on_pause
        if self._source.live:
            self._thread = threading.Thread(target=self._read_on, name="kokanee ears", daemon=True)
            self._thread.start()

    def take(self, timeout_s: float) -> list[Stretch] | None:
        """What was heard since, up to a mark, in order; waits up to timeout_s. None: it is over.

        What follows a mark stays, so that `has_start` tells of all that the reader does not know.
        """
        if self._thread is None and not self._queue and not self._over:
            self._read(timeout_s)
        with self._changed:
            if not self._queue and not self._over:
                self._changed.wait(timeout_s)
            if not self._queue and self._over:
                if self._error is not None:
                    raise self._error
                return None
            taken: list[Stretch] = []
            while self._queue and not (taken and taken[-1].marks):
                taken.append(self._queue.popleft())
                self._n_queued -= len(taken[-1].pcm)
        return taken

    @property
    def has_marks(self) -> bool:
        """Whether something waits to be taken that is more than sound."""
        with self._changed:
            return any(stretch.marks for stretch in self._queue)

    @property
    def has_start(self) -> bool:
        """Whether the beginning of a turn waits to be taken."""
        with self._changed:
            return any(isinstance(m, Start) for stretch in self._queue for m in stretch.marks)

    @property
    def level(self) -> tuple[float, float, int]:
        """Loudness in dBFS, how likely a voice is, and the sample index of now."""
        with self._changed:
            return self._endpointer.dbfs, self._endpointer.voice, self._endpointer.n_pushed

    @property
    def is_quiet(self) -> bool:
        """Whether an open turn's voice is silent right now: perhaps it is over."""
        with self._changed:
            return not self._endpointer.speaking

    @property
    def n_dropped(self) -> int:
        """Samples that were thrown away because the reader was too late for them."""
        return self._n_dropped

    def press(self) -> None:
        """The key of push to talk goes down."""
        self._mark(self._endpointer.press)

    def release(self) -> None:
        """The key of push to talk goes up."""
        self._mark(self._endpointer.release)

    def close(self) -> None:
        """Read no more; what was heard can still be taken. From any thread, harmless twice."""
        self._source.close()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(2.0)
        self._end()

    # --- inside ----------------------------------------------------------------------------------

    def _read_on(self) -> None:
        try:
            while self._read(_WAIT_S):
                if self._may_rest():
                    time.sleep(self._rest_s)
        except BaseException as error:
            self._error = error  # raised where it can be caught: by take()
        finally:
            self._end()

    def _may_rest(self) -> bool:
        with self._changed:
            idle = not self._endpointer.in_turn and self._endpointer.voice < _FAINT
            return idle and time.monotonic() - self._heard_at < _BEHIND_S

    def _read(self, timeout_s: float) -> bool:
        arrived = self._source.read(timeout_s)
        if arrived is None:
            self._end()
            return False
        for item in arrived:
            if isinstance(item, Device):
                now = time.monotonic()
                self._queue_up(Stretch(pcm=_NONE, start=self._n_read, heard_at=now, device=item))
            else:
                self._hear(item)
        return True

    def _hear(self, block: Block) -> None:
        pcm = block.pcm
        if not np.isfinite(pcm).all():  # a broken driver's; the detectors hear silence as well
            pcm = np.nan_to_num(pcm, nan=0.0, posinf=0.0, neginf=0.0)
        # What is queued is written, also if somebody closes in between.
        with self._writing:
            # Marked and queued in one go: a key let go in between would come before its sound.
            with self._changed:
                if self._over:
                    return
                marks: list[Mark] = []
                if block.start > self._endpointer.n_pushed:
                    marks += self._endpointer.gap(block.start)
                marks += self._endpointer.push(pcm)
                self._heard_at = block.heard_at
                self._queue_up(
                    Stretch(
                        pcm=pcm,
                        start=block.start,
                        heard_at=block.heard_at,
                        marks=tuple(marks),
                    )
                )
            if self._file is not None:
                for at in range(self._n_read, block.start, SAMPLE_RATE):
                    self._file.write(np.zeros(min(SAMPLE_RATE, block.start - at), np.float32))
                self._file.write(pcm)
            self._n_read = block.start + len(pcm)

    def _mark(self, mark: Callable[[], list[Mark]]) -> None:
        with self._changed:
            if self._over:
                return
            marks, at = tuple(mark()), self._endpointer.n_pushed
            self._queue_up(Stretch(pcm=_NONE, start=at, heard_at=time.monotonic(), marks=marks))

    def _queue_up(self, stretch: Stretch) -> None:
        with self._changed:
            self._queue.append(stretch)
            self._n_queued += len(stretch.pcm)
            while self._source.live and self._n_queued > self._room:
                self._drop_oldest()
            # Seen first, told second: an answer that begins in between has seen it.
            for mark in stretch.marks:
                told = self._on_start if isinstance(mark, Start) else self._on_pause
                if told is not None and not isinstance(mark, Resume):
                    told()
            self._changed.notify_all()

    def _drop_oldest(self) -> None:
        """Throw away the samples of the oldest stretch that still has some, and nothing else."""
        at = next(i for i, stretch in enumerate(self._queue) if len(stretch.pcm))
        old = self._queue[at]
        n_samples = len(old.pcm)
        self._n_queued -= n_samples
        self._n_dropped += n_samples
        if at and not old.marks and not self._queue[at - 1].marks and not old.device:
            before = self._queue[at - 1]
            if before.lost and not before.device:  # one long loss, not thousands
                self._queue[at - 1] = _lost(before, before.lost + n_samples, old.heard_at)
                del self._queue[at]
                return
        self._queue[at] = _lost(old, n_samples, old.heard_at)

    def _end(self) -> None:
        with self._changed:
            if self._over:
                return
            self._over = True
            if marks := tuple(self._endpointer.close()):
                at = self._endpointer.n_pushed
                self._queue.append(
                    Stretch(pcm=_NONE, start=at, heard_at=time.monotonic(), marks=marks)
                )
            self._changed.notify_all()
        with self._writing:
            if self._file is not None:
                self._file.close()


_NONE: F32 = np.empty(0, np.float32)


def _lost(stretch: Stretch, n_samples: int, heard_at: float) -> Stretch:
    return Stretch(
        pcm=_NONE, start=stretch.start, heard_at=heard_at, marks=stretch.marks, lost=n_samples
    )


def _opened(path: Path) -> soundfile.SoundFile:
    return soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, subtype="PCM_16")
