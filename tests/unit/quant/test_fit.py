import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kokanee.quant import blocks, fit
from kokanee.quant.blocks import F32
from kokanee.quant.schemes import BLOCKWISE, Blockwise

SCHEMES = st.sampled_from([s for s in BLOCKWISE.values() if not s.offset])


def _loss(weight: F32, quantized: blocks.Blocks, importance: F32) -> float:
    error = blocks.dequantize(quantized) - weight
    return float(np.sum(importance * error * error, dtype=np.float64))


@given(
    hnp.arrays(np.float32, (3, 150), elements=st.floats(-8, 8, width=16)),
    hnp.arrays(np.float32, (150,), elements=st.floats(0, 4, width=16)),
    SCHEMES,
)
def test_no_block_loses_more_than_with_the_outermost_weights_scale(
    weight: F32, importance: F32, scheme: Blockwise
) -> None:
    fitted = blocks.quantize(weight, scheme, fit.weighted(importance, scheme))
    plain = blocks.quantize(weight, scheme)
    assert _loss(weight, fitted, importance) <= _loss(weight, plain, importance) * 1.001 + 1e-6


def test_where_inputs_are_large_errors_become_small() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_t(4, (64, 128)).astype(np.float32)
    importance = np.ones(128, np.float32)
    importance[:8] = 100
    scheme = BLOCKWISE["int4_block128"]
    even, aimed = (
        np.square(blocks.dequantize(blocks.quantize(weight, scheme, f)) - weight)[:, :8].sum()
        for f in (fit.least_error, fit.weighted(importance, scheme))
    )
    assert aimed < 0.7 * even


@pytest.mark.parametrize("scheme", [s for s in BLOCKWISE.values() if s.zeros], ids=str)
def test_a_zero_of_its_own_serves_weights_of_one_sign(scheme: Blockwise) -> None:
    weight = np.random.default_rng(0).uniform(1, 2, (4, 128)).astype(np.float32)
    plain = BLOCKWISE[scheme.name.replace("_zeros", "")]
    ones = np.ones(128, np.float32)
    with_zero, without = (_loss(weight, blocks.quantize(weight, s), ones) for s in (scheme, plain))
    assert with_zero < without
