"""Stories that are asked for are whole, not long, and about what is heard."""

import random

import pytest
from training import stories
from training.instructions import ANSWERS

LONG = "One day a dog went down to the river and looked for the ball that was lost there."


def test_a_story_is_cut_behind_a_sentence() -> None:
    text = f"{LONG} It was not there! {LONG} {LONG} {LONG} And then"
    cut = stories.cut(text)
    assert cut is not None
    assert text.startswith(cut)
    assert cut.endswith(".")
    assert stories.FEWEST <= len(cut.split()) <= stories.MOST


@pytest.mark.parametrize("text", ["", "A dog.", "word " * 200, f"{LONG}\n\nAnd no end to"])
def test_what_is_no_story_is_left_out(text: str) -> None:
    assert stories.cut(text) is None


def test_only_of_what_is_heard_and_only_as_often_as_wished() -> None:
    r = random.Random(0)
    written = {"dog": ["About a dog."]}
    dog = {"kind": "sound", "text": "dog"}
    mixture = {"kind": "mixture", "text": "Hello.", "sound": "dog"}
    for record in (dog, mixture):
        asked = [stories.told(record, written, 0.25, r) for _ in range(400)]
        assert {one[1] for one in asked if one} == {"About a dog."}
        assert {one[0] for one in asked if one} == set(stories.ASKED)
        assert 60 < sum(one is not None for one in asked) < 140
    speech = {"kind": "speech", "text": "dog"}
    for other in (speech, {"kind": "sound", "text": "cat"}, {"kind": "noise", "text": "silence"}):
        assert stories.told(other, written, 1.0, r) is None
    assert stories.told(dog, {}, 1.0, r) is None


class Teller:
    """Tells of everything in the same way; of rain in circles."""

    def written_answers(self, questions: list[str], most: int) -> list[str]:
        assert most == 90
        circle = f"{LONG} {LONG}"
        return [circle if "water" in q else f"{LONG} That was all." for q in questions]


def test_stories_in_circles_are_left_out() -> None:
    written = stories.written(Teller())
    assert set(written) == set(ANSWERS) - {"water"}
    assert all(story.startswith("One day") for told in written.values() for story in told)


def test_the_wording_that_is_tested_is_not_trained_with() -> None:
    assert stories.UNTOLD not in stories.ASKED
    assert set(ANSWERS) >= {"dog", "music"}
