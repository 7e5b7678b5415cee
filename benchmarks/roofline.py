"""How long a machine that nobody has run this on would take: predicted from bytes and FLOPs.

    python -m kokanee.benchmarks.roofline [--out FILE]      GPUs of devices.json, and a check

A stage does `flops` of arithmetic and moves `bytes` of memory. A device has a peak of each, of
which software reaches a share; nobody knows the share beforehand, so it is a range, and so is every
prediction:

    seconds = max(flops / (peak x share), bytes / (bandwidth x share)) + n_nodes x launch

best with the largest shares, worst with the smallest. The stages, for n rows (frames, patches,
positions) of width d, d_ffn inside, behind p cached positions:

    Whisper, BEATs   2 n (4 d^2 + 2 d d_ffn) + 4 n^2 d             a layer, and the convolutions
    Q-Former         a window: 17 frames into keys and values, one query through its layers
    LLM              2 n (weights of a layer) + 4 n (p + n) d      a layer; the head for one row
    bytes            the weights as stored, and the KV cache of p + n positions

A GPU's kernels for more than one row unpack blocks of 4 or 8 bits to halves first (ONNX Runtime's
MatMulNBits unless told otherwise): 4 bytes a weight more. That, not arithmetic, is what a short
prefill costs there.

From stages to what somebody who waits notices: `follow` replays runtime/listener.py with a clock
made of these times. With t the seconds since the voice ended, m = 0.032 a frame:

    t_pause    = 0.2 + m                    the pause is found; a hop in flight may end later
    t_ready    = max(t_pause, t_hop) + encode(last piece) + prefill(windows) + question
    first token = max(t_ready, 0.5 + m)     the turn is over after half a second of silence
    after the decision = first token - (0.5 + m)

Exact mode encodes all of the sound behind t_pause; fast mode only the piece that still grows, at
most 5.44 s. What hops cost meanwhile decides how often they come, and t_hop.

What is left out: activations' bytes, the host's work between nodes, caches, clocks that throttle,
other programs. Everything made here is a prediction and is called so.

How far off it is, on two cores of a shared EPYC, where it could be held to figures: one model's
stages from the shares that another's reached are off by a factor of 2.5 to 3.3 typically, 3.8 at
worst, from nano to 7B, whose 8-bit products are faster than nano's float32 encoders; by 1.4
typically, 2.1 at worst, from 7B at 30 s to 7B at 1 to 20 s, another day. On a GPU nothing was held
to anything.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from tokenizers import Tokenizer

from kokanee.engine import EXACT, FAST, Streaming, read_manifest
from kokanee.engine.prompt import fill, tokenise
from kokanee.export.dims import (
    Architecture,
    BeatsDims,
    LlamaConfig,
    QFormerDims,
    WhisperDims,
)
from kokanee.quant.schemes import BLOCKWISE, LLM_SCHEMES

QUESTION = "Write down what is said."  # benchmarks/ask.py
RESULTS = Path(__file__).parent / "results"

FRAME_S = 0.02  # of Whisper: its second convolution halves the rate
VAD_FRAME_S = 0.032
BLOCK_S = 0.02  # a microphone's
LOAD = 0.5  # runtime/listener.py, _LOAD: share of the time that hops may take
HELD_BACK_S = 2 * VAD_FRAME_S  # runtime/listener.py, _HELD_BACK

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


GPU = Efficiency(compute=(0.35, 0.5), bandwidth=(0.6, 0.8), launch_us=(3.0, 10.0))
"""Assumed, not measured: what ONNX Runtime's CUDA provider might reach on a large matrix."""


