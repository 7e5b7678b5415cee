import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kokanee.benchmarks.heldout import Clip
from kokanee.benchmarks.quality import (
    QUESTIONS,
    UNSEEN,
    Example,
    Row,
    ask_all,
    ask_examples,
    chosen,
    heard_class,
    kind_of,
    kind_or_silence,
    scores,
)

KINDS = ("speech", "sound", "music")


def clip(name: str, kind: str, text: str) -> Clip:
    return Clip("package", name, kind, text, "CC0", np.zeros(160, np.float32))  # type: ignore[arg-type]


CLIPS = [
    clip("a", "speech", "press one"),
    clip("b", "sound", "dog"),
    clip("c", "sound", "cat"),
    clip("d", "sound", "dog"),
    clip("e", "music", "music"),
]


class Model:
    """Hears a dog in everything, and counts how often it was asked."""

    def __init__(self) -> None:
        self.n_heard = 0

    def __call__(self, clip: Clip, questions: Sequence[str]) -> list[str]:
        self.n_heard += 1
        return ["A dog barking, a sound." for _ in questions]


def quiet(n_done: int, n_total: int) -> None:
    pass


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    log = tmp_path / "eval" / "log.jsonl"
    first, second = Model(), Model()
    ask_all(first, CLIPS[:2], log, progress=quiet)
    with log.open("a") as file:
        file.write('{"package": "pack')  # killed while writing
    assert first.n_heard == 2
    rows = ask_all(second, CLIPS, log, progress=quiet)
    assert second.n_heard == 3
    third = Model()
    assert ask_all(third, CLIPS, log, progress=quiet) == rows
    assert third.n_heard == 0


def test_scores_stand_beside_the_best_constant_answer(tmp_path: Path) -> None:
    pytest.importorskip("jiwer")
    found = scores(ask_all(Model(), CLIPS, tmp_path / "log.jsonl", progress=quiet))
    assert found["words"]["wer"] == 2.5  # five words said, two wrong and three too many
    assert found["words"]["exact"] == 0
    assert found["sound"] == {
        "n": 3,
        "n_classes": 2,
        "top1": 0.6667,
        "balanced": 0.5,
        "majority": 0.6667,
        "recall": {"cat": [0, 1], "dog": [2, 2]},
    }
    assert found["kind"]["recall"] == {"music": [0, 1], "sound": [3, 3], "speech": [0, 1]}


def test_words_are_compared_without_case_and_punctuation() -> None:
    pytest.importorskip("jiwer")
    row = Row("package", "a", "speech", "Press 1, please.", "words", "press one please")
    assert scores([row])["words"]["wer"] == 0
    assert scores([row])["words"]["exact"] == 1


def test_no_clips_give_no_figures() -> None:
    assert scores([]) == {"words": {"n": 0}, "sound": {"n": 0}, "kind": {"n": 0}}


def test_a_limit_takes_the_same_clips_of_each_kind_every_time() -> None:
    few = chosen(CLIPS, 1)
    assert sorted(c.kind for c in few) == ["music", "sound", "speech"]
    assert chosen(reversed(CLIPS), 1) == few
    assert len(chosen(CLIPS, None)) == 5


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("Speech.", "speech"),
        ("It is music, not speech.", "music"),
        ("A sound.", "sound"),
        ("Somebody is talking.", "speech"),
        ("Soundly.", "sound"),
        ("No idea.", None),
    ],
)
def test_the_kind_an_answer_names_first_counts(answer: str, kind: str | None) -> None:
    assert kind_of(answer) == kind


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("Silence.", "silence"),
        ("Nothing, it is quiet.", "silence"),
        ("A sound, then silence.", "sound"),
        ("Speech.", "speech"),
        ("No idea.", None),
    ],
)
def test_silence_is_a_fourth_kind(answer: str, kind: str | None) -> None:
    assert kind_or_silence(answer) == kind


def test_a_truth_that_was_corrected_counts_without_asking_again(tmp_path: Path) -> None:
    log, model = tmp_path / "log.jsonl", Model()
    heard = clip("a", "sound", "cat")
    ask_examples(model, [Example(heard, {"sound": "cat"})], log, progress=quiet)
    (row,) = ask_examples(model, [Example(heard, {"sound": "dog"})], log, progress=quiet)
    assert (row.truth, model.n_heard) == ("dog", 1)


def test_only_what_is_missing_is_asked_and_in_the_given_words(tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []

    def model(clip: Clip, questions: Sequence[str]) -> list[str]:
        asked.append(questions)
        return ["A dog." for _ in questions]

    log, heard = tmp_path / "log.jsonl", clip("a", "sound", "dog")
    few, more = Example(heard, {"sound": "dog"}), Example(heard, {"sound": "dog", "kind": "dog"})
    ask_examples(model, [few], log, progress=quiet, wordings=UNSEEN)
    rows = ask_examples(model, [more], log, progress=quiet, wordings=UNSEEN)
    assert asked == [[UNSEEN["sound"]], [UNSEEN["kind"]]]
    assert [row.task for row in rows] == ["sound", "kind"]


def test_every_question_has_two_wordings() -> None:
    assert QUESTIONS.keys() == UNSEEN.keys()
    assert not set(QUESTIONS.values()) & set(UNSEEN.values())


def test_rows_of_an_older_log_are_read(tmp_path: Path) -> None:
    log, model = tmp_path / "log.jsonl", Model()
    old = {"package": "package", "name": "a", "kind": "sound", "truth": "dog", "task": "sound"}
    log.write_text(json.dumps({**old, "answer": "A dog."}) + "\n", "utf-8")
    heard = clip("a", "sound", "dog")
    (row,) = ask_examples(model, [Example(heard, {"sound": "dog"})], log, progress=quiet)
    assert (row.answer, row.language, model.n_heard) == ("A dog.", "English", 0)


def test_what_else_is_asked_leaves_the_three_scores_alone(tmp_path: Path) -> None:
    pytest.importorskip("jiwer")
    rows = ask_all(Model(), CLIPS, tmp_path / "log.jsonl", progress=quiet)
    more = [
        Row("p", "m", "mixture", "cat", "sound", "A cat."),
        Row("p", "m", "mixture", "hello", "words", "hello"),
        Row("p", "n", "noise", "white", "words", "hello"),
        Row("p", "n", "noise", "white", "kind", "A sound."),
        Row("p", "b", "sound", "dog", "words", "Nothing is said."),
        Row("p", "f", "speech", "bonjour", "words", "bonjour", "French"),
        Row("p", "f", "speech", "French", "language", "French.", "French"),
    ]
    assert scores([*rows, *more]) == scores(rows)


@pytest.mark.parametrize(
    ("truth", "answer", "heard"),
    [
        ("dog", "A dog barking.", "dog"),
        ("dog", "A cat.", "cat"),
        ("vacuum cleaner", "It is a vacuum cleaner.", "vacuum cleaner"),
        ("vacuum cleaner", "An engine.", "engine"),
        ("kazoo", "Some kazoos.", None),
    ],
)
def test_a_name_that_is_no_class_counts_by_its_words(
    truth: str, answer: str, heard: str | None
) -> None:
    assert heard_class(truth, answer) == heard
