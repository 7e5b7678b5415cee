"""Samples to soft tokens: features, both encoders, and the connector that fuses them.

pcm --+-- log_mel --> speech_encoder [n_frames, d_speech] --+
      |                                                     +--> connector --> soft tokens
      +-- fbank ----> audio_encoder  [n_patches, d_audio] --+    [n_windows * n_queries, d_model]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .features import SAMPLE_RATE, Fbank, LogMel
from .manifest import Policy
from .segments import Segment, apply_policy

F32 = npt.NDArray[np.float32]


class Graph(Protocol):
    """The part of onnxruntime.InferenceSession that is used."""

    def run(self, output_names: Sequence[str], feeds: Mapping[str, F32]) -> list[F32]:
        """Named arrays in, the named outputs out."""
        ...


Run = Callable[[Graph, Sequence[str], Mapping[str, F32]], list[F32]]
"""Runs a graph: names of outputs, and inputs by name, to the outputs."""


def run_graph(graph: Graph, output_names: Sequence[str], feeds: Mapping[str, F32]) -> list[F32]:
    """The plain way to run a graph."""
    return graph.run(output_names, feeds)


STAGES = ("features", "speech_encoder", "audio_encoder", "connector")


class Features:
    """Both pictures of one sound, with the frames that are settled."""

    def __init__(self) -> None:
        """Of a sound that has not begun."""
        self.log_mel = LogMel()
        self.fbank = Fbank()

    def extend(self, pcm: F32) -> None:
        """Compute what [n_samples], the whole sound so far, settles for good."""
        self.log_mel.extend(pcm)
        self.fbank.extend(pcm)

    def trim(self, n_samples: int) -> None:
        """The sound ends after n_samples, whatever came behind them."""
        self.log_mel.trim(n_samples)
        self.fbank.trim(n_samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A sound as the LLM sees it."""

    soft_tokens: F32  # [n_soft_tokens, d_model]
    seconds: float  # of the whole recording
    n_segments: int
    notes: tuple[str, ...]
    timings_ms: dict[str, float] = field(default_factory=dict)


class Encoders:
    """The three graphs in front of the LLM; safe to use from any thread."""

    def __init__(
        self,
        *,
        speech_encoder: Graph,
        audio_encoder: Graph,
        connector: Graph,
        policy: Policy,
        d_audio: int,
    ) -> None:
        self._speech_encoder = speech_encoder
        self._audio_encoder = audio_encoder
        self._connector = connector
        self._policy = policy
        self._d_audio = d_audio

    def encode(
        self, pcm: F32, *, policy: Policy | None = None, audio_encoder: bool = True
    ) -> Encoded:
        """Soft tokens of a whole sound, segment by segment as the policy says.

        Args:
            pcm: [n_samples], 16 kHz mono.
            policy: how to cut and pad; the bundle's by default.
            audio_encoder: as for `arrays`.

        Raises:
            AudioFormatError: empty, not one-dimensional, or not finite.
        """
        heard = apply_policy(pcm, policy or self._policy)
        timings_ms = dict.fromkeys(STAGES, 0.0)
        parts = [
            self.soft_tokens(s, timings_ms, audio_encoder=audio_encoder) for s in heard.segments
        ]
        return Encoded(
            soft_tokens=np.concatenate(parts),
            seconds=len(pcm) / SAMPLE_RATE,
            n_segments=len(parts),
            notes=heard.notes,
            timings_ms=timings_ms,
        )

    def soft_tokens(
        self,
        segment: Segment,
        timings_ms: dict[str, float],
        *,
        audio_encoder: bool = True,
        features: Features | None = None,
        run: Run = run_graph,
    ) -> F32:
        """What `arrays` calls speech_tokens: [n_windows * n_queries, d_model]."""
        return self.arrays(
            segment, timings_ms, audio_encoder=audio_encoder, features=features, run=run
        )["speech_tokens"]

    def arrays(
        self,
        segment: Segment,
        timings_ms: dict[str, float],
        *,
        audio_encoder: bool = True,
        features: Features | None = None,
        run: Run = run_graph,
    ) -> dict[str, F32]:
        """Every array between a segment's samples and its soft tokens, as the reference calls it.

        Args:
            segment: samples for either encoder.
            timings_ms: milliseconds by stage; added to.
            features: of a sound that grew to this segment; they keep what they computed.
            audio_encoder: False leaves BEATs out: its half of every frame is then zeros, which is
                what a trained connector sees where BEATs has no frame. An ablation, for measuring
                what BEATs contributes; SALMONN was never trained so.
            run: how graphs are run.
        """
        clock = _Clock(timings_ms)
        features = features or Features()
        mel = features.log_mel.picture(segment.speech_pcm)
        bank = features.fbank.picture(segment.audio_pcm)
        clock.lap("features")
        (speech,) = run(self._speech_encoder, ["speech"], {"log_mel": mel[None]})
        clock.lap("speech_encoder")
        if audio_encoder:
            (audio,) = run(self._audio_encoder, ["audio"], {"fbank": bank[None]})
        else:
            audio = np.zeros((1, 0, self._d_audio), np.float32)
        clock.lap("audio_encoder")
        outputs = ["soft_tokens", "concat", "qformer_out"]
        soft_tokens, concat, qformer_out = run(
            self._connector, outputs, {"speech": speech, "audio": audio}
        )
        clock.lap("connector")
        return {
            "logmel": mel,
            "beats_fbank": bank,
            "whisper_out": speech[0],
            "beats_out": audio[0],
            "concat": concat[0],
            "qformer_out": qformer_out.reshape(-1, qformer_out.shape[-1]),
            "speech_tokens": soft_tokens[0],
        }


class _Clock:
    """Adds the time since the last lap to a stage."""

    def __init__(self, timings_ms: dict[str, float]) -> None:
        self._timings_ms = timings_ms
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._timings_ms[stage] += (now - self._last) * 1e3
        self._last = now
