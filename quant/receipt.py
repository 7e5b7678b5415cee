"""A bundle and its exact model, on the same prompts -> the receipt in the bundle's manifest.

    prompts --+--> bundle, as it opens ---------> logits --+--> KL, same token, perplexity
              +--> bundle, float32 cache -------> logits --+
              +--> float model, layer by layer -> logits --+
    recording --> bundle's and exact encoders --> soft tokens --> cosine, signal to noise
    recording --> `kokanee ask` in a process of its own --> memory, tokens a second

What is compared has seen the same inputs, so that a figure says what one part lost.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kokanee.engine.decoder import Decoder
from kokanee.engine.manifest import Agreement, Cost, Limits, SoftTokens
from kokanee.engine.onnx import available_threads

from .llama import F32, Llama
from .prompts import Prompt
from .texts import RECORDINGS

LIMITS = Limits(kl=0.3, least_cosine=0.98)
_MOST_DB = 200.0  # a signal without noise


@dataclass(frozen=True, slots=True)
class Distributions:
    """Next-token log probabilities over the counted rows of some prompts."""

    log_p: F32  # [n, n_vocab]
    targets: npt.NDArray[np.int64]  # [n]


def exact(llama: Llama, prompts: Sequence[Prompt], progress: Callable[[int, int], None]) -> F32:
    """Log probabilities of the float model, every prompt's counted rows behind one another."""
    lengths = [len(p.embeds) for p in prompts]
    x = np.concatenate([p.embeds for p in prompts])
    for i in range(llama.shape.n_layers):
        progress(i, llama.shape.n_layers)
        x = llama.layer(i, x, lengths)
    progress(llama.shape.n_layers, llama.shape.n_layers)
    starts = np.cumsum([0, *lengths[:-1]])
    rows = [x[s + p.first : s + len(p.embeds) - 1] for s, p in zip(starts, prompts, strict=True)]
    return _log_softmax(llama.head(np.concatenate(rows)))


def of_bundle(decoder: Decoder, prompts: Sequence[Prompt]) -> F32:
    """The same from a bundle's LLM; the cache is left empty."""
    made = []
    for prompt in prompts:
        decoder.cache.trim(0)
        made.append(decoder.all_logits(prompt.embeds)[prompt.first : -1])
    decoder.cache.trim(0)
    return _log_softmax(np.concatenate(made))


def agreement(log_p: F32, exact_log_p: F32, targets: npt.NDArray[np.int64]) -> Agreement:
    """How far next-token distributions are from the exact ones.

    Args:
        log_p: [n, n_vocab].
        exact_log_p: [n, n_vocab].
        targets: the tokens that came, [n].
    """
    kl = np.sum(np.exp(exact_log_p) * (exact_log_p - log_p), axis=1, dtype=np.float64)
    at = np.arange(len(targets))

    def perplexity(of: F32) -> float:
        return math.exp(-float(np.mean(of[at, targets], dtype=np.float64)))

    return Agreement(
        n_positions=len(targets),
        kl=float(kl.mean()),
        top1=float(np.mean(log_p.argmax(axis=1) == exact_log_p.argmax(axis=1))),
        perplexity=perplexity(log_p),
        perplexity_exact=perplexity(exact_log_p),
    )


def agreements(
    log_p: F32, exact_log_p: F32, prompts: Mapping[str, Sequence[Prompt]]
) -> dict[str, Agreement]:
    """`agreement` for each named set; the sets lie behind one another in the arrays."""
    found, start = {}, 0
    for name, members in prompts.items():
        targets = np.concatenate([p.targets for p in members])
        rows = slice(start, start + len(targets))
        found[name] = agreement(log_p[rows], exact_log_p[rows], targets)
        start += len(targets)
    return found


def soft_tokens(got: F32, want: F32) -> SoftTokens:
    """Compare soft tokens [n, d_model]."""
    dot = np.sum(got * want, axis=1, dtype=np.float64)
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    noise = float(np.sum(np.square(got - want, dtype=np.float64)))
    signal = float(np.sum(np.square(want, dtype=np.float64)))
    db = 10 * math.log10(signal / noise) if noise and signal else _MOST_DB
    return SoftTokens(
        n_soft_tokens=len(got),
        least_cosine=float(np.min(dot / np.maximum(norms, 1e-12))),
        snr_db=min(db, _MOST_DB),
    )


def cost(folder: Path, n_bytes: int) -> Cost:
    """Hear a recording and answer in a process of its own.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    recording = RECORDINGS / "speech_over_sound.wav"
    command = [sys.executable, "-m", "kokanee.runtime", "ask", str(folder), str(recording)]
    command += ["What do you hear?", "--max-new-tokens", "32", "--device", "cpu", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the finished bundle does not answer: {done.stderr[-500:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    prefill_s = said["timings_ms"]["prefill_audio"] / 1e3
    return Cost(
        n_bytes=n_bytes,
        peak_rss_mb=float(said["memory_mb"] or 0),
        prefill_tokens_per_s=said["n_soft_tokens"] / prefill_s,
        decode_tokens_per_s=float(said["tokens_per_s"] or 0),
        threads=available_threads(),
        machine=f"{platform.machine()}, {platform.system()}",
    )


def _log_softmax(logits: F32) -> F32:
    shifted: F32 = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
