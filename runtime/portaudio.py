"""PortAudio, called so that where it hangs nobody does: which devices there are, or why none.

    any thread --- ask(job, limit_s) ---> queue ---> one daemon thread ---> sounddevice ---> C
               <-- result, or DeviceError after limit_s

It is not thread-safe, and with a sound daemon that does not answer each of its calls can hang for
ever. So one thread makes all of them, and nobody waits for it without a limit.
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
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kokanee.engine import DeviceError

T = TypeVar("T")

OPEN_S = 5.0  # in which PortAudio must open or list devices
CLOSE_S = 1.0  # in which it must close one


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


def list_devices(*, rescan: bool = False, quiet_c_stderr: bool = True) -> list[InputDevice]:
    """Every device with an input channel.

    Args:
        rescan: look for what was plugged in since PortAudio first looked, which ends all streams
            in this process that were opened through sounddevice; not done while a Microphone is.
        quiet_c_stderr: keep PortAudio's and ALSA's own messages off file descriptor 2 meanwhile.

    Raises:
        DeviceError: If sounddevice or PortAudio is missing, or does not answer.
    """
    caller = portaudio_caller()

    def look() -> list[InputDevice]:
        if rescan:
            caller.rescan()
        return inputs(load_sounddevice())

    return caller.ask(look, OPEN_S, quiet=quiet_c_stderr)


class Caller:
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
            sd = load_sounddevice()
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
            atexit.unregister(load_sounddevice()._exit_handler)

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
def portaudio_caller() -> Caller:
    """One for the process, as PortAudio is."""
    return Caller()


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


def load_sounddevice() -> Any:
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
    atexit.register(portaudio_caller().leave)


def inputs(sd: Any) -> list[InputDevice]:
    """Every device with an input channel, as PortAudio knew them at its last scan."""
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


def pick(devices: list[InputDevice], wanted: int | str | None) -> InputDevice:
    """The device that an index or a name means, and no other."""
    if not devices:
        raise none_found()
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


def none_found() -> DeviceError:
    """The error for a machine without a device, with the likeliest reason and its remedy."""
    return DeviceError(f"no microphone was found: {_why_none()}")


def _reason(error: Exception | None) -> str:
    return str(error).strip().rstrip(".") or "no reason given"


def why_refused(device: InputDevice, error: Exception | None) -> str:
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
