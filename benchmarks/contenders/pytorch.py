"""The reference in PyTorch: its modules in float32, and transformers' LLaMA in float32 or int8.

Features are Kokanee's own, which are the reference's to rounding, and sound is cut and padded as
the bundle says: what differs is who computes the model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from kokanee.engine import Manifest, read_manifest
from kokanee.engine.features import fbank, log_mel
from kokanee.engine.onnx import give_back_free_memory
from kokanee.engine.prompt import fill, tokenise
from kokanee.engine.segments import apply_policy
from kokanee.engine.text import Detokenizer
from kokanee.export.dims import Architecture, LlamaConfig
from kokanee.export.sources import SMOLLM2, WHISPER_BASE, fetch
from kokanee.runtime.memory import machine_mb

from . import Said, UnavailableError
from .weights import cache_of, is_nano, need_nano

F32 = npt.NDArray[np.float32]

STAGES = ("features", "speech_encoder", "audio_encoder", "connector")
_SHARE = 0.8  # of the machine's memory that weights may take
_CHUNK = 256  # positions that are filled at once


def prepare(role: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Fetch nano's parts; see `Decoding`.

    Raises:
        SourceError: they could not be had.
        UnavailableError: answers of random weights were asked for.
    """
    manifest = read_manifest(Path(spec["bundle"]))
    if role == "answers":
        need_nano(manifest)
    if not is_nano(manifest):
        return {}
    parts = {"ct2": WHISPER_BASE, "master": SMOLLM2}
    return {
        name: str(fetch(part, cache_of(spec), progress=lambda *_: None))
        for name, part in parts.items()
    }


class Encoding:
    """Samples to soft tokens, float32."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Make the modules.

        Args:
            spec: bundle, threads; ct2, nano's part, as `prepare` has it.
        """
        import torch

        from . import torch_modules

        self._torch = torch
        torch.set_num_threads(spec["threads"])
        manifest = read_manifest(Path(spec["bundle"]))
        self._policy = manifest.policy
        ct2 = Path(spec["ct2"]) if "ct2" in spec else None
        self._modules = torch_modules.encoders(
            Architecture.from_json(manifest.architecture), ct2=ct2
        )
        self.facts: dict[str, Any] = {
            "what": f"encoders of {'nano' if ct2 else manifest.name}, float32",
            "n_bytes": sum(map(torch_modules.n_parameter_bytes, self._modules)),
            "note": "the bundle's weights" if ct2 else "random weights of the same sizes",
        }

    def encode(self, pcm: F32) -> Mapping[str, float]:
        """Features, both encoders, connector."""
        return self.soft_tokens(pcm)[1]

    def soft_tokens(self, pcm: F32) -> tuple[Any, dict[str, float]]:
        """Soft tokens of a whole sound, [1, n_soft_tokens, d_model], and milliseconds by stage."""
        torch, (speech_encoder, audio_encoder, connector) = self._torch, self._modules
        timings_ms, parts = dict.fromkeys(STAGES, 0.0), []
        for segment in apply_policy(pcm, self._policy).segments:
            with torch.inference_mode():
                at = [time.perf_counter()]
                mel = torch.from_numpy(log_mel(segment.speech_pcm)[None])
                bank = torch.from_numpy(fbank(segment.audio_pcm)[None])
                at.append(time.perf_counter())
                speech = speech_encoder(mel)
                at.append(time.perf_counter())
                audio = audio_encoder(bank)
                at.append(time.perf_counter())
                parts.append(connector(speech, audio))
                at.append(time.perf_counter())
            for stage, lap in zip(STAGES, np.diff(at), strict=True):
                timings_ms[stage] += float(lap) * 1e3
        return torch.cat(parts, dim=1), timings_ms


