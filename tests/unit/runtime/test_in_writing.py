"""Words that were heard, as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.runtime.in_writing import punctuated, written_question


@pytest.mark.parametrize(
    ("heard", "written"),
    [
        ("what is the capital of france", "What is the capital of france?"),
        ("What's a tiger", "What's a tiger?"),
        ("whatever you say", "Whatever you say."),
        ("tell me about the moon", "Tell me about the moon."),
        ("can i swim", "Can I swim?"),
        (" is it  cold ", "Is it cold?"),
        ("Stop!", "Stop!"),
        ("What is it?", "What is it?"),
        ("\u4f60\u597d\u5417\uff1f", "\u4f60\u597d\u5417\uff1f"),
        ('He said "no."', 'He said "no."'),
        ("", ""),
    ],
)
def test_a_question_gets_its_capital_and_its_mark(heard: str, written: str) -> None:
    assert punctuated(heard) == written


@given(st.text())
def test_what_is_punctuated_stays_as_it_is(heard: str) -> None:
    once = punctuated(heard)
    assert punctuated(once) == once


@pytest.mark.parametrize(
    "transcript",
    ["", " ", "Nothing is said.", "nothing is said", "[speaking French]", "(music)", "Silence."],
)
def test_where_nobody_asks_there_is_no_question(transcript: str) -> None:
    assert written_question(transcript) == ""


def test_remarks_are_no_part_of_a_question() -> None:
    assert written_question("[door] who is (cough) there") == "Who is there?"
