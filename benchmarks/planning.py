"""Whether a model fits a machine or card: nothing is opened or run.

    configuration   a model's sizes, how each part is stored, its context
    memory          bytes of each part, and where they lie
    nearest         the configuration with the fewest changes that fits

How fast it would be there is for forecast.py to say.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kokanee.engine import KokaneeError, read_manifest
from kokanee.engine.engine import DEFAULT_N_CTX
from kokanee.engine.manifest import Manifest
from kokanee.export import nano
from kokanee.export.dims import Architecture, salmonn_dims
from kokanee.export.layout import Layout
from kokanee.export.nano.build import ARCHITECTURE as NANO
from kokanee.quant.schemes import BLOCKWISE, LLM_SCHEMES, TIED_HEAD

from .roofline import (
    Device,
    Model,
    bytes_per_weight,
    read_devices,
)

Kv = Literal["float32", "int8", "float16"]
KV_BYTES: dict[Kv, int] = {"float32": 4, "float16": 2, "int8": 1}
ENCODERS = {"none": "f32", "fp16": "f16", "int8": "int8_block128"}
OFFICIAL = ("7b", "13b")
MODELS = ("nano", *OFFICIAL)
PARTS = ("speech_encoder", "audio_encoder", "connector", "llm")

SYSTEM_GB = 1.0  # assumed: what a running system keeps of a machine's memory
PROCESS_GB = 0.15  # the interpreter, ONNX Runtime, NumPy, a tokenizer
CUDA_CARD_GB = 0.6  # assumed: a context, cuBLAS' and cuDNN's workspaces
CUDA_HOST_GB = 1.0  # assumed: the CUDA libraries in the process

DESKTOP_GB = 0.5  # assumed: less than this left is called tight

N_BEFORE = 8  # positions before the sound, BOS included
WHOLE_S = 29.92  # 88 windows of 17 frames
CONTEXTS = (1024, 512)  # to be tried when the memory is short


class PlanError(KokaneeError):
    """What was asked for does not exist, or cannot be combined: name another."""


# --- what is asked about --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A model, and how it is stored and opened."""

    model: str  # one of MODELS, or a bundle's name
    sizes: Architecture
    llm_quant: str  # of LLM_SCHEMES, "none", or a bundle's own packing
    encoder_quant: str
    kv_cache: Kv
    n_ctx: int
    word: str = ""  # by which a command finds it, where that is not `model`
    n_question: int = 39  # positions behind the sound: results/live_7b.json
    padded: bool = True  # offline, every sound is filled up to 30 s
    files: Mapping[str, int] | None = None  # bytes of a bundle's weight files

    def to_json(self) -> dict[str, Any]:
        """What was asked for."""
        names = ("model", "llm_quant", "encoder_quant", "kv_cache", "n_ctx")
        return {name: getattr(self, name) for name in names}


def stored(sizes: Architecture, llm_quant: str | None, encoder_quant: str | None) -> Architecture:
    """The same sizes in other packings; None: as they are."""
    made, tied = sizes, sizes.llm.tied_head
    if llm_quant is not None:
        scheme = LLM_SCHEMES.get(llm_quant)
        head = scheme.head_packing if scheme else "f16"
        made = dataclasses.replace(
            made,
            llm_packing=scheme.packing if scheme else "f16",
            head_packing=TIED_HEAD if tied else head,
            table_packing=None if tied else TIED_HEAD if scheme else "f16",
        )
    if encoder_quant is not None:
        made = dataclasses.replace(
            made,
            encoder_packing=ENCODERS[encoder_quant],
            connector_packing="f32" if encoder_quant == "none" else "f16",
        )
    return made


