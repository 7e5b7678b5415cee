import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kokanee.engine.errors import CheckpointError
from kokanee.export.gguf import LlamaWeights, open_gguf
from kokanee.quant import blocks
from kokanee.quant.blocks import Blocks

RNG = np.random.default_rng(0)
D, N_HEADS, N_KV_HEADS = 64, 4, 2

Tensors = dict[str, tuple[int, tuple[int, ...], bytes]]


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def value(v: Any) -> bytes:
    if isinstance(v, str):
        return struct.pack("<I", 8) + string(v)
    if isinstance(v, list):
        return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(string(x) for x in v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    return struct.pack("<II", 4, v)


def gguf(metadata: dict[str, Any], tensors: Tensors) -> bytes:
    """A file of version 3 with these tensors: (ggml type, shape, bytes)."""
    head = struct.pack("<IIQQ", 0x46554747, 3, len(tensors), len(metadata))
    for key, v in metadata.items():
        head += string(key) + value(v)
    body = b""
    for name, (kind, shape, raw) in tensors.items():
        head += string(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", n) for n in reversed(shape))
        head += struct.pack("<IQ", kind, len(body))
        body += raw + bytes(-len(raw) % 32)
    return head + bytes(-len(head) % 32) + body


def q4_1(n_rows: int, n_columns: int) -> tuple[bytes, npt.NDArray[np.float32]]:
    """Random blocks, and what they mean, written out one number at a time."""
    raw, floats = b"", np.empty((n_rows, n_columns), np.float32)
    for row in range(n_rows):
        for block in range(n_columns // 32):
            d, m = (np.float16(x) for x in RNG.normal(size=2))
            codes = RNG.integers(0, 16, 32)
            raw += d.tobytes() + m.tobytes()
            raw += bytes(int(codes[i] | codes[i + 16] << 4) for i in range(16))
            floats[row, 32 * block : 32 * (block + 1)] = np.float32(d) * codes + np.float32(m)
    return raw, floats


def q8_0(n_rows: int, n_columns: int) -> tuple[bytes, npt.NDArray[np.float32]]:
    raw, floats = b"", np.empty((n_rows, n_columns), np.float32)
    for row in range(n_rows):
        for block in range(n_columns // 32):
            d, codes = np.float16(RNG.normal()), RNG.integers(-127, 128, 32).astype(np.int8)
            raw += d.tobytes() + codes.tobytes()
            floats[row, 32 * block : 32 * (block + 1)] = np.float32(d) * codes
    return raw, floats


def open_bytes(folder: Path, data: bytes) -> Any:
    (folder / "m.gguf").write_bytes(data)
    return open_gguf(folder / "m.gguf")


@pytest.mark.parametrize(("kind", "make"), [(3, q4_1), (8, q8_0)])
def test_blocks_mean_what_ggml_says(
    kind: int,
    make: Callable[[int, int], tuple[bytes, npt.NDArray[np.float32]]],
    tmp_path: Path,
) -> None:
    raw, floats = make(3, 64)
    tensor = open_bytes(tmp_path, gguf({}, {"t": (kind, (3, 64), raw)})).tensors["t"].read()
    assert isinstance(tensor, Blocks)
    np.testing.assert_allclose(blocks.dequantize(tensor), floats, atol=1e-5)


def test_floats_and_metadata(tmp_path: Path) -> None:
    half, full = RNG.normal(size=(2, 3)).astype("<f2"), RNG.normal(size=5).astype("<f4")
    metadata = {"text": "straße", "list": ["a", "b c"], "number": 7, "real": 0.5}
    tensors: Tensors = {"h": (1, (2, 3), half.tobytes()), "f": (0, (5,), full.tobytes())}
    file = open_bytes(tmp_path, gguf(metadata, tensors))
    assert file.metadata == metadata
    np.testing.assert_array_equal(file.tensors["h"].read(), half.astype(np.float32))
    np.testing.assert_array_equal(file.tensors["f"].read(), full)


LLAMA = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.attention.head_count": N_HEADS,
    "llama.attention.head_count_kv": N_KV_HEADS,
}


def llama_tensors() -> Tensors:
    """One layer of one-element tensors."""
    layer = "attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down attn_norm ffn_norm"
    names = ["token_embd", "output_norm", *(f"blk.0.{name}" for name in layer.split())]
    return {f"{name}.weight": (0, (1,), bytes(4)) for name in names}


@pytest.mark.parametrize(("letter", "n_heads"), [("q", N_HEADS), ("k", N_KV_HEADS)])
def test_rotary_rows_are_put_back_in_order(letter: str, n_heads: int, tmp_path: Path) -> None:
    """llama.cpp interleaves the halves of each head; as floats and as blocks."""
    d_head = 8
    raw, stored = q8_0(n_heads * d_head, D)
    name = f"blk.0.attn_{letter}.weight"
    tensors = llama_tensors() | {name: (8, stored.shape, raw)}
    weights = LlamaWeights(open_bytes(tmp_path, gguf(LLAMA, tensors)))
    tensor = weights[f"model.layers.0.self_attn.{letter}_proj.weight"]
    assert isinstance(tensor, Blocks)
    got = blocks.dequantize(tensor).reshape(n_heads, d_head, D)
    for head in range(n_heads):
        for i in range(d_head // 2):
            even, odd = stored[head * d_head + 2 * i], stored[head * d_head + 2 * i + 1]
            np.testing.assert_array_equal(got[head, i], even)
            np.testing.assert_array_equal(got[head, i + d_head // 2], odd)


def test_names_follow_hugging_face(tmp_path: Path) -> None:
    weights = LlamaWeights(open_bytes(tmp_path, gguf(LLAMA, llama_tensors())))
    assert len(weights) == len(list(weights)) == 2 + 9
    assert "lm_head.weight" not in weights
    assert "model.layers.0.mlp.down_proj.weight" in weights


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = llama_tensors()
    del tensors["blk.0.ffn_up.weight"]
    with pytest.raises(CheckpointError, match=r"m\.gguf: no tensor blk\.0\.ffn_up\.weight"):
        LlamaWeights(open_bytes(tmp_path, gguf(LLAMA, tensors)))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a llama model, got bert"):
        LlamaWeights(open_bytes(tmp_path, gguf({"general.architecture": "bert"}, {})))


def test_an_unknown_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="t has ggml type 12; only F32, F16, Q4_1, Q8_0"):
        open_bytes(tmp_path, gguf({}, {"t": (12, (1, 32), bytes(64))}))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    raw, _ = q4_1(2, 32)
    whole = gguf({"list": ["a", "b"], "real": 1.0}, {"t": (3, (2, 32), raw)})
    for n in range(0, len(whole) - 31, 7):
        with pytest.raises(CheckpointError):
            open_bytes(tmp_path, whole[:n])


def test_text_is_not_gguf(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        open_bytes(tmp_path, b"Not a model, but long enough to be one." * 3)


def test_a_length_beyond_any_file_is_refused(tmp_path: Path) -> None:
    data = struct.pack("<IIQQ", 0x46554747, 3, 0, 1) + struct.pack("<Q", 1 << 62)
    with pytest.raises(CheckpointError, match="ends in the middle of its header"):
        open_bytes(tmp_path, data)
