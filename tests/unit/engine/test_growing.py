"""Pieces, guesses and the room they take, with encoders that only count."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokanee.engine.encoders import Features, Run
from kokanee.engine.growing import EXACT, FAST, GrowingSound, Streaming
from kokanee.engine.hearing import first_change
from kokanee.engine.manifest import Policy
from kokanee.engine.segments import Segment, apply_policy

F32 = npt.NDArray[np.float32]
POLICY = Policy(
    min_s=1.0,
    max_s=29.92,
    pad_to_s=None,
    long_audio="segment",
    window_frames=17,
    stride_frames=17,
    n_queries=1,
)
WINDOW = 17 * 320  # samples


class Counting:
    """Soft tokens are the sums of their window; every call is remembered."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(
        self, segment: Segment, timings_ms: dict[str, float], features: Features, run: Run
    ) -> F32:
        self.calls.append(len(segment.audio_pcm))
        windows = segment.speech_pcm[: segment.n_windows * WINDOW].reshape(segment.n_windows, -1)
        sums: F32 = windows.sum(1, keepdims=True)
        return sums


def grown(streaming: Streaming, policy: Policy = POLICY) -> tuple[GrowingSound, Counting]:
    encode = Counting()
    return GrowingSound(encode, policy, streaming, d_model=1), encode


def noise(n_samples: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).normal(size=n_samples).astype(np.float32) * np.float32(0.1)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=8))
def test_exact_pieces_are_those_of_the_policy(chunks: list[int]) -> None:
    pcm = noise(sum(chunks))
    sound, encode = grown(EXACT)
    at = 0
    for chunk in chunks:
        sound.append(pcm[at : at + chunk])
        at += chunk
    whole = sound.whole()
    segments = apply_policy(pcm, POLICY).segments
    assert encode.calls == [len(segment.audio_pcm) for segment in segments]
    assert len(whole) == sum(segment.n_windows for segment in segments)
    assert sound.n_pieces == len(segments)


def test_exact_guesses_nothing() -> None:
    sound, encode = grown(EXACT)
    sound.append(noise(20 * 16_000))
    assert len(sound.so_far()) == 0
    assert encode.calls == []


def test_fast_guesses_windows_that_one_more_follows() -> None:
    sound, encode = grown(FAST)
    sound.append(noise(4 * WINDOW + 100))
    assert len(sound.so_far()) == 3
    assert len(sound.whole()) == 5
    assert encode.calls == [4 * WINDOW + 100] * 2
    sound.whole()
    assert len(encode.calls) == 2  # nothing came since


def test_fast_cuts_where_it_is_quiet() -> None:
    pcm = noise(8 * 16_000)
    pcm[11 * WINDOW - 2_000 : 11 * WINDOW + 2_000] = 0
    sound, encode = grown(FAST)
    for at in range(0, len(pcm), 1_000):
        sound.append(pcm[at : at + 1_000])
    assert encode.calls == [11 * WINDOW]
    assert sound.n_final == 11
    at_once, encode = grown(FAST)
    at_once.append(pcm)
    assert encode.calls == [11 * WINDOW]
    np.testing.assert_array_equal(sound.whole(), at_once.whole())


def test_an_official_policy_hears_its_first_piece_only() -> None:
    policy = Policy(
        min_s=1.0,
        max_s=30.0,
        pad_to_s=30.0,
        long_audio="cut",
        window_frames=17,
        stride_frames=17,
        n_queries=1,
    )
    sound, encode = grown(EXACT, policy)
    sound.append(noise(70 * 16_000))
    assert len(sound.whole()) == 88
    assert encode.calls == [30 * 16_000]
    assert sound.seconds_of(88) == 30
    assert sound.seconds_of(87) == 0
    with pytest.raises(ValueError, match="padded to 30 s"):
        grown(FAST, policy)


@settings(max_examples=25)
@given(st.sampled_from([EXACT, FAST]), st.integers(5, 400), st.integers(0, 9))
def test_so_many_seconds_never_have_more_windows(
    streaming: Streaming, n_windows: int, seed: int
) -> None:
    sound, _ = grown(streaming)
    seconds = sound.seconds_of(n_windows)
    if seconds:
        sound.append(noise(round(seconds * 16_000), seed))
        assert len(sound.whole()) <= n_windows


def test_the_first_window_that_changed_too_much_is_found() -> None:
    old = np.ones((8, 4), np.float32)  # four windows of two soft tokens
    new = old.copy()
    new[5] += 0.1
    loose, tight = np.full(5, 0.2, np.float32), np.full(5, 0.01, np.float32)
    assert first_change(old, new, loose, n_queries=2) == 8
    assert first_change(old, new, tight, n_queries=2) == 4
    assert first_change(old, new, np.zeros(5, np.float32), n_queries=2) == 4
    assert first_change(old, old, np.zeros(5, np.float32), n_queries=2) == 8
    assert first_change(old[:6], new, tight, n_queries=2) == 4
    assert first_change(old[:0], new, tight, n_queries=2) == 0
    mixed = np.asarray([0.01, 0.01, 0.2, 0.2], np.float32)
    assert first_change(old, new, mixed, n_queries=2) == 8


@pytest.mark.parametrize(
    "bad",
    [{"piece_s": 0.5}, {"ahead": -1}, {"tolerance": -0.1}, {"guess_tolerance": -0.1}],
)
def test_settings_out_of_range_are_named(bad: dict[str, float]) -> None:
    good = {"name": "x", "piece_s": 5.0, "ahead": 1, "tolerance": 0.1}
    with pytest.raises(ValueError, match=next(iter(bad)).partition("_")[0]):
        Streaming(**(good | bad))  # type: ignore[arg-type]
