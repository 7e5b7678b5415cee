"""Topologies and weights -> a bundle folder, which appears only when it is whole."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kokanee import __version__
from kokanee.engine import manifest as m
from kokanee.engine.manifest import GRAPHS, Manifest
from kokanee.quant.schemes import BLOCKWISE

from .fill import Tensor, fill
from .layout import Layout
from .sources import Progress, room_for, writing

TOKENIZER = "tokenizer.json"


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


def write_bundle(
    folder: Path,
    description: Description,
    *,
    topology: Path,
    checkpoints: Mapping[str, Mapping[str, Tensor]],
    embedding: str,
    tokenizer: str,
    progress: Progress,
) -> Manifest:
    """Fill every graph's weight file and describe the lot.

    Everything is written beside `folder` under another name and moved there at the end; an
    interrupted or failed build leaves nothing, and an older bundle at `folder` stays until then.

    Args:
        folder: where the bundle shall be.
        description: the rest of the manifest.
        topology: folder with `<graph>.onnx` and `<graph>.layout.json` for each graph.
        checkpoints: for each graph, its tensors by name.
        embedding: name of the weight in the LLM's layout that is the token embedding.
        tokenizer: the text of `tokenizer.json`.
        progress: told about every weight file.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
        CacheError: the disk is full or not writable.
    """
    layouts = {g: Layout.load(topology / f"{g}.layout.json") for g in GRAPHS}
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        room_for(folder.parent, sum(layout.n_bytes for layout in layouts.values()) + (16 << 20))
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            files = {}
            for graph, layout in layouts.items():
                shutil.copyfile(topology / f"{graph}.onnx", scratch / f"{graph}.onnx")
                filled = fill(
                    layout,
                    checkpoints[graph],
                    scratch / layout.file,
                    progress=functools.partial(progress, layout.file),
                )
                files[layout.file] = m.File(sha256=filled.sha256, n_bytes=filled.n_bytes)
            (scratch / TOKENIZER).write_text(tokenizer, encoding="utf-8")
            for name in (*(f"{g}.onnx" for g in GRAPHS), TOKENIZER):
                path = scratch / name
                files[name] = m.File(sha256=m.sha256(path), n_bytes=path.stat().st_size)
            manifest = Manifest(
                format=m.FORMAT,
                kokanee=__version__,
                graphs={
                    g: m.Graph(file=f"{g}.onnx", scheme=scheme(layout))
                    for g, layout in layouts.items()
                },
                embedding=table(layouts["llm"], embedding),
                tokenizer=TOKENIZER,
                files=dict(sorted(files.items())),
                **{f.name: getattr(description, f.name) for f in dataclasses.fields(description)},
            )
            (scratch / m.FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
            _replace(scratch, folder)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    return manifest


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
    return m.Table(
        file=layout.file,
        block=BLOCKWISE[weight.packing].block,
        codes_offset=weight.part("codes").offset,
        scales_offset=weight.part("scales").offset,
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
