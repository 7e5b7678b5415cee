from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnxruntime import InferenceSession

from kokanee.export.fill import fill
from kokanee.export.graph import Graph
from kokanee.export.layout import key, zeros
from kokanee.quant import blocks
from kokanee.quant.schemes import BLOCKWISE

RNG = np.random.default_rng(0)
CHECKPOINT = {
    "q.weight": RNG.normal(size=(48, 64)).astype(np.float32),
    "v.weight": RNG.normal(size=(32, 64)).astype(np.float32),
    "q.bias": RNG.normal(size=48).astype(np.float32),
    "norm.weight": RNG.normal(size=64).astype(np.float32),
    "norm.bias": RNG.normal(size=64).astype(np.float32),
}


def toy(packing: str) -> Graph:
    g = Graph("toy")
    x = g.input("x", "float32", [1, "n", 64])
    x = g.reshape(g.layer_norm("norm", x, 64), -1, 64)
    y = g.linear(
        "qv",
        x,
        [key("q.weight", 48, 64), key("v.weight", 32, 64)],
        [key("q.bias", 48), zeros(32)],
        packing=packing,
    )
    g.output(g.reshape(y, 1, -1, 8, 10), "y", "float32", [1, "n", 8, 10])
    return g


def run(g: Graph, folder: Path, x: blocks.F32) -> blocks.F32:
    g.save(folder)
    fill(g.layout(), CHECKPOINT, folder / "toy.bin")
    session = InferenceSession(folder / "toy.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    assert isinstance(y, np.ndarray)
    return y


@pytest.mark.parametrize("packing", ["f32", "f16", *BLOCKWISE])
def test_a_graph_computes_what_its_weights_say(packing: str, tmp_path: Path) -> None:
    x = RNG.normal(size=(1, 5, 64)).astype(np.float32)
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    normed = normed * CHECKPOINT["norm.weight"] + CHECKPOINT["norm.bias"]
    weight = np.concatenate([CHECKPOINT["q.weight"], CHECKPOINT["v.weight"]])
    if packing in BLOCKWISE:
        weight = blocks.dequantize(blocks.quantize(weight, BLOCKWISE[packing]))
    want = normed @ weight.T
    want[..., :48] += CHECKPOINT["q.bias"]
    got = run(toy(packing), tmp_path, x).reshape(1, 5, 80)
    # activations are quantized to 8 bits beside 4- and 8-bit weights
    tolerance = {"f32": 1e-4, "f16": 2e-2}.get(packing, 2e-2 * float(np.abs(want).max()))
    np.testing.assert_allclose(got, want, atol=tolerance)


@pytest.mark.parametrize("packing", ["f16", "int4_block32"])
def test_the_same_calls_give_the_same_bytes(packing: str, tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        toy(packing).save(folder)
    for name in ("toy.onnx", "toy.layout.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_weight_is_inside_the_graph() -> None:
    g = Graph("toy")
    x = g.input("x", "float32", [1, 1024])
    y = g.linear("w", x, key("w", 1024, 1024))
    g.output(y, "y", "float32", [1, 1024])
    assert len(g.model().SerializeToString()) < 1000
    assert g.layout().n_bytes == 4 << 20


def test_one_name_is_one_weight() -> None:
    g = Graph("toy")
    assert g.weight("w", key("w", 2, 3)) == g.weight("w", key("w", 2, 3))
    assert len(g.layout().weights) == 1
    with pytest.raises(ValueError, match="two different weights are called w"):
        g.weight("w", key("w", 3, 2))


def test_large_weights_begin_on_a_page(tmp_path: Path) -> None:
    layout = toy("f32").layout()
    offsets: Callable[[str], int] = lambda name: layout.weight(name).parts[0].offset  # noqa: E731
    assert offsets("qv.weight") % 4096 == 0
    assert offsets("norm.bias") == 256
