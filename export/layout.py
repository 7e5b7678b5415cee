"""The weight layout of a graph: which tensor of a checkpoint goes where in `<graph>.bin`, and how.

A topology is kept without its weights; this plain JSON beside it says how to make them. One weight:

    sources  -> transforms -> packing -> parts
    q.weight                             codes   uint8   [960, 18, 16]  at byte 4096
    k.weight -> concat 0   -> int4_b..   scales  float32 [960, 18]      at byte 280576
    v.weight

Every name in it belongs to a small closed vocabulary, so that a layout file can do nothing but
describe: an unknown word is a ManifestError. Needs neither `onnx` nor NumPy arithmetic; `fill`
carries the words out.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kokanee.engine.errors import ManifestError
from kokanee.quant.schemes import BLOCKWISE

FORMAT = 1
TABLE = "embedding"  # name of the layout of a token embedding that no graph holds
ITEM_BYTES = {"float32": 4, "float16": 2, "uint8": 1, "int64": 8}
PACKINGS = ("f32", "f16", "i64", *BLOCKWISE)

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """One tensor that enters a weight.

    kind `key`: the checkpoint's tensor of that name; `zeros`: no tensor, zeros of this shape;
    `rope_cos`, `rope_sin`: rotary tables [n_positions, d_head / 2] with base `theta`.
    """

    kind: str
    shape: Shape
    key: str = ""
    theta: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("key", "zeros", "rope_cos", "rope_sin"):
            raise ManifestError(f"layout: unknown source kind {self.kind!r}")
        if (self.kind == "key") != bool(self.key):
            raise ManifestError(f"layout: a source of kind {self.kind!r} with key {self.key!r}")


def key(name: str, *shape: int) -> Source:
    """The checkpoint's tensor `name`, which must have this shape."""
    return Source("key", shape, key=name)


def zeros(*shape: int) -> Source:
    """Zeros where the checkpoint has no tensor, such as the bias Whisper's keys lack."""
    return Source("zeros", shape)


