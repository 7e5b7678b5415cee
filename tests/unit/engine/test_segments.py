import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.engine.errors import AudioFormatError
from kokanee.engine.manifest import Policy
from kokanee.engine.segments import apply_policy

NANO = Policy(
    min_s=1.0,
    max_s=29.92,
    pad_to_s=None,
    long_audio="segment",
    window_frames=17,
    stride_frames=17,
    n_queries=2,
)
SALMONN = dataclasses.replace(NANO, max_s=30.0, pad_to_s=30.0, long_audio="cut", n_queries=1)


def ramp(n_samples: int) -> npt.NDArray[np.float32]:
    """Samples that are all different and none of them zero."""
    return np.linspace(0.1, 1, n_samples, dtype=np.float32)


@given(st.integers(1, 1_200_000))
def test_segments_hold_every_sample_in_order_and_zeros_behind(n_samples: int) -> None:
    pcm = ramp(n_samples)
    cut = apply_policy(pcm, NANO)
    heard = [
        s.speech_pcm[: min(478_720, n_samples - i * 478_720)] for i, s in enumerate(cut.segments)
    ]
    np.testing.assert_array_equal(np.concatenate(heard), pcm)
    assert sum(np.count_nonzero(s.speech_pcm) for s in cut.segments) == n_samples
    assert sum(np.count_nonzero(s.audio_pcm) for s in cut.segments) == n_samples


@given(st.integers(1, 1_200_000))
def test_speech_is_padded_to_whole_windows_and_audio_is_not(n_samples: int) -> None:
    for segment in apply_policy(ramp(n_samples), NANO).segments:
        assert len(segment.speech_pcm) == segment.n_windows * 17 * 320
        assert segment.n_windows <= 88
        assert 16_000 <= len(segment.audio_pcm) <= len(segment.speech_pcm)
        assert len(segment.speech_pcm) - len(segment.audio_pcm) < 17 * 320


def test_salmonn_hears_thirty_seconds_whatever_it_gets() -> None:
    for n_samples, n_audio in ((3_200, 16_000), (116_800, 116_800), (592_000, 480_000)):
        [segment] = apply_policy(ramp(n_samples), SALMONN).segments
        assert (len(segment.speech_pcm), len(segment.audio_pcm)) == (480_000, n_audio)
        assert segment.n_windows == 88


def test_overlapping_windows_cover_all_the_sound() -> None:
    overlapping = dataclasses.replace(NANO, stride_frames=10)
    [segment] = apply_policy(ramp(320 * 60), overlapping).segments
    assert segment.n_windows == 6  # 17 + 5 * 10 = 67 frames; 57 would not do
    assert len(segment.speech_pcm) == 67 * 320


@pytest.mark.parametrize(
    ("policy", "seconds", "notes"),
    [
        (NANO, 2, ()),
        (NANO, 40, ("heard 40.0 s in 2 pieces of up to 29.92 s",)),
        (SALMONN, 40, ("heard the first 30 s of 40.0 s",)),
        (NANO, 0.1, ("0.10 s is short: silence added up to 1 s",)),
    ],
)
def test_what_was_done_to_the_sound_is_told(
    policy: Policy, seconds: float, notes: tuple[str, ...]
) -> None:
    assert apply_policy(ramp(int(seconds * 16_000)), policy).notes == notes


@pytest.mark.parametrize(
    ("pcm", "complaint"),
    [
        (np.empty(0, np.float32), r"got float32 \[0\]"),
        (np.zeros((2, 100), np.float32), r"got float32 \[2, 100\]"),
        (np.zeros(100), "got float64"),
        (np.array([0, np.nan], np.float32), "NaN"),
    ],
)
def test_what_is_no_sound_cannot_be_heard(pcm: npt.NDArray[np.float32], complaint: str) -> None:
    with pytest.raises(AudioFormatError, match=complaint):
        apply_policy(pcm, NANO)
