"""Sizes of the three parts in front of the LLM, under the names their checkpoints use."""

from __future__ import annotations

import dataclasses


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
