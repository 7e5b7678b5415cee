"""What files that are named after a word say."""

import random
from pathlib import Path

import numpy as np
import pytest
from training.words import closely, joined, word_of


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("en/sounds/words/ice_cream.ogg", "ice cream"),
        ("en/alpha/A.ogg", "a"),
        ("sounds/7.wav", "seven"),
        ("en/sounds/words/x-ray.ogg", "x ray"),
        ("en/syllab/dog.ogg", "dog"),
        ("en/syllab/th.ogg", None),  # a sound, not a word
        ("sounds/CastleK.wav", None),  # says something else
    ],
)
def test_what_a_file_says(path: str, word: str | None) -> None:
    assert word_of(Path(path)) == word


def test_quiet_around_a_word_is_cut_but_for_a_tenth_of_a_second() -> None:
    pcm = np.zeros(16_000, np.float32)
    pcm[8_000:9_000] = 0.5
    assert len(closely(pcm)) == 1_600 + 999 + 1_600


def test_joined_words_stand_behind_each_other_as_their_text_does() -> None:
    words = [(str(n), np.full(100, n, np.float32)) for n in range(1, 6)]
    text, pcm = joined(words, random.Random(0))
    heard = [str(int(v)) for v in dict.fromkeys(pcm[pcm > 0].tolist())]
    assert text.split() == heard
    assert len(heard) in {2, 3}
