"""Embeddings to logits: one pass over many positions, or one position at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .embedding import Embedding
from .kv_cache import KVCache
from .manifest import Dims
from .onnx import Binding

F32 = npt.NDArray[np.float32]

# Positions in one pass of a prefill: bounds its working memory. Speed is flat from about 32 on.
CHUNK = 256


class Decoder:
    """The LLM with a KV cache of its own. The graph may be shared; a decoder is one thread's.

        inputs_embeds --+                    +--> logits       a buffer that every call reuses
        seqlens_k ------+--> graph (bound) --+
        cache ----------+                    +--> cache        the same arrays: nothing is copied

    Nothing is allocated by a step but the token's embedding.
    """

    def __init__(
        self, graph: Any, embedding: Embedding, dims: Dims, *, n_ctx: int, lora_scale: float
    ) -> None:
        """Allocate the cache and bind it.

        Args:
            graph: the open LLM graph.
            embedding: the token embeddings.
            dims: of the bundle.
            n_ctx: positions of the cache.
            lora_scale: what the adapter's output is multiplied by.
        """
        self.cache = KVCache(
            n_layers=dims.n_layers, n_kv_heads=dims.n_kv_heads, n_ctx=n_ctx, d_head=dims.d_head
        )
        self._embedding = embedding
        self._d_model = dims.d_model
        self._token = np.zeros((1, 1, dims.d_model), np.float32)
        self._last = np.zeros(1, np.int32)  # seqlens_k: index of the last position
        self._total = np.zeros((), np.int32)
        self._logits: F32 = np.zeros(dims.n_vocab, np.float32)
        self._binding: Binding | None = Binding(graph)
        self._binding.input("seqlens_k", self._last)
        self._binding.input("total_sequence_length", self._total)
        self._binding.input("lora_scale", np.asarray(lora_scale, np.float32))
        self._binding.output("logits", self._logits[None])
        for i, pair in enumerate(self.cache.layers):
            for kv, array in zip(("key", "value"), pair, strict=True):
                self._binding.input(f"past_key_values.{i}.{kv}", array)
                self._binding.output(f"present.{i}.{kv}", array)

    def embed(self, ids: Sequence[int]) -> F32:
        """Embeddings of tokens, [n_ids, d_model]."""
        return self._embedding.rows(ids)

    def prefill(self, embeds: F32) -> F32:
        """Append positions [n_new, d_model] to the cache.

        Returns:
            Logits [n_vocab] of the last one: a view that the next call overwrites.

        Raises:
            ContextFull: they do not fit; the cache stays as it was.
            ValueError: no positions, or of another width.
        """
        if embeds.ndim != 2 or embeds.shape[1] != self._d_model or not len(embeds):
            raise ValueError(f"embeds: expected shape (n_new, {self._d_model}), got {embeds.shape}")
        self.cache.check_room(len(embeds))
        for start in range(0, len(embeds), CHUNK):
            chunk = np.ascontiguousarray(embeds[None, start : start + CHUNK], np.float32)
            self._append(chunk)
        return self._logits

    def step(self, token: int) -> F32:
        """Append one token.

        Returns:
            Logits [n_vocab]: a view that the next call overwrites.

        Raises:
            ContextFull: the cache is full.
        """
        self._token[0] = self._embedding.rows((token,))
        self._append(self._token)
        return self._logits

    def close(self) -> None:
        """Let the cache go; any later use is an error."""
        self._binding = None
        self.cache.layers.clear()

    def _append(self, embeds: F32) -> None:
        """Run the graph over [1, n_new, d_model] behind what the cache holds."""
        if self._binding is None:
            raise ValueError("this decoder was closed")
        n_new = embeds.shape[1]
        self.cache.check_room(n_new)
        self._last[0] = self.cache.length + n_new - 1
        self._total[...] = self.cache.length + n_new
        self._binding.input("inputs_embeds", embeds)
        self._binding.run()
        self.cache.append(n_new)
