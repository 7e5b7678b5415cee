from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tiny import architecture, random_weights

from kokanee.engine.errors import ManifestError
from kokanee.export import topologies
from kokanee.export.bundle_weights import BundleWeights
from kokanee.export.dims import Architecture
from kokanee.export.fill import fill
from kokanee.export.graph import Graph
from kokanee.quant import blocks
from kokanee.quant.blocks import Blocks
from kokanee.quant.schemes import BLOCKWISE

FLOATS = {"encoder_packing": "f32", "connector_packing": "f32", "head_packing": "f32"}


def float_architecture() -> Architecture:
    return Architecture.from_json({**architecture("f32").to_json(), **FLOATS})


def floats(graph: Graph) -> dict[str, npt.NDArray[np.float32]]:
    return {name: w.astype(np.float32) for name, w in random_weights(graph, 0).items()}


def test_a_weight_file_gives_back_the_checkpoint_it_was_filled_from(tmp_path: Path) -> None:
    for graph in topologies.graphs(float_architecture()):
        weights, layout = floats(graph), graph.layout()
        fill(layout, weights, tmp_path / layout.file)
        got = BundleWeights(tmp_path, layout)
        assert got.keys() == weights.keys()
        for name, want in weights.items():
            if "weight_g" in name or "weight_v" in name:
                continue  # which norm a direction had is not kept
            np.testing.assert_array_equal(got[name], want, err_msg=name)


def test_filling_again_from_what_was_given_back_gives_the_same_bytes(tmp_path: Path) -> None:
    """Weight norm included: the weight is what counts."""
    for graph in topologies.graphs(float_architecture()):
        layout = graph.layout()
        first, again = tmp_path / layout.file, tmp_path / "again.bin"
        fill(layout, floats(graph), first)
        fill(layout, BundleWeights(tmp_path, layout), again)
        a, b = (np.fromfile(p, np.float32) for p in (first, again))
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("packing", list(BLOCKWISE))
def test_blocks_come_back_bit_for_bit(packing: str, tmp_path: Path) -> None:
    graph = topologies.llm(architecture(packing))
    weights, layout = floats(graph), graph.layout()
    fill(layout, weights, tmp_path / layout.file)
    got = BundleWeights(tmp_path, layout)
    for name in ("self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"):
        name = f"model.layers.1.{name}.weight"
        want, value = blocks.quantize(weights[name], BLOCKWISE[packing]), got[name]
        assert isinstance(value, Blocks)
        np.testing.assert_array_equal(value.codes, want.codes)
        np.testing.assert_array_equal(blocks.dequantize(value), blocks.dequantize(want))


def test_a_file_of_another_length_is_refused(tmp_path: Path) -> None:
    layout = topologies.llm(architecture()).layout()
    (tmp_path / layout.file).write_bytes(b"short")
    with pytest.raises(ManifestError, match=r"llm.bin: expected \d+ bytes"):
        BundleWeights(tmp_path, layout)