def seconds(stage: Stage, device: Device, efficiency: Efficiency) -> Range:
    """How long a stage takes there."""
    n_bytes = stage.work.bytes + (4 * stage.n_unpacked if device.unpacks else 0)
    (slow, fast), (thin, wide) = efficiency.compute, efficiency.bandwidth
    soon, late = efficiency.launch_us

    def at(compute: float, bandwidth: float, launch_us: float) -> float:
        arithmetic = stage.work.flops / (device.tflops * 1e12 * compute)
        traffic = n_bytes / (device.bandwidth_gb_s * 1e9 * bandwidth)
        return max(arithmetic, traffic) + stage.n_nodes * launch_us * 1e-6

    return Range(best=at(fast, wide, soon), worst=at(slow, thin, late))


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
    """Patches of a sound; its fbank has frames of 25 ms every 10 ms."""
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
        n_nodes=13 * c.n_layers + 7,
        n_unpacked=n_weights if n_new > 1 and packing in BLOCKWISE else 0,
    )


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

    def memory_gb(self, n_ctx: int) -> float:
        """Weights and cache, without activations; the embedding table stays on the host."""
        c = self.sizes.llm
        weights = sum(stage.work.bytes for stage in (*self.encoding(30.0), self.prefill(1)))
        cache = 2 * c.n_layers * c.n_kv_heads * c.d_head * self.cache_bytes * n_ctx
        return (weights + cache) / 1e9


def official(size: Literal["7b", "13b"], llm_quant: str = "int4_block128") -> Architecture:
    """SALMONN's published sizes, encoders in 8 bits. A test holds them equal to `synthetic`'s."""
    d_model, n_layers, n_heads, d_ffn, epsilon, n_positions = {
        "7b": (4096, 32, 32, 11008, 1e-5, 4096),
        "13b": (5120, 40, 40, 13824, 1e-6, 2048),
    }[size]
    scheme = LLM_SCHEMES[llm_quant]
    return Architecture(
        speech_encoder=WhisperDims(
            d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120
        ),
        audio_encoder=BeatsDims(
            embed_dim=512,
            encoder_embed_dim=768,
            encoder_layers=12,
            encoder_attention_heads=12,
            encoder_ffn_embed_dim=3072,
        ),
        connector=QFormerDims(d_speech=1280, d_audio=768, d_model=d_model),
        llm=LlamaConfig(
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            d_head=d_model // n_heads,
            d_ffn=d_ffn,
            n_vocab=32_000,
            n_positions=n_positions,
            rope_theta=10_000.0,
            rms_epsilon=epsilon,
            tied_head=False,
            lora_rank=8,
        ),
        encoder_packing="int8_block128",
        connector_packing="f16",
        llm_packing=scheme.packing,
        head_packing=scheme.head_packing,
        table_packing=None,
    )


# --- a turn, live ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds that a machine takes, measured or predicted."""

    encode: tuple[tuple[float, float], ...]  # (seconds of sound, seconds), ascending
    prefill: tuple[tuple[float, float], ...]  # (positions, seconds), ascending
    question: float  # its prefill, to the first token
    step: float  # of decoding
    features: float = 0.0  # a second of sound, as it arrives

    def encoding(self, sound_s: float) -> float:
        """A piece of sound into soft tokens."""
        return interpolated(self.encode, sound_s)

    def prefilling(self, n: float) -> float:
        """Positions into the cache."""
        return interpolated(self.prefill, n) if n > 0 else 0.0

    def stretched(self, by: float) -> Costs:
        """Everything takes so many times as long: other programs run beside."""
        return Costs(
            encode=tuple((x, by * s) for x, s in self.encode),
            prefill=tuple((x, by * s) for x, s in self.prefill),
            question=by * self.question,
            step=by * self.step,
            features=by * self.features,
        )


def interpolated(table: Sequence[tuple[float, float]], x: float) -> float:
    """Between the neighbours in an ascending table; in proportion below, along the end above."""
    if not table:
        raise ValueError("table: expected at least one point, got none")
    if x <= table[0][0]:
        return table[0][1]  # nothing is cheaper than the smallest run
    for (x0, y0), (x1, y1) in pairwise(table):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    if len(table) == 1:
        return table[0][1] * x / table[0][0]
    (x0, y0), (x1, y1) = table[-2:]
    return max(y1, y1 + (y1 - y0) * (x - x1) / (x1 - x0))


