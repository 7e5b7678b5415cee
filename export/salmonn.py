"""Official SALMONN checkpoints -> a bundle: checked as a whole, then written tensor by tensor.

    read names and shapes -> four topologies -> hold one against the other -> fill, hash, move

Never more than a few matrices are in memory, whatever the size of the model.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, cast

from kokanee.engine.errors import CheckpointError
from kokanee.engine.manifest import (
    Dims,
    Lora,
    Manifest,
    Policy,
    PromptFormat,
    Source,
    sha256,
)

from . import topologies
from .act_order import in_order
from .bundle import FRONT_END, Description, Workspace, write_bundle
from .checkpoint import Checkpoint, Entry, Unpickler, check_shapes, listed
from .dims import Architecture
from .fill import Tensor
from .layout import TABLE, Layout, Shape
from .llama_tokenizer import llama_tokenizer
from .llm import EMBEDDING
from .official import (
    Llm,
    Salmonn,
    check_bias_aliases,
    read_beats,
    read_llm,
    read_salmonn,
    read_whisper,
    vicuna_warning,
)
from .prompts import TASKS, TEMPLATE, WRITTEN
from .quantized import Exact, KvCache, Treatment, finished, float_encoders, quantized, stamp
from .requantize import EncoderQuant, ingredients, stored
from .sources import Progress

_UNPADDED_S = 29.92  # 88 windows of 0.34 s: the longest stretch of whole windows in 1500 positions
_ALIAS = "relative_attention_bias.weight"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Where the official files are."""

    salmonn: Path  # salmonn_v1.pth or salmonn_7b_v0.pth
    whisper: Path  # folder
    beats: Path
    llm: Path  # folder

    def files(self) -> list[Path]:
        """Every file that the bundle may follow from."""
        folders = [p for folder in (self.whisper, self.llm) for p in sorted(folder.iterdir())]
        return [self.salmonn, self.beats, *(p for p in folders if p.is_file())]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user decides; the defaults are SALMONN's, but for the storage."""

    llm_quant: str | None = None  # of LLM_SCHEMES, or "none"; None: int4, or GPTQ's own codes
    encoder_quant: EncoderQuant = "int8"
    kv_cache: KvCache | None = None  # None: int8 where the LLM is quantized
    receipt: bool = True
    calibration: Path | None = None  # None: what comes with Kokanee
    qformer: Mapping[str, int] = dataclasses.field(default_factory=dict)
    lora_alpha: float | None = None  # None: the checkpoint's
    tasks: Mapping[str, str] = dataclasses.field(default_factory=lambda: TASKS)
    pad_to_s: float | None = 30.0  # as upstream; None: to whole windows
    long_audio: Literal["cut", "segment"] = "cut"  # as upstream


