"""The weights: one bundle opened once, shared by any number of sessions and threads."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from .decoder import Decoder
from .embedding import Embedding
from .encoders import STAGES, Encoders, Features, Run
from .errors import DeviceError, ManifestError, SessionClosed
from .features import FBANK_MEAN, FBANK_STD, HOP, N_FBANK, SAMPLE_RATE
from .growing import GrowingSound
from .manifest import GRAPHS, Manifest, Policy, check_sizes, read_manifest, verify_files
from .onnx import has_cuda, open_graph
from .prompt import tokenise
from .segments import Segment, apply_policy
from .session import Session

F32 = npt.NDArray[np.float32]
Device = Literal["auto", "cpu", "cuda"]
Cache = Literal["auto", "float32", "int8"]

_log = logging.getLogger(__name__)

DEFAULT_N_CTX = 2048  # positions; about five minutes of audio at six soft tokens a second


class Engine:
    """An open bundle. Sessions share its weights and each hold their own KV cache.

    Safe to use from any thread; a context manager. Closing it leaves open sessions usable, since
    they hold what they need, but opens no more.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        encoders: Encoders,
        llm: Any,
        embedding: Embedding,
        tokenizer: Tokenizer,
        timings_ms: dict[str, float],
        on_cuda: bool = False,
        kv_scales: Mapping[str, F32] | None = None,
    ) -> None:
        self.manifest = manifest
        self.encoders = encoders
        self.timings_ms = timings_ms
        """Milliseconds: "load", and "verify", the hashing that goes on beside it."""
        self.notes = tuple(_notes(manifest))
        """What a user should know of this bundle's quality; empty: its receipt is in order."""
        for note in self.notes:
            _log.warning("%s", note)
        self._llm = llm
        self._embedding = embedding
        self._tokenizer = tokenizer
        self._on_cuda = on_cuda
        self._kv_scales = kv_scales
        self._closed = False

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        device: Device = "auto",
        threads: int | None = None,
        kv_cache: Cache = "auto",
    ) -> Engine:
        """Open a bundle.

        Args:
            folder: holds `manifest.json` and the files it lists.
            device: "cuda", "cpu", or "auto": CUDA where it starts, else the CPU. On CUDA all four
                graphs are the bundle's float16 ones.
            threads: CPU threads a graph may use; every core by default.
            kv_cache: "int8" takes a quarter of the memory and decodes faster behind a long prompt,
                "float32" is exact. By default int8 where the bundle has units for it. On CUDA the
                cache is float16.

        Raises:
            ManifestError: the bundle is incomplete, altered, or made for another version.
            DeviceError: CUDA was asked for and does not start here, or the bundle has no graphs
                for it, or no int8 cache.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        _check_front_end(manifest)
        started = time.perf_counter()
        check_sizes(folder, manifest)
        # ONNX Runtime repacks weights on one core: meanwhile the other hashes every file, and then
        # opens the encoders one after the other.
        with ThreadPoolExecutor(1) as beside:
            hashed_ms = beside.submit(_hashed, folder, manifest)
            try:
                on_cuda = _cuda_starts(folder, manifest, device)
                kv_scales = None if on_cuda else _kv_scales(folder, manifest, kv_cache)

                def opened(name: str) -> Any:
                    return open_graph(
                        folder / _file(manifest, name, on_cuda, kv_scales is not None),
                        device="cuda" if on_cuda else "cpu",
                        threads=threads,
                        arena=name == "llm",
                    )

                others = [beside.submit(opened, name) for name in GRAPHS[:-1]]
                llm = opened("llm")
                speech_encoder, audio_encoder, connector = (other.result() for other in others)
            except ManifestError:
                hashed_ms.result()  # a file that was changed is what it is called, if it was
                raise
            verify_ms = hashed_ms.result()
        dims = manifest.dims
        embedding = Embedding(
            folder, manifest.embedding, n_vocab=dims.n_vocab, d_model=dims.d_model
        )
        tokenizer = Tokenizer.from_file(str(folder / manifest.tokenizer))
        return cls(
            manifest=manifest,
            encoders=Encoders(
                speech_encoder=speech_encoder,
                audio_encoder=audio_encoder,
                connector=connector,
                policy=manifest.policy,
                d_audio=dims.d_audio,
            ),
            llm=llm,
            embedding=embedding,
            tokenizer=tokenizer,
            timings_ms={"verify": verify_ms, "load": (time.perf_counter() - started) * 1e3},
            on_cuda=on_cuda,
            kv_scales=kv_scales,
        )

    def __enter__(self) -> Engine:
        """The engine itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Open no more sessions; the weights go when the last session does."""
        self._closed = True

    def session(
        self,
        *,
        n_ctx: int | None = None,
        lora_scale: float | None = None,
        policy: Policy | None = None,
        audio_encoder: bool = True,
    ) -> Session:
        """A conversation with a KV cache of its own, allocated now and never grown.

        Args:
            n_ctx: positions for audio, questions and answers; `DEFAULT_N_CTX`, or fewer where the
                model knows fewer.
            lora_scale: what the adapter's output is multiplied by; the bundle's alpha / rank by
                default, 0 for the bare LLM. A single question may ask for another.
            policy: how sound is cut and padded; the bundle's by default. Change a field of that one
                with `dataclasses.replace`.
            audio_encoder: False leaves BEATs out and puts zeros in its half (an ablation).

        Raises:
            ValueError: more positions than the model has.
            SessionClosed: the engine was closed.
        """
        if self._closed:
            raise SessionClosed("this engine was closed; open the bundle again")
        dims = self.manifest.dims
        n_ctx = min(DEFAULT_N_CTX, dims.n_positions) if n_ctx is None else n_ctx
        if not 0 < n_ctx <= dims.n_positions:
            raise ValueError(f"n_ctx: expected 1 to {dims.n_positions}, got {n_ctx}")
        policy = policy or self.manifest.policy

        def soft_tokens(
            segment: Segment, timings_ms: dict[str, float], features: Features, run: Run
        ) -> F32:
            return self.encoders.soft_tokens(
                segment, timings_ms, audio_encoder=audio_encoder, features=features, run=run
            )

        return Session(
            encode=functools.partial(
                self.encoders.encode, policy=policy, audio_encoder=audio_encoder
            ),
            grow=lambda streaming: GrowingSound(
                soft_tokens, policy, streaming, d_model=dims.d_model
            ),
            decoder=self._decoder(n_ctx, lora_scale),
            form=self.manifest.prompt,
            tokenizer=self._tokenizer,
            d_model=dims.d_model,
            n_queries=policy.n_queries,
        )

    def trace(
        self,
        pcm: F32,
        text: str,
        *,
        max_new_tokens: int = 16,
        lora_scale: float | None = None,
        policy: Policy | None = None,
        audio_encoder: bool = True,
    ) -> dict[str, npt.NDArray[Any]]:
        """Every array between samples and greedy answer, under the reference's names.

        Args:
            pcm: [n_samples], 16 kHz mono; only the first segment is traced.
            text: a whole template that holds <SpeechHere> once.
            max_new_tokens: length of the greedy answer at most.
            lora_scale: as for `session`.
            policy: as for `session`.
            audio_encoder: as for `session`; without it `beats_out` is empty.

        Returns:
            n_samples_used, logmel, whisper_out, beats_fbank, beats_out, concat, kernel, stride,
            n_windows, qformer_out, speech_tokens, ids_before, ids_after, inputs_embeds,
            attention_mask [n_prompt], prefill_logits [n_prompt, n_vocab], greedy_ids,
            greedy_step_logits [n_steps, n_vocab].
        """
        policy = policy or self.manifest.policy
        heard = apply_policy(pcm, policy)
        segment = heard.segments[0]
        arrays: dict[str, npt.NDArray[Any]] = dict(
            self.encoders.arrays(segment, dict.fromkeys(STAGES, 0.0), audio_encoder=audio_encoder)
        )
        prompt = tokenise(text, self._tokenizer, bos_id=self.manifest.prompt.bos_id)
        n_prompt = len(prompt.head) + len(arrays["speech_tokens"]) + len(prompt.ids_after)
        decoder = self._decoder(n_prompt + max_new_tokens, lora_scale)
        embeds = np.concatenate(
            [decoder.embed(prompt.head), arrays["speech_tokens"], decoder.embed(prompt.ids_after)]
        )
        prefill_logits = decoder.all_logits(embeds)
        ids: list[int] = []
        steps = [prefill_logits[-1]]
        while True:
            ids.append(int(np.argmax(steps[-1])))
            if ids[-1] in self.manifest.prompt.eos_ids or len(ids) == max_new_tokens:
                break
            steps.append(decoder.step(ids[-1]).copy())
        decoder.close()
        return arrays | {
            "n_samples_used": np.asarray(len(segment.audio_pcm), np.int64),
            "kernel": np.asarray(policy.window_frames, np.int64),
            "stride": np.asarray(policy.stride_frames, np.int64),
            "n_windows": np.asarray(segment.n_windows, np.int64),
            "ids_before": np.asarray(prompt.ids_before, np.int64),
            "ids_after": np.asarray(prompt.ids_after, np.int64),
            "inputs_embeds": embeds,
            "attention_mask": np.ones(n_prompt, np.int64),
            "prefill_logits": prefill_logits,
            "greedy_ids": np.asarray(ids, np.int64),
            "greedy_step_logits": np.stack(steps),
        }

    def _decoder(self, n_ctx: int, lora_scale: float | None) -> Decoder:
        return Decoder(
            self._llm,
            self._embedding,
            self.manifest.dims,
            n_ctx=n_ctx,
            lora_scale=self.manifest.lora.scale if lora_scale is None else lora_scale,
            on_cuda=self._on_cuda,
            kv_scales=self._kv_scales,
        )


def open_decoder(
    folder: str | Path,
    *,
    n_ctx: int,
    device: Device = "cpu",
    threads: int | None = None,
    kv_cache: Cache = "auto",
) -> Decoder:
    """A bundle's language model alone, files unhashed: for measuring it.

    Args:
        folder: the bundle.
        n_ctx: positions of its cache.
        device: as for `Engine.open`.
        threads: as for `Engine.open`.
        kv_cache: as for `Engine.open`.

    Raises:
        ManifestError: the bundle is incomplete.
        DeviceError: as `Engine.open`.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    on_cuda = _cuda_starts(folder, manifest, device)
    kv_scales = None if on_cuda else _kv_scales(folder, manifest, kv_cache)
    dims = manifest.dims
    return Decoder(
        open_graph(
            folder / _file(manifest, "llm", on_cuda, kv_scales is not None),
            device="cuda" if on_cuda else "cpu",
            threads=threads,
        ),
        Embedding(folder, manifest.embedding, n_vocab=dims.n_vocab, d_model=dims.d_model),
        dims,
        n_ctx=n_ctx,
        lora_scale=manifest.lora.scale,
        on_cuda=on_cuda,
        kv_scales=kv_scales,
    )


