import json
from pathlib import Path
from typing import Any

import pytest

from kokanee.benchmarks import hearing_pictures
from kokanee.benchmarks.hearing_scores import scored
from kokanee.benchmarks.quality import Row

pytest.importorskip("jiwer")
pytest.importorskip("matplotlib")
pytest.importorskip("whisper_normalizer")


@pytest.fixture(scope="module")
def scores() -> Any:
    rows = [
        Row("p", "a", "sound", "dog", "sound", "A dog."),
        Row("p", "b", "sound", "dog", "sound", "A cat."),
        Row("p", "c", "sound", "kazoo", "sound", "No idea."),
        Row("p", "d", "speech", "Dutch", "language", "Dutch.", "Dutch"),
        Row("p", "e", "noise", "white", "words", "hello"),
    ]
    return json.loads(json.dumps(scored(rows)))


def test_each_picture_is_drawn_if_there_is_something_to_draw(scores: Any, tmp_path: Path) -> None:
    files = hearing_pictures.save_all(scores, tmp_path / "drawn")
    assert [file.name for file in files] == ["figures.png", "confusion.png", "languages.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    again = hearing_pictures.save_all(scores, tmp_path / "again")
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert hearing_pictures.save_all({"figures": {}}, tmp_path / "none") == []


def test_a_cell_is_the_number_of_clips(scores: Any) -> None:
    found = scores["sounds"]["confusion"]
    (axes,) = hearing_pictures.confusion(found, "Sounds").axes
    numbers = [(text.xy, text.get_text()) for text in axes.texts]  # type: ignore[attr-defined]
    # Rows: dog, kazoo; columns: dog, kazoo, cat, none of these.
    assert numbers == [((0, 0), "1"), ((2, 0), "1"), ((3, 1), "1")]


def test_a_bar_is_a_figure_and_its_interval(scores: Any) -> None:
    (axes,) = hearing_pictures.figures(scores["figures"]).axes
    named = [label.get_text() for label in axes.get_yticklabels()]
    assert named[0] == "which sound, of 2 (3)"
    assert "words made up for noise and sounds (1)" in named
    lines: list[Any] = [line.get_xdata() for line in axes.get_lines()]
    one = scores["figures"]["sound_accuracy"]
    assert list(lines[0]) == [100 * one["low"], 100 * one["high"]]
    assert list(lines[1]) == [100 * one["constant"]] * 2
