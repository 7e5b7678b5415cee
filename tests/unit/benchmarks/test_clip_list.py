import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kokanee.benchmarks.clip_list import ClipListError, known_label, read_clip_list

SPEECH = {"path": "a.wav", "kind": "speech", "text": "Press one.", "language": "en"}


def listed(folder: Path, *lines: Any) -> Path:
    """A list with a recording for each path that it names."""
    rng = np.random.default_rng(0)
    for name in ("a.wav", "b.wav", "c.wav", "d.wav", "e.wav"):
        soundfile.write(folder / name, rng.uniform(-0.1, 0.1, 8000), 16000)
    soundfile.write(folder / "silent.wav", np.zeros(8000), 16000)
    path = folder / "list.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", "utf-8")
    return path


def test_what_a_line_says_decides_what_is_asked(tmp_path: Path) -> None:
    found = read_clip_list(
        listed(
            tmp_path,
            SPEECH,
            "",
            {"path": "b.wav", "kind": "sound", "label": "barking dog"},
            {"path": "c.wav", "kind": "music"},
            {"path": "d.wav", "kind": "mixture", "text": "hello", "label": "kazoo"},
            {"path": "e.wav", "kind": "noise"},
            {"path": "silent.wav", "kind": "noise"},
        )
    )
    assert found.broken == ()
    assert [(e.clip.name, e.clip.kind, dict(e.truths)) for e in found.examples] == [
        ("a.wav", "speech", {"words": "Press one.", "kind": "Press one.", "language": "English"}),
        ("b.wav", "sound", {"sound": "dog", "kind": "dog"}),
        ("c.wav", "music", {"kind": ""}),
        ("d.wav", "mixture", {"sound": "kazoo", "words": "hello"}),
        ("e.wav", "noise", {"words": "", "kind": ""}),
        ("silent.wav", "silence", {"words": "", "kind": ""}),
    ]
    assert all(len(e.clip.pcm) == 8000 for e in found.examples)


def test_a_question_is_called_as_it_is_asked_and_may_have_an_answer(tmp_path: Path) -> None:
    asked = {"path": "a.wav", "kind": "question", "text": "Who?"}
    found = read_clip_list(listed(tmp_path, asked, asked | {"path": "b.wav", "answer": "Me."}))
    assert [(e.clip.name, e.clip.kind, dict(e.truths)) for e in found.examples] == [
        ("Who?", "speech", {"question": ""}),
        ("Who?", "speech", {"question": "Me."}),
    ]


@pytest.mark.parametrize(
    ("written", "language"), [("fr", "French"), ("Russian", "Russian"), ("Welsh", "Welsh")]
)
def test_a_language_is_a_name_or_a_code(tmp_path: Path, written: str, language: str) -> None:
    (example,) = read_clip_list(listed(tmp_path, SPEECH | {"language": written})).examples
    assert (example.language, example.truths["language"]) == (language, language)


def test_another_recording_of_the_same_name_is_another_clip(tmp_path: Path) -> None:
    path = listed(tmp_path, SPEECH)
    (before,) = read_clip_list(path).examples
    soundfile.write(tmp_path / "a.wav", np.full(8000, 0.1), 16000)
    (after,) = read_clip_list(path).examples
    assert before.clip.package != after.clip.package


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r":2: expected a JSON object, got \{ \("),
        ("[1]", r":2: expected a JSON object, got \[1\]"),
        ({"kind": "music"}, ":2: expected a path, got kind"),
        ({}, ":2: expected a path, got nothing"),
        ({"path": "b.wav"}, ":2: expected a kind, got path"),
        ({"path": "b.wav", "kind": "noises"}, ":2: kind: expected speech, .*, got noises"),
        ({"path": "b.wav", "kind": "music", "txt": "a"}, ":2: expected path, .*, got txt"),
        ({"path": "b.wav", "kind": "speech", "text": 1}, ":2: text: expected words, got 1"),
        ({"path": "b.wav", "kind": "speech", "text": " "}, ':2: text: expected words, got " "'),
        (
            {"path": "b.wav", "kind": "sound", "text": "hello"},
            ":2: sound: expected label beside the path, got a text",
        ),
        (
            {"path": "b.wav", "kind": "mixture", "text": "hello"},
            ":2: mixture: expected a label, got path, kind, text",
        ),
        (SPEECH, ":2: path: a.wav is named in line 1 already"),
    ],
)
def test_a_line_that_is_wrong_is_told_with_its_number(tmp_path: Path, line: Any, said: str) -> None:
    with pytest.raises(ClipListError, match=f"list.jsonl{said}"):
        read_clip_list(listed(tmp_path, SPEECH, line))


def test_an_empty_list_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipListError, match="expected a JSON object a line, got no line"):
        read_clip_list(listed(tmp_path, "", ""))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ClipListError, match="expected text in UTF-8"):
        read_clip_list(tmp_path / "binary")


def test_recordings_that_cannot_be_read_are_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    lines = [{"path": name, "kind": "music"} for name in ("text.wav", "a.wav", "missing.wav")]
    found = read_clip_list(listed(tmp_path, *lines))
    assert [e.clip.name for e in found.examples] == ["a.wav"]
    assert [(one.line, one.path) for one in found.broken] == [(1, "text.wav"), (3, "missing.wav")]
    assert "no such file" in found.broken[1].error


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Dog", "dog"),
        ("barking dog", "dog"),
        ("farm animal", "farm animal"),
        ("Rain", "water"),
        ("acoustic guitar", "instrument"),
        ("kazoo", "kazoo"),
    ],
)
def test_a_label_stands_for_the_class_that_it_means(label: str, name: str) -> None:
    assert known_label(label) == name
