import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.engine.errors import CheckpointError
from kokanee.export.checkpoint import Unpickler, open_safetensors
from kokanee.export.gptq_checkpoint import (
    GptqWeights,
    check_shared_orders,
    open_gptq_folder,
    read_quantize_config,
    shared_order,
)
from kokanee.quant.blocks import Blocks, concat, dequantize, unpack

GOLDEN = Path(__file__).parents[2] / "golden" / "gptq"
Q, K, V = (f"model.layers.0.self_attn.{letter}_proj" for letter in "qkv")
Array = npt.NDArray[Any]
Tensors = dict[str, Array]


# --- a writer of its own: loops over the definition -----------------------------------------------


def words(codes: Array, bits: int, *, minus: int = 0) -> Array:
    """Codes [n, m] -> int32 [n, ceil(m * bits / 32)], lowest bits first; `minus` from each code."""
    per_word = 32 // bits
    packed = np.zeros((codes.shape[0], -(-codes.shape[1] // per_word)), np.uint32)
    for row in range(codes.shape[0]):
        for column in range(packed.shape[1]):
            word = 0
            for j, code in enumerate(codes[row, column * per_word : (column + 1) * per_word]):
                word += (int(code) - minus) << (bits * j)
            packed[row, column] = word % (1 << 32)
    return packed.view(np.int32)


def linear(
    d_out: int,
    d_in: int,
    bits: int,
    group: int,
    *,
    sym: bool,
    v1: bool,
    act: bool,
    seed: int = 0,
    least_zero: int = 1,
) -> tuple[Tensors, Tensors]:
    """The tensors of a file, and what they stand for: codes [d_out, d_in], zeros, weight."""
    rng = np.random.default_rng(seed)
    group = d_in if group == -1 else group
    n_groups = d_in // group
    g_idx = np.arange(d_in) // group
    if act:
        g_idx = rng.permutation(g_idx)
    codes = rng.integers(0, 1 << bits, (d_in, d_out))
    middle = 1 << (bits - 1)
    zeros = rng.integers(least_zero, 1 << bits, (n_groups, d_out))
    zeros = np.full_like(zeros, middle) if sym else zeros
    scales = rng.uniform(0.001, 0.1, (n_groups, d_out)).astype(np.float16)
    weight = np.zeros((d_out, d_in), np.float32)
    for i in range(d_in):
        for o in range(d_out):
            g = g_idx[i]
            weight[o, i] = np.float32(scales[g, o]) * (codes[i, o] - zeros[g, o])
    stored = {
        "qweight": np.ascontiguousarray(words(codes.T, bits).T),
        "qzeros": words(zeros, bits, minus=1 if v1 else 0),
        "scales": scales,
        "g_idx": g_idx.astype(np.int32),
    }
    return stored, {"codes": codes.T, "zeros": zeros.T, "weight": weight, "scales": scales.T}


def model(
    names: tuple[str, ...] = (Q,), *, shape: tuple[int, int] = (16, 64), **how: Any
) -> Tensors:
    tensors: Tensors = {"model.norm.weight": np.arange(4, dtype=np.float16)}
    settings = {"bits": 4, "group": 32, "sym": True, "v1": True, "act": False, **how}
    for name in names:
        stored, _ = linear(*shape, **settings)
        tensors |= {f"{name}.{part}": array for part, array in stored.items()}
    return tensors


def safetensors(tensors: Tensors) -> bytes:
    header, data = {}, b""
    kinds = {"int32": "I32", "int64": "I64", "float16": "F16", "float32": "F32"}
    for name, array in tensors.items():
        header[name] = {
            "dtype": kinds[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def settings(**changes: Any) -> dict[str, Any]:
    whole = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "desc_act": False,
        "sym": True,
        "checkpoint_format": "gptq",
    }
    return {k: v for k, v in {**whole, **changes}.items() if v is not ...}


def weights(folder: Path, tensors: Tensors, **changes: Any) -> GptqWeights:
    (folder / "config.json").write_text(json.dumps({"quantization_config": settings(**changes)}))
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    config = read_quantize_config(folder)
    assert config is not None
    _, entries = open_gptq_folder(folder, Unpickler(folder))
    return GptqWeights(entries, config)


def read(source: GptqWeights, name: str) -> Blocks:
    value = source[name]
    assert isinstance(value, Blocks)
    return value


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [False, True])
@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("group", [32, 128, -1])
@pytest.mark.parametrize("bits", [4, 8])
def test_codes_zeros_and_products_are_those_of_the_file(
    bits: int, group: int, sym: bool, v1: bool, act: bool, tmp_path: Path
) -> None:
    d_out, d_in = 24, 256
    act = act and group != -1
    stored, meant = linear(d_out, d_in, bits, group, sym=sym, v1=v1, act=act)
    source = weights(
        tmp_path,
        {f"{Q}.{part}": array for part, array in stored.items()},
        bits=bits,
        group_size=group,
        sym=sym,
        desc_act=act,
        checkpoint_format="gptq" if v1 else "gptq_v2",
    )
    name = f"{Q}.weight"
    blocks, order = read(source, name), source.order(name)
    assert (order is not None) == act
    columns = np.arange(d_in) if order is None else order
    assert blocks.scheme == source.scheme
    assert (blocks.scheme.bits, blocks.scheme.zeros) == (bits, not sym)
    assert blocks.scheme.block == (128 if group == -1 else group)
    codes = unpack(blocks.codes, bits).reshape(d_out, d_in)
    np.testing.assert_array_equal(codes, meant["codes"][:, columns])
    repeat = 2 if group == -1 else 1
    np.testing.assert_array_equal(
        blocks.scales, meant["scales"].astype(np.float32).repeat(repeat, axis=1)
    )
    if blocks.zeros is not None:
        np.testing.assert_array_equal(blocks.zeros, meant["zeros"].repeat(repeat, axis=1))
    np.testing.assert_array_equal(dequantize(blocks), meant["weight"][:, columns])
    x = np.random.default_rng(1).normal(size=d_in)
    product = dequantize(blocks).astype(np.float64) @ x[columns]
    np.testing.assert_allclose(product, meant["weight"].astype(np.float64) @ x, rtol=1e-9)


@given(
    bits=st.sampled_from([4, 8]),
    n_groups=st.integers(1, 4),
    d_out=st.integers(1, 21),
    sym=st.booleans(),
    v1=st.booleans(),
    act=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
def test_any_matrix_is_unpacked_to_its_definition(
    tmp_path_factory: pytest.TempPathFactory,
    bits: int,
    n_groups: int,
    d_out: int,
    sym: bool,
    v1: bool,
    act: bool,
    seed: int,
) -> None:
    stored, meant = linear(d_out, 32 * n_groups, bits, 32, sym=sym, v1=v1, act=act, seed=seed)
    source = weights(
        tmp_path_factory.mktemp("gptq"),
        {f"{Q}.{part}": array for part, array in stored.items()},
        bits=bits,
        sym=False,  # what the zeros say counts
        desc_act=act,
        checkpoint_format="gptq" if v1 else "gptq_v2",
    )
    name = f"{Q}.weight"
    order = source.order(name)
    columns = np.arange(32 * n_groups) if order is None else order
    np.testing.assert_array_equal(np.sort(columns), np.arange(32 * n_groups))
    np.testing.assert_array_equal(dequantize(read(source, name)), meant["weight"][:, columns])


def test_the_golden_checkpoint_is_what_gptqmodel_dequantizes() -> None:
    config = read_quantize_config(GOLDEN)
    assert config is not None
    source = GptqWeights(open_safetensors(GOLDEN / "model.safetensors"), config)
    check_shared_orders(source)
    assert source.scheme.name == "int4_zeros_block32"
    lowest = 16
    with np.load(GOLDEN / "dequantized.npz") as golden:
        assert len(golden.files) == 7
        for name in golden.files:
            order, blocks = source.order(name), read(source, name)
            assert order is not None
            assert blocks.zeros is not None
            lowest = min(lowest, int(blocks.zeros.min()))
            # GPTQModel multiplies in float16: one rounding of the product that we have exactly
            np.testing.assert_array_equal(
                dequantize(blocks).astype(np.float16), golden[name][:, order]
            )
    assert lowest == 0  # stored as -1, with a borrow


def test_one_scale_a_row_is_repeated_where_the_last_block_is_short(tmp_path: Path) -> None:
    stored, meant = linear(8, 160, 4, -1, sym=False, v1=False, act=False)
    source = weights(
        tmp_path,
        {f"{Q}.{part}": array for part, array in stored.items()},
        group_size=-1,
        sym=False,
        checkpoint_format="gptq_v2",
    )
    blocks = read(source, f"{Q}.weight")
    assert blocks.scales.shape == (8, 2)
    np.testing.assert_array_equal(dequantize(blocks), meant["weight"])


def test_a_v1_zero_of_0_is_read_only_where_its_writer_is_known(tmp_path: Path) -> None:
    how = {"bits": 4, "group": 32, "sym": False, "v1": True, "act": False, "least_zero": 0}
    stored, meant = linear(40, 64, **how)  # type: ignore[arg-type]
    assert (meant["zeros"] == 0).any()
    tensors = {f"{Q}.{part}": array for part, array in stored.items()}
    known = weights(tmp_path, tensors, sym=False, meta={"quantizer": ["gptqmodel:7.6.0"]})
    np.testing.assert_array_equal(read(known, f"{Q}.weight").zeros, meant["zeros"])
    with pytest.raises(CheckpointError, match=r"q_proj.weight: expected zeros of 1 or more, got 0"):
        weights(tmp_path, tensors, sym=False, meta={"quantizer": "auto_gptq:0.7"})


def test_one_asymmetric_matrix_makes_the_whole_model_asymmetric(tmp_path: Path) -> None:
    tensors = model((Q, K))
    odd, meant = linear(16, 64, 4, 32, sym=False, v1=True, act=False)
    source = weights(tmp_path, tensors | {f"{V}.{part}": array for part, array in odd.items()})
    parts = [read(source, f"{name}.weight") for name in (Q, K, V)]
    stacked = concat(parts)
    assert stacked.scheme.name == "int4_zeros_block32"
    assert stacked.zeros is not None
    assert (stacked.zeros[:32] == 8).all()
    np.testing.assert_array_equal(dequantize(stacked)[32:], meant["weight"])


def test_what_is_not_quantized_stays_as_it_lies(tmp_path: Path) -> None:
    source = weights(tmp_path, model())
    assert sorted(source) == ["model.layers.0.self_attn.q_proj.weight", "model.norm.weight"]
    assert len(source) == 2
    assert f"{Q}.qweight" not in source
    norm = source["model.norm.weight"]
    assert isinstance(norm, np.ndarray)
    assert norm.dtype == np.float16
    np.testing.assert_array_equal(norm, np.arange(4))
    assert source.order("model.norm.weight") is None
    assert source.shapes() == {f"{Q}.weight": (16, 64), "model.norm.weight": (4,)}
    with pytest.raises(KeyError):
        source.order("model.other.weight")


def test_groups_without_g_idx_follow_one_another(tmp_path: Path) -> None:
    tensors = model()
    want = dequantize(read(weights(tmp_path, tensors), f"{Q}.weight"))
    del tensors[f"{Q}.g_idx"]
    source = weights(tmp_path, tensors)
    assert source.order(f"{Q}.weight") is None
    np.testing.assert_array_equal(dequantize(read(source, f"{Q}.weight")), want)
    with pytest.raises(CheckpointError, match=r"missing .*q_proj.g_idx; with desc_act"):
        weights(tmp_path, tensors, desc_act=True)


# --- matrices that share an input -----------------------------------------------------------------


def test_the_order_of_q_k_and_v_is_one(tmp_path: Path) -> None:
    source = weights(tmp_path, model((Q, K, V), act=True), desc_act=True)
    check_shared_orders(source)
    names = [f"{name}.weight" for name in (Q, K, V)]
    order = shared_order(source, names)
    assert order is not None
    np.testing.assert_array_equal(order, source.order(names[2]))


@pytest.mark.parametrize("act", [True, False])
def test_another_order_of_v_is_named(act: bool, tmp_path: Path) -> None:
    tensors = model((Q, K), act=True) | model((V,), act=act, seed=1)
    source = weights(tmp_path, tensors, desc_act=True)
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.v_proj\.weight: expected"):
        check_shared_orders(source)


def test_the_orders_of_gate_and_up_are_compared(tmp_path: Path) -> None:
    gate, up = "model.layers.3.mlp.gate_proj", "model.layers.3.mlp.up_proj"
    tensors = model((gate,), act=True) | model((up,), act=True, seed=1)
    source = weights(tmp_path, tensors, desc_act=True)
    with pytest.raises(CheckpointError, match=r"layers\.3\.mlp\.up_proj"):
        check_shared_orders(source)


# --- configuration --------------------------------------------------------------------------------


def test_a_folder_without_quantization_has_no_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert read_quantize_config(tmp_path) is None


def test_auto_gptqs_own_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    own = settings(quant_method=..., checkpoint_format=..., group_size=32)
    (tmp_path / "quantize_config.json").write_text(json.dumps(own))
    (tmp_path / "gptq_model-4bit-32g.safetensors").write_bytes(safetensors(model()))
    config = read_quantize_config(tmp_path)
    assert config is not None
    assert config.where.name == "quantize_config.json"
    assert (config.bits, config.group_size, config.checkpoint_format) == (4, 32, "gptq")
    _, entries = open_gptq_folder(tmp_path, Unpickler(tmp_path))
    assert read(GptqWeights(entries, config), f"{Q}.weight").shape == (16, 64)


def test_config_json_lends_what_it_lacks_from_quantize_config(tmp_path: Path) -> None:
    inside = settings(checkpoint_format=..., group_size=64)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": inside}))
    beside = settings(checkpoint_format="gptq_v2", group_size=32)
    (tmp_path / "quantize_config.json").write_text(json.dumps(beside))
    config = read_quantize_config(tmp_path)
    assert config is not None
    assert (config.checkpoint_format, config.group_size) == ("gptq_v2", 64)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bits", 3, "bits: expected 4 or 8, got 3"),
        ("bits", 4.0, "bits: expected 4 or 8, got 4.0"),
        ("bits", ..., "bits: expected 4 or 8, got nothing"),
        ("group_size", 16, "group_size: expected -1 or 32 or 64 or 128, got 16"),
        ("group_size", ..., "group_size: expected .* got nothing"),
        ("quant_method", "awq", "quant_method: expected 'gptq', got 'awq'"),
        ("quant_method", ..., "quant_method: expected 'gptq', got nothing"),
        ("checkpoint_format", "marlin", "checkpoint_format: expected 'gptq' or 'gptq_v2'"),
        ("is_marlin_format", True, "is_marlin_format: expected False, got True"),
        ("desc_act", 1, "desc_act: expected False or True, got 1"),
        ("pack_dtype", "int16", "pack_dtype: expected 'int32', got 'int16'"),
        ("dynamic", {"+:lm_head": {"bits": 8}}, "dynamic: expected None or {}"),
    ],
)
def test_settings_that_have_no_blocks_are_refused(
    key: str, value: object, message: str, tmp_path: Path
) -> None:
    config = {"quantization_config": settings(**{key: value})}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        read_quantize_config(tmp_path)


def test_a_config_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"quantization_config": "gptq"}')
    with pytest.raises(CheckpointError, match="quantization_config: expected an object"):
        read_quantize_config(tmp_path)


# --- bad tensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "array", "message"),
    [
        ("qweight", None, r"missing .*q_proj\.qweight"),
        ("scales", None, r"missing .*q_proj\.scales"),
        ("qzeros", None, r"missing .*q_proj\.qzeros"),
        ("qweight", np.zeros((8, 16), np.float32), r"qweight: expected int32, got float32"),
        ("qweight", np.zeros(128, np.int32), r"qweight: expected 2 axes, got shape \(128,\)"),
        ("qweight", np.zeros((0, 16), np.int32), r"qweight: expected 2 axes, got shape \(0, 16\)"),
        ("qweight", np.zeros((6, 16), np.int32), r"qweight: expected groups of 32"),
        ("qweight", np.zeros((8, 8), np.int32), r"qzeros: expected shape \(2, 1\), got \(2, 2\)"),
        ("qzeros", np.zeros((2, 2), np.float32), r"qzeros: expected int32, got float32"),
        ("qzeros", np.zeros((1, 2), np.int32), r"qzeros: expected shape \(2, 2\), got \(1, 2\)"),
        ("scales", np.zeros((2, 8), np.float16), r"scales: expected shape \(2, 16\)"),
        ("scales", np.zeros((2, 16), np.int32), r"scales: expected float16 or .*, got int32"),
        ("g_idx", np.zeros(32, np.int32), r"g_idx: expected shape \(64,\), got \(32,\)"),
        ("g_idx", np.zeros(64, np.float32), r"g_idx: expected int32 or int64, got float32"),
        ("g_idx", np.arange(64, dtype=np.int32) // 16, r"g_idx: expected groups 0 to 1, got 0 to"),
        ("g_idx", np.arange(64, dtype=np.int32) // 32 - 1, r"g_idx: expected .* got -1 to 0"),
        ("g_idx", np.arange(64, dtype=np.int32) // 33, r"expected 32 channels .* got 31 to 33"),
        ("bias", np.ones(16, np.float16), r"q_proj\.bias: expected zeros"),
        ("weight", np.ones((16, 64), np.float16), r"both float and quantized: .*q_proj\.weight"),
    ],
)
def test_a_bad_part_is_named(part: str, array: Array | None, message: str, tmp_path: Path) -> None:
    tensors = model()
    if array is None:
        del tensors[f"{Q}.{part}"]
    else:
        tensors[f"{Q}.{part}"] = array
    with pytest.raises(CheckpointError, match=message):
        weights(tmp_path, tensors)


def test_a_bias_of_zeros_is_left_out(tmp_path: Path) -> None:
    source = weights(tmp_path, model() | {f"{Q}.bias": np.zeros(16, np.float16)})
    assert f"{Q}.bias" not in source


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_scales_that_are_not_finite_are_refused_when_read(value: float, tmp_path: Path) -> None:
    tensors = model()
    tensors[f"{Q}.scales"][1, 3] = value
    source = weights(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=r"q_proj\.weight: expected finite scales"):
        source[f"{Q}.weight"]


@pytest.mark.parametrize(("stored", "said"), [("gptq_v2", "gptq"), ("gptq", "gptq_v2")])
def test_a_symmetric_file_under_the_other_format_is_refused(
    stored: str, said: str, tmp_path: Path
) -> None:
    tensors = model(v1=stored == "gptq")
    with pytest.raises(CheckpointError, match=f"sym: expected zeros of 8, .* as {stored}, say so"):
        weights(tmp_path, tensors, checkpoint_format=said)


def test_a_file_without_quantized_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tensor is called \*\.qweight"):
        weights(tmp_path, {"model.norm.weight": np.zeros(4, np.float16)})


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    source = weights(tmp_path, model())
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: ends before .*q_proj\.g_idx"):
        open_safetensors(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="ends inside a tensor"):
        source[f"{Q}.weight"]
