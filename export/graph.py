"""Build a graph node by node: an ONNX topology with no weights in it, and their layout beside it.

    g = Graph("connector")
    speech = g.input("speech", "float32", [1, "n_frames", 512])
    x = g.layer_norm("ln_speech", speech, 512)
    x = g.linear("proj", x, key("proj.weight", 576, 512), key("proj.bias", 576), packing="f16")
    g.output(x, "soft_tokens", "float32", [1, "n_frames", 576])
    g.save(folder)                      # connector.onnx and connector.layout.json

With `compute="float16"` the same calls make the topology for CUDA: activations are halves, the
weight file and its layout are the same to the byte, and what enters and leaves stays float32.

Every method that makes a value returns its name, a plain string. The same calls give the same
bytes. `fill` makes the weight file from the layout; it must lie beside the graph as connector.bin.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from kokanee.quant.schemes import BLOCKWISE

from .layout import Layout, Part, Shape, Source, Weight, key, packed_parts, transformed_shape

OPSET = 21
IR_VERSION = 10  # no newer than the oldest ONNX Runtime we accept can read
CONTRIB = "com.microsoft"

# Large arrays start on a page, so that ONNX Runtime and the engine can map them.
_PAGE, _LINE = 4096, 64

_DTYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "bool": TensorProto.BOOL,
}


class Graph:
    """A graph under construction."""

    def __init__(self, name: str, *, compute: str = "float32", variant: str = "") -> None:
        """Starts empty.

        Args:
            name: of the graph and its files.
            compute: "float32", or "float16" for CUDA.
            variant: name of another topology over the same weights, `<name>.<variant>.onnx`.
        """
        if compute not in ("float32", "float16"):
            raise ValueError(f"compute: expected float32 or float16, got {compute!r}")
        self.name = name
        self.compute = compute
        self.variant = variant or ("f16" if compute == "float16" else "")
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._weights: dict[str, Weight] = {}
        self._casts: dict[str, str] = {}
        self._n_bytes = 0
        self._n_values = 0

    # --- edges ------------------------------------------------------------------------------------

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """Declare an input; names in `shape` are free dimensions.

        A float32 input of a float16 graph is cast at its door.
        """
        self._inputs.append(helper.make_tensor_value_info(name, _DTYPES[dtype], list(shape)))
        if dtype == "float32" and self.compute == "float16":
            return self._cast(name, f"{name}/f16", self.compute)
        return name

    def output(self, value: str, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Declare `value` as the output `name`; a float16 graph casts float32 outputs."""
        if dtype == "float32" and self.compute == "float16":
            self._cast(value, name, dtype)
        elif value != name:
            self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, _DTYPES[dtype], list(shape)))

    # --- nodes ------------------------------------------------------------------------------------

    def node(self, op: str, *inputs: str, name: str = "", domain: str = "", **attrs: Any) -> str:
        """Append a node with one output, called `name` or numbered; "" skips an optional input."""
        (output,) = self.nodes(op, *inputs, outputs=(name,), domain=domain, **attrs)
        return output

    def nodes(
        self, op: str, *inputs: str, outputs: Sequence[str], domain: str = "", **attrs: Any
    ) -> tuple[str, ...]:
        """Append a node with several outputs; an output named "" is given a number."""
        made = tuple(name or self._fresh(op) for name in outputs)
        self._nodes.append(
            helper.make_node(op, list(inputs), list(made), name=made[0], domain=domain, **attrs)
        )
        return made

    def const(self, values: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> str:
        """A small constant, kept inside the graph; equal constants are one.

        A float constant has the type that the graph computes in.
        """
        array = np.asarray(values, dtype)
        if array.dtype == np.float32:
            array = array.astype(self.compute)
        content = "_".join(str(v) for v in array.reshape(-1).tolist())
        if len(content) > 64:
            content = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        name = f"const/{array.dtype.name}{list(array.shape)}_{content}".replace(" ", "")
        if name not in self._initializers:
            self._initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def _fresh(self, op: str) -> str:
        self._n_values += 1
        return f"{op}_{self._n_values}"

    def scan(self, body: Callable[..., str], *slices: tuple[str, str, int], dtype: str) -> str:
        """What `body` makes of one slice after another, stacked: [n_slices, ...].

        Args:
            body: called once, with a name for the slice of each input; it may use every value made
                so far, and takes no weights.
            slices: inputs as (value, dtype, axis); that axis is equally long in all, and cut away.
            dtype: of what `body` returns.
        """
        names = [self._fresh("Slice") for _ in slices]
        outer, self._nodes = self._nodes, []
        made = body(*names)
        inner, self._nodes = self._nodes, outer
        graph = helper.make_graph(
            inner,
            made,
            [
                helper.make_tensor_value_info(name, _DTYPES[of], None)
                for name, (_, of, _) in zip(names, slices, strict=True)
            ],
            [helper.make_tensor_value_info(made, _DTYPES[dtype], None)],
        )
        return self.node(
            "Scan",
            *(value for value, _, _ in slices),
            body=graph,
            num_scan_inputs=len(slices),
            scan_input_axes=[axis for _, _, axis in slices],
        )

    # --- weights ----------------------------------------------------------------------------------

    def weight(
        self, name: str, *sources: Source, transforms: Sequence[str] = (), packing: str = "f32"
    ) -> str:
        """A float weight in the weight file ("f16" is half the bytes), as the graph computes."""
        (part,) = self.packed(name, *sources, transforms=transforms, packing=packing).parts
        return self._computed(part)

    def _computed(self, part: Part) -> str:
        """A float part in the type that the graph computes in."""
        if part.dtype == self.compute:
            return part.name
        if part.name not in self._casts:
            # A cast of an initializer is folded when the session opens.
            label = f"{part.name}/{'f32' if self.compute == 'float32' else 'f16'}"
            self._casts[part.name] = self._cast(part.name, label, self.compute)
        return self._casts[part.name]

    def _cast(self, value: str, name: str, dtype: str) -> str:
        return self.node("Cast", value, name=name, to=_DTYPES[dtype])

    def packed(
        self, name: str, *sources: Source, transforms: Sequence[str] = (), packing: str
    ) -> Weight:
        """Reserve a weight's place in the file; asked again for the same, return the same."""
        shape = transformed_shape(transforms, [s.shape for s in sources])
        known = self._weights.get(name)
        if known is not None:
            if (known.sources, known.transforms, known.packing) != (
                sources,
                tuple(transforms),
                packing,
            ):
                raise ValueError(f"{self.name}: two different weights are called {name}")
            return known
        parts = []
        for role, dtype, part_shape in packed_parts(packing, shape):
            label = name if role == "values" else f"{name}/{role}"
            parts.append(self._reserve(label, role, dtype, part_shape))
        self._weights[name] = Weight(name, sources, tuple(transforms), packing, tuple(parts))
        return self._weights[name]

    def _reserve(self, name: str, role: str, dtype: str, shape: Shape) -> Part:
        part = Part(name, role, dtype, shape, 0)
        align = _PAGE if part.n_bytes >= _PAGE else _LINE
        part = Part(name, role, dtype, shape, math.ceil(self._n_bytes / align) * align)
        self._n_bytes = part.offset + part.n_bytes
        tensor = onnx.TensorProto(
            name=name, data_type=_DTYPES[dtype], dims=shape, data_location=TensorProto.EXTERNAL
        )
        for field, value in (
            ("location", f"{self.name}.bin"),
            ("offset", str(part.offset)),
            ("length", str(part.n_bytes)),
        ):
            tensor.external_data.add(key=field, value=value)
        self._initializers[name] = tensor
        return part

    # --- layers -----------------------------------------------------------------------------------

    def linear(
        self,
        name: str,
        x: str,
        weight: Source | Sequence[Source],
        bias: Source | Sequence[Source] | None = None,
        *,
        packing: str = "f32",
    ) -> str:
        """y = x W^T + b: [..., d_in] -> [..., d_out].

        Several weights [d_out_i, d_in] are stacked into one matrix, their outputs lie side by side.
        With offset blocks x must be [n, d_in], d_in a multiple of the block.
        """
        weights = (weight,) if isinstance(weight, Source) else tuple(weight)
        join = ("concat 0",) if len(weights) > 1 else ()
        added = self._bias(name, bias)
        if packing in BLOCKWISE:
            return self._blockwise(name, x, weights, join, added, packing)
        matrix = self.weight(
            f"{name}.weight", *weights, transforms=(*join, "transpose"), packing=packing
        )
        y = self.node("MatMul", x, matrix, name=f"{name}/matmul")
        return self.node("Add", y, added, name=f"{name}/add") if added else y

    def _bias(self, name: str, bias: Source | Sequence[Source] | None) -> str:
        if bias is None:
            return ""
        parts = (bias,) if isinstance(bias, Source) else tuple(bias)
        join = ("concat 0",) if len(parts) > 1 else ()
        return self.weight(f"{name}.bias", *parts, transforms=join)

    def _blockwise(
        self,
        name: str,
        x: str,
        weights: tuple[Source, ...],
        join: tuple[str, ...],
        bias: str,
        packing: str,
    ) -> str:
        scheme = BLOCKWISE[packing]
        w = self.packed(f"{name}.weight", *weights, transforms=join, packing=packing)
        n, k = w.shape
        zeros = w.part("zeros").name if scheme.zeros else ""
        optional = (zeros, "", bias) if bias else (zeros,) if zeros else ()
        y = self.node(
            "MatMulNBits",
            *(x, w.part("codes").name, self._computed(w.part("scales")), *optional),
            name=f"{name}/matmul",
            domain=CONTRIB,
            K=k,
            N=n,
            bits=scheme.bits,
            block_size=scheme.block,
            # 4: the activations are quantized to 8 bits, by blocks. Level 0 computes in float32
            # and decodes four times slower.
            accuracy_level=4,
        )
        if not scheme.offset:
            return y
        # x (w + offset) = x w + sum(x) offset, block by block, with the offsets in full precision
        by_block = self.reshape(x, -1, scheme.n_blocks(k), scheme.block)
        sums = self.node("ReduceSum", by_block, self.const([2]), keepdims=0)
        return self.node("Gemm", sums, self._computed(w.part("offsets")), y, name=f"{name}/offset")

    def layer_norm(self, name: str, x: str, width: int, *, epsilon: float = 1e-5) -> str:
        """LayerNorm over the last axis with `{name}.weight` and `{name}.bias`."""
        scale = self.weight(f"{name}.weight", key(f"{name}.weight", width))
        shift = self.weight(f"{name}.bias", key(f"{name}.bias", width))
        return self.node("LayerNormalization", x, scale, shift, name=f"{name}/out", epsilon=epsilon)

    def rms_norm(self, name: str, x: str, width: int, *, epsilon: float) -> str:
        """RMSNorm over the last axis with `{name}.weight`."""
        scale = self.weight(f"{name}.weight", key(f"{name}.weight", width))
        return self.node(
            "SimplifiedLayerNormalization", x, scale, name=f"{name}/out", axis=-1, epsilon=epsilon
        )

    def gelu(self, x: str) -> str:
        """Exact GELU, the one with erf."""
        return self.node("Gelu", x)

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps an axis, -1 is what remains."""
        return self.node("Reshape", x, self.const(shape))

    def transpose(self, x: str, *axes: int) -> str:
        """Permute the axes."""
        return self.node("Transpose", x, perm=list(axes))

    # --- results ----------------------------------------------------------------------------------

    def layout(self) -> Layout:
        """Where the weights go."""
        return Layout(self.name, tuple(self._weights.values()))

    def model(self) -> onnx.ModelProto:
        """The topology."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            self._inputs,
            self._outputs,
            initializer=list(self._initializers.values()),
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
            ir_version=IR_VERSION,
            producer_name="kokanee",
        )

    def save(self, folder: Path) -> None:
        """Write `<name>.onnx` and `<name>.layout.json`, the same bytes for the same calls.

        A float16 graph becomes `<name>.f16.onnx` beside the float32 one, whose layout is its own;
        so does any other variant.
        """
        data = self.model().SerializeToString(deterministic=True)
        if self.variant:
            (folder / f"{self.name}.{self.variant}.onnx").write_bytes(data)
            return
        (folder / f"{self.name}.onnx").write_bytes(data)
        (folder / f"{self.name}.layout.json").write_text(self.layout().to_json(), encoding="utf-8")
