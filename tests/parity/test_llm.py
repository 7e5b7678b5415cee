"""The LLM graph against PyTorch: ByteDance's recorded logits, and transformers' LLaMA."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import LlamaConfig as TorchConfig
from transformers import LlamaForCausalLM

from kokanee.engine.decoder import Decoder
from kokanee.engine.manifest import Dims
from kokanee.engine.onnx import open_graph
from kokanee.export.dims import LlamaConfig
from kokanee.export.fill import fill
from kokanee.export.llm import EMBEDDING, build_llm
from kokanee.quant import blocks
from kokanee.quant.kv_cache import kv_scales
from kokanee.quant.llama import Llama, Shape
from kokanee.quant.prompts import Prompt
from kokanee.quant.schemes import BLOCKWISE

F32 = npt.NDArray[np.float32]
Weights = dict[str, F32]

GOLDEN = Path(__file__).parents[1] / "golden" / "salmonn"
CLIPS = sorted(p.stem for p in (GOLDEN / "vectors").glob("[!_]*.npz"))


class FloatRows:
    """An embedding table that was never quantized."""

    def __init__(self, table: F32) -> None:
        self._table = table

    def rows(self, ids: tuple[int, ...]) -> F32:
        return self._table[list(ids)]


def dims_of(config: LlamaConfig) -> Dims:
    return Dims(
        d_speech=1,
        d_audio=1,
        d_qformer=1,
        d_model=config.d_model,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        d_head=config.d_head,
        n_vocab=config.n_vocab,
        n_positions=config.n_positions,
    )


def decoder(
    folder: Path,
    config: LlamaConfig,
    weights: Weights,
    *,
    packing: str = "f32",
    lora_scale: float = 4.0,
    n_ctx: int = 160,
) -> Decoder:
    graph = build_llm(config, packing=packing, head_packing=packing)
    graph.save(folder)
    fill(graph.layout(), weights, folder / "llm.bin")
    dims = dims_of(config)
    session = open_graph(folder / "llm.onnx", device="cpu", threads=1)
    embedding: Any = FloatRows(weights[EMBEDDING])
    return Decoder(session, embedding, dims, n_ctx=n_ctx, lora_scale=lora_scale)


# --- recorded logits ------------------------------------------------------------------------------

GOLDEN_CONFIG = LlamaConfig(
    d_model=64,
    n_layers=2,
    n_heads=4,
    n_kv_heads=4,
    d_head=16,
    d_ffn=160,
    n_vocab=640,
    n_positions=2048,
    rope_theta=10_000.0,
    rms_epsilon=1e-6,
    tied_head=False,
    lora_rank=8,
)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    def load(name: str) -> dict[str, torch.Tensor]:
        loaded: dict[str, Any] = torch.load(GOLDEN / "model" / name, weights_only=True)
        tensors: dict[str, torch.Tensor] = loaded.get("model", loaded)
        return tensors

    tensors = load("llama/pytorch_model.bin")
    prefix = "llama_model.base_model.model."
    for name, tensor in load("salmonn.pth").items():
        if name.startswith(prefix) and "lora_" in name:
            tensors[name.removeprefix(prefix).replace(".default.", ".")] = tensor
    weights = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    return decoder(tmp_path_factory.mktemp("golden"), GOLDEN_CONFIG, weights)


@pytest.mark.parametrize("clip", CLIPS)
def test_logits_are_salmonns_own_at_every_position_and_step(golden: Decoder, clip: str) -> None:
    vectors = np.load(GOLDEN / "vectors" / f"{clip}.npz")
    golden.cache.trim(0)
    got = [golden.prefill(row[None]).copy() for row in vectors["inputs_embeds"]]
    # the last column is the reference's random padding row
    np.testing.assert_allclose(got, vectors["prefill_logits"][:, :-1], atol=1e-3)
    steps = [got[-1]]
    steps += [golden.step(int(i)).copy() for i in vectors["greedy_ids"][:-1]]
    np.testing.assert_allclose(steps, vectors["greedy_step_logits"][:, :-1], atol=1e-3)
    assert [int(s.argmax()) for s in steps] == vectors["greedy_ids"].tolist()


# --- transformers ---------------------------------------------------------------------------------

SMALL = LlamaConfig(
    d_model=64,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    d_head=16,
    d_ffn=96,
    n_vocab=200,
    n_positions=512,
    rope_theta=100_000.0,
    rms_epsilon=1e-5,
    tied_head=True,
    lora_rank=8,
)


def random_weights(c: LlamaConfig) -> Weights:
    """Every tensor the graph asks for."""
    rng = np.random.default_rng(0)
    layout = build_llm(c, packing="f32", head_packing="f32").layout()
    weights: Weights = {EMBEDDING: rng.normal(size=(c.n_vocab, c.d_model)).astype(np.float32)}
    for source in sorted(
        {s for w in layout.weights for s in w.sources if s.key}, key=lambda s: s.key
    ):
        value = rng.normal(size=source.shape) / np.sqrt(source.shape[-1])
        weights[source.key] = (1 + value if len(source.shape) == 1 else value).astype(np.float32)
    return weights


def torch_logits(c: LlamaConfig, weights: Weights, embeds: F32, lora_scale: float) -> F32:
    """Logits at the last position; the adapter is merged here, in float."""
    torch_config = TorchConfig(
        hidden_size=c.d_model,
        num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads,
        intermediate_size=c.d_ffn,
        vocab_size=c.n_vocab,
        max_position_embeddings=c.n_positions,
        rope_theta=c.rope_theta,
        rms_norm_eps=c.rms_epsilon,
        tie_word_embeddings=c.tied_head,
    )
    torch_config.rope_parameters = {"rope_type": "default", "rope_theta": c.rope_theta}
    model = LlamaForCausalLM(torch_config).eval()
    merged = {n: w for n, w in weights.items() if "lora" not in n}
    for name in merged:
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in weights:
            a, b = weights[f"{stem}.lora_A.weight"], weights[f"{stem}.lora_B.weight"]
            merged[name] = merged[name] + np.float32(lora_scale) * (b @ a)
    if c.tied_head:
        merged["lm_head.weight"] = merged[EMBEDDING]
    model.load_state_dict({n: torch.from_numpy(w) for n, w in merged.items()})
    with torch.no_grad():
        out = model(inputs_embeds=torch.from_numpy(embeds[None]))
    logits: F32 = out.logits[0, -1].numpy()
    return logits


def some_embeds(n: int, width: int) -> F32:
    return np.random.default_rng(1).normal(size=(n, width)).astype(np.float32)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, n_kv_heads=4, tied_head=False, rms_epsilon=1e-6),
        replace(SMALL, n_layers=1, lora_rank=0),
    ],
    ids=["grouped-tied", "all-heads-untied", "no-adapter"],
)
@pytest.mark.parametrize("lora_scale", [4.0, 0.0])
def test_float_graph_is_transformers_llama(
    config: LlamaConfig, lora_scale: float, tmp_path: Path
) -> None:
    weights, embeds = random_weights(config), some_embeds(37, config.d_model)
    want = torch_logits(config, weights, embeds, lora_scale)
    got = decoder(tmp_path, config, weights, lora_scale=lora_scale).prefill(embeds)
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("packing", list(BLOCKWISE))
def test_quantized_graph_is_transformers_with_the_dequantized_weights(
    packing: str, tmp_path: Path
) -> None:
    """What differs is the activations, which the kernels quantize to 8 bits by blocks."""
    config = replace(SMALL, d_model=128, n_heads=8, d_ffn=256)
    weights, embeds = random_weights(config), some_embeds(37, config.d_model)
    exact = {
        name: blocks.dequantize(blocks.quantize(w, BLOCKWISE[packing]))
        if w.ndim == 2 and "lora" not in name
        else w
        for name, w in weights.items()
    }
    want = torch_logits(config, exact, embeds, 4.0)
    got = decoder(tmp_path, config, weights, packing=packing).prefill(embeds)
    relative = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert relative < 0.04
    float_weights = torch_logits(config, weights, embeds, 4.0)
    assert np.linalg.norm(got - want) < np.linalg.norm(got - float_weights) or "int8" in packing


# --- the cache ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [(20,), (7, 13), (1,) * 20, (19, 1)])
def test_any_chunking_gives_the_same_logits(chunks: tuple[int, ...], tmp_path: Path) -> None:
    model = decoder(tmp_path, SMALL, random_weights(SMALL))
    embeds = some_embeds(20, SMALL.d_model)
    whole = model.prefill(embeds).copy()
    model.cache.trim(0)
    at = 0
    for n in chunks:
        logits = model.prefill(embeds[at : at + n])
        at += n
    np.testing.assert_allclose(logits, whole, atol=1e-4)


def test_one_buffer_for_past_and_present_changes_nothing(tmp_path: Path) -> None:
    """The caches in place, against the graph fed and returning separate arrays."""
    model = decoder(tmp_path, SMALL, random_weights(SMALL), n_ctx=32)
    session = open_graph(tmp_path / "llm.onnx", device="cpu", threads=1)
    names = [f"{i}.{kv}" for i in range(SMALL.n_layers) for kv in ("key", "value")]
    past = {n: np.zeros((1, 2, 32, 16), np.float32) for n in names}
    embeds = some_embeds(9, SMALL.d_model)
    for at, n in ((0, 5), (5, 1), (6, 3)):
        chunk = embeds[at : at + n]
        feeds = {
            "inputs_embeds": chunk[None],
            "seqlens_k": np.array([at + n - 1], np.int32),
            "total_sequence_length": np.array(at + n, np.int32),
            "lora_scale": np.array(4.0, np.float32),
            "position_ids": np.arange(at, at + n)[None],
            "attention_bias": np.zeros((1, 1, n, at + n), np.float32),
            "logit_rows": np.array([-1]),
            **{f"past_key_values.{name}": past[name] for name in names},
        }
        logits, *present = session.run(["logits", *(f"present.{m}" for m in names)], feeds)
        past = dict(zip(names, present, strict=True))
        np.testing.assert_array_equal(model.prefill(chunk), logits[0])
    np.testing.assert_array_equal(model.cache.layers[1][0][:, :, :9], past["1.key"][:, :, :9])


def test_going_back_is_exact(tmp_path: Path) -> None:
    model = decoder(tmp_path, SMALL, random_weights(SMALL))
    model.prefill(some_embeds(10, SMALL.d_model))
    first = [model.step(i).copy() for i in (3, 5, 8)]
    model.cache.trim(10)
    for token in (9, 9, 9, 9, 9):
        model.step(token)
    model.cache.trim(10)
    again = [model.step(i).copy() for i in (3, 5, 8)]
    np.testing.assert_array_equal(first, again)


# --- the float model, layer by layer --------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [SMALL, replace(SMALL, n_kv_heads=4, tied_head=False, rms_epsilon=1e-6)],
    ids=["grouped-tied", "all-heads-untied"],
)
def test_the_float_model_in_numpy_is_transformers_llama(config: LlamaConfig) -> None:
    """Two sequences at once, each with its own answer."""
    weights = random_weights(config)
    shape = Shape(**{f.name: getattr(config, f.name) for f in fields(Shape)})
    llama = Llama(shape, weights, lora_scale=4.0)
    sequences = [some_embeds(37, config.d_model), 2 * some_embeds(5, config.d_model)]
    x = np.concatenate(sequences)
    for i in range(config.n_layers):
        x = llama.layer(i, x, [37, 5])
    got = llama.head(x[[36, 41]])
    want = [torch_logits(config, weights, embeds, 4.0) for embeds in sequences]
    np.testing.assert_allclose(got, want, atol=1e-4)


# --- the int8 cache -------------------------------------------------------------------------------


@pytest.fixture
def both_caches(tmp_path: Path) -> tuple[Decoder, Decoder]:
    """A decoder over the float cache and one over the int8 cache, calibrated on other prompts."""
    model = decoder(tmp_path, SMALL, random_weights(SMALL))
    graph = build_llm(SMALL, packing="f32", head_packing="f32", int8_cache=True)
    graph.save(tmp_path)
    rng = np.random.default_rng(7)
    seen = [
        Prompt(rng.normal(size=(30, SMALL.d_model)).astype(np.float32), 0, np.zeros(29, np.int64))
        for _ in range(16)
    ]
    embedding: Any = model._embedding
    short = Decoder(
        open_graph(tmp_path / "llm.kv8.onnx", device="cpu", threads=1),
        embedding,
        dims_of(SMALL),
        n_ctx=160,
        lora_scale=4.0,
        kv_scales=kv_scales(model, seen),
    )
    return model, short


def test_an_int8_cache_is_a_quarter_as_large_and_nearly_as_exact(
    both_caches: tuple[Decoder, Decoder],
) -> None:
    full, short = both_caches
    assert short.cache.n_bytes * 4 == full.cache.n_bytes
    embeds = some_embeds(40, SMALL.d_model)
    want, got = (model.all_logits(embeds) for model in (full, short))
    want = np.stack([*want, *(full.step(i).copy() for i in (3, 5, 8))])
    got = np.stack([*got, *(short.step(i).copy() for i in (3, 5, 8))])
    errors = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
    # A key that is clipped moves a whole row of a random model; most rows have none.
    assert 0 < np.median(errors) < 0.05


def test_an_int8_cache_goes_back_exactly_and_branches(
    both_caches: tuple[Decoder, Decoder],
) -> None:
    full, short = both_caches
    short.prefill(some_embeds(10, SMALL.d_model))
    first = [short.step(i).copy() for i in (3, 5)]
    short.cache.trim(10)
    again = [short.step(i).copy() for i in (3, 5)]
    np.testing.assert_array_equal(first, again)
    hidden = np.zeros((2, 14), np.float32)
    hidden[0, 13] = hidden[1, 12] = -np.inf
    branches = short.branch((7, 9), position=12, hidden=hidden)
    assert branches.shape == (2, SMALL.n_vocab)
    full.prefill(some_embeds(10, SMALL.d_model))
    for token in (3, 5):
        full.step(token)
    want = full.step(9)
    error = np.linalg.norm(branches[1] - want) / np.linalg.norm(want)
    assert error < 0.08
