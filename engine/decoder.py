"""Embeddings to logits: one pass over many positions, or one position at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .embedding import Embedding
from .errors import DeviceError
from .kv_cache import KVCache, untouched_zeros
from .manifest import Dims
from .onnx import Binding, cuda_array

F32 = npt.NDArray[np.float32]

# Positions in one pass of a prefill: bounds its working memory. Speed is flat from about 32 on.
CHUNK = 256


class Decoder:
    """The LLM with a KV cache of its own. The graph may be shared; a decoder is one thread's.

        inputs_embeds --+                    +--> logits       a buffer that the next call reuses
        seqlens_k ------+--> graph (bound) --+
        cache ----------+                    +--> cache        the same arrays: nothing is copied

    Nothing is allocated by a step but the token's embedding.
    """

    def __init__(
        self,
        graph: Any,
        embedding: Embedding,
        dims: Dims,
        *,
        n_ctx: int,
        lora_scale: float,
        on_cuda: bool = False,
        kv_scales: Mapping[str, F32] | None = None,
    ) -> None:
        """Allocate the cache and bind it.

        Args:
            graph: the open LLM graph.
            embedding: the token embeddings.
            dims: of the bundle.
            n_ctx: positions of the cache.
            lora_scale: what the adapter's output is multiplied by.
            on_cuda: keep the cache in the GPU's memory, where the graph runs.
            kv_scales: unit of every channel of an int8 cache, by the graph's input names.
        """
        binding = Binding(graph)
        self.cache = KVCache(
            n_layers=dims.n_layers,
            n_kv_heads=dims.n_kv_heads,
            n_ctx=n_ctx,
            d_head=dims.d_head,
            dtype=binding.inputs["past_key_values.0.key"],
            allocate=cuda_array if on_cuda else untouched_zeros,
        )
        # The float16 graph does without: CUDA's attention operator takes no bias.
        self.has_branches = "attention_bias" in binding.inputs
        """Whether `branch` can be called: the graph for CUDA has no such input."""
        self._embedding = embedding
        self._d_model = dims.d_model
        self._last = np.zeros(1, np.int32)  # seqlens_k: index of the last position
        self._total = np.zeros((), np.int32)
        self._lora_scale = np.asarray(lora_scale, np.float32)
        # Views of these are bound: a position is its index in the cache, and nothing is hidden.
        self._positions = np.arange(n_ctx, dtype=np.int64)
        self._nothing_hidden = np.zeros(min(CHUNK, n_ctx) * n_ctx, np.float32)
        self._logits: F32 = np.zeros((0, dims.n_vocab), np.float32)
        self._binding: Binding | None = binding
        binding.input("seqlens_k", self._last)
        binding.input("total_sequence_length", self._total)
        binding.input("lora_scale", self._lora_scale)
        self._ask_for(1)
        for name, scales in (kv_scales or {}).items():
            binding.input(name, scales)
        for i, pair in enumerate(self.cache.layers):
            for kv, array in zip(("key", "value"), pair, strict=True):
                binding.input(f"past_key_values.{i}.{kv}", array)
                binding.output(f"present.{i}.{kv}", array)

    @property
    def lora_scale(self) -> float:
        """What the adapter's output is multiplied by; what is in the cache keeps its own."""
        return float(self._lora_scale)

    @lora_scale.setter
    def lora_scale(self, scale: float) -> None:
        self._lora_scale[...] = scale

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
        self._check(embeds)
        self._ask_for(1)
        for start in range(0, len(embeds), CHUNK):
            self._append(embeds[start : start + CHUNK])
        last: F32 = self._logits[0]
        return last

    def all_logits(self, embeds: F32) -> F32:
        """`prefill` that returns the logits of every new position, [n_new, n_vocab]."""
        self._check(embeds)
        made = []
        for start in range(0, len(embeds), CHUNK):
            chunk = embeds[start : start + CHUNK]
            self._ask_for(len(chunk))
            self._append(chunk)
            made.append(self._logits.copy())
        return np.concatenate(made)

    def step(self, token: int) -> F32:
        """Append one token.

        Returns:
            Logits [n_vocab]: a view that the next call overwrites.

        Raises:
            ContextFull: the cache is full.
        """
        self._ask_for(1)
        self._append(self._embedding.rows((token,)))
        last: F32 = self._logits[0]
        return last

    def branch(self, tokens: Sequence[int], *, position: int, hidden: F32) -> F32:
        """Append tokens that all stand at one position of the text, as branches of a tree do.

        Args:
            tokens: one a branch.
            position: what the rotary embedding takes for the place of each.
            hidden: [n_tokens, length + n_tokens], added to each token's attention scores: 0 for
                cache positions that are its own past or itself, -inf for other branches'.

        Returns:
            Logits [n_tokens, n_vocab]: a buffer that the next call overwrites.

        Raises:
            ContextFull: they do not fit.
            DeviceError: the graph is the one for CUDA.
        """
        if not self.has_branches:
            raise DeviceError("beam search runs on the CPU only for now: choose --device cpu")
        self._ask_for(len(tokens))
        at = np.full((1, len(tokens)), position, np.int64)
        self._append(self._embedding.rows(tokens), position_ids=at, hidden=hidden)
        return self._logits

    def release(self) -> None:
        """Let go of what is mapped of the embedding; it comes back when it is wanted."""
        self._embedding.release()

    def interrupt(self) -> None:
        """Have the step or prefill in flight raise Interrupted, and later ones too until `resume`.

        From any thread; takes a millisecond. The cache then holds what it held before the chunk.
        """
        if (binding := self._binding) is not None:
            binding.runs.interrupt()

    def resume(self) -> None:
        """Compute again after `interrupt`."""
        if (binding := self._binding) is not None:
            binding.runs.resume()

    def close(self) -> None:
        """Let the cache go; any later use is an error."""
        self._binding = None
        self.cache.layers.clear()

    def _check(self, embeds: F32) -> None:
        if embeds.ndim != 2 or embeds.shape[1] != self._d_model or not len(embeds):
            raise ValueError(f"embeds: expected shape (n_new, {self._d_model}), got {embeds.shape}")
        self.cache.check_room(len(embeds))

    def _open(self) -> Binding:
        if self._binding is None:
            raise ValueError("this decoder was closed")
        return self._binding

    def _ask_for(self, n_logits: int) -> None:
        """Have the logits of the last n positions computed by every run from now on."""
        if len(self._logits) != n_logits:
            self._logits = np.zeros((n_logits, self._logits.shape[1]), np.float32)
            binding = self._open()
            binding.input("logit_rows", np.arange(-n_logits, 0, dtype=np.int64))
            binding.output("logits", self._logits)

    def _append(
        self,
        embeds: F32,
        *,
        position_ids: npt.NDArray[np.int64] | None = None,
        hidden: F32 | None = None,
    ) -> None:
        """Run the graph over [n_new, d_model] behind what the cache holds."""
        binding, cache, n_new = self._open(), self.cache, len(embeds)
        cache.check_room(n_new)
        total = cache.length + n_new
        self._last[0] = total - 1
        self._total[...] = total
        binding.input("inputs_embeds", np.ascontiguousarray(embeds[None], np.float32))
        if self.has_branches:
            if position_ids is None:
                position_ids = self._positions[None, cache.length : total]
            if hidden is None:
                hidden = self._nothing_hidden[: n_new * total].reshape(n_new, total)
            binding.input("position_ids", position_ids)
            binding.input("attention_bias", hidden[None, None])
        binding.run()
        cache.append(n_new)
