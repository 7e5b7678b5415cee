"""llama.cpp's decoder, through its C interface: the language model alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kokanee.engine import read_manifest

from . import UnavailableError
from .weights import is_nano, language_model, model_name, usual_kind

_CHUNK = 512  # positions that are filled at once


def prepare(role: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Fetch or make the file; see `Decoding`.

    Raises:
        SourceError: nano's weights could not be had.
        UnavailableError: spec["gguf"] is not there.
    """
    kind = spec.get("quant") or usual_kind(read_manifest(Path(spec["bundle"])))
    return {"gguf": str(language_model(spec, kind))}


class Decoding:
    """A GGUF file and a float16 cache."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Open it.

        Args:
            spec: threads, n_ctx; gguf, the file, as `prepare` has it; for making it: bundle, work,
                cache, shape (a name for the file), quant (Q4_0, Q4_1, Q8_0, Q4_K_M; by default
                Q4_0, or Q8_0 where the bundle has 8 bits).

        Raises:
            UnavailableError: llama.cpp does not load it.
        """
        from kokanee.benchmarks.rivals import LlamaCpp

        path = Path(spec["gguf"])
        try:
            self._llm = LlamaCpp(path, "llama.cpp", threads=spec["threads"], n_ctx=spec["n_ctx"])
        except RuntimeError as error:
            raise UnavailableError(str(error)) from None
        self._token = 5
        nano = is_nano(read_manifest(Path(spec["bundle"])))
        self.facts = {
            "what": f"{model_name(path)}, float16 cache",
            "n_bytes": path.stat().st_size,
            "note": "no adapter" if nano else "random weights of the same sizes, no adapter",
        }

    def rewind(self, n_past: int) -> None:
        """Fill what is missing, forget what is too much."""
        rng = np.random.default_rng(0)
        while (missing := n_past - self._llm.length) > 0:
            self._llm.append(rng.integers(5, 250, min(missing, _CHUNK)).tolist())
        self._llm.trim(n_past)

    def prefill(self, n_new: int) -> None:
        """One call of llama_decode, which makes the logits of the last alone."""
        self._llm.append([7] * n_new)

    def step(self) -> None:
        """Greedy."""
        self._token = self._llm.step(self._token)


ROLES = {"decodes": Decoding}
