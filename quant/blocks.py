"""Float matrices to blocks of 8- or 4-bit codes and back, packed as MatMulNBits reads them.

Along a row, every `block` weights share one scale (and, asymmetric, one offset):

    w = scale * (code - zero) + offset        zero = 128 (8 bits) or 8 (4 bits)

    row n   | block 0                | block 1 ...
    codes   | c0 c1 c2 c3 ... c31    |                 uint8 [n_rows, n_blocks, block * bits / 8]
            | 4 bits: byte = c0 + 16 c1                (low nibble first)
    scales  | s                      | s               float32 [n_rows, n_blocks]
    offsets | o                      | o               float32 [n_rows, n_blocks], or None

Source: the operator description of com.microsoft.MatMulNBits (ONNX Runtime, ContribOperators.md)
for the packing; llama.cpp ggml-common.h for the meaning of Q8_0 and Q4_1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .schemes import Blockwise

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

_CHUNK = 1 << 22  # weights quantized at a time: bounds the working copies to some 16 MB each


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """One quantized matrix [n_rows, n_columns]; see the module's drawing for the arrays."""

    scheme: Blockwise
    n_columns: int
    codes: U8
    scales: F32
    offsets: F32 | None = None

    def __post_init__(self) -> None:
        n_rows, n_blocks = self.scales.shape
        want = (n_rows, n_blocks, self.scheme.n_bytes_per_block)
        if self.codes.shape != want or n_blocks != self.scheme.n_blocks(self.n_columns):
            raise ValueError(
                f"codes: expected shape {want} for {self.n_columns} columns, got {self.codes.shape}"
            )
        if (self.offsets is not None) != self.scheme.offset:
            raise ValueError(f"offsets do not fit the scheme {self.scheme.name}")
        if self.offsets is not None and self.offsets.shape != self.scales.shape:
            raise ValueError(f"offsets: expected {self.scales.shape}, got {self.offsets.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the float matrix: [n_rows, n_columns]."""
        return self.scales.shape[0], self.n_columns

    def rows(self, index: slice | npt.NDArray[np.intp]) -> "Blocks":
        """The same matrix with only these rows, in this order."""
        return Blocks(
            scheme=self.scheme,
            n_columns=self.n_columns,
            codes=self.codes[index],
            scales=self.scales[index],
            offsets=None if self.offsets is None else self.offsets[index],
        )


def quantize(weight: F32, scheme: Blockwise) -> Blocks:
    """Quantize each row of `weight` [n_rows, n_columns] in blocks, a few rows at a time.

    Symmetric 4 bits spend the code 0 on the largest magnitude of the block, whatever its sign
    (so the scale may be negative); its opposite sign then ends at 15: the error stays within one
    scale, and within half a scale elsewhere. 8 bits and asymmetric blocks stay within half a scale.
    """
    n_rows, n_columns = weight.shape
    n_blocks = scheme.n_blocks(n_columns)
    codes = np.empty((n_rows, n_blocks, scheme.n_bytes_per_block), np.uint8)
    scales = np.empty((n_rows, n_blocks), np.float32)
    offsets = np.empty((n_rows, n_blocks), np.float32) if scheme.offset else None
    step = max(1, _CHUNK // max(1, n_columns))
    for start in range(0, n_rows, step):
        part = slice(start, min(start + step, n_rows))
        blocks = _padded(weight[part], n_blocks, scheme.block)
        if offsets is None:
            scale, zero = _symmetric(blocks, scheme), np.float32(scheme.zero)
            scaled = _divide(blocks, scale) + zero
        else:
            low = blocks.min(axis=2)
            scale = (blocks.max(axis=2) - low) / np.float32(scheme.n_codes - 1)
            scaled = _divide(blocks - low[..., None], scale)
            offsets[part] = low + np.float32(scheme.zero) * scale
        # + 0.5 and floor, not rint: half-way cases round the same way in every block
        whole = np.clip(np.floor(scaled + np.float32(0.5)), 0, scheme.n_codes - 1).astype(np.uint8)
        codes[part] = pack(whole, scheme.bits)
        scales[part] = scale
    return Blocks(scheme=scheme, n_columns=n_columns, codes=codes, scales=scales, offsets=offsets)


def dequantize(blocks: Blocks) -> F32:
    """The float matrix [n_rows, n_columns] that the codes stand for."""
    scheme = blocks.scheme
    whole = unpack(blocks.codes, scheme.bits).astype(np.float32) - np.float32(scheme.zero)
    whole *= blocks.scales[..., None]
    if blocks.offsets is not None:
        whole += blocks.offsets[..., None]
    return whole.reshape(whole.shape[0], -1)[:, : blocks.n_columns]


def concat(parts: Sequence[Blocks]) -> Blocks:
    """Stack matrices of one scheme and one width along their rows.

    Raises:
        ValueError: the schemes or the widths differ.
    """
    first = parts[0]
    if any(p.scheme != first.scheme or p.n_columns != first.n_columns for p in parts):
        seen = [(p.scheme.name, p.n_columns) for p in parts]
        raise ValueError(f"cannot stack blocks of different schemes or widths: {seen}")
    offsets = [p.offsets for p in parts if p.offsets is not None]
    return Blocks(
        scheme=first.scheme,
        n_columns=first.n_columns,
        codes=np.concatenate([p.codes for p in parts]),
        scales=np.concatenate([p.scales for p in parts]),
        offsets=np.concatenate(offsets) if offsets else None,
    )


def pack(whole: U8, bits: int) -> U8:
    """Codes [..., block], one a byte -> [..., block * bits / 8]."""
    if bits == 8:
        return whole
    packed: U8 = whole[..., 0::2] | (whole[..., 1::2] << np.uint8(4))
    return packed


def unpack(packed: U8, bits: int) -> U8:
    """Undo `pack`."""
    if bits == 8:
        return packed
    return np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1).reshape(
        *packed.shape[:-1], -1
    )


def _padded(weight: F32, n_blocks: int, block: int) -> F32:
    """Rows [n, n_columns] -> [n, n_blocks, block], the last block filled with zeros."""
    short = n_blocks * block - weight.shape[1]
    if short:
        weight = np.pad(weight, ((0, 0), (0, short)))
    return weight.reshape(weight.shape[0], n_blocks, block)


def _symmetric(blocks: F32, scheme: Blockwise) -> F32:
    """Scales [n, n_blocks] that spread each block over the codes."""
    if scheme.bits == 8:
        scale: F32 = np.abs(blocks).max(axis=2) / np.float32(127)
        return scale
    largest = np.abs(blocks).argmax(axis=2)[..., None]
    signed: F32 = np.take_along_axis(blocks, largest, axis=2)[..., 0]
    return signed / np.float32(-scheme.zero)


def _divide(blocks: F32, scale: F32) -> F32:
    """blocks / scale, with 0 where a block is constant zero and has no scale."""
    safe = np.where(scale == 0, np.float32(1), scale).astype(np.float32)
    return blocks / safe[..., None]
