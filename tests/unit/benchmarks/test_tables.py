"""No number in the documents was typed by hand."""

from pathlib import Path

import pytest

from kokanee.benchmarks.tables import DOCUMENTS, rewritten

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_documents_hold_what_was_measured(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert rewritten(text, name) == text


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"README\.md: expected the markers"):
        rewritten("nothing here", "README.md")
