"""What every build does with its LLM: codes from float weights, units of the cache, the receipt.

    float weights --+--> quant.calibrate: codes, layer by layer --> fill --> llm.bin
    prompts --------+                                                          |
       |                                                      quant.kv_cache: units
       +--> float model, layer by layer --> quant.receipt <-- the bundle as it opens

`kokanee build` and `kokanee quantize` have this in common.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from kokanee.engine import manifest as m
from kokanee.engine.audio import read_audio
from kokanee.engine.decoder import Decoder
from kokanee.engine.embedding import Embedding
from kokanee.engine.encoders import Encoders
from kokanee.engine.errors import CalibrationError
from kokanee.engine.onnx import open_graph
from kokanee.quant import receipt
from kokanee.quant.calibrate import calibrate
from kokanee.quant.kv_cache import kv_scales
from kokanee.quant.llama import EMBEDDING, Llama, Shape
from kokanee.quant.llm_int8 import quantize_rows
from kokanee.quant.nf4 import quantize_nf4, reencoded
from kokanee.quant.prompts import Maker, Prompt
from kokanee.quant.schemes import BLOCKWISE, LLM_SCHEMES, LlmScheme
from kokanee.quant.texts import (
    CALIBRATION_SOUNDS,
    CALIBRATION_TEXT,
    MEASURED_SOUNDS,
    MEASURED_TEXT,
    RECORDINGS,
)

from . import topologies
from .bundle import KV_SCALES, TOKENIZER, save, with_int8_cache
from .dims import Architecture, LlamaConfig
from .fill import Changed, Tensor, as_floats, fill
from .sources import Progress

F32 = npt.NDArray[np.float32]
Encode = Callable[[F32], F32]
KvCache = Literal["int8", "float32"]

_CALIBRATION = "calibration"  # folder in the workspace: what is done of it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """The model that a bundle is made from, and measured against."""

    architecture: Architecture  # of the bundle: its sizes are the model's too
    dims: m.Dims
    form: m.PromptFormat
    policy: m.Policy
    lora_scale: float
    llm: Mapping[str, Tensor]  # layers, norms, head, adapter, by their checkpoint's names
    table: Mapping[str, Tensor]  # holds the token embedding
    encoders: Callable[[], Path] | None  # a folder with exact graphs; None: nothing to compare
    soft_tokens: m.SoftTokens | None = None  # what was found before, where nothing is compared
    says: str  # what it is, for the receipt


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """What is done to the LLM beyond storing it."""

    scheme: str  # a name in LLM_SCHEMES, or "none"
    kv_cache: KvCache
    receipt: bool
    calibration: Path | None = None  # None: the texts and recordings that come with Kokanee
    imported: str | None = None  # what codes are taken over as they are, for the receipt


def quantized(
    exact: Exact, treatment: Treatment, folder: Path, progress: Progress
) -> Mapping[str, Tensor]:
    """The LLM's weights, those of its layers in codes where the scheme does not round to nearest.

    Args:
        exact: the float model.
        treatment: how.
        folder: the unfinished bundle, encoders and tokenizer in it; keeps what is calibrated.
        progress: told about layers.

    Raises:
        CalibrationError: the calibration set is of no use.
    """
    scheme = LLM_SCHEMES.get(treatment.scheme)
    if scheme is None or scheme.rounding == "nearest":
        return exact.llm
    if not scheme.calibrates:
        return _recoded(exact.llm, scheme)
    maker = _maker(exact, folder)
    chosen = treatment.calibration
    prompts = calibration_prompts(maker) if chosen is None else maker.of_file(chosen)
    codes = calibrate(
        _llama(exact),
        prompts,
        scheme.packing,
        scheme.rounding,
        folder / _CALIBRATION,
        progress=lambda done, total: progress("calibrating, layers", done, total),
    )
    # A ChainMap only ever writes to its first map, so read-only ones will do.
    return ChainMap(
        cast("MutableMapping[str, Tensor]", codes), cast("MutableMapping[str, Tensor]", exact.llm)
    )


def finished(
    exact: Exact,
    treatment: Treatment,
    topology: Path,
    folder: Path,
    manifest: m.Manifest,
    progress: Progress,
) -> m.Manifest:
    """The manifest of a whole bundle once its cache has units and its receipt is written.

    Args:
        exact: the float model.
        treatment: what is wanted.
        topology: holds `llm.kv8.onnx` where an int8 cache is wanted.
        folder: the whole bundle, not yet in its place.
        manifest: as it is.
        progress: told what is measured.
    """
    shutil.rmtree(folder / _CALIBRATION, ignore_errors=True)
    if treatment.kv_cache == "float32" and not treatment.receipt:
        return manifest
    maker = _maker(exact, folder)
    measured = {"text": maker.text(MEASURED_TEXT), "audio": maker.spoken(MEASURED_SOUNDS)}
    everything = [p for prompts in measured.values() for p in prompts]
    decoder = _decoder(folder, manifest, "llm.onnx", everything, None)
    if treatment.kv_cache == "int8":
        progress("calibrating the cache", 0, 1)
        save_file(kv_scales(decoder, calibration_prompts(maker)), folder / KV_SCALES)
        (folder / KV_SCALES).chmod(0o644)  # safetensors makes it private
        manifest = with_int8_cache(folder, manifest, topology)
        progress("calibrating the cache", 1, 1)
    if not treatment.receipt:
        return manifest
    progress("comparing", 0, 3)
    float_cache = receipt.of_bundle(decoder, everything)
    decoder.close()
    del decoder
    progress("comparing", 1, 3)
    opened, cache = float_cache, {}
    if manifest.int8_cache is not None:
        scales = load_file(folder / manifest.int8_cache.scales)
        decoder = _decoder(folder, manifest, manifest.int8_cache.graph, everything, scales)
        opened = receipt.of_bundle(decoder, everything)
        decoder.close()
        del decoder
        cache = receipt.agreements(opened, float_cache, measured)
    progress("comparing", 2, 3)
    want = receipt.exact(
        _llama(exact), everything, lambda n, total: progress("exact model, layers", n, total)
    )
    agreements = receipt.agreements(opened, want, measured)
    soft_tokens = _soft_tokens(exact, folder)
    progress("comparing", 3, 3)
    scheme = LLM_SCHEMES.get(treatment.scheme)
    made = m.Receipt(
        against=exact.says,
        method=_method(scheme, treatment),
        llm=agreements,
        int8_cache=cache,
        soft_tokens=soft_tokens,
        cost=None,
        limits=receipt.LIMITS,
    )
    manifest = dataclasses.replace(manifest, receipt=made)
    save(folder, manifest)  # what it costs is asked of the bundle as users will have it
    progress("answering in a process of its own", 0, 1)
    cost = receipt.cost(folder, sum(f.n_bytes for f in manifest.files.values()))
    progress("answering in a process of its own", 1, 1)
    return dataclasses.replace(manifest, receipt=dataclasses.replace(made, cost=cost))


def float_encoders(
    sizes: Architecture, weights: Mapping[str, Mapping[str, Tensor]], folder: Path
) -> Path:
    """Write the encoders' graphs in float32 into a folder.

    Args:
        sizes: of the model.
        weights: the checkpoint of each graph.
        folder: made if missing.
    """
    floats = dataclasses.replace(sizes, encoder_packing="f32", connector_packing="f32")
    folder.mkdir(parents=True, exist_ok=True)
    for graph in topologies.graphs(floats):
        if graph.name != "llm":
            graph.save(folder)
            layout = graph.layout()
            fill(layout, weights[graph.name], folder / layout.file)
    return folder


def stamp(treatment: Treatment) -> str:
    """A text that differs whenever the codes would.

    Raises:
        CalibrationError: the calibration set cannot be read.
    """
    if treatment.calibration is None:
        return str(treatment)
    try:
        return f"{treatment} {m.sha256(treatment.calibration)}"
    except OSError as error:
        raise CalibrationError(f"{treatment.calibration}: cannot be read: {error}") from None


def calibration_prompts(maker: Maker) -> list[Prompt]:
    """The set that comes with Kokanee."""
    return [*maker.text(CALIBRATION_TEXT), *maker.spoken(CALIBRATION_SOUNDS)]


def opened_encoders(folder: Path, policy: m.Policy, d_audio: int) -> Encode:
    """Soft tokens [n, d_model] of samples, by the graphs in a folder."""
    speech, audio, connector = (
        open_graph(folder / f"{g}.onnx", device="cpu", arena=False) for g in m.GRAPHS[:3]
    )
    encoders = Encoders(
        speech_encoder=speech,
        audio_encoder=audio,
        connector=connector,
        policy=policy,
        d_audio=d_audio,
    )
    return lambda pcm: encoders.encode(pcm).soft_tokens


def _floats(tensors: Mapping[str, Tensor]) -> Mapping[str, F32]:
    """Tensors as float32, whatever they are kept in."""
    return Changed(tensors, lambda _, value: as_floats(value))


def _recoded(tensors: Mapping[str, Tensor], scheme: LlmScheme) -> Mapping[str, Tensor]:
    """Layers' matrices in bitsandbytes' values, made when they are asked for."""

    def recode(name: str, value: Tensor) -> Tensor:
        if ".lora_" in name or not name.endswith("_proj.weight"):
            return value
        if scheme.rounding == "rows":
            return quantize_rows(as_floats(value))
        return reencoded(quantize_nf4(as_floats(value)), BLOCKWISE[scheme.packing])

    return Changed(tensors, recode)


def _maker(exact: Exact, folder: Path) -> Maker:
    table = _floats(exact.table)[EMBEDDING]

    def embed(ids: Sequence[int]) -> F32:
        return table[np.asarray(ids, np.int64)]

    return Maker(
        encode=opened_encoders(folder, exact.policy, exact.dims.d_audio),
        embed=embed,
        tokenizer=Tokenizer.from_file(str(folder / TOKENIZER)),
        form=exact.form,
    )


def _llama(exact: Exact) -> Llama:
    return Llama(_shape(exact.architecture.llm), _floats(exact.llm), lora_scale=exact.lora_scale)


def _shape(config: LlamaConfig) -> Shape:
    return Shape(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Shape)})


def _decoder(
    folder: Path,
    manifest: m.Manifest,
    graph: str,
    prompts: Sequence[Prompt],
    scales: Mapping[str, F32] | None,
) -> Decoder:
    dims = manifest.dims
    return Decoder(
        open_graph(folder / graph, device="cpu"),
        Embedding(folder, manifest.embedding, n_vocab=dims.n_vocab, d_model=dims.d_model),
        dims,
        n_ctx=min(dims.n_positions, 8 + 2 * max(len(p.embeds) for p in prompts)),
        lora_scale=manifest.lora.scale,
        kv_scales=scales,
    )


def _soft_tokens(exact: Exact, folder: Path) -> m.SoftTokens | None:
    if exact.encoders is None:
        return exact.soft_tokens
    pcm = read_audio(RECORDINGS / MEASURED_SOUNDS[0].recording).pcm
    policy, d_audio = exact.policy, exact.dims.d_audio
    got = opened_encoders(folder, policy, d_audio)(pcm)
    return receipt.soft_tokens(got, opened_encoders(exact.encoders(), policy, d_audio)(pcm))


def _method(scheme: LlmScheme | None, treatment: Treatment) -> str:
    if treatment.imported is not None:
        return treatment.imported
    if scheme is None:
        return "floats, not quantized"
    if not scheme.calibrates:
        return scheme.says
    what = treatment.calibration.name if treatment.calibration else "Kokanee's own texts and sounds"
    return f"{scheme.says}; calibrated with {what}"
