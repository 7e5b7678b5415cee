from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from kokanee.benchmarks import spoken_questions
from kokanee.benchmarks.spoken_questions import (
    PACKAGES,
    clips,
    content_words,
    first_sentence,
    questions,
    same_answer,
)

CAPITAL = "What is the capital of France?"


def test_a_hundred_questions_with_an_answer_each() -> None:
    found = questions()
    assert len({one.question.lower() for one in found}) == 100
    for one in found:
        assert one.question.endswith("?")
        assert one.answer


@pytest.mark.parametrize(
    ("question", "expected", "answer", "same"),
    [
        (CAPITAL, "The capital of France is Paris.", "Paris.", True),
        (CAPITAL, "The capital of France is Paris. It is big.", "It is Paris, in France.", True),
        (CAPITAL, "The capital of France is Paris.", "The capital of France is Lyon.", False),
        (CAPITAL, "The capital of France is Paris.", "What is the capital of France", False),
        ("How many days are in a week?", "A week is 7 days.", "There are seven days.", True),
        ("Can dogs fly?", "No, dogs cannot fly.", "No. They have no wings.", True),
        ("Can dogs fly?", "No, dogs cannot fly.", "Yes, dogs can fly.", False),
        ("Is ice cold?", "Ice is cold.", "Ice is.", True),  # nothing beyond the question
    ],
)
def test_first_sentences_are_compared_by_what_they_add(
    question: str, expected: str, answer: str, same: bool
) -> None:
    assert same_answer(question, expected, answer) is same


@pytest.mark.parametrize("one", questions()[::7], ids=lambda one: one.question)
def test_every_expected_answer_agrees_with_itself(one: spoken_questions.Question) -> None:
    assert same_answer(one.question, one.answer, one.answer)


@given(st.text(), st.text(), st.text())
def test_agreement_has_no_order(question: str, one: str, other: str) -> None:
    assert same_answer(question, one, other) == same_answer(question, other, one)
    assert same_answer(question, one, one)


def test_a_sentence_ends_at_its_mark_or_line() -> None:
    assert first_sentence("It is 3.5 m. Or more.") == "It is 3.5 m."
    assert first_sentence("The answer is 5.\n\nThe answer is 5.") == "The answer is 5."
    assert first_sentence("no mark") == "no mark"
    assert content_words("The capital is Paris", CAPITAL) == {"paris"}


def test_recordings_are_made_once_by_two_voices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = []

    def speak(cache: Path, voice: str, text: str, path: Path) -> None:
        spoken.append(voice)
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(8000, 0.5, np.float32), 16000)

    monkeypatch.setattr(spoken_questions, "_speak", speak)
    made = list(clips(tmp_path))
    assert [clip.name for _, clip in made] == [one.question for one in questions()]
    assert spoken.count("rms") == spoken.count("awb") == 50
    list(clips(tmp_path))
    assert len(spoken) == 100


def test_a_machine_that_cannot_speak_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"flite_cmu_us_rms: .* x86-64 Debian"):
        next(clips(tmp_path))


def test_two_runs_may_speak_the_same_question_at_once(tmp_path: Path) -> None:
    program = tmp_path / "flite/usr/bin/flite_cmu_us_rms"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nsleep 0.2; printf said > "$4"; sleep 0.1\n')  # -t TEXT -o FILE
    program.chmod(0o755)
    path = tmp_path / "spoken-questions/rms-hello.wav"
    with ThreadPoolExecutor() as runs:
        both = [
            runs.submit(spoken_questions._speak, tmp_path, "rms", "Hello?", path) for _ in range(2)
        ]
    assert [run.exception() for run in both] == [None, None]
    assert path.read_text() == "said"
    assert list(path.parent.iterdir()) == [path]


def test_packages_are_pinned() -> None:
    for package in PACKAGES:
        assert len(package.sha256) == 64
        assert package.file.startswith(f"{package.name}_")
