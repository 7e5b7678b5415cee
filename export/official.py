"""The four official parts of SALMONN, read and checked: what they hold, under one set of names.

    salmonn_*.pth   Q-Former, norms, projection, LoRA   -> connector, adapter
    whisper folder  encoder (the decoder is not used)   -> model.encoder.*
    BEATs *.pt      cfg and weights                     -> as they are
    Vicuna folder   config, shards, tokenizer.model     -> as they are

Every name in a file is either needed, known to be superfluous, or refused: a tensor that this
program does not know about may be one that the model was trained with.

Source: bytedance/SALMONN, models/salmonn.py (what its saver keeps), transformers and peft (names).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kokanee.engine.errors import CheckpointError

from .act_order import Ordered
from .checkpoint import Entry, Unpickler, listed, open_model_folder, read_json
from .dims import BeatsDims, LlamaConfig, QFormerDims, WhisperDims
from .gptq_checkpoint import GptqWeights, open_gptq_folder, read_quantize_config

BERT_BASE = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "num_hidden_layers": 2,  # SALMONN takes two of bert-base's twelve
}
ALPHA = 32.0  # of LoRA, where the checkpoint does not say

_PEFT = "llama_model.base_model.model."
_LORA = re.compile(r"(model\.layers\.\d+\.self_attn\.[qv]_proj\.lora_[AB])(?:\.default)?(\.weight)")
_BIAS_ALIAS = re.compile(
    r"beats\.(encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight)"
)
# Buffers, and the text half of BLIP-2's Q-Former, which SALMONN's first release kept.
_SUPERFLUOUS = re.compile(
    r".*\.rotary_emb\.inv_freq"
    r"|speech_Qformer\.bert\.embeddings\.(position_ids|word_embeddings\.\w+|position_embeddings\.\w+)"
    r"|speech_Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\..*"
    r"|speech_Qformer\.(cls|bert\.pooler)\..*"
)
_CONNECTOR = re.compile(
    r"(speech_query_tokens|ln_speech|ln_audio|speech_Qformer|speech_llama_proj)\b"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Salmonn:
    """SALMONN's own checkpoint."""

    connector: dict[str, Entry]
    adapter: dict[str, Entry]  # model.layers.0.self_attn.q_proj.lora_A.weight, ...
    bias_aliases: dict[str, Entry]  # copies of BEATs' bias table, by the name BEATs has for each
    qformer: QFormerDims
    lora_rank: int
    lora_alpha: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Whisper:
    """A Whisper encoder."""

    entries: dict[str, Entry]  # model.encoder.conv1.weight, ...
    dims: WhisperDims


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Beats:
    """A BEATs encoder."""

    entries: dict[str, Entry]
    dims: BeatsDims


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Llm:
    """A LLaMA-family model."""

    entries: dict[str, Entry]
    config: LlamaConfig
    eos_ids: tuple[int, ...]
    bos_id: int
    tokenizer: Path
    gptq: Ordered | None = None  # the matrices, where they are quantized already

    @property
    def is_half(self) -> bool:
        """Whether its matrices are float16, which a float16 file then holds without loss."""
        kept = {"float16", "codes"}
        return all(e.dtype in kept for e in self.entries.values() if len(e.shape) == 2)


# --- SALMONN -------------------------------------------------------------------------------------


def read_salmonn(path: Path, unpickle: Unpickler, overrides: Mapping[str, int]) -> Salmonn:
    """SALMONN's checkpoint, with or without what its trainer saved beside the weights.

    Args:
        path: `salmonn_v1.pth` or `salmonn_7b_v0.pth`.
        unpickle: reads it.
        overrides: Q-Former sizes that replace bert-base's.

    Raises:
        CheckpointError: it lacks tensors, has unknown ones, or its sizes are not those expected.
    """
    found = unpickle(path)
    entries = found.tensors.get("model") or found.tensors.get("", {})
    entries = {name.removeprefix("module."): e for name, e in entries.items()}
    settings = found.plain.get("config", {})
    settings = settings.get("model", settings)
    connector, adapter, aliases, unexpected = {}, {}, {}, []
    for name, entry in entries.items():
        lora = _LORA.fullmatch(name.removeprefix(_PEFT))
        alias = _BIAS_ALIAS.fullmatch(name)
        if _SUPERFLUOUS.fullmatch(name):
            continue
        if lora and name.startswith(_PEFT):
            adapter[lora[1] + lora[2]] = entry
        elif alias:
            aliases[alias[1]] = entry
        elif _CONNECTOR.match(name):
            connector[name] = entry
        else:
            unexpected.append(name)
    if unexpected:
        raise CheckpointError(f"{path}: unexpected {listed(sorted(unexpected))}")
    qformer = _qformer_dims(path, connector, settings, overrides)
    if not adapter:
        raise CheckpointError(
            f"{path}: missing the LoRA adapter, {_PEFT}model.layers.*.lora_A.default.weight"
        )
    rank = min(e.shape[0] for name, e in adapter.items() if "lora_A" in name)
    return Salmonn(
        connector=connector,
        adapter=adapter,
        bias_aliases=aliases,
        qformer=qformer,
        lora_rank=rank,
        lora_alpha=float(settings.get("lora_alpha", ALPHA)),
    )


