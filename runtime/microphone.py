"""A microphone as a source: blocks of 16 kHz in order, every lost stretch stated, never a hang.

    PortAudio's thread          callback: copy, stamp, count
                                    |
                                 _Ring      the newest 30 s, at the device's rate
                                    |
    the reader's thread         read(): watchdog; _Timeline: late or lost?; soxr -> Block, Device
                                    |
    _Caller's thread            open, abort, close, rescan: every call into PortAudio

PortAudio is not thread-safe, and with a sound daemon that does not answer each of its calls can
hang for ever. So one daemon thread makes all of them, and nobody waits for it without a limit.

A device tells little: PulseAudio flags no overflow, a stalled device nothing at all, and sound that
stayed away may still come, late. So every block is held against the clock. Sound which is behind it
by more than a quarter of a second is kept back until it has caught up (it was late: nothing is
missing) or stays as far behind (some was lost: the samples' clock jumps by as much).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
import soxr

from kokanee.engine import DeviceError
from kokanee.engine.features import SAMPLE_RATE

from .sources import Block
from .updates import Device

F32 = npt.NDArray[np.float32]
I16 = npt.NDArray[np.int16]
T = TypeVar("T")

BLOCK_S = 0.02  # longer blocks come in bursts
OPEN_S = 5.0  # in which PortAudio must open or list devices
CLOSE_S = 1.0  # in which it must close one
FIRST_S = 3.0  # in which an opened device must deliver; a cold PulseAudio sink takes 1.6 s
LATE_S = 0.25  # behind the clock by less than this is nothing
SETTLE_S = 0.5  # what is evenly behind for so long will not catch up
JITTER_S = 0.05  # "evenly"; callbacks that fight for the interpreter vary by far more
HOLD_S = 2.0  # nothing is kept back for longer than this
DRIFT = 0.001  # a sound card's clock may be this wrong; real ones are within 0.0002


@dataclass(frozen=True, slots=True, kw_only=True)
class InputDevice:
    """Something that can be recorded from."""

    index: int  # PortAudio's, until the next rescan
    name: str
    host_api: str  # "ALSA", "Core Audio", "Windows WASAPI", ...
    n_channels: int
    rate: float  # Hz, its default
    is_default: bool

    @property
    def label(self) -> str:
        """Its name and host API, to ask for it by where the name alone is not enough."""
        return f"{self.name}, {self.host_api}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What became of the sound so far.

    Always `captured == delivered + dropped + unread`: samples at the device's rate.
    """

    captured: int  # handed over by PortAudio
    delivered: int  # read
    dropped: int  # overwritten in the ring before they were read
    dropped_blocks: int
    unread: int  # in the ring, or kept back until it is known whether sound before them was lost
    gaps: int  # stretches that the device never delivered
    gap_s: float
    overflows: int  # flagged by PortAudio; PulseAudio never flags one
    stalls: int
    reopened: int
    backlog_ms: float  # by how much the newest sound was behind the clock
    worst_backlog_ms: float
    worst_interval_ms: float  # between two callbacks


def list_devices(*, rescan: bool = False, quiet_c_stderr: bool = True) -> list[InputDevice]:
    """Every device with an input channel.

    Args:
        rescan: look for what was plugged in since PortAudio first looked, which ends all streams
            in this process that were opened through sounddevice; not done while a Microphone is.
        quiet_c_stderr: keep PortAudio's and ALSA's own messages off file descriptor 2 meanwhile.

    Raises:
        DeviceError: If sounddevice or PortAudio is missing, or does not answer.
    """
    caller = _caller()

    def look() -> list[InputDevice]:
        if rescan:
            caller.rescan()
        return _inputs(_sounddevice())

    return caller.ask(look, OPEN_S, quiet=quiet_c_stderr)


