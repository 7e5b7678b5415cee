"""Checkpoints with official names, shapes, types and shards, but random weights.

    python -m kokanee.benchmarks.synthetic OUT --size 7b

Nothing official can be had where this project is tested. These files weigh, load and compute like
the official ones; they say nothing about quality. OUT then holds

    salmonn.pth      with the optimizer state that the released files' sizes give away
    whisper/         WhisperForConditionalGeneration, float32, decoder included
    beats.pt         cfg and weights, the bias table aliased into every layer
    llm/             float16 shards as Vicuna's, their index, a tokenizer.model of 32000 pieces
    qformer.json     Q-Former sizes, where they are not bert-base's

Source of names and shapes: shape lists of the official modules (tests hold this file equal).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import string
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from kokanee.export.audio_encoder import audio_encoder
from kokanee.export.connector import connector
from kokanee.export.dims import BeatsDims, LlamaConfig, QFormerDims, WhisperDims, salmonn_dims
from kokanee.export.graph import Graph
from kokanee.export.llm import EMBEDDING, build_llm
from kokanee.export.speech_encoder import speech_encoder

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

N_PIECES = 32000
N_CLASSES = 527  # AudioSet's, of BEATs' unused classifier
PEFT = "llama_model.base_model.model."
_WHISPER_VOCAB, _WHISPER_TEXT = 51865, 448
_POOL = 1 << 24  # random numbers drawn; every tensor is a stretch of them


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """One official model's dimensions."""

    whisper: WhisperDims
    beats: BeatsDims
    qformer: QFormerDims
    llm: LlamaConfig
    shard_bytes: int  # Vicuna's shards are filled up to here


def sizes(name: str) -> Sizes:
    """The sizes of `7b`, `13b`, or `tiny` for tests."""
    if name == "tiny":
        return Sizes(
            whisper=WhisperDims(
                d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64
            ),
            beats=BeatsDims(
                embed_dim=16,
                encoder_embed_dim=32,
                encoder_layers=2,
                encoder_attention_heads=2,
                encoder_ffn_embed_dim=64,
                conv_pos_groups=4,
            ),
            qformer=QFormerDims(
                d_speech=32,
                d_audio=32,
                d_model=64,
                hidden_size=48,
                num_attention_heads=4,
                intermediate_size=96,
            ),
            llm=LlamaConfig(
                d_model=64,
                n_layers=2,
                n_heads=4,
                n_kv_heads=4,
                d_head=16,
                d_ffn=160,
                n_vocab=N_PIECES,
                n_positions=2048,
                rope_theta=10_000.0,
                rms_epsilon=1e-6,
                tied_head=False,
                lora_rank=8,
            ),
            shard_bytes=2_500_000,
        )
    whisper, beats, qformer, llm = salmonn_dims(name)
    return Sizes(whisper=whisper, beats=beats, qformer=qformer, llm=llm, shard_bytes=9_980_000_000)


def whisper_shapes(dims: WhisperDims) -> Shapes:
    """A whole Whisper's tensors: the encoder's, and the decoder's, which SALMONN does not use."""
    d, d_ffn = dims.d_model, dims.encoder_ffn_dim
    decoder: Shapes = {
        "embed_tokens.weight": (_WHISPER_VOCAB, d),
        "embed_positions.weight": (_WHISPER_TEXT, d),
        "layer_norm.weight": (d,),
        "layer_norm.bias": (d,),
    }
    for i in range(dims.encoder_layers):
        for attention in ("self_attn", "encoder_attn"):
            at = f"layers.{i}.{attention}"
            for p in ("q", "k", "v"):
                decoder[f"{at}.{p}_proj.weight"] = (d, d)
            for p in ("q_proj", "v_proj", "out_proj"):
                decoder[f"{at}.{p}.bias"] = (d,)
            decoder[f"{at}.out_proj.weight"] = (d, d)
            decoder |= {f"{at}_layer_norm.{p}": (d,) for p in ("weight", "bias")}
        at = f"layers.{i}"
        decoder |= {f"{at}.final_layer_norm.{p}": (d,) for p in ("weight", "bias")}
        decoder |= {f"{at}.fc1.weight": (d_ffn, d), f"{at}.fc1.bias": (d_ffn,)}
        decoder |= {f"{at}.fc2.weight": (d, d_ffn), f"{at}.fc2.bias": (d,)}
    return _wanted(speech_encoder(dims)) | {f"model.decoder.{n}": s for n, s in decoder.items()}


def beats_shapes(dims: BeatsDims) -> Shapes:
    """A fine-tuned BEATs' tensors, the copies of its bias table and its classifier included."""
    d = dims.encoder_embed_dim
    table = (dims.num_buckets, dims.encoder_attention_heads)
    copies = {_bias_table(i): table for i in range(1, dims.encoder_layers)}
    classifier: Shapes = {"predictor.weight": (N_CLASSES, d), "predictor.bias": (N_CLASSES,)}
    return _wanted(audio_encoder(dims)) | copies | classifier


