"""What is the same on every run of the same bundle: bytes, positions, nodes, what a step allocates.

Times are never asserted anywhere; these are, in CI, against what is recorded.
"""

from __future__ import annotations

import importlib.util
import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kokanee.engine.engine import open_decoder
from kokanee.engine.kv_cache import KVCache
from kokanee.engine.manifest import GRAPHS, Manifest, read_manifest

from .record import Count, Label

CONTEXTS = (512, 2048, 4096)  # positions
_WARM, _STEPS = 4, 8


def counts(folder: Path) -> Iterator[Count]:
    """Of a bundle.

    Yields:
        `bytes` of the bundle and of each part's weights; `kv_bytes` by positions; `nodes` of each
        graph (where the package onnx is installed); `step_bytes`, most that Python and NumPy held
        at once for a step of decoding, behind 8 positions and behind 400.
    """
    manifest = read_manifest(folder)
    files = {name: f.n_bytes for name, f in manifest.files.items()}
    yield Count(name="bytes", unit="B", value=sum(files.values()), of={"part": "whole"})
    for name in (*GRAPHS, "embedding"):
        if f"{name}.bin" in files:
            yield Count(name="bytes", unit="B", value=files[f"{name}.bin"], of={"part": name})
    caches = ["float32"] + ["int8"] * (manifest.int8_cache is not None)
    for cache, n_ctx in itertools.product(caches, (1, *CONTEXTS)):
        if n_ctx <= manifest.dims.n_positions:
            of: dict[str, Label] = {"cache": cache, "positions": n_ctx}
            yield Count(name="kv_bytes", unit="B", value=kv_bytes(manifest, cache, n_ctx), of=of)
    if importlib.util.find_spec("onnx") is not None:
        for name, file in _graphs(manifest):
            yield Count(name="nodes", unit="", value=n_nodes(folder / file), of={"graph": name})
    for depth, n_bytes in step_bytes(folder).items():
        yield Count(name="step_bytes", unit="B", value=n_bytes, of={"depth": depth})


def kv_bytes(manifest: Manifest, cache: str, n_ctx: int) -> int:
    """Of the arrays that a session of so many positions allocates; "int8" or "float32"."""
    dims = manifest.dims
    return KVCache(
        n_layers=dims.n_layers,
        n_kv_heads=dims.n_kv_heads,
        n_ctx=n_ctx,
        d_head=dims.d_head,
        dtype=np.dtype(np.int8 if cache == "int8" else np.float32),
    ).n_bytes


def n_nodes(file: Path) -> int:
    """Nodes of an ONNX graph."""
    import onnx

    return len(onnx.load(str(file), load_external_data=False).graph.node)


def step_bytes(folder: Path, depths: tuple[int, ...] = (8, 400)) -> dict[int, int]:
    """Most that Python and NumPy hold at once for one step, by positions in the cache.

    A copy of the cache, or of anything that grows with it, would show. What ONNX Runtime allocates
    inside is not seen; its arena is reused from step to step.
    """
    decoder = open_decoder(folder, n_ctx=512)
    held = {}
    for depth in depths:
        decoder.cache.trim(0)
        decoder.prefill(decoder.embed([7] * depth))
        for _ in range(_WARM):
            decoder.step(7)
        tracemalloc.start()
        try:
            peaks = []
            for _ in range(_STEPS):
                before = tracemalloc.get_traced_memory()[0]
                tracemalloc.reset_peak()
                decoder.step(7)
                peaks.append(tracemalloc.get_traced_memory()[1] - before)
        finally:
            tracemalloc.stop()
        held[depth] = min(peaks)  # what the interpreter does beside it comes and goes
    decoder.close()
    return held


def _graphs(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for name in GRAPHS:
        graph = manifest.graphs[name]
        yield name, graph.file
        if graph.half is not None:
            yield f"{name} f16", graph.half
    if manifest.int8_cache is not None:
        yield "llm kv8", manifest.int8_cache.graph
