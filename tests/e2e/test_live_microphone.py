"""The microphone on a real sound daemon: what is lost, what is late, and what must not hang.

Every recording is a process of its own: PortAudio reads its environment once, and some of these
tests stop the process that records.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest
import virtual_mic
from virtual_mic import VirtualMic

from kokanee.engine.features import SAMPLE_RATE

I16 = npt.NDArray[np.int16]

MISSING = virtual_mic.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

# Obeys lines on its standard input; tells of the device on its standard output; keeps the sound.
RECORD = """
import dataclasses, json, sys, threading, time
import numpy as np
from kokanee.runtime.microphone import Microphone
from kokanee.runtime.sources import Block

options, path, refuse = json.loads(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
if refuse:  # as a card does that knows other rates only
    import sounddevice
    class Choosy(sounddevice.InputStream):
        def __init__(self, **wanted):
            if wanted["samplerate"] == 16000:
                raise sounddevice.PortAudioError("Invalid sample rate", -9997)
            super().__init__(**wanted)
    sounddevice.InputStream = Choosy

def tell(**what):
    sys.stdout.write(json.dumps(what) + "\\n")  # at once: two threads tell
    sys.stdout.flush()

mic = Microphone("vmic", **options)
pauses = []

def burn(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

def obey():
    for line in sys.stdin:
        command, _, seconds = line.strip().partition(" ")
        if command == "burn":
            for _ in range(8):
                threading.Thread(target=burn, args=[float(seconds)], daemon=True).start()
        elif command == "pause":
            pauses.append(float(seconds))
        elif command == "close":
            begun = time.monotonic()
            mic.close()
            tell(what="closed", took_s=time.monotonic() - begun)
            return

obeys = threading.Thread(target=obey, daemon=True)
obeys.start()
blocks = []
while (got := mic.read(60.0)) is not None:
    for item in got:
        if isinstance(item, Block):
            blocks.append(item)
        else:
            tell(**dataclasses.asdict(item))
    if pauses:
        time.sleep(pauses.pop())
np.savez(
    path,
    starts=[block.start for block in blocks],
    sizes=[len(block.pcm) for block in blocks],
    pcm=np.concatenate([block.pcm for block in blocks] or [np.zeros(0, np.float32)]),
)
obeys.join()  # the process must not end before it has told how long closing took
tell(what="counters", **dataclasses.asdict(mic.counters))
"""


class Recorder:
    """A process that records from the virtual microphone."""

    def __init__(
        self, mic: VirtualMic, folder: Path, *, refuse_16k: bool = False, **options: float
    ) -> None:
        self._path = folder / "recording.npz"
        arguments = [json.dumps(options), str(self._path), json.dumps(refuse_16k)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", RECORD, *arguments],
            env=os.environ | mic.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for("opened")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.events.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self.events.append({"what": "exit"})
            self._news.notify_all()

    def find(self, what: str) -> dict[str, Any] | None:
        return next((event for event in self.events if event["what"] == what), None)

    def wait_for(self, what: str, limit_s: float = 10.0) -> dict[str, Any]:
        with self._news:
            self._news.wait_for(lambda: self.find(what) or self.find("exit"), limit_s)
        event = self.find(what)
        assert event is not None, f"expected {what!r} within {limit_s} s, got {self.events}"
        return event

    def order(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def stop(self) -> Recording:
        """Closes the microphone and sees that the process ends."""
        self.order("close")
        counters = self.wait_for("counters")
        self.process.wait(3)
        assert self.process.stderr is not None
        self.complaints = self.process.stderr.read()
        kept = np.load(self._path)
        return Recording(kept["starts"], kept["sizes"], kept["pcm"], self.events, counters)


class Recording:
    """Sound in its place, holes where some was lost."""

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
        pcm: npt.NDArray[np.float32],
        events: list[dict[str, Any]],
        counters: dict[str, Any],
    ) -> None:
        ends = starts + sizes
        assert np.all(starts[1:] >= ends[:-1]), "blocks overlap"
        self.counters = counters
        self.n_delivered = len(pcm)
        self.n_holes = int(ends[-1]) - len(pcm)
        self.pcm = np.zeros(int(ends[-1]), np.float32)
        for start, block in zip(starts, np.split(pcm, np.cumsum(sizes)[:-1]), strict=True):
            self.pcm[start : start + len(block)] = block
        told = sum(event.get("lost_s", 0.0) for event in events)
        assert self.n_holes == round(told * SAMPLE_RATE), "a hole that nobody told of"
        assert counters["captured"] == (
            counters["delivered"] + counters["dropped"] + counters["unread"]
        )

    @property
    def int16(self) -> I16:
        scaled = self.pcm * np.float32(32768)
        whole = scaled.astype(np.int16)
        assert np.array_equal(whole, scaled), "samples changed on their way"
        return whole

    def find(self, pcm: I16) -> int:
        """Where exactly this begins."""
        heard = self.int16
        for at in np.flatnonzero(heard == pcm[0]):
            if np.array_equal(heard[at : at + len(pcm)], pcm):
                return int(at)
        raise AssertionError("what was said is not in the recording")


def noise(seconds: float, rate: int = SAMPLE_RATE, seed: int = 0) -> I16:
    loud = np.random.default_rng(seed).integers(1, 20_000, round(seconds * rate))
    return np.asarray(loud, np.int16)


@pytest.fixture
def mic() -> Iterator[VirtualMic]:
    with VirtualMic() as mic:
        yield mic


def test_sound_arrives_bit_for_bit_even_late(mic: VirtualMic, tmp_path: Path) -> None:
    """At rest, while 8 threads fight for the interpreter, and after this process was stopped."""
    with Recorder(mic, tmp_path) as recorder:
        begun = time.monotonic()
        said = noise(6.0)
        mic.say(said)
        time.sleep(1.0)
        recorder.order("burn 1.5")
        time.sleep(2.0)
        recorder.process.send_signal(signal.SIGSTOP)
        time.sleep(2.0)
        recorder.process.send_signal(signal.SIGCONT)
        time.sleep(1.5)
        lasted_s = time.monotonic() - begun
        heard = recorder.stop()
    assert recorder.complaints == ""
    assert abs(len(heard.pcm) / SAMPLE_RATE - lasted_s) < 0.5
    assert heard.counters["worst_backlog_ms"] > 1500  # it did come late
    if heard.n_holes == 0:
        heard.find(said)
    else:  # the daemon gave up some: the rest is in its place
        first, last = heard.find(said[:8000]), heard.find(said[-4000:])
        assert abs(last - first - (len(said) - 4000)) < 0.3 * SAMPLE_RATE


@pytest.mark.parametrize("refuse_16k", [False, True], ids=["by the daemon", "by us"])
def test_another_rate_is_converted(tmp_path: Path, refuse_16k: bool) -> None:
    rate = 48_000
    t = np.arange(2 * rate) / rate
    sweep = np.sin(2 * np.pi * (200 * t + 1200 * t**2))  # 200 to 5000 Hz
    with VirtualMic(rate) as mic, Recorder(mic, tmp_path, refuse_16k=refuse_16k) as recorder:
        mic.say((sweep * 16_000).astype(np.int16))
        time.sleep(2.3)
        heard = recorder.stop()
    assert recorder.complaints == ""
    assert heard.n_holes == 0
    assert ("16000" in recorder.events[0]["detail"]) != refuse_16k
    # Aligned to a fraction of a sample through the cross-spectrum, then compared in the middle.
    wanted = np.zeros(len(heard.pcm))
    wanted[: 2 * SAMPLE_RATE] = sweep[::3] * 16_000 / 32768
    assert signal_to_noise_db(wanted, heard.pcm.astype(np.float64)) > 30


def signal_to_noise_db(wanted: npt.NDArray[np.float64], heard: npt.NDArray[np.float64]) -> float:
    n = 2 * len(wanted)
    spectrum, other = np.fft.rfft(wanted, n), np.fft.rfft(heard, n)
    lag = int(np.argmax(np.fft.irfft(other * spectrum.conj(), n)))
    best = -np.inf
    for fraction in np.arange(-1, 1, 0.02):
        turn = np.exp(-2j * np.pi * np.arange(len(spectrum)) * (lag + fraction) / n)
        moved = np.fft.irfft(spectrum * turn, n)[: len(heard)]
        inner = slice(lag + 1600, lag + 2 * SAMPLE_RATE - 1600)
        error = np.mean((heard[inner] - moved[inner]) ** 2)
        best = max(best, 10 * np.log10(np.mean(moved[inner] ** 2) / error))
    return float(best)


def test_a_stall_is_told_of_and_outlived(mic: VirtualMic, tmp_path: Path) -> None:
    before, after = noise(0.5), noise(0.5, seed=1)
    with Recorder(mic, tmp_path) as recorder:
        said_at = time.monotonic()
        mic.say(before)
        time.sleep(0.7)
        mic.stall(2.0)
        stalled_at = time.monotonic()
        recorder.wait_for("stalled")
        assert 0.8 < time.monotonic() - stalled_at < 1.6
        time.sleep(stalled_at + 2.1 - time.monotonic())
        again_at = time.monotonic()
        mic.say(after)
        recorder.wait_for("reopened")
        time.sleep(0.5)
        heard = recorder.stop()
    assert recorder.find("lost") is None
    assert 1.7 < heard.counters["gap_s"] < 2.3
    apart_s = (heard.find(after) - heard.find(before)) / SAMPLE_RATE
    assert abs(apart_s - (again_at - said_at)) < 0.3


def test_a_daemon_that_died_is_found_again(mic: VirtualMic, tmp_path: Path) -> None:
    before, after = noise(0.5), noise(0.5, seed=1)
    with Recorder(mic, tmp_path, retry_s=1.0) as recorder:
        said_at = time.monotonic()
        mic.say(before)
        time.sleep(0.8)
        mic.kill()
        recorder.wait_for("lost", 1.0)
        time.sleep(0.5)
        mic.revive()
        reopened = recorder.wait_for("reopened")
        assert reopened["name"] == "vmic"
        again_at = time.monotonic()
        mic.say(after)
        time.sleep(0.8)
        heard = recorder.stop()
    assert heard.counters["reopened"] == 1
    # PortAudio's own thread wrote when the daemon died, but failed attempts to open are silent.
    assert all("oll" in line or "WaitFor" in line for line in recorder.complaints.splitlines())
    assert reopened["lost_s"] > 0.5
    apart_s = (heard.find(after) - heard.find(before)) / SAMPLE_RATE
    assert abs(apart_s - (again_at - said_at)) < 0.3


def test_closing_does_not_wait_for_a_daemon_that_does_not_answer(
    mic: VirtualMic, tmp_path: Path
) -> None:
    with Recorder(mic, tmp_path) as recorder:
        time.sleep(0.3)
        mic.freeze()
        time.sleep(0.3)
        begun = time.monotonic()
        recorder.stop()  # waits for the process too
        assert recorder.wait_for("closed")["took_s"] < 2.0
        assert time.monotonic() - begun < 4.0


def test_who_reads_too_late_is_told_what_was_dropped(mic: VirtualMic, tmp_path: Path) -> None:
    said = noise(2.5)
    with Recorder(mic, tmp_path, buffer_s=1.0) as recorder:
        mic.say(said)
        time.sleep(0.3)
        recorder.order("pause 2.5")
        dropped = recorder.wait_for("dropped")
        heard = recorder.stop()
    assert heard.counters["dropped"] == heard.n_holes == round(dropped["lost_s"] * SAMPLE_RATE)
    assert 1.0 < dropped["lost_s"] < 1.9
    assert heard.counters["delivered"] == heard.n_delivered
    # The newest second was kept, in its place.
    assert heard.find(said[-4000:]) == heard.find(said[:3000]) + len(said) - 4000


def test_a_wrong_choice_names_the_right_ones(mic: VirtualMic) -> None:
    wrong = complain(mic.env, "nonesuch", "UL")
    assert wrong[0].startswith("there is no microphone 'nonesuch'; choose one of these")
    assert "vmic, ALSA" in wrong[0]
    assert wrong[1].startswith("several microphones match 'UL'")
    assert "pulse, ALSA" in wrong[1]
    assert "default, ALSA" in wrong[1]
    assert "vmic" not in wrong[1]


def test_no_sound_at_all_is_said_plainly(tmp_path: Path) -> None:
    nowhere = {name: str(tmp_path) for name in ("PULSE_RUNTIME_PATH", "XDG_RUNTIME_DIR")}
    nowhere |= {"PULSE_SERVER": f"unix:{tmp_path}/none"}
    assert complain(nowhere, None)[0].startswith("no microphone was found: ")


def complain(env: dict[str, str], *devices: str | None) -> list[str]:
    script = """
import json, sys
from kokanee.engine import DeviceError
from kokanee.runtime.microphone import Microphone
for device in json.loads(sys.argv[1]):
    try:
        Microphone(device)
    except DeviceError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(devices)],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == len(devices)
    return lines
