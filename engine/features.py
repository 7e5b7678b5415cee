"""Samples into the two pictures of sound that the encoders read: log-mel and filter bank.

    pcm [n_samples] --+-- log_mel() --> [n_mels, n_samples // 160]           speech encoder
                      +-- fbank() ----> [1 + (n_samples - 400) // 160, 128]  audio encoder

Neither pads to a fixed length: the caller decides how long the audio is. Both work in float64: the
reference's filter bank does, and in float32 its quiet frames would move by up to 0.016.

A sound that is still arriving keeps the frames that it has: `LogMel` and `Fbank` hold them and are
asked for the whole picture again and again. Frames are computed in blocks of fixed size and place,
so that a sound has the same picture to the last bit however it arrived.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

SAMPLE_RATE = 16_000  # Hz
HOP = 160  # samples: 10 ms
WINDOW = 400  # samples: 25 ms

N_FBANK = 128  # mel bins of fbank()
FBANK_FFT = 512  # samples: the window, zero-padded to a power of two
FBANK_SCALE = 32_768.0  # samples arrive in [-1, 1]; Kaldi counts in 16-bit steps
FBANK_FLOOR = 2.0**-23  # float32's epsilon, the least energy that is taken the log of
FBANK_MEAN, FBANK_STD = 15.41663, 6.55582  # of AudioSet's filter banks, from BEATs

BLOCK = 32  # frames computed at once; a last block that is not full is filled up with silence


class LogMel:
    """Whisper's log-mel spectrogram of a sound that grows; not for use by two threads.

    Source: openai/whisper, whisper/audio.py (`log_mel_spectrogram`), in NumPy. The maximum of the
    clip is taken anew for every picture, over frames that are computed once.
    """

    def __init__(self, n_mels: int = 80) -> None:
        """Holds nothing yet.

        Args:
            n_mels: Mel bands: 80 up to Whisper large-v2, 128 in large-v3.
        """
        self._filters = _Bands(_slaney_filters(n_mels))
        self._window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)  # periodic Hann
        self._rows = _Rows(n_mels, self._block)

    def extend(self, pcm: F32) -> None:
        """Compute what [n_samples] settles for good: whole blocks of frames within the samples."""
        self._rows.extend(lambda: _mirrored_start(pcm), self._n_settled(len(pcm)))

    def trim(self, n_samples: int) -> None:
        """Forget frames that the first n_samples do not settle: the sound ends there after all."""
        self._rows.trim(self._n_settled(n_samples))

    def picture(self, pcm: F32) -> F32:
        """The spectrogram of exactly the samples given.

        Args:
            pcm: [n_samples], at least 400, float32 at 16 kHz; begins with all that was given to
                `extend`. What comes behind, such as padding, leaves no trace.

        Returns:
            [n_mels, n_samples // 160]. Quiet is clamped to 8 decades of power below the loudest
            frame given, so a clip and a part of that clip differ.

        Raises:
            ValueError: If `pcm` is not one-dimensional float32 or shorter than one window.
        """
        _check(pcm)
        centred = np.pad(pcm, WINDOW // 2, mode="reflect")
        log = self._rows.all(centred, len(pcm) // HOP)
        np.maximum(log, log.max() - 8.0, out=log)
        return np.ascontiguousarray(((log + 4.0) / 4.0).T, dtype=np.float32)

    def _n_settled(self, n_samples: int) -> int:
        return max(0, (n_samples - WINDOW // 2) // HOP + 1) // BLOCK * BLOCK

    def _block(self, frames: F64) -> F64:
        power = np.abs(np.fft.rfft(frames * self._window)) ** 2  # [BLOCK, 201]
        return np.log10(np.maximum(self._filters.energy(power), 1e-10))


class Fbank:
    """Kaldi's log mel filter bank, normalised as BEATs was trained, of a sound that grows.

    Not for use by two threads.

    Source: pytorch/audio, torchaudio/compliance/kaldi.py (`fbank`) with its defaults, 128 bins and
    no dither, in NumPy; microsoft/unilm, beats/BEATs.py (`preprocess`) for scale, mean and
    deviation.
    """

    def __init__(self) -> None:
        """Holds nothing yet."""
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))
        self._povey = hann**0.85
        self._filters = _Bands(_kaldi_filters())
        self._rows = _Rows(N_FBANK, self._block)

    def extend(self, pcm: F32) -> None:
        """Compute what [n_samples] settles for good: whole blocks of frames within the samples."""
        self._rows.extend(lambda: pcm, self._n_settled(len(pcm)))

    def trim(self, n_samples: int) -> None:
        """Forget frames that the first n_samples do not settle: the sound ends there after all."""
        self._rows.trim(self._n_settled(n_samples))

    def picture(self, pcm: F32) -> F32:
        """The filter bank of exactly the samples given.

        Args:
            pcm: [n_samples], at least 400, float32 at 16 kHz, in [-1, 1]; begins with all that was
                given to `extend`. What comes behind, such as padding, leaves no trace.

        Returns:
            [n_frames, 128]; n_frames = 1 + (n_samples - 400) // 160, whole windows only.

        Raises:
            ValueError: If `pcm` is not one-dimensional float32 or shorter than one window.
        """
        _check(pcm)
        return self._rows.all(pcm, 1 + (len(pcm) - WINDOW) // HOP).astype(np.float32)

    def _n_settled(self, n_samples: int) -> int:
        return max(0, 1 + (n_samples - WINDOW) // HOP) // BLOCK * BLOCK

    def _block(self, frames: F64) -> F64:
        x = frames * FBANK_SCALE
        x -= x.mean(axis=1, keepdims=True)
        x[:, 1:] -= 0.97 * x[:, :-1]  # the right side is computed before anything is written
        x[:, 0] *= 1.0 - 0.97
        power = np.abs(np.fft.rfft(x * self._povey, FBANK_FFT)) ** 2  # [BLOCK, 257]
        energy = np.log(np.maximum(self._filters.energy(power), FBANK_FLOOR))
        normal: F64 = (energy - FBANK_MEAN) / (2.0 * FBANK_STD)
        return normal


def log_mel(pcm: F32, *, n_mels: int = 80) -> F32:
    """`LogMel.picture` of a sound that is whole: [n_mels, n_samples // 160]."""
    return LogMel(n_mels).picture(pcm)


def fbank(pcm: F32) -> F32:
    """`Fbank.picture` of a sound that is whole: [1 + (n_samples - 400) // 160, 128]."""
    return Fbank().picture(pcm)


class _Rows:
    """Frames made of overlapping windows, block by block; settled ones are kept."""

    def __init__(self, n_bins: int, block: Callable[[F64], F64]) -> None:
        self._block = block
        self._kept = np.empty((0, n_bins), np.float64)
        self._n_kept = 0

    def extend(self, samples: Callable[[], F32], n_frames: int) -> None:
        """Compute and keep frames up to n_frames, a multiple of BLOCK."""
        if n_frames <= self._n_kept:
            return
        if n_frames > len(self._kept):  # twice as much as before: few copies
            grown = np.empty((2 * n_frames, self._kept.shape[1]), np.float64)
            grown[: self._n_kept] = self._kept[: self._n_kept]
            self._kept = grown
        pcm = samples()
        for at in range(self._n_kept, n_frames, BLOCK):
            self._kept[at : at + BLOCK] = self._computed(pcm, at)
        self._n_kept = n_frames

    def trim(self, n_frames: int) -> None:
        """Keep no more than n_frames, a multiple of BLOCK."""
        self._n_kept = min(self._n_kept, n_frames)

    def all(self, samples: F32, n_frames: int) -> F64:
        """A copy of the kept frames, with those behind them computed for now."""
        rows = np.empty((-(-n_frames // BLOCK) * BLOCK, self._kept.shape[1]), np.float64)
        n_kept = min(self._n_kept, len(rows))
        rows[:n_kept] = self._kept[:n_kept]
        for at in range(n_kept, len(rows), BLOCK):
            rows[at : at + BLOCK] = self._computed(samples, at)
        return rows[:n_frames]

    def _computed(self, samples: F32, at: int) -> F64:
        start = at * HOP
        stretch = samples[start : start + (BLOCK - 1) * HOP + WINDOW].astype(np.float64)
        stretch = np.pad(stretch, (0, (BLOCK - 1) * HOP + WINDOW - len(stretch)))
        return self._block(np.lib.stride_tricks.sliding_window_view(stretch, WINDOW)[::HOP])


class _Bands:
    """A product with filters that are zero nearly everywhere, a few neighbours at a time.

    It does a sixth of the multiplications, and each product is too small for BLAS to wake threads
    for it: on a machine whose cores are busy, these made features take nine times as long.
    """

    def __init__(self, filters: F64) -> None:
        """Takes [n_frequencies, n_bands], bands in the order of their frequencies."""
        self._n_bands = filters.shape[1]
        self._groups: list[tuple[slice, slice, F64]] = []
        for first in range(0, self._n_bands, _NEIGHBOURS):
            bands = slice(first, first + _NEIGHBOURS)
            used = np.flatnonzero(filters[:, bands].any(axis=1))
            low, high = (used[0], used[-1] + 1) if len(used) else (0, 1)
            self._groups.append(
                (slice(low, high), bands, np.ascontiguousarray(filters[low:high, bands]))
            )

    def energy(self, power: F64) -> F64:
        """[n_frames, n_frequencies] to [n_frames, n_bands]."""
        out = np.empty((len(power), self._n_bands), np.float64)
        for frequencies, bands, weights in self._groups:
            out[:, bands] = power[:, frequencies] @ weights
        return out


_NEIGHBOURS = 16  # bands in one product


def _mirrored_start(pcm: F32) -> F32:
    """Samples behind a reflection of their first: frame 0 is centred on sample 0."""
    return np.concatenate([pcm[WINDOW // 2 : 0 : -1], pcm])


def _check(pcm: F32) -> None:
    if pcm.ndim != 1 or pcm.dtype != np.float32 or len(pcm) < WINDOW:
        raise ValueError(
            f"pcm: expected float32 [n_samples >= {WINDOW}], got {pcm.dtype} {list(pcm.shape)}"
        )


@cache
def _slaney_filters(n_mels: int) -> F64:
    """Triangles on Slaney's mel scale, 0 to 8000 Hz, each of unit area: [201, n_mels].

    Source: librosa, filters.py (`mel`, with its default scale and norm).
    """
    # Linear below 1 kHz at 200/3 Hz per mel, then a factor of 6.4 every 27 mels.
    mels_at_break, log_step = 15.0, np.log(6.4) / 27.0
    top = mels_at_break + np.log(SAMPLE_RATE / 2 / 1000.0) / log_step
    mel = np.linspace(0.0, top, n_mels + 2)
    hz = np.where(
        mel < mels_at_break,
        mel * 200.0 / 3.0,
        1000.0 * np.exp(log_step * (mel - mels_at_break)),
    )
    bins = np.fft.rfftfreq(WINDOW, 1.0 / SAMPLE_RATE)[:, None]  # [201, 1]
    rise = (bins - hz[:-2]) / (hz[1:-1] - hz[:-2])
    fall = (hz[2:] - bins) / (hz[2:] - hz[1:-1])
    triangles = np.maximum(0.0, np.minimum(rise, fall)) * 2.0 / (hz[2:] - hz[:-2])
    # Whisper's own table is float32.
    return _constant(triangles.astype(np.float32).astype(np.float64))


@cache
def _kaldi_filters() -> F64:
    """Triangles linear in HTK's mel, 20 to 8000 Hz, peak 1: [257, 128].

    Computed in float32 throughout, as the reference does before it casts them up; its Nyquist bin
    has no weight.
    """
    low, high = 1127.0 * np.log(1.0 + np.array([20.0, SAMPLE_RATE / 2]) / 700.0)
    step = np.float32((high - low) / (N_FBANK + 1))
    n = np.arange(N_FBANK, dtype=np.float32)
    one, two = np.float32(1), np.float32(2)
    left = np.float32(low) + n * step
    centre = np.float32(low) + (n + one) * step
    right = np.float32(low) + (n + two) * step
    hz = np.arange(FBANK_FFT // 2, dtype=np.float32) * np.float32(SAMPLE_RATE / FBANK_FFT)
    mel = (np.float32(1127) * np.log(one + hz / np.float32(700)))[:, None]  # [256, 1]
    rise = (mel - left) / (centre - left)
    fall = (right - mel) / (right - centre)
    triangles = np.maximum(np.float32(0), np.minimum(rise, fall))
    return _constant(np.pad(triangles, ((0, 1), (0, 0))).astype(np.float64))


def _constant(array: F64) -> F64:
    array.setflags(write=False)  # cached: nobody may change it for the others
    return array
