"""The audio encoder's graph: BEATs at any length.

    fbank [1, n_fbank_frames, 128] -> patches -> + conv positions -> DeepNorm blocks -> audio

The relative positions are not baked in: buckets are looked up for the length that comes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .dims import BeatsDims
from .graph import CONTRIB, Graph
from .layout import key
from .speech_encoder import linear


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
    position_bias = _position_bias(g, x, dims)
    for i in range(dims.encoder_layers):
        x = _block(g, f"encoder.layers.{i}", x, position_bias, dims, n_heads, packing)
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


def _position_bias(g: Graph, x: str, dims: BeatsDims) -> str:
    """Bias of every (head, query, key): [1, n_heads, n, n], before the gate."""
    table = g.weight(
        "relative_attention_bias",
        key(
            "encoder.layers.0.self_attn.relative_attention_bias.weight",
            dims.num_buckets,
            dims.encoder_attention_heads,
        ),
    )
    far = dims.max_distance
    buckets = buckets_by_distance(num_buckets=dims.num_buckets, max_distance=far)
    # [n_heads, 2 far + 1] first: the [n, n] look-up then reads few cache lines and needs no
    # transpose of its result, which at 30 s would be 50 MB for nano and 100 MB for BEATs.
    by_distance = g.transpose(g.node("Gather", table, g.const(buckets)), 1, 0)
    n = g.node("Squeeze", g.node("Shape", x, start=1, end=2))
    position = g.node("Range", g.const(0), n, g.const(1))
    distance = g.node(
        "Sub",
        g.node("Unsqueeze", position, g.const([0])),
        g.node("Unsqueeze", position, g.const([1])),
    )
    near = g.node("Clip", distance, g.const(-far), g.const(far))
    index = g.node("Add", near, g.const(far))
    return g.node("Unsqueeze", g.node("Gather", by_distance, index, axis=1), g.const([0]))


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
    g: Graph, at: str, x: str, position_bias: str, dims: BeatsDims, n_heads: int, packing: str
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
    bias = g.node("Mul", _gate(g, attn, q, d // n_heads, n_heads), position_bias)
    h = g.node("MultiHeadAttention", q, k, v, "", "", bias, domain=CONTRIB, num_heads=n_heads)
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
