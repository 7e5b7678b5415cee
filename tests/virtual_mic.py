"""A microphone without hardware: a private PulseAudio daemon whose source a thread here feeds.

    say(pcm) -> queue -> thread, 10 ms at a time -> FIFO -> PulseAudio -> ALSA -> PortAudio

PortAudio reads its environment once, when it starts: give `env` to a process before it does.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

I16 = npt.NDArray[np.int16]

PACKAGES = "pulseaudio libasound2-plugins libportaudio2"  # apt's
CHUNK_S = 0.01
START_S = 10.0
ALSA_CONF = Path("/usr/share/alsa/alsa.conf")


def missing() -> str | None:
    """Why nothing can be recorded from one here, with what to do; None if it can."""
    if importlib.util.find_spec("sounddevice") is None:
        return "needs sounddevice; run: pip install 'kokanee[mic]'"
    plugin = any(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so"))
    library = any(Path("/usr/lib").glob("*/libportaudio.so.2"))
    if shutil.which("pulseaudio") and plugin and library and ALSA_CONF.exists():
        return None
    return f"needs a virtual sound card; run: apt-get install --no-install-recommends {PACKAGES}"


class VirtualMic:
    """ALSA and PortAudio know it by `name`; it is the default as well."""

    def __init__(self, rate: int = 16_000, *, name: str = "vmic") -> None:
        self.rate, self.name = rate, name
        self.root = Path(tempfile.mkdtemp(prefix="vmic-"))
        self.env = {
            "PULSE_SERVER": f"unix:{self.root}/sock",
            "PULSE_RUNTIME_PATH": str(self.root),
            "PULSE_STATE_PATH": str(self.root),
            "PULSE_CONFIG_PATH": str(self.root),
            "ALSA_CONFIG_PATH": f"{ALSA_CONF}:{self.root}/asound.conf",
        }
        self._chunks: collections.deque[I16] = collections.deque()
        self._n_chunk = round(rate * CHUNK_S)
        self._stalled_until = 0.0
        self._ending = threading.Event()
        self._daemon: subprocess.Popen[bytes] | None = None
        self._feeder: threading.Thread | None = None

    def __enter__(self) -> Self:
        (self.root / "daemon.pa").write_text(
            f".fail\n"
            f"load-module module-native-protocol-unix auth-anonymous=1 socket={self.root}/sock\n"
            f"load-module module-pipe-source source_name={self.name} file={self.root}/fifo"
            f" format=s16le rate={self.rate} channels=1\n"
            f"set-default-source {self.name}\n"
        )
        pulse = f'type pulse device "{self.name}"'
        (self.root / "asound.conf").write_text(
            f'pcm.{self.name} {{ {pulse} hint {{ show on description "Virtual" }} }}\n'
            f"pcm.!default {{ {pulse} }}\n"
        )
        try:
            self.revive()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def say(self, pcm: I16) -> None:
        """Queues int16 [n_samples]; before and after them it is silent."""
        padded = np.pad(pcm, (0, -len(pcm) % self._n_chunk))
        self._chunks.extend(padded.reshape(-1, self._n_chunk))

    def stall(self, seconds: float) -> None:
        """Delivers nothing for so long, and what falls into it never."""
        self._stalled_until = time.monotonic() + seconds

    def kill(self) -> None:
        """The sound daemon dies."""
        self._stop_feeding()
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
        for name in ("sock", "fifo"):
            (self.root / name).unlink(missing_ok=True)

    def revive(self) -> None:
        """Starts a daemon in the dead one's place."""
        command = ["pulseaudio", "-n", "-F", str(self.root / "daemon.pa"), "--daemonize=no"]
        command += ["--exit-idle-time=-1", "--system=false", "--use-pid-file=no"]
        command += ["--log-target=stderr", "--resample-method=speex-float-5"]
        log = self.root / "log"
        with log.open("wb") as output:
            self._daemon = subprocess.Popen(
                command,
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + START_S
        while not ((self.root / "fifo").exists() and (self.root / "sock").exists()):
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"pulseaudio did not start: {log.read_text()[-1500:]}")
            time.sleep(0.01)
        self._ending.clear()
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()

    def freeze(self) -> None:
        """The sound daemon no longer answers anybody."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It answers again."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGCONT)

    def _feed(self) -> None:
        silence = np.zeros(self._n_chunk, np.int16)
        # Read-write, so that there is no end of file while nobody reads; what does not fit is
        # dropped, as by a sound card.
        fifo = os.open(self.root / "fifo", os.O_RDWR | os.O_NONBLOCK)
        due = time.monotonic()
        while not self._ending.is_set():
            due += CHUNK_S  # a chunk is there once its last sample is
            time.sleep(max(0.0, due - time.monotonic()))
            chunk = self._chunks.popleft() if self._chunks else silence
            if time.monotonic() >= self._stalled_until:
                with contextlib.suppress(BlockingIOError):
                    os.write(fifo, chunk.tobytes())
        os.close(fifo)

    def _stop_feeding(self) -> None:
        self._ending.set()
        if self._feeder is not None:
            self._feeder.join()

    def _end(self) -> None:
        self._stop_feeding()
        if self._daemon is not None:
            self._daemon.kill()  # ends a stopped one too
            self._daemon.wait()
        shutil.rmtree(self.root, ignore_errors=True)
