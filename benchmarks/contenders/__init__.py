"""Everything that can be timed: ours, and what people would use instead; each in its own process.

    Contender       a name, what it needs, how that is installed
      role          what is timed        answers   a sound and a question in, text out
                                         encodes   a sound in, soft tokens (or features) out
                                         decodes   token ids in, the next one out
                        opens     one graph, to see what it adds to memory (ours alone)
    Worker          the process that holds one contender in one role     worker.py

A contender whose packages are missing is skipped by name and says how to install them. Nothing is
ever estimated in its place.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Role = Literal["answers", "encodes", "decodes", "opens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An answer and when its parts were there."""

    text: str
    n_tokens: int
    stages_ms: Mapping[str, float]  # one after the other, up to the first token
    first_token_ms: float  # from handing over the sound to the first text that can be read
    total_ms: float


class Answers(Protocol):
    """Sound and question in, text out."""

    def answer(self, pcm: F32, question: str, *, max_new_tokens: int) -> Said:
        """Greedy; pcm is [n_samples], 16 kHz mono."""
        ...


class Encodes(Protocol):
    """Sound in, what the language model takes out."""

    def encode(self, pcm: F32) -> Mapping[str, float]:
        """Milliseconds by stage; pcm is [n_samples], 16 kHz mono."""
        ...


class Decodes(Protocol):
    """A language model with a cache that can be put back."""

    def rewind(self, n_past: int) -> None:
        """Have exactly `n_past` positions in the cache, whatever they are; not timed."""
        ...

    def prefill(self, n_new: int) -> None:
        """Append so many positions at once and have the logits of the last."""
        ...

    def step(self) -> None:
        """Append one token, and find the likeliest next one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something that can be timed."""

    name: str
    module: str  # in this package; its ROLES makes each role of a spec
    roles: tuple[Role, ...]
    packages: tuple[str, ...]  # distributions it needs beyond Kokanee
    install: str | None
    says: str  # one line
    transcribes: bool = False  # its spec knows transcript_only: words alone, no answer
    settings: Mapping[str, Any] = field(default_factory=dict)  # added to every spec

    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed."""
        return tuple(p for p in self.packages if not _installed(p))

    def versions(self) -> dict[str, str]:
        """Of the packages it needs."""
        return {p: importlib.metadata.version(p) for p in self.packages if _installed(p)}

    def prepare(self, role: Role, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Fetch and make the files it reads; the spec with where they are. Not part of opening.

        Raises:
            ImportError: a package is missing after all.
            UnavailableError: it cannot do this, and why.
            KokaneeError: a file could not be had.
        """
        module = importlib.import_module(f".{self.module}", __package__)
        spec = {**spec, **self.settings}
        files = module.prepare(role, spec) if hasattr(module, "prepare") else {}
        return {**spec, **files}

    def open(self, role: Role, spec: Mapping[str, Any]) -> Any:
        """Load it; what comes back has the role's methods.

        Where it has `facts`, they say what exactly it is: "what" in a short phrase, "n_bytes" of
        its weights or files, and a "note" on what to keep in mind.

        Raises:
            ImportError: a package is missing after all.
            UnavailableError: it cannot do this, and why.
        """
        module = importlib.import_module(f".{self.module}", __package__)
        return module.ROLES[role](spec)


class UnavailableError(Exception):
    """A contender that cannot do what it was asked for; the message says why."""


KOKANEE = "kokanee"

CONTENDERS = {
    one.name: one
    for one in (
        Contender(
            name=KOKANEE,
            module="ours",
            roles=("answers", "encodes", "decodes", "opens"),
            packages=("onnxruntime",),
            install=None,
            says="this engine and the bundle that is measured",
        ),
        Contender(
            name="pytorch",
            module="pytorch",
            roles=("answers", "encodes", "decodes"),
            packages=("torch", "transformers"),
            install="pip install torch==2.13.0 transformers==5.23.0",
            says="the reference's modules and transformers' LLaMA in float32",
        ),
        Contender(
            name="pytorch-int8",
            module="pytorch",
            roles=("answers", "decodes"),
            packages=("torch", "transformers", "bitsandbytes"),
            install="pip install torch==2.13.0 transformers==5.23.0 bitsandbytes==0.50.2",
            says="the same with bitsandbytes' LLM.int8 in the language model",
            settings={"int8": True},
        ),
        Contender(
            name="llama.cpp",
            module="llama_cpp",
            roles=("decodes",),
            packages=("llama-cpp-python", "gguf"),
            install="pip install llama-cpp-python==0.3.36 gguf==0.19.0",
            says="the language model alone, with the same bits",
        ),
        Contender(
            name="llama.cpp-audio",
            module="llama_cpp_audio",
            roles=("answers",),
            packages=("llama-cpp-python", "gguf"),
            install="pip install llama-cpp-python==0.3.36 gguf==0.19.0",
            says="llama.cpp's own path for sound: Whisper and a projector into the same LLM",
        ),
        Contender(
            name="cascade",
            module="cascade",
            roles=("answers",),
            packages=("faster-whisper", "llama-cpp-python"),
            install="pip install faster-whisper==1.2.1 llama-cpp-python==0.3.36",
            says="faster-whisper writes down what is said, llama.cpp answers the text",
            transcribes=True,
        ),
        Contender(
            name="openvino",
            module="openvino",
            roles=("encodes", "decodes"),
            packages=("openvino", "openvino-genai", "torch", "transformers"),
            install=(
                "pip install openvino==2026.4.1 openvino-genai==2026.4.1.0 torch==2.13.0"
                " transformers==5.23.0 llama-cpp-python==0.3.36"
            ),
            says="OpenVINO's encoders and language model",
        ),
    )
}


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
