"""What is recorded of nano's hearing, and what its bundle states, are one and the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from kokanee.benchmarks import hearing_record

NOW = json.loads((hearing_record.RESULTS / "hearing_nano.json").read_text("utf-8"))["now"]


def test_the_bundle_states_what_is_recorded() -> None:
    stated = json.loads(hearing_record.MEASURED.read_text("utf-8"))["quality"]
    assert hearing_record.quality(NOW, NOW) == stated | {"float": stated["int4"]}


def test_records_are_of_the_same_two_bundles_and_of_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("hearing_nano.json", "quality_nano.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "measured.json").write_text('{"parity": {}}')
    monkeypatch.setattr(hearing_record, "RESULTS", tmp_path)
    monkeypatch.setattr(hearing_record, "MEASURED", tmp_path / "measured.json")
    both = NOW | {"folder": "/somewhere/nano", "log": "/somewhere/log"}
    (beside,) = both["beside"]
    floats = NOW | {"manifest_sha256": beside["manifest_sha256"]}
    (tmp_path / "both.json").write_text(json.dumps(both))
    (tmp_path / "float.json").write_text(json.dumps(floats))
    arguments = ["hearing_record", str(tmp_path / "both.json"), str(tmp_path / "float.json")]
    monkeypatch.setattr(sys, "argv", arguments)

    hearing_record.main()
    assert "/somewhere" not in (tmp_path / "hearing_nano.json").read_text()
    assert json.loads((tmp_path / "hearing_nano.json").read_text())["now"]["folder"] == "nano"
    assert json.loads((tmp_path / "measured.json").read_text()).keys() == {"parity", "quality"}

    (tmp_path / "float.json").write_text(json.dumps(NOW))
    with pytest.raises(SystemExit):
        hearing_record.main()
    assert "another bundle than the one beside nano" in capsys.readouterr().err
