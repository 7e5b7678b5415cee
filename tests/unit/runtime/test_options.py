from pathlib import Path

import click
import pytest

from kokanee.runtime.options import Words, read_words


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
