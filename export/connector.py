"""The connector's graph: both encoders' outputs to soft tokens.

speech -> ln_speech --+-- zero-pad the shorter, concat --> windows --> Q-Former --> projection
audio --> ln_audio ---+   [1, n_frames, d_speech + d_audio]  [n_windows, 17, ..]   soft_tokens
"""

from __future__ import annotations

import math

from .dims import QFormerDims
from .graph import CONTRIB, Graph
from .layout import key
from .speech_encoder import linear

EPSILON = 1e-12  # of the Q-Former's LayerNorms, as BERT's


def connector(dims: QFormerDims, *, packing: str = "f32", compute: str = "float32") -> Graph:
    """Build the topology; `packing` is for every matrix, `compute` as for `Graph`."""
    d_speech, d_audio, hidden = dims.d_speech, dims.d_audio, dims.hidden_size
    g = Graph("connector", compute=compute)
    speech = g.input("speech", "float32", [1, "n_speech", d_speech])
    audio = g.input("audio", "float32", [1, "n_audio", d_audio])
    frames = _fuse(
        g, g.layer_norm("ln_speech", speech, d_speech), g.layer_norm("ln_audio", audio, d_audio)
    )
    g.output(frames, "concat", "float32", [1, "n_frames", d_speech + d_audio])
    windows = _windows(g, frames, dims)
    n_windows = g.node("Shape", windows, start=0, end=1)

    bert = "speech_Qformer.bert"
    queries = g.weight("speech_query_tokens", key("speech_query_tokens", 1, dims.n_queries, hidden))
    x = g.layer_norm(f"{bert}.embeddings.LayerNorm", queries, hidden, epsilon=EPSILON)
    shape = g.node("Concat", n_windows, g.const([dims.n_queries, hidden]), axis=0)
    x = g.node("Expand", x, shape)
    for i in range(dims.num_hidden_layers):
        x = _layer(g, f"{bert}.encoder.layer.{i}", x, windows, dims, packing)
    g.output(x, "qformer_out", "float32", ["n_windows", dims.n_queries, hidden])
    soft = linear(g, "speech_llama_proj", x, hidden, dims.d_model, packing)
    soft = g.reshape(soft, 1, -1, dims.d_model)
    g.output(soft, "soft_tokens", "float32", [1, "n_soft_tokens", dims.d_model])
    return g


def _fuse(g: Graph, speech: str, audio: str) -> str:
    """Pad whichever is shorter with exact zeros, after its LayerNorm, and lay them side by side."""
    n_speech, n_audio = (g.node("Shape", x, start=1, end=2) for x in (speech, audio))
    n = g.node("Max", n_speech, n_audio)

    def padded(x: str, n_x: str) -> str:
        pads = g.node("Concat", g.const([0]), g.node("Sub", n, n_x), axis=0)
        return g.node("Pad", x, pads, "", g.const([1]))

    return g.node("Concat", padded(speech, n_speech), padded(audio, n_audio), axis=2)


def _windows(g: Graph, frames: str, dims: QFormerDims) -> str:
    """[1, n_frames, d] -> [n_windows, window_frames, d]; what does not fill a window is dropped."""
    size, stride, d = dims.window_frames, dims.stride_frames, dims.d_speech + dims.d_audio
    n = g.node("Shape", frames, start=1, end=2)
    whole = g.node("Div", g.node("Sub", n, g.const([size - stride])), g.const([stride]))
    if size == stride:
        end = g.node("Mul", whole, g.const([size]))
        used = g.node("Slice", frames, g.const([0]), end, g.const([1]))
        return g.reshape(used, -1, size, d)
    first = g.node(
        "Mul",
        g.node("Range", g.const(0), g.node("Squeeze", whole), g.const(1)),
        g.const(stride),
    )
    index = g.node("Add", g.node("Unsqueeze", first, g.const([1])), g.const([list(range(size))]))
    return g.node("Gather", g.node("Squeeze", frames, g.const([0])), index)


def _layer(g: Graph, at: str, x: str, windows: str, dims: QFormerDims, packing: str) -> str:
    """Self-attention, cross-attention, feed-forward; each followed by its LayerNorm."""
    hidden, d_context = dims.hidden_size, dims.d_speech + dims.d_audio
    for name, context, d in (("attention", x, hidden), ("crossattention", windows, d_context)):
        attn = f"{at}.{name}"
        q = linear(g, f"{attn}.self.query", x, hidden, hidden, packing)
        kv = g.linear(
            f"{attn}.self.kv",
            context,
            [key(f"{attn}.self.{p}.weight", hidden, d) for p in ("key", "value")],
            [key(f"{attn}.self.{p}.bias", hidden) for p in ("key", "value")],
            packing=packing,
        )
        k, v = g.nodes("Split", kv, outputs=("", ""), axis=2, num_outputs=2)
        h = g.node(
            "MultiHeadAttention",
            q,
            k,
            v,
            domain=CONTRIB,
            num_heads=dims.num_attention_heads,
            scale=1 / math.sqrt(hidden // dims.num_attention_heads),
        )
        h = linear(g, f"{attn}.output.dense", h, hidden, hidden, packing)
        x = g.layer_norm(f"{attn}.output.LayerNorm", g.node("Add", h, x), hidden, epsilon=EPSILON)
    d_ffn = dims.intermediate_size
    h = g.gelu(linear(g, f"{at}.intermediate_query.dense", x, hidden, d_ffn, packing))
    h = linear(g, f"{at}.output_query.dense", h, d_ffn, hidden, packing)
    return g.layer_norm(
        f"{at}.output_query.LayerNorm", g.node("Add", h, x), hidden, epsilon=EPSILON
    )
