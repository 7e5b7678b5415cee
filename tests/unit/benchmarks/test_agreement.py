from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from kokanee.benchmarks.agreement import (
    CHUNK,
    beside_reading,
    compared,
    equal_answers,
    streamed_answers,
)
from kokanee.benchmarks.quality import Row
from kokanee.benchmarks.tally import estimate
from kokanee.engine import EXACT, FAST, Engine

pytest.importorskip("jiwer")
pytest.importorskip("whisper_normalizer")


def rows(*answers: str) -> list[Row]:
    return [Row("p", str(i), "sound", "dog", "sound", answer) for i, answer in enumerate(answers)]


def test_answers_are_equal_to_the_last_character() -> None:
    tally = equal_answers(rows("A dog.", "A dog.", "A cat."), rows("A dog. ", "A dog", "A cat."))
    assert tally is not None
    assert estimate(tally).value == pytest.approx(2 / 3)
    assert equal_answers(rows("A dog."), []) is None


def test_a_clip_is_drawn_with_all_its_answers() -> None:
    more = [Row("p", "0", "sound", "dog", "kind", "A sound.")]
    tally = equal_answers([*rows("A dog."), *more], [*rows("A cat."), *more])
    assert tally is not None
    assert (tally.counted, tally.out_of) == ((1.0,), (2.0,))


def test_each_figure_says_how_much_more_the_other_has() -> None:
    found = compared(rows("A cat.", "A cat.", "A dog."), rows("A dog.", "A cat.", "A dog."))
    assert found["equal_answers"]["all"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["equal_answers"]["sound"] == found["equal_answers"]["all"]
    moved = found["figures"]["sound_accuracy"]
    assert moved["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert moved["difference"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert moved["difference"]["low"] == 0


def test_hearing_is_told_apart_from_what_the_bits_of_the_language_model_change() -> None:
    def asked(*answers: str) -> list[Row]:
        names = ("What is the capital of Italy?", "What do cats eat?", "Is the sun hot?")
        kept = ("It is Rome.", "Cats eat mice.", "Yes, it is.")
        return [
            Row("flite-1", name, "speech", truth, "question", answer)
            for name, truth, answer in zip(names, kept, answers, strict=True)
        ]

    found = beside_reading(
        asked("It is Rome.", "Dogs eat bones.", "No."),
        asked("It is Rome.", "They eat fish.", "No."),
        asked("It is Rome.", "Cats eat fish.", "No, it is not."),
    )
    # The second and third are other answers than the kept ones, but the bundle's own.
    assert {k: one["value"] for k, one in found.items()} == pytest.approx(
        {"at_once": 2 / 3, "in_writing": 1.0, "kept": 1 / 3}, abs=1e-4
    )
    assert found["kept"]["n"] == 3


def test_no_answer_is_not_the_same_as_another_one_without_words() -> None:
    row = Row("p", "Who?", "speech", "", "question", "...")
    found = beside_reading([row], [Row("p", "Who?", "speech", "", "question", "")], [row])
    assert found["in_writing"]["value"] == 0
    assert "kept" not in found  # nobody gave an answer


class Hearing:
    """Remembers what came."""

    def __init__(self) -> None:
        self.chunks: list[int] = []
        self.settled = False

    def append(self, pcm: np.ndarray) -> None:
        assert not self.settled
        self.chunks.append(len(pcm))

    def catch_up(self) -> None:
        pass

    def settle(self) -> None:
        self.settled = True


class Answering:
    """A session that says what it was asked."""

    def __init__(self) -> None:
        self.hearing = Hearing()

    def listen(self, streaming: object) -> Hearing:
        return self.hearing

    def ask(self, question: str, *, max_new_tokens: int) -> Any:
        assert self.hearing.settled
        return type("Answer", (), {"text": lambda self: question})()


def test_a_sound_comes_in_tenths_of_a_second() -> None:
    session: Any = Answering()
    pcm = np.zeros(2 * CHUNK + 5, np.float32)
    assert streamed_answers(session, pcm, ["one", "two"], streaming=FAST) == ["one", "two"]
    assert session.hearing.chunks == [CHUNK, CHUNK, 5]


def test_an_exact_stream_answers_as_the_whole_sound(tiny_engine: Engine) -> None:
    pcm = np.random.default_rng(0).uniform(-0.1, 0.1, 25_000).astype(np.float32)
    questions: Sequence[str] = ("What do you hear?", "Write down what is said.")
    with tiny_engine.session() as session:
        session.hear(pcm)
        whole = [session.ask(q, max_new_tokens=64).text() for q in questions]
        assert streamed_answers(session, pcm, questions, streaming=EXACT) == whole
