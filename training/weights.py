"""The frozen base weights as torch modules: Whisper base's encoder and SmolLM2-135M-Instruct."""

import struct
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from kokanee.export.reference import WhisperDims, WhisperEncoder

WHISPER_BASE = WhisperDims(
    d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048
)


def _ct2_arrays(blob: bytes) -> dict[str, np.ndarray]:
    """Variables of a CTranslate2 `model.bin` (binary version 3 and up)."""
    at = 0

    def read(fmt: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + fmt, blob, at)
        at += struct.calcsize("<" + fmt)
        return int(value)

    def text() -> str:
        nonlocal at
        size = read("H")
        at += size
        return blob[at - size : at].rstrip(b"\0").decode()

    read("I")
    text()
    read("I")
    dtypes = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
    arrays = {}
    for _ in range(read("I")):
        name = text()
        shape = [read("I") for _ in range(read("B"))]
        dtype = dtypes[read("B")]
        size = read("I")
        arrays[name] = np.frombuffer(blob[at : at + size], dtype).reshape(shape)
        at += size
    return arrays


def whisper_base(parts: list[Path]) -> WhisperEncoder:
    """The encoder out of the two halves of Whisper base's CTranslate2 file."""
    arrays = _ct2_arrays(b"".join(p.read_bytes() for p in parts))
    state: dict[str, Tensor] = {}

    def tensor(key: str) -> Tensor:
        return torch.from_numpy(arrays[f"encoder/{key}"].astype(np.float32))

    def linear(source: str, target: str) -> None:
        state[f"{target}.weight"] = tensor(f"{source}/weight")
        state[f"{target}.bias"] = tensor(f"{source}/bias")

    def norm(source: str, target: str) -> None:
        state[f"{target}.weight"] = tensor(f"{source}/gamma")
        state[f"{target}.bias"] = tensor(f"{source}/beta")

    linear("conv1", "conv1")
    linear("conv2", "conv2")
    state["embed_positions.weight"] = tensor("position_encodings/encodings")
    norm("layer_norm", "layer_norm")
    for i in range(WHISPER_BASE.encoder_layers):
        source, target = f"layer_{i}", f"layers.{i}"
        weights = tensor(f"{source}/self_attention/linear_0/weight").chunk(3)
        biases = tensor(f"{source}/self_attention/linear_0/bias").chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            state[f"{target}.self_attn.{name}_proj.weight"] = weight
            if name != "k":
                state[f"{target}.self_attn.{name}_proj.bias"] = bias
        linear(f"{source}/self_attention/linear_1", f"{target}.self_attn.out_proj")
        norm(f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm")
        linear(f"{source}/ffn/linear_0", f"{target}.fc1")
        linear(f"{source}/ffn/linear_1", f"{target}.fc2")
        norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
    encoder = WhisperEncoder(WHISPER_BASE)
    encoder.load_state_dict(state)
    return encoder.eval().requires_grad_(False)


def smollm2_state(path: Path) -> dict[str, Tensor]:
    """Float weights of the GGUF under Hugging Face's Llama names."""
    reader = GGUFReader(str(path))
    n_heads = int(reader.fields["llama.attention.head_count"].contents())
    n_kv = int(reader.fields["llama.attention.head_count_kv"].contents())
    names = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    state = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), np.float32))
        if tensor.name == "token_embd.weight":
            state["model.embed_tokens.weight"] = weight
        elif tensor.name == "output_norm.weight":
            state["model.norm.weight"] = weight
        elif tensor.name.startswith("blk."):
            _, layer, part, _ = tensor.name.split(".")
            heads = {"attn_q": n_heads, "attn_k": n_kv}.get(part)
            if heads:  # llama.cpp interleaves the halves that rotary embeddings turn
                rows, width = weight.shape
                weight = weight.view(heads, rows // heads // 2, 2, width)
                weight = weight.transpose(1, 2).reshape(rows, width)
            state[f"model.layers.{layer}.{names[part]}.weight"] = weight
    return state


def smollm2_tokenizer(path: Path) -> Tokenizer:
    """The byte-level BPE inside the GGUF; digits are split one by one."""
    fields = GGUFReader(str(path)).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer
