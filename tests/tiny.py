"""A random two-layer SALMONN as a bundle, in a second or two: the whole path without real weights.

Every stage has its real structure; only sizes and weights are toys. It speaks nonsense, the same
nonsense every time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from kokanee.engine.manifest import (
    Agreement,
    Dims,
    Limits,
    Lora,
    Manifest,
    Policy,
    PromptFormat,
    Receipt,
)
from kokanee.export import topologies
from kokanee.export.bundle import FRONT_END, Description, Workspace, write_bundle
from kokanee.export.dims import Architecture, BeatsDims, LlamaConfig, QFormerDims, WhisperDims
from kokanee.export.graph import Graph

DIMS = Dims(
    d_speech=32,
    d_audio=32,
    d_qformer=32,
    d_model=64,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    d_head=16,
    n_vocab=260,
    n_positions=1024,
)
POLICY = Policy(
    min_s=1.0,
    max_s=29.92,
    pad_to_s=None,
    long_audio="segment",
    window_frames=17,
    stride_frames=17,
    n_queries=2,
)
END = 259  # <|im_end|>
RECEIPT = Receipt(
    against="itself",
    method="random",
    llm={"text": Agreement(n_positions=1, kl=0, top1=1, perplexity=1, perplexity_exact=1)},
    int8_cache={},
    soft_tokens=None,
    cost=None,
    limits=Limits(kl=1, least_cosine=0),
)


def tokenizer() -> Tokenizer:
    """Bytes, and the three markers of the template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    toy = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    toy.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    toy.decoder = decoders.ByteLevel()
    marks = ("<|endoftext|>", "<|im_start|>", "<|pad|>", "<|im_end|>")
    toy.add_special_tokens([AddedToken(m, special=True, normalized=False) for m in marks])
    return toy


def architecture(packing: str = "int4_block32") -> Architecture:
    """Sizes and storage."""
    whisper = WhisperDims(
        d_model=DIMS.d_speech, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64
    )
    beats = BeatsDims(
        embed_dim=16,
        encoder_embed_dim=DIMS.d_audio,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_embed_dim=64,
        conv_pos_groups=4,
    )
    qformer = QFormerDims(
        d_speech=DIMS.d_speech,
        d_audio=DIMS.d_audio,
        d_model=DIMS.d_model,
        hidden_size=DIMS.d_qformer,
        num_attention_heads=2,
        intermediate_size=64,
        n_queries=POLICY.n_queries,
    )
    llama = LlamaConfig(
        d_model=DIMS.d_model,
        n_layers=DIMS.n_layers,
        n_heads=DIMS.n_heads,
        n_kv_heads=DIMS.n_kv_heads,
        d_head=DIMS.d_head,
        d_ffn=128,
        n_vocab=DIMS.n_vocab,
        n_positions=DIMS.n_positions,
        rope_theta=10_000.0,
        rms_epsilon=1e-5,
        tied_head=True,
        lora_rank=8,
    )
    return Architecture(
        speech_encoder=whisper,
        audio_encoder=beats,
        connector=qformer,
        llm=llama,
        encoder_packing="f16",
        connector_packing="f16",
        llm_packing=packing,
        head_packing="int8_block32",
        table_packing=None,
    )


def graphs(packing: str = "int4_block32") -> dict[str, Graph]:
    """The four topologies."""
    return {graph.name: graph for graph in topologies.graphs(architecture(packing))}


def random_weights(graph: Graph, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Weights of the usual spread; norms near one, so that signals neither die nor explode."""
    rng = np.random.default_rng(seed)
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for weight in graph.layout().weights:
        for source in weight.sources:
            if source.kind != "key":
                continue
            noise = rng.normal(size=source.shape).astype(np.float32)
            if "norm" in source.key.lower() and source.key.endswith("weight"):
                weights[source.key] = 1 + 0.1 * noise
            elif len(source.shape) < 2:
                weights[source.key] = 0.1 * noise
            else:
                weights[source.key] = noise / np.sqrt(source.shape[-1])
    return weights


def tiny_bundle(
    folder: Path, *, policy: Policy = POLICY, packing: str = "int4_block32"
) -> Manifest:
    """Write the bundle to `folder`."""
    made = graphs(packing)
    topology = folder.with_name(folder.name + "-topology")
    topology.mkdir(parents=True)
    for graph in made.values():
        graph.save(topology)
    with Workspace(folder) as space:
        return write_bundle(
            space,
            Description(
                name="tiny",
                command="pytest",
                dims=DIMS,
                front_end=FRONT_END,
                policy=policy,
                prompt=PromptFormat(
                    template="<|im_start|>user\n<SpeechHere>\n{}<|im_end|>\n<|im_start|>assistant\n",
                    bos_id=None,
                    eos_ids=(END,),
                    tasks={"asr": "Write down what is said.", "qa": "Answer: {}"},
                    written="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
                ),
                lora=Lora(rank=8, alpha=32.0, targets=("q_proj", "v_proj")),
                sources=(),
                parity={},
                quality={},
                architecture=architecture(packing).to_json(),
                receipt=RECEIPT,
            ),
            topology=topology,
            checkpoints={
                name: random_weights(g, seed) for seed, (name, g) in enumerate(made.items())
            },
            embedding="head.weight",
            tokenizer=tokenizer().to_str(),
            progress=lambda what, done, total: None,
        )