def configure(
    model: str,
    *,
    llm_quant: str | None = None,
    encoder_quant: str | None = None,
    kv_cache: str | None = None,
    n_ctx: int | None = None,
    on_gpu: bool = False,
) -> Configuration:
    """A configuration from what a user says; None is the default of the model.

    Raises:
        PlanError: there is no such model, or it cannot be opened so.
    """
    name, folder = model.casefold(), Path(model)
    files: dict[str, int] | None = None
    rest: dict[str, Any] = {}
    if name in OFFICIAL:
        whisper, beats, qformer, llama = salmonn_dims(name)
        sizes = Architecture(
            speech_encoder=whisper,
            audio_encoder=beats,
            connector=qformer,
            llm=llama,
            encoder_packing="f32",
            connector_packing="f32",
            llm_packing="f32",
            head_packing="f32",
            table_packing="f32",
        )
        llm_quant, encoder_quant = llm_quant or "int4_block128", encoder_quant or "int8"
        has_int8 = llm_quant != "none"
    elif name == "nano":
        sizes, has_int8 = NANO, True
        rest = {"n_question": 15, "padded": False}
        if llm_quant is None and encoder_quant is None:
            files = nano_files()
    elif (folder / "manifest.json").is_file():
        manifest = read_manifest(folder)
        name, sizes = manifest.name, Architecture.from_json(manifest.architecture)
        has_int8 = manifest.int8_cache is not None
        rest = {"n_question": _n_question(folder, manifest), "word": str(folder)}
        rest["padded"] = manifest.policy.pad_to_s is not None
        if llm_quant is None and encoder_quant is None:
            files = {n: f.n_bytes for n, f in manifest.files.items() if n.endswith(".bin")}
    else:
        raise PlanError(f"MODEL: expected nano, 7B, 13B or the folder of a bundle, got {model!r}")
    kv = kv_cache or ("float16" if on_gpu else "int8" if has_int8 else "float32")
    if (kv == "float16") != on_gpu:
        where, those = ("a GPU", "float16") if on_gpu else ("a processor", "float32 or int8")
        raise PlanError(f"--kv-cache: expected {those} on {where}, got {kv}; leave it out")
    n_positions = sizes.llm.n_positions
    n_ctx = min(DEFAULT_N_CTX, n_positions) if n_ctx is None else n_ctx
    if not 64 <= n_ctx <= n_positions:
        raise PlanError(f"--context: expected 64 to {n_positions} for {name}, got {n_ctx}")
    made = stored(sizes, llm_quant, encoder_quant)
    own = {packing: quant for quant, packing in ENCODERS.items()}
    return Configuration(
        model=name,
        sizes=made,
        llm_quant=llm_quant or made.llm_packing,
        encoder_quant=encoder_quant or own.get(made.encoder_packing, made.encoder_packing),
        kv_cache=kv,  # type: ignore[arg-type]  # checked by the two above and the command
        n_ctx=n_ctx,
        files=files,
        **rest,
    )


def nano_files() -> dict[str, int]:
    """Bytes of nano's weight files, built or not."""
    here = Path(nano.__file__).parent
    return {f"{n}.bin": Layout.load(here / f"{n}.layout.json").n_bytes for n in PARTS}


def _n_question(folder: Path, manifest: Manifest) -> int:
    from tokenizers import Tokenizer

    from kokanee.engine.prompt import fill, tokenise

    tokenizer = Tokenizer.from_file(str(folder / manifest.tokenizer))
    task = "asr" if "asr" in manifest.prompt.tasks else None
    question = None if task else "What do you hear?"
    text = fill(manifest.prompt, question, task=task, raw=None)
    return len(tokenise(text, tokenizer, bos_id=manifest.prompt.bos_id).ids_after)


def find_device(name: str, devices: Sequence[Device] | None = None) -> Device:
    """A GPU of devices.json; case, spaces and the vendor do not matter.

    Raises:
        PlanError: there is none of that name; near names are listed.
    """
    devices = read_devices() if devices is None else devices
    known = {_plain(device.name): device for device in devices}
    wanted = _plain(name)
    if wanted in known:
        return known[wanted]
    without_memory = {
        _plain(" ".join(w for w in d.name.split() if not w.endswith("GB"))): d
        for d in reversed(devices)
    }
    if wanted in without_memory:
        return without_memory[wanted]
    whole = {f"rtx{plain}": device for plain, device in known.items()}
    alike = difflib.get_close_matches(f"rtx{wanted}", whole, n=4, cutoff=0.5)
    near = [whole[plain].name for plain in alike]
    hint = f"; near: {', '.join(near)}" if near else ""
    raise PlanError(f"--device: expected a card of kokanee plan --list-devices, got {name!r}{hint}")


def _plain(name: str) -> str:
    folded = "".join(c for c in name.casefold() if c.isalnum())
    return folded.removeprefix("nvidia").removeprefix("geforce").removeprefix("rtx")


# --- memory ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something that takes memory."""

    name: str
    n_bytes: float
    where: Literal["memory", "card", "host", "mapped"]  # mapped: read from its file where needed
    estimated: bool = False


