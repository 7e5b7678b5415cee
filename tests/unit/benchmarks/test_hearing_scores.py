import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.benchmarks.hearing_scores import (
    NOTHING,
    confusion,
    recalls,
    scored,
    tallies,
    whisper_english,
    word_errors,
)
from kokanee.benchmarks.heldout import CLASS_NAMES, normalised, word_error_rate
from kokanee.benchmarks.quality import Row
from kokanee.benchmarks.spoken_questions import questions
from kokanee.benchmarks.tally import estimate

pytest.importorskip("jiwer")
pytest.importorskip("whisper_normalizer")

QUESTION = questions()[0]


def values(rows: list[Row]) -> dict[str, float]:
    return {tally.name: estimate(tally).value for tally in tallies(rows)}


def words(
    name: str, truth: str, answer: str, kind: str = "speech", language: str = "English"
) -> Row:
    return Row("p", name, kind, truth, "words", answer, language)


def test_no_answers_give_no_figures() -> None:
    assert tallies([]) == []
    assert scored([]) == {"figures": {}}


def test_words_are_counted_over_all_clips() -> None:
    rows = [words("a", "press one now", "press 1"), words("b", "hello", "hello there")]
    found = values(rows)
    assert found["word_error_rate"] == 2 / 4
    assert found["word_error_rate_whisper"] == 2 / 4
    assert found["sentences_right"] == 0


def test_short_and_long_texts_have_rates_of_their_own() -> None:
    rows = [
        words("a", "hello there", "hello"),
        words("b", "press one to go on", "press one to go"),
        words("c", "one " * 16, "one " * 12),
    ]
    found = values(rows)
    assert found["word_error_rate_1_3"] == 1 / 2
    assert found["word_error_rate_4_15"] == 1 / 5
    assert found["word_error_rate_16"] == 4 / 16
    assert found["word_error_rate"] == 6 / 23
    assert "word_error_rate_16" not in values(rows[:2])


WORDS = st.lists(st.sampled_from(["press", "one", "two", "the", "pound", "key"]), max_size=6)


@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=5))
def test_the_rate_is_the_one_that_was_always_reported(
    pairs: list[tuple[list[str], list[str]]],
) -> None:
    said = [(" ".join(truth), " ".join(answer)) for truth, answer in pairs]
    errors = [word_errors(truth, answer, normalised) for truth, answer in said]
    rate = sum(wrong for wrong, _ in errors) / sum(n for _, n in errors)
    truths, answers = zip(*said, strict=True)
    assert rate == pytest.approx(word_error_rate(truths, answers))


def test_the_standard_normaliser_knows_spellings_and_contractions() -> None:
    assert word_errors("The colour isn't grey.", "the color is not gray", whisper_english()) == (
        0,
        5,
    )
    assert word_errors("[beep]", "beep", whisper_english()) == (0, 0)


def test_other_languages_keep_their_letters() -> None:
    rows = [words("a", "Où êtes-vous ?", "où êtes vous", language="French")]
    rows += [words("b", "Привет, мир!", "привет", language="Russian")]
    assert values(rows) == {"word_error_rate_other_languages": 1 / 5}


def test_kinds_with_and_without_silence() -> None:
    rows = [
        Row("p", "a", "speech", "", "kind", "Speech."),
        Row("p", "b", "music", "", "kind", "A sound."),
        Row("p", "c", "noise", "", "kind", "A sound."),
        Row("p", "d", "silence", "", "kind", "Silence."),
    ]
    found = values(rows)
    assert found["kind_accuracy"] == 1 / 2
    assert found["kind4_accuracy"] == 3 / 4
    assert found["kind4_balanced"] == 3 / 4
    assert "kind4_accuracy" not in values(rows[:3])


def test_of_a_mixture_both_must_be_heard() -> None:
    rows = []
    for name, sound, said in (
        ("a", "Speech over a dog barking.", "press one for more"),
        ("b", "A dog barking.", "press two for more"),
        ("c", "Somebody speaking.", "press one for more"),
        ("d", "A voice and a dog.", "hello"),
    ):
        rows.append(Row("p", name, "mixture", "dog", "sound", sound))
        rows.append(words(name, "press one for more", said, "mixture"))
    found = values(rows)
    assert found["mixture_named"] == 2 / 4
    assert found["mixture_both"] == 2 / 4  # a quarter of the words of b is wrong
    assert found["mixture_word_error_rate"] == (0 + 1 + 0 + 4) / 16
    assert "word_error_rate" not in found
    assert "sound_accuracy" not in found


def test_inventions_are_counted_where_nobody_speaks() -> None:
    rows = [
        words("a", "white", "hello", "noise"),
        words("b", "silence", "Nothing is said.", "silence"),
        words("c", "dog", "woof", "sound"),
        words("d", "dog", "", "sound"),
        words("e", "laugh", "ha ha", "sound"),
        words("f", "music", "la la la", "music"),
    ]
    assert values(rows) == {
        "invented_speech": 2 / 4,
        "invented_speech_noise": 1 / 2,
        "invented_speech_sound": 1 / 2,
        "invented_speech_music": 1,
    }


def test_questions_and_languages() -> None:
    rows = [
        Row("p", QUESTION.question, "speech", QUESTION.answer, "question", QUESTION.answer),
        Row("p", "no", "speech", "Paris.", "question", "Rome."),
        Row("p", "a", "speech", "French", "language", "French.", "French"),
        Row("p", "b", "speech", "Dutch", "language", "English.", "Dutch"),
        Row("p", "c", "speech", "Swahili", "language", "It is Swahili.", "Swahili"),
    ]
    assert values(rows) == {"language_accuracy": 2 / 3, "question_agreement": 1 / 2}


def test_a_confusion_has_what_is_right_on_its_diagonal() -> None:
    pairs = [("dog", "dog"), ("dog", "cat"), ("cat", "cat"), ("kazoo", None), ("dog", "bird")]
    found = confusion(pairs, CLASS_NAMES)
    assert found.truths == ("cat", "dog", "kazoo")
    assert found.answers == ("cat", "dog", "kazoo", "bird", NOTHING)
    assert found.counts == ((1, 0, 0, 0, 0), (1, 1, 0, 1, 0), (0, 0, 0, 0, 1))
    assert recalls(pairs, CLASS_NAMES)["dog"].value == pytest.approx(1 / 3)


PAIRS = st.lists(
    st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.sampled_from("abcd"))), min_size=1
)


@given(PAIRS)
def test_every_answer_is_in_the_confusion_once(pairs: list[tuple[str, str | None]]) -> None:
    found = confusion(pairs, "cb")
    assert sum(map(sum, found.counts)) == len(pairs)
    for name, one in recalls(pairs, "cb").items():
        i = found.truths.index(name)
        assert one.n == sum(found.counts[i])
        assert one.value == pytest.approx(found.counts[i][i] / one.n)


def test_scores_are_plain_json() -> None:
    rows = [
        Row("p", "a", "sound", "dog", "sound", "A dog."),
        Row("p", "b", "speech", "Dutch", "language", "Dutch.", "Dutch"),
    ]
    found = json.loads(json.dumps(scored(rows)))
    assert found["figures"]["sound_accuracy"] == {
        "says": "which sound, of 1",
        "value": 1.0,
        "low": 1.0,
        "high": 1.0,
        "n": 1,
        "better": "more",
        "constant": 1.0,
    }
    assert found["sounds"]["confusion"]["counts"] == [[1, 0]]
    assert found["languages"]["recall"]["Dutch"]["value"] == 1
