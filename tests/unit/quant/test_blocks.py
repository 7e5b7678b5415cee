import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kokanee.quant import blocks
from kokanee.quant.blocks import Blocks
from kokanee.quant.schemes import BLOCKWISE, INT4, INT4_OFFSET, INT8, Blockwise

SCHEMES = st.sampled_from(list(BLOCKWISE.values()))


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 300)))
    kind = st.floats(-8, 8, width=16)
    return draw(hnp.arrays(np.float32, shape, elements=kind))


def _per_weight(blocks_: Blocks) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """|scale| of every weight, [n_rows, n_columns]."""
    wide = np.repeat(np.abs(blocks_.scales), blocks_.scheme.block, axis=1)
    return wide[:, : blocks_.n_columns]


@given(matrices(), SCHEMES)
def test_the_error_stays_within_the_scale(weight: blocks.F32, scheme: Blockwise) -> None:
    quantized = blocks.quantize(weight, scheme)
    share = 1.0 if scheme.bits == 4 and not scheme.offset else 0.5
    error = np.abs(blocks.dequantize(quantized) - weight)
    assert (error <= share * _per_weight(quantized) * 1.001 + 1e-6).all()


@example(np.array([[6.8398438, -6.8398438]], np.float32), Blockwise(8, 32, zeros=True))
@given(matrices(), SCHEMES)
def test_quantizing_what_was_dequantized_changes_nothing(
    weight: blocks.F32, scheme: Blockwise
) -> None:
    quantized = blocks.quantize(weight, scheme)
    once = blocks.dequantize(quantized)
    again = blocks.dequantize(blocks.quantize(once, scheme))
    # Where 0 lies amid two codes it is rounded to one of them, and the other end loses half a code.
    slack = 0.5 * _per_weight(quantized) if scheme.zeros else 0.0
    assert (np.abs(again - once) <= 1.001 * slack + 1e-4).all()


@given(hnp.arrays(np.uint8, (2, 3, 32), elements=st.integers(0, 15)))
def test_packing_round_trips(whole: blocks.U8) -> None:
    packed = blocks.pack(whole, 4)
    assert packed.shape == (2, 3, 16)
    np.testing.assert_array_equal(blocks.unpack(packed, 4), whole)
    np.testing.assert_array_equal(packed[..., 0], whole[..., 0] + 16 * whole[..., 1])


def test_rows_quantize_the_same_whatever_is_above_them(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32)
    whole = blocks.quantize(weight, INT4)
    monkeypatch.setattr(blocks, "_CHUNK", 100)
    np.testing.assert_array_equal(blocks.quantize(weight, INT4).codes, whole.codes)
    np.testing.assert_array_equal(blocks.quantize(weight[4:], INT4).codes, whole.codes[4:])


def test_stacking_and_picking_rows_commute_with_dequantizing() -> None:
    weight = np.random.default_rng(1).normal(size=(6, 64)).astype(np.float32)
    quantized = blocks.quantize(weight, INT4_OFFSET)
    order = np.array([3, 0, 5])
    both = blocks.concat([quantized.rows(order), quantized.rows(slice(2))])
    floats = blocks.dequantize(quantized)
    np.testing.assert_array_equal(blocks.dequantize(both), floats[[3, 0, 5, 0, 1]])


def test_blocks_of_different_schemes_do_not_stack() -> None:
    weight = np.zeros((2, 64), np.float32)
    with pytest.raises(ValueError, match="int8_block32"):
        blocks.concat([blocks.quantize(weight, INT8), blocks.quantize(weight, INT4)])


def test_a_wrong_shape_of_codes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected shape \(2, 2, 16\)"):
        Blocks(
            scheme=INT4,
            n_columns=64,
            codes=np.zeros((2, 2, 32), np.uint8),
            scales=np.zeros((2, 2), np.float32),
        )


def test_a_scheme_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="got 3 bits"):
        Blockwise(3, 32)
