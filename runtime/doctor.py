"""`kokanee doctor`: what this machine has, what it lacks, and the command that mends it."""

import dataclasses
import importlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import options
from .memory import machine_mb

State = Literal["ok", "missing", "broken"]  # missing: some commands work without it

NEEDED = ("numpy", "onnxruntime", "tokenizers", "soundfile", "soxr", "click", "rich", "safetensors")
NANO_PEAK_MB = 450.0
NANO_BUILD_MB = 700.0  # downloads, joined weights and bundle side by side
CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    what: str
    state: State
    found: str
    mend: str = ""  # a command, or a sentence


@click.command()
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="cuda: try it."
)
@options.cache_dir
@options.as_json
def command(*, device: str, cache_dir: Path | None, as_json: bool) -> None:
    """Say what is installed, what is missing and what mends it.

    Exits with 1 if something is broken without which nothing works.
    """
    findings = list(_look(device, cache_dir))
    broken = any(finding.state == "broken" for finding in findings)
    if as_json:
        found = [dataclasses.asdict(finding) for finding in findings]
        click.echo(json.dumps({"ok": not broken, "findings": found}))
    else:
        table = Table(box=None)
        for title in ("", "", "", "what mends it"):
            table.add_column(title, overflow="fold")
        colours = {"ok": "green", "missing": "yellow", "broken": "red"}
        for f in findings:
            table.add_row(f.what, Text(f.state, colours[f.state]), f.found, f.mend)
        Console(markup=False).print(table)  # [cuda] is an extra, not a colour
    if broken:
        raise click.exceptions.Exit(1)


def _look(device: str, cache_dir: Path | None) -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.platform()}")
    packages = list(_packages())
    yield from packages
    yield _microphones()
    yield _memory()
    if all(package.state == "ok" for package in packages):
        yield _provider(device)
        yield from _cache(cache_dir)


def _packages() -> Iterator[Finding]:
    for name in NEEDED:
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            try:
                # The GPU wheel brings the same module under another distribution name.
                yield Finding(name, "ok", f"{metadata.version(name + '-gpu')} (gpu)")
            except metadata.PackageNotFoundError:
                yield Finding(name, "broken", "not installed", f"pip install {name}")


def _provider(device: str) -> Finding:
    what = "execution providers"
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except ImportError as error:  # built for another processor, or half installed
        return Finding(what, "broken", str(error), "pip install --force-reinstall onnxruntime")
    listed: list[str] = onnxruntime.get_available_providers()
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in listed)
    if device != "cuda":
        return Finding(what, "ok", names)
    # Both wheels hold the module onnxruntime: the first must go, and takes files of the second.
    mend = (
        "pip install 'kokanee[cuda]' && pip uninstall -y onnxruntime"
        " && pip install --force-reinstall --no-deps onnxruntime-gpu"
    )
    if CUDA not in listed:
        return Finding(what, "missing", f"{names}; no CUDA", mend)
    # A listed provider may still fail to start; only a session tells.
    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(_identity_model(), providers=[CUDA])
    if CUDA not in session.get_providers():
        found = f"{names}; CUDA is listed but does not start"
        return Finding(what, "missing", found, "install CUDA 13 and cuDNN 9")
    return Finding(what, "ok", f"{names}; CUDA starts")


def _microphones() -> Finding:
    what = "microphones"
    try:  # imported here: a missing package is for `_packages` to tell
        from kokanee.engine.errors import DeviceError

        from .portaudio import list_devices, none_found
    except ImportError as error:
        return Finding(what, "missing", f"{error.name} is not installed", "see above")
    try:
        names = [device.name for device in list_devices()]
    except DeviceError as error:
        found, _, mend = str(error).partition("; ")
        return Finding(what, "missing", found, mend)
    if not names:
        found, _, mend = str(none_found()).partition("; ")
        return Finding(what, "missing", found, mend)
    return Finding(what, "ok", ", ".join(names))


def _memory() -> Finding:
    mb = machine_mb()
    found = f"{os.cpu_count()} cores, " + ("unknown" if mb is None else f"{mb / 1e3:.1f} GB")
    if mb is not None and mb < NANO_PEAK_MB:
        return Finding("memory", "broken", found, f"nano needs {NANO_PEAK_MB:.0f} MB")
    return Finding("memory", "ok", found)


def _cache(cache_dir: Path | None) -> Iterator[Finding]:
    # Imported here: without the packages this could not even say that they are missing.
    from kokanee.engine.manifest import FILE_NAME
    from kokanee.export.nano import default_cache, nano_folder

    cache = cache_dir or default_cache()
    yield _disk(cache)
    try:
        folder = nano_folder(cache)
    except FileNotFoundError as error:
        found = f"{Path(error.filename).name} is missing from the installation"
        mend = f"{sys.executable} -m pip install --force-reinstall kokanee"
        yield Finding("nano", "broken", found, mend)
        return
    if (folder / FILE_NAME).is_file():
        yield Finding("nano", "ok", str(folder))
    else:
        yield Finding("nano", "missing", "not built yet", "kokanee build")


def _disk(cache: Path) -> Finding:
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free_mb = shutil.disk_usage(there).free / 1e6
    found = f"{free_mb / 1e3:.1f} GB free for {cache}"
    if not os.access(there, os.W_OK):
        return Finding("cache", "broken", f"{cache} cannot be written", "choose a --cache-dir")
    if free_mb < NANO_BUILD_MB:
        return Finding("cache", "missing", found, f"free {NANO_BUILD_MB:.0f} MB to build nano")
    return Finding("cache", "ok", found)


def _identity_model() -> bytes:
    """The smallest ONNX graph, y = x, spelled as protobuf: the package onnx may be absent."""

    def field(number: int, value: bytes | int) -> bytes:
        if isinstance(value, int):
            return bytes([number << 3, value])
        return bytes([number << 3 | 2, len(value)]) + value

    shape = field(2, field(1, field(1, 1)))  # TypeProto.Tensor.shape.dim.dim_value
    tensor = field(2, field(1, field(1, 1) + shape))  # ValueInfoProto.type.tensor_type: float [1]
    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    values = field(11, field(1, b"x") + tensor) + field(12, field(1, b"y") + tensor)
    graph = field(1, node) + field(2, b"g") + values
    return field(1, 8) + field(8, field(2, 13)) + field(7, graph)  # IR version 8, opset 13