def build_salmonn(
    out: Path,
    parts: Parts,
    options: Options,
    *,
    progress: Progress,
    warn: Callable[[str], None],
    command: str,
) -> Manifest:
    """Build a bundle; started again after an interruption, it goes on where it was.

    Args:
        out: folder of the bundle.
        parts: the official files.
        options: how to store and pad.
        progress: told how far each weight file is.
        warn: told what looks wrong but is not refused.
        command: what the manifest says made it.

    Raises:
        CheckpointError: files lack tensors, have unknown ones, or do not belong together; nothing
            was written then.
        CacheError: no space, not writable, or another build is writing there.
        ImportError: torch, onnx or sentencepiece is not installed.
    """
    for path in (parts.whisper, parts.llm):
        if not path.is_dir():
            raise CheckpointError(f"{path}: expected a folder")
    with Workspace(out, resumable=True) as space, tempfile.TemporaryDirectory() as scratch:
        topology = Path(scratch)
        with Unpickler(space.spill) as unpickle:
            salmonn = read_salmonn(parts.salmonn, unpickle, options.qformer)
            whisper = read_whisper(parts.whisper, unpickle)
            beats = read_beats(parts.beats, unpickle)
            llm = read_llm(parts.llm, unpickle, lora_rank=salmonn.lora_rank)
        _check_widths(parts, salmonn, whisper.dims.d_model, beats.dims.encoder_embed_dim, llm)
        check_bias_aliases(salmonn, beats)
        warning = vicuna_warning(llm.config)
        if warning:
            warn(f"{parts.llm}: {warning}")
        tokenizer = llama_tokenizer(llm.tokenizer, probes=_probes(options.tasks))
        if tokenizer.get_vocab_size() != llm.config.n_vocab:
            raise CheckpointError(
                f"{parts.llm}: its tokenizer.model has {tokenizer.get_vocab_size()} pieces,"
                f" config.json says {llm.config.n_vocab}"
            )
        sizes = Architecture(
            speech_encoder=whisper.dims,
            audio_encoder=beats.dims,
            connector=salmonn.qformer,
            llm=llm.config,
            encoder_packing="f32",
            connector_packing="f32",
            llm_packing="f32",
            head_packing="f32",
            table_packing=None,
        )
        floats = "f16" if llm.is_half else "f32"
        scheme = _scheme(parts, options, llm)
        architecture = stored(sizes, scheme, options.encoder_quant, floats=floats)
        if llm.gptq is not None:
            architecture = dataclasses.replace(architecture, llm_packing=llm.gptq.scheme.name)
        cache = options.kv_cache or ("float32" if scheme == "none" else "int8")
        treatment = Treatment(
            scheme=scheme,
            kv_cache=cache,
            receipt=options.receipt,
            calibration=options.calibration,
            imported=None if llm.gptq is None else llm.gptq.says,
        )
        layouts = topologies.save(architecture, topology, int8_cache=cache == "int8")
        checkpoints: dict[str, dict[str, Entry]] = {
            "speech_encoder": whisper.entries,
            "audio_encoder": beats.entries,
            "connector": salmonn.connector,
            "llm": {**llm.entries, **salmonn.adapter},
        }
        _check_tensors(parts, layouts.values(), checkpoints)
        stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in parts.files()]
        space.take_over(ingredients([stats, options.encoder_quant, stamp(treatment)], layouts))
        description = _description(parts, options, salmonn, architecture, llm, command, progress)
        weights: dict[str, Mapping[str, Tensor]] = {
            name: Checkpoint(entries) for name, entries in checkpoints.items()
        }
        exact_llm = weights["llm"]
        if llm.gptq is not None:
            adapter = Checkpoint(salmonn.adapter)
            # A ChainMap only ever writes to its first map, so read-only ones will do.
            weights["llm"] = ChainMap(cast("Any", adapter), cast("Any", llm.gptq))
            exact_llm = in_order(weights["llm"])
        exact = Exact(
            architecture=architecture,
            dims=description.dims,
            form=description.prompt,
            policy=description.policy,
            lora_scale=description.lora.scale,
            llm=exact_llm,
            table=weights["llm"],
            encoders=None
            if options.encoder_quant == "none"
            else functools.partial(float_encoders, sizes, weights, space.spill),
            says="the official files"
            + ("" if llm.gptq is None else ", the LLM's GPTQ codes as they are")
            + ", computed in float32",
        )
        return write_bundle(
            space,
            description,
            topology=topology,
            checkpoints={
                **weights,
                TABLE: weights["llm"],
                "llm": weights["llm"]
                if llm.gptq is not None
                else functools.partial(quantized, exact, treatment, progress=progress),
            },
            embedding="head.weight" if architecture.table_packing is None else "table",
            tokenizer=tokenizer.to_str(),
            progress=progress,
            finish=functools.partial(finished, exact, treatment, topology, progress=progress),
        )


# --- checks --------------------------------------------------------------------------------------


def _check_widths(parts: Parts, salmonn: Salmonn, d_speech: int, d_audio: int, llm: Llm) -> None:
    """Hold what SALMONN's checkpoint was trained on against what it is given.

    Raises:
        CheckpointError: one of them has another width, or the adapter another number of layers.
    """
    q = salmonn.qformer
    for what, path, has, wants in (
        ("Whisper", parts.whisper, d_speech, q.d_speech),
        ("BEATs", parts.beats, d_audio, q.d_audio),
        ("LLM", parts.llm, llm.config.d_model, q.d_model),
    ):
        if has != wants:
            raise CheckpointError(
                f"{path}: this {what} is {has} wide, {parts.salmonn.name} was trained with {wants}"
                f"{_HINTS.get((what, wants), '')}"
            )


_HINTS = {
    ("LLM", 4096): " (Vicuna 7B v1.5)",
    ("LLM", 5120): " (Vicuna 13B v1.1)",
    ("Whisper", 1280): " (whisper-large-v2)",
}


def _check_tensors(
    parts: Parts, layouts: Iterable[Layout], checkpoints: Mapping[str, Mapping[str, Entry]]
) -> None:
    """Every tensor that a graph needs is there and has its shape; there is none it does not know.

    Raises:
        CheckpointError: names them.
    """
    where = {
        "speech_encoder": parts.whisper,
        "audio_encoder": parts.beats,
        "connector": parts.salmonn,
        "llm": parts.llm,
    }
    for layout in layouts:
        entries = checkpoints["llm" if layout.graph == TABLE else layout.graph]
        wanted = dict(_wanted(layout))
        adapter = {n: s for n, s in wanted.items() if ".lora_" in n}
        check_shapes(str(parts.salmonn), entries, adapter.items())
        rest = {n: s for n, s in wanted.items() if n not in adapter}
        check_shapes(str(where.get(layout.graph, parts.llm)), entries, rest.items())
        known = set(wanted) | {EMBEDDING, "lm_head.weight"}
        unexpected = [
            name
            for name in entries
            if layout.graph != TABLE
            and name not in known
            and not name.startswith("predictor.")  # BEATs' classifier: not used for features
            and not name.endswith(_ALIAS)
        ]
        if unexpected:
            source = parts.salmonn if ".lora_" in unexpected[0] else where[layout.graph]
            raise CheckpointError(f"{source}: unexpected {listed(sorted(unexpected))}")


