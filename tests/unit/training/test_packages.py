"""Packages are unpacked whole, and only with the hash that is on record."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training import packages

pytestmark = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs Debian's dpkg-deb")
FILE = "chimes_1.0_all.deb"


@pytest.fixture
def debs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one package, the only one that is wanted."""
    control = tmp_path / "made/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: chimes\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@example.org>\n"
        "Description: sounds\n"
    )
    (tmp_path / "made/ding.wav").write_bytes(b"ding")
    folder = tmp_path / "debs"
    folder.mkdir()
    made = ["dpkg-deb", "--root-owner-group", "-b", str(tmp_path / "made"), str(folder / FILE)]
    subprocess.run(made, check=True, capture_output=True)
    monkeypatch.setattr(packages, "PACKAGES", ["chimes"])
    monkeypatch.setattr(packages, "OTHERS", ())
    monkeypatch.setattr(packages, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(sys, "argv", ["packages", str(folder), str(tmp_path / "tree")])
    return folder


def recorded(digest: str) -> None:
    packages.RECORD.write_text(json.dumps({"data": [{"deb": FILE, "sha256": digest}, {}]}))


def test_what_is_there_already_is_checked_and_unpacked(debs: Path) -> None:
    recorded(hashlib.sha256((debs / FILE).read_bytes()).hexdigest())
    assert packages.main() == 0
    tree = debs.parent / "tree"
    assert (tree / "chimes/ding.wav").read_bytes() == b"ding"
    assert [path.name for path in tree.iterdir()] == ["chimes"]


def test_another_file_than_the_recorded_one_is_refused(
    debs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded("0" * 64)
    assert packages.main() == 1
    assert f"{FILE}: SHA-256" in capsys.readouterr().err
    assert not (debs.parent / "tree/chimes").exists()
