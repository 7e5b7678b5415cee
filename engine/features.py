"""Samples into the two pictures of sound that the encoders read: log-mel and filter bank.

    pcm [n_samples] --+-- log_mel() --> [n_mels, n_samples // 160]           speech encoder
                      +-- fbank() ----> [1 + (n_samples - 400) // 160, 128]  audio encoder

Neither pads to a fixed length: the caller decides how long the audio is. Both work in float64,
a few hundred frames at a time: the reference's filter bank does, and in float32 its quiet frames
would move by up to 0.016.
"""

from collections.abc import Iterator
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

FRAMES_AT_ONCE = 256  # x 512 samples of 8 bytes: 1 MiB, which stays in the cache


def log_mel(pcm: F32, *, n_mels: int = 80) -> F32:
    """Whisper's log-mel spectrogram of exactly the samples given.

    Args:
        pcm: Samples at 16 kHz, [n_samples], at least 400 of them.
        n_mels: Mel bands: 80 up to Whisper large-v2, 128 in large-v3.

    Returns:
        [n_mels, n_samples // 160]. Quiet is clamped to 8 decades of power below the loudest
        frame given, so a clip and a part of that clip differ.

    Raises:
        ValueError: If `pcm` is not one-dimensional float32 or shorter than one window.

    Source: openai/whisper, whisper/audio.py (`log_mel_spectrogram`), in NumPy.
    """
    _check(pcm)
    centred = np.pad(pcm, WINDOW // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)  # periodic Hann
    filters = _slaney_filters(n_mels)
    mel = np.empty((len(pcm) // HOP, n_mels), np.float64)
    for at, frames in _frames(centred, len(mel)):
        power = np.abs(np.fft.rfft(frames * window)) ** 2  # [n_frames, 201]
        mel[at : at + len(frames)] = power @ filters
    log = np.log10(np.maximum(mel, 1e-10, out=mel), out=mel)
    np.maximum(log, log.max() - 8.0, out=log)
    return np.ascontiguousarray(((log + 4.0) / 4.0).T, dtype=np.float32)


def fbank(pcm: F32) -> F32:
    """Kaldi's log mel filter bank, normalised as BEATs was trained.

    Args:
        pcm: Samples at 16 kHz, [n_samples], at least 400 of them, in [-1, 1].

    Returns:
        [n_frames, 128]; n_frames = 1 + (n_samples - 400) // 160, whole windows only.

    Raises:
        ValueError: If `pcm` is not one-dimensional float32 or shorter than one window.

    Source: pytorch/audio, torchaudio/compliance/kaldi.py (`fbank`) with its defaults, 128 bins and
    no dither, in NumPy; microsoft/unilm, beats/BEATs.py (`preprocess`) for scale, mean and
    deviation.
    """
    _check(pcm)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))
    povey = hann**0.85
    filters = _kaldi_filters()
    out = np.empty((1 + (len(pcm) - WINDOW) // HOP, N_FBANK), np.float32)
    for at, frames in _frames(pcm, len(out)):
        x = frames * FBANK_SCALE
        x -= x.mean(axis=1, keepdims=True)
        x[:, 1:] -= 0.97 * x[:, :-1]  # the right side is computed before anything is written
        x[:, 0] *= 1.0 - 0.97
        power = np.abs(np.fft.rfft(x * povey, FBANK_FFT)) ** 2  # [n_frames, 257]
        energy = np.log(np.maximum(power @ filters, FBANK_FLOOR))
        out[at : at + len(frames)] = (energy - FBANK_MEAN) / (2.0 * FBANK_STD)
    return out


def _check(pcm: F32) -> None:
    if pcm.ndim != 1 or pcm.dtype != np.float32 or len(pcm) < WINDOW:
        raise ValueError(
            f"pcm: expected float32 [n_samples >= {WINDOW}], got {pcm.dtype} {list(pcm.shape)}"
        )


def _frames(pcm: F32, n_frames: int) -> Iterator[tuple[int, F64]]:
    """Overlapping windows as (first frame, float64 [<= FRAMES_AT_ONCE, 400])."""
    windows = np.lib.stride_tricks.sliding_window_view(pcm, WINDOW)[::HOP][:n_frames]  # a view
    for at in range(0, n_frames, FRAMES_AT_ONCE):
        yield at, windows[at : at + FRAMES_AT_ONCE].astype(np.float64)


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
