"""A bundle's parts as PyTorch modules: nano's own weights, or random ones of the bundle's sizes.

Only contenders that need torch import this, and only when they are opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from safetensors.numpy import load_file
from torch import Tensor, nn

from kokanee.export.ct2 import WhisperEncoderWeights
from kokanee.export.dims import Architecture, LlamaConfig
from kokanee.export.gguf import LlamaWeights, open_gguf
from kokanee.export.nano.build import HERE
from kokanee.export.reference import BEATs, Connector, WhisperEncoder
from kokanee.quant import blocks as quant
from kokanee.quant.blocks import Blocks

F32 = npt.NDArray[np.float32]

_ADAPTED = ("q_proj", "v_proj")
_POOL = 1 << 24  # random numbers; every tensor is made of them


class LoraLinear(nn.Module):
    """y = W x + scale * B (A x), as PEFT computes it."""

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.a, self.b = (nn.Parameter(x, requires_grad=False) for x in (a, b))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_in] -> [..., d_out]."""
        return self.base(x) + self.scale * (x @ self.a.T @ self.b.T)  # type: ignore[no-any-return]


def encoders(sizes: Architecture, *, ct2: Path | None) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Whisper, BEATs and the connector in float32.

    Args:
        sizes: of the bundle.
        ct2: Whisper base's file: nano's weights. None: random ones.
    """
    with torch.device("meta"):
        made: tuple[nn.Module, nn.Module, nn.Module] = (
            WhisperEncoder(sizes.speech_encoder),
            BEATs(sizes.audio_encoder),
            Connector(sizes.connector),
        )
    if ct2 is None:
        for module in made:
            _fill(module, torch.float32)
    else:
        whisper = WhisperEncoderWeights(ct2)
        weights: list[Mapping[str, F32]] = [
            {name.removeprefix("model.encoder."): array for name, array in whisper.items()},
            load_file(HERE / "audio_encoder.safetensors"),
            load_file(HERE / "connector.safetensors"),
        ]
        for module, arrays in zip(made, weights, strict=True):
            state = {k: torch.from_numpy(np.asarray(a, np.float32)) for k, a in arrays.items()}
            module.load_state_dict(state, assign=True)
    for module in made:
        module.eval()
    return made


def llama(config: LlamaConfig, dtype: torch.dtype, *, master: Path | None, scale: float) -> Any:
    """transformers' LLaMA with its adapter beside the weights.

    Args:
        config: sizes.
        dtype: of weights and arithmetic.
        master: SmolLM2's GGUF: its released weights and nano's adapter. None: random ones.
        scale: what the adapter's output is multiplied by.
    """
    shape = transformers.LlamaConfig(
        vocab_size=config.n_vocab,
        hidden_size=config.d_model,
        intermediate_size=config.d_ffn,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=config.d_head,
        max_position_embeddings=config.n_positions,
        rope_theta=config.rope_theta,
        rms_norm_eps=config.rms_epsilon,
        tie_word_embeddings=config.tied_head,
    )
    with torch.device("meta"):
        model: Any = transformers.LlamaForCausalLM(shape)
    if master is None:
        _fill(model, dtype)
        lora = _random_adapter(config)
    else:
        state = {}
        for name, value in LlamaWeights(open_gguf(master)).items():
            array = quant.dequantize(value) if isinstance(value, Blocks) else np.array(value)
            state[name] = torch.from_numpy(array).to(dtype)
        if config.tied_head:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model.load_state_dict(state, assign=True)
        prefix = "llama_model.base_model.model."
        lora = {
            name.removeprefix(prefix): torch.from_numpy(array.astype(np.float32))
            for name, array in load_file(HERE / "lora.safetensors").items()
        }
    if config.tied_head:
        model.tie_weights()
    # The one thing that is not in a state dict: the angles of the rotary embedding.
    model.model.rotary_emb = type(model.model.rotary_emb)(shape)
    for i, layer in enumerate(model.model.layers if lora else ()):
        for target in _ADAPTED:
            at = f"model.layers.{i}.self_attn.{target}"
            a, b = (lora[f"{at}.lora_{x}.weight"].to(dtype) for x in "AB")
            adapted = LoraLinear(getattr(layer.self_attn, target), a, b, scale)
            setattr(layer.self_attn, target, adapted)
    return model.eval()


def to_int8(module: nn.Module) -> None:
    """Put bitsandbytes' Linear8bitLt in place of every matrix but the head's."""
    import bitsandbytes as bnb

    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and name != "lm_head":
            made = bnb.nn.Linear8bitLt(
                child.in_features,
                child.out_features,
                bias=False,
                has_fp16_weights=False,
                threshold=6.0,  # transformers' default
            )
            made.weight = bnb.nn.Int8Params(
                child.weight.data, requires_grad=False, has_fp16_weights=False
            )
            setattr(module, name, made.to("cpu"))
        else:
            to_int8(child)


def n_parameter_bytes(module: nn.Module) -> int:
    """Of all weights, shared ones once."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _random_adapter(config: LlamaConfig) -> dict[str, Tensor]:
    if not config.lora_rank:
        return {}
    rows = {"q_proj": config.n_heads * config.d_head, "v_proj": config.n_kv_heads * config.d_head}
    made = {}
    for i in range(config.n_layers):
        for target in _ADAPTED:
            at = f"model.layers.{i}.self_attn.{target}"
            made[f"{at}.lora_A.weight"] = 0.02 * torch.randn(config.lora_rank, config.d_model)
            made[f"{at}.lora_B.weight"] = 0.02 * torch.randn(rows[target], config.lora_rank)
    return made


def _fill(module: nn.Module, dtype: torch.dtype) -> None:
    """Give a module without storage small random weights; norms get ones and zeros."""
    generator = torch.Generator().manual_seed(0)
    pool = (0.02 * torch.randn(_POOL, generator=generator)).to(dtype)
    module.to_empty(device="cpu").to(dtype)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.data = torch.empty(parameter.shape, dtype=dtype)
            if parameter.dim() == 1:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            flat = parameter.data.view(-1)
            # No two begin alike: who keeps equal tensors once would read less than of trained ones.
            start, at = int(torch.randint(_POOL, (), generator=generator)), 0
            while at < len(flat):
                part = flat[at : at + _POOL - start]
                part.copy_(pool[start : start + len(part)])
                start, at = 0, at + len(part)
