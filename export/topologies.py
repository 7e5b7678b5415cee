"""An architecture -> four topologies and the layouts of their weight files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .audio_encoder import audio_encoder
from .connector import connector
from .dims import Architecture
from .graph import Graph
from .layout import TABLE, Layout, key
from .llm import EMBEDDING, build_llm
from .speech_encoder import speech_encoder


def graphs(
    architecture: Architecture, *, compute: str = "float32", int8_cache: bool = False
) -> Iterator[Graph]:
    """The four graphs in the order a sound takes; `compute` and `int8_cache` as for `build_llm`."""
    a = architecture
    yield speech_encoder(a.speech_encoder, packing=a.encoder_packing, compute=compute)
    yield audio_encoder(a.audio_encoder, packing=a.encoder_packing, compute=compute)
    yield connector(a.connector, packing=a.connector_packing, compute=compute)
    yield llm(a, compute=compute, int8_cache=int8_cache)


def llm(architecture: Architecture, *, compute: str = "float32", int8_cache: bool = False) -> Graph:
    """The LLM's graph alone."""
    return build_llm(
        architecture.llm,
        packing=architecture.llm_packing,
        head_packing=architecture.head_packing,
        compute=compute,
        int8_cache=int8_cache,
    )


def layouts(architecture: Architecture) -> dict[str, Layout]:
    """Where the weights of each graph lie, and those of a token embedding outside of them."""
    made = {graph.name: graph.layout() for graph in graphs(architecture)}
    if architecture.table_packing is not None:
        made[TABLE] = _table(architecture.llm.n_vocab, architecture)
    return made


def save(architecture: Architecture, folder: Path, *, int8_cache: bool) -> dict[str, Layout]:
    """Write the topologies for the CPU and for CUDA, and the layouts.

    Args:
        architecture: sizes and packings.
        folder: gets `<graph>.onnx`, `<graph>.f16.onnx`, `<graph>.layout.json`.
        int8_cache: write `llm.kv8.onnx` as well.
    """
    for compute in ("float16", "float32"):
        for graph in graphs(architecture, compute=compute):
            graph.save(folder)
    if int8_cache:
        llm(architecture, int8_cache=True).save(folder)
    made = layouts(architecture)
    if TABLE in made:
        (folder / f"{TABLE}.layout.json").write_text(made[TABLE].to_json(), encoding="utf-8")
    return made


def _table(n_vocab: int, architecture: Architecture) -> Layout:
    assert architecture.table_packing is not None
    table = Graph(TABLE)
    rows = key(EMBEDDING, n_vocab, architecture.llm.d_model)
    table.packed("table", rows, packing=architecture.table_packing)
    return table.layout()