def salmonn_shapes(size: Sizes) -> tuple[Shapes, Shapes]:
    """What SALMONN's trainer trained, and the buffers and copies that it saved as well."""
    llm, beats = size.llm, size.beats
    adapter = {
        f"{PEFT}{name.replace('.weight', '.default.weight')}": shape
        for name, shape in _wanted(build_llm(llm, packing="f32", head_packing="f32")).items()
        if ".lora_" in name
    }
    buffers: Shapes = {
        f"{PEFT}model.layers.{i}.self_attn.rotary_emb.inv_freq": (llm.d_head // 2,)
        for i in range(llm.n_layers)
    }
    table = (beats.num_buckets, beats.encoder_attention_heads)
    buffers |= {f"beats.{_bias_table(i)}": table for i in range(1, beats.encoder_layers)}
    buffers["speech_Qformer.bert.embeddings.position_ids"] = (1, 512)
    return _wanted(connector(size.qformer)) | adapter, buffers


def llm_shapes(config: LlamaConfig) -> Shapes:
    """A LLaMA's tensors in the order of its shards, with the buffers of its time."""
    wanted = _wanted(build_llm(config, packing="f32", head_packing="f32"))
    wanted = {n: s for n, s in wanted.items() if ".lora_" not in n}
    ends = ("model.norm.weight", "lm_head.weight")
    shapes: Shapes = {EMBEDDING: (config.n_vocab, config.d_model)}
    for i in range(config.n_layers):
        layer = f"model.layers.{i}."
        shapes |= {n: s for n, s in wanted.items() if n.startswith(layer)}
        shapes[f"{layer}self_attn.rotary_emb.inv_freq"] = (config.d_head // 2,)
    return shapes | {name: wanted[name] for name in ends}


def _wanted(graph: Graph) -> Shapes:
    return {s.key: s.shape for w in graph.layout().weights for s in w.sources if s.key}


def _bias_table(layer: int) -> str:
    return f"encoder.layers.{layer}.self_attn.relative_attention_bias.weight"


# --- values --------------------------------------------------------------------------------------


class Values:
    """Random values of the usual spread: norms near one, so that signals neither die nor explode.

    Drawn once; a tensor is a stretch of the pool from an offset of its own, repeated as needed.
    """

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._pool = self._rng.standard_normal(_POOL, dtype=np.float32)
        self._half = self._pool.astype(np.float16)

    def __call__(self, name: str, shape: Shape, dtype: str) -> npt.NDArray[Any]:
        """A tensor."""
        if name.endswith("inv_freq"):
            n = shape[0]
            frequency: npt.NDArray[Any] = (10_000.0 ** (-np.arange(n) / n)).astype(dtype)
            return frequency
        if name.endswith("position_ids"):
            return np.arange(shape[1], dtype=np.int64)[None]
        is_norm = "norm" in name.lower() and name.endswith("weight")
        spread = 0.1 if len(shape) < 2 else 1 / np.sqrt(np.prod(shape[1:]))
        if name.endswith("weight_g"):
            is_norm, spread = True, 0.1
        pool = self._half if dtype == "float16" else self._pool
        n = int(np.prod(shape))
        # Every tensor its own: ONNX Runtime keeps equal ones once, and memory would look too small.
        if n < _POOL // 2:
            at = int(self._rng.integers(_POOL - n))
            values: npt.NDArray[Any] = pool[at : at + n]
        else:
            at = int(self._rng.integers(_POOL))
            values = np.resize(np.concatenate([pool[at:], pool[:at]]), n)
        values = values * pool.dtype.type(spread)
        if is_norm:
            values += pool.dtype.type(1)
        shaped: npt.NDArray[Any] = values.reshape(shape)
        return shaped


# --- files ---------------------------------------------------------------------------------------


def write(out: Path, size: Sizes) -> None:
    """Write all four parts into `out`."""
    values = Values()
    for name in ("whisper", "llm"):
        (out / name).mkdir(parents=True, exist_ok=True)
    _write_beats(out / "beats.pt", size.beats, values)
    _write_salmonn(out / "salmonn.pth", size, values, _saved_bias_table(out / "beats.pt"))
    _write_whisper(out / "whisper", size.whisper, values)
    _write_llm(out / "llm", size, values)
    q = size.qformer
    overrides = {
        "hidden_size": q.hidden_size,
        "num_attention_heads": q.num_attention_heads,
        "intermediate_size": q.intermediate_size,
    }
    (out / "qformer.json").write_text(json.dumps(overrides), encoding="utf-8")


def _tensors(shapes: Shapes, values: Values, dtype: str) -> OrderedDict[str, Any]:
    import torch

    return OrderedDict((n, torch.from_numpy(values(n, s, dtype))) for n, s in shapes.items())


def _write_beats(path: Path, dims: BeatsDims, values: Values) -> None:
    import torch

    cfg = dataclasses.asdict(dims) | {
        "activation_fn": "gelu",
        "layer_norm_first": False,
        "conv_bias": False,
        "relative_position_embedding": True,
        "gru_rel_pos": True,
        "deep_norm": True,
        "layer_wise_gradient_decay_ratio": 0.6,
        "finetuned_model": True,
        "predictor_class": N_CLASSES,
    }
    model = _tensors(beats_shapes(dims), values, "float32")
    for i in range(1, dims.encoder_layers):
        model[_bias_table(i)] = model[_bias_table(0)]
    torch.save({"cfg": cfg, "model": model}, path)


def _saved_bias_table(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=True)["model"][_bias_table(0)]


def _write_salmonn(path: Path, size: Sizes, values: Values, bias_table: Any) -> None:
    import torch

    trained, buffers = salmonn_shapes(size)
    model = _tensors(trained, values, "float32")
    moments = {
        i: {"step": 1, "exp_avg": torch.zeros_like(t), "exp_avg_sq": torch.zeros_like(t)}
        for i, t in enumerate(model.values())
    }
    for name, tensor in _tensors(buffers, values, "float32").items():
        model[name] = bias_table if name.startswith("beats.") else tensor
    torch.save(
        {
            "model": model,
            "optimizer": {"state": moments, "param_groups": [{"params": list(moments)}]},
            "config": {"model": {"lora_rank": size.llm.lora_rank, "lora_alpha": 32}},
            "scaler": None,
            "epoch": 0,
        },
        path,
    )


def _write_whisper(folder: Path, dims: WhisperDims, values: Values) -> None:
    import torch

    config = dataclasses.asdict(dims) | {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "scale_embedding": False,
        "decoder_layers": dims.encoder_layers,
        "vocab_size": _WHISPER_VOCAB,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    torch.save(_tensors(whisper_shapes(dims), values, "float32"), folder / "pytorch_model.bin")


def _write_llm(folder: Path, size: Sizes, values: Values) -> None:
    import torch

    c = size.llm
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ffn,
        "num_attention_heads": c.n_heads,
        "num_hidden_layers": c.n_layers,
        "max_position_embeddings": c.n_positions,
        "rms_norm_eps": c.rms_epsilon,
        "vocab_size": c.n_vocab,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(tokenizer_model())
    shards = list(_shards(llm_shapes(c), size.shard_bytes))
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        name = f"pytorch_model-{i:05d}-of-{len(shards):05d}.bin"
        torch.save(_tensors(shard, values, "float16"), folder / name)
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": _n_bytes(llm_shapes(c))}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")


def _shards(shapes: Shapes, n_most: int) -> Iterator[Shapes]:
    """Tensors in order, as many a shard as fit."""
    shard: Shapes = {}
    for name, shape in shapes.items():
        if shard and _n_bytes(shard) + _n_bytes({name: shape}) > n_most:
            yield shard
            shard = {}
        shard[name] = shape
    yield shard


def _n_bytes(shapes: Shapes) -> int:
    return sum(2 * int(np.prod(shape)) for shape in shapes.values())


def tokenizer_model() -> bytes:
    """A SentencePiece byte-pair model of 32000 pieces, of LLaMA's kind; its words are made up."""
    from sentencepiece import sentencepiece_model_pb2

    proto = getattr(sentencepiece_model_pb2, "ModelProto")()  # noqa: B009 - made at import
    proto.trainer_spec.model_type = 2
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.vocab_size = N_PIECES
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    for piece, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):
        proto.pieces.add(piece=piece, score=0.0, type=kind)
    for byte in range(256):
        proto.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=6)
    space = "\u2581"
    letters = [space, *(c for c in string.printable if c.isprintable() and c != " ")]
    # Words grow a letter at a time, so that each is a merge of two pieces.
    words = list(itertools.product(string.ascii_lowercase, repeat=2))
    longer = itertools.chain(
        ("".join(w) for w in words),
        (space + c for c in string.ascii_letters),
        (space + "".join(w) for w in words),
        ("".join(w) for w in itertools.product(string.ascii_lowercase, repeat=3)),
        (space + "".join(w) for w in itertools.product(string.ascii_lowercase, repeat=3)),
    )
    n_longer = N_PIECES - len(proto.pieces) - len(letters)
    for rank, word in enumerate(itertools.islice(longer, n_longer)):
        proto.pieces.add(piece=word, score=-float(rank), type=1)
    for letter in letters:
        proto.pieces.add(piece=letter, score=-float(N_PIECES), type=1)
    data: bytes = proto.SerializeToString()
    return data


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--size", type=click.Choice(["7b", "13b", "tiny"]), required=True)
def main(out: Path, size: str) -> None:
    """Write synthetic checkpoints: 21 GB for 7b, 34 GB for 13b; needs 11 GB of memory."""
    write(out, sizes(size))


if __name__ == "__main__":
    main()