def _hashed(folder: Path, manifest: Manifest) -> float:
    """Check every file's hash; milliseconds that it took."""
    started = time.perf_counter()
    verify_files(folder, manifest, threads=1)
    return (time.perf_counter() - started) * 1e3


def _notes(manifest: Manifest) -> list[str]:
    """What the receipt says against a bundle, and what to do."""
    name, receipt = manifest.name, manifest.receipt
    if receipt is None:
        return [
            f"{name} has no receipt: nobody measured what its quantization did; `kokanee quantize`"
            " and `kokanee build` measure"
        ]
    mend = "; `kokanee inspect` has the figures, `kokanee quantize` other schemes"
    return [f"{name}: {complaint}{mend}" for complaint in receipt.complaints()]


def _kv_scales(folder: Path, manifest: Manifest, kv_cache: Cache) -> dict[str, F32] | None:
    """Units of the int8 cache; None: the cache is a float one."""
    kept = manifest.int8_cache
    if kv_cache == "float32" or (kv_cache == "auto" and kept is None):
        return None
    if kept is None:
        raise DeviceError(
            f"{manifest.name} has no units for an int8 cache; make a bundle that has with"
            " `kokanee quantize`, or choose --kv-cache float32"
        )
    try:
        scales: dict[str, F32] = load_file(folder / kept.scales)
    except (OSError, SafetensorError) as error:
        raise ManifestError(f"{kept.scales}: {error}; build the bundle again") from None
    dims = manifest.dims
    for i in range(dims.n_layers):
        for kv in ("key", "value"):
            got = scales.get(f"{kv}_scale.{i}")
            if got is None or got.shape != (dims.n_kv_heads * dims.d_head,) or got.dtype != "<f4":
                raise ManifestError(
                    f"{kept.scales}: {kv}_scale.{i}: expected float32"
                    f" [{dims.n_kv_heads * dims.d_head}]; build the bundle again"
                )
    return scales


