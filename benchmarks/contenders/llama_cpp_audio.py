"""llama.cpp's own path for sound (mtmd): Whisper and a projector in front of a language model.

    sound --> Whisper base --> 10 frames stacked --> projector, untrained --> SmolLM2-135M --> text

Nobody has trained such a projector for these two, so what it answers means nothing: what it takes,
in time and memory, is that of a trained one of the same shape.

Source: llama.cpp tools/mtmd (clip-impl.h for names, models/whisper-enc.cpp for the graph); sizes of
the projector as in Ultravox v0.5 for Llama 3.2 1B.
"""

from __future__ import annotations

import ctypes
import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kokanee.engine import read_manifest
from kokanee.export.ct2 import WhisperEncoderWeights
from kokanee.export.nano.build import ARCHITECTURE
from kokanee.export.sources import WHISPER_BASE, fetch

from . import Said, UnavailableError
from .cascade import KIND, N_CTX, spoken
from .weights import cache_of, elsewhere, model_name, need_nano, smollm2, work_of

F32 = npt.NDArray[np.float32]

# Frames in one soft token: 150 of them for every 30 s, where nano has 176. Ultravox stacks 8, but
# llama-cpp-python 0.3.36 wants a whole number of stacks in 1500 frames, and aborts at 187.5.
STACK = 10
D_PROJECTOR = 4096
PROMPT = "<|im_start|>user\n{marker}\n{question}<|im_end|>\n<|im_start|>assistant\n"

_AUDIO = 2  # mtmd's type of chunk
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "self_attn_layer_norm": "ln1",
    "fc1": "ffn_up",
    "fc2": "ffn_down",
    "final_layer_norm": "ln2",
}


