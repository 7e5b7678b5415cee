"""OpenVINO's CPU plugin: encoders converted from PyTorch, the language model read from a GGUF file.

Precision and cache are the plugin's own choice for the machine; the facts say what it chose.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kokanee.engine import read_manifest
from kokanee.engine.features import fbank, log_mel
from kokanee.engine.manifest import sha256
from kokanee.engine.segments import apply_policy
from kokanee.export.dims import Architecture
from kokanee.export.nano.build import HERE
from kokanee.export.sources import WHISPER_BASE, fetch

from . import UnavailableError
from .weights import cache_of, elsewhere, is_nano, language_model, model_name, usual_kind, work_of

F32 = npt.NDArray[np.float32]

ENCODERS = ("speech_encoder", "audio_encoder", "connector")
STAGES = ("features", *ENCODERS)
_CHUNK = 512  # positions that are filled at once


def prepare(role: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Convert what the role reads, once; see `Encoding` and `Decoding`.

    Raises:
        SourceError: nano's weights could not be had.
        UnavailableError: OpenVINO does not read the model.
    """
    manifest, work = read_manifest(Path(spec["bundle"])), work_of(spec)
    if role == "decodes":
        kind = spec.get("quant") or usual_kind(manifest)
        gguf = language_model(spec, kind)
        folder = work / f"openvino-{gguf.stem}"
        if not (folder / "openvino_model.xml").is_file():
            elsewhere(_convert_gguf, gguf, folder)
        return {"openvino": str(folder), "gguf": str(gguf)}
    sizes = Architecture.from_json(manifest.architecture)
    ct2, made_of = None, repr((sizes.speech_encoder, sizes.audio_encoder, sizes.connector))
    if is_nano(manifest):
        ct2 = fetch(WHISPER_BASE, cache_of(spec), progress=lambda *_: None)
        made_of += "".join(sha256(HERE / f"{n}.safetensors") for n in ENCODERS[1:])
    folder = work / f"openvino-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        elsewhere(_convert_encoders, sizes, ct2, folder)
    return {"openvino": str(folder)}


class Encoding:
    """Samples to soft tokens."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Compile the models.

        Args:
            spec: bundle, threads; openvino, the folder, as `prepare` has it; for making it work,
                cache; precision (f32, bf16), by default what the plugin chooses.
        """
        manifest = read_manifest(Path(spec["bundle"]))
        folder = Path(spec["openvino"])
        self._policy = manifest.policy
        self._models = [_compiled(folder / f"{name}.xml", spec) for name in ENCODERS]
        precision = _said(self._models[0], "INFERENCE_PRECISION_HINT")
        self.facts = {
            "what": f"encoders of {manifest.name} in float16, computed in {precision}",
            "n_bytes": sum((folder / f"{name}.bin").stat().st_size for name in ENCODERS),
            "note": "the bundle's weights"
            if is_nano(manifest)
            else "random weights of the same sizes",
        }

    def encode(self, pcm: F32) -> Mapping[str, float]:
        """Features, both encoders, connector."""
        return self.soft_tokens(pcm)[1]

    def soft_tokens(self, pcm: F32) -> tuple[F32, dict[str, float]]:
        """Soft tokens of a whole sound, [n_soft_tokens, d_model], and milliseconds by stage."""
        speech_encoder, audio_encoder, connector = self._models
        timings_ms, parts = dict.fromkeys(STAGES, 0.0), []
        for segment in apply_policy(pcm, self._policy).segments:
            at = [time.perf_counter()]
            mel, bank = log_mel(segment.speech_pcm)[None], fbank(segment.audio_pcm)[None]
            at.append(time.perf_counter())
            speech = speech_encoder([mel])[0]
            at.append(time.perf_counter())
            audio = audio_encoder([bank])[0]
            at.append(time.perf_counter())
            parts.append(connector([speech, audio])[0][0].copy())
            at.append(time.perf_counter())
            for stage, lap in zip(STAGES, np.diff(at), strict=True):
                timings_ms[stage] += float(lap) * 1e3
        return np.concatenate(parts), timings_ms


