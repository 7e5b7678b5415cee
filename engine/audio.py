"""Sound files into samples, trusting nothing that the file says about itself.

    file --65536 frames at a time--> first channel --soxr--> pcm [n_samples], 16 kHz, in [-1, 1]

A header may promise anything, and an hour of silence fits into 700 kB of FLAC: a file is read in
blocks and given up as soon as it passes a limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from .errors import AudioFormatError
from .features import SAMPLE_RATE

F32 = npt.NDArray[np.float32]

BLOCK = 65_536  # frames
QUALITY = "HQ"  # soxr: aliases 138 dB down


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioLimits:
    """What is taken for a recording worth listening to."""

    max_s: float = 600.0
    max_channels: int = 8
    min_rate: int = 4_000  # Hz
    max_rate: int = 192_000  # Hz
    max_peak: float = 64.0  # full scale is 1; decoders overshoot a little, numbers like 1e30 lie


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """A recording as the engine hears it, and what it was."""

    pcm: F32  # [n_samples], 16 kHz, first channel, in [-1, 1]
    source_rate: int  # Hz
    source_channels: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.pcm) / SAMPLE_RATE


def read_audio(path: str | PathLike[str], limits: AudioLimits | None = None) -> Audio:
    """Reads wav, flac, ogg, opus, mp3, aiff, au or caf.

    Args:
        path: The file.
        limits: Bounds on length, channels, rate and level.

    Raises:
        AudioFormatError: If the file is missing, empty, no sound, longer or stranger than the
            limits allow, or holds NaN or infinity. The message is one line.
    """
    path, limits = Path(path), limits or AudioLimits()
    if not path.is_file():
        raise AudioFormatError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise AudioFormatError(f"{path} is empty")
    try:
        with soundfile.SoundFile(path) as file:
            rate, n_channels = file.samplerate, file.channels
            if not limits.min_rate <= rate <= limits.max_rate:
                raise AudioFormatError(
                    f"{path}: sample rate: expected {limits.min_rate} to {limits.max_rate} Hz,"
                    f" got {rate}"
                )
            if n_channels > limits.max_channels:
                raise AudioFormatError(
                    f"{path}: channels: expected 1 to {limits.max_channels}, got {n_channels}"
                )
            # First channel, not the mean, as SALMONN does.
            blocks = _guarded(_first_channel(file), path, rate, limits)
            pcm = _joined(_resampled(blocks, rate))
    # soundfile raises TypeError for names such as x.raw, which need their format told.
    except (soundfile.LibsndfileError, TypeError) as error:
        reason = getattr(error, "error_string", None) or str(error)
        raise AudioFormatError(
            f"{path} cannot be read as sound ({reason.strip().rstrip('.')});"
            " wav, flac, ogg, opus, mp3, aiff, au and caf can"
        ) from None
    if len(pcm) == 0:
        raise AudioFormatError(f"{path} holds no samples")
    return Audio(pcm=pcm, source_rate=rate, source_channels=n_channels)


def resample(pcm: F32, rate: int) -> F32:
    """Converts [n_samples] at `rate` Hz to 16 kHz, in [-1, 1]; equal to doing it in blocks."""
    return _joined(_resampled(iter([pcm]), rate))


def _first_channel(file: soundfile.SoundFile) -> Iterator[F32]:
    while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
        yield np.ascontiguousarray(block[:, 0])


def _guarded(blocks: Iterator[F32], path: Path, rate: int, limits: AudioLimits) -> Iterator[F32]:
    n_frames = 0
    for block in blocks:
        n_frames += len(block)
        if n_frames > limits.max_s * rate:
            raise AudioFormatError(f"{path} is longer than {limits.max_s:g} s; cut it into parts")
        peak = float(np.abs(block).max())  # NaN if any sample is
        if not np.isfinite(peak):
            raise AudioFormatError(f"{path} holds samples that are not numbers (NaN or infinity)")
        if peak > limits.max_peak:
            raise AudioFormatError(
                f"{path}: samples: expected -1 to 1, got {peak:.3g}; scale them to full scale 1"
            )
        yield block


def _resampled(blocks: Iterator[F32], rate: int) -> Iterator[F32]:
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality=QUALITY)
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _joined(blocks: Iterator[F32]) -> F32:
    pcm = np.concatenate([np.empty(0, np.float32), *blocks])
    # Lossy decoders and the resampler overshoot full scale.
    return np.clip(pcm, np.float32(-1), np.float32(1), out=pcm)
