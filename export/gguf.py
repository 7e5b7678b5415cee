"""A GGUF file -> its metadata, and its LLaMA weights under the names Hugging Face gives them.

Memory-mapped, NumPy only, every length checked against the file before it is used. Quantized
tensors stay quantized: Q8_0 and Q4_1 become Blocks with the same codes.

Source: the GGUF description in ggml's docs/gguf.md (container) and llama.cpp's ggml-common.h
(block layouts), conversion/llama.py (the row order of q and k).
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kokanee.engine.errors import CheckpointError
from kokanee.quant import blocks as quant
from kokanee.quant.blocks import Blocks
from kokanee.quant.schemes import INT4_OFFSET, INT8

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

MAGIC = 0x46554747  # "GGUF"
VERSIONS = (2, 3)
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9

# type number -> (name, values a block, bytes a block)
_TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34)}


@dataclass(frozen=True, slots=True)
class Gguf:
    """An open file: metadata by key, and where each tensor lies."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, "GgufTensor"]


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor in the file; `raw` is a view on the map."""

    kind: str
    shape: tuple[int, ...]
    raw: U8

    def read(self) -> F32 | Blocks:
        """Float arrays for F32 and F16, Blocks for the rest; [n_rows, n_columns] as in PyTorch."""
        if self.kind == "F32":
            return self.raw.view("<f4").astype(np.float32).reshape(self.shape)
        if self.kind == "F16":
            return self.raw.view("<f2").astype(np.float32).reshape(self.shape)
        n_rows, n_columns = self.shape
        return _BLOCKS[self.kind](self.raw.reshape(n_rows, n_columns // 32, -1), n_columns)


def _q8_0(raw: U8, n_columns: int) -> Blocks:
    """34 bytes: float16 scale, 32 signed codes."""
    return Blocks(
        scheme=INT8,
        n_columns=n_columns,
        codes=raw[..., 2:] ^ np.uint8(0x80),  # int8 q -> uint8 q + 128
        scales=_half(raw, 0),
    )


def _q4_1(raw: U8, n_columns: int) -> Blocks:
    """20 bytes: float16 scale d, float16 minimum m, nibbles; w = d q + m.

    Byte i holds code i in its low nibble and code i + 16 in its high one.
    """
    nibbles = raw[..., 4:]
    whole = np.concatenate([nibbles & np.uint8(15), nibbles >> np.uint8(4)], axis=-1)
    scales = _half(raw, 0)
    return Blocks(
        scheme=INT4_OFFSET,
        n_columns=n_columns,
        codes=quant.pack(whole, 4),
        scales=scales,
        offsets=_half(raw, 2) + np.float32(INT4_OFFSET.zero) * scales,
    )


_BLOCKS = {"Q8_0": _q8_0, "Q4_1": _q4_1}


def _half(raw: U8, at: int) -> F32:
    """The float16 at byte `at` of every block, [n_rows, n_blocks]."""
    return np.ascontiguousarray(raw[..., at : at + 2]).view("<f2")[..., 0].astype(np.float32)


# --- container ------------------------------------------------------------------------------------


class _Cursor:
    """Reads the header; running past the end of the file is a CheckpointError."""

    def __init__(self, path: Path, data: U8) -> None:
        self.path, self.data, self.at = path, data, 0

    def take(self, n_bytes: int) -> bytes:
        if self.at + n_bytes > self.data.size:
            raise CheckpointError(f"{self.path.name}: the file ends in the middle of its header")
        self.at += n_bytes
        return self.data[self.at - n_bytes : self.at].tobytes()

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))
        return value

    def string(self) -> str:
        # Tokens are arbitrary bytes in some files; a name or a text always decodes.
        return self.take(self.scalar("Q")).decode("utf-8", errors="surrogateescape")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            item, n = self.scalar("I"), self.scalar("Q")
            if item in _SCALARS:
                code = _SCALARS[item]
                return list(struct.unpack(f"<{n}{code}", self.take(n * struct.calcsize(code))))
            return [self.value(item) for _ in range(n)]
        if kind not in _SCALARS:
            raise CheckpointError(f"{self.path.name}: unknown metadata type {kind}")
        return self.scalar(_SCALARS[kind])


def open_gguf(path: Path) -> Gguf:
    """Map a GGUF file and read its header.

    Raises:
        CheckpointError: not GGUF, truncated, or a tensor of a type other than F32, F16, Q8_0, Q4_1.
    """
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path.name}: the file is empty")
    data: U8 = np.memmap(path, np.uint8, mode="r")
    cursor = _Cursor(path, data)
    magic, version = cursor.scalar("I"), cursor.scalar("I")
    if magic != MAGIC or version not in VERSIONS:
        raise CheckpointError(f"{path.name}: not a GGUF file of version {VERSIONS}")
    n_tensors, n_metadata = cursor.scalar("Q"), cursor.scalar("Q")
    metadata = {}
    for _ in range(n_metadata):
        name = cursor.string()
        metadata[name] = cursor.value(cursor.scalar("I"))
    found = []
    for _ in range(n_tensors):
        name = cursor.string()
        shape = tuple(cursor.scalar("Q") for _ in range(cursor.scalar("I")))[::-1]
        found.append((name, shape, cursor.scalar("I"), cursor.scalar("Q")))
    align = metadata.get("general.alignment", 32)
    start = -(-cursor.at // align) * align
    return Gguf(
        path, metadata, {n: _tensor(path, data, n, s, k, start + o) for n, s, k, o in found}
    )


def _tensor(
    path: Path, data: U8, name: str, shape: tuple[int, ...], kind: int, start: int
) -> GgufTensor:
    if kind not in _TYPES:
        known = ", ".join(t[0] for t in _TYPES.values())
        raise CheckpointError(
            f"{path.name}: {name} has ggml type {kind}; only {known} are read: use another file"
        )
    label, n_values, n_block_bytes = _TYPES[kind]
    if n_values > 1 and (len(shape) != 2 or shape[-1] % n_values):
        raise CheckpointError(f"{path.name}: {name} {label} has the impossible shape {shape}")
    n_bytes = prod(shape) // n_values * n_block_bytes
    if start + n_bytes > data.size:
        raise CheckpointError(f"{path.name}: the file ends in the middle of {name}")
    return GgufTensor(label, shape, data[start : start + n_bytes])


# --- LLaMA ----------------------------------------------------------------------------------------

_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


class LlamaWeights(Mapping[str, F32 | Blocks]):
    """The tensors of a LLaMA GGUF under Hugging Face's names, each read when it is asked for.

    llama.cpp stores the rows of q and k so that the two halves of a rotary pair are neighbours;
    here they are a half head apart again, in the blocks too.

    Raises:
        CheckpointError: the file holds another architecture, or lacks a tensor.
    """

    def __init__(self, file: Gguf) -> None:
        architecture = file.metadata.get("general.architecture")
        if architecture != "llama":
            raise CheckpointError(f"{file.path.name}: expected a llama model, got {architecture}")
        self._file = file
        self._names = {
            "model.embed_tokens.weight": "token_embd.weight",
            "model.norm.weight": "output_norm.weight",
        }
        if "output.weight" in file.tensors:
            self._names["lm_head.weight"] = "output.weight"
        for i in range(file.metadata["llama.block_count"]):
            for ours, theirs in _LAYER.items():
                self._names[f"model.layers.{i}.{ours}.weight"] = f"blk.{i}.{theirs}.weight"
        for name in self._names.values():
            if name not in file.tensors:
                raise CheckpointError(f"{file.path.name}: no tensor {name}")
        n_heads = file.metadata["llama.attention.head_count"]
        n_kv_heads = file.metadata.get("llama.attention.head_count_kv", n_heads)
        self._heads = {"q_proj": n_heads, "k_proj": n_kv_heads}

    def __getitem__(self, name: str) -> F32 | Blocks:
        tensor = self._file.tensors[self._names[name]].read()
        n_heads = self._heads.get(name.split(".")[-2])
        if n_heads is None:
            return tensor
        order = _rotary_order(tensor.shape[0], n_heads)
        return tensor.rows(order) if isinstance(tensor, Blocks) else tensor[order]

    def __contains__(self, name: object) -> bool:
        """Without reading the tensor, as the inherited method would."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _rotary_order(n_rows: int, n_heads: int) -> npt.NDArray[np.intp]:
    """Which stored row each row of q or k is: pairs (i, i + d_head / 2) lie side by side there."""
    stored = np.arange(n_rows).reshape(n_heads, n_rows // n_heads // 2, 2)
    return stored.swapaxes(1, 2).reshape(-1)
