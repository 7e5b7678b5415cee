"""The microphone's decisions, on a sound card and a clock that do as they are told."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kokanee.engine import DeviceError
from kokanee.engine.audio import resample
from kokanee.runtime import microphone, portaudio
from kokanee.runtime.microphone import Microphone
from kokanee.runtime.portaudio import InputDevice, list_devices, portaudio_caller
from kokanee.runtime.sources import Block
from kokanee.runtime.timeline import Ring
from kokanee.runtime.updates import Device

I16 = npt.NDArray[np.int16]


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class PortAudioError(Exception):
    pass


class Stream:
    """An opened stream of the card."""

    def __init__(self, card: Card, options: dict[str, Any]) -> None:
        self.card, self.options = card, options
        self.rate: int = options["samplerate"]
        self.n_block: int = options["blocksize"]
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        raise AssertionError("stop() can hang for ever")

    def abort(self) -> None:
        self.calls.append("abort")
        self.card.answers.wait()

    def close(self) -> None:
        self.calls.append("close")

    def deliver(self, pcm: I16, *, at_once: bool = False, card_runs: float = 1.0) -> None:
        """Calls back with whole blocks; time passes as the card's clock says."""
        for at in range(0, len(pcm) - self.n_block + 1, self.n_block):
            if not at_once:
                self.card.clock.now += self.n_block / self.rate / card_runs
            frames = np.zeros((self.n_block, self.options["channels"]), np.int16)
            frames[:, 0] = pcm[at : at + self.n_block]
            self.options["callback"](frames, self.n_block, None, self.card.status)

    def die(self) -> None:
        self.options["finished_callback"]()


