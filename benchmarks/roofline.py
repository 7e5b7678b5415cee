"""How long a GPU that nobody has run this on would take: predicted from bytes and FLOPs.

A stage does `flops` of arithmetic and moves `bytes` of memory. A device has a peak of each, of
which software reaches a share. What share is a range, that of what others measured on such cards
with other software (devices.json), and so is every prediction:

    roof  = max(flops / (peak x share), bytes / (bandwidth x share))
    best  = max(roof, n_nodes x launch)         with the largest shares
    worst = roof + n_nodes x launch             with the smallest

A processor is predicted from operators that were measured on it: see plan_operations.py.

The stages, for n rows (frames, patches, positions) of width d, d_ffn inside, behind p cached
positions:

    Whisper, BEATs   2 n (4 d^2 + 2 d d_ffn) + 4 n^2 d             a layer, and the convolutions
    Q-Former         a window: 17 frames into keys and values, one query through its layers
    LLM              2 n (weights of a layer) + 4 n (p + n) d      a layer; the head for one row
    bytes            the weights as stored, and the KV cache of p + n positions

A GPU's kernels for more than one row unpack blocks of 4 or 8 bits to halves first (ONNX Runtime's
MatMulNBits unless told otherwise): 4 bytes a weight more. That, not arithmetic, is what a short
prefill costs there.

What is left out: activations' bytes, the host's work between nodes, caches, clocks that throttle,
other programs. Everything made here is a prediction and is called so.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kokanee.export.dims import (
    Architecture,
    BeatsDims,
    LlamaConfig,
    QFormerDims,
    WhisperDims,
)
from kokanee.quant.schemes import BLOCKWISE

FRAME_S = 0.02  # of Whisper: its second convolution halves the rate
DEVICES = Path(__file__).parent / "devices.json"
End = Literal["best", "worst"]
ENDS: tuple[End, End] = ("best", "worst")


# --- what a machine is, and what it is asked to do ------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A machine or card, by its peaks."""

    name: str
    memory_gb: float
    bandwidth_gb_s: float
    tflops: float  # of the arithmetic that the matrices are multiplied in
    source: str  # where the figures are from
    unpacks: bool = True  # blocks become halves in memory before more than one row meets them


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Arithmetic and traffic."""

    flops: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        """One after the other."""
        return Work(flops=self.flops + other.flops, bytes=self.bytes + other.bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A run of one graph."""

    name: str
    work: Work
    n_nodes: int  # of the graph for CUDA that launch a kernel, as counted in bundles
    n_unpacked: float = 0.0  # weights that a device which unpacks writes and reads as halves


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Seconds at best and at worst."""

    best: float
    worst: float

    def __add__(self, other: Range) -> Range:
        """Both at best, both at worst."""
        return Range(best=self.best + other.best, worst=self.worst + other.worst)


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Shares of the peaks that are reached, (least, most), and what a kernel costs to launch."""

    compute: tuple[float, float]
    bandwidth: tuple[float, float]
    launch_us: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if (
            not 0 < self.compute[0] <= self.compute[1]
            or not 0 < self.bandwidth[0] <= self.bandwidth[1]
            or not 0 <= self.launch_us[0] <= self.launch_us[1]
        ):
            raise ValueError(f"efficiency: expected (least, most) above 0, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Of a card's peak, what somebody's software reached."""

    device: str
    model: str
    software: str
    of: Literal["compute", "bandwidth"]
    share: float
    source: str


@functools.cache
def published_shares(path: Path = DEVICES) -> tuple[Share, ...]:
    """From the rows of devices.json; "measured" there says how a row becomes a share."""
    table = json.loads(path.read_text("utf-8"))
    peaks = {device.name: device for device in read_devices(path)}

    def share(row: dict[str, Any], of: Literal["compute", "bandwidth"], rate: float) -> Share:
        device = peaks[row["device"]]
        peak = device.bandwidth_gb_s * 1e9 if of == "bandwidth" else 2 * device.tflops * 1e12
        names = {name: row[name] for name in ("device", "model", "software", "source")}
        return Share(of=of, share=rate / peak, **names)

    made = []
    for row in table["measured"]["rows"]:
        rate = row["tokens_per_s"]
        if row["what"] == "decode":
            made.append(share(row, "bandwidth", row["n_bytes"] * rate))
        else:  # llama.cpp accumulates in float16, at twice the rate
            made.append(share(row, "compute", 2 * row["n_weights"] * rate))
    row = table["measured"]["unpacking"]
    rate = row["prefill_tokens_per_s"] / row["n_positions"]
    return (*made, share(row, "bandwidth", (row["n_bytes"] + 4 * row["n_weights"]) * rate))


@functools.cache
def gpu_efficiency(path: Path = DEVICES) -> Efficiency:
    """The range of shares that others measured on consumer GPUs, from the rows of devices.json.

    Nearly all of them ran llama.cpp, none this software. A launch is what is left of a step of
    decoding with ONNX Runtime when its traffic is taken off, for each node of a graph like ours.
    """
    shares = published_shares(path)
    compute = [s.share for s in shares if s.of == "compute"]
    bandwidth = [s.share for s in shares if s.of == "bandwidth"]
    row = json.loads(path.read_text("utf-8"))["measured"]["unpacking"]
    (device,) = (d for d in read_devices(path) if d.name == row["device"])
    step, n_nodes = 1 / row["decode_tokens_per_s"], _llm_nodes(row["n_layers"])
    traffic = row["n_bytes"] / (device.bandwidth_gb_s * 1e9)
    soon, late = (
        1e6 * (step - traffic / share) / n_nodes for share in (min(bandwidth), max(bandwidth))
    )
    return Efficiency(
        compute=(min(compute), max(compute)),
        bandwidth=(min(bandwidth), max(bandwidth)),
        launch_us=(soon, late),
    )


def seconds(stage: Stage, device: Device, efficiency: Efficiency) -> Range:
    """How long a stage takes there: launches run ahead of the work at best, hold it up at worst."""
    n_bytes = stage.work.bytes + (4 * stage.n_unpacked if device.unpacks else 0)
    (slow, fast), (thin, wide) = efficiency.compute, efficiency.bandwidth
    soon, late = (stage.n_nodes * us * 1e-6 for us in efficiency.launch_us)

    def roof(compute: float, bandwidth: float) -> float:
        arithmetic = stage.work.flops / (device.tflops * 1e12 * compute)
        return max(arithmetic, n_bytes / (device.bandwidth_gb_s * 1e9 * bandwidth))

    return Range(best=max(roof(fast, wide), soon), worst=roof(slow, thin) + late)


def read_devices(path: Path = DEVICES) -> tuple[Device, ...]:
    """The GPUs of a table like devices.json."""
    table = json.loads(path.read_text("utf-8"))["devices"]
    names = ("name", "memory_gb", "bandwidth_gb_s", "tflops", "source")
    return tuple(Device(**{name: row[name] for name in names}) for row in table)


# --- stages of a model ----------------------------------------------------------------------------


def bytes_per_weight(packing: str) -> float:
    """Of a matrix, its scales and offsets included."""
    if packing in ("f32", "f16"):
        return 4.0 if packing == "f32" else 2.0
    scheme = BLOCKWISE[packing]
    bits = scheme.bits + (scheme.bits / scheme.block if scheme.zeros else 0)
    return bits / 8 + (8 if scheme.offset else 4) / scheme.block


def n_windows(sound_s: float, dims: QFormerDims) -> int:
    """Windows of a stretch that is encoded alone; the last may be part padding."""
    n_frames = math.ceil(round(sound_s / FRAME_S, 6))
    return max(0, math.ceil((n_frames - dims.window_frames) / dims.stride_frames)) + 1


def speech_encoder(dims: WhisperDims, n_frames: int, packing: str) -> Stage:
    """Whisper's encoder over frames of 20 ms."""
    d, n = dims.d_model, n_frames
    layer = 4 * d * d + 2 * d * dims.encoder_ffn_dim
    convolutions = 3 * dims.num_mel_bins * d, 3 * d * d
    flops = dims.encoder_layers * (2 * n * layer + 4 * n * n * d)
    flops += 2 * (2 * n) * convolutions[0] + 2 * n * convolutions[1]
    n_weights = dims.encoder_layers * layer
    n_bytes = n_weights * bytes_per_weight(packing) + sum(convolutions) * _plain(packing)
    n_bytes += n * d * _plain(packing)  # of the position table
    return Stage(
        name="speech_encoder",
        work=Work(flops=flops, bytes=n_bytes),
        n_nodes=11 * dims.encoder_layers + 10,
        n_unpacked=n_weights if packing in BLOCKWISE else 0,
    )


def audio_encoder(dims: BeatsDims, sound_s: float, packing: str) -> Stage:
    """BEATs over patches of 16 x 16: eight for every 160 ms."""
    d, n = dims.encoder_embed_dim, n_patches(sound_s, dims)
    layer = 4 * d * d + 2 * d * dims.encoder_ffn_embed_dim
    patch = dims.input_patch_size**2 * dims.embed_dim
    projection = dims.embed_dim * d if dims.embed_dim != d else 0
    positions = dims.conv_pos * d * (d // dims.conv_pos_groups)
    flops = dims.encoder_layers * (2 * n * layer + 4 * n * n * d)
    flops += 2 * n * (patch + projection + positions)
    n_weights = dims.encoder_layers * layer + projection
    n_bytes = n_weights * bytes_per_weight(packing) + (patch + positions) * _plain(packing)
    return Stage(
        name="audio_encoder",
        work=Work(flops=flops, bytes=n_bytes),
        n_nodes=25 * dims.encoder_layers + 7,
        n_unpacked=n_weights if packing in BLOCKWISE else 0,
    )


def n_patches(sound_s: float, dims: BeatsDims) -> int:
    """Patches of a sound; its fbank has frames of 25 ms every 50 ms."""
    n_frames = max(0, math.floor(round((sound_s - 0.025) / 0.01, 6)) + 1)
    return n_frames // dims.input_patch_size * (dims.n_mels // dims.input_patch_size)


def connector(dims: QFormerDims, n_windows: int, packing: str) -> Stage:
    """The window-level Q-Former and the projection."""
    h, q, w = dims.hidden_size, dims.n_queries, dims.window_frames
    d_context, d_ffn = dims.d_speech + dims.d_audio, dims.intermediate_size
    itself = 2 * q * 4 * h * h + 4 * q * q * h
    across = 2 * q * 2 * h * h + 2 * w * 2 * h * d_context + 4 * q * w * h
    window = dims.num_hidden_layers * (itself + across + 2 * q * 2 * h * d_ffn)
    window += 2 * q * h * dims.d_model
    n_weights = dims.num_hidden_layers * (6 * h * h + 2 * h * d_context + 2 * h * d_ffn)
    n_weights += h * dims.d_model
    return Stage(
        name="connector",
        work=Work(flops=n_windows * window, bytes=n_weights * bytes_per_weight(packing)),
        n_nodes=26 * dims.num_hidden_layers + 26,
        n_unpacked=n_weights if packing in BLOCKWISE else 0,
    )


def llm(
    config: LlamaConfig,
    *,
    n_new: int,
    n_past: int,
    packing: str,
    head_packing: str,
    cache_bytes: float,
) -> Stage:
    """New positions behind those in the cache, and the logits of the last one.

    Args:
        config: sizes.
        n_new: 1 to decode.
        n_past: positions in the cache.
        packing: of the layers.
        head_packing: of the head.
        cache_bytes: a number in the KV cache takes.
    """
    c = config
    width, kv = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
    layer = _layer_weights(c)
    adapter = 2 * c.lora_rank * (c.d_model + width + 2 * kv)
    head = c.d_model * c.n_vocab
    # Behind the last attention only one row goes on.
    once = layer - c.d_model * (width + 2 * kv)
    flops = 2 * n_new * (c.n_layers * (layer + adapter) - once) + 2 * (once + head)
    flops += c.n_layers * 4 * n_new * (n_past + n_new) * width
    n_weights = c.n_layers * layer
    n_bytes = n_weights * bytes_per_weight(packing) + head * bytes_per_weight(head_packing)
    n_bytes += c.n_layers * (4 * adapter + 2 * (n_past + 2 * n_new) * kv * cache_bytes)
    return Stage(
        name="decode" if n_new == 1 else "prefill",
        work=Work(flops=flops, bytes=n_bytes),
        n_nodes=_llm_nodes(c.n_layers),
        n_unpacked=n_weights if n_new > 1 and packing in BLOCKWISE else 0,
    )


def _llm_nodes(n_layers: int) -> int:
    return 13 * n_layers + 7  # as counted in bundles


def _layer_weights(c: LlamaConfig) -> int:
    width = c.n_heads * c.d_head
    return c.d_model * (2 * width + 2 * c.n_kv_heads * c.d_head) + 3 * c.d_model * c.d_ffn


def _plain(packing: str) -> float:
    return 4.0 if packing == "f32" else 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model's stages as functions of how much sound and text there is."""

    name: str
    sizes: Architecture
    cache_bytes: float  # a number in the KV cache takes: 4, 2 or 1

    def encoding(self, sound_s: float) -> tuple[Stage, Stage, Stage]:
        """A stretch of sound into soft tokens: both encoders and the connector."""
        a = self.sizes
        n = n_windows(sound_s, a.connector)
        n_frames = a.connector.window_frames + (n - 1) * a.connector.stride_frames
        return (
            speech_encoder(a.speech_encoder, n_frames, a.encoder_packing),
            audio_encoder(a.audio_encoder, sound_s, a.encoder_packing),
            connector(a.connector, n, a.connector_packing),
        )

    def prefill(self, n_new: int, n_past: int = 0) -> Stage:
        """Positions into the cache; one is a step of decoding."""
        return llm(
            self.sizes.llm,
            n_new=n_new,
            n_past=n_past,
            packing=self.sizes.llm_packing,
            head_packing=self.sizes.head_packing,
            cache_bytes=self.cache_bytes,
        )