def prepare(role: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Fetch and make the files; see `Answering`.

    Raises:
        ImportError: gguf is not installed.
        SourceError: weights could not be had.
        UnavailableError: the bundle is not nano.
    """
    need_nano(read_manifest(Path(spec["bundle"])))
    ct2 = fetch(WHISPER_BASE, cache_of(spec), progress=lambda *_: None)
    mmproj = work_of(spec) / f"whisper-base-untrained-projector-{STACK}-f16.gguf"
    if not mmproj.is_file():
        elsewhere(_write_mmproj, ct2, mmproj)
    gguf = spec.get("gguf") or str(smollm2(spec.get("quant", KIND), cache_of(spec)))
    return {"mmproj": str(mmproj), "gguf": gguf}


class Answering:
    """Both models in llama.cpp."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Open them.

        Args:
            spec: threads; mmproj and gguf, the files, as `prepare` has them; for making them
                work, cache, quant (Q4_0).

        Raises:
            UnavailableError: llama.cpp refuses one of them.
        """
        from kokanee.benchmarks.rivals import LlamaCpp

        gguf, mmproj = Path(spec["gguf"]), Path(spec["mmproj"])
        try:
            self._llm = LlamaCpp(gguf, "llama.cpp", threads=spec["threads"], n_ctx=N_CTX)
        except RuntimeError as error:
            raise UnavailableError(str(error)) from None
        self._mtmd = mtmd = importlib.import_module("llama_cpp.mtmd_cpp")
        quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self._quiet = quiet(lambda *_: None)  # mtmd keeps its address
        for silence in (mtmd.mtmd_log_set, mtmd.mtmd_helper_log_set):
            silence(self._quiet, None)
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.n_threads, params.warmup = False, spec["threads"], False
        self._context = mtmd.mtmd_init_from_file(str(mmproj).encode(), self._llm.model, params)
        if not self._context or not mtmd.mtmd_support_audio(self._context):
            raise UnavailableError(f"mtmd_init_from_file: {mmproj} could not be loaded")
        self.facts = {
            "what": f"Whisper base float16 + untrained projector + {model_name(gguf)}",
            "n_bytes": gguf.stat().st_size + mmproj.stat().st_size,
            "note": "Ultravox's form, its projector untrained: answers mean nothing, only time and"
            " memory count; Whisper's encoder always runs over 30 s",
        }

    def answer(self, pcm: F32, question: str, *, max_new_tokens: int) -> Said:
        """Encode, prefill, decode; greedy."""
        mtmd, llm = self._mtmd, self._llm
        started = time.perf_counter()
        stages = dict.fromkeys(
            ("features", "speech_encoder", "prefill_audio", "prefill_question"), 0.0
        )
        chunks = self._chunks(pcm, question)
        try:
            at = _lap(stages, "features", started)
            llm.trim(0)
            n = mtmd.mtmd_input_chunks_size(chunks)
            for i in range(n):
                chunk = mtmd.mtmd_input_chunks_get(chunks, i)
                if mtmd.mtmd_input_chunk_get_type(chunk) == _AUDIO:
                    _check(mtmd.mtmd_encode_chunk(self._context, chunk), "mtmd_encode_chunk")
                    at = _lap(stages, "speech_encoder", at)
                    self._prefill_sound(chunk)
                    at = _lap(stages, "prefill_audio", at)
                else:
                    self._prefill_text(chunk, is_last=i == n - 1)
                    at = _lap(stages, "prefill_question" if i == n - 1 else "prefill_audio", at)
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
        text, n_tokens, first_ms = spoken(llm, max_new_tokens, started)
        stages["first_piece"] = max(0.0, first_ms - sum(stages.values()))
        return Said(
            text=text,
            n_tokens=n_tokens,
            stages_ms=stages,
            first_token_ms=first_ms,
            total_ms=(time.perf_counter() - started) * 1e3,
        )

    def _chunks(self, pcm: F32, question: str) -> Any:
        """Text and log-mel in order; to be freed."""
        mtmd = self._mtmd
        marker = mtmd.mtmd_default_marker().decode()
        said = PROMPT.format(marker=marker, question=question.strip()).encode()
        pcm = np.ascontiguousarray(pcm, np.float32)
        samples = pcm.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        bitmap = mtmd.mtmd_bitmap_init_from_audio(len(pcm), samples)
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        text = mtmd.mtmd_input_text(
            text=said, text_len=len(said), add_special=False, parse_special=True
        )
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            status = mtmd.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1)
            _check(status, "mtmd_tokenize")
        except UnavailableError:
            mtmd.mtmd_input_chunks_free(chunks)
            raise
        finally:
            mtmd.mtmd_bitmap_free(bitmap)
        return chunks

    def _prefill_sound(self, chunk: Any) -> None:
        """What was encoded last."""
        mtmd, n_past = self._mtmd, ctypes.c_int32()
        embeds = mtmd.mtmd_get_output_embd(self._context)
        callback = mtmd.mtmd_helper_post_decode_callback()
        place = (self._llm.context, chunk, embeds, self._llm.length, 0, N_CTX)
        status = mtmd.mtmd_helper_decode_image_chunk(
            self._context, *place, ctypes.byref(n_past), callback, None
        )
        _check(status, "mtmd_helper_decode_image_chunk")

    def _prefill_text(self, chunk: Any, *, is_last: bool) -> None:
        n_past = ctypes.c_int32()
        place = (self._llm.context, chunk, self._llm.length, 0, N_CTX)
        status = self._mtmd.mtmd_helper_eval_chunk_single(
            self._context, *place, is_last, ctypes.byref(n_past)
        )
        _check(status, "mtmd_helper_eval_chunk_single")


def _lap(stages: dict[str, float], stage: str, since: float) -> float:
    now = time.perf_counter()
    stages[stage] += (now - since) * 1e3
    return now


def _check(status: int, what: str) -> None:
    if status != 0:
        raise UnavailableError(f"{what}: {status}")


def _write_mmproj(ct2: Path, target: Path) -> None:
    """Whisper base's encoder and a random projector for llama.cpp; matrices in halves."""
    gguf = importlib.import_module("gguf")
    sizes, d_model = ARCHITECTURE.speech_encoder, ARCHITECTURE.llm.d_model
    partial = target.with_suffix(".partial")
    writer = gguf.GGUFWriter(str(partial), "clip")
    writer.add_file_type(1)
    writer.add_clip_has_audio_encoder(True)
    writer.add_clip_projector_type("ultravox")
    writer.add_audio_projection_dim(d_model)
    writer.add_audio_embedding_length(sizes.d_model)
    writer.add_audio_feed_forward_length(sizes.encoder_ffn_dim)
    writer.add_audio_block_count(sizes.encoder_layers)
    writer.add_audio_head_count(sizes.encoder_attention_heads)
    writer.add_audio_attention_layernorm_eps(1e-5)
    writer.add_audio_num_mel_bins(sizes.num_mel_bins)
    writer.add_audio_stack_factor(STACK)
    weights = WhisperEncoderWeights(ct2)

    def add(theirs: str, ours: str) -> None:
        array = weights[f"model.encoder.{ours}"]
        if ours.startswith("conv") and ours.endswith("bias"):
            array = array[:, None]  # [d_model, 1], added to [d_model, n_frames]
        is_matrix = array.ndim > 1 and ours.endswith("weight") and "position" not in ours
        writer.add_tensor(theirs, array.astype(np.float16 if is_matrix else np.float32))

    add("a.position_embd.weight", "embed_positions.weight")
    for kind in ("weight", "bias"):
        for i in (1, 2):
            add(f"a.conv1d.{i}.{kind}", f"conv{i}.{kind}")
        add(f"a.post_ln.{kind}", f"layer_norm.{kind}")
        for i in range(sizes.encoder_layers):
            for ours, theirs in _LAYER.items():
                name = f"layers.{i}.{ours}.{kind}"
                if f"model.encoder.{name}" in weights:  # keys have no bias
                    add(f"a.blk.{i}.{theirs}.{kind}", name)
    rng, d_stacked = np.random.default_rng(0), STACK * sizes.d_model
    for name, n_rows, n_columns in (
        ("mm.a.mlp.1.weight", D_PROJECTOR, d_stacked),
        ("mm.a.mlp.2.weight", d_model, D_PROJECTOR // 2),
    ):
        matrix = 0.02 * rng.standard_normal((n_rows, n_columns), np.float32)
        writer.add_tensor(name, matrix.astype(np.float16))
    writer.add_tensor("mm.a.norm_pre.weight", np.ones(d_stacked, np.float32))
    writer.add_tensor("mm.a.norm_mid.weight", np.ones(D_PROJECTOR // 2, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(target)


ROLES = {"answers": Answering}
