"""What each graph of a model computes, operator by operator, and how long that takes on a machine.

The lists follow the builders in export/: one entry for what ONNX Runtime runs as one node (a bias
is added inside MatMulNBits, and after a float product by a node of its own). A stage takes the sum
of its operators, each as long as the machine's profile says at its rows and size; what a node that
moves nothing costs is that of the smallest addition.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kokanee.export.dims import (
    Architecture,
    BeatsDims,
    LlamaConfig,
    QFormerDims,
    WhisperDims,
)
from kokanee.quant.schemes import BLOCKWISE

from .profile import Profile
from .roofline import n_patches, n_windows

QUERY_BLOCK = 128  # export/audio_encoder.py, which would need onnx
GRID = 64  # engine/context.py: soft tokens are prefilled in chunks of so many
CHUNK = 256  # engine/decoder.py: anything else in chunks of so many


@dataclass(frozen=True, slots=True)
class Operation:
    """One operator of a graph, `times` over."""

    op: str  # as in the profile
    rows: float
    size: float = 1.0
    times: float = 1.0


Operations = list[Operation]


def seconds(operations: Sequence[Operation], profile: Profile) -> float:
    """One after the other."""
    return sum(o.times * profile.seconds(o.op, rows=o.rows, size=o.size) for o in operations)


def by_op(operations: Sequence[Operation], profile: Profile) -> dict[str, float]:
    """Seconds of each kind of operator."""
    made: defaultdict[str, float] = defaultdict(float)
    for o in operations:
        made[o.op] += o.times * profile.seconds(o.op, rows=o.rows, size=o.size)
    return dict(made)


def repeated(operations: Sequence[Operation], times: float) -> Operations:
    """The same so many times."""
    return [Operation(o.op, o.rows, o.size, times * o.times) for o in operations]


def nodes(n: float) -> Operation:
    """Nodes that only shape or look up."""
    return Operation("step add", 512, times=n)


def product(rows: float, d_in: int, d_out: int, packing: str, *, bias: bool = True) -> Operations:
    """A layer's matrix, [rows, d_in] -> [rows, d_out]."""
    if packing not in BLOCKWISE:  # halves become float32 when the graph opens
        made = [Operation("product f32", rows, d_in * d_out)]
        return [*made, Operation("add", rows * d_out)] if bias else made
    scheme = BLOCKWISE[packing]
    op = f"product {_measured(packing)}"
    made = [Operation(op, rows, d_in * d_out)]
    if scheme.offset:
        n_blocks = scheme.n_blocks(d_in)
        made += [
            nodes(1),
            Operation("step add", rows * d_in),  # the sums of blocks read all of x
            Operation("product f32", rows, n_blocks * d_out),
        ]
    return made


def _measured(packing: str) -> str:
    """The packing whose kernel is the same, among those that are measured."""
    scheme = BLOCKWISE[packing]
    block = 32 if scheme.block == 32 else 128
    zeros = "_zeros" if scheme.zeros and scheme.bits == 4 else ""
    return f"int{scheme.bits}{zeros}_block{block}"


# --- the four graphs ------------------------------------------------------------------------------


