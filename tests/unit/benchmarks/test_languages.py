from pathlib import Path

import numpy as np
import pytest
import soundfile

from kokanee.benchmarks import languages
from kokanee.benchmarks.heldout import is_held_out
from kokanee.benchmarks.languages import LANGUAGES, clips, language_named, language_of


@pytest.mark.parametrize(
    ("answer", "language"),
    [
        ("French.", "French"),
        ("It sounds like Dutch, or German.", "Dutch"),
        ("They speak Czech, not Russian.", "Czech"),
        ("Spanish is spoken here.", "Spanish"),
        ("C'est du français.", "French"),
        ("Somebody is speaking.", None),
        ("", None),
    ],
)
def test_the_language_an_answer_names_first_counts(answer: str, language: str | None) -> None:
    assert language_of(answer) == language


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda one: one.name)
def test_a_language_goes_by_name_and_by_code(language: languages.Language) -> None:
    for written in (language.name, language.name.upper(), language.code, f"{language.code}-XX"):
        assert language_named(written) == language.name
    assert language_of(f"{language.name}.") == language.name


def test_other_languages_are_none_of_ours() -> None:
    assert language_named("de") is None
    assert language_named("Esperanto") is None


def test_all_that_is_heard_is_held_out() -> None:
    for language in LANGUAGES:
        name = f"sound/library/{language.code}/a{language.suffix}"
        assert is_held_out(language.package.name, name)


def test_clips_are_cut_and_what_says_nothing_is_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    italian = next(one for one in LANGUAGES if one.name == "Italian")
    tree = tmp_path / italian.package.name / "usr"
    for name, seconds, level in (
        ("long", 12.0, 0.1),
        ("fit", 2.0, 0.1),
        ("short", 0.9, 0.1),
        ("silence/2", 2.0, 0.0),
        ("beep", 2.0, 0.1),
        ("empty", 2.0, 0.001),
    ):
        path = tree / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, level * rng.uniform(-1, 1, round(seconds * 8000)), 8000)
    found = {clip.name: clip for language, clip in clips(tmp_path) if language == "Italian"}
    lengths = {name: len(clip.pcm) / 16000 for name, clip in found.items()}
    assert lengths == {"usr/long.wav": 8.0, "usr/fit.wav": 2.0}


def test_no_more_than_so_many_of_a_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(languages, "CLIPS_EACH", 2)
    tree = tmp_path / "asterisk-prompt-it-menardi-wav"
    tree.mkdir()
    pcm = np.random.default_rng(0).uniform(-0.1, 0.1, 16000)
    for i in range(5):
        soundfile.write(tree / f"{i}.wav", pcm, 8000)
    first = [clip.name for _, clip in clips(tmp_path)]
    assert len(first) == 2
    assert [clip.name for _, clip in clips(tmp_path)] == first
