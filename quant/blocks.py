"""Float matrices to blocks of 8- or 4-bit codes and back, packed as MatMulNBits reads them.

Along a row, every `block` weights share one scale (and, asymmetric, one offset):

    w = scale * (code - zero) + offset        zero = 128 (8 bits) or 8 (4 bits), unless given

    row n   | block 0                | block 1 ...
    codes   | c0 c1 c2 c3 ... c31    |                 uint8 [n_rows, n_blocks, block * bits / 8]
            | 4 bits: byte = c0 + 16 c1                (low nibble first)
    scales  | s                      | s               float32 [n_rows, n_blocks]
    zeros   | z                      | z               uint8 [n_rows, n_blocks], or None
    offsets | o                      | o               float32 [n_rows, n_blocks], or None

In a file zeros of 4 bits lie two to a byte as the codes do (`packed_zeros`).

Source: the operator description of com.microsoft.MatMulNBits (ONNX Runtime, ContribOperators.md)
for the packing; llama.cpp ggml-common.h for the meaning of Q8_0 and Q4_1.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .schemes import Blockwise

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

_CHUNK = 1 << 16  # weights quantized at a time: working copies of 256 kB


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """One quantized matrix [n_rows, n_columns]; see the module's drawing for the arrays."""

    scheme: Blockwise
    n_columns: int
    codes: U8
    scales: F32
    offsets: F32 | None = None
    zeros: U8 | None = None

    def __post_init__(self) -> None:
        n_rows, n_blocks = self.scales.shape
        want = (n_rows, n_blocks, self.scheme.n_bytes_per_block)
        if self.codes.shape != want or n_blocks != self.scheme.n_blocks(self.n_columns):
            raise ValueError(
                f"codes: expected shape {want} for {self.n_columns} columns, got {self.codes.shape}"
            )
        for name, array, wanted in (
            ("offsets", self.offsets, self.scheme.offset),
            ("zeros", self.zeros, self.scheme.zeros),
        ):
            if (array is not None) != wanted:
                raise ValueError(f"{name} do not fit the scheme {self.scheme.name}")
            if array is not None and array.shape != self.scales.shape:
                raise ValueError(f"{name}: expected {self.scales.shape}, got {array.shape}")

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
            zeros=None if self.zeros is None else self.zeros[index],
        )

    @property
    def packed_zeros(self) -> U8:
        """Zeros as MatMulNBits reads them, [n_rows, ceil(n_blocks * bits / 8)]."""
        assert self.zeros is not None
        zeros = self.zeros
        if self.scheme.bits == 4 and zeros.shape[1] % 2:
            zeros = np.pad(zeros, ((0, 0), (0, 1)))
        return pack(zeros, self.scheme.bits)


@dataclass(frozen=True, slots=True)
class Grid:
    """The values that the codes of each block stand for; arrays as in `Blocks`."""

    scales: F32
    zeros: U8 | None = None
    offsets: F32 | None = None

    def rows(self, index: slice) -> "Grid":
        """The grid of these rows."""
        return Grid(
            self.scales[index],
            zeros=None if self.zeros is None else self.zeros[index],
            offsets=None if self.offsets is None else self.offsets[index],
        )

    def codes(self, blocks: F32, scheme: Blockwise) -> U8:
        """The nearest code of each weight [n_rows, n_blocks, n], one a byte."""
        if self.offsets is not None:
            blocks = blocks - self.offsets[..., None]
        safe = np.where(self.scales == 0, np.float32(1), self.scales).astype(np.float32)
        scaled = blocks / safe[..., None] + self._zero(scheme)
        # + 0.5 and floor, not rint: half-way cases round the same way in every block
        scaled += np.float32(0.5)
        np.floor(scaled, out=scaled)
        codes: U8 = np.clip(scaled, 0, scheme.n_codes - 1, out=scaled).astype(np.uint8)
        return codes

    def values(self, codes: U8, scheme: Blockwise) -> F32:
        """What codes [n_rows, n_blocks, n] stand for."""
        values = codes.astype(np.float32) - self._zero(scheme)
        values *= self.scales[..., None]
        if self.offsets is not None:
            values += self.offsets[..., None]
        return values

    def _zero(self, scheme: Blockwise) -> F32 | np.float32:
        if self.zeros is None:
            return np.float32(scheme.zero)
        return self.zeros[..., None].astype(np.float32)


Fit = Callable[[F32, Blockwise], Grid]
"""Chooses the grid for blocks [n_rows, n_blocks, block]."""


