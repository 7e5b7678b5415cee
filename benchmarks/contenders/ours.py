"""Kokanee itself in the three roles."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kokanee.benchmarks.machine import current_rss_mb
from kokanee.engine import Engine
from kokanee.engine.engine import open_decoder
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
            device=spec["device"],
            threads=spec["threads"],
            kv_cache=spec["kv_cache"],
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
        self._engine = Engine.open(spec["bundle"], device=spec["device"], threads=spec["threads"])

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
        self._decoder = open_decoder(
            spec["bundle"],
            n_ctx=spec["n_ctx"],
            device=spec["device"],
            threads=spec["threads"],
            kv_cache=spec["kv_cache"],
        )
        self._token = 5

    def rewind(self, n_past: int) -> None:
        """Fill what is missing; the rest is free."""
        cache = self._decoder.cache
        if n_past > cache.length:
            ids = np.random.default_rng(0).integers(5, 250, n_past - cache.length)
            self._decoder.prefill(self._decoder.embed(ids.tolist()))
        cache.trim(n_past)

    def prefill(self, n_new: int) -> None:
        """Token embeddings, and the logits of the last."""
        self._decoder.prefill(self._decoder.embed([7] * n_new))

    def step(self) -> None:
        """Greedy."""
        self._token = int(self._decoder.step(self._token).argmax())


class Opening:
    """One graph alone."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Open it.

        Args:
            spec: file, threads, arena (whether its session keeps an arena, as the LLM's does).
        """
        before = current_rss_mb()
        self._graph = open_graph(
            Path(spec["file"]), device="cpu", threads=spec["threads"], arena=spec["arena"]
        )
        self.facts = {"added_mb": current_rss_mb() - before}


ROLES = {"answers": Answering, "encodes": Encoding, "decodes": Decoding, "opens": Opening}
