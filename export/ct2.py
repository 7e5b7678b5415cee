"""A CTranslate2 Whisper file (`model.bin`) -> its encoder under the names Hugging Face gives it.

Memory-mapped, NumPy only, every length checked against the file before it is used.

Source: CTranslate2's python/ctranslate2/specs/model_spec.py (how a model is serialized) and
converters/transformers.py (what the variables are called).
"""

import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kokanee.engine.errors import CheckpointError

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Variables = dict[str, npt.NDArray[Any]]

VERSION = 6
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def read_ct2(path: Path) -> Variables:
    """All variables of a CTranslate2 model, as views on the mapped file.

    Raises:
        CheckpointError: not a CTranslate2 model of this version, truncated, or followed by more.
    """
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path.name}: the file is empty")
    data: U8 = np.memmap(path, np.uint8, mode="r")
    at = 0

    def take(n_bytes: int) -> U8:
        nonlocal at
        if at + n_bytes > data.size:
            raise CheckpointError(f"{path.name}: the file ends too early, at byte {data.size}")
        at += n_bytes
        return data[at - n_bytes : at]

    def number(code: str) -> int:
        (value,) = struct.unpack("<" + code, take(struct.calcsize(code)).tobytes())
        return int(value)

    def string() -> str:  # its length counts a closing zero
        return take(number("H")).tobytes().rstrip(b"\0").decode("utf-8", errors="replace")

    version = number("I")
    if version != VERSION:
        raise CheckpointError(f"{path.name}: not a CTranslate2 model of version {VERSION}")
    spec, _revision = string(), number("I")
    if spec != "WhisperSpec":
        raise CheckpointError(f"{path.name}: expected a Whisper model, got {spec}")
    variables: Variables = {}
    for _ in range(number("I")):
        name = string()
        shape = tuple(number("I") for _ in range(number("B")))
        kind, n_bytes = number("B"), number("I")
        if kind not in _DTYPES:
            raise CheckpointError(f"{path.name}: {name} has the unknown type {kind}")
        dtype = np.dtype(_DTYPES[kind])
        if n_bytes != prod(shape) * dtype.itemsize:
            raise CheckpointError(f"{path.name}: {name} {shape} {dtype} has {n_bytes} bytes")
        variables[name] = np.frombuffer(take(n_bytes), dtype).reshape(shape)
    for _ in range(number("I")):
        alias, target = string(), string()
        if target not in variables:
            raise CheckpointError(f"{path.name}: {alias} stands for {target}, which is not there")
        variables[alias] = variables[target]
    if at != data.size:
        raise CheckpointError(f"{path.name}: {data.size - at} bytes too many")
    return variables


class WhisperEncoderWeights(Mapping[str, F32]):
    """The encoder as `model.encoder.*` float32 arrays, each converted when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Map `path`; see `read_ct2` for the errors, also raised where a variable is missing."""
        self._variables = read_ct2(path)
        self._names = dict(_encoder_names(self._variables))
        for variable, _rows in self._names.values():
            if variable not in self._variables:
                raise CheckpointError(f"{path.name}: no variable {variable}")

    def __getitem__(self, name: str) -> F32:
        variable, third = self._names[name]
        array = self._variables[variable]
        if third is not None:
            d = array.shape[0] // 3
            array = array[third * d : (third + 1) * d]
        return array.astype(np.float32)

    def __contains__(self, name: object) -> bool:
        """Without reading the tensor, as the inherited method would."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _encoder_names(variables: Variables) -> Iterator[tuple[str, tuple[str, int | None]]]:
    """(Hugging Face name, (variable, which third of it: q, k or v; None for all))."""

    def both(
        ours: str,
        theirs: str,
        names: tuple[str, str] = ("weight", "bias"),
        third: int | None = None,
    ) -> Iterator[tuple[str, tuple[str, int | None]]]:
        for one, other in zip(("weight", "bias"), names, strict=True):
            yield f"model.encoder.{ours}.{one}", (f"encoder/{theirs}/{other}", third)

    norm = ("gamma", "beta")
    yield from both("conv1", "conv1")
    yield from both("conv2", "conv2")
    yield "model.encoder.embed_positions.weight", ("encoder/position_encodings/encodings", None)
    yield from both("layer_norm", "layer_norm", norm)
    n_layers = sum(
        name.startswith("encoder/layer_") and name.endswith("/ffn/linear_0/weight")
        for name in variables
    )
    for i in range(n_layers):
        attention, ffn = f"layer_{i}/self_attention", f"layer_{i}/ffn"
        for third, letter in enumerate("qkv"):
            for pair in both(
                f"layers.{i}.self_attn.{letter}_proj", f"{attention}/linear_0", third=third
            ):
                if pair[0].endswith("k_proj.bias"):
                    continue  # Whisper's keys have none; the fused bias holds zeros there
                yield pair
        yield from both(f"layers.{i}.self_attn.out_proj", f"{attention}/linear_1")
        yield from both(f"layers.{i}.self_attn_layer_norm", f"{attention}/layer_norm", norm)
        yield from both(f"layers.{i}.fc1", f"{ffn}/linear_0")
        yield from both(f"layers.{i}.fc2", f"{ffn}/linear_1")
        yield from both(f"layers.{i}.final_layer_norm", f"{ffn}/layer_norm", norm)
