from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.benchmarks.heldout import Clip, Kind
from kokanee.benchmarks.mixtures import mixed, mixtures, names_both, names_class

RATE = 16_000


def clip(name: str, kind: Kind, text: str, seconds: float, level: float = 0.1) -> Clip:
    rng = np.random.default_rng(len(name))
    pcm = (level * rng.standard_normal(round(seconds * RATE))).astype(np.float32)
    return Clip("package", name, kind, text, "CC0", pcm)


@given(st.floats(-10, 30), st.integers(1600, 40000), st.integers(400, 90000))
def test_the_ratio_is_the_stated_one(snr_db: float, n_speech: int, n_sound: int) -> None:
    rng = np.random.default_rng(0)
    speech = (0.01 * rng.standard_normal(n_speech)).astype(np.float32)
    sound = (0.3 * rng.standard_normal(n_sound)).astype(np.float32)
    both = mixed(speech, sound, snr_db=snr_db)
    assert len(both) == n_speech + RATE // 2
    assert np.abs(both).max() <= 1
    under = both.astype(np.float64)
    peak = np.abs(both).max()
    if peak < 1:  # nothing was made softer
        under[RATE // 4 : RATE // 4 + n_speech] -= speech
        found = np.square(speech, dtype=np.float64).mean() / np.square(under).mean()
        assert 10 * np.log10(found) == pytest.approx(snr_db, abs=0.01)


def test_a_loud_mixture_is_made_softer_as_a_whole() -> None:
    speech = np.full(RATE, 0.9, np.float32)
    both = mixed(speech, np.full(10, 0.9, np.float32), snr_db=0.0)
    assert both.max() == 1
    assert both[0] == pytest.approx(0.5)


def test_each_class_comes_as_often_and_each_speech_once() -> None:
    clips = [clip(f"speech {i}", "speech", f"line {i}", 1 + i % 4) for i in range(120)]
    clips += [clip("too short", "speech", "no", 0.5), clip("too long", "speech", "no", 6)]
    clips += [clip(f"dog {i}", "sound", "dog", 2) for i in range(7)]
    clips += [clip("cat", "sound", "cat", 9), clip("song", "music", "music", 3)]
    clips += [clip("mute", "sound", "bird", 2, level=0)]
    made = list(mixtures(clips))
    assert len(made) == 100
    assert Counter(one.label for one in made) == {"cat": 50, "dog": 50}
    assert len({one.text for one in made}) == 100
    assert "no" not in {one.text for one in made}
    assert len({one.clip.name.split(" over ")[1] for one in made}) == 8
    names = [one.clip.name for one in made]
    assert [one.clip.name for one in mixtures(clips[::-1])] == names


@pytest.mark.parametrize(
    ("answer", "both", "sound"),
    [
        ("A person speaking and a dog barking.", True, True),
        ("Speech over a dog.", True, True),
        ("A dog barking.", False, True),
        ("A person speaking.", False, False),
        ("Somebody is talking while a cat meows.", False, False),
    ],
)
def test_both_must_be_named(answer: str, both: bool, sound: bool) -> None:
    assert names_both(answer, "dog") is both
    assert names_class(answer, "dog") is sound