def spread(blocks: F32, scheme: Blockwise) -> Grid:
    """Spread the codes over each block from its least to its largest weight.

    Symmetric 4 bits spend the code 0 on the largest magnitude of the block, whatever its sign
    (so the scale may be negative); its opposite sign then ends at 15: the error stays within one
    scale, and within half a scale elsewhere. 8 bits, zeros and offsets stay within half a scale.
    """
    steps = np.float32(scheme.n_codes - 1)
    if scheme.offset:
        low = blocks.min(axis=2)
        scale = (blocks.max(axis=2) - low) / steps
        return Grid(scale, offsets=low + np.float32(scheme.zero) * scale)
    if scheme.zeros:
        low = np.minimum(blocks.min(axis=2), np.float32(0))
        scale = (np.maximum(blocks.max(axis=2), np.float32(0)) - low) / steps
        return Grid(scale, zeros=zero_codes(low, scale))
    if scheme.bits == 8:
        return Grid(np.abs(blocks).max(axis=2) / np.float32(127))
    largest = np.abs(blocks).argmax(axis=2)[..., None]
    signed: F32 = np.take_along_axis(blocks, largest, axis=2)[..., 0]
    return Grid(signed / np.float32(-scheme.zero))


def zero_codes(low: F32, scale: F32) -> U8:
    """The code nearest to zero where the code 0 stands for `low` <= 0."""
    safe = np.where(scale == 0, np.float32(1), scale)
    codes: U8 = np.floor(-low / safe + np.float32(0.5)).astype(np.uint8)
    return codes


def quantize(weight: F32, scheme: Blockwise, fit: Fit = spread) -> Blocks:
    """Quantize each row of `weight` [n_rows, n_columns] in blocks, a few rows at a time.

    Args:
        weight: the matrix.
        scheme: how it is stored.
        fit: chooses each block's scale, and zero or offset.
    """
    blocks = padded(weight, scheme)
    grid = fitted(blocks, scheme, fit)
    codes = np.empty(blocks.shape, np.uint8)
    for part in _parts(blocks):
        codes[part] = grid.rows(part).codes(blocks[part], scheme)
    return from_grid(grid, codes, scheme, weight.shape[1])


def fitted(blocks: F32, scheme: Blockwise, fit: Fit) -> Grid:
    """The grid of blocks [n_rows, n_blocks, block]: a few rows at a time, which stay in the
    processor's cache while `fit` tries this and that, on all processors.
    """  # noqa: D205 - one sentence
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        grids = list(pool.map(lambda part: fit(blocks[part], scheme), _parts(blocks)))

    def joined(arrays: list[Any]) -> Any:
        return None if arrays[0] is None else np.concatenate(arrays)

    return Grid(
        joined([g.scales for g in grids]),
        zeros=joined([g.zeros for g in grids]),
        offsets=joined([g.offsets for g in grids]),
    )


def _parts(blocks: F32) -> list[slice]:
    """Slices of rows, some 256 kB each."""
    n_rows = len(blocks)
    step = max(1, _CHUNK // max(1, blocks[0].size)) if n_rows else 1
    return [slice(start, min(start + step, n_rows)) for start in range(0, max(1, n_rows), step)]


def from_grid(grid: Grid, codes: U8, scheme: Blockwise, n_columns: int) -> Blocks:
    """Blocks from codes [n_rows, n_blocks, block], one a byte."""
    return Blocks(
        scheme=scheme,
        n_columns=n_columns,
        codes=pack(codes, scheme.bits),
        scales=grid.scales,
        offsets=grid.offsets,
        zeros=grid.zeros,
    )


def dequantize(blocks: Blocks) -> F32:
    """The float matrix [n_rows, n_columns] that the codes stand for."""
    grid = Grid(blocks.scales, zeros=blocks.zeros, offsets=blocks.offsets)
    values = grid.values(unpack(blocks.codes, blocks.scheme.bits), blocks.scheme)
    return values.reshape(len(values), -1)[:, : blocks.n_columns]


def concat(parts: Sequence[Blocks]) -> Blocks:
    """Stack matrices of one scheme and one width along their rows.

    Raises:
        ValueError: the schemes or the widths differ.
    """
    first = parts[0]
    if any(p.scheme != first.scheme or p.n_columns != first.n_columns for p in parts):
        seen = [(p.scheme.name, p.n_columns) for p in parts]
        raise ValueError(f"cannot stack blocks of different schemes or widths: {seen}")
    if len(parts) == 1:
        return first
    offsets = [p.offsets for p in parts if p.offsets is not None]
    zeros = [p.zeros for p in parts if p.zeros is not None]
    return Blocks(
        scheme=first.scheme,
        n_columns=first.n_columns,
        codes=np.concatenate([p.codes for p in parts]),
        scales=np.concatenate([p.scales for p in parts]),
        offsets=np.concatenate(offsets) if offsets else None,
        zeros=np.concatenate(zeros) if zeros else None,
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


def padded(weight: F32, scheme: Blockwise) -> F32:
    """Rows [n, n_columns] -> [n, n_blocks, block], the last block filled with zeros."""
    n_blocks = scheme.n_blocks(weight.shape[1])
    short = n_blocks * scheme.block - weight.shape[1]
    if short:
        weight = np.pad(weight, ((0, 0), (0, short)))
    return weight.reshape(weight.shape[0], n_blocks, scheme.block)
