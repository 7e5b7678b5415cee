"""Every float16 graph has a CUDA kernel for every node; what has none is found."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from kokanee.benchmarks.synthetic import sizes
from kokanee.export.audio_encoder import audio_encoder
from kokanee.export.connector import connector
from kokanee.export.cuda import without_cuda_kernel
from kokanee.export.graph import CONTRIB, Graph
from kokanee.export.llm import build_llm
from kokanee.export.nano.build import ARCHITECTURE, FLOAT
from kokanee.export.requantize import ENCODER_PACKINGS
from kokanee.export.speech_encoder import speech_encoder
from kokanee.export.topologies import graphs
from kokanee.quant.schemes import BLOCKWISE


def official(size: str) -> Iterator[Graph]:
    made = sizes(size)
    for packing in ENCODER_PACKINGS.values():
        yield speech_encoder(made.whisper, packing=packing, compute="float16")
        yield audio_encoder(made.beats, packing=packing, compute="float16")
    for packing in ("f32", "f16"):
        yield connector(made.qformer, packing=packing, compute="float16")
    for packing in ("f32", "f16", *BLOCKWISE):
        yield build_llm(made.llm, packing=packing, head_packing="int8_block32", compute="float16")


@pytest.mark.parametrize("size", ["tiny", "7b", "13b"])
def test_every_node_of_every_official_graph_runs_on_cuda(size: str) -> None:
    for graph in official(size):
        assert without_cuda_kernel(graph.model()) == [], graph.name


def test_every_node_of_nano_runs_on_cuda() -> None:
    both = (graphs(a, compute="float16") for a in (ARCHITECTURE, FLOAT))
    for graph in itertools.chain.from_iterable(both):
        assert without_cuda_kernel(graph.model()) == [], graph.name


def test_the_graphs_for_the_cpu_would_not() -> None:
    """float32 attention and its bias are what the float16 graph exists for."""
    graph = build_llm(sizes("tiny").llm, packing="f32", head_packing="f32")
    problems = without_cuda_kernel(graph.model())
    assert len(problems) == 2  # one a layer
    assert "input 0 is float, CUDA takes bfloat16, float16" in problems[0]


def a_graph(compute: str = "float16") -> Graph:
    g = Graph("x", compute=compute)
    g.input("x", "float16", [1, 2, 8])
    return g


def test_an_unknown_operator_is_named() -> None:
    g = a_graph()
    g.node("DynamicQuantizeLinear", "x", name="quantize")
    (problem,) = without_cuda_kernel(g.model())
    assert problem == "quantize: ai.onnx DynamicQuantizeLinear has no CUDA kernel in the table"


def test_a_type_without_a_kernel_is_named() -> None:
    g = a_graph()
    g.input("n", "int32", [])
    g.node("MatMul", "n", "n", name="product")
    (problem,) = without_cuda_kernel(g.model())
    assert "product: ai.onnx MatMul: input 0 is int32, CUDA takes bfloat16" in problem


def test_two_types_where_one_is_wanted_are_named() -> None:
    g = a_graph()
    g.node("Add", "x", g.const(1, "int64"), name="sum")
    assert "are float16 and int64" in without_cuda_kernel(g.model())[0]


def test_a_bias_on_attention_is_named() -> None:
    g = a_graph()
    for name in ("past_key", "past_value", "cos", "sin", "bias"):
        g.input(name, "float16", [1])
    for name in ("last", "total"):
        g.input(name, "int32", [1])
    inputs = ("x", "", "", "past_key", "past_value", "last", "total", "cos", "sin", "", "bias")
    g.nodes("GroupQueryAttention", *inputs, outputs=("y", "k", "v"), domain=CONTRIB)
    assert without_cuda_kernel(g.model()) == [
        "y: com.microsoft GroupQueryAttention: the CUDA kernel refuses attention_bias"
    ]
