"""Float layers and prompts -> the LLM's matrices in codes, one layer after the other.

    prompts --layer 0, its matrices quantized as soon as their inputs are known--> layer 1 --> ...

Every matrix sees inputs that the quantized ones in front of it made. What is done lies in a folder,
so that an interrupted calibration goes on with the layer it was at.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from . import blocks as quant
from . import fit
from .blocks import Blocks
from .gptq import gptq, hessian
from .llama import F32, Llama
from .prompts import Prompt
from .schemes import BLOCKWISE, Blockwise, Rounding

_X, _STATE = "x.safetensors", "state.json"


class Calibrated(Mapping[str, Blocks]):
    """The layers' matrices in codes, read when they are asked for."""

    def __init__(self, folder: Path, scheme: Blockwise, names: Mapping[str, int]) -> None:
        self._folder, self._scheme, self._names = folder, scheme, names

    def __getitem__(self, name: str) -> Blocks:
        layer = load_file(_layer_file(self._folder, self._names[name]))
        n_columns = int(layer[f"{name}/n_columns"])
        return Blocks(
            scheme=self._scheme,
            n_columns=n_columns,
            codes=layer[f"{name}/codes"],
            scales=layer[f"{name}/scales"],
            zeros=layer.get(f"{name}/zeros"),
        )

    def __contains__(self, name: object) -> bool:
        """Without reading it, as the inherited method would."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def calibrate(
    llama: Llama,
    prompts: Sequence[Prompt],
    packing: str,
    rounding: Rounding,
    folder: Path,
    *,
    progress: Callable[[int, int], None],
) -> Calibrated:
    """Quantize every matrix of every layer.

    Args:
        llama: the float model.
        prompts: what it is calibrated with.
        packing: how the matrices are stored.
        rounding: "gptq", or "least_error".
        folder: gets a file a layer; what is there from an interrupted run is used. The caller
            vouches that model and prompts are the same then.
        progress: called with layers done and layers in all.
    """
    scheme = BLOCKWISE[packing]
    folder.mkdir(parents=True, exist_ok=True)
    lengths = [len(p.embeds) for p in prompts]
    n_done, x = _go_on(folder, np.concatenate([p.embeds for p in prompts]))
    n_layers = llama.shape.n_layers
    for i in range(n_done, n_layers):
        progress(i, n_layers)
        made: dict[str, Blocks] = {}

        def step(
            names: tuple[str, ...],
            weights: tuple[F32, ...],
            inputs: F32,
            made: dict[str, Blocks] = made,
        ) -> Sequence[F32]:
            made |= zip(names, _coded(weights, inputs, scheme, rounding), strict=True)
            return [quant.dequantize(made[name]) for name in names]

        x = llama.layer(i, x, lengths, step)
        save_file(_arrays(made), _layer_file(folder, i))
        save_file({"x": x}, folder / f"{_X}.new")
        (folder / f"{_X}.new").replace(folder / _X)
        (folder / _STATE).write_text(json.dumps({"n_layers": i + 1}), encoding="utf-8")
    progress(n_layers, n_layers)
    names = {}
    for i in range(n_layers):
        for key in load_file(_layer_file(folder, i)):
            names[key.rpartition("/")[0]] = i
    return Calibrated(folder, scheme, names)


def _coded(
    weights: Sequence[F32], inputs: F32, scheme: Blockwise, rounding: Rounding
) -> list[Blocks]:
    if rounding == "gptq":
        h = hessian(inputs)
        # One factor serves all that share the input.
        whole = gptq(np.concatenate(weights), h, scheme)
        ends = np.cumsum([0, *(len(w) for w in weights)])
        return [whole.rows(slice(a, b)) for a, b in itertools.pairwise(ends)]
    square = np.mean(np.square(inputs), axis=0)
    chosen = fit.weighted(square + np.float32(0.01) * square.mean(), scheme)
    return [quant.quantize(w, scheme, chosen) for w in weights]


def _arrays(made: Mapping[str, Blocks]) -> dict[str, npt.NDArray[np.generic]]:
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name, value in made.items():
        arrays[f"{name}/codes"] = np.ascontiguousarray(value.codes)
        arrays[f"{name}/scales"] = np.ascontiguousarray(value.scales)
        arrays[f"{name}/n_columns"] = np.asarray(value.n_columns, np.int64)
        if value.zeros is not None:
            arrays[f"{name}/zeros"] = np.ascontiguousarray(value.zeros)
    return arrays


def _layer_file(folder: Path, i: int) -> Path:
    return folder / f"layer-{i:03}.safetensors"


def _go_on(folder: Path, x: F32) -> tuple[int, F32]:
    """Layers that an earlier run has finished, and what came out of the last of them."""
    try:
        n_done = int(json.loads((folder / _STATE).read_text(encoding="utf-8"))["n_layers"])
        kept: F32 = load_file(folder / _X)["x"]
    except (OSError, ValueError, KeyError, SafetensorError):
        return 0, x
    return (n_done, kept) if kept.shape == x.shape else (0, x)