def weights(c: Configuration) -> dict[str, float]:
    """Bytes of the weight files by part, of a bundle those of the files themselves."""
    if c.files is not None:
        table = {"embedding": c.files["embedding.bin"]} if "embedding.bin" in c.files else {}
        return {name: float(c.files[f"{name}.bin"]) for name in PARTS} | table
    a, llama = c.sizes, c.sizes.llm
    model = Model(name=c.model, sizes=a, cache_bytes=0.0)
    made = {s.name: s.work.bytes for s in model.encoding(WHOLE_S)}
    made["llm"] = model.prefill(1).work.bytes
    made["llm"] += 2 * 4 * llama.n_positions * llama.d_head / 2  # cosines and sines
    if a.table_packing is not None:
        made["embedding"] = llama.n_vocab * llama.d_model * bytes_per_weight(a.table_packing)
    return made


def budget(c: Configuration, *, on_gpu: bool) -> tuple[Part, ...]:
    """What an answer about thirty seconds of sound keeps in memory."""
    a, llama, w = c.sizes, c.sizes.llm, weights(c)
    packings = {
        "speech_encoder": a.encoder_packing,
        "audio_encoder": a.encoder_packing,
        "connector": a.connector_packing,
        "llm": a.llm_packing,
    }
    place: Literal["card", "memory"] = "card" if on_gpu else "memory"
    parts = [
        Part(name=name, n_bytes=w[name] * _opened(packing, on_gpu), where=place)
        for name, packing in packings.items()
    ]
    cache = 2 * llama.n_layers * llama.n_kv_heads * llama.d_head * KV_BYTES[c.kv_cache] * c.n_ctx
    parts.append(Part(name="kv_cache", n_bytes=cache, where=place))
    whisper = a.speech_encoder
    # Four times the block's own numbers at 30 s: 0.36 GB of 7B and 0.07 of nano were measured.
    rows = 4 * 4 * 1500 * (4 * whisper.d_model + 2 * whisper.encoder_ffn_dim)
    parts.append(
        Part(
            name="activations",
            n_bytes=rows / (2 if on_gpu else 1),
            where=place,
            estimated=True,
        )
    )
    if on_gpu:
        if a.llm_packing in BLOCKWISE:
            largest = max(2 * llama.d_ffn, llama.n_vocab) * llama.d_model
            parts.append(Part(name="unpacked_matrix", n_bytes=2 * largest, where="card"))
        parts.append(Part(name="cuda", n_bytes=CUDA_CARD_GB * 1e9, where="card", estimated=True))
    aside = (PROCESS_GB + (CUDA_HOST_GB if on_gpu else 0)) * 1e9
    parts.append(
        Part(name="process", n_bytes=aside, where="host" if on_gpu else "memory", estimated=True)
    )
    if "embedding" in w:
        parts.append(Part(name="embedding_table", n_bytes=w["embedding"], where="mapped"))
    return tuple(parts)


def _opened(packing: str, on_gpu: bool) -> float:
    """Bytes in memory for one in the file: floats become those that the graph computes in."""
    return {("f16", False): 2.0, ("f32", True): 0.5}.get((packing, on_gpu), 1.0)


