"""The speech encoder's graph: Whisper's encoder at any length up to its position table.

log_mel [1, n_mels, n_mel_frames] -> conv, conv/2 -> + positions -> blocks -> LayerNorm -> speech
"""

from __future__ import annotations

from .dims import WhisperDims
from .graph import CONTRIB, Graph
from .layout import key, zeros

PREFIX = "model.encoder."  # of every key, as in a Hugging Face checkpoint


def speech_encoder(dims: WhisperDims, *, packing: str = "f32", compute: str = "float32") -> Graph:
    """Build the topology.

    Args:
        dims: of the checkpoint.
        packing: how the attention and feed-forward matrices are stored. Convolutions and the
            position table are stored as f16 unless this is f32: ONNX Runtime has no block-quantized
            convolution, and the official weights are halves anyway.
        compute: as for `Graph`.
    """
    d, d_ffn = dims.d_model, dims.encoder_ffn_dim
    plain = "f32" if packing == "f32" else "f16"
    g = Graph("speech_encoder", compute=compute)
    x = g.input("log_mel", "float32", [1, dims.num_mel_bins, "n_mel_frames"])
    for name, d_in, stride in (("conv1", dims.num_mel_bins, 1), ("conv2", d, 2)):
        weight = g.weight(
            f"{name}.weight", key(f"{PREFIX}{name}.weight", d, d_in, 3), packing=plain
        )
        bias = g.weight(f"{name}.bias", key(f"{PREFIX}{name}.bias", d))
        x = g.gelu(g.node("Conv", x, weight, bias, name=name, pads=[1, 1], strides=[stride]))
    x = g.transpose(x, 0, 2, 1)  # [1, n_frames, d]
    table = g.weight(
        "positions",
        key(f"{PREFIX}embed_positions.weight", dims.max_source_positions, d),
        packing=plain,
    )
    n_frames = g.node("Shape", x, start=1, end=2)
    x = g.node("Add", x, g.node("Slice", table, g.const([0]), n_frames, g.const([0])))
    for i in range(dims.encoder_layers):
        x = _block(g, f"{PREFIX}layers.{i}", x, d, d_ffn, dims.encoder_attention_heads, packing)
    x = g.layer_norm(f"{PREFIX}layer_norm", x, d)
    g.output(x, "speech", "float32", [1, "n_frames", d])
    return g


def _block(g: Graph, at: str, x: str, d: int, d_ffn: int, n_heads: int, packing: str) -> str:
    """One pre-LN block; query, key and value are one product."""
    attn = f"{at}.self_attn"
    h = g.layer_norm(f"{attn}_layer_norm", x, d)
    qkv = g.linear(
        f"{attn}.qkv",
        h,
        [key(f"{attn}.{p}_proj.weight", d, d) for p in "qkv"],
        [key(f"{attn}.q_proj.bias", d), zeros(d), key(f"{attn}.v_proj.bias", d)],
        packing=packing,
    )
    q, k, v = g.nodes("Split", qkv, outputs=("", "", ""), axis=2, num_outputs=3)
    h = g.node("MultiHeadAttention", q, k, v, domain=CONTRIB, num_heads=n_heads)
    h = linear(g, f"{attn}.out_proj", h, d, d, packing)
    x = g.node("Add", x, h)
    h = g.layer_norm(f"{at}.final_layer_norm", x, d)
    h = g.gelu(linear(g, f"{at}.fc1", h, d, d_ffn, packing))
    return g.node("Add", x, linear(g, f"{at}.fc2", h, d_ffn, d, packing))


def linear(g: Graph, at: str, x: str, d_in: int, d_out: int, packing: str) -> str:
    """A layer whose weight and bias are called as its place in the checkpoint."""
    weight, bias = key(f"{at}.weight", d_out, d_in), key(f"{at}.bias", d_out)
    return g.linear(at, x, weight, bias, packing=packing)
