from statistics import NormalDist

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxruntime import InferenceSession

from kokanee.quant import blocks, nf4
from kokanee.quant.nf4 import BLOCK, LEVELS, Nf4, dequantize_nf4, quantize_nf4, reencoded
from kokanee.quant.schemes import BLOCKWISE, Blockwise

WIDEST_GAP = (1 - 0.6961928) / 2  # half of it, of absmax: between the two lowest levels


@st.composite
def matrices(draw: st.DrawFn) -> blocks.F32:
    n_rows, n_blocks = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    kind = st.floats(-8, 8, width=16)
    return draw(hnp.arrays(np.float32, (n_rows, n_blocks * BLOCK), elements=kind))


def _gaussian(n_rows: int, d_in: int) -> blocks.F32:
    return np.random.default_rng(5).normal(size=(n_rows, d_in)).astype(np.float32)


def _per_weight(quantized: Nf4) -> blocks.F32:
    """Absmax of every weight, [n_rows, d_in]."""
    return np.repeat(quantized.absmax, BLOCK).reshape(quantized.shape)


def _relative(got: blocks.F32, want: blocks.F32) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def test_the_levels_are_those_of_qlora_appendix_e() -> None:
    assert LEVELS.tolist() == [
        np.float32(level)
        for level in (
            *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
            *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
            *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
            *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
        )
    ]


def test_the_levels_are_quantiles_of_a_normal_distribution() -> None:
    outermost = 0.9677083  # bitsandbytes' create_normal_map

    def quantiles(n: int) -> list[float]:
        return [NormalDist().inv_cdf(p) for p in np.linspace(outermost, 0.5, n)[:-1]]

    largest = NormalDist().inv_cdf(outermost)
    levels = sorted([*quantiles(9), 0.0, *(-q for q in quantiles(8))])
    np.testing.assert_allclose(LEVELS, np.array(levels) / largest, atol=1e-6)


@given(matrices())
def test_no_weight_moves_further_than_half_the_widest_gap(weight: blocks.F32) -> None:
    quantized = quantize_nf4(weight)
    error = np.abs(dequantize_nf4(quantized) - weight)
    assert (error <= WIDEST_GAP * 1.00001 * _per_weight(quantized)).all()


@given(matrices())
def test_quantizing_what_was_dequantized_changes_nothing(weight: blocks.F32) -> None:
    once = quantize_nf4(weight)
    again = quantize_nf4(dequantize_nf4(once))
    np.testing.assert_array_equal(again.absmax, once.absmax)
    np.testing.assert_array_equal(again.codes, once.codes)


@given(hnp.arrays(np.uint8, (3, 32), elements=st.integers(0, 15)))
def test_packing_round_trips_with_the_first_code_in_the_high_half(whole: blocks.U8) -> None:
    packed = nf4.pack_nf4(whole)
    assert packed.shape == (3, 16)
    np.testing.assert_array_equal(nf4.unpack_nf4(packed), whole)
    np.testing.assert_array_equal(packed[:, 0], 16 * whole[:, 0] + whole[:, 1])


def test_how_many_blocks_are_quantized_at_a_time_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = _gaussian(5, 192)
    whole = quantize_nf4(weight)
    monkeypatch.setattr(nf4, "_CHUNK", 4)
    np.testing.assert_array_equal(quantize_nf4(weight).codes, whole.codes)


@given(matrices(), st.sampled_from([Blockwise(8, 32), Blockwise(8, 64)]))
def test_8_bits_stay_within_a_254th_of_absmax(weight: blocks.F32, scheme: Blockwise) -> None:
    quantized = quantize_nf4(weight)
    error = np.abs(blocks.dequantize(reencoded(quantized, scheme)) - dequantize_nf4(quantized))
    assert (error <= 1.0001 / 254 * _per_weight(quantized)).all()


