"""What is built today: faster-whisper writes down what is said, llama.cpp answers the text.

    sound --> Whisper base, int8 --> transcript --> prompt --> SmolLM2-135M --> answer

It hears words only: what nobody says is lost between the two.
"""

from __future__ import annotations

import codecs
import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kokanee.engine import read_manifest

from . import Said
from .weights import cache_of, model_name, need_nano, smollm2, whisper_folder, work_of

F32 = npt.NDArray[np.float32]

# SmolLM2's own form, without the system prompt that its template adds: fewer tokens to prefill.
PROMPT = (
    '<|im_start|>user\nThis was said: "{transcript}"\n{question}<|im_end|>\n<|im_start|>assistant\n'
)
KIND = "Q4_0"  # llama.cpp's fastest of 4 bits
N_CTX = 2048  # positions


def prepare(role: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Fetch and make the files; see `Cascade`.

    Raises:
        SourceError: weights could not be had.
        UnavailableError: the bundle is not nano.
    """
    need_nano(read_manifest(Path(spec["bundle"])))
    files = {"whisper": str(whisper_folder(cache_of(spec), work_of(spec)))}
    if not spec.get("transcript_only"):
        files["gguf"] = spec.get("gguf") or str(smollm2(spec.get("quant", KIND), cache_of(spec)))
    return files


class Cascade:
    """Both models, one after the other."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Open them.

        Args:
            spec: threads; whisper and gguf, the files, as `prepare` has them; quant (Q4_0) and
                cache for making them; compute_type of CTranslate2 (int8); transcript_only: the
                text is the transcript, and there is no language model.
        """
        faster_whisper = importlib.import_module("faster_whisper")
        folder = Path(spec["whisper"])
        compute_type = spec.get("compute_type", "int8")
        self._whisper = faster_whisper.WhisperModel(
            str(folder),
            device="cpu",
            compute_type=compute_type,
            cpu_threads=spec["threads"],
            num_workers=1,
        )
        n_bytes = (folder / "model.bin").stat().st_size
        what = f"Whisper base {compute_type}"
        self._llm: Any = None
        if not spec.get("transcript_only"):
            from kokanee.benchmarks.rivals import LlamaCpp

            gguf = Path(spec["gguf"])
            self._llm = LlamaCpp(gguf, "cascade", threads=spec["threads"], n_ctx=N_CTX)
            n_bytes += gguf.stat().st_size
            what += f" + {model_name(gguf)}"
        self.facts = {
            "what": what,
            "n_bytes": n_bytes,
            "note": "greedy, English given, no voice activity detection;"
            " Whisper's encoder always runs over 30 s, whatever the sound's length",
        }

    def answer(self, pcm: F32, question: str, *, max_new_tokens: int) -> Said:
        """Transcribe, then ask about the transcript."""
        started = time.perf_counter()
        segments, _ = self._whisper.transcribe(
            pcm,
            language="en",
            beam_size=1,
            temperature=0.0,  # no second tries with sampling
            without_timestamps=True,
            condition_on_previous_text=False,
            vad_filter=False,
        )
        texts, n_tokens, first_text_ms = [], 0, None
        for segment in segments:  # decoded as it is read
            if first_text_ms is None:
                first_text_ms = _ms_since(started)
            texts.append(segment.text)
            n_tokens += len(segment.tokens)
        transcript = "".join(texts).strip()
        transcribed_ms = _ms_since(started)
        if self._llm is None:
            first_ms = first_text_ms or transcribed_ms
            return Said(
                text=transcript,
                n_tokens=n_tokens,
                stages_ms={"transcribe": first_ms},
                first_token_ms=first_ms,
                total_ms=transcribed_ms,
            )
        llm = self._llm
        llm.prefill(llm.tokenise(PROMPT.format(transcript=transcript, question=question.strip())))
        prefilled_ms = _ms_since(started)
        text, n_tokens, first_ms = spoken(llm, max_new_tokens, started)
        return Said(
            text=text,
            n_tokens=n_tokens,
            stages_ms={
                "transcribe": transcribed_ms,
                "prefill_question": prefilled_ms - transcribed_ms,
                "first_piece": first_ms - prefilled_ms,
            },
            first_token_ms=first_ms,
            total_ms=_ms_since(started),
        )


def spoken(llm: Any, max_new_tokens: int, started: float) -> tuple[str, int, float]:
    """Greedy answer to what a `LlamaCpp` has in its cache.

    Returns:
        Text; number of tokens without the end; milliseconds from `started` to the first text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, n_tokens, first_ms = "", 0, None
    token = llm.likeliest()
    while not llm.ends(token):
        n_tokens += 1
        text += decoder.decode(llm.piece(token))
        if text and first_ms is None:
            first_ms = _ms_since(started)
        if n_tokens == max_new_tokens:
            break
        token = llm.step(token)
    text += decoder.decode(b"", True)
    return text, n_tokens, _ms_since(started) if first_ms is None else first_ms


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3


ROLES = {"answers": Cascade}