class Microphone:
    """A recording device, opened again by itself when it fails.

    Besides sound, `read` tells of the device, at the sound's own time. What is lost always lies
    between `at_s` and `at_s + lost_s`:

        opened     the first thing read
        stalled    it delivers nothing, and does not say why
        lost       it is gone, or stalled for good: tried again every `retry_s`
        reopened   sound comes again after one of these two; lost_s may be 0: late, not lost
        gap        it left out sound without having stalled
        dropped    nobody read for longer than the ring holds: the oldest was overwritten

    Losses too slow to be told from a clock that is wrong, a thousandth, are not reported, and
    sleep of the whole machine is no gap: the clock sleeps with it.

    Threads: `read` belongs to one thread; `close`, `counters` and `name` to any.
    """

    live = True

    def __init__(
        self,
        device: int | str | None = None,
        *,
        buffer_s: float = 30.0,
        watchdog_s: float = 1.0,
        retry_s: float = 2.0,
        quiet_c_stderr: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the device and records from now on.

        Args:
            device: index, name, name with host API, or an unambiguous part of those; None: the
                system's default.
            buffer_s: sound kept for a reader who is late.
            watchdog_s: without sound for so long, a device has stalled.
            retry_s: between two attempts to open it again; a stalled device is given so long to
                come back by itself.
            quiet_c_stderr: keep PortAudio's and ALSA's own messages off file descriptor 2 while
                devices are opened and closed.
            clock: for tests.

        Raises:
            DeviceError: If there is no such device, or it cannot be opened; the message tells why
                and what to do.
        """
        if buffer_s < 0.1 or watchdog_s <= 0 or retry_s <= 0:
            raise ValueError(
                f"expected buffer_s >= 0.1, watchdog_s > 0 and retry_s > 0,"
                f" got {buffer_s}, {watchdog_s} and {retry_s}"
            )
        self._buffer_s, self._watchdog_s, self._retry_s = buffer_s, watchdog_s, retry_s
        self._quiet, self._clock = quiet_c_stderr, clock
        self._closed = False
        self._wake = threading.Event()
        self._caller = _caller()
        self._stream: Any = None  # touched by the caller's thread only
        self._state: Literal["live", "stalled", "lost"] = "live"
        self._attempt: Future[_Opened] | None = None
        self._retry_at = 0.0
        self._suspect_since: float | None = None
        self._past = _Tally()
        self._n_gaps = self._n_stalls = self._n_reopened = 0
        self._n_gap_samples = 0
        self._timeline = _Timeline()
        try:
            opened = self._caller.ask(lambda: self._open(device), OPEN_S, quiet=quiet_c_stderr)
        except BaseException:
            self._closed = True
            self._caller.start(self._shut, quiet=quiet_c_stderr)  # should it still open
            raise
        self._opened = opened
        # Indices change with every rescan, labels do not.
        self._wanted = None if device is None else opened.device.label
        self._ring: _Ring | None = opened.ring
        self._timeline.begin(opened.ring.rate)
        self.name = opened.device.name
        self._events: list[Block | Device] = [
            Device(what="opened", at_s=0.0, name=self.name, detail=opened.detail)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def counters(self) -> Counters:
        """What became of the sound so far."""
        ring, past, timeline = self._ring, self._past, self._timeline
        tally = past if ring is None else past.plus(ring)
        return Counters(
            captured=tally.captured,
            delivered=tally.taken - timeline.n_held,
            dropped=tally.dropped,
            dropped_blocks=tally.dropped_blocks,
            unread=tally.captured - tally.dropped - tally.taken + timeline.n_held,
            gaps=self._n_gaps,
            gap_s=self._n_gap_samples / SAMPLE_RATE,
            overflows=tally.overflows,
            stalls=self._n_stalls,
            reopened=self._n_reopened,
            backlog_ms=max(0.0, timeline.late_s) * 1e3,
            worst_backlog_ms=timeline.worst_late_s * 1e3,
            worst_interval_ms=tally.worst_interval_s * 1e3,
        )

    def read(self, timeout_s: float) -> list[Block | Device] | None:
        """What arrived since, in order; waits up to timeout_s for something. None: closed."""
        deadline = time.monotonic() + timeout_s
        while not self._closed:
            self._wake.clear()  # before looking: what comes later wakes the wait below
            out, self._events = self._events, []
            out += self._take()
            out += self._watch(self._clock())
            left_s = deadline - time.monotonic()
            if out or left_s <= 0:
                return out
            self._wake.wait(min(left_s, self._watchdog_s / 10))
        self._timeline.flush()  # frees the resampler
        return None

    def close(self) -> None:
        """Stops recording; from any thread, within a second or so, ends a read that waits."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        with contextlib.suppress(DeviceError):  # it does not answer: left to its thread
            self._caller.ask(self._shut, CLOSE_S, quiet=self._quiet)

    # The caller's thread.

    def _open(self, wanted: int | str | None) -> _Opened:
        """Opens at 16 kHz mono if the device will, else as close to it as it takes."""
        sd = _sounddevice()
        device = _pick(_inputs(sd), wanted)
        own = round(device.rate)
        channels = sorted({1, min(2, device.n_channels), device.n_channels})
        first: Exception | None = None
        for n_channels in channels:
            for rate in dict.fromkeys((SAMPLE_RATE, own, 48_000, 44_100)):
                ring = _Ring(rate, self._buffer_s, self._wake.set, self._clock)
                stream = None
                try:
                    stream = sd.InputStream(
                        samplerate=rate,
                        blocksize=ring.n_block,
                        device=device.index,
                        channels=n_channels,
                        dtype="int16",
                        latency="low",
                        callback=ring.put,
                        finished_callback=ring.finish,
                    )
                    stream.start()
                except (sd.PortAudioError, ValueError) as error:
                    if stream is not None:
                        stream.close()
                    first = first or error
                    continue
                self._stream = stream
                self._caller.streams.add(stream)
                detail = f"{rate} Hz, {n_channels} channel{'s' * (n_channels > 1)}"
                return _Opened(ring, device, detail)
        raise DeviceError(_why_refused(device, first))

    def _shut(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.abort()  # never stop(): it waits for a device that may not answer
            stream.close()
            self._caller.streams.discard(stream)

    def _reopen(self) -> _Opened:
        """The device that was asked for, else the default: better another one than silence."""
        self._shut()
        self._caller.rescan()
        if self._closed:
            raise DeviceError("the microphone was closed; open another one")
        try:
            return self._open(self._wanted)
        except DeviceError:
            if self._wanted is None:
                raise
            return self._open(None)

    # The reader's thread.

    def _take(self) -> list[Block | Device]:
        """What the ring holds, in its place."""
        ring, timeline = self._ring, self._timeline
        out: list[Block | Device] = []
        if ring is None:
            return out
        for piece in ring.take():
            if timeline.at_start and self._state == "lost":
                jump = timeline.join(piece)
                self.name = self._opened.device.name
                self._n_reopened += 1
                out += self._returned(jump, self._opened.detail)
            if n_dropped := timeline.skip(piece):
                out += timeline.flush()
                out.append(self._device("dropped", n_dropped / ring.rate, "nobody read it in time"))
            timeline.add(piece)
            if timeline.is_lost:
                out += timeline.flush()
                jump = timeline.give_up()
                out += self._returned(jump) if self._state == "stalled" else self._gap(jump)
            elif self._state == "stalled" and not timeline.n_held:
                out += self._returned(0)
        return out + timeline.release()

    def _watch(self, now: float) -> list[Block | Device]:
        """Whether the device still lives; what is done if not."""
        if self._ring is None:
            self._try_again(now)
            return []
        ring = self._ring
        silent_s = now - ring.heard_at
        limit_s = self._watchdog_s if ring.n_put else max(self._watchdog_s, FIRST_S)
        if ring.finished:
            return self._lose("the device is gone")
        if silent_s < 0.8 * limit_s:
            self._suspect_since = None
        elif self._suspect_since is None:
            # Looked at a second time before it counts: if this process itself was stopped, or the
            # machine slept, sound comes at once.
            self._suspect_since = now
        elif now - self._suspect_since >= 0.2 * limit_s:
            if self._state == "lost":  # opened again, but mute
                return self._lose("the device is mute")
            if self._state == "live":
                self._state = "stalled"
                self._n_stalls += 1
                return [self._device("stalled", detail=f"no sound for {silent_s:.1f} s")]
            if silent_s >= limit_s + self._retry_s:
                return self._lose(f"no sound for {silent_s:.1f} s")
        return []

    def _lose(self, why: str) -> list[Block | Device]:
        ring, timeline = self._ring, self._timeline
        assert ring is not None
        out = self._take()  # what came until now
        out += timeline.flush()
        if jump := timeline.give_up():
            out += self._gap(jump) + timeline.flush()
        if self._state != "lost":
            out.append(self._device("lost", detail=f"{why}; tried again every {self._retry_s:g} s"))
            self._state = "lost"
            self._retry_at = self._clock()
        else:
            self._retry_at = self._clock() + self._retry_s
        self._past = self._past.plus(ring)
        self._ring = None
        self._suspect_since = None
        self._try_again(self._clock())
        return out

    def _try_again(self, now: float) -> None:
        """Opens a device again without waiting for it."""
        if self._attempt is None:
            if now >= self._retry_at:
                self._retry_at = now + self._retry_s
                self._attempt = self._caller.start(self._reopen, quiet=self._quiet)
        elif self._attempt.done():
            attempt, self._attempt = self._attempt, None
            with contextlib.suppress(DeviceError):  # told once, when it was lost
                self._opened = attempt.result()
                self._ring = self._opened.ring
                self._timeline.begin(self._ring.rate)

    def _returned(self, jump: int, detail: str = "sound comes again") -> list[Block | Device]:
        self._state = "live"
        return self._gap(jump, "reopened", detail)

    def _gap(
        self,
        jump: int,
        what: Literal["gap", "reopened"] = "gap",
        detail: str = "the device left out sound",
    ) -> list[Block | Device]:
        """Tells of `jump` samples that the timeline leaves out from here on."""
        self._n_gaps += jump > 0
        self._n_gap_samples += jump
        return [self._device(what, jump / SAMPLE_RATE, detail)]

    def _device(
        self,
        what: Literal["stalled", "lost", "reopened", "gap", "dropped"],
        lost_s: float = 0.0,
        detail: str = "",
    ) -> Device:
        at_s = self._timeline.end / SAMPLE_RATE
        return Device(what=what, at_s=at_s, name=self.name, lost_s=lost_s, detail=detail)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One callback's samples, and where they stand among the stream's."""

    pcm: I16  # [n_samples], at the device's rate
    start: int
    time: float

    @property
    def end(self) -> int:
        return self.start + len(self.pcm)


class _Ring:
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

    def take(self) -> list[_Piece]:
        """Everything not yet read and still there."""
        n_slots, n_put = len(self._pcm), self.n_put
        first = max(self._next, n_put + 1 - n_slots)
        pieces: list[tuple[int, _Piece]] = []
        for block in range(first, n_put):
            slot = block % n_slots
            pcm = self._pcm[slot, : self._sizes[slot]].copy()
            piece = _Piece(pcm, int(self._starts[slot]), float(self._times[slot]))
            pieces.append((block, piece))
        oldest = self.n_put + 1 - n_slots
        kept = [(block, piece) for block, piece in pieces if block >= oldest]
        for block, piece in kept:
            self.n_dropped_blocks += block - self._next
            self.n_dropped += piece.start - self._read_to
            self.n_taken += len(piece.pcm)
            self._next, self._read_to = block + 1, piece.end
        return [piece for _, piece in kept]


@dataclass(frozen=True, slots=True)
class _Opened:
    ring: _Ring
    device: InputDevice
    detail: str


@dataclass(frozen=True, slots=True)
class _Tally:
    """Sums over streams."""

    captured: int = 0
    taken: int = 0
    dropped: int = 0
    dropped_blocks: int = 0
    overflows: int = 0
    worst_interval_s: float = 0.0

    def plus(self, ring: _Ring) -> _Tally:
        return _Tally(
            self.captured + ring.n_captured,
            self.taken + ring.n_taken,
            self.dropped + ring.n_dropped,
            self.dropped_blocks + ring.n_dropped_blocks,
            self.overflows + ring.n_overflows,
            max(self.worst_interval_s, ring.worst_interval_s),
        )


class _Timeline:
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
        self._ready: list[_Piece] = []
        self._held: list[_Piece] = []
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

    def join(self, piece: _Piece) -> int:
        """Places a later stream by its first piece; how many samples are missing before it."""
        if self._anchor is None:
            return 0
        begun = (piece.time - self._anchor) * SAMPLE_RATE - piece.end * self._scale
        self._origin = max(float(self.end), round(begun))
        return round(self._origin) - self.end

    def skip(self, piece: _Piece) -> int:
        """How many of the stream's samples are missing before the piece."""
        missing = piece.start - self._seen
        if missing:
            self._ready += self._held  # their place is before what is missing
            self._held = []
        return missing

    def add(self, piece: _Piece) -> None:
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


class _Caller:
    """The one thread that calls PortAudio, and the streams that it has open."""

    def __init__(self) -> None:
        self.streams: set[Any] = set()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any], bool]]
        self._jobs = queue.SimpleQueue()
        self._silence = _Silence()
        # A daemon: a call that hangs must not keep the process from ending.
        threading.Thread(target=self._run, name="kokanee-portaudio", daemon=True).start()

    def start(self, job: Callable[[], T], *, quiet: bool) -> Future[T]:
        """Has it done after everything before it."""
        future: Future[T] = Future()
        self._jobs.put((job, future, quiet))
        return future

    def ask(self, job: Callable[[], T], limit_s: float, *, quiet: bool) -> T:
        """Has it done and waits for it.

        Raises:
            DeviceError: If it is not done in time; it is done nevertheless if it ever can be.
        """
        try:
            return self.start(job, quiet=quiet).result(limit_s)
        except TimeoutError:
            self._silence.lift()
            raise DeviceError(
                f"the sound system did not answer within {limit_s:g} s; restart it (on Linux:"
                " systemctl --user restart pipewire pulseaudio) and try again"
            ) from None

    def rescan(self) -> None:
        """Has PortAudio look at the devices anew; in this thread only.

        It ends every stream of the process, so it is left out while another Microphone has one.
        """
        if not self.streams and "sounddevice" in sys.modules:
            sd = _sounddevice()
            try:
                if sd._initialized:
                    sd._terminate()
                sd._initialize()
            except sd.PortAudioError as error:
                raise DeviceError(f"PortAudio does not start ({_reason(error)})") from None

    def leave(self) -> None:
        """Ends all streams at exit, lest sounddevice's handler wait for ever for a dead daemon."""
        try:
            self.ask(self._abort_all, CLOSE_S, quiet=True)
        except DeviceError:
            atexit.unregister(_sounddevice()._exit_handler)

    def _abort_all(self) -> None:
        for stream in list(self.streams):
            stream.abort()
            stream.close()
        self.streams.clear()

    def _run(self) -> None:
        while True:
            job, future, quiet = self._jobs.get()
            try:
                with self._silence if quiet else contextlib.nullcontext():
                    result = job()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del job, future  # nothing is kept alive while waiting for the next