def costs(
    model: Model,
    device: Device,
    efficiency: Efficiency | Mapping[str, Efficiency],
    *,
    end: End,
    n_question: int,
    features: float = 0.0,
) -> Costs:
    """What a model's stages are predicted to take on a device.

    Args:
        model: which.
        device: where.
        efficiency: of every stage, or by a stage's name.
        end: of the range.
        n_question: positions behind the sound.
        features: seconds of the host's work for a second of sound.
    """

    def took(stage: Stage) -> float:
        known = efficiency if isinstance(efficiency, Efficiency) else efficiency[stage.name]
        return float(getattr(seconds(stage, device, known), end))

    window_s = model.sizes.connector.stride_frames * FRAME_S
    lengths = [window_s * n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 88)]
    return Costs(
        encode=tuple((x, sum(map(took, model.encoding(x)))) for x in lengths),
        prefill=tuple(
            (n, took(model.prefill(n, n_past=32))) for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        ),
        question=took(model.prefill(n_question, n_past=64)),
        step=took(model.prefill(1, n_past=64)),
        features=features,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that the ears find out, in seconds since the turn's first sample."""

    at_s: float  # when it is known
    what: Literal["voice", "quiet", "pause", "resume", "end"]
    until_s: float = 0.0  # of a pause and an end: where the turn's sound ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What is said when."""

    marks: tuple[Mark, ...]  # in order; the last is the end
    offset_s: float  # where the voice ends
    found_s: float = 0.0  # when it is known that the turn began
    cuts: tuple[float, ...] = ()  # where fast mode cuts its pieces; from there on every piece_s


def plain_turn(voice_s: float) -> Turn:
    """A voice without a pause, with the listener's defaults; not in step with any frame."""
    before, suffix, silence, least = 0.3, 0.2, 0.5, 0.16
    offset = before + voice_s
    return Turn(
        marks=(
            Mark(at_s=offset + VAD_FRAME_S, what="quiet"),
            Mark(at_s=offset + suffix + VAD_FRAME_S, what="pause", until_s=offset + suffix),
            Mark(at_s=offset + silence + VAD_FRAME_S, what="end", until_s=offset + suffix),
        ),
        offset_s=offset,
        found_s=before + least,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a sound is followed; see engine/growing.py and runtime/listener.py."""

    piece_s: float | None  # None: the whole sound at the end
    ahead: int  # windows of sound behind one that is guessed
    hop_s: float = 0.5
    window_s: float = 0.34
    n_queries: int = 1
    rewritten: float = 0.0  # windows of the growing piece that a hop prefills again, on average

    @classmethod
    def of(cls, streaming: Streaming, **rest: Any) -> Pace:
        """A mode's."""
        piece_s = streaming.piece_s if streaming.ahead is not None else None
        return cls(piece_s=piece_s, ahead=streaming.ahead or 0, **rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What came of a turn, in seconds."""

    wait_s: float  # from the end of the voice to the decision that the turn is over
    compute_s: float  # from there to the first token; 0: it was there already
    first_token_s: float  # their sum
    final_s: float  # work of the last pass: encode, prefill, question
    n_hops: int
    hop_s: float  # sound between two hops, on average
    busy: float  # share of the time from the beginning to the end of the voice
    n_guesses: int  # answers that were begun; all but the last in vain


class _Follower:
    """A listener whose clock is arithmetic."""

    def __init__(self, turn: Turn, costs: Costs, pace: Pace) -> None:
        self.turn, self.costs, self.pace = turn, costs, pace
        self.now = turn.found_s
        self.fed = self.begun = 0.0  # seconds of sound; where the growing piece begins
        self.n_done = self.n_cached = 0.0  # windows of whole pieces; in the cache
        self.next_hop = pace.hop_s
        self.hopped_at: list[float] = []
        self.busy = 0.0
        self.cuts = list(turn.cuts)

    def spend(self, cost: float) -> None:
        before = self.now
        self.now += cost
        self.busy += max(0.0, min(self.now, self.turn.offset_s) - before)

    def feed(self, until: float) -> None:
        """Sound up to there; pieces that it fills are encoded."""
        new = max(0.0, until - self.fed)
        self.spend(new * self.costs.features)
        self.fed += new
        longest = self.pace.piece_s
        while longest is not None and self.fed - self.begun > longest + 0.1:
            cut = self.cuts.pop(0) if self.cuts else self.begun + longest
            self.spend(self.costs.encoding(cut - self.begun))
            self.n_done += round((cut - self.begun) / self.pace.window_s)
            self.begun = cut

    def hop(self) -> None:
        """Have the cache hold what can be told by now."""
        started = self.now
        grown = self.fed - self.begun
        n_guessed = math.floor(grown / self.pace.window_s) - self.pace.ahead
        if self.pace.piece_s is not None:
            if n_guessed > 0:
                self.spend(self.costs.encoding(grown))
            self.put(self.n_done + max(0, n_guessed))
        self.hopped_at.append(self.fed)
        self.next_hop = self.fed + max(self.pace.hop_s, (self.now - started) / LOAD)

    def settle(self) -> None:
        """The sound as if it ended here."""
        grown = self.fed - self.begun
        self.spend(self.costs.encoding(grown))
        self.put(self.n_done + math.ceil(grown / self.pace.window_s - 1e-6))

    def put(self, n_windows: float) -> None:
        keep = max(0.0, min(self.n_cached, n_windows) - min(self.pace.rewritten, self.n_cached))
        if n_windows > self.n_cached or self.pace.rewritten:
            self.spend(self.costs.prefilling((n_windows - keep) * self.pace.n_queries))
        self.n_cached = n_windows


def follow(turn: Turn, costs: Costs, pace: Pace) -> Followed:
    """Replay a turn: the order of runtime/listener.py's loop, with a clock made of `costs`."""
    f = _Follower(turn, costs, pace)
    marks = list(turn.marks)
    quiet, pause, guessed, n_guesses, final_s = False, None, False, 0, 0.0
    ready = end = None
    while end is None:
        heard = f.now
        while marks and marks[0].at_s <= heard and end is None:
            mark = marks.pop(0)
            quiet = {"voice": False, "resume": False}.get(mark.what, True)
            if mark.what == "pause":
                pause, guessed = mark, False
                f.feed(mark.until_s)
            elif mark.what == "resume":
                pause, guessed = None, False
            elif mark.what == "end":
                end = mark
        if end is not None:
            break
        if pause is None:
            f.feed(heard - HELD_BACK_S)
        if marks and marks[0].at_s <= f.now:
            continue
        if pause is not None and not guessed:
            started = f.now
            f.settle()
            f.spend(costs.question)
            guessed, ready, final_s = True, f.now, f.now - started
            n_guesses += 1
        elif pause is None and not quiet and f.fed >= f.next_hop:
            f.hop()
        else:
            due = f.next_hop + HELD_BACK_S if pause is None and not quiet else math.inf
            # Never the same moment again: sound comes in blocks.
            f.now = max(f.now + 1e-9, min(marks[0].at_s, max(due, f.now + BLOCK_S)))
    if not guessed or ready is None:
        f.now = max(f.now, end.at_s)
        started = f.now
        f.feed(end.until_s)
        f.settle()
        f.spend(costs.question)
        ready, final_s = f.now, f.now - started
        n_guesses += 1
    wait_s = end.at_s - turn.offset_s
    compute_s = max(0.0, ready - end.at_s)
    gaps = [b - a for a, b in pairwise(f.hopped_at)]
    return Followed(
        wait_s=wait_s,
        compute_s=compute_s,
        first_token_s=wait_s + compute_s,
        final_s=final_s,
        n_hops=len(f.hopped_at),
        hop_s=sum(gaps) / len(gaps) if gaps else 0.0,
        busy=f.busy / turn.offset_s,
        n_guesses=n_guesses,
    )


PHASES = tuple(i / 20 for i in range(-10, 11))  # seconds around a length: hops fall differently


def about(
    voice_s: float,
    costs: Costs,
    pace: Pace,
    of: Literal["first_token_s", "final_s"] = "first_token_s",
) -> Range:
    """A figure of `follow` over utterances about that long, hops falling as they may."""
    made = [getattr(follow(plain_turn(voice_s + p), costs, pace), of) for p in PHASES]
    return Range(best=min(made), worst=max(made))


def across(
    voice_s: float,
    costs: Mapping[End, Costs],
    pace: Pace,
    of: Literal["first_token_s", "final_s"] = "first_token_s",
) -> Range:
    """`about`, from the best of the best costs to the worst of the worst."""
    ranges = {end: about(voice_s, cost, pace, of) for end, cost in costs.items()}
    return Range(best=ranges["best"].best, worst=ranges["worst"].worst)


# --- how well it predicts -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A stage that was measured."""

    stage: Stage
    measured: float  # seconds


def share(known: Known, device: Device) -> float:
    """Of its roof that a measured stage reached; above 1 means a peak was measured too low."""
    roof = Efficiency(compute=(1, 1), bandwidth=(1, 1))
    return seconds(known.stage, device, roof).best / known.measured


def calibrated(known: Sequence[Known], device: Device) -> dict[str, Efficiency]:
    """What each stage reached of its roof, for predicting another model's: the median share."""
    by_name: dict[str, list[float]] = {}
    for one in known:
        by_name.setdefault(one.stage.name, []).append(share(one, device))
    return {
        name: Efficiency(compute=(at, at), bandwidth=(at, at))
        for name, at in ((n, statistics.median(shares)) for n, shares in by_name.items())
    }


def checked(
    known: Sequence[Known], device: Device, efficiency: Mapping[str, Efficiency]
) -> list[dict[str, Any]]:
    """Prediction beside measurement, for each measured stage of a calibrated name."""
    return [
        {
            "stage": one.stage.name,
            "gflop": one.stage.work.flops / 1e9,
            "mb": one.stage.work.bytes / 1e6,
            "measured_ms": one.measured * 1e3,
            "share_of_the_roof": share(one, device),
            "predicted_ms": (at := seconds(one.stage, device, efficiency[one.stage.name]).best)
            * 1e3,
            "predicted_to_measured": at / one.measured,
        }
        for one in known
        if one.stage.name in efficiency
    ]


def live_stages(live: Mapping[str, Any]) -> list[Known]:
    """The stages in a result of `live_fullsize`."""
    cache_bytes = {"float32": 4.0, "float16": 2.0, "int8": 1.0}[live["kv_cache"]]
    model = Model(
        name=live["size"],
        sizes=Architecture.from_json(live["architecture"]),
        cache_bytes=cache_bytes,
    )
    measured, known = live["measured"]["median"], []
    for length, ms in measured["encode_ms"].items():
        for stage in model.encoding(float(length)):
            known.append(Known(stage=stage, measured=ms[stage.name] / 1e3))
    for n, ms in measured["prefill_ms"].items():
        known.append(Known(stage=model.prefill(int(n), n_past=16), measured=ms / 1e3))
    question = model.prefill(live["n_question"], n_past=40)
    known.append(Known(stage=question, measured=measured["first_token_ms"] / 1e3))
    known.append(Known(stage=model.prefill(1, n_past=64), measured=measured["step_ms"] / 1e3))
    return [k for k in known if k.stage.name != "prefill" or _is_long(k)]


def _is_long(known: Known) -> bool:
    """Not one of the shortest prefills, which are neither arithmetic nor traffic alone."""
    return known.stage.work.flops > 8 * known.stage.work.bytes


def asked_stages(asked: Mapping[str, Any], folder: Path) -> list[Known]:
    """The same of a result of `benchmarks.ask` and the bundle that it was taken with."""
    manifest = read_manifest(folder)
    sizes = Architecture.from_json(manifest.architecture)
    model = Model(
        name=manifest.name, sizes=sizes, cache_bytes=4.0 if manifest.int8_cache is None else 1.0
    )
    ms = {name: values["median"] for name, values in asked["timings_ms"].items()}
    known = [
        Known(stage=stage, measured=ms[stage.name] / 1e3)
        for stage in model.encoding(asked["seconds"])
    ]
    tokenizer = Tokenizer.from_file(str(folder / manifest.tokenizer))
    prompt = tokenise(
        fill(manifest.prompt, QUESTION, task=None, raw=None),
        tokenizer,
        bos_id=manifest.prompt.bos_id,
    )
    n_heard = len(prompt.head) + asked["samples"][0]["n_soft_tokens"]
    heard = model.prefill(n_heard)
    known.append(Known(stage=heard, measured=ms["prefill_audio"] / 1e3))
    behind = model.prefill(len(prompt.ids_after), n_past=n_heard)
    known.append(Known(stage=behind, measured=ms["prefill_question"] / 1e3))
    speed = statistics.median(s["tokens_per_s"] for s in asked["samples"])
    step = model.prefill(1, n_past=n_heard + len(prompt.ids_after))
    return [*known, Known(stage=step, measured=1 / speed)]


def full_stages(taken: Mapping[str, Any], n_question: int) -> list[Known]:
    """The same of a result of `benchmarks.fullsize --size 7b --llm-quant int4_block128`."""
    model = Model(name="7b", sizes=official("7b"), cache_bytes=4.0)
    asked = taken["ask"]
    ms = {name: values["median"] for name, values in asked["timings_ms"].items()}
    heard_s = min(float(asked["seconds_of_sound"]), 29.92)  # 88 windows, as the reference's
    known = [Known(stage=s, measured=ms[s.name] / 1e3) for s in model.encoding(heard_s)]
    n_heard = asked["n_soft_tokens"] + 8  # BOS and 7 ids
    step = 1 / asked["decode_tokens_per_s"]["median"]
    return [
        *known,
        Known(stage=model.prefill(n_heard), measured=ms["prefill_audio"] / 1e3),
        Known(stage=model.prefill(n_question, n_heard), measured=ms["prefill_question"] / 1e3),
        Known(stage=model.prefill(1, n_heard + n_question), measured=step),
    ]


# --- this machine, and the table ------------------------------------------------------------------


def this_machine() -> Device:
    """Read bandwidth and float32 products of all cores together, measured now: the best."""
    from .shapes import read_bandwidth  # needs the extra [build]

    a = np.random.default_rng(0).standard_normal((1536, 1536)).astype(np.float32)
    best = 0.0
    for _ in range(20):
        started = time.perf_counter()
        a @ a
        best = max(best, 2 * len(a) ** 3 / (time.perf_counter() - started))
    return Device(
        name="this machine",
        memory_gb=0.0,
        bandwidth_gb_s=read_bandwidth() / 1e9,
        tflops=best / 1e12,
        source="measured by this command: numpy's float32 product, reading with all cores",
        unpacks=False,
    )


LENGTHS = (5.0, 20.0)  # seconds of voice
N_CTX = 2048
ASIDE_GB = 1.0  # assumed: CUDA's context, activations, a matrix as halves
SIZES: tuple[Literal["7b", "13b"], ...] = ("7b", "13b")


def predictions(
    devices: Sequence[Device],
    *,
    n_question: int,
    rewritten: float,
    features: float,
    efficiency: Efficiency = GPU,
) -> list[dict[str, Any]]:
    """End of speech to first token of SALMONN int4 on each device, in both modes. PREDICTED."""
    rows = []
    for size in SIZES:
        model = Model(name=size, sizes=official(size), cache_bytes=2.0)
        needs = model.memory_gb(N_CTX) + ASIDE_GB
        for device in devices:
            both: dict[End, Costs] = {
                end: costs(
                    model, device, efficiency, end=end, n_question=n_question, features=features
                )
                for end in ENDS
            }
            row: dict[str, Any] = {
                "PREDICTED": True,
                "model": size,
                "device": device.name,
                "needs_gb": round(needs, 1),
                "fits": needs <= device.memory_gb,
                "encode_5s_ms": [round(1e3 * both[e].encoding(5.1), 1) for e in ENDS],
                "question_ms": [round(1e3 * both[e].question, 1) for e in ENDS],
                "decode_tokens_per_s": [round(1 / both[e].step, 1) for e in ENDS],
            }
            for mode in (FAST, EXACT):
                pace = Pace.of(mode, rewritten=rewritten if mode is FAST else 0.0)
                for length in LENGTHS:
                    made = across(length, both, pace)
                    last = across(length, both, pace, "final_s")
                    name = f"{mode.name}_{length:g}s"
                    row[f"{name}_ms"] = _ms(made)
                    row[f"{name}_work_ms"] = _ms(last)
            rows.append(row)
    return rows


@click.command()
@click.option(
    "--live",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    default=[RESULTS / "live_7b.json"],
    show_default=True,
    help="Results of kokanee.benchmarks.live_fullsize to be held to; the first has the question.",
)
@click.option("--check/--no-check", default=True, help="Measure this machine and compare.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(live: tuple[Path, ...], check: bool, out: Path | None) -> None:
    """Predict; a table, then one JSON line."""
    lives = [json.loads(path.read_text("utf-8")) for path in live]
    taken = lives[0]
    result: dict[str, Any] = {
        "what": "PREDICTED by a roofline model, not measured: SALMONN int4_block128, encoders int8",
        "command": "python -m kokanee.benchmarks.roofline",
        "efficiency": dataclasses.asdict(GPU),
        "lengths_s": LENGTHS,
    }
    if check:
        result["check"] = _check(lives)
    result["predicted"] = predictions(
        read_devices(),
        n_question=taken["n_question"],
        rewritten=taken["windows_prefilled_again_by_a_hop"]["simulated"],
        features=taken["measured"]["median"]["features_ms_a_second"] / 1e3,
    )
    click.echo(
        "PREDICTED, never run: end of speech to first token, ms, best to worst; 532 of them are the"
        " silence\nthat ends a turn. Last pass: encode, prefill and question, of which that silence"
        " hides 300 ms."
    )
    ways = [(mode, length) for mode in ("fast", "exact") for length in LENGTHS]
    heads = [f"{mode} {length:g} s" for mode, length in ways] + ["last pass" for _ in ways]
    click.echo(f"{'':22}" + "".join(f"{h:>13}" for h in [*heads, "decode /s"]) + "  memory")
    for row in result["predicted"]:
        names = [
            f"{mode}_{length:g}s_{what}" for what in ("ms", "work_ms") for mode, length in ways
        ]
        cells = "".join(f"{_span(row[name]):>13}" for name in (*names, "decode_tokens_per_s"))
        fits = "" if row["fits"] else "  does not fit"
        click.echo(f"{row['model']:>4} {row['device']:<17}{cells}  {row['needs_gb']} GB{fits}")
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


def _check(lives: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is predicted for one model with the shares of the other, both ways, on this machine."""
    from kokanee.export.nano import build_nano

    device = this_machine()
    asked, full = (
        json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
        for name in ("ask_nano", "fullsize_7b_block128")
    )
    known = {
        "nano (ask, 5 s)": asked_stages(asked, build_nano()),
        "7b (ask, 30 s)": full_stages(full, lives[0]["n_question"]),
    }
    known |= {f"{live['size']} (live)": live_stages(live) for live in lives}
    click.echo(
        f"this machine, MEASURED: {device.bandwidth_gb_s:.1f} GB/s, {1e3 * device.tflops:.0f}"
        " GFLOPS in float32"
    )
    made: dict[str, Any] = {"device": dataclasses.asdict(device)}
    for other, of in itertools.permutations(known, 2):
        rows = checked(known[of], device, calibrated(known[other], device))
        errors = [abs(math.log(row["predicted_to_measured"])) for row in rows]
        click.echo(f"{of} predicted with the shares that {other} reached; predicted / measured:")
        for row in rows:
            click.echo(
                f"  {row['stage']:>16} {row['gflop']:9.1f} GFLOP {row['mb']:7.0f} MB  measured"
                f" {row['measured_ms']:8.1f} ms, {row['share_of_the_roof']:.2f} of the roof;"
                f"  ratio {row['predicted_to_measured']:.2f}"
            )
        made[f"{of} from {other}"] = {
            "stages": rows,
            "typical_factor": math.exp(statistics.median(errors)),
            "worst_factor": math.exp(max(errors)),
        }
        click.echo(
            f"  off by a factor of {math.exp(statistics.median(errors)):.2f} typically,"
            f" {math.exp(max(errors)):.2f} at worst"
        )
    return made


def _ms(seconds: Range) -> list[int]:
    return [round(1e3 * seconds.best), round(1e3 * seconds.worst)]


def _span(ends: Sequence[float]) -> str:
    return f"{ends[0]:g} to {ends[1]:g}" if ends[0] != ends[1] else f"{ends[0]:g}"


if __name__ == "__main__":
    main()
