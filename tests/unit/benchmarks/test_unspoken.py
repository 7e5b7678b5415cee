from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.benchmarks.unspoken import FORMULAS, clips, invents_speech

RATE = 16_000


def test_there_are_80_clips_the_same_every_time() -> None:
    made, again = list(clips()), list(clips())
    assert Counter(clip.kind for clip in made) == {"noise": 72, "silence": 8}
    assert Counter(clip.text for clip in made) == {"silence": 8, **dict.fromkeys(FORMULAS, 12)}
    assert len({clip.name for clip in made}) == 80
    for one, other in zip(made, again, strict=True):
        assert np.array_equal(one.pcm, other.pcm)


def test_only_silence_is_silent_and_nothing_clips() -> None:
    for clip in clips():
        assert clip.pcm.dtype == np.float32
        assert RATE <= len(clip.pcm) <= 6 * RATE
        level = np.sqrt(np.square(clip.pcm).mean())
        if clip.kind == "silence":
            assert level == 0
        else:
            assert -50 < 20 * np.log10(level) < -11, clip.name
            assert np.abs(clip.pcm).max() <= 1


@pytest.mark.parametrize(("formula", "slope"), [("white", 0), ("pink", -1), ("brown", -2)])
def test_the_colour_of_a_noise_is_how_its_power_falls(formula: str, slope: int) -> None:
    raw = FORMULAS[formula](8 * RATE, np.random.default_rng(0))
    power = np.square(np.abs(np.fft.rfft(raw)))
    hz = np.fft.rfftfreq(len(raw), 1 / RATE)
    low, high = (power[(hz > at) & (hz < 2 * at)].mean() for at in (100, 3200))
    assert np.log2(high / low) / 5 == pytest.approx(slope, abs=0.15)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "...",
        "[...]",
        "(music)",
        "*static*",
        "Silence.",
        "Only noise.",
        "Nothing is said.",
        "Nothing can be heard.",
        "There is nothing to hear.",
        "No one is speaking.",
        "Nobody is talking here. It is a dog.",
        "There is no speech.",
        "There are no words in this recording.",
        "I don't hear any speech.",
        "I hear nothing.",
        "This is not speech.",
    ],
)
def test_saying_that_nobody_speaks_is_no_invention(answer: str) -> None:
    assert not invents_speech(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "No one is available to take your call.",
        "Nobody answered.",
        "Silence is golden.",
        "Nothing compares to you.",
        "Press one. Nothing is said.",
        "hello",
        "Привет",
        "[noise] thank you for watching",
    ],
)
def test_words_that_nobody_said_are_invented(answer: str) -> None:
    assert invents_speech(answer)


@given(st.text(alphabet=" .,!?-…[]()\n"))
def test_without_a_letter_nothing_is_invented(answer: str) -> None:
    assert not invents_speech(answer)
