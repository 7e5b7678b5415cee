"""A weight layout and a checkpoint -> `<graph>.bin`, tensor by tensor, with NumPy alone."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from kokanee.engine.errors import CheckpointError
from kokanee.quant import blocks as quant
from kokanee.quant.blocks import Blocks
from kokanee.quant.schemes import BLOCKWISE

from .layout import Layout, Shape, Source, Weight, parse_transform

F32 = npt.NDArray[np.float32]
Tensor = npt.NDArray[np.floating] | Blocks
Progress = Callable[[int, int], None]

_AHEAD = 2  # weights in preparation while one is written
_JOURNAL_EVERY = 256 << 20  # bytes between notes of how far a resumable file is
_HASH_CHUNK = 1 << 20  # bytes


Kept = TypeVar("Kept")
Given = TypeVar("Given")


class Changed(Mapping[str, Given], Generic[Kept, Given]):
    """Tensors that are changed when they are asked for; a name costs nothing."""

    def __init__(self, tensors: Mapping[str, Kept], change: Callable[[str, Kept], Given]) -> None:
        self._tensors, self._change = tensors, change

    def __getitem__(self, name: str) -> Given:
        return self._change(name, self._tensors[name])

    def __contains__(self, name: object) -> bool:
        """Without reading the tensor, as the inherited method would."""
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def as_floats(value: Tensor) -> F32:
    """A tensor as float32, whatever it is kept in."""
    return quant.dequantize(value) if isinstance(value, Blocks) else np.asarray(value, np.float32)


@dataclass(frozen=True, slots=True)
class Filled:
    """What was written."""

    n_bytes: int
    sha256: str


def fill(
    layout: Layout,
    checkpoint: Mapping[str, Tensor],
    path: Path,
    *,
    progress: Progress | None = None,
    resume: bool = False,
) -> Filled:
    """Write the weight file of a graph.

    Holds a few weights at a time: two are made while a third is written. The file appears under
    `path` only when it is whole; until then it has another name.

    Args:
        layout: which tensors, and where.
        checkpoint: name -> float array of any float type, or blocks that are quantized already.
            Blocks of the scheme that the layout asks for are copied bit for bit; any others are
            dequantized first. Read from two threads at a time.
        path: the file to write.
        progress: called with (bytes done, bytes in all) after every weight.
        resume: keep what was written when something goes wrong, even a lost process, and go on
            there the next time. The caller vouches that layout and checkpoint are the same then.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
        OSError: the disk is full or cannot be written.
    """
    missing = sorted(layout.keys.difference(checkpoint))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(f"{layout.graph}: no tensor {', '.join(missing[:3])}{more}")
    partial = path.with_name(path.name + ".partial")
    journal = path.with_name(path.name + ".journal")
    digest = hashlib.sha256()
    try:
        n_weights, done = _go_on(partial, journal, digest) if resume else (0, 0)
        safe = done
        with partial.open("r+b" if done else "wb") as file:
            file.seek(done)
            for n, arrays in _prepared(layout.weights[n_weights:], checkpoint):
                for part in layout.weights[n_weights + n].parts:
                    gap = bytes(part.offset - done)
                    array = np.ascontiguousarray(arrays[part.role], np.dtype(part.dtype))
                    if array.shape != part.shape:
                        raise CheckpointError(
                            f"{part.name}: expected shape {part.shape}, got {array.shape}"
                        )
                    for piece in (gap, array.reshape(-1).view(np.uint8).data):
                        file.write(piece)
                        digest.update(piece)
                    done = part.offset + part.n_bytes
                if resume and done - safe >= _JOURNAL_EVERY:
                    _note(journal, file, n_weights + n + 1, done)
                    safe = done
                if progress:
                    progress(done, layout.n_bytes)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        journal.unlink(missing_ok=True)
    except BaseException:  # Ctrl-C included: nothing half-written stays behind unasked
        if not resume:
            partial.unlink(missing_ok=True)
        raise
    return Filled(done, digest.hexdigest())


def _prepared(
    weights: Sequence[Weight], checkpoint: Mapping[str, Tensor]
) -> Iterator[tuple[int, dict[str, npt.NDArray[np.generic]]]]:
    """Every weight's arrays in order, made in two threads ahead of whoever writes them."""

    def prepare(weight: Weight) -> dict[str, npt.NDArray[np.generic]]:
        return _packed(weight.packing, _value(weight, checkpoint))

    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting = deque(pool.submit(prepare, weight) for weight in weights[:_AHEAD])
        try:
            for n in range(len(weights)):
                arrays = waiting.popleft().result()
                if n + _AHEAD < len(weights):
                    waiting.append(pool.submit(prepare, weights[n + _AHEAD]))
                yield n, arrays
        finally:
            for future in waiting:
                future.cancel()


