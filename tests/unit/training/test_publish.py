"""The history that is published with the weights: runs once each, their minutes added."""

import json
from pathlib import Path

import pytest
from training.publish import curve, hours_of, run_of


def rows(run: str, *minutes: float) -> list[dict[str, object]]:
    return [{"run": run, "minutes": m} for m in minutes]


def test_a_run_is_published_once_however_often_it_is_published(tmp_path: Path) -> None:
    folder = tmp_path / "instruct8"
    folder.mkdir()
    lines = [json.dumps({"minutes": m}) for m in (30.0, 84.0)]
    (folder / "curve.jsonl").write_text("\n".join(lines) + "\n")
    earlier = rows("instruct7", 20.0)
    once = curve(folder, earlier)
    assert once == earlier + rows("instruct8", 30.0, 84.0)
    assert curve(folder, once) == once
    with pytest.raises(ValueError, match="instruct8: another run of this name is published"):
        curve(folder, rows("instruct8", 5.0))


def test_hours_are_those_of_every_run() -> None:
    # A run whose first row is later than the last one of the run before counts all the same.
    assert hours_of(rows("a", 10.0) + rows("b", 28.0, 53.0) + rows("c", 3.0)) == 1.1


def test_a_run_is_named_with_its_stage() -> None:
    assert run_of("align=align7") == ("align", "align7")
    for text in ("align7", "aligned=x", "align="):
        with pytest.raises(Exception, match="expected audio_encoder"):
            run_of(text)
