"""Prompts -> the unit of every channel of an int8 KV cache.

Keys and values of a channel stay within what prompts made of them, with some room; what goes beyond
is clipped by the operator. Keys need a unit for each channel: a few of them are many times larger
than the rest in every LLaMA.

Source: the observation in KIVI (arXiv 2402.02750), section 3; ONNX Runtime's GroupQueryAttention
with k_quant_type and v_quant_type PER_CHANNEL for the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kokanee.engine.decoder import F32, Decoder

from .prompts import Prompt

ROOM = 1.15  # of the largest magnitude seen
_LEAST = 1e-6


def kv_scales(decoder: Decoder, prompts: Sequence[Prompt]) -> dict[str, F32]:
    """Units by the names of the graph's inputs, each [n_kv_heads * d_head].

    Args:
        decoder: over the float cache; it is left empty.
        prompts: what usual prompts are like.
    """
    largest: dict[str, F32] = {}
    for prompt in prompts:
        decoder.cache.trim(0)
        decoder.prefill(prompt.embeds)
        n = decoder.cache.length
        for i, pair in enumerate(decoder.cache.layers):
            for kv, array in zip(("key", "value"), pair, strict=True):
                seen: F32 = np.abs(array[0, :, :n]).max(axis=1).reshape(-1)
                name = f"{kv}_scale.{i}"
                largest[name] = np.maximum(largest[name], seen) if name in largest else seen
    decoder.cache.trim(0)
    return {
        name: np.maximum(seen * np.float32(ROOM / 127), np.float32(_LEAST))
        for name, seen in largest.items()
    }