def _note(journal: Path, file: BinaryIO, n_weights: int, n_bytes: int) -> None:
    """Remember how far the file is good. The bytes reach the disk before the note does."""
    file.flush()
    os.fsync(file.fileno())
    new = journal.with_name(journal.name + ".new")
    new.write_text(json.dumps({"n_weights": n_weights, "n_bytes": n_bytes}), encoding="utf-8")
    new.replace(journal)


def _go_on(partial: Path, journal: Path, digest: "hashlib._Hash") -> tuple[int, int]:
    """Weights and bytes that an earlier attempt has written for good; they are hashed again."""
    try:
        noted = json.loads(journal.read_text(encoding="utf-8"))
        n_weights, n_bytes = int(noted["n_weights"]), int(noted["n_bytes"])
        if partial.stat().st_size < n_bytes:
            return 0, 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
    with partial.open("r+b") as file:
        file.truncate(n_bytes)
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return n_weights, n_bytes


def _value(weight: Weight, checkpoint: Mapping[str, Tensor]) -> F32 | Blocks:
    """The weight after its transforms."""
    sources = [_read(source, checkpoint) for source in weight.sources]
    if all(isinstance(s, Blocks) for s in sources) and weight.transforms in ((), ("concat 0",)):
        return quant.concat([s for s in sources if isinstance(s, Blocks)])
    values = [as_floats(s) for s in sources]
    for text in weight.transforms:
        name, numbers = parse_transform(text)
        values = [_APPLY[name](values, numbers)]
    return values[0]


def _read(source: Source, checkpoint: Mapping[str, Tensor]) -> F32 | Blocks:
    if source.kind == "zeros":
        return np.zeros(source.shape, np.float32)
    if source.kind != "key":
        return _rope(source)
    tensor = checkpoint[source.key]
    if tensor.shape != source.shape:
        raise CheckpointError(f"{source.key}: expected shape {source.shape}, got {tensor.shape}")
    return tensor if isinstance(tensor, Blocks) else np.asarray(tensor, np.float32)


def _rope(source: Source) -> F32:
    """Rotary table: cos or sin of position * theta^(-2 i / d_head), [n_positions, d_head / 2].

    Source: RoFormer (arXiv 2104.09864), section 3.2.2. Computed in double precision, as angles
    reach thousands of radians.
    """
    n_positions, half = source.shape
    frequency = source.theta ** (-np.arange(half, dtype=np.float64) / half)
    angle = np.arange(n_positions, dtype=np.float64)[:, None] * frequency
    table = np.cos(angle) if source.kind == "rope_cos" else np.sin(angle)
    return table.astype(np.float32)


def _packed(packing: str, value: F32 | Blocks) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a weight by role."""
    scheme = BLOCKWISE.get(packing)
    if scheme is None:
        return {"values": as_floats(value)}
    if isinstance(value, Blocks) and value.scheme != scheme:
        value = quant.dequantize(value)
    if not isinstance(value, Blocks):
        value = quant.quantize(value, scheme)
    arrays: dict[str, npt.NDArray[np.generic]] = {"codes": value.codes, "scales": value.scales}
    if value.zeros is not None:
        arrays["zeros"] = value.packed_zeros
    if value.offsets is not None:
        arrays["offsets"] = value.offsets.T
    return arrays


# --- what the layout's transforms mean; their shapes are checked when the layout is made ----------


def _concat(values: Sequence[F32], numbers: Shape) -> F32:
    return np.concatenate(values, axis=numbers[0])


def _block_diag(values: Sequence[F32], numbers: Shape) -> F32:
    whole = np.zeros((sum(len(v) for v in values), sum(v.shape[1] for v in values)), np.float32)
    row = column = 0
    for v in values:
        whole[row : row + v.shape[0], column : column + v.shape[1]] = v
        row, column = row + v.shape[0], column + v.shape[1]
    return whole


def _weight_norm(values: Sequence[F32], numbers: Shape) -> F32:
    g, v = values
    others = tuple(i for i in range(v.ndim) if i != numbers[0])
    norm = np.sqrt(np.square(v, dtype=np.float64).sum(axis=others, keepdims=True))
    weight: F32 = (g * (v / norm)).astype(np.float32)
    return weight


def _transpose(values: Sequence[F32], numbers: Shape) -> F32:
    return values[0].T


def _reshape(values: Sequence[F32], numbers: Shape) -> F32:
    return values[0].reshape(numbers)


_APPLY = {
    "concat": _concat,
    "block_diag": _block_diag,
    "weight_norm": _weight_norm,
    "transpose": _transpose,
    "reshape": _reshape,
}
