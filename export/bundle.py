"""Topologies and weights -> a bundle folder, which appears only when it is whole."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from kokanee import __version__
from kokanee.engine import manifest as m
from kokanee.engine.errors import CacheError
from kokanee.engine.features import FBANK_MEAN, FBANK_STD, HOP, N_FBANK, SAMPLE_RATE
from kokanee.engine.manifest import GRAPHS, Manifest
from kokanee.quant.schemes import BLOCKWISE

from .fill import Filled, Tensor, fill
from .layout import TABLE, Layout
from .sources import Progress, room_for, writing

FRONT_END = m.FrontEnd(
    sample_rate=SAMPLE_RATE,
    hop=HOP,
    n_mels=80,
    n_fbank=N_FBANK,
    fbank_mean=FBANK_MEAN,
    fbank_std=FBANK_STD,
)  # the one that the engine computes
TOKENIZER = "tokenizer.json"
KV_SCALES = "kv_scales.safetensors"
INT8_CACHE = "llm.kv8.onnx"
_LOCK, _STATE = ".lock", ".state.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a manifest says that does not follow from the files."""

    name: str
    command: str
    dims: m.Dims
    front_end: m.FrontEnd
    policy: m.Policy
    prompt: m.PromptFormat
    lora: m.Lora
    sources: tuple[m.Source, ...]
    parity: dict[str, m.Parity]
    quality: dict[str, Any]
    architecture: dict[str, Any]
    receipt: m.Receipt | None = None


Finish = Callable[[Path, m.Manifest], m.Manifest]
"""Sees a bundle that is whole but not yet in its place; the manifest it shall have. A file it adds
is not listed yet: `with_file` does."""


class Workspace:
    """The folder beside a bundle in which it is made; moved into place when it is whole.

    A resumable one survives an interruption, even of the machine: the next build from the same
    ingredients goes on in it. It belongs to one build at a time. One that is not has a name of its
    own, and an interrupted build leaves nothing.
    """

    def __init__(self, bundle: Path, *, resumable: bool = False) -> None:
        """Nothing is written before it is entered.

        Args:
            bundle: where the bundle shall be; one that is there already stays until the end.
            resumable: whether to keep what is done.
        """
        self.bundle = bundle
        self.folder = bundle.with_name(f".{bundle.name}-building")
        self.resumable = resumable
        self.done: dict[str, Filled] = {}
        """Weight files that are finished."""
        self._ingredients = ""
        self._lock: BinaryIO | None = None

    @property
    def spill(self) -> Path:
        """A folder for what is needed while building; need not exist, gone afterwards."""
        return self.folder / "spill"

    @property
    def n_bytes(self) -> int:
        """What is on the disk already."""
        return sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())

    def __enter__(self) -> Workspace:
        """Take the folder.

        Raises:
            CacheError: another process is building there, or nothing can be written there.
        """
        with writing(self.bundle.parent):
            self.bundle.parent.mkdir(parents=True, exist_ok=True)
            if not self.resumable:
                self.folder = Path(
                    tempfile.mkdtemp(prefix=f".{self.bundle.name}-", dir=self.bundle.parent)
                )
                return self
            self.folder.mkdir(exist_ok=True)
            self._lock = (self.folder / _LOCK).open("wb")
            if not _locked(self._lock):
                self._lock.close()
                raise CacheError(f"another build is writing {self.bundle}; wait for it or stop it")
        return self

    def __exit__(self, *error: object) -> None:
        """Let go. What is not worth going on with is removed."""
        if self._lock is not None:
            self._lock.close()
        if not self.folder.is_dir():
            return
        shutil.rmtree(self.spill, ignore_errors=True)
        if not self.resumable or {p.name for p in self.folder.iterdir()} <= {_LOCK, _STATE}:
            shutil.rmtree(self.folder, ignore_errors=True)

    def take_over(self, ingredients: str) -> None:
        """Go on with what an earlier attempt left, if it was made from the same ingredients.

        Args:
            ingredients: a text that differs whenever the bundle would. Anything else's remains are
                removed.
        """
        self._ingredients = hashlib.sha256(ingredients.encode()).hexdigest()
        try:
            state = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
            if state["ingredients"] == self._ingredients:
                self.done = {name: Filled(**entry) for name, entry in state["done"].items()}
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing there, or nothing that can be gone on with
        for path in self.folder.iterdir():
            if path.is_dir():
                if path != self.spill:
                    shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()
        self._save()

    def note(self, name: str, filled: Filled) -> None:
        """A weight file is finished."""
        self.done[name] = filled
        if self.resumable:
            self._save()

    def finish(self) -> None:
        """Move the whole bundle to its place."""
        shutil.rmtree(self.spill, ignore_errors=True)
        _replace(self.folder, self.bundle)
        for name in (_LOCK, _STATE):
            (self.bundle / name).unlink(missing_ok=True)

    def _save(self) -> None:
        state = {
            "ingredients": self._ingredients,
            "done": {name: dataclasses.asdict(filled) for name, filled in self.done.items()},
        }
        new = self.folder / f"{_STATE}.new"
        new.write_text(json.dumps(state), encoding="utf-8")
        new.replace(self.folder / _STATE)