class Decoding:
    """The language model that openvino-genai makes of a GGUF file, as one request with a state."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Compile the model.

        Args:
            spec: bundle, threads; openvino, the folder, as `prepare` has it; for making it gguf,
                work, cache, shape, quant, as for llama.cpp; precision, as for `Encoding`.
        """
        self._ov = importlib.import_module("openvino")
        file = Path(spec["openvino"]) / "openvino_model.xml"
        model = _compiled(file, spec, last_logits=True)
        self._request = model.create_infer_request()
        self._length, self._token = 0, 5
        precision = _said(model, "INFERENCE_PRECISION_HINT")
        cache = _said(model, "KV_CACHE_PRECISION")
        nano = is_nano(read_manifest(Path(spec["bundle"])))
        self.facts = {
            "what": f"{model_name(Path(spec['gguf']))}, computed in {precision}, {cache} cache",
            "n_bytes": file.with_suffix(".bin").stat().st_size,
            "note": "no adapter" if nano else "random weights of the same sizes, no adapter",
        }

    def rewind(self, n_past: int) -> None:
        """Fill what is missing, cut what is too much off the state."""
        rng = np.random.default_rng(0)
        while (missing := n_past - self._length) > 0:
            self._append(rng.integers(5, 250, min(missing, _CHUNK)))
        if n_past == 0:
            self._request.reset_state()
        elif n_past < self._length:
            for variable in self._request.query_state():  # [1, n_kv_heads, length, d_head]
                kept = np.ascontiguousarray(variable.state.data[:, :, :n_past])
                variable.state = self._ov.Tensor(kept)
        self._length = n_past

    def prefill(self, n_new: int) -> None:
        """One request, which makes the logits of the last alone."""
        self._append(np.full(n_new, 7))

    def step(self) -> None:
        """Greedy."""
        self._token = self._append(np.asarray([self._token]))

    def _append(self, ids: npt.NDArray[np.int64]) -> int:
        end = self._length + len(ids)
        out = self._request.infer(
            {
                "input_ids": ids[None].astype(np.int64),
                "attention_mask": np.ones((1, end), np.int64),
                "position_ids": np.arange(self._length, end, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            },
            share_inputs=True,
            share_outputs=True,
        )
        self._length = end
        return int(out["logits"][0, -1].argmax())


def _compiled(file: Path, spec: Mapping[str, Any], *, last_logits: bool = False) -> Any:
    core = importlib.import_module("openvino").Core()
    model = core.read_model(str(file))
    if last_logits:
        _keep_last_logits(model)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": spec["threads"]}
    if "precision" in spec:
        settings["INFERENCE_PRECISION_HINT"] = spec["precision"]
    return core.compile_model(model, "CPU", settings)


def _keep_last_logits(model: Any) -> None:
    """Cut all positions but the last off before the head, as openvino-genai's own pipeline does."""
    slice_of = importlib.import_module("openvino.opset13").slice
    head = model.output("logits").get_node()
    while head.get_type_name() != "MatMul":
        head = head.input_value(0).get_node()
    hidden = head.input_value(0)  # [1, n_new, d_model]
    start, stop, step, axis = (np.array([n], np.int64) for n in (-1, 2**31 - 1, 1, 1))
    head.input(0).replace_source_output(slice_of(hidden, start, stop, step, axis).output(0))
    model.validate_nodes_and_infer_types()


def _said(model: Any, name: str) -> str:
    """A precision in a word: float32, bfloat16, uint8."""
    said = str(model.get_property(name)).removeprefix("<Type: '").removesuffix("'>")
    return said.removesuffix("_t")


# --- made once, elsewhere -------------------------------------------------------------------------


def _convert_gguf(gguf: Path, folder: Path) -> None:
    genai = importlib.import_module("openvino_genai")
    scratch = folder.with_suffix(".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        inside = scratch / gguf.name  # the model is saved beside the file that it is made of
        inside.symlink_to(gguf.resolve())
        try:
            genai.LLMPipeline(str(inside), "CPU", enable_save_ov_model=True)
        except (RuntimeError, IndexError) as error:
            # It reads byte-level tokenizers only, and random weights have another kind: the model
            # was saved by then, and takes ids.
            if not (scratch / "openvino_model.bin").is_file():
                why = str(error).strip().splitlines()[-1]
                raise UnavailableError(f"openvino-genai cannot read {gguf.name}: {why}") from None
        inside.unlink()
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _convert_encoders(sizes: Architecture, ct2: Path | None, folder: Path) -> None:
    import torch

    from . import torch_modules

    ov = importlib.import_module("openvino")
    torch.set_grad_enabled(False)
    modules = torch_modules.encoders(sizes, ct2=ct2)
    n_mels, n_bins = sizes.speech_encoder.num_mel_bins, sizes.audio_encoder.n_mels
    d_speech, d_audio = sizes.connector.d_speech, sizes.connector.d_audio
    examples = (  # lengths are free; these are what 3 s have
        [("log_mel", torch.zeros(1, n_mels, 306), [1, n_mels, -1])],
        [("fbank", torch.zeros(1, 298, n_bins), [1, -1, n_bins])],
        [
            ("speech", torch.zeros(1, 153, d_speech), [1, -1, d_speech]),
            ("audio", torch.zeros(1, 144, d_audio), [1, -1, d_audio]),
        ],
    )
    scratch = folder.with_suffix(".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for name, module, inputs in zip(ENCODERS, modules, examples, strict=True):
        model = ov.convert_model(
            module,
            example_input=tuple(array for _, array, _ in inputs),
            input=[ov.PartialShape(shape) for _, _, shape in inputs],
        )
        ov.save_model(model, str(scratch / f"{name}.xml"))
    scratch.rename(folder)


ROLES = {"encodes": Encoding, "decodes": Decoding}
