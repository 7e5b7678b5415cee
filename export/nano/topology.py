"""Nano's dims -> the weightless graphs and layouts kept beside this file.

    python -m kokanee.export.nano.topology          # needs onnx; the same bytes every time

Building nano on a user's machine then needs no `onnx`, and no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kokanee.export.audio_encoder import audio_encoder
from kokanee.export.connector import connector
from kokanee.export.dims import BeatsDims, QFormerDims, WhisperDims
from kokanee.export.graph import Graph
from kokanee.export.llm import LlamaConfig, build_llm
from kokanee.export.speech_encoder import speech_encoder

from .build import DIMS, HERE, LORA, POLICY

WHISPER = WhisperDims(
    d_model=DIMS.d_speech, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048
)
BEATS = BeatsDims(
    embed_dim=192,
    encoder_embed_dim=DIMS.d_audio,
    encoder_layers=4,
    encoder_attention_heads=6,
    encoder_ffn_embed_dim=768,
)
QFORMER = QFormerDims(
    d_speech=DIMS.d_speech,
    d_audio=DIMS.d_audio,
    d_model=DIMS.d_model,
    hidden_size=DIMS.d_qformer,
    num_attention_heads=6,
    intermediate_size=1536,
    n_queries=POLICY.n_queries,
    window_frames=POLICY.window_frames,
    stride_frames=POLICY.stride_frames,
)
SMOLLM2 = LlamaConfig(
    d_model=DIMS.d_model,
    n_layers=DIMS.n_layers,
    n_heads=DIMS.n_heads,
    n_kv_heads=DIMS.n_kv_heads,
    d_head=DIMS.d_head,
    d_ffn=1536,
    n_vocab=DIMS.n_vocab,
    n_positions=DIMS.n_positions,
    rope_theta=100_000.0,
    rms_epsilon=1e-5,
    tied_head=True,
    lora_rank=LORA.rank,
)


def graphs(*, float_llm: bool = False, compute: str = "float32") -> Iterator[Graph]:
    """The four graphs; with `float_llm` the LLM in float32, to measure what 4 bits cost.

    Encoders are kept as halves. Whisper's weights are halves at their source, so nothing is lost,
    and 8-bit blocks were slower on a CPU (1.3 to 1.5 x) with 2 to 7 % error for 17 MB saved.
    """
    yield speech_encoder(WHISPER, packing="f16", compute=compute)
    yield audio_encoder(BEATS, packing="f16", compute=compute)
    yield connector(QFORMER, packing="f16", compute=compute)
    packing = "f32" if float_llm else "int4_offset_block32"
    yield build_llm(SMOLLM2, packing=packing, head_packing="int8_block32", compute=compute)


def save(folder: Path, *, float_llm: bool = False) -> None:
    """Write every graph, for the CPU and for CUDA, and every layout into `folder`."""
    for compute in ("float32", "float16"):
        for graph in graphs(float_llm=float_llm, compute=compute):
            graph.save(folder)


if __name__ == "__main__":
    save(HERE)