class Model:
    """LLaMA with a cache."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Make it.

        Args:
            spec: as for `Decoding`.

        Raises:
            UnavailableError: its weights would not leave room in this machine's memory.
        """
        manifest = read_manifest(Path(spec["bundle"]))
        config = Architecture.from_json(manifest.architecture).llm
        int8 = spec.get("int8", False)
        dtype = spec.get("dtype", "float32")
        _need_room(config, manifest, dtype)

        import torch

        from . import torch_modules

        self._torch = torch
        torch.set_num_threads(spec["threads"])
        master = Path(spec["master"]) if "master" in spec else None
        self.model = torch_modules.llama(
            config, getattr(torch, dtype), master=master, scale=manifest.lora.scale
        )
        if int8:
            torch_modules.to_int8(self.model)
        give_back_free_memory()  # what loading left behind is not the model's
        self.cache: Any = None
        name = "SmolLM2-135M" if master else manifest.name
        self.facts: dict[str, Any] = {
            "what": f"{name} {'LLM.int8' if int8 else dtype}, adapter, {dtype} cache",
            "n_bytes": torch_modules.n_parameter_bytes(self.model),
            "note": "SmolLM2's released weights, dequantized"
            if master
            else "random weights of the same sizes",
        }

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return 0 if self.cache is None else int(self.cache.get_seq_length())

    def trim(self, length: int) -> None:
        """Forget all positions behind so many."""
        if length == 0:
            self.cache = None
        elif length < self.length:
            self.cache.crop(length - self.length)

    def embed(self, ids: Sequence[int]) -> Any:
        """[1, n_ids, d_model]."""
        return self.model.model.embed_tokens(self._torch.tensor([list(ids)]))

    def append(self, embeds: Any) -> int:
        """Take embeddings, [1, n, d_model]; the likeliest next token."""
        with self._torch.inference_mode():
            out = self.model(
                inputs_embeds=embeds,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
            self.cache = out.past_key_values
            return int(out.logits[0, -1].argmax())


class Decoding:
    """The language model alone, its adapter included."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Make it.

        Args:
            spec: bundle, threads; master, nano's part, as `prepare` has it; dtype (float32, or
                bfloat16 to halve it); int8: LLM.int8 in place of the matrices.

        Raises:
            UnavailableError: its weights would not leave room in this machine's memory.
        """
        self._llm = Model(spec)
        self._token = 5
        self.facts = self._llm.facts

    def rewind(self, n_past: int) -> None:
        """Fill what is missing, forget what is too much."""
        rng = np.random.default_rng(0)
        while (missing := n_past - self._llm.length) > 0:
            ids = rng.integers(5, 250, min(missing, _CHUNK)).tolist()
            self._llm.append(self._llm.embed(ids))
        self._llm.trim(n_past)

    def prefill(self, n_new: int) -> None:
        """Token embeddings, and the logits of the last."""
        self._llm.append(self._llm.embed([7] * n_new))

    def step(self) -> None:
        """Greedy."""
        self._token = self._llm.append(self._llm.embed([self._token]))


class Answering:
    """The whole way from samples to text, as the reference goes it."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Make it.

        Args:
            spec: as for `Encoding` and `Decoding` together.
        """
        folder = Path(spec["bundle"])
        manifest = read_manifest(folder)
        self._form = manifest.prompt
        self._tokenizer = Tokenizer.from_file(str(folder / manifest.tokenizer))
        self._encoding = Encoding(spec)
        self._llm = Model(spec)
        encoders, llm = self._encoding.facts, self._llm.facts
        self.facts = {
            "what": f"{encoders['what']} + {llm['what']}",
            "n_bytes": encoders["n_bytes"] + llm["n_bytes"],
            "note": llm["note"],
        }

    def answer(self, pcm: F32, question: str, *, max_new_tokens: int) -> Said:
        """Hear, then ask; greedy."""
        started = time.perf_counter()
        soft_tokens, stages = self._encoding.soft_tokens(pcm)
        llm, torch = self._llm, self._encoding._torch
        at = time.perf_counter()
        prompt = tokenise(fill(self._form, question), self._tokenizer, bos_id=self._form.bos_id)
        llm.trim(0)
        llm.append(torch.cat([llm.embed(prompt.head), soft_tokens], dim=1))
        stages["prefill_audio"], at = (time.perf_counter() - at) * 1e3, time.perf_counter()
        token = llm.append(llm.embed(prompt.ids_after))
        stages["prefill_question"] = (time.perf_counter() - at) * 1e3
        detokenizer = Detokenizer(self._tokenizer)
        text, n_tokens, first_ms = "", 0, None
        while token not in self._form.eos_ids:
            n_tokens += 1
            text += detokenizer.push(token)
            if text and first_ms is None:
                first_ms = (time.perf_counter() - started) * 1e3
            if n_tokens == max_new_tokens:
                break
            token = llm.append(llm.embed([token]))
        text += detokenizer.flush()
        total_ms = (time.perf_counter() - started) * 1e3
        first_ms = total_ms if first_ms is None else first_ms
        stages["first_piece"] = max(0.0, first_ms - sum(stages.values()))
        return Said(
            text=text,
            n_tokens=n_tokens,
            stages_ms=stages,
            first_token_ms=first_ms,
            total_ms=total_ms,
        )


def _need_room(config: LlamaConfig, manifest: Manifest, dtype: str) -> None:
    width = 4 if dtype == "float32" else 2  # bytes
    d, kv = config.d_model, config.n_kv_heads * config.d_head
    layer = 2 * d * d + 2 * d * kv + 3 * d * config.d_ffn
    tables = config.n_vocab * d * (1 if config.tied_head else 2)
    mb = width * (config.n_layers * layer + tables) / 1e6
    has = machine_mb()
    if has is not None and mb > _SHARE * has:
        raise UnavailableError(
            f"{manifest.name}: the language model in {dtype} is {mb / 1e3:.1f} GB,"
            f" this machine has {has / 1e3:.1f}"
        )


ROLES = {"answers": Answering, "encodes": Encoding, "decodes": Decoding}
