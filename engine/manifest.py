"""The one description of a bundle: what its files are, and every number the engine needs.

`manifest.json` is written by `export` and `quant` and read by the engine; nothing else is shared
between build time and run time. Reading is strict: an unknown key, a missing key, a wrong type, a
missing file or a wrong hash is a ManifestError that names it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .errors import ManifestError

FORMAT = 3
FILE_NAME = "manifest.json"
SPEECH_HERE = "<SpeechHere>"
GRAPHS = ("speech_encoder", "audio_encoder", "connector", "llm")
_HASH_CHUNK = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dims:
    """Sizes that the checkpoint decides."""

    d_speech: int  # Whisper width
    d_audio: int  # BEATs width
    d_qformer: int
    d_model: int  # LLM width
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    n_vocab: int
    n_positions: int  # longest context the LLM's rotary table covers


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FrontEnd:
    """Parameters of the two feature extractors; the engine refuses values it does not implement."""

    sample_rate: int  # Hz
    hop: int  # samples between frames, both extractors
    n_mels: int  # Whisper's log-mel bands
    n_fbank: int  # BEATs' Kaldi bands
    fbank_mean: float
    fbank_std: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How audio is cut, padded and windowed."""

    min_s: float  # shorter audio gets zeros up to here
    max_s: float  # longest stretch encoded in one piece
    pad_to_s: float | None  # Whisper's input is padded with zeros to this; None: to whole windows
    long_audio: Literal["cut", "segment"]  # beyond max_s: drop it, or encode piece by piece
    window_frames: int  # Whisper frames (20 ms) a Q-Former window
    stride_frames: int
    n_queries: int  # soft tokens a window

    def __post_init__(self) -> None:
        if not 0 < self.min_s <= self.max_s or self.window_frames < 1 or self.n_queries < 1:
            raise ManifestError(
                f"policy: expected 0 < min_s <= max_s and positive window_frames and n_queries,"
                f" got {self}"
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PromptFormat:
    """The conversation template and the ids around it."""

    template: str  # holds <SpeechHere> once and {} (the question) once
    bos_id: int | None  # prepended by hand; None where the template brings its own
    eos_ids: tuple[int, ...]
    tasks: dict[str, str]  # task name -> question
    no_repeat_ngram_size: int = 0
    """Runs of so many tokens that answers say once only, unless a question says otherwise; 0: no
    limit."""
    length_penalty: float = 1.0
    """What a `BeamSearch` divides a text's log-probability by is its length to this power, unless
    it says otherwise; 0: the likeliest text wins, however short."""
    transcript_beams: int = 1
    """Texts that are followed at once where somebody's words are written down as a whole, as
    `kokanee transcribe` does; 1: greedy."""
    written: str | None = None
    """The template of a question that no sound goes with; holds {} once. None: there is none."""

    def __post_init__(self) -> None:
        if self.template.count(SPEECH_HERE) != 1 or self.template.count("{}") != 1:
            raise ManifestError(
                f"prompt.template: expected {SPEECH_HERE} once and {{}} once, got {self.template!r}"
            )
        if self.written is not None and (
            SPEECH_HERE in self.written or self.written.count("{}") != 1
        ):
            raise ManifestError(
                f"prompt.written: expected {{}} once and no {SPEECH_HERE}, got {self.written!r}"
            )
        if self.transcript_beams < 1 or not math.isfinite(self.length_penalty):
            raise ManifestError(
                f"prompt: expected transcript_beams of 1 or more and a finite length_penalty,"
                f" got {self.transcript_beams} and {self.length_penalty}"
            )
        if self.no_repeat_ngram_size < 0:
            raise ManifestError(
                f"prompt.no_repeat_ngram_size: expected 0 or more, got {self.no_repeat_ngram_size}"
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """The adapter kept beside the quantized weights; its default scale is alpha / rank."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        """What the adapter's output is multiplied by unless a session says otherwise."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """One ONNX graph and how its weights are stored."""

    file: str
    scheme: str  # how its large matrices are stored: f32, f16, int8_block32, int4_block32, ...
    half: str | None  # the same weights computed with in float16, for CUDA; None: there is none


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The token embedding inside a file: floats, or uint8 codes around 128 with their scales."""

    file: str
    dtype: str  # float32, float16, or uint8 codes
    offset: int  # bytes; [n_vocab, d_model], with codes filled up to whole blocks
    block: int | None  # columns that share a scale; None: floats
    scales_offset: int | None  # bytes; float32 [n_vocab, d_model / block]

    def __post_init__(self) -> None:
        is_codes = self.dtype == "uint8"
        if (
            self.dtype not in ("float32", "float16", "uint8")
            or is_codes != bool(self.block)
            or is_codes != (self.scales_offset is not None)
        ):
            raise ManifestError(
                f"embedding: expected floats, or uint8 with a block and scales, got {self}"
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """What a bundle's file must be."""

    sha256: str
    n_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where weights came from."""

    name: str
    origin: str
    sha256: str
    licence: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Largest absolute difference of a graph from PyTorch, and the bound it was held to."""

    max_abs: float
    tolerance: float
    against: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Int8Cache:
    """The LLM with keys and values kept as signed bytes."""

    graph: str
    scales: str  # safetensors: unit of every channel, float32 [n_kv_heads * d_head] a layer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Next-token distributions of an LLM beside a more exact one's, over the same positions."""

    n_positions: int
    kl: float  # mean Kullback-Leibler divergence from the exact one, in nats
    top1: float  # share of positions with the same likeliest token
    perplexity: float
    perplexity_exact: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SoftTokens:
    """Soft tokens of a sound beside those of the exact encoders."""

    n_soft_tokens: int
    least_cosine: float
    snr_db: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What answering took where the receipt was made."""

    n_bytes: int  # of the bundle
    peak_rss_mb: float  # of a process that hears and answers
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    threads: int
    machine: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a receipt may say at most before a bundle is opened with a note."""

    kl: float
    least_cosine: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What storing a model in few bits did to it, and what it costs."""

    against: str  # what the exact model was
    method: str  # how the LLM's codes were chosen, and from what they were calibrated
    llm: dict[str, Agreement]  # on "text" and on "audio" prompts, with the cache it opens with
    int8_cache: dict[str, Agreement]  # beside the float32 cache, same weights
    soft_tokens: SoftTokens | None
    cost: Cost | None
    limits: Limits

    @classmethod
    def from_json(cls, kept: Any) -> Receipt:
        """Parse strictly what a manifest keeps.

        Raises:
            ManifestError: an unknown or missing key, or a value of the wrong type.
        """
        receipt = _decode(cls, kept, "receipt")
        assert isinstance(receipt, cls)
        return receipt

    def complaints(self) -> list[str]:
        """Each limit that is not kept, in a sentence."""
        said = [
            f"next tokens differ from the exact model's: KL {a.kl:.2f} on {name}, the limit is"
            f" {self.limits.kl:g}"
            for name, a in self.llm.items()
            if not a.kl <= self.limits.kl
        ]
        if self.soft_tokens and not self.soft_tokens.least_cosine >= self.limits.least_cosine:
            said.append(
                f"soft tokens differ from the exact encoders': cosine"
                f" {self.soft_tokens.least_cosine:.3f}, the limit is {self.limits.least_cosine:g}"
            )
        return said


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All of `manifest.json`."""

    format: int
    name: str
    kokanee: str  # version that wrote it
    command: str
    dims: Dims
    front_end: FrontEnd
    policy: Policy
    prompt: PromptFormat
    lora: Lora
    architecture: dict[str, Any]  # of `export`, which makes the topologies again from it
    graphs: dict[str, Graph]
    int8_cache: Int8Cache | None  # None: there is only the float32 cache
    embedding: Table
    tokenizer: str
    files: dict[str, File]
    sources: tuple[Source, ...]
    parity: dict[str, Parity]
    quality: dict[str, Any]
    receipt: Receipt | None  # None: nobody measured

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ManifestError(
                f"manifest format: expected {FORMAT}, got {self.format};"
                " rebuild the bundle or use the Kokanee that made it"
            )
        if set(self.graphs) != set(GRAPHS):
            raise ManifestError(f"graphs: expected {sorted(GRAPHS)}, got {sorted(self.graphs)}")
        named = [g.file for g in self.graphs.values()] + [self.embedding.file, self.tokenizer]
        named += [g.half for g in self.graphs.values() if g.half is not None]
        if self.int8_cache is not None:
            named += [self.int8_cache.graph, self.int8_cache.scales]
        for name in named:
            if name not in self.files:
                raise ManifestError(f"files: {name} is used but not listed")

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse strictly.

        Raises:
            ManifestError: not JSON, an unknown or missing key, or a value of the wrong type.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ManifestError(f"{FILE_NAME} is not JSON: {error}") from None
        manifest = _decode(cls, data, "manifest")
        assert isinstance(manifest, cls)
        return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/manifest.json`.

    Raises:
        ManifestError: it is not there, or not a manifest this version understands.
    """
    path = folder / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(
            f"{folder} is not a bundle: {FILE_NAME} is missing; make one with `kokanee build`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from None
    return Manifest.from_json(text)


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Check that every file the manifest lists is there and as long as it says.

    Raises:
        ManifestError: it is not; names the file.
    """
    for name, entry in manifest.files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ManifestError(f"files: {name!r} points outside the bundle")
        if not path.is_file():
            raise ManifestError(f"{path} is missing; build the bundle again")
        n_bytes = path.stat().st_size
        if n_bytes != entry.n_bytes:
            raise ManifestError(
                f"{path}: expected {entry.n_bytes} bytes, got {n_bytes}; build the bundle again"
            )


def verify_files(folder: Path, manifest: Manifest, *, threads: int | None = None) -> None:
    """Check size and SHA-256 of every file the manifest lists.

    Args:
        folder: of the bundle.
        manifest: what it lists.
        threads: hashing releases the interpreter lock, so that two cores check twice as fast as
            one; by default every core.

    Raises:
        ManifestError: a file is missing, or is not the one the manifest describes.
    """
    check_sizes(folder, manifest)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        digests = dict(
            zip(
                manifest.files,
                pool.map(lambda name: sha256(folder / name), manifest.files),
                strict=True,
            )
        )
    for name, digest in digests.items():
        if digest != manifest.files[name].sha256:
            raise ManifestError(
                f"{folder / name}: expected SHA-256 {manifest.files[name].sha256[:12]}…,"
                f" got {digest[:12]}…; the file was changed, build the bundle again"
            )


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _decode(kind: Any, data: Any, where: str) -> Any:
    """Turn parsed JSON into `kind`, one of the types used above; refuse everything else."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_fields(kind, _expect(data, dict, where), where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if origin is dict:
        items = _expect(data, dict, where).items()
        return {key: _decode(args[1], value, f"{where}.{key}") for key, value in items}
    if origin is tuple:
        items = _expect(data, list, where)
        return tuple(_decode(args[0], value, f"{where}[{i}]") for i, value in enumerate(items))
    if origin is Literal:
        if data not in args:
            raise ManifestError(f"{where}: expected one of {list(args)}, got {data!r}")
        return data
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        return _decode(next(a for a in args if a is not type(None)), data, where)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    return _expect(data, kind, where)


def _decode_fields(kind: type, data: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    needed = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING  # others are younger than the format
    }
    unknown, missing = sorted(set(data) - set(hints)), sorted(needed - set(data))
    if unknown:
        raise ManifestError(f"{where}: unknown {unknown}; known are {sorted(hints)}")
    if missing:
        raise ManifestError(f"{where}: missing {missing}")
    return kind(**{name: _decode(hints[name], data[name], f"{where}.{name}") for name in data})


def _expect(data: Any, kind: type, where: str) -> Any:
    # bool is an int to Python, not to a manifest.
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise ManifestError(f"{where}: expected {kind.__name__}, got {data!r}"[:300])
    return data
