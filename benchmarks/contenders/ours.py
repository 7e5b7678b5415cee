"""Kokanee itself in the three roles."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from kokanee.engine import Engine, read_manifest
from kokanee.engine.decoder import Decoder
from kokanee.engine.embedding import Embedding
from kokanee.engine.onnx import open_graph

from . import Said

F32 = npt.NDArray[np.float32]


class Answering:
    """The engine as everybody uses it."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Open the bundle and a session.

        Args:
            spec: bundle, threads, device, kv_cache.
        """
        self._engine = Engine.open(
            spec["bundle"],
            device=spec.get("device", "cpu"),
            threads=spec["threads"],
            kv_cache=spec.get("kv_cache", "auto"),
        )
        self._session = self._engine.session()

    def answer(self, pcm: F32, question: str, *, max_new_tokens: int) -> Said:
        """Hear, then ask."""
        started = time.perf_counter()
        heard = self._session.hear(pcm)
        answer = self._session.ask(question, max_new_tokens=max_new_tokens)
        pieces = iter(answer)
        text = next(pieces, "")
        first_ms = (time.perf_counter() - started) * 1e3
        stages = dict(heard.timings_ms)
        stages["prefill_question"] = answer.timings_ms["prefill_question"]
        stages["first_piece"] = max(0.0, first_ms - sum(stages.values()))
        text += "".join(pieces)
        total_ms = (time.perf_counter() - started) * 1e3
        return Said(
            text=text,
            n_tokens=len(answer.ids),
            stages_ms=stages,
            first_token_ms=first_ms,
            total_ms=total_ms,
        )


class Encoding:
    """Samples to soft tokens."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Open the bundle; the LLM comes with it.

        Args:
            spec: bundle, threads, device.
        """
        self._engine = Engine.open(
            spec["bundle"], device=spec.get("device", "cpu"), threads=spec["threads"]
        )

    def encode(self, pcm: F32) -> Mapping[str, float]:
        """Features, both encoders, connector."""
        return self._engine.encoders.encode(pcm).timings_ms


class Decoding:
    """The LLM graph with its adapter and a cache."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Open the LLM alone.

        Args:
            spec: bundle, threads, n_ctx, device, kv_cache (auto, float32, int8).
        """
        folder = Path(spec["bundle"])
        manifest = read_manifest(folder)
        dims, units = manifest.dims, manifest.int8_cache
        int8 = units is not None and spec.get("kv_cache", "auto") != "float32"
        graph = manifest.graphs["llm"]
        file = units.graph if int8 and units is not None else graph.file
        self._decoder = Decoder(
            open_graph(folder / file, device="cpu", threads=spec["threads"], arena=True),
            Embedding(folder, manifest.embedding, n_vocab=dims.n_vocab, d_model=dims.d_model),
            dims,
            n_ctx=spec["n_ctx"],
            lora_scale=manifest.lora.scale,
            kv_scales=load_file(folder / units.scales) if int8 and units is not None else None,
        )
        self._token = 5

    def rewind(self, n_past: int) -> None:
        """Fill what is missing; the rest is free."""
        cache = self._decoder.cache
        if n_past > cache.length:
            ids = np.random.default_rng(0).integers(5, 999, n_past - cache.length)
            self._decoder.prefill(self._decoder.embed(ids.tolist()))
        cache.trim(n_past)

    def prefill(self, n_new: int) -> None:
        """Token embeddings, and the logits of the last."""
        self._decoder.prefill(self._decoder.embed([7] * n_new))

    def step(self) -> None:
        """Greedy."""
        self._token = int(self._decoder.step(self._token).argmax())


ROLES = {"answers": Answering, "encodes": Encoding, "decodes": Decoding}
