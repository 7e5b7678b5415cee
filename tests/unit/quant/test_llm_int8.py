import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kokanee.quant import llm_int8
from kokanee.quant.blocks import F32, Blocks, dequantize
from kokanee.quant.llm_int8 import INT8_ROWS, quantize_rows


@st.composite
def matrices(draw: st.DrawFn) -> F32:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 300)))
    return draw(hnp.arrays(np.float32, shape, elements=st.floats(-8, 8, width=16)))


def _gaussian(n_rows: int, d_in: int) -> F32:
    return np.random.default_rng(7).normal(size=(n_rows, d_in)).astype(np.float32)


def _int8(quantized: Blocks) -> npt.NDArray[np.int8]:
    """Codes as bitsandbytes has them, [n_rows, d_in]."""
    whole = quantized.codes.reshape(quantized.shape[0], -1)[:, : quantized.n_columns]
    return (whole.astype(np.int16) - INT8_ROWS.zero).astype(np.int8)


@given(matrices())
def test_the_error_stays_within_a_254th_of_the_rows_absmax(weight: F32) -> None:
    bound = np.abs(weight).max(axis=1, keepdims=True) / 254
    error = np.abs(dequantize(quantize_rows(weight)) - weight)
    assert (error <= bound * 1.0001).all()


@given(matrices())
def test_every_block_has_its_rows_scale_and_padding_is_zero(weight: F32) -> None:
    quantized = quantize_rows(weight)
    n_rows, d_in = weight.shape
    assert quantized.scheme.name == "int8_block128"
    want = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    np.testing.assert_array_equal(quantized.scales, np.broadcast_to(want, quantized.scales.shape))
    assert (quantized.codes.reshape(n_rows, -1)[:, d_in:] == INT8_ROWS.zero).all()


@given(hnp.arrays(np.int8, (3, 200), elements=st.integers(-127, 127)), st.integers(-10, 4))
def test_what_8_bits_hold_comes_back_unchanged(codes: npt.NDArray[np.int8], power: int) -> None:
    codes[:, 77] = 127
    weight = codes.astype(np.float32) * np.float32(2.0**power)
    quantized = quantize_rows(weight)
    np.testing.assert_array_equal(_int8(quantized), codes)
    np.testing.assert_array_equal(_int8(quantize_rows(dequantize(quantized))), codes)


def test_rows_quantize_the_same_whatever_is_above_them(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = _gaussian(9, 200)
    whole = quantize_rows(weight)
    monkeypatch.setattr(llm_int8, "_CHUNK", 500)
    np.testing.assert_array_equal(quantize_rows(weight).codes, whole.codes)
    np.testing.assert_array_equal(quantize_rows(weight[4:]).codes, whole.codes[4:])


def test_weights_beyond_float16_are_refused() -> None:
    with pytest.raises(ValueError, match="got magnitudes up to 70000"):
        quantize_rows(np.full((1, 8), 70000, np.float32))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # when imported
def test_codes_are_bitsandbytes_to_the_bit() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    torch = pytest.importorskip("torch")
    weight = _gaussian(512, 1000)
    weight *= np.float32(2) ** np.arange(-8, 8, 1 / 32, dtype=np.float32)[:, None]
    weight[:32] = np.round(weight[:32] * 2048) / 2048  # many ties
    weight[32, 5:] = 0
    quantized = quantize_rows(weight)
    layer = bnb.nn.Int8Params(torch.from_numpy(weight), requires_grad=False).to("cpu")
    for codes, absmax in (
        (layer.data, layer.SCB),
        bnb.functional.int8_vectorwise_quant(torch.from_numpy(weight).half())[:2],
    ):
        assert codes.dtype == torch.int8
        np.testing.assert_array_equal(_int8(quantized), codes.numpy())
        np.testing.assert_array_equal(quantized.scales[:, 0], absmax.numpy() / np.float32(127))
        floats = bnb.functional.int8_vectorwise_dequant(codes, absmax).numpy()
        np.testing.assert_allclose(dequantize(quantized), floats, rtol=3e-7)