def speech_encoder(dims: WhisperDims, n_frames: int, packing: str) -> Operations:
    """Whisper's encoder over frames of 20 ms."""
    d, f, n, heads = dims.d_model, dims.encoder_ffn_dim, n_frames, dims.encoder_attention_heads
    layer = [
        Operation("norm", n * d, times=2),
        *product(n, d, 3 * d, packing),
        Operation("copy", 3 * n * d),
        Operation("attention", n, d // heads, heads),
        *product(n, d, d, packing),
        *_feed_forward(n, d, f, packing),
        Operation("add", n * d, times=2),
    ]
    return [
        Operation("convolution 1", 2 * n, d),
        Operation("convolution 2", n, d),
        Operation("gelu", 2 * n * d),
        Operation("gelu", n * d),
        Operation("add", n * d, times=2),  # the positions, and the transpose
        *repeated(layer, dims.encoder_layers),
        Operation("norm", n * d),
        nodes(8),
    ]


def _feed_forward(n: float, d: int, d_ffn: int, packing: str) -> Operations:
    return [
        *product(n, d, d_ffn, packing),
        Operation("gelu", n * d_ffn),
        *product(n, d_ffn, d, packing),
    ]


def audio_encoder(dims: BeatsDims, sound_s: float, packing: str) -> Operations:
    """BEATs over patches of 16 x 16: eight for every 160 ms."""
    n, d, e = n_patches(sound_s, dims), dims.encoder_embed_dim, dims.embed_dim
    if n == 0:
        return [nodes(10)]
    f, heads = dims.encoder_ffn_embed_dim, dims.encoder_attention_heads
    n_blocks = math.ceil(n / QUERY_BLOCK)
    size = math.ceil(n / n_blocks)
    scores = heads * size * n
    block = [  # of queries: their bias is cut out, gated and added
        Operation("copy", scores),
        Operation("add", scores),
        Operation("biased attention", n, d // heads, heads * size),
        nodes(2),
    ]
    gate = [  # eight numbers a query and head
        Operation("copy", n * d),
        *product(n * heads, d // heads, 8, "f32"),
        Operation("add", n * heads * 8, times=2),
        nodes(8),
    ]
    layer = [
        *product(n, d, 3 * d, packing),
        Operation("copy", 3 * n * d),
        *gate,
        *repeated(block, n_blocks),
        Operation("copy", n * d, times=2),  # blocks cut and joined
        nodes(10),
        *product(n, d, d, packing),
        *_feed_forward(n, d, f, packing),
        Operation("add", n * d, times=4),
        Operation("norm", n * d, times=2),
    ]
    return [
        Operation("convolution patches", n, e),
        Operation("norm", n * e),
        *(product(n, e, d, packing) if e != d else ()),
        Operation("convolution positions", n, d),
        Operation("gelu", n * d),
        Operation("norm", n * d),
        Operation("copy", n * d, times=3),
        Operation("copy", heads * size * 2 * n, times=2),  # the sheet of biases
        nodes(45),
        *repeated(layer, dims.encoder_layers),
    ]


def connector(dims: QFormerDims, n_windows: int, packing: str) -> Operations:
    """The window-level Q-Former and the projection."""
    h, q, w = dims.hidden_size, dims.n_queries, dims.window_frames
    d_context, d_ffn, heads = dims.d_speech + dims.d_audio, dims.intermediate_size, 1
    heads, rows = dims.num_attention_heads, n_windows * q

    def attend(n_context: int, d_context: int) -> Operations:
        rows_context = n_windows * n_context
        return [
            *product(rows, h, h, packing),
            *product(rows_context, d_context, 2 * h, packing),
            Operation("copy", rows_context * 2 * h),
            # So few keys that a head costs its numbers, not their products.
            Operation("gelu", n_windows * heads * (q * n_context + 4 * n_context)),
            nodes(1),
            *product(rows, h, h, packing),
            Operation("add", rows * h),
            Operation("norm", rows * h),
        ]

    layer = [
        *attend(q, h),
        *attend(w, d_context),
        *_feed_forward(rows, h, d_ffn, packing),
        Operation("add", rows * h),
        Operation("norm", rows * h),
    ]
    frames = n_windows * w
    return [
        Operation("norm", frames * dims.d_speech),
        Operation("norm", frames * dims.d_audio),
        Operation("copy", frames * d_context, times=3),
        nodes(25),
        *repeated(layer, dims.num_hidden_layers),
        *product(rows, h, dims.d_model, packing),
    ]


def llm(
    c: LlamaConfig, *, n_new: int, n_past: int, packing: str, head_packing: str, cache: str
) -> Operations:
    """New positions behind those in the cache, and the logits of the last one.

    Args:
        c: sizes.
        n_new: 1 to decode.
        n_past: positions in the cache.
        packing: of the layers.
        head_packing: of the head.
        cache: float32 or int8.
    """
    width, kv = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
    qkv = width + 2 * kv

    def layer(rows: int) -> Operations:
        """Behind the last attention only one row goes on."""
        lora = [
            Operation("product f32", n_new, c.d_model * 2 * c.lora_rank),
            Operation("product f32", n_new, 2 * c.lora_rank * qkv),
            nodes(1),
        ]
        return [
            *product(n_new, c.d_model, qkv, packing, bias=False),
            *(lora if c.lora_rank else ()),
            Operation(
                f"cached attention {cache} {64 if c.d_head <= 64 else 128}",
                n_new,
                n_past + n_new,
                c.n_heads * c.d_head / (64 if c.d_head <= 64 else 128),
            ),
            nodes(2 if packing not in BLOCKWISE or not BLOCKWISE[packing].offset else 6),
            *product(rows, width, c.d_model, packing, bias=False),
            Operation("step norm", rows * c.d_model, times=2),
            *product(rows, c.d_model, 2 * c.d_ffn, packing, bias=False),
            Operation("copy", rows * 2 * c.d_ffn),
            Operation("step silu", rows * c.d_ffn),
            Operation("step add", rows * c.d_ffn),
            *product(rows, c.d_ffn, c.d_model, packing, bias=False),
        ]

    return [
        *repeated(layer(n_new), c.n_layers - 1),
        *layer(1),
        *product(1, c.d_model, c.n_vocab, head_packing, bias=False),
        nodes(8),
    ]


# --- a model --------------------------------------------------------------------------------------


def encoding(a: Architecture, sound_s: float) -> dict[str, Operations]:
    """A stretch of sound that is encoded alone, by stage."""
    n = n_windows(sound_s, a.connector)
    n_frames = a.connector.window_frames + (n - 1) * a.connector.stride_frames
    return {
        "features": [Operation("features", max(sound_s, 0.1))],
        "speech_encoder": speech_encoder(a.speech_encoder, n_frames, a.encoder_packing),
        "audio_encoder": audio_encoder(a.audio_encoder, sound_s, a.encoder_packing),
        "connector": connector(a.connector, n, a.connector_packing),
    }


def prefill(a: Architecture, n_new: int, n_past: int, *, cache: str) -> Operations:
    """Positions into the cache in one run of the graph; one is a step of decoding."""
    return llm(
        a.llm,
        n_new=n_new,
        n_past=n_past,
        packing=a.llm_packing,
        head_packing=a.head_packing,
        cache=cache,
    )


def in_chunks(n: int, size: int, n_past: int = 0) -> Iterator[tuple[int, int]]:
    """(new, past) of the runs that n positions take."""
    for at in range(0, n, size):
        yield min(size, n - at), n_past + at
