"""What the evaluation has must not be trained on under another package's name."""

import numpy as np
import pytest
import soxr
from training.copies import copy_of, likeness

RATE = 16_000


def rustle(seed: int, seconds: float = 0.5) -> np.ndarray:
    """Noise that dies away."""
    n = int(seconds * RATE)
    noise = np.random.default_rng(seed).standard_normal(n) * np.exp(-2 * np.arange(n) / n)
    return np.asarray(noise, np.float32)


def known(*sounds: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    return [f"held-out {i}" for i in range(len(sounds))], list(sounds)


def test_a_copy_is_found_at_another_level_behind_silence_and_resampled() -> None:
    names, waveforms = known(rustle(0), rustle(1))
    there_and_back = soxr.resample(soxr.resample(0.1 * rustle(1), RATE, 22_050), 22_050, RATE)
    copied = np.pad(np.asarray(there_and_back, np.float32), (700, 3000))
    assert copy_of(copied, names, waveforms) == "held-out 1"


def test_another_sound_of_the_same_length_is_no_copy() -> None:
    assert copy_of(rustle(2), *known(rustle(0), rustle(1))) is None


def test_what_begins_alike_but_goes_on_is_no_copy() -> None:
    hum = np.sin(2 * np.pi * 100 * np.arange(5 * RATE) / RATE).astype(np.float32)
    assert copy_of(hum, *known(hum[: 3 * RATE])) is None
    assert copy_of(hum, *known(hum)) is not None


def test_of_what_the_evaluation_has_cut_a_longer_copy_is_found() -> None:
    loop = np.random.default_rng(4).standard_normal(12 * RATE).astype(np.float32)
    assert copy_of(loop, *known(loop[: 8 * RATE])) == "held-out 0"
    assert copy_of(loop[3 * RATE :], *known(loop[: 8 * RATE])) is None


def test_silence_is_no_copy() -> None:
    assert copy_of(np.zeros(8000, np.float32), *known(rustle(0))) is None
    assert copy_of(np.zeros(0, np.float32), *known(rustle(0))) is None


def test_likeness_is_one_for_a_sound_and_itself_later() -> None:
    sound = rustle(3)
    assert likeness(sound, np.pad(sound, (400, 0))) == pytest.approx(1, abs=1e-4)
    assert likeness(sound, -sound) == pytest.approx(1, abs=1e-4)
