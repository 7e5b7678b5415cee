import pytest

from kokanee.engine import read_audio
from kokanee.runtime.demo import EXAMPLES, RECORDINGS, Example


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.file)
def test_every_recording_is_there_short_and_with_its_source(example: Example) -> None:
    assert 1 < read_audio(RECORDINGS / example.file).seconds < 10
    assert f"`{example.file}`" in (RECORDINGS / "SOURCES.md").read_text("utf-8")


def test_no_recording_is_forgotten() -> None:
    assert {e.file for e in EXAMPLES} == {path.name for path in RECORDINGS.glob("*.wav")}