@functools.cache
def _caller() -> _Caller:
    """One for the process, as PortAudio is."""
    return _Caller()


class _Silence:
    """File descriptor 2 led to nowhere: C code writes there, over whatever the terminal shows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._saved: int | None = None

    def __enter__(self) -> None:
        with self._lock, contextlib.suppress(OSError):  # closed in services: nothing to silence
            self._saved = os.dup(2)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)

    def lift(self) -> None:
        """Restores it although the call hangs, which holds it silent."""
        with self._lock, contextlib.suppress(OSError):
            if self._saved is not None:
                os.dup2(self._saved, 2)

    def __exit__(self, *_: object) -> None:
        self.lift()  # again: sounddevice, having hung, has put back what it had found
        with self._lock:
            if self._saved is not None:
                os.close(self._saved)
            self._saved = None


def _sounddevice() -> Any:
    """The package, imported when it is first needed, since importing it starts PortAudio."""
    try:
        import sounddevice
    except ImportError:
        raise DeviceError(
            "recording needs the sounddevice package; run: pip install 'kokanee[mic]'"
        ) from None
    except OSError as error:
        remedy = "run: apt-get install libportaudio2 (or your system's package of that library)"
        if sys.platform != "linux":
            remedy = "run: pip install --force-reinstall sounddevice"
        raise DeviceError(f"the PortAudio library is missing ({error}); {remedy}") from None
    _guard_exit()
    return sounddevice


@functools.cache
def _guard_exit() -> None:
    """Once, and after sounddevice has registered its own handler: the last one runs first."""
    atexit.register(_caller().leave)


def _inputs(sd: Any) -> list[InputDevice]:
    try:
        found, apis = sd.query_devices(), sd.query_hostapis()
        default = sd.default.device[0]
    except sd.PortAudioError as error:
        raise DeviceError(f"devices cannot be listed ({_reason(error)})") from None
    return [
        InputDevice(
            index=info["index"],
            name=info["name"],
            host_api=apis[info["hostapi"]]["name"],
            n_channels=info["max_input_channels"],
            rate=info["default_samplerate"],
            is_default=info["index"] == default,
        )
        for info in found
        if info["max_input_channels"] > 0
    ]


def _pick(devices: list[InputDevice], wanted: int | str | None) -> InputDevice:
    """The device that an index or a name means, and no other."""
    if not devices:
        raise DeviceError(f"no microphone was found: {_why_none()}")
    if wanted is None:
        return next((device for device in devices if device.is_default), devices[0])
    if isinstance(wanted, int):
        matching = [device for device in devices if device.index == wanted]
    else:
        part = wanted.casefold()
        matching = (
            [device for device in devices if wanted in (device.name, device.label)]
            or [device for device in devices if part in (device.name.casefold(), device.label)]
            or [device for device in devices if part in device.label.casefold()]
        )
    if len(matching) == 1:
        return matching[0]
    fault = "several microphones match" if matching else "there is no microphone"
    listed = "; ".join(f"{d.index}: {d.label}" for d in matching or devices)
    raise DeviceError(f"{fault} {wanted!r}; choose one of these by its index or name: {listed}")


def _reason(error: Exception | None) -> str:
    return str(error).strip().rstrip(".") or "no reason given"


def _why_refused(device: InputDevice, error: Exception | None) -> str:
    """What to do about a device that is there and does not open."""
    code = error.args[1] if error is not None and len(error.args) > 1 else None
    if code == -9985:  # paDeviceUnavailable
        remedy = "another program has it: end that one, or choose another microphone"
    elif sys.platform == "darwin":
        remedy = "allow this terminal in System Settings, Privacy & Security, Microphone"
    elif sys.platform == "win32":
        remedy = "allow desktop apps in Settings, Privacy & security, Microphone"
    else:
        remedy = "see that it is plugged in and the sound server runs, or choose another microphone"
    return f"{device.label} does not open ({_reason(error)}); {remedy}"


def _why_none() -> str:
    """The likeliest of the reasons for an empty list, which PortAudio does not tell apart."""
    if sys.platform == "darwin":
        return "plug one in, and allow this terminal in System Settings, Privacy & Security"
    if sys.platform == "win32":
        return "plug one in, and allow desktop apps in Settings, Privacy & security, Microphone"
    refused: Path | None = None
    for path in _sound_servers():
        match _answers(path):
            case True:
                return (
                    f"the sound server at {path} runs, but ALSA does not lead to it or it has no"
                    " source; run: apt-get install libasound2-plugins, and plug one in"
                )
            case None:
                refused = refused or path
    if refused is not None:
        return f"this user may not use the sound server at {refused}; run as the user who owns it"
    cards = sorted(Path("/dev/snd").glob("pcmC*D*c"))
    if cards and not any(os.access(card, os.R_OK | os.W_OK) for card in cards):
        return (
            f"this user may not use {cards[0]}; run: sudo usermod -aG audio $USER, and log in again"
        )
    if cards:
        return f"{cards[0]} is there, but not usable; another program may have it: end that one"
    return (
        "neither a sound card that records (/dev/snd) nor a sound server (PulseAudio, PipeWire) is"
        " here; plug one in, or start the server; in a container, pass --device /dev/snd"
    )


def _sound_servers() -> Iterator[Path]:
    """Where a sound server's socket would be."""
    named = os.environ.get("PULSE_SERVER", "").removeprefix("unix:")
    if named.startswith("/"):
        yield Path(named)
    if folder := os.environ.get("PULSE_RUNTIME_PATH"):
        yield Path(folder) / "native"
    if folder := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(folder) / "pulse" / "native"
        yield Path(folder) / "pipewire-0"


def _answers(path: Path) -> bool | None:
    """Whether something listens at a socket; None if it may not be asked."""
    if not hasattr(socket, "AF_UNIX"):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(str(path))
        except PermissionError:
            return None
        except OSError:
            return False
    return True
