"""Sizes of the four parts, under the names their checkpoints use, and how each is stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kokanee.engine.errors import ManifestError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WhisperDims:
    """Sizes of a Whisper encoder, as in its Hugging Face `config.json`."""

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    num_mel_bins: int = 80
    max_source_positions: int = 1500


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BeatsDims:
    """The entries of a BEATs checkpoint's `cfg` that shape its features."""

    embed_dim: int
    encoder_embed_dim: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_embed_dim: int
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800
    input_patch_size: int = 16
    n_mels: int = 128


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QFormerDims:
    """Sizes of the window-level Q-Former; the defaults are SALMONN's (bert-base)."""

    d_speech: int
    d_audio: int
    d_model: int
    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    num_hidden_layers: int = 2
    n_queries: int = 1
    window_frames: int = 17
    stride_frames: int = 17


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """Sizes of a LLaMA; the names are config.json's in our spelling."""

    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ffn: int
    n_vocab: int
    n_positions: int
    rope_theta: float
    rms_epsilon: float
    tied_head: bool
    lora_rank: int  # 0: no adapter
    act_order: bool = False  # inputs are gathered in another order, see act_order

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads or self.d_head % 2:
            raise ValueError(
                f"expected n_heads a multiple of n_kv_heads and an even d_head, got {self}"
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """All that the four topologies follow from; a bundle's manifest keeps it."""

    speech_encoder: WhisperDims
    audio_encoder: BeatsDims
    connector: QFormerDims
    llm: LlamaConfig
    encoder_packing: str  # of Whisper's and BEATs' matrices
    connector_packing: str
    llm_packing: str  # of the layers' matrices
    head_packing: str  # of the LLM's head, and with a tied head of the embedding table
    table_packing: str | None  # of an embedding table that the head is not; None: tied

    def to_json(self) -> dict[str, Any]:
        """What a manifest keeps."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Architecture:
        """Undo `to_json`.

        Raises:
            ManifestError: it is not what `to_json` makes.
        """
        sizes = {
            "speech_encoder": WhisperDims,
            "audio_encoder": BeatsDims,
            "connector": QFormerDims,
            "llm": LlamaConfig,
        }
        try:
            return cls(**{k: sizes[k](**v) if k in sizes else v for k, v in kept.items()})
        except (TypeError, ValueError) as error:
            raise ManifestError(
                f"architecture: {error}; the bundle was made by another version, build it again"
            ) from None


SALMONN_SIZES = ("7b", "13b")


def salmonn_dims(size: str) -> tuple[WhisperDims, BeatsDims, QFormerDims, LlamaConfig]:
    """The parts of the published SALMONN: Whisper large-v2, BEATs, the Q-Former, and Vicuna.

    Args:
        size: "7b" (Vicuna v1.5) or "13b" (Vicuna v1.1).
    """
    d_model, n_layers, n_heads, d_ffn, rms_epsilon, n_positions = {
        "7b": (4096, 32, 32, 11008, 1e-5, 4096),
        "13b": (5120, 40, 40, 13824, 1e-6, 2048),
    }[size]
    return (
        WhisperDims(
            d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120
        ),
        BeatsDims(
            embed_dim=512,
            encoder_embed_dim=768,
            encoder_layers=12,
            encoder_attention_heads=12,
            encoder_ffn_embed_dim=3072,
        ),
        QFormerDims(d_speech=1280, d_audio=768, d_model=d_model),
        LlamaConfig(
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            d_head=d_model // n_heads,
            d_ffn=d_ffn,
            n_vocab=32_000,
            n_positions=n_positions,
            rope_theta=10_000.0,
            rms_epsilon=rms_epsilon,
            tied_head=False,
            lora_rank=8,
        ),
    )