def _cuda_starts(folder: Path, manifest: Manifest, device: Device) -> bool:
    """Whether to compute on the GPU; tried with the smallest graph, before gigabytes are loaded."""
    if not has_cuda(device):
        return False
    try:
        open_graph(folder / _file(manifest, "connector", on_cuda=True), device="cuda")
    except DeviceError:
        if device == "cuda":
            raise
        return False
    return True


def _file(manifest: Manifest, name: str, on_cuda: bool, int8_cache: bool = False) -> str:
    graph = manifest.graphs[name]
    if int8_cache and name == "llm" and manifest.int8_cache is not None:
        return manifest.int8_cache.graph
    if not on_cuda:
        return graph.file
    if graph.half is None:
        raise DeviceError(
            f"{manifest.name} has no float16 {name} for CUDA; build the bundle again,"
            " or choose --device cpu"
        )
    return graph.half


def _check_front_end(manifest: Manifest) -> None:
    """Features are code, not data: a bundle made for others must not run on these."""
    front_end = manifest.front_end
    want = (SAMPLE_RATE, HOP, N_FBANK, FBANK_MEAN, FBANK_STD)
    got = (
        front_end.sample_rate,
        front_end.hop,
        front_end.n_fbank,
        front_end.fbank_mean,
        front_end.fbank_std,
    )
    if got != want:
        raise ManifestError(f"front_end: this version computes {want}, the bundle wants {got}")
