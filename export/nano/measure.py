"""Nano beside PyTorch and in float32 -> parity and receipt in `measured.json`, `kv_scales`.

    python -m kokanee.export.nano.measure [CACHE]      # needs the extra [build]

Nano is built without torch; this is what shows that nothing was lost on the way. The units of its
int8 cache, which need prompts to be seen, are kept beside this file.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import transformers
from safetensors.numpy import load_file
from torch import Tensor, nn

from kokanee.engine.audio import read_audio
from kokanee.engine.engine import Engine
from kokanee.engine.features import fbank, log_mel
from kokanee.engine.manifest import Parity, Receipt, read_manifest
from kokanee.engine.onnx import open_graph
from kokanee.engine.segments import apply_policy
from kokanee.export.bundle import KV_SCALES
from kokanee.export.ct2 import WhisperEncoderWeights
from kokanee.export.gguf import LlamaWeights, open_gguf
from kokanee.export.parity import check_parity
from kokanee.export.quantized import Exact, Treatment, finished, float_encoders
from kokanee.export.reference import BEATs, Connector, WhisperEncoder
from kokanee.export.sources import SMOLLM2, WHISPER_BASE, fetch
from kokanee.quant import blocks as quant
from kokanee.quant.blocks import Blocks

from .build import (
    ARCHITECTURE,
    DIMS,
    HERE,
    LORA,
    POLICY,
    PROMPT,
    build_nano,
    default_cache,
    make,
)

F32 = npt.NDArray[np.float32]

RECORDING = Path(__file__).parents[2] / "runtime" / "recordings" / "speech_over_sound.wav"
QUESTION = "What do you hear?"
# Largest absolute difference allowed. Weights are rounded to halves on both sides, so that only the
# order of sums differs; BEATs' position kernel is rounded after its norm here, before it there.
# The LLM's logits reach 30, and its head quantizes its input to 8 bits (MatMulNBits, accuracy
# level 4) even where the layers are float; with int4 layers, so does every product.
TOLERANCE = {"speech_encoder": 2e-3, "audio_encoder": 1e-2, "connector": 2e-3, "llm": 1.0}
TOLERANCE_INT4 = 4.0


def measure(cache: Path) -> dict[str, Parity]:
    """Build nano twice (int4 and float LLM) and hold every graph to PyTorch.

    Raises:
        ParityError: a graph is further from PyTorch than its tolerance.
    """
    bundles = {q: build_nano(cache, llm_quant=q, keep_parts=True) for q in ("none", "int4")}
    graphs = {g: open_graph(bundles["int4"] / f"{g}.onnx", device="cpu") for g in TOLERANCE}
    segment = apply_policy(read_audio(RECORDING).pcm, POLICY).segments[0]
    mel, bank = log_mel(segment.speech_pcm)[None], fbank(segment.audio_pcm)[None]
    whisper = WhisperEncoderWeights(fetch(WHISPER_BASE, cache, progress=lambda *_: None))
    modules: dict[str, tuple[nn.Module, Mapping[str, F32]]] = {
        "speech_encoder": (
            WhisperEncoder(ARCHITECTURE.speech_encoder),
            {name.removeprefix("model.encoder."): array for name, array in whisper.items()},
        ),
        "audio_encoder": (
            BEATs(ARCHITECTURE.audio_encoder),
            load_file(HERE / "audio_encoder.safetensors"),
        ),
        "connector": (Connector(ARCHITECTURE.connector), load_file(HERE / "connector.safetensors")),
    }
    inputs: dict[str, dict[str, F32]] = {
        "speech_encoder": {"log_mel": mel},
        "audio_encoder": {"fbank": bank},
    }
    parity = {}
    outputs = {"speech_encoder": "speech", "audio_encoder": "audio", "connector": "soft_tokens"}
    for name, (module, weights) in modules.items():
        # The graphs keep halves; compare with the same halves.
        halves = {k: np.asarray(v, np.float16).astype(np.float32) for k, v in weights.items()}
        module.load_state_dict({k: torch.from_numpy(v) for k, v in halves.items()})
        with torch.no_grad():
            want = module(*(torch.from_numpy(x) for x in inputs[name].values())).numpy()
        (got,) = graphs[name].run([outputs[name]], inputs[name])
        parity[name] = check_parity(
            name,
            {outputs[name]: got},
            {outputs[name]: want},
            tolerance=TOLERANCE[name],
            against="PyTorch, same weights",
        )
        inputs.setdefault("connector", {})[outputs[name]] = got
    llm = _llama(cache)
    for quant_name, label, tolerance in (
        ("none", "llm", TOLERANCE["llm"]),
        ("int4", "llm_int4", TOLERANCE_INT4),
    ):
        with Engine.open(bundles[quant_name], device="cpu") as engine:
            text = engine.manifest.prompt.template.replace("{}", QUESTION)
            arrays = engine.trace(read_audio(RECORDING).pcm, text, max_new_tokens=1)
        with torch.no_grad():
            embeds = torch.from_numpy(arrays["inputs_embeds"])[None]
            want = llm(inputs_embeds=embeds).logits[0].numpy()
        parity[label] = check_parity(
            label,
            {"logits": arrays["prefill_logits"]},
            {"logits": want},
            tolerance=tolerance,
            against="transformers LlamaForCausalLM, same weights dequantized",
        )
    return parity


def receipt_and_units(cache: Path) -> Receipt:
    """Build nano once more, see prompts, write `kv_scales.safetensors` here; what was measured."""
    llama = LlamaWeights(open_gguf(fetch(SMOLLM2, cache, progress=lambda *_: None)))
    halves = load_file(HERE / "lora.safetensors")
    prefix = "llama_model.base_model.model."
    adapter = {n.removeprefix(prefix): a.astype(np.float32) for n, a in halves.items()}
    weights = {**llama, **adapter}
    exact = Exact(
        architecture=ARCHITECTURE,
        dims=DIMS,
        form=PROMPT,
        policy=POLICY,
        lora_scale=LORA.scale,
        llm=weights,
        table=weights,
        encoders=None,
        says="SmolLM2's released 4-bit weights, computed in float32",
    )
    treatment = Treatment(scheme="none", kv_cache="int8", receipt=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "nano"
        exact = dataclasses.replace(
            exact,
            encoders=functools.partial(
                float_encoders,
                ARCHITECTURE,
                {
                    "speech_encoder": WhisperEncoderWeights(
                        fetch(WHISPER_BASE, cache, progress=lambda *_: None)
                    ),
                    "audio_encoder": load_file(HERE / "audio_encoder.safetensors"),
                    "connector": load_file(HERE / "connector.safetensors"),
                },
                Path(scratch) / "float",
            ),
        )
        make(
            *(folder, cache, HERE, ARCHITECTURE, "packages"),
            progress=lambda *_: None,
            command="kokanee build nano",
            finish=functools.partial(finished, exact, treatment, HERE, progress=lambda *_: None),
        )
        shutil.copyfile(folder / KV_SCALES, HERE / KV_SCALES)
        receipt = read_manifest(folder).receipt
    assert receipt is not None
    method = "the released blocks bit for bit; cache calibrated with Kokanee's own texts and sounds"
    return dataclasses.replace(receipt, method=method)


class LoraLinear(nn.Module):
    """y = W x + scale * B (A x), as PEFT computes it."""

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.base, self.a, self.b = base, a, b

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_in] -> [..., d_out]."""
        return self.base(x) + LORA.scale * (x @ self.a.T @ self.b.T)  # type: ignore[no-any-return]