class Card:
    """Stands for the sounddevice module."""

    PortAudioError = PortAudioError

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.status = SimpleNamespace(input_overflow=False)
        self.names = ["USB mic", "Built-in", "Built-out"]
        self.rates: set[int] | None = None  # None: any
        self.n_least = 1  # channels
        self.streams: list[Stream] = []
        self.log: list[str] = []
        self.answers = threading.Event()
        self.answers.set()
        self._initialized = 1

    @property
    def default(self) -> SimpleNamespace:
        names = self.names
        return SimpleNamespace(device=[names.index("Built-in") if "Built-in" in names else -1, -1])

    def query_devices(self) -> list[dict[str, Any]]:
        self.answers.wait()
        return [
            {
                "index": index,
                "name": name,
                "hostapi": 0,
                "max_input_channels": 0 if name == "Built-out" else 4,
                "default_samplerate": 48_000.0,
            }
            for index, name in enumerate(self.names)
        ]

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "ALSA"}]

    def InputStream(self, **options: Any) -> Stream:  # noqa: N802 - sounddevice's name
        name = self.names[options["device"]]
        self.log.append(f"open {name}")
        if self.rates is not None and options["samplerate"] not in self.rates:
            raise PortAudioError("Invalid sample rate", -9997)
        if options["channels"] < self.n_least:
            raise PortAudioError("Invalid number of channels", -9998)
        self.streams.append(Stream(self, options))
        return self.streams[-1]

    def _terminate(self) -> None:
        self.log.append("rescan")

    def _initialize(self) -> None:
        pass

    def _exit_handler(self) -> None:
        pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def card(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    card = Card(clock)
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    monkeypatch.setattr(portaudio, "_guard_exit", lambda: None)
    portaudio_caller.cache_clear()
    yield card
    card.answers.set()
    portaudio_caller.cache_clear()


def sound(seconds: float, rate: int = 16_000) -> I16:
    loud = np.random.default_rng(0).integers(-32768, 32768, round(seconds * rate))
    return np.asarray(loud, np.int16)


def read(mic: Microphone) -> list[Block | Device]:
    got = mic.read(0)
    assert got is not None
    return got


def told(items: list[Block | Device]) -> list[Device]:
    return [item for item in items if isinstance(item, Device)]


def blocks(items: list[Block | Device]) -> list[Block]:
    return [item for item in items if isinstance(item, Block)]


def until(mic: Microphone, condition: Callable[[], bool]) -> list[Block | Device]:
    """Reads until the caller's thread has come so far."""
    out: list[Block | Device] = []
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        out += read(mic)
        time.sleep(0.001)
    return out + read(mic)


def test_samples_arrive_unchanged_and_in_their_place(card: Card, clock: Clock) -> None:
    pcm = sound(0.1)
    with Microphone(clock=clock) as mic:
        assert read(mic) == [
            Device(what="opened", at_s=0.0, name="Built-in", detail="16000 Hz, 1 channel")
        ]
        card.streams[0].deliver(pcm[:640])
        (first,) = blocks(read(mic))
        card.streams[0].deliver(pcm[640:])
        (second,) = blocks(read(mic))
    heard = np.concatenate([first.pcm, second.pcm])
    assert heard.dtype == np.float32
    assert np.array_equal(heard, pcm.astype(np.float32) / 32768)
    assert (first.start, second.start) == (0, 640)
    assert first.heard_at == pytest.approx(100.04)
    assert second.heard_at == clock.now
    assert mic.counters.captured == mic.counters.delivered == 1600
    assert card.streams[0].calls == ["start", "abort", "close"]


@pytest.mark.parametrize("rate", [48_000, 44_100])
def test_a_device_that_refuses_16_khz_is_resampled_as_a_file_is(
    card: Card, clock: Clock, rate: int
) -> None:
    card.rates = {rate}
    pcm = sound(1.0, rate)
    with Microphone(clock=clock) as mic:
        stream = card.streams[0]
        got = []
        for part in np.split(pcm, [stream.n_block * 7, stream.n_block * 8, stream.n_block * 30]):
            stream.deliver(part)
            got += blocks(read(mic))
        stream.die()
        got += blocks(read(mic))  # the resampler's tail
    heard = np.concatenate([block.pcm for block in got])
    assert np.array_equal(heard, resample(pcm.astype(np.float32) / np.float32(32768), rate))
    assert [block.start for block in got] == [
        0,
        *np.cumsum([len(block.pcm) for block in got])[:-1],
    ]


def test_a_device_that_refuses_mono_gives_its_first_channel(card: Card, clock: Clock) -> None:
    card.n_least = 4
    pcm = sound(0.02)
    with Microphone(clock=clock) as mic:
        assert told(read(mic))[0].detail == "16000 Hz, 4 channels"
        card.streams[0].deliver(pcm)
        (block,) = blocks(read(mic))
    assert np.array_equal(block.pcm * 32768, pcm)


def test_sound_that_is_late_is_not_lost(card: Card, clock: Clock) -> None:
    pcm = sound(2.0)
    with Microphone(clock=clock) as mic:
        card.streams[0].deliver(pcm[:3200])
        got = read(mic)
        clock.now += 0.7
        card.streams[0].deliver(pcm[3200:3520], at_once=True)
        assert read(mic) == []  # not known yet
        assert (mic.counters.delivered, mic.counters.unread) == (3200, 320)
        assert mic.counters.backlog_ms == pytest.approx(680)
        card.streams[0].deliver(pcm[3520:16000], at_once=True)
        card.streams[0].deliver(pcm[16000:])
        got += read(mic)
    assert np.array_equal(np.concatenate([b.pcm for b in blocks(got)]) * 32768, pcm)
    assert [device.what for device in told(got)] == ["opened"]
    assert mic.counters.gaps == 0


def test_sound_that_does_not_catch_up_is_a_gap(card: Card, clock: Clock) -> None:
    with Microphone(clock=clock) as mic:
        card.streams[0].deliver(sound(1.0))
        read(mic)
        clock.now += 0.7
        got = []
        for _ in range(50):
            card.streams[0].deliver(sound(0.02))
            got += read(mic)
    (gap,) = told(got)
    assert (gap.what, gap.at_s) == ("gap", 1.0)
    assert gap.lost_s == pytest.approx(0.7)
    first = blocks(got)[0]
    assert got.index(gap) < got.index(first)
    assert first.start == 16_000 + 11_200
    assert blocks(got)[-1].start == 16_000 + 11_200 + 49 * 320
    assert mic.counters.gap_s == gap.lost_s


def test_sound_that_comes_unevenly_is_late_and_not_lost(card: Card, clock: Clock) -> None:
    """Threads that fight for the interpreter once made it a gap, and the recording 0.6 s longer."""
    pcm = sound(6.0)
    with Microphone(clock=clock) as mic:
        stream = card.streams[0]
        stream.deliver(pcm[:16_000])
        got = read(mic)
        clock.now += 0.3
        for at in range(16_000, 80_000, 1600):  # behind by 0.3 to 0.4 s for 4 s
            clock.now += 0.1
            stream.deliver(pcm[at : at + 1600], at_once=True)
            got += read(mic)
            last = blocks(got)[-1]
            assert clock.now - 100 - (last.start + len(last.pcm)) / 16_000 < 2.6
        stream.deliver(pcm[80_000:], at_once=True)
        got += read(mic)
    assert [device.what for device in told(got)] == ["opened"]
    assert np.array_equal(np.concatenate([b.pcm for b in blocks(got)]) * 32768, pcm)


def test_a_burst_at_the_beginning_hides_no_loss(card: Card, clock: Clock) -> None:
    with Microphone(clock=clock) as mic:
        card.streams[0].deliver(sound(0.2), at_once=True)
        card.streams[0].deliver(sound(1.0))
        clock.now += 0.3
        card.streams[0].deliver(sound(1.0))
        read(mic)
        assert mic.counters.gap_s == pytest.approx(0.3, abs=0.002)


def test_a_clock_a_little_wrong_loses_nothing(card: Card, clock: Clock) -> None:
    for card_runs in (0.9991, 1.0009):
        with Microphone(clock=clock) as mic:
            for _ in range(60):
                card.streams[-1].deliver(np.zeros(6 * 16_000, np.int16), card_runs=card_runs)
                assert not [device for device in told(read(mic)) if device.what != "opened"]
            assert mic.counters.captured == 5_760_000  # six minutes, off by 0.32 s


def test_steady_loss_is_told_of(card: Card, clock: Clock) -> None:
    with Microphone(clock=clock) as mic:
        for _ in range(10):
            card.streams[0].deliver(np.zeros(6 * 16_000, np.int16), card_runs=0.98)
            read(mic)
        assert 0.8 < mic.counters.gap_s < 1.3  # of 1.2 s


def test_a_stalled_device_is_given_time_then_opened_again(card: Card, clock: Clock) -> None:
    with Microphone("USB mic", clock=clock) as mic:
        card.streams[0].deliver(sound(1.0))
        read(mic)
        clock.now += 0.85
        assert read(mic) == []
        clock.now += 0.2
        (stalled,) = told(read(mic))
        assert (stalled.what, stalled.at_s) == ("stalled", 1.0)
        clock.now += 1.5
        assert read(mic) == []
        assert card.streams[0].calls == ["start"]
        clock.now += 0.5
        (lost,) = told(read(mic))
        assert (lost.what, lost.at_s, lost.name) == ("lost", 1.0, "USB mic")
        assert "every 2 s" in lost.detail
        until(mic, lambda: mic._ring is not None)
        assert card.streams[0].calls == ["start", "abort", "close"]
        assert card.log == ["open USB mic", "rescan", "open USB mic"]
        clock.now += 0.05
        card.streams[1].deliver(sound(0.5))
        reopened, block = read(mic)
    assert isinstance(reopened, Device)
    assert isinstance(block, Block)
    assert (reopened.what, reopened.at_s, reopened.name) == ("reopened", 1.0, "USB mic")
    assert reopened.lost_s == pytest.approx(0.85 + 0.2 + 1.5 + 0.5 + 0.05)
    assert block.start == round((1.0 + reopened.lost_s) * 16_000)
    assert (mic.counters.stalls, mic.counters.reopened, mic.counters.gaps) == (1, 1, 1)


def test_a_device_that_comes_back_at_another_rate_goes_on_at_16_khz(
    card: Card, clock: Clock
) -> None:
    pcm = sound(1.0, 48_000)
    with Microphone("USB mic", clock=clock) as mic:
        card.streams[0].deliver(sound(1.0))
        read(mic)
        card.rates = {48_000}
        card.streams[0].die()
        assert [device.what for device in told(read(mic))] == ["lost"]
        until(mic, lambda: mic._ring is not None)
        clock.now += 0.5
        card.streams[1].deliver(pcm)
        got = read(mic)
        card.streams[1].die()
        got += read(mic)  # the resampler's tail
    (reopened,) = (device for device in told(got) if device.what == "reopened")
    assert "48000" in reopened.detail
    assert reopened.lost_s == pytest.approx(0.5, abs=0.05)
    heard = np.concatenate([block.pcm for block in blocks(got)])
    assert np.array_equal(heard, resample(pcm.astype(np.float32) / np.float32(32768), 48_000))
    assert blocks(got)[0].start == round((1.0 + reopened.lost_s) * 16_000)


def test_a_stalled_device_that_was_only_late_comes_back_whole(card: Card, clock: Clock) -> None:
    pcm = sound(3.0)
    with Microphone(clock=clock) as mic:
        card.streams[0].deliver(pcm[:16_000])
        read(mic)
        clock.now += 0.9
        assert read(mic) == []
        clock.now += 0.3
        assert [device.what for device in told(read(mic))] == ["stalled"]
        card.streams[0].deliver(pcm[16_000:32_000], at_once=True)
        reopened, block = read(mic)
    assert isinstance(reopened, Device)
    assert (reopened.what, reopened.lost_s) == ("reopened", 0.0)
    assert isinstance(block, Block)
    assert block.start == 16_000
    assert np.array_equal(block.pcm * 32768, pcm[16_000:32_000])
    assert mic.counters.reopened == 0  # it never was closed


def test_a_process_that_was_stopped_does_not_blame_the_device(card: Card, clock: Clock) -> None:
    with Microphone(clock=clock) as mic:
        card.streams[0].deliver(sound(1.0))
        read(mic)
        clock.now += 60
        assert read(mic) == []
        card.streams[0].deliver(sound(1.0))
        assert [device.what for device in told(read(mic))] == ["gap"]
        assert len(card.streams) == 1


def test_the_default_takes_over_from_a_device_that_is_gone(card: Card, clock: Clock) -> None:
    with Microphone("USB mic", clock=clock) as mic:
        card.streams[0].deliver(sound(1.0))
        card.names = ["Built-out"]
        card.streams[0].die()
        assert [device.what for device in told(read(mic))] == ["opened", "lost"]
        until(mic, lambda: mic._attempt is None)
        assert card.log == ["open USB mic", "rescan"]
        clock.now += 1.9
        read(mic)
        assert card.log == ["open USB mic", "rescan"]  # not yet again
        card.names = ["Built-out", "Built-in"]
        clock.now += 0.2
        until(mic, lambda: mic._ring is not None)
        assert card.log[2:] == ["rescan", "open Built-in"]
        card.streams[1].deliver(sound(0.1))
        assert told(read(mic))[0].name == mic.name == "Built-in"
        # The device that was asked for is still tried first.
        card.names = ["USB mic", "Built-in"]
        card.streams[1].die()
        until(mic, lambda: len(card.streams) == 3 and mic._ring is not None)
        assert card.log[4:] == ["rescan", "open USB mic"]


def test_a_device_that_opens_but_stays_mute_is_tried_again(card: Card, clock: Clock) -> None:
    with Microphone(clock=clock) as mic:
        card.streams[0].deliver(sound(1.0))
        card.streams[0].die()
        until(mic, lambda: len(card.streams) == 2 and mic._ring is not None)
        clock.now += 2.5
        assert read(mic) == []
        clock.now += 0.7
        assert read(mic) == []  # told already that it was lost
        assert mic._attempt is None  # not yet again
        clock.now += 2.1
        until(mic, lambda: len(card.streams) == 3 and mic._ring is not None)
        card.streams[2].deliver(sound(0.1))
        assert [device.what for device in told(read(mic))] == ["reopened"]


def test_another_microphone_is_not_ended_by_a_rescan(card: Card, clock: Clock) -> None:
    with Microphone("USB mic", clock=clock) as mic, Microphone("Built-in", clock=clock) as other:
        card.streams[0].die()
        until(mic, lambda: len(card.streams) == 3 and mic._ring is not None)
        assert "rescan" not in card.log
        assert list_devices(rescan=True)[0].name == "USB mic"
        assert "rescan" not in card.log
        assert [device.what for device in told(read(other))] == ["opened"]


def test_what_the_ring_cannot_hold_is_counted_and_the_newest_kept(card: Card, clock: Clock) -> None:
    pcm = sound(3.0)
    with Microphone(clock=clock, buffer_s=1.0) as mic:
        card.streams[0].deliver(pcm[:3200])
        read(mic)
        card.streams[0].deliver(pcm[3200:])
        dropped, block = read(mic)
    assert dropped == Device(
        what="dropped", at_s=0.2, name="Built-in", lost_s=1.8, detail="nobody read it in time"
    )
    assert isinstance(block, Block)
    assert block.start == 32_000
    assert np.array_equal(block.pcm * 32768, pcm[32_000:])
    counters = mic.counters
    assert (counters.captured, counters.delivered, counters.dropped) == (48_000, 19_200, 28_800)
    assert (counters.dropped_blocks, counters.unread) == (90, 0)


def test_sound_kept_back_is_not_lost_when_the_ring_runs_over(card: Card, clock: Clock) -> None:
    pcm = sound(3.0)
    with Microphone(clock=clock, buffer_s=1.0) as mic:
        card.streams[0].deliver(pcm[:3200])
        got = read(mic)
        clock.now += 0.7
        card.streams[0].deliver(pcm[3200:3520])
        assert read(mic) == []
        card.streams[0].deliver(pcm[3520:])
        got += read(mic)
    assert [device.what for device in told(got)] == ["opened", "dropped", "gap"]
    heard = np.concatenate([block.pcm for block in blocks(got)]) * 32768
    assert np.array_equal(heard, np.concatenate([pcm[:3520], pcm[32_000:]]))
    assert blocks(got)[-1].start == 32_000 + 11_200
    assert mic.counters.delivered == len(heard)
    assert mic.counters.unread == 0


def test_blocks_overwritten_while_they_are_copied_are_thrown_away() -> None:
    ring = Ring(16_000, 0.1, lambda: None, time.monotonic)
    n_put = 0

    def put(n: int) -> None:
        nonlocal n_put
        for _ in range(n):
            ring.put(np.full((320, 1), n_put, np.int16), 320, None, None)
            n_put += 1

    class Meddler:
        """The reader reads sizes first: the writer comes on at the third."""

        def __init__(self, sizes: npt.NDArray[np.int64]) -> None:
            self.sizes, self.n_read = sizes, 0

        def __getitem__(self, slot: int) -> int:
            self.n_read += 1
            if self.n_read == 3:
                put(3)
            return int(self.sizes[slot])

        def __setitem__(self, slot: int, size: int) -> None:
            self.sizes[slot] = size

    put(5)
    ring._sizes = Meddler(ring._sizes)  # type: ignore[assignment]
    pieces = ring.take()
    assert [piece.start // 320 for piece in pieces] == [3, 4]
    assert all(np.all(piece.pcm == piece.start // 320) for piece in pieces)
    assert (ring.n_dropped_blocks, ring.n_dropped, ring.n_taken) == (3, 960, 640)
    assert [piece.start // 320 for piece in ring.take()] == [5, 6, 7]


def test_a_writer_that_overtakes_the_reader_corrupts_nothing() -> None:
    """Every block that is read is whole, whatever is written while it is copied."""
    ring = Ring(16_000, 0.1, lambda: None, time.monotonic)
    n_blocks = 4000

    def write() -> None:
        for k in range(n_blocks):
            ring.put(np.full((320, 1), k, np.int16), 320, None, None)

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while writer.is_alive() or ring._next < n_blocks:
        for piece in ring.take():
            assert np.all(piece.pcm == piece.start // 320)
            seen.append(piece.start // 320)
    writer.join()
    assert seen == sorted(set(seen))
    assert seen[-1] == n_blocks - 1
    assert len(seen) + ring.n_dropped_blocks == n_blocks


def test_flagged_overflows_and_late_callbacks_are_counted(card: Card, clock: Clock) -> None:
    with Microphone(clock=clock) as mic:
        card.streams[0].deliver(sound(0.1))
        card.status.input_overflow = True
        clock.now += 0.1
        card.streams[0].deliver(sound(0.04))
        assert mic.counters.overflows == 2
        assert mic.counters.worst_interval_ms == pytest.approx(120)


def test_close_ends_a_read_that_waits(card: Card, clock: Clock) -> None:
    mic = Microphone(clock=clock)
    read(mic)
    closer = threading.Timer(0.02, mic.close)
    closer.start()
    begun = time.monotonic()
    assert mic.read(10) is None
    assert time.monotonic() - begun < 2
    closer.join()
    mic.close()
    assert mic.read(10) is None


def test_nobody_waits_for_a_device_that_does_not_answer(
    card: Card, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is file descriptor 2 silent for as long as it hangs."""
    monkeypatch.setattr(microphone, "CLOSE_S", 0.05)
    monkeypatch.setattr(microphone, "OPEN_S", 0.05)
    before = os.fstat(2)
    mic = Microphone(clock=clock)
    card.answers.clear()
    begun = time.monotonic()
    mic.close()
    assert mic.read(10) is None
    with pytest.raises(DeviceError, match=r"did not answer within 0\.05 s; restart it"):
        Microphone(clock=clock)
    assert time.monotonic() - begun < 2
    assert os.path.samestat(os.fstat(2), before)
    card.answers.set()
    assert len(list_devices()) == 2  # all is well again
    assert len(card.streams) == 1 or card.streams[1].calls == ["start", "abort", "close"]
    assert os.path.samestat(os.fstat(2), before)


def test_what_opens_after_close_is_closed(
    card: Card, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microphone, "CLOSE_S", 0.05)
    mic = Microphone(clock=clock)
    card.answers.clear()
    card.streams[0].die()
    read(mic)
    mic.close()
    card.answers.set()
    list_devices()  # after everything before it
    assert all(stream.calls == ["start", "abort", "close"] for stream in card.streams)
    assert not mic._caller.streams


def test_devices_are_listed_as_they_are(card: Card) -> None:
    assert list_devices() == [
        InputDevice(
            index=index,
            name=name,
            host_api="ALSA",
            n_channels=4,
            rate=48_000.0,
            is_default=name == "Built-in",
        )
        for index, name in enumerate(["USB mic", "Built-in"])
    ]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [(None, "Built-in"), (0, "USB mic"), ("USB mic", "USB mic"), ("usb", "USB mic"),
     ("usb MIC, alsa", "USB mic"), ("Built", "Built-in")],
)  # fmt: skip
def test_a_device_is_chosen(card: Card, clock: Clock, wanted: int | str | None, name: str) -> None:
    with Microphone(wanted, clock=clock) as mic:
        assert mic.name == name


@pytest.mark.parametrize(
    ("wanted", "message"),
    [(2, r"there is no microphone 2; choose one of these by its index or name: "
         r"0: USB mic, ALSA; 1: Built-in, ALSA"),
     ("Built-out", "there is no microphone 'Built-out'; choose one of these"),
     ("alsa", "several microphones match 'alsa'; choose one of these by .*: 0: USB mic, ALSA; 1:")],
)  # fmt: skip
def test_a_choice_that_means_no_single_device_is_refused(
    card: Card, wanted: int | str, message: str
) -> None:
    with pytest.raises(DeviceError, match=message):
        Microphone(wanted)


def test_an_exact_name_wins_over_a_part_of_another(card: Card, clock: Clock) -> None:
    card.names = ["USB mic 2", "USB mic"]
    with Microphone("USB mic", clock=clock) as mic:
        assert card.streams[0].options["device"] == 1
        assert mic.name == "USB mic"


def test_a_device_that_refuses_everything_is_named_with_its_reason(card: Card) -> None:
    card.rates = set()
    with pytest.raises(DeviceError, match=r"Built-in, ALSA does not open \(.*Invalid sample rate"):
        Microphone()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(DeviceError, match=r"pip install 'kokanee\[mic\]'"):
        Microphone()


def test_a_missing_portaudio_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(DeviceError, match="apt-get install libportaudio2"):
        list_devices()


@pytest.fixture
def servers(card: Card, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder where sound servers are looked for, on a machine without devices."""
    card.names = []
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("PULSE_SERVER", "PULSE_RUNTIME_PATH"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def test_without_devices_a_running_server_is_asked_for_its_plugin(servers: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(servers / "pipewire-0"))
        server.listen()
        with pytest.raises(DeviceError, match=r"pipewire-0 runs, .*libasound2-plugins"):
            Microphone()


def test_without_devices_a_forbidden_server_is_named(
    servers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portaudio, "_answers", lambda path: None)
    with pytest.raises(DeviceError, match=r"may not use the sound server at .*native; run as"):
        Microphone()


@pytest.mark.parametrize(
    ("usable", "message"),
    [(False, "sudo usermod -aG audio"), (True, "another program may have it")],
)
def test_without_devices_a_card_is_named(
    servers: Path, monkeypatch: pytest.MonkeyPatch, usable: bool, message: str
) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [self / "pcmC0D0c"])
    monkeypatch.setattr(os, "access", lambda path, mode: usable)
    with pytest.raises(DeviceError, match=message):
        Microphone()


def test_without_anything_every_cause_is_named(
    servers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [])
    with pytest.raises(DeviceError, match=r"neither a sound card .* nor a sound server"):
        Microphone()


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"buffer_s >= 0\.1"):
        Microphone(buffer_s=0.0)