def _qformer_dims(
    path: Path,
    entries: Mapping[str, Entry],
    settings: Mapping[str, Any],
    overrides: Mapping[str, int],
) -> QFormerDims:
    unknown = sorted(set(overrides) - set(BERT_BASE))
    if unknown:
        raise CheckpointError(f"--qformer-config: unknown {unknown}; known are {sorted(BERT_BASE)}")
    for switch in ("use_speech_Qformer", "window_level_Qformer"):
        if settings.get(switch, True) is not True:
            raise CheckpointError(f"{path}: {switch} is off in its config; only on is known here")
    ends = (
        "speech_query_tokens",
        "ln_speech.weight",
        "ln_audio.weight",
        "speech_llama_proj.weight",
    )
    missing = [name for name in ends if name not in entries]
    if missing:
        raise CheckpointError(f"{path}: missing {listed(missing)}; is this a SALMONN checkpoint?")
    query, speech, audio, projection = (entries[name].shape for name in ends)
    sizes = {**BERT_BASE, **overrides}
    if len(query) != 3 or query[2] != sizes["hidden_size"]:
        raise CheckpointError(
            f"{path}: speech_query_tokens is {list(query)}, expected [1, n,"
            f" {sizes['hidden_size']}]; another size than bert-base's is given by --qformer-config"
        )
    frames = 1500 / 30  # Whisper frames a second
    return QFormerDims(
        d_speech=speech[0],
        d_audio=audio[0],
        d_model=projection[0],
        n_queries=query[1],
        # Python's round, as upstream: 16.67 frames are 17.
        window_frames=round(frames * float(settings.get("second_per_window", 1 / 3))),
        stride_frames=round(frames * float(settings.get("second_stride", 1 / 3))),
        **sizes,
    )


# --- encoders ------------------------------------------------------------------------------------


def read_whisper(folder: Path, unpickle: Unpickler) -> Whisper:
    """The encoder of a Hugging Face Whisper folder, whatever the prefix of its names.

    Raises:
        CheckpointError: it is not one that SALMONN's front end fits.
    """
    config, entries = open_model_folder(folder, unpickle)
    expected = {"num_mel_bins": 80, "max_source_positions": 1500, "activation_function": "gelu"}
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise CheckpointError(
                f"{folder}: {name} is {config[name]!r}, expected {value!r}"
                " (SALMONN takes whisper-large-v2)"
            )
    prefixes = ("model.encoder.", "encoder.", "speech_encoder.", "")
    prefix = next((p for p in prefixes if f"{p}conv1.weight" in entries), None)
    if prefix is None:
        raise CheckpointError(f"{folder}: missing model.encoder.conv1.weight")
    renamed = {
        f"model.encoder.{name.removeprefix(prefix)}": entry
        for name, entry in entries.items()
        if name.startswith(prefix)
    }
    return Whisper(entries=renamed, dims=_dims(WhisperDims, config, folder / "config.json"))


def read_beats(path: Path, unpickle: Unpickler) -> Beats:
    """A BEATs checkpoint: its `cfg` and its weights.

    Raises:
        CheckpointError: another architecture than SALMONN's BEATs.
    """
    found = unpickle(path)
    cfg = found.plain.get("cfg")
    if cfg is None or "model" not in found.tensors:
        raise CheckpointError(
            f"{path}: expected the entries cfg and model of a BEATs checkpoint, got"
            f" {sorted({*found.plain, *found.tensors} - {''})}"
        )
    expected = {
        "activation_fn": "gelu",
        "layer_norm_first": False,
        "conv_bias": False,
        "relative_position_embedding": True,
        "gru_rel_pos": True,
        "deep_norm": True,
    }
    for name, value in expected.items():
        if cfg.get(name) != value:
            raise CheckpointError(
                f"{path}: cfg.{name} is {cfg.get(name)!r}, expected {value!r} (SALMONN takes BEATs"
                " iter3+ AS2M)"
            )
    # torch's newer weight norm calls the magnitude original0 and the direction original1.
    renamed = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): entry
        for name, entry in found.tensors["model"].items()
    }
    return Beats(entries=renamed, dims=_dims(BeatsDims, cfg, path))