def needed(parts: Sequence[Part]) -> float:
    """Bytes that have to be in the memory, or on the card."""
    return sum(part.n_bytes for part in parts if part.where in ("memory", "card"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a model is to run: a card, or this machine's processor."""

    name: str
    memory_bytes: float | None  # None: unknown
    device: Device | None = None  # of a card

    @property
    def on_gpu(self) -> bool:
        """Whether it is a card."""
        return self.device is not None

    @classmethod
    def card(cls, device: Device) -> Place:
        """A GPU of the table."""
        return cls(name=device.name, memory_bytes=device.memory_gb * 1e9, device=device)

    @property
    def room(self) -> float | None:
        """Bytes that a model may take there."""
        if self.memory_bytes is None:
            return None
        return self.memory_bytes - (0 if self.on_gpu else SYSTEM_GB * 1e9)

    def tight(self, c: Configuration) -> bool:
        """Whether it fits with less left than a desktop takes of a card."""
        if self.room is None or not self.fits(c):
            return False
        return needed(budget(c, on_gpu=self.on_gpu)) > self.room - DESKTOP_GB * 1e9

    def fits(self, c: Configuration) -> bool | None:
        """Whether the configuration does; None: unknown."""
        room = self.room
        return None if room is None else needed(budget(c, on_gpu=self.on_gpu)) <= room


# --- what would fit -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A configuration that fits, and what was changed for it."""

    configuration: Configuration
    changed: tuple[str, ...]
    options: str  # of kokanee plan


def nearest(c: Configuration, place: Place) -> Suggestion | None:
    """The configuration with the fewest changes that fits; those named first are tried first.

    A smaller context, an int8 cache, a tighter scheme, 8-bit encoders; a smaller model last.
    """
    for model in (c.model, *_smaller(c.model)):
        start = c
        named: tuple[str, ...] = ()
        if model != c.model:
            kv = c.kv_cache if place.on_gpu else None
            start = configure(model, on_gpu=place.on_gpu, kv_cache=kv, n_ctx=_within(c, model))
            named = (f"{shown(model)} in place of {shown(c.model)}",)
        for n_changes in range(0 if named else 1, 5):
            for combination in itertools.combinations(_changes(start, place), n_changes):
                for made in itertools.product(*combination):
                    changes = {key: value for _, change in made for key, value in change.items()}
                    changed = _changed(start, changes)
                    if place.fits(changed):
                        said = (*named, *(what for what, _ in made))
                        return Suggestion(
                            configuration=changed, changed=said, options=_options(changed, place)
                        )
    return None


Change = tuple[str, dict[str, Any]]


def _changes(c: Configuration, place: Place) -> Iterator[tuple[Change, ...]]:
    """Kinds of change in the order they are tried, each with its steps."""
    contexts = tuple(
        (f"a context of {n} positions in place of {c.n_ctx}", {"n_ctx": n})
        for n in CONTEXTS
        if n < c.n_ctx
    )
    if contexts:
        yield contexts
    if not place.on_gpu and c.kv_cache == "float32":
        yield (("an int8 cache", {"kv_cache": "int8"}),)
    bits = bytes_per_weight(c.sizes.llm_packing)
    tighter = tuple(
        (f"the language model as {name} in place of {c.llm_quant}", {"llm_quant": name})
        for name in ("int8", "int4_block128")
        if bytes_per_weight(LLM_SCHEMES[name].packing) < 0.95 * bits
    )
    if tighter:
        yield tighter
    if bytes_per_weight(c.sizes.encoder_packing) > 1.5:
        yield (("encoders as int8", {"encoder_quant": "int8"}),)


def _changed(c: Configuration, changes: Mapping[str, Any]) -> Configuration:
    quants = {k: changes[k] for k in ("llm_quant", "encoder_quant") if k in changes}
    sizes = stored(c.sizes, quants.get("llm_quant"), quants.get("encoder_quant"))
    return dataclasses.replace(c, sizes=sizes, files=None if quants else c.files, **dict(changes))


def shown(model: str) -> str:
    """As people write it."""
    return model.upper() if model in OFFICIAL else model


def _smaller(model: str) -> tuple[str, ...]:
    return {"13b": ("7b", "nano"), "7b": ("nano",), "nano": ()}.get(model, ("nano",))


def _within(c: Configuration, model: str) -> int:
    sizes = NANO.llm if model == "nano" else salmonn_dims(model)[3]
    return min(c.n_ctx, sizes.n_positions)


def _options(c: Configuration, place: Place) -> str:
    words = ["kokanee plan", shlex.quote(c.word or shown(c.model)), f"--context {c.n_ctx}"]
    if c.model != "nano":
        words += [f"--llm-quant {c.llm_quant}"] if c.llm_quant in (*LLM_SCHEMES, "none") else []
        words += [f"--encoder-quant {c.encoder_quant}"] if c.encoder_quant in ENCODERS else []
    if place.on_gpu:
        words.append(f'--device "{place.name}"')
    elif c.kv_cache == "int8":
        words.append("--kv-cache int8")
    return " ".join(words)


def smallest_device(c: Configuration) -> Device | None:
    """The card with the least memory that holds it, of those the slowest."""
    on_card = dataclasses.replace(c, kv_cache="float16")
    holds = [d for d in read_devices() if Place.card(d).fits(on_card)]
    return min(holds, key=lambda d: (d.memory_gb, d.bandwidth_gb_s), default=None)