def write_bundle(
    space: Workspace,
    description: Description,
    *,
    topology: Path,
    checkpoints: Mapping[str, Mapping[str, Tensor] | Callable[[Path], Mapping[str, Tensor]]],
    embedding: str,
    tokenizer: str,
    progress: Progress,
    kv_scales: Path | None = None,
    finish: Finish | None = None,
) -> Manifest:
    """Fill every graph's weight file, describe the lot, and move it to where it belongs.

    Args:
        space: an entered workspace.
        description: the rest of the manifest.
        topology: folder with `<graph>.onnx` and `<graph>.layout.json` for each graph, perhaps
            `<graph>.f16.onnx`; `embedding.layout.json` where the token embedding has a file of its
            own.
        checkpoints: for each layout, its tensors by name; or a function that makes them once the
            graphs in front of it and the tokenizer are in the folder it is given.
        embedding: name of the weight that is the token embedding: in the LLM's layout (a tied
            head), or in its own.
        tokenizer: the text of `tokenizer.json`.
        progress: told about every weight file.
        kv_scales: units of an int8 cache, where they are known already; the topology then has
            `llm.kv8.onnx`.
        finish: what is still to be done with the whole bundle.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
        CacheError: the disk is full or not writable.
    """
    table_first = [TABLE] if (topology / f"{TABLE}.layout.json").is_file() else []
    names = [*table_first, *GRAPHS]
    layouts = {name: Layout.load(topology / f"{name}.layout.json") for name in names}
    with writing(space.folder):
        n_bytes = sum(layout.n_bytes for layout in layouts.values()) + (16 << 20)
        room_for(space.folder, n_bytes - space.n_bytes)
        graphs = {}
        for g in GRAPHS:
            half = f"{g}.f16.onnx" if (topology / f"{g}.f16.onnx").is_file() else None
            graphs[g] = m.Graph(file=f"{g}.onnx", scheme=scheme(layouts[g]), half=half)
        others = [f for g in graphs.values() for f in (g.file, g.half) if f is not None]
        for name in others:
            shutil.copyfile(topology / name, space.folder / name)
        (space.folder / TOKENIZER).write_text(tokenizer, encoding="utf-8")
        for name, layout in layouts.items():
            if layout.file not in space.done:
                checkpoint = checkpoints[name]
                filled = fill(
                    layout,
                    checkpoint(space.folder) if callable(checkpoint) else checkpoint,
                    space.folder / layout.file,
                    progress=functools.partial(progress, layout.file),
                    resume=space.resumable,
                )
                space.note(layout.file, filled)
        files = {
            layout.file: m.File(sha256=done.sha256, n_bytes=done.n_bytes)
            for layout in layouts.values()
            for done in (space.done[layout.file],)
        }
        files |= {name: described(space.folder / name) for name in (*others, TOKENIZER)}
        manifest = Manifest(
            format=m.FORMAT,
            kokanee=__version__,
            graphs=graphs,
            int8_cache=None,
            embedding=table(layouts[TABLE if TABLE in layouts else "llm"], embedding),
            tokenizer=TOKENIZER,
            files=dict(sorted(files.items())),
            **{f.name: getattr(description, f.name) for f in dataclasses.fields(description)},
        )
        if kv_scales is not None:
            shutil.copyfile(kv_scales, space.folder / KV_SCALES)
            manifest = with_int8_cache(space.folder, manifest, topology)
        save(space.folder, manifest)
        if finish is not None:
            manifest = finish(space.folder, manifest)
            save(space.folder, manifest)
        space.finish()
    return manifest


def with_int8_cache(folder: Path, manifest: Manifest, topology: Path) -> Manifest:
    """The manifest of a bundle that has its `kv_scales.safetensors` and gets the graph for it."""
    shutil.copyfile(topology / INT8_CACHE, folder / INT8_CACHE)
    files = {name: described(folder / name) for name in (INT8_CACHE, KV_SCALES)}
    return dataclasses.replace(
        manifest,
        int8_cache=m.Int8Cache(graph=INT8_CACHE, scales=KV_SCALES),
        files=dict(sorted((manifest.files | files).items())),
    )


def save(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into a folder that is not in its place yet."""
    (folder / m.FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")


def described(path: Path) -> m.File:
    """What the manifest says of a file."""
    return m.File(sha256=m.sha256(path), n_bytes=path.stat().st_size)


def scheme(layout: Layout) -> str:
    """How most of a graph's bytes are stored."""
    n_bytes: dict[str, int] = {}
    for weight in layout.weights:
        n_bytes[weight.packing] = n_bytes.get(weight.packing, 0) + sum(
            part.n_bytes for part in weight.parts
        )
    return max(n_bytes, key=lambda packing: n_bytes[packing])


def table(layout: Layout, name: str) -> m.Table:
    """Where the engine finds the token embedding inside a weight file."""
    weight = layout.weight(name)
    block = BLOCKWISE[weight.packing].block if weight.packing in BLOCKWISE else None
    values = weight.part("values" if block is None else "codes")
    return m.Table(
        file=layout.file,
        dtype=values.dtype,
        offset=values.offset,
        block=block,
        scales_offset=None if block is None else weight.part("scales").offset,
    )


def _replace(scratch: Path, folder: Path) -> None:
    """Move the finished bundle to its place; an older one is set aside first, then removed."""
    scratch.chmod(0o755)  # mkdtemp makes it private
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        folder.replace(old / folder.name)
        scratch.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        scratch.replace(folder)


def _locked(file: BinaryIO) -> bool:
    """Take the lock that ends with the process, however it ends; False where another has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