@pytest.mark.parametrize(
    ("name", "cost"),
    [
        ("int8_block32", 0.0054),
        ("int8_block64", 0.0061),
        ("int4_zeros_block32", 0.0707),
        ("int4_block32", 0.0777),
        ("int4_offset_block32", 0.0781),
        ("int4_block128", 0.0956),
    ],
)
def test_reencoding_costs_what_the_module_says(name: str, cost: float) -> None:
    quantized = quantize_nf4(_gaussian(64, 1024))
    got = blocks.dequantize(reencoded(quantized, BLOCKWISE[name]))
    assert _relative(got, dequantize_nf4(quantized)) == pytest.approx(cost, rel=0.03)


def test_nf4_costs_what_the_module_says() -> None:
    weight = _gaussian(64, 1024)
    got = dequantize_nf4(quantize_nf4(weight))
    assert _relative(got, weight) == pytest.approx(0.0920, rel=0.03)


@pytest.mark.parametrize("name", ["int8_block128", "int8_zeros_block32"])
def test_8_bits_whose_scale_is_not_absmax_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"blocks of 64 or less, got {name}"):
        reencoded(quantize_nf4(_gaussian(1, 128)), BLOCKWISE[name])


def test_rows_that_are_not_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"d_in a multiple of 64, got shape \(2, 96\)"):
        quantize_nf4(_gaussian(2, 96))


def test_arrays_that_do_not_fit_the_shape_are_refused() -> None:
    codes = np.zeros(64, np.uint8)
    with pytest.raises(ValueError, match=r"absmax: expected shape \(2,\)"):
        Nf4(codes=codes, absmax=np.ones(3, np.float32), shape=(1, 128))
    with pytest.raises(ValueError, match=r"codes: expected shape \(32,\)"):
        Nf4(codes=codes, absmax=np.ones(1, np.float32), shape=(1, 64))


def test_onnxruntime_multiplies_with_the_codes_as_they_are() -> None:
    n_rows, d_in = 64, 256
    quantized = quantize_nf4(_gaussian(n_rows, d_in))
    a = np.random.default_rng(6).normal(size=(3, d_in)).astype(np.float32)
    node = onnx.helper.make_node(
        "MatMulBnb4",
        ["a", "codes", "absmax"],
        ["y"],
        domain="com.microsoft",
        K=d_in,
        N=n_rows,
        block_size=BLOCK,
        quant_type=1,
    )
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [value("a", kind, [3, d_in])],
        [value("y", kind, [3, n_rows])],
        [
            onnx.numpy_helper.from_array(quantized.codes, "codes"),
            onnx.numpy_helper.from_array(quantized.absmax, "absmax"),
        ],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"a": a})
    np.testing.assert_allclose(y, a @ dequantize_nf4(quantized).T, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # when imported
def test_codes_and_floats_are_bitsandbytes_to_the_bit() -> None:
    pytest.importorskip("bitsandbytes")
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = _gaussian(64, 4096)
    weight[3, :BLOCK] = 0
    weight[4] = np.round(weight[4] * 4) / 4  # some weights share absmax
    weight[5] *= np.float32(1e-6)
    weight[6] = LEVELS[np.arange(4096) % 16]
    weight[7, 1:] = (LEVELS[:-1] + LEVELS[1:])[np.arange(4095) % 15] / 2  # on the bounds
    weight[7, ::BLOCK] = 1
    weight[8:40] = weight[7] * np.abs(weight[8:40, :1])
    ours = quantize_nf4(weight)
    theirs, state = functional.quantize_4bit(
        torch.from_numpy(weight), blocksize=BLOCK, quant_type="nf4", compress_statistics=False
    )
    np.testing.assert_array_equal(LEVELS, state.code.numpy())
    np.testing.assert_array_equal(ours.absmax, state.absmax.numpy())
    np.testing.assert_array_equal(ours.codes, theirs.numpy().reshape(-1))
    floats = functional.dequantize_4bit(theirs, state).numpy()
    np.testing.assert_array_equal(dequantize_nf4(ours), floats)
