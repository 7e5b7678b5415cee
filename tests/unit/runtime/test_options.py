from pathlib import Path
from typing import Any

import click
import pytest

from kokanee.engine import BeamSearch, Sampling
from kokanee.runtime.options import Words, make_search, make_transcript_search, read_words

SAID: dict[str, Any] = {
    "beams": None,
    "length_penalty": None,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": None,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "seed": None,
}
FOUR = BeamSearch(n_beams=4)


@pytest.mark.parametrize(
    ("words", "task", "raw", "expected"),
    [
        (("x.wav", "What?"), None, None, ("nano", "x.wav", "What?")),
        (("b", "x.wav", "What?"), None, None, ("b", "x.wav", "What?")),
        (("x.wav",), "asr", None, ("nano", "x.wav", None)),
        (("nano", "x.wav"), "asr", None, ("nano", "x.wav", None)),
        (("x.wav", "Who?"), "qa", None, ("nano", "x.wav", "Who?")),
        (("b", "x.wav", "Who?"), "qa", None, ("b", "x.wav", "Who?")),
        (("x.wav",), None, "<SpeechHere>", ("nano", "x.wav", None)),
        (("b", "x.wav"), None, "<SpeechHere>", ("b", "x.wav", None)),
    ],
)
def test_bundle_file_and_question_are_told_apart(
    words: tuple[str, ...],
    task: str | None,
    raw: str | None,
    expected: tuple[str, str, str | None],
) -> None:
    bundle, file, question = expected
    assert read_words(words, task=task, raw_prompt=raw) == Words(bundle, Path(file), question)


def test_a_folder_before_a_file_is_a_bundle_also_with_a_task(tmp_path: Path) -> None:
    words = read_words((str(tmp_path), "x.wav"), task="asr", raw_prompt=None)
    assert words == Words(str(tmp_path), Path("x.wav"), None)


@pytest.mark.parametrize("words", [(), ("x.wav",), ("b", "x.wav", "What?", "more")])
def test_too_few_or_too_many_words_are_shown_with_what_was_expected(words: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError, match=r'Expected \[BUNDLE\] FILE "QUESTION", got: '):
        read_words(words, task=None, raw_prompt=None)


@pytest.mark.parametrize(
    ("said", "answer", "transcript"),
    [
        ({}, Sampling(), FOUR),
        ({"beams": 1}, Sampling(), Sampling()),
        ({"beams": 2}, BeamSearch(n_beams=2), BeamSearch(n_beams=2)),
        ({"temperature": 0.5}, Sampling(temperature=0.5), Sampling(temperature=0.5)),
        (
            {"no_repeat_ngram_size": 0},
            Sampling(no_repeat_ngram_size=0),
            BeamSearch(n_beams=4, no_repeat_ngram_size=0),
        ),
    ],
)
def test_transcripts_are_searched_as_the_bundle_says_unless_told_otherwise(
    said: dict[str, Any], answer: Sampling | BeamSearch, transcript: Sampling | BeamSearch
) -> None:
    assert make_search(**SAID | said) == answer
    assert make_transcript_search(FOUR, **SAID | said) == transcript
    assert make_transcript_search(Sampling(), **SAID | said) == answer


def test_a_penalty_of_length_needs_beams() -> None:
    said = SAID | {"length_penalty": 2.0}
    assert make_transcript_search(FOUR, **said) == BeamSearch(n_beams=4, length_penalty=2.0)
    for beams in (None, 1):
        with pytest.raises(click.UsageError, match="--length-penalty goes with --beams"):
            make_search(**said | {"beams": beams})
