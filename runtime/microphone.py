"""A microphone as a source: blocks of 16 kHz in order, every lost stretch stated, never a hang.

    PortAudio's thread      callback: copy, stamp, count
                                |
                             Ring       the newest 30 s, at the device's rate    timeline.py
                                |
    the reader's thread     read(): watchdog; Timeline: late or lost?; soxr -> Block, Device
                                |
    Caller's thread         open, abort, close, rescan                           portaudio.py

A device tells little: PulseAudio flags no overflow, a stalled device nothing at all.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from kokanee.engine import DeviceError
from kokanee.engine.features import SAMPLE_RATE

from .portaudio import (
    CLOSE_S,
    OPEN_S,
    InputDevice,
    inputs,
    load_sounddevice,
    pick,
    portaudio_caller,
    why_refused,
)
from .sources import Block
from .timeline import Ring, Timeline
from .updates import Device

FIRST_S = 3.0  # in which an opened device must deliver; a cold PulseAudio sink takes 1.6 s


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
        self._caller = portaudio_caller()
        self._stream: Any = None  # touched by the caller's thread only
        self._state: Literal["live", "stalled", "lost"] = "live"
        self._attempt: Future[_Opened] | None = None
        self._retry_at = 0.0
        self._suspect_since: float | None = None
        self._past = _Tally()
        self._n_gaps = self._n_stalls = self._n_reopened = 0
        self._n_gap_samples = 0
        self._timeline = Timeline()
        try:
            opened = self._caller.ask(lambda: self._open(device), OPEN_S, quiet=quiet_c_stderr)
        except BaseException:
            self._closed = True
            self._caller.start(self._shut, quiet=quiet_c_stderr)  # should it still open
            raise
        self._opened = opened
        # Indices change with every rescan, labels do not.
        self._wanted = None if device is None else opened.device.label
        self._ring: Ring | None = opened.ring
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
        sd = load_sounddevice()
        device = pick(inputs(sd), wanted)
        own = round(device.rate)
        channels = sorted({1, min(2, device.n_channels), device.n_channels})
        first: Exception | None = None
        for n_channels in channels:
            for rate in dict.fromkeys((SAMPLE_RATE, own, 48_000, 44_100)):
                ring = Ring(rate, self._buffer_s, self._wake.set, self._clock)
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
        raise DeviceError(why_refused(device, first))

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
class _Opened:
    ring: Ring
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

    def plus(self, ring: Ring) -> _Tally:
        return _Tally(
            self.captured + ring.n_captured,
            self.taken + ring.n_taken,
            self.dropped + ring.n_dropped,
            self.dropped_blocks + ring.n_dropped_blocks,
            self.overflows + ring.n_overflows,
            max(self.worst_interval_s, ring.worst_interval_s),
        )
