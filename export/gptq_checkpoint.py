"""A folder that auto-gptq or GPTQModel quantized -> its matrices as Blocks, with the same codes.

A linear layer [d_out, d_in] lies in the file turned round, its codes packed into int32 words:

    qweight  int32 [d_in * bits / 32, d_out]     along d_in,  lowest bits first
    qzeros   int32 [n_groups, d_out * bits / 32] along d_out, lowest bits first
    scales   half  [n_groups, d_out]
    g_idx    int32 [d_in]                        group of each input channel, i // group_size
                                                 where it is missing
    w[o, i] = scales[g_idx[i], o] * (code[i, o] - zero[g_idx[i], o])

    4 bits:  word of qweight, column o      | c7 c6 c5 c4 c3 c2 c1 c0 |
             its bytes in memory            | c0 + 16 c1 | c2 + 16 c3 | ...   as Blocks have them

    act-order:  g_idx     1 0 0 1            channels as the model has them
                order     1 2 0 3            stable sort by group
                columns   0 0 1 1            groups lie together: W x = W[:, order] x[order]

`checkpoint_format` gptq (v1) stores zero - 1, gptq_v2 the zero itself. GPTQModel takes the ones off
whole words, so that a zero of 0 borrows from the channel above it; adding them back to whole words
undoes that. Others have each their own way with a zero of 0 in v1: such a file is refused.

Source: auto-gptq's auto_gptq/nn_modules/qlinear and GPTQModel's nn_modules/qlinear and
utils/model.py for what the formats are; nothing is dequantized here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kokanee.engine.errors import CheckpointError
from kokanee.quant.blocks import U8, Blocks, pack, unpack
from kokanee.quant.schemes import Blockwise

from .checkpoint import (
    Array,
    Entry,
    Unpickler,
    listed,
    open_model_folder,
    open_safetensors,
    read_json,
)
from .layout import Shape

I64 = npt.NDArray[np.int64]

TOGETHER = (  # matrices of a layer that multiply the same input
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("mlp.gate_proj", "mlp.up_proj"),
)

_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_WORD = 32  # bits
_ONES = {4: 0x11111111, 8: 0x01010101}  # a one in every code of a word
_ROW_BLOCK = 128  # block where the file has one scale a row


# --- configuration --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GptqConfig:
    """How the matrices of a folder are stored."""

    where: Path  # the file that says so, for messages
    bits: int
    group_size: int  # input channels that share a scale; -1: all
    desc_act: bool
    sym: bool
    checkpoint_format: str  # "gptq" or "gptq_v2"
    by_gptqmodel: bool  # v1 zeros of 0 can be told apart

    @property
    def block(self) -> int:
        """Weights that share a scale in our blocks."""
        return _ROW_BLOCK if self.group_size == -1 else self.group_size


_KNOWN: dict[str, tuple[Any, ...]] = {  # the first is meant where nothing is said
    "quant_method": ("gptq",),
    "bits": (4, 8),
    "group_size": (-1, 32, 64, 128),
    "checkpoint_format": ("gptq", "gptq_v2"),
    "pack_dtype": ("int32",),
    "desc_act": (False, True),
    "sym": (True, False),
    "dynamic": (None, {}),  # other settings for some layers
    "is_marlin_format": (False,),
}


def read_quantize_config(folder: Path) -> GptqConfig | None:
    """What a Hugging Face folder says about its quantization; None where it says nothing.

    `quantization_config` in config.json counts, then a quantize_config.json beside it.

    Raises:
        CheckpointError: there is no config.json, it is quantized otherwise than by GPTQ, or with
            settings that have no blocks here.
    """
    where, beside = folder / "config.json", folder / "quantize_config.json"
    inside = read_json(where).get("quantization_config")
    if inside is None and not beside.is_file():
        return None
    if not isinstance(inside, dict | None):
        raise CheckpointError(f"{where}: quantization_config: expected an object, got {inside!r}")
    found: dict[str, Any] = {}
    if beside.is_file():
        found = {"quant_method": "gptq", **read_json(beside)}
        where = beside if inside is None else where
    found |= {k: v for k, v in (inside or {}).items() if v is not None}
    for key, alias in (("quant_method", "method"), ("checkpoint_format", "format")):
        if key not in found and alias in found:
            found[key] = found[alias]
    for key in ("quant_method", "bits", "group_size"):
        if key not in found:
            raise CheckpointError(
                f"{where}: {key}: expected {_one_of(_KNOWN[key])}, got nothing; add what the"
                " model was quantized with"
            )
    values = {}
    for key, known in _KNOWN.items():
        value = found.get(key, known[0])
        if value not in known or type(value) not in {type(k) for k in known}:
            raise CheckpointError(
                f"{where}: {key}: expected {_one_of(known)}, got {value!r}; quantize the float"
                " model here, or take a GPTQ file of such a kind"
            )
        values[key] = value
    return GptqConfig(
        where=where,
        bits=values["bits"],
        group_size=values["group_size"],
        desc_act=values["desc_act"],
        sym=values["sym"],
        checkpoint_format=values["checkpoint_format"],
        by_gptqmodel=_is_by_gptqmodel(found),
    )


def _is_by_gptqmodel(found: Mapping[str, Any]) -> bool:
    meta = found.get("meta")
    quantizer = meta.get("quantizer") if isinstance(meta, dict) else None
    names = quantizer if isinstance(quantizer, list) else [quantizer]
    return any(str(name).startswith("gptqmodel") for name in names)


def _one_of(known: Sequence[Any]) -> str:
    return " or ".join(repr(k) for k in known)


def open_gptq_folder(folder: Path, unpickle: Unpickler) -> tuple[dict[str, Any], dict[str, Entry]]:
    """`open_model_folder`, also where auto-gptq has named the one weight file as it likes.

    Raises:
        CheckpointError: as `open_model_folder`.
    """
    named = ("model.safetensors", "model.safetensors.index.json")
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1 and not any((folder / name).is_file() for name in named):
        return read_json(folder / "config.json"), open_safetensors(files[0])
    return open_model_folder(folder, unpickle)


# --- weights --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linear:
    """One quantized matrix: where its parts lie, and in which order its columns are stored."""

    qweight: Entry
    qzeros: Entry
    scales: Entry
    shape: tuple[int, int]  # [d_out, d_in]
    order: I64 | None


class GptqWeights(Mapping[str, Array | Blocks]):
    """The tensors of a GPTQ folder under their float names, each read when it is asked for.

    `model.layers.0.self_attn.q_proj.weight` is Blocks [d_out, d_in], its columns in the order that
    `order` tells; what is not quantized is as it lies in the file. All matrices have one scheme.
    Any number of threads may read at a time.
    """

    def __init__(self, entries: Mapping[str, Entry], config: GptqConfig) -> None:
        """Check names, shapes, groups and zeros; codes and scales are not read yet.

        Args:
            entries: every tensor of the folder, see `open_gptq_folder`.
            config: see `read_quantize_config`.

        Raises:
            CheckpointError: a part is missing or has another shape or type, a bias is not zero,
                groups are not `group_size` long, or zeros do not fit `checkpoint_format`.
        """
        self.config = config
        stems = {
            stem: None
            for stem, dot, part in (name.rpartition(".") for name in entries)
            if dot and part in _PARTS
        }
        if not stems:
            raise CheckpointError(f"{config.where}: says gptq, but no tensor is called *.qweight")
        self._linears = {f"{stem}.weight": _linear(stem, entries, config) for stem in stems}
        twice = sorted(set(self._linears) & set(entries))
        if twice:
            raise CheckpointError(f"{config.where}: both float and quantized: {listed(twice)}")
        parts = {f"{stem}.{part}" for stem in stems for part in (*_PARTS, "bias")}
        self._plain = {name: e for name, e in entries.items() if name not in parts}
        self.scheme = Blockwise(config.bits, config.block, zeros=not self._is_symmetric())

    def __getitem__(self, name: str) -> Array | Blocks:
        """Read one tensor.

        Raises:
            CheckpointError: its file is cut short, or a scale is not finite.
        """
        linear = self._linears.get(name)
        if linear is None:
            return self._plain[name].read()
        return _blocks(name, linear, self.scheme, self.config)

    def __contains__(self, name: object) -> bool:
        """Without reading the tensor, as the inherited method would."""
        return name in self._linears or name in self._plain

    def __iter__(self) -> Iterator[str]:
        yield from self._plain
        yield from self._linears

    def __len__(self) -> int:
        return len(self._plain) + len(self._linears)

    def shapes(self) -> dict[str, Shape]:
        """Shape of each tensor, [d_out, d_in] of the quantized ones; nothing is read."""
        return {n: e.shape for n, e in self._plain.items()} | {
            n: linear.shape for n, linear in self._linears.items()
        }

    def order(self, name: str) -> I64 | None:
        """Input channel [d_in] of each stored column: W x = self[name] x[order]; None: as they are.

        Raises:
            KeyError: there is no such tensor.
        """
        if name in self._plain:
            return None
        return self._linears[name].order

    def _is_symmetric(self) -> bool:
        """Whether every zero of the model is the middle code.

        Raises:
            CheckpointError: all are next to it in a model that is said to be symmetric.
        """
        config, middle = self.config, 1 << (self.config.bits - 1)
        low, high = 1 << config.bits, -1
        for name, linear in self._linears.items():
            zeros = _zeros(name, linear, config)
            low, high = min(low, int(zeros.min())), max(high, int(zeros.max()))
        if config.sym and low == high and abs(low - middle) == 1:
            other = "gptq_v2" if config.checkpoint_format == "gptq" else "gptq"
            raise CheckpointError(
                f"{config.where}: sym: expected zeros of {middle}, got {low} everywhere; if the"
                f" model was written as {other}, say so in checkpoint_format"
            )
        return low == high == middle


def shared_order(weights: GptqWeights, names: Sequence[str]) -> I64 | None:
    """The order [d_in] of matrices that multiply the same input; None: channels as they are.

    Raises:
        CheckpointError: they differ.
        KeyError: there is no such tensor.
    """
    first = weights.order(names[0])
    for name in names[1:]:
        other = weights.order(name)
        same = first is other if first is None or other is None else np.array_equal(first, other)
        if not same:
            raise CheckpointError(
                f"{name}: expected the act-order of {names[0]}, got another g_idx; they share one"
                " input: quantize the model again with desc_act off"
            )
    return first


def check_shared_orders(weights: GptqWeights) -> None:
    """Hold q, k and v of every layer to one order, and gate and up.

    Raises:
        CheckpointError: they differ; it names the layer.
    """
    for name in weights:
        for first, *others in TOGETHER:
            stem = name.removesuffix(f"{first}.weight")
            if stem != name:
                names = [f"{stem}{other}.weight" for other in others]
                shared_order(weights, [name, *(n for n in names if n in weights)])


# --- one matrix -----------------------------------------------------------------------------------


def _linear(stem: str, entries: Mapping[str, Entry], config: GptqConfig) -> _Linear:
    """Check the parts of one matrix against one another, and find its order."""
    for part in ("qweight", "qzeros", "scales"):
        if f"{stem}.{part}" not in entries:
            raise CheckpointError(f"{config.where}: missing {stem}.{part}; is the folder complete?")
    qweight, qzeros, scales = (entries[f"{stem}.{p}"] for p in ("qweight", "qzeros", "scales"))
    g_idx = entries.get(f"{stem}.g_idx")
    _check(f"{stem}.qweight", qweight, ("int32",), n_axes=2)
    n_words, d_out = qweight.shape
    d_in = n_words * _WORD // config.bits
    group = d_in if config.group_size == -1 else config.group_size
    if d_in % group:
        raise CheckpointError(
            f"{stem}.qweight: expected groups of {group} input channels, got {d_in} channels, no"
            f" whole number of groups; is {config.where.name} this model's?"
        )
    n_groups = d_in // group
    zero_words = -(-d_out * config.bits // _WORD)
    _check(f"{stem}.qzeros", qzeros, ("int32",), (n_groups, zero_words))
    _check(f"{stem}.scales", scales, ("float16", "bfloat16", "float32"), (n_groups, d_out))
    bias = entries.get(f"{stem}.bias")
    if bias is not None and np.any(bias.read() != 0):
        raise CheckpointError(f"{stem}.bias: expected zeros, got others; LLaMA's have no bias")
    order = None
    if g_idx is not None:
        _check(f"{stem}.g_idx", g_idx, ("int32", "int64"), (d_in,))
        order = _order(f"{stem}.g_idx", g_idx.read().astype(np.int64), n_groups)
    elif config.desc_act and n_groups > 1:
        raise CheckpointError(
            f"{config.where}: missing {stem}.g_idx; with desc_act only it tells the groups"
        )
    return _Linear(qweight=qweight, qzeros=qzeros, scales=scales, shape=(d_out, d_in), order=order)


def _check(
    name: str,
    entry: Entry,
    dtypes: Sequence[str],
    shape: Shape | None = None,
    *,
    n_axes: int | None = None,
) -> None:
    if entry.dtype not in dtypes:
        raise CheckpointError(f"{name}: expected {' or '.join(dtypes)}, got {entry.dtype}")
    if n_axes is not None and (len(entry.shape) != n_axes or 0 in entry.shape):
        raise CheckpointError(f"{name}: expected {n_axes} axes, got shape {entry.shape}")
    if shape is not None and entry.shape != shape:
        raise CheckpointError(
            f"{name}: expected shape {shape}, got {entry.shape}; are bits and group_size right?"
        )


def _order(name: str, g_idx: I64, n_groups: int) -> I64 | None:
    """The stable sort of channels by group; None where they are sorted."""
    d_in = len(g_idx)
    if g_idx.min() < 0 or g_idx.max() >= n_groups:
        raise CheckpointError(
            f"{name}: expected groups 0 to {n_groups - 1}, got {g_idx.min()} to {g_idx.max()}"
        )
    sizes = np.bincount(g_idx, minlength=n_groups)
    if np.any(sizes != d_in // n_groups):
        raise CheckpointError(
            f"{name}: expected {d_in // n_groups} channels in every group, got {sizes.min()} to"
            f" {sizes.max()}; such groups cannot be blocks"
        )
    if np.all(np.diff(g_idx) >= 0):
        return None
    return np.argsort(g_idx, kind="stable").astype(np.int64)


def _blocks(name: str, linear: _Linear, scheme: Blockwise, config: GptqConfig) -> Blocks:
    """One matrix as Blocks, columns in its order."""
    d_out, d_in = linear.shape
    scales = np.ascontiguousarray(linear.scales.read().T, np.float32)
    if not np.isfinite(scales).all():
        raise CheckpointError(f"{name}: expected finite scales, got inf or nan; is it damaged?")
    zeros = _zeros(name, linear, config)
    # Words lie lowest byte first, so a row of them is a row of packed codes already.
    codes = np.ascontiguousarray(linear.qweight.read().T).view(np.uint8)
    if linear.order is not None:
        codes = pack(unpack(codes, scheme.bits)[:, linear.order], scheme.bits)
    n_blocks = scheme.n_blocks(d_in)
    if config.group_size == -1:
        scales, zeros = scales.repeat(n_blocks, axis=1), zeros.repeat(n_blocks, axis=1)
        short = n_blocks * scheme.block - d_in
        codes = np.hstack([codes, pack(zeros[:, -1:].repeat(short, axis=1), scheme.bits)])
    return Blocks(
        scheme=scheme,
        n_columns=d_in,
        codes=codes.reshape(d_out, n_blocks, scheme.n_bytes_per_block),
        scales=scales,
        zeros=zeros if scheme.zeros else None,
    )


def _zeros(name: str, linear: _Linear, config: GptqConfig) -> U8:
    """The code that stands for zero, [d_out, n_groups]."""
    words = linear.qzeros.read().view(np.dtype("<u4"))
    d_out = linear.shape[0]
    if config.checkpoint_format == "gptq":
        stored = unpack(words.view(np.uint8), config.bits)[:, :d_out]
        if not config.by_gptqmodel and np.any(stored == (1 << config.bits) - 1):
            raise CheckpointError(
                f"{name}: expected zeros of 1 or more, got 0, which v1 files do not agree on how to"
                " store; quantize the model again with checkpoint_format gptq_v2"
            )
        words = (words + np.uint32(_ONES[config.bits])).astype("<u4")
    zeros = unpack(words.view(np.uint8), config.bits)[:, :d_out]
    return np.ascontiguousarray(zeros.T)