def _llama(cache: Path) -> nn.Module:
    """SmolLM2 in float32 with nano's adapter."""
    c = ARCHITECTURE.llm
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=c.n_vocab,
            hidden_size=c.d_model,
            intermediate_size=c.d_ffn,
            num_hidden_layers=c.n_layers,
            num_attention_heads=c.n_heads,
            num_key_value_heads=c.n_kv_heads,
            max_position_embeddings=c.n_positions,
            rope_theta=c.rope_theta,
            rms_norm_eps=c.rms_epsilon,
            tie_word_embeddings=True,
        )
    )
    weights = LlamaWeights(open_gguf(fetch(SMOLLM2, cache, progress=lambda *_: None)))
    state = {}
    for name, value in weights.items():
        array = quant.dequantize(value) if isinstance(value, Blocks) else np.array(value)
        state[name] = torch.from_numpy(array)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    prefix = "llama_model.base_model.model."
    lora = {
        name.removeprefix(prefix): torch.from_numpy(array.astype(np.float32))
        for name, array in load_file(HERE / "lora.safetensors").items()
    }
    for i, layer in enumerate(model.model.layers):
        for target in LORA.targets:
            at = f"model.layers.{i}.self_attn.{target}"
            base = getattr(layer.self_attn, target)
            adapted = LoraLinear(base, lora[f"{at}.lora_A.weight"], lora[f"{at}.lora_B.weight"])
            setattr(layer.self_attn, target, adapted)
    return model.eval()  # type: ignore[no-any-return]


def main() -> None:
    """Measure, and put the result into `measured.json`."""
    cache = Path(sys.argv[1]) if len(sys.argv) > 1 else default_cache()
    receipt = receipt_and_units(cache)
    parity = measure(cache)
    path = HERE / "measured.json"
    measured = json.loads(path.read_text(encoding="utf-8"))
    measured["parity"] = {name: dataclasses.asdict(p) for name, p in parity.items()}
    measured["receipt"] = dataclasses.asdict(receipt)
    path.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    json.dump(measured["parity"], sys.stdout, indent=2)


if __name__ == "__main__":
    main()
