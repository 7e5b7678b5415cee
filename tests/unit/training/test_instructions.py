"""What nano is taught to answer: every kind of clip, and no wording of the evaluation."""

import random

import pytest
from training import instructions as told

from kokanee.benchmarks.heldout import CLASS_NAMES, class_of
from kokanee.benchmarks.languages import language_of
from kokanee.benchmarks.mixtures import names_both
from kokanee.benchmarks.quality import QUESTIONS, UNSEEN, kind_of, kind_or_silence
from kokanee.benchmarks.unspoken import invents_speech

RECORDS = {
    "speech": {"kind": "speech", "text": "Press 1 to go on.", "n_samples": 32_000},
    "foreign": {"kind": "speech", "text": "", "language": "Czech", "n_samples": 32_000},
    "question": {"kind": "question", "text": "Who?", "answer": "Me.", "n_samples": 16_000},
    "sound": {"kind": "sound", "text": "dog", "n_samples": 16_000},
    "music": {"kind": "music", "text": "music", "n_samples": 64_000},
    "tune": {
        "kind": "music",
        "text": "music",
        "instrument": "organ",
        "solo": True,
        "fast": False,
        "n_samples": 64_000,
    },
    "phrase": {"kind": "sound", "text": "instrument", "phrase": True, "n_samples": 32_000},
    "mixture": {"kind": "mixture", "text": "Hello.", "sound": "bell", "n_samples": 48_000},
    "noise": {"kind": "noise", "text": "noise", "n_samples": 48_000},
    "silence": {"kind": "noise", "text": "silence", "n_samples": 48_000},
}
WORDINGS = {
    wording
    for name, group in vars(told).items()
    if name.isupper() and isinstance(group, tuple)
    for wording in group
}


def asked(name: str, n: int = 600) -> set[tuple[str, str]]:
    r = random.Random(0)
    return {told.task(RECORDS[name], r) for _ in range(n)}


@pytest.mark.parametrize("name", RECORDS)
def test_every_kind_of_clip_is_asked_with_known_wordings(name: str) -> None:
    for question, answer in asked(name):
        assert question in WORDINGS
        assert answer


def test_unseen_wordings_are_unseen() -> None:
    assert not WORDINGS & set(UNSEEN.values())
    assert set(QUESTIONS.values()) <= WORDINGS


@pytest.mark.parametrize("name", ["sound", "music", "noise", "silence"])
def test_where_nobody_speaks_no_words_are_taught(name: str) -> None:
    transcripts = [a for q, a in asked(name) if q in told.TRANSCRIBE]
    assert transcripts
    assert not any(map(invents_speech, transcripts))


@pytest.mark.parametrize(
    ("name", "kind"), [("speech", "speech"), ("sound", "sound"), ("music", "music")]
)
def test_the_kind_taught_is_the_kind_scored(name: str, kind: str) -> None:
    assert {kind_of(a) for q, a in asked(name) if q in told.KIND} == {kind}


def test_what_may_be_music_or_a_sound_is_not_asked_which() -> None:
    questions = {q for q, _ in asked("phrase")}
    assert not questions & {*told.KIND, *told.MUSIC}
    answers = {a for q, a in asked("phrase") if q in told.HEAR}
    assert answers == {"A musical instrument."}


def test_silence_is_scored_as_silence() -> None:
    assert {kind_or_silence(a) for q, a in asked("silence") if q in told.KIND} == {"silence"}


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_an_answer_that_is_taught_names_its_class(name: str) -> None:
    assert class_of(told.sentence(told.ANSWERS[name])) == name


def test_a_mixture_names_both() -> None:
    heard = [a for q, a in asked("mixture") if q in told.HEAR]
    assert heard
    assert all(names_both(a, "bell") for a in heard)


def test_the_language_taught_is_the_language_scored() -> None:
    assert {language_of(a) for q, a in asked("foreign") if q in told.LANGUAGE} == {"Czech"}


def test_captions() -> None:
    assert told.captions(RECORDS["speech"]) == (" press one to go on",)
    assert told.captions(RECORDS["foreign"]) == (" [Czech",)
    assert told.captions(RECORDS["silence"]) == (" [silence",)
    assert told.captions(RECORDS["music"]) == (" [music",)
    assert told.captions(RECORDS["tune"]) == (" [a musical instrument",)


def test_a_mixture_may_name_its_sound_before_the_words_or_after_them() -> None:
    ways = told.captions(RECORDS["mixture"])
    assert ways == (" hello [a bell ringing", " [a bell ringing hello")
    assert [told.words_of(way) for way in ways] == ["hello", "hello"]
    assert told.words_of(" a bell ringing is not a name") == "a bell ringing is not a name"
    assert told.words_of(" hello [a bel") == "hello a bel", "half a name is words"


@pytest.mark.parametrize(("level", "answer"), [(-40.0, "Soft."), (-15.0, "Loud."), (-28.0, None)])
def test_a_level_is_asked_about_where_it_is_plain(level: float, answer: str | None) -> None:
    r = random.Random(0)
    record = {**RECORDS["speech"], "level_db": level}
    answers = {a for q, a in (told.task(record, r) for _ in range(600)) if q in told.LEVEL}
    assert answers == ({answer} if answer else set())
