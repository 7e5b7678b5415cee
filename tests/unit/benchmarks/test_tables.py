"""No number in the README was typed by hand."""

from pathlib import Path

import pytest

from kokanee.benchmarks.tables import rewritten

README = Path(__file__).parents[3] / "README.md"


def test_the_readme_holds_what_was_measured() -> None:
    text = README.read_text("utf-8")
    assert rewritten(text) == text


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the markers"):
        rewritten("nothing here")