def check_bias_aliases(salmonn: Salmonn, beats: Beats) -> None:
    """Hold the copies of BEATs' bias table in SALMONN's file against the BEATs file itself.

    Raises:
        CheckpointError: they differ: SALMONN was trained with another BEATs.
    """
    name = "encoder.layers.0.self_attn.relative_attention_bias.weight"
    for copies in (salmonn.bias_aliases, beats.entries):
        for alias in (n for n in copies if n.endswith("relative_attention_bias.weight")):
            if not np.array_equal(copies[alias].read(), beats.entries[name].read()):
                raise CheckpointError(
                    f"{alias} in {copies[alias].file} is not the table of"
                    f" {beats.entries[name].file}; is this the BEATs that SALMONN was trained with?"
                )


# --- LLM -----------------------------------------------------------------------------------------


def read_llm(folder: Path, unpickle: Unpickler, *, lora_rank: int) -> Llm:
    """A LLaMA folder: config, weights, and where its tokenizer is.

    Raises:
        CheckpointError: another architecture than LLaMA's, or no SentencePiece model.
    """
    quantize_config = read_quantize_config(folder)
    opened = open_model_folder if quantize_config is None else open_gptq_folder
    config, entries = opened(folder, unpickle)
    where = folder / "config.json"
    expected: dict[str, tuple[Any, ...]] = {
        "model_type": ("llama",),
        "hidden_act": ("silu",),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "rope_scaling": (None,),
    }
    for name, values in expected.items():
        if config.get(name) not in values:
            raise CheckpointError(
                f"{where}: {name} is {config.get(name)!r}, expected {values[0]!r}"
            )
    needed = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
    )
    missing = [name for name in needed if name not in config]
    if missing:
        raise CheckpointError(f"{where}: missing {listed(missing)}")
    tokenizer = folder / "tokenizer.model"
    if not tokenizer.is_file():
        raise CheckpointError(f"{tokenizer}: no such file; the SentencePiece model belongs there")
    n_heads = int(config["num_attention_heads"])
    tied = bool(config.get("tie_word_embeddings", False))
    rope = config.get("rope_parameters") or config
    ends = read_json(folder / "generation_config.json") if _has(folder) else config
    eos = ends.get("eos_token_id", config.get("eos_token_id", 2))
    entries = {n: e for n, e in entries.items() if not n.endswith(".rotary_emb.inv_freq")}
    gptq = None
    if quantize_config is not None:
        layers = [f"model.layers.{i}" for i in range(config["num_hidden_layers"])]
        gptq = Ordered(GptqWeights(entries, quantize_config), layers)
        # Tensors that do not lie in a file as they are: nothing reads them but `gptq`.
        entries = {
            name: entries.get(name) or Entry(folder, "codes", shape, 0)
            for name, shape in gptq.shapes().items()
        }
    return Llm(
        entries=entries,
        config=LlamaConfig(
            d_model=config["hidden_size"],
            n_layers=config["num_hidden_layers"],
            n_heads=n_heads,
            n_kv_heads=config.get("num_key_value_heads") or n_heads,
            d_head=config.get("head_dim") or config["hidden_size"] // n_heads,
            d_ffn=config["intermediate_size"],
            n_vocab=config["vocab_size"],
            n_positions=config["max_position_embeddings"],
            rope_theta=float(rope.get("rope_theta", 10_000.0)),
            rms_epsilon=float(config["rms_norm_eps"]),
            tied_head=tied,
            lora_rank=lora_rank,
            act_order=gptq is not None and gptq.act_order,
        ),
        eos_ids=tuple(eos) if isinstance(eos, list) else (int(eos),),
        bos_id=int(config.get("bos_token_id", 1)),
        tokenizer=tokenizer,
        gptq=gptq,
    )


def vicuna_warning(config: LlamaConfig) -> str | None:
    """What is wrong if this is not the Vicuna that SALMONN of this size was trained with."""
    official = {4096: ("7B", "v1.5", 1e-5, 4096), 5120: ("13B", "v1.1", 1e-6, 2048)}
    size = official.get(config.d_model)
    if size is None or (config.rms_epsilon, config.n_positions) == size[2:]:
        return None
    name, version, epsilon, n_positions = size
    return (
        f"this is not Vicuna {version}: SALMONN-{name} was trained with rms_norm_eps {epsilon:g}"
        f" and {n_positions} positions, here are {config.rms_epsilon:g} and {config.n_positions};"
        " with another version upstream's answers are empty"
    )


def _has(folder: Path) -> bool:
    return (folder / "generation_config.json").is_file()


def _dims(kind: type[Any], config: Mapping[str, Any], where: Path) -> Any:
    """The fields of a Dims class out of a config; those with defaults may be missing."""
    fields = dataclasses.fields(kind)
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in config]
    if missing:
        raise CheckpointError(f"{where}: missing {listed(missing)}")
    return kind(**{f.name: config[f.name] for f in fields if f.name in config})