def _wanted(layout: Layout) -> Iterable[tuple[str, Shape]]:
    return ((s.key, s.shape) for w in layout.weights for s in w.sources if s.key)


def _probes(tasks: Mapping[str, str]) -> list[str]:
    """Texts whose ids must come out as SentencePiece's: both halves of every task's prompt."""
    halves = []
    for wording in tasks.values():
        halves += TEMPLATE.replace("{}", wording).split("<SpeechHere>")
    return halves


def _scheme(parts: Parts, options: Options, llm: Llm) -> str:
    """The scheme of the LLM, or of the head and table of one that has codes already.

    Raises:
        CheckpointError: a scheme was asked for, and the folder holds codes.
    """
    if llm.gptq is None:
        return options.llm_quant or "int4"
    if options.llm_quant is not None:
        raise CheckpointError(
            f"{parts.llm}: its matrices are GPTQ codes already, which are taken over as they are;"
            f" leave --llm-quant {options.llm_quant} out, or give the float model"
        )
    return "int4_block128"  # for its head and table


# --- the manifest --------------------------------------------------------------------------------


def _description(
    parts: Parts,
    options: Options,
    salmonn: Salmonn,
    architecture: Architecture,
    llm: Llm,
    command: str,
    progress: Progress,
) -> Description:
    c, q = llm.config, salmonn.qformer
    size = {4096: "-7b", 5120: "-13b"}.get(c.d_model, "")
    return Description(
        name=f"salmonn{size}",
        command=command,
        dims=Dims(
            d_speech=q.d_speech,
            d_audio=q.d_audio,
            d_qformer=q.hidden_size,
            d_model=c.d_model,
            n_layers=c.n_layers,
            n_heads=c.n_heads,
            n_kv_heads=c.n_kv_heads,
            d_head=c.d_head,
            n_vocab=c.n_vocab,
            n_positions=c.n_positions,
        ),
        front_end=FRONT_END,
        policy=Policy(
            min_s=1.0,
            max_s=options.pad_to_s or _UNPADDED_S,
            pad_to_s=options.pad_to_s,
            long_audio=options.long_audio,
            window_frames=q.window_frames,
            stride_frames=q.stride_frames,
            n_queries=q.n_queries,
        ),
        prompt=PromptFormat(
            template=TEMPLATE,
            bos_id=llm.bos_id,
            eos_ids=llm.eos_ids,
            tasks=dict(options.tasks),
            written=WRITTEN,
        ),
        lora=Lora(
            rank=salmonn.lora_rank,
            alpha=salmonn.lora_alpha if options.lora_alpha is None else options.lora_alpha,
            targets=("q_proj", "v_proj"),
        ),
        sources=_sources(parts, progress),
        parity={},
        quality={},
        architecture=architecture.to_json(),
    )


_LICENCES = {
    "SALMONN": "Apache-2.0",
    "Whisper": "MIT",
    "BEATs": "MIT",
    "LLM": "its publisher's: Vicuna v1.5 Llama 2 Community License, v1.1 non-commercial",
}


def _sources(parts: Parts, progress: Progress) -> tuple[Source, ...]:
    """Name, hash and licence of every file that weights or tokens were taken from."""
    kinds = {parts.salmonn: "SALMONN", parts.beats: "BEATs"}
    kinds |= {p: "Whisper" if p.parent == parts.whisper else "LLM" for p in parts.files()[2:]}
    suffixes = {".bin", ".safetensors", ".model", ".json"}
    files = [p for p in kinds if p in (parts.salmonn, parts.beats) or p.suffix in suffixes]
    n_total, n_done = sum(p.stat().st_size for p in files), 0
    made = []
    with ThreadPoolExecutor() as pool:
        for path, digest in zip(files, pool.map(sha256, files), strict=True):
            n_done += path.stat().st_size
            progress("hashing the checkpoints", n_done, n_total)
            made.append(
                Source(
                    name=path.name,
                    origin=f"{kinds[path]}, a local file",
                    sha256=digest,
                    licence=_LICENCES[kinds[path]],
                )
            )
    return tuple(made)
