"""A bundle's weight files -> the checkpoint they were filled from, tensor by tensor.

    <graph>.bin --layout: parts--> weight --transforms undone, last first--> sources by their keys

Blocks that were only stacked come back as blocks, bit for bit; everything else as float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kokanee.engine.errors import ManifestError
from kokanee.quant import blocks as quant
from kokanee.quant.blocks import Blocks
from kokanee.quant.schemes import BLOCKWISE

from .fill import Tensor
from .layout import Layout, Part, Shape, Weight, parse_transform, transformed_shape

F32 = npt.NDArray[np.float32]


class BundleWeights(Mapping[str, Tensor]):
    """The tensors of one graph under the names of its checkpoint; read when asked for."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        """Reads nothing yet.

        Raises:
            ManifestError: the weight file is not as long as the layout says.
        """
        self._path = folder / layout.file
        if not self._path.is_file() or self._path.stat().st_size != layout.n_bytes:
            raise ManifestError(
                f"{self._path}: expected {layout.n_bytes} bytes; build the bundle again"
            )
        self._where: dict[str, tuple[Weight, int]] = {}
        for weight in layout.weights:
            for n, source in enumerate(weight.sources):
                if source.kind == "key":
                    self._where[source.key] = weight, n

    def __getitem__(self, name: str) -> Tensor:
        weight, n = self._where[name]
        if weight.packing in BLOCKWISE and weight.transforms in ((), ("concat 0",)):
            start = sum(s.shape[0] for s in weight.sources[:n])
            return self._blocks(weight, start, weight.sources[n].shape[0])
        value = self._value(weight)
        return _sources(weight, value)[n]

    def __contains__(self, name: object) -> bool:
        """Without reading the tensor, as the inherited method would."""
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def _value(self, weight: Weight) -> F32:
        if weight.packing in BLOCKWISE:
            return quant.dequantize(self._blocks(weight, 0, weight.shape[0]))
        return self._mapped(weight.part("values")).astype(np.float32)

    def _blocks(self, weight: Weight, start: int, n_rows: int) -> Blocks:
        """Rows of a quantized weight."""
        scheme = BLOCKWISE[weight.packing]
        rows = slice(start, start + n_rows)
        zeros = offsets = None
        n_blocks = scheme.n_blocks(weight.shape[1])
        if scheme.zeros:
            packed = np.array(self._mapped(weight.part("zeros"))[rows])
            zeros = np.ascontiguousarray(quant.unpack(packed, scheme.bits)[:, :n_blocks])
        if scheme.offset:
            offsets = np.ascontiguousarray(self._mapped(weight.part("offsets"))[:, rows].T)
        return Blocks(
            scheme=scheme,
            n_columns=weight.shape[1],
            codes=np.array(self._mapped(weight.part("codes"))[rows]),
            scales=np.array(self._mapped(weight.part("scales"))[rows]),
            offsets=offsets,
            zeros=zeros,
        )

    def _mapped(self, part: Part) -> npt.NDArray[np.generic]:
        return np.memmap(self._path, np.dtype(part.dtype), "r", part.offset, part.shape)


def _sources(weight: Weight, value: F32) -> list[F32]:
    """What went into a weight, from what came out of its transforms."""
    shapes = [[s.shape for s in weight.sources]]  # before each transform
    for text in weight.transforms:
        shapes.append([transformed_shape((text,), shapes[-1])])
    values = [value]
    for text, before in zip(reversed(weight.transforms), reversed(shapes[:-1]), strict=True):
        name, numbers = parse_transform(text)
        values = _UNDO[name](values[0], numbers, before)
    return values


def _split(value: F32, numbers: Shape, shapes: list[Shape]) -> list[F32]:
    (axis,) = numbers
    ends = np.cumsum([s[axis] for s in shapes])[:-1]
    return list(np.split(value, ends, axis=axis))


def _blocks_of_diagonal(value: F32, numbers: Shape, shapes: list[Shape]) -> list[F32]:
    made, row, column = [], 0, 0
    for n_rows, n_columns in shapes:
        made.append(value[row : row + n_rows, column : column + n_columns])
        row, column = row + n_rows, column + n_columns
    return made


def _magnitude_and_direction(value: F32, numbers: Shape, shapes: list[Shape]) -> list[F32]:
    """Weight norm is not unique; the weight itself is one of its directions."""
    others = tuple(i for i in range(value.ndim) if i != numbers[0])
    norm = np.sqrt(np.square(value, dtype=np.float64).sum(axis=others, keepdims=True))
    return [norm.astype(np.float32), value]


def _transposed(value: F32, numbers: Shape, shapes: list[Shape]) -> list[F32]:
    return [value.T]


def _reshaped(value: F32, numbers: Shape, shapes: list[Shape]) -> list[F32]:
    return [value.reshape(shapes[0])]


_UNDO = {
    "concat": _split,
    "block_diag": _blocks_of_diagonal,
    "weight_norm": _magnitude_and_direction,
    "transpose": _transposed,
    "reshape": _reshaped,
}