@dataclass(frozen=True, slots=True)
class Part:
    """One array in the file: an initializer of the graph."""

    name: str
    role: str  # "values", "codes", "scales", "zeros" or "offsets"
    dtype: str
    shape: Shape
    offset: int  # bytes from the start of the file

    @property
    def n_bytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight: its sources, what joins and turns them, how the result is packed, and where."""

    name: str
    sources: tuple[Source, ...]
    transforms: tuple[str, ...]
    packing: str
    parts: tuple[Part, ...]

    @property
    def shape(self) -> Shape:
        """Shape after the transforms, before the packing."""
        return transformed_shape(self.transforms, [s.shape for s in self.sources])

    def part(self, role: str) -> Part:
        """The part that plays this role."""
        return next(p for p in self.parts if p.role == role)


@dataclass(frozen=True, slots=True)
class Layout:
    """All weights of one graph, in file order."""

    graph: str
    weights: tuple[Weight, ...]

    def __post_init__(self) -> None:
        end = 0
        for weight in self.weights:
            want = packed_parts(weight.packing, weight.shape)
            got = [(p.role, p.dtype, p.shape) for p in weight.parts]
            if got != want:
                raise ManifestError(f"layout {self.graph}: {weight.name} should be {want}: {got}")
            for part in weight.parts:
                if part.offset < end:
                    raise ManifestError(f"layout {self.graph}: {part.name} overlaps its neighbour")
                end = part.offset + part.n_bytes

    @property
    def file(self) -> str:
        """Name of the weight file; it lies beside the graph."""
        return f"{self.graph}.bin"

    @property
    def n_bytes(self) -> int:
        """Size of the weight file."""
        last = self.weights[-1].parts[-1] if self.weights else None
        return last.offset + last.n_bytes if last else 0

    @property
    def keys(self) -> frozenset[str]:
        """Every checkpoint tensor the graph asks for."""
        return frozenset(s.key for w in self.weights for s in w.sources if s.key)

    def weight(self, name: str) -> Weight:
        """The weight of this name."""
        return next(w for w in self.weights if w.name == name)

    def to_json(self) -> str:
        """The layout as text, one weight a line, the same bytes every time."""
        lines = ",\n".join("  " + json.dumps(asdict(w)) for w in self.weights)
        return (
            f'{{"format": {FORMAT}, "graph": {json.dumps(self.graph)}, "weights": [\n{lines}\n]}}\n'
        )

    @staticmethod
    def from_json(text: str) -> "Layout":
        """Read what `to_json` wrote.

        Raises:
            ManifestError: an unknown word, a missing field, or parts that do not fit.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ManifestError(f"layout: expected format {FORMAT}, got {data['format']}")
            return Layout(data["graph"], tuple(_weight(w) for w in data["weights"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"layout: not a weight layout ({error})") from error

    @staticmethod
    def load(path: Path) -> "Layout":
        """Read a layout file."""
        return Layout.from_json(path.read_text(encoding="utf-8"))


def _weight(data: Mapping[str, Any]) -> Weight:
    return Weight(
        data["name"],
        tuple(Source(**{**s, "shape": tuple(s["shape"])}) for s in data["sources"]),
        tuple(data["transforms"]),
        data["packing"],
        tuple(Part(**{**p, "shape": tuple(p["shape"])}) for p in data["parts"]),
    )


def packed_parts(packing: str, shape: Shape) -> list[tuple[str, str, Shape]]:
    """(role, dtype, shape) of each array that a weight of `shape` becomes under `packing`."""
    if packing == "f32":
        return [("values", "float32", shape)]
    if packing == "f16":
        return [("values", "float16", shape)]
    if packing == "i64":
        return [("values", "int64", shape)]
    if packing not in BLOCKWISE:
        raise ManifestError(f"layout: unknown packing {packing!r}, known: {', '.join(PACKINGS)}")
    if len(shape) != 2:
        raise ManifestError(f"layout: {packing} packs matrices, not shape {shape}")
    scheme = BLOCKWISE[packing]
    n_rows, n_blocks = shape[0], scheme.n_blocks(shape[1])
    parts: list[tuple[str, str, Shape]] = [
        ("codes", "uint8", (n_rows, n_blocks, scheme.n_bytes_per_block)),
        ("scales", "float32", (n_rows, n_blocks)),
    ]
    if scheme.zeros:
        parts.append(("zeros", "uint8", (n_rows, scheme.n_bytes_of_zeros(shape[1]))))
    # offsets are transposed: the graph multiplies block sums of x with them
    return [*parts, ("offsets", "float32", (n_blocks, n_rows))] if scheme.offset else parts


# --- transforms: "name" or "name n n ..." ---------------------------------------------------------


def parse_transform(text: str) -> tuple[str, tuple[int, ...]]:
    """`"concat 0"` -> ("concat", (0,)). Which names exist: see `transformed_shape`."""
    name, *numbers = text.split()
    return name, tuple(int(n) for n in numbers)


def transformed_shape(transforms: Sequence[str], shapes: Sequence[Shape]) -> Shape:
    """Shape of one weight made from sources of these shapes.

    concat AXIS        several sources behind one another
    block_diag         several matrices along the diagonal of a larger one, zeros elsewhere
    weight_norm AXIS   two sources g, v -> g * v / |v|, the norm over all axes but AXIS
    transpose          a matrix
    reshape N N ...    in C order

    Raises:
        ManifestError: an unknown transform, or one that these shapes do not allow.
    """
    shapes = list(shapes)
    for text in transforms:
        name, numbers = parse_transform(text)
        try:
            shapes = [_SHAPE_OF[name](shapes, numbers)]
        except (KeyError, IndexError, ValueError) as error:
            raise ManifestError(f"layout: transform {text!r} cannot take {shapes}") from error
    if len(shapes) != 1:
        raise ManifestError(f"layout: nothing joins the sources {shapes}")
    return shapes[0]


def _concat(shapes: list[Shape], numbers: Shape) -> Shape:
    (axis,) = numbers
    first = shapes[0]
    if len({(*s[:axis], *s[axis + 1 :]) for s in shapes}) != 1:
        raise ValueError
    return (*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])


def _block_diag(shapes: list[Shape], numbers: Shape) -> Shape:
    () = numbers
    return sum(n for n, _ in shapes), sum(n for _, n in shapes)


def _weight_norm(shapes: list[Shape], numbers: Shape) -> Shape:
    (axis,) = numbers
    g, v = shapes
    if g != tuple(n if i == axis else 1 for i, n in enumerate(v)):
        raise ValueError
    return v


def _transpose(shapes: list[Shape], numbers: Shape) -> Shape:
    () = numbers
    ((n_rows, n_columns),) = shapes
    return n_columns, n_rows


def _reshape(shapes: list[Shape], numbers: Shape) -> Shape:
    (shape,) = shapes
    if math.prod(shape) != math.prod(numbers):
        raise ValueError
    return numbers


_SHAPE_OF = {
    "concat": _concat,
    "block_diag": _block_diag,
    "weight_norm": _weight_norm,
    "transpose": _transpose,
    "reshape": _reshape,
}
