"""The LLaMA decoder's graph: embeddings and past keys in, logits of the last position out.

    inputs_embeds [1, n_new, d_model]
      |
      +--> norm -> q|k|v (one matrix) --+--> attention, rotary, KV cache -> o -+   n_layers times
      |            A -> x scale -> B ---+                                      |
      +------------------------------ + <--------------------------------------+
      +--> norm -> gate|up (one matrix) -> silu(gate) * up -> down -+
      +------------------------------ + <---------------------------+
      |
      last position -> norm -> head -> logits [1, n_vocab]

Past and present keys have one shape, [1, n_kv_heads, n_ctx, d_head]: the caller binds one buffer to
both and the attention writes the new rows into it. Only the newest rows are read from
`inputs_embeds`; rows past `seqlens_k` are never read from the cache, so lowering it rewinds.
The adapter (LoRA on q and v) is computed in float32 beside the quantized matrix and never merged.
"""

from typing import Any

from .act_order import order_key
from .dims import LlamaConfig
from .graph import CONTRIB, Graph
from .layout import Source, key, zeros

NAME = "llm"
EMBEDDING = "model.embed_tokens.weight"
KV = ("key", "value")


def build_llm(
    config: LlamaConfig,
    *,
    packing: str,
    head_packing: str,
    compute: str = "float32",
    int8_cache: bool = False,
) -> Graph:
    """Build the topology.

    The weights are asked for by Hugging Face's names (`model.layers.0.self_attn.q_proj.weight`),
    the adapter's as `model.layers.0.self_attn.q_proj.lora_A.weight`.

    Args:
        config: sizes.
        packing: how the layers' matrices are stored.
        head_packing: how the head, and with a tied head the embedding table, is stored; the table
            is looked up from the same bytes, so it must then be 8-bit blocks (or f32 for tests).
        compute: as for `Graph`. The float16 graph has a float16 cache and no attention_bias: the
            CUDA operator takes none, so positions are counted from the cache's length.
        int8_cache: keys and values are kept as signed bytes, whose unit for every channel is an
            input (`key_scale.0`, `value_scale.0`, ...), for it is known only when prompts have
            been seen. For the CPU.
    """
    if int8_cache and compute != "float32":
        raise ValueError("int8_cache: expected the float32 graph, got compute='float16'")
    c, g = config, Graph(NAME, compute=compute, variant="kv8" if int8_cache else "")
    x = g.input("inputs_embeds", "float32", [1, "n_new", c.d_model])
    seqlens_k = g.input("seqlens_k", "int32", [1])
    total = g.input("total_sequence_length", "int32", [])
    branches: tuple[str, ...] = ()
    if compute == "float32":
        branches = (
            g.input("position_ids", "int64", [1, "n_new"]),
            g.input("attention_bias", "float32", [1, 1, "n_new", "n_total"]),
        )
    rows = g.input("logit_rows", "int64", ["n_logits"])
    scale = g.input("lora_scale", "float32", [])
    cache: list[int | str] = [1, c.n_kv_heads, "n_ctx", c.d_head]
    cached = "int8" if int8_cache else compute
    past = [
        [g.input(f"past_key_values.{i}.{kv}", cached, cache) for kv in KV]
        for i in range(c.n_layers)
    ]
    units = [
        [g.input(f"{kv}_scale.{i}", "float32", [c.n_kv_heads * c.d_head]) for kv in KV]
        for i in range(c.n_layers if int8_cache else 0)
    ]
    kind: dict[str, Any] = {}
    if int8_cache:
        kind = {f"{kv}_quant_type": "PER_CHANNEL" for kv in "kv"} | {"kv_cache_bit_width": 8}
    half = (c.n_positions, c.d_head // 2)
    cos = g.weight("rope.cos", Source("rope_cos", half, theta=c.rope_theta))
    sin = g.weight("rope.sin", Source("rope_sin", half, theta=c.rope_theta))
    presents: list[tuple[str, ...]] = []

    x = g.reshape(x, -1, c.d_model)  # rows [n_new, d_model]: Gemm adds in place on matrices only
    normed = g.rms_norm("model.layers.0.input_layernorm", x, c.d_model, epsilon=c.rms_epsilon)
    for i in range(c.n_layers):
        layer = f"model.layers.{i}"
        x_qkv = _in_order(g, c, layer, "qkv", normed, c.d_model)
        qkv = g.linear(f"{layer}.qkv", x_qkv, _qkv(c, layer), packing=packing)
        if c.lora_rank:
            qkv = _add_lora(g, c, layer, normed, scale, qkv)
        heads = g.reshape(qkv, 1, -1, (c.n_heads + 2 * c.n_kv_heads) * c.d_head)
        attended, *present = g.nodes(
            "GroupQueryAttention",
            *(heads, "", "", *past[i], seqlens_k, total, cos, sin, *branches),
            *(("", *units[i]) if int8_cache else ()),
            outputs=(f"{layer}.attended", f"{layer}.present.key", f"{layer}.present.value"),
            domain=CONTRIB,
            num_heads=c.n_heads,
            kv_num_heads=c.n_kv_heads,
            do_rotary=1,
            **kind,
        )
        presents.append(tuple(present))
        width = c.n_heads * c.d_head
        attended = g.reshape(attended, -1, width)
        if i == c.n_layers - 1:  # from here on, only the positions whose logits are read matter
            attended = g.node("Gather", attended, rows, axis=0)
            x = g.node("Gather", x, rows, axis=0)
        attended = _in_order(g, c, layer, "o", attended, width)
        o = key(f"{layer}.self_attn.o_proj.weight", c.d_model, width)
        x, normed = _add_norm(
            *(g, c, x, g.linear(f"{layer}.o", attended, o, packing=packing)),
            f"{layer}.post_attention_layernorm",
        )
        gate_up = [key(f"{layer}.mlp.{m}_proj.weight", c.d_ffn, c.d_model) for m in ("gate", "up")]
        gate, up = g.nodes(
            "Split",
            g.linear(
                f"{layer}.gate_up",
                _in_order(g, c, layer, "gate_up", normed, c.d_model),
                gate_up,
                packing=packing,
            ),
            outputs=(f"{layer}.gate", f"{layer}.up"),
            axis=-1,
            num_outputs=2,
        )
        # QuickGelu with alpha 1 is x * sigmoid(x): SiLU in one pass
        silu = g.node("QuickGelu", gate, domain=CONTRIB, name=f"{layer}.silu", alpha=1.0)
        product = g.node("Mul", silu, up, name=f"{layer}.product")
        product = _in_order(g, c, layer, "down", product, c.d_ffn)
        down = key(f"{layer}.mlp.down_proj.weight", c.d_model, c.d_ffn)
        x, normed = _add_norm(
            *(g, c, x, g.linear(f"{layer}.down", product, down, packing=packing)),
            "model.norm" if i == c.n_layers - 1 else f"model.layers.{i + 1}.input_layernorm",
        )

    head = key(EMBEDDING if c.tied_head else "lm_head.weight", c.n_vocab, c.d_model)
    logits = g.linear("head", normed, head, packing=head_packing)
    g.output(logits, "logits", "float32", ["n_logits", c.n_vocab])
    for i, pair in enumerate(presents):
        for kv, value in zip(KV, pair, strict=True):
            g.output(value, f"present.{i}.{kv}", cached, cache)
    return g


def _in_order(g: Graph, c: LlamaConfig, layer: str, group: str, x: str, width: int) -> str:
    """The channels of x as the columns of the matrix behind it are stored."""
    if not c.act_order:
        return x
    name = order_key(layer, group)
    order = g.packed(name, key(name, width), packing="i64").part("values").name
    return g.node("Gather", x, order, name=f"{layer}.{group}/ordered", axis=1)


def _qkv(c: LlamaConfig, layer: str) -> list[Source]:
    """q, k and v, to be stacked: d_model columns each."""
    rows = {"q": c.n_heads, "k": c.n_kv_heads, "v": c.n_kv_heads}
    return [
        key(f"{layer}.self_attn.{m}_proj.weight", n * c.d_head, c.d_model) for m, n in rows.items()
    ]


def _add_lora(g: Graph, c: LlamaConfig, layer: str, x: str, scale: str, qkv: str) -> str:
    """qkv + scale * B (A x), where B's rows for k are zeros.

    q and v share the two products: their A's are stacked, their B's lie along a diagonal.
    """
    attention = f"{layer}.self_attn"
    rank, n_q, n_kv = c.lora_rank, c.n_heads * c.d_head, c.n_kv_heads * c.d_head
    a = g.weight(
        f"{layer}.lora_A",
        *(key(f"{attention}.{m}_proj.lora_A.weight", rank, c.d_model) for m in "qv"),
        transforms=("concat 0", "transpose"),
    )
    b = g.weight(
        f"{layer}.lora_B",
        key(f"{attention}.q_proj.lora_B.weight", n_q, rank),
        zeros(n_kv, 0),
        key(f"{attention}.v_proj.lora_B.weight", n_kv, rank),
        transforms=("block_diag", "transpose"),
    )
    inner = g.node("Mul", g.node("MatMul", x, a), scale)  # on rank numbers, not on d_model
    return g.node("Gemm", inner, b, qkv, name=f"{layer}.qkv/lora")


def _add_norm(g: Graph, c: LlamaConfig, x: str, delta: str, norm: str) -> tuple[str, str]:
    """(x + delta, its RMSNorm), fused."""
    weight = g.weight(f"{norm}.weight", key(f"{norm}.weight", c.d_model))
    normed, _, _, total = g.nodes(
        "SkipSimplifiedLayerNormalization",
        *(x, delta, weight),
        outputs=(f"{norm}/out", f"{norm}/mean", f"{norm}/deviation", f"{norm}/sum"),
        domain=CONTRIB,
        epsilon=c.rms_epsilon,
    )
    return total, normed
