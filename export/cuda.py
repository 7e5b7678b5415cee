"""Graphs against the kernels that ONNX Runtime publishes for CUDA: would anything run on the CPU?

`cuda_kernels.json` holds, for the operators our graphs use, what docs/OperatorKernels.md of
microsoft/onnxruntime says about CUDAExecutionProvider at opset 21 (its commit is in the file). A
node whose types are not there would be computed on the CPU between two copies, without a word. Two
things this cannot see: kernels that refuse at run time what their types allow (one such is known
and checked), and the few integer nodes about shapes that ONNX Runtime itself prefers to keep on the
CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

Types = dict[str, str]

_TABLE = Path(__file__).with_name("cuda_kernels.json")
_ATTENTION_BIAS = 10  # input of GroupQueryAttention that its CUDA kernel refuses
_NAMES = {
    TensorProto.FLOAT: "float",
    TensorProto.FLOAT16: "float16",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.UINT8: "uint8",
    TensorProto.BOOL: "bool",
}


def without_cuda_kernel(model: onnx.ModelProto) -> list[str]:
    """The nodes that CUDA could not compute: one line each, with their types and what there is."""
    kernels = json.loads(_TABLE.read_text(encoding="utf-8"))["kernels"]
    graph = model.graph
    types: Types = {t.name: _NAMES[t.data_type] for t in graph.initializer}
    types |= {i.name: _NAMES[i.type.tensor_type.elem_type] for i in graph.input}
    return [
        f"{node.name}: {problem}"
        for node in graph.node
        if (problem := _problem(node, kernels, types)) is not None
    ]


def _problem(node: onnx.NodeProto, kernels: dict[str, Any], types: Types) -> str | None:
    """What is wrong with a node, in topological order; notes the types of its outputs."""
    op = f"{node.domain or 'ai.onnx'} {node.op_type}"
    got = [types.get(name, "") for name in node.input]
    kernel = kernels.get(op)
    if kernel is None:
        types |= dict.fromkeys(node.output, next(filter(None, got), "float"))
        return f"{op} has no CUDA kernel in the table"
    letters = kernel["inputs"]
    bound: dict[str, str] = {}
    problem = None
    for i, kind in enumerate(got):
        letter = letters[min(i, len(letters) - 1)]
        allowed = kernel["types"].get(letter, [letter])
        if kind and kind not in allowed:
            problem = problem or f"{op}: input {i} is {kind}, CUDA takes {', '.join(allowed)}"
        if kind and bound.setdefault(letter, kind) != kind:
            problem = problem or f"{op}: inputs of type {letter} are {bound[letter]} and {kind}"
    for i, name in enumerate(node.output):
        letter = kernel["outputs"][min(i, len(kernel["outputs"]) - 1)]
        types[name] = bound.get(letter) or kernel["types"].get(letter, [letter])[0]
    if node.op_type == "Cast":
        types[node.output[0]] = _NAMES[next(a.i for a in node.attribute if a.name == "to")]
    is_attention = node.op_type == "GroupQueryAttention"
    if is_attention and len(node.input) > _ATTENTION_BIAS and node.input[_ATTENTION_BIAS]:
        problem = problem or f"{op}: the CUDA kernel refuses attention_bias"
    return problem
