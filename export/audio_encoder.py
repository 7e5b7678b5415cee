"""The audio encoder's graph: BEATs at any length.

    fbank [1, n_fbank_frames, 128] -> patches -> + conv positions -> DeepNorm blocks -> audio

The relative positions are not baked in: buckets are looked up for the length that comes. On the CPU
the queries go through attention in blocks, so that nothing is as large as [n_heads, n, n].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .dims import BeatsDims
from .graph import CONTRIB, Graph
from .layout import key
from .speech_encoder import linear

Attend = Callable[[str, str, str, str], str]  # q, k, v [1, n, d] and the gate -> [1, n, d]

# Queries that attend at once on a CPU. At 30 s BEATs' scores are then 9 MB instead of 107 MB: they
# stay in the cache, and malloc reuses them instead of having the system clear new pages.
QUERY_BLOCK = 128


def audio_encoder(dims: BeatsDims, *, packing: str = "f32", compute: str = "float32") -> Graph:
    """Build the topology.

    Args:
        dims: of the checkpoint's `cfg`.
        packing: how the attention and feed-forward matrices are stored; the rest is f16 unless
            this is f32.
        compute: as for `Graph`.
    """
    d, n_heads, p = dims.encoder_embed_dim, dims.encoder_attention_heads, dims.input_patch_size
    plain = "f32" if packing == "f32" else "f16"
    g = Graph("audio_encoder", compute=compute)
    fbank = g.input("fbank", "float32", [1, "n_fbank_frames", dims.n_mels])
    patches = g.weight(
        "patch_embedding.weight",
        key("patch_embedding.weight", dims.embed_dim, 1, p, p),
        packing=plain,
    )
    x = g.node("Conv", g.node("Unsqueeze", fbank, g.const([1])), patches, strides=[p, p])
    # [1, embed_dim, n_frames // 16, 8] -> time-major, frequency-minor tokens.
    x = g.transpose(g.reshape(x, 0, dims.embed_dim, -1), 0, 2, 1)
    x = g.layer_norm("layer_norm", x, dims.embed_dim)
    if dims.embed_dim != d:
        x = linear(g, "post_extract_proj", x, dims.embed_dim, d, packing)
    x = g.node("Add", x, _conv_positions(g, x, dims, plain))
    x = g.layer_norm("encoder.layer_norm", x, d)
    attend = (_attend_in_blocks if compute == "float32" else _attend_at_once)(g, x, dims)
    for i in range(dims.encoder_layers):
        x = _block(g, f"encoder.layers.{i}", x, attend, dims, n_heads, packing)
    g.output(x, "audio", "float32", [1, "n_patches", d])
    return g


def _conv_positions(g: Graph, x: str, dims: BeatsDims, packing: str) -> str:
    """Grouped convolution over time; its weight norm is folded when the weights are filled in."""
    d, taps, at = dims.encoder_embed_dim, dims.conv_pos, "encoder.pos_conv.0"
    weight = g.weight(
        f"{at}.weight",
        key(f"{at}.weight_g", 1, 1, taps),
        key(f"{at}.weight_v", d, d // dims.conv_pos_groups, taps),
        transforms=["weight_norm 2"],
        packing=packing,
    )
    bias = g.weight(f"{at}.bias", key(f"{at}.bias", d))
    # The reference pads both sides by taps / 2 and drops the step too many of an even kernel.
    pads = [taps // 2, taps // 2 - (1 - taps % 2)]
    y = g.node("Conv", g.transpose(x, 0, 2, 1), weight, bias, pads=pads, group=dims.conv_pos_groups)
    return g.transpose(g.gelu(y), 0, 2, 1)


def _attend_at_once(g: Graph, x: str, dims: BeatsDims) -> Attend:
    """Attention with one position bias [1, n_heads, n, n] for all layers: for CUDA."""
    by_distance = _bias_by_distance(g, dims)
    n = g.node("Squeeze", g.node("Shape", x, start=1, end=2))
    position = g.node("Range", g.const(0), n, g.const(1))
    distance = g.node(
        "Sub",
        g.node("Unsqueeze", position, g.const([0])),
        g.node("Unsqueeze", position, g.const([1])),
    )
    far = dims.max_distance
    near = g.node("Clip", distance, g.const(-far), g.const(far))
    index = g.node("Add", near, g.const(far))
    position_bias = g.node("Unsqueeze", g.node("Gather", by_distance, index, axis=1), g.const([0]))

    def attend(q: str, k: str, v: str, gate: str) -> str:
        return _attention(g, q, k, v, g.node("Mul", gate, position_bias), dims)

    return attend


def _attend_in_blocks(g: Graph, x: str, dims: BeatsDims) -> Attend:
    """Attention of equal blocks of queries, one after another, the last one padded: for the CPU.

    The bias depends on key - query alone, so one sheet [1, n_heads, size, 2 n_padded - 1] holds it
    for all blocks and all layers, each row a step to the right of the row above. A block's bias is
    n neighbouring columns, the further left the later its queries:

        row 0  [ ... -1  0  1  2  3 ... ]     distance key - query; the first block's
        row 1  [ ... -2 -1  0  1  2 ... ]     columns start at row 0's zero
    """
    n_heads, d, far = dims.encoder_attention_heads, dims.encoder_embed_dim, dims.max_distance
    one, two = g.const([1]), g.const([2])
    n = g.node("Shape", x, start=1, end=2)
    n_blocks = _ceil_div(g, n, g.const([QUERY_BLOCK]))
    size = _ceil_div(g, n, n_blocks)
    n_padded = g.node("Mul", n_blocks, size)

    # Row r of the sheet is the bias at distances 1 - n_padded - r and up. The same 2 n_padded
    # numbers again and again, read with rows one shorter than that, move on by one in every row;
    # the columns that wrap around lie left of every block. Copying rows, where looking up every
    # (query, key) took as long as two layers.
    width = g.node("Mul", n_padded, two)
    end = g.node("Squeeze", n_padded)
    distance = g.node(
        "Range", g.node("Sub", g.const(1), end), g.node("Add", end, g.const(1)), g.const(1)
    )
    near = g.node("Clip", distance, g.const(-far), g.const(far))
    row = g.node("Gather", _bias_by_distance(g, dims), g.node("Add", near, g.const(far)), axis=1)
    rows = g.node("Concat", g.const([n_heads]), size, width, axis=0)
    repeated = g.reshape(g.node("Expand", g.node("Unsqueeze", row, one), rows), n_heads, -1)
    shorter = g.node("Sub", width, one)
    used = g.node("Slice", repeated, g.const([0]), g.node("Mul", size, shorter), one)
    sheet = g.node("Reshape", used, g.node("Concat", g.const([1, n_heads]), size, shorter, axis=0))

    left = g.node("Range", g.node("Squeeze", n_blocks), g.const(0), g.const(-1))
    starts = g.node("Sub", g.node("Mul", left, size), one)
    starts = g.node("Unsqueeze", starts, one)  # [n_blocks, 1]
    ends = g.node("Add", starts, n)
    pads = g.node("Concat", g.const([0]), g.node("Sub", n_padded, n), axis=0)
    q_blocks = g.node("Concat", n_blocks, one, size, g.const([d]), axis=0)
    gate_blocks = g.node("Concat", g.const([1, n_heads]), n_blocks, size, one, axis=0)

    def attend(q: str, k: str, v: str, gate: str) -> str:
        def block(q: str, gate: str, start: str, end: str) -> str:
            bias = g.node("Slice", sheet, start, end, g.const([3]))
            return _attention(g, q, k, v, g.node("Mul", gate, bias), dims)

        blocks = g.scan(
            block,
            (g.node("Reshape", g.node("Pad", q, pads, "", one), q_blocks), "float32", 0),
            (g.node("Reshape", g.node("Pad", gate, pads, "", two), gate_blocks), "float32", 2),
            (starts, "int64", 0),
            (ends, "int64", 0),
            dtype="float32",
        )  # [n_blocks, 1, size, d]
        return g.node("Slice", g.reshape(blocks, 1, -1, d), g.const([0]), n, one)

    return attend


def _ceil_div(g: Graph, a: str, b: str) -> str:
    return g.node("Div", g.node("Add", a, g.node("Sub", b, g.const([1]))), b)


def _attention(g: Graph, q: str, k: str, v: str, bias: str, dims: BeatsDims) -> str:
    """[1, n, d], all heads; the bias is [1, n_heads, n_queries, n_keys]."""
    n_heads = dims.encoder_attention_heads
    return g.node("MultiHeadAttention", q, k, v, "", "", bias, domain=CONTRIB, num_heads=n_heads)


def _bias_by_distance(g: Graph, dims: BeatsDims) -> str:
    """Bias of every head at each distance key - query, clipped: [n_heads, 2 max_distance + 1]."""
    table = g.weight(
        "relative_attention_bias",
        key(
            "encoder.layers.0.self_attn.relative_attention_bias.weight",
            dims.num_buckets,
            dims.encoder_attention_heads,
        ),
    )
    buckets = buckets_by_distance(num_buckets=dims.num_buckets, max_distance=dims.max_distance)
    # Heads first: what is looked up for a length then needs no transpose of its own.
    return g.transpose(g.node("Gather", table, g.const(buckets)), 1, 0)


def buckets_by_distance(*, num_buckets: int, max_distance: int) -> npt.NDArray[np.int64]:
    """Bucket of each signed distance key - query from -max_distance to max_distance.

    Beyond max_distance every bucket is the last of its side, so clipping the distance is exact.

    Source: BEATs backbone.py, _relative_positions_bucket (after T5); the logarithm in float32.
    """
    distance = np.arange(-max_distance, max_distance + 1)
    half = num_buckets // 2
    exact = half // 2
    ratio = np.log(np.maximum(np.abs(distance), 1).astype(np.float32) / np.float32(exact))
    scaled = ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + scaled.astype(np.int64), half - 1)
    return np.where(distance > 0, half, 0) + np.where(
        np.abs(distance) < exact, np.abs(distance), far
    )


def _block(
    g: Graph, at: str, x: str, attend: Attend, dims: BeatsDims, n_heads: int, packing: str
) -> str:
    """One post-LN block with DeepNorm residuals."""
    d, attn = dims.encoder_embed_dim, f"{at}.self_attn"
    alpha = g.const((2 * dims.encoder_layers) ** 0.25, np.float32)
    qkv = g.linear(
        f"{attn}.qkv",
        x,
        [key(f"{attn}.{p}_proj.weight", d, d) for p in "qkv"],
        [key(f"{attn}.{p}_proj.bias", d) for p in "qkv"],
        packing=packing,
    )
    q, k, v = g.nodes("Split", qkv, outputs=("", "", ""), axis=2, num_outputs=3)
    h = attend(q, k, v, _gate(g, attn, q, d // n_heads, n_heads))
    h = linear(g, f"{attn}.out_proj", h, d, d, packing)
    h = g.node("Add", g.node("Mul", x, alpha), h)
    x = g.layer_norm(f"{attn}_layer_norm", h, d)
    h = g.gelu(linear(g, f"{at}.fc1", x, d, dims.encoder_ffn_embed_dim, packing))
    h = linear(g, f"{at}.fc2", h, dims.encoder_ffn_embed_dim, d, packing)
    return g.layer_norm(f"{at}.final_layer_norm", g.node("Add", g.node("Mul", x, alpha), h), d)


def _gate(g: Graph, attn: str, q: str, d_head: int, n_heads: int) -> str:
    """How strongly a query takes the position bias: [1, n_heads, n, 1], from q before scaling."""
    r = g.transpose(g.reshape(q, 0, 0, n_heads, d_head), 0, 2, 1, 3)
    # Eight numbers a query are too few to quantize.
    weight, bias = key(f"{attn}.grep_linear.weight", 8, d_head), key(f"{attn}.grep_linear.bias", 8)
    gates = g.reshape(g.linear(f"{attn}.grep_linear", r, weight, bias), 0, 0, 0, 2, 4)
    gates = g.node("Sigmoid", g.node("ReduceSum", gates, g.const([-1]), keepdims=0))
    a, b = g.nodes("Split", gates, outputs=("", ""), axis=3, num_outputs=2)
    grep_a = g.weight(f"{attn}.grep_a", key(f"{attn}.grep_a", 1, n_heads, 1, 1))
    inner = g.node("Sub", g.node("Mul", b, grep_a), g.const(1, np.float32))
    return g.node("Add", g.node("Mul", a, inner), g.const(2, np.float32))
