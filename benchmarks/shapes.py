"""The LLM at the size of TinyLlama-1.1B and of Vicuna-7B, random weights, beside others.

    python -m kokanee.benchmarks.shapes --shape 1b --work FOLDER [--rounds 5] [--only NAME,NAME]

Why it matters: an answer streams at the speed of decoding, and decoding reads every weight once a
token. So beside tokens a second stands the share of this machine's own read bandwidth that the
bytes of weights and cache make of it, measured in the same process and minute.

Every contender runs in a process of its own, in turn, `rounds` times; ratios are within a round.
Ours carries an adapter (LoRA of rank 8) that the others do not have. Behind 1,900 positions ours is
timed with the cache's length set, as what lies in it does not change the time.

    pip install llama-cpp-python==0.3.36 gguf==0.19.0 bitsandbytes==0.50.2   # or missed by name
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from kokanee.engine.manifest import Dims
from kokanee.engine.onnx import available_threads
from kokanee.export.dims import LlamaConfig
from kokanee.export.fill import Tensor, fill
from kokanee.export.layout import Layout
from kokanee.export.llm import build_llm
from kokanee.quant.schemes import LLM_SCHEMES
from kokanee.runtime.memory import peak_rss_mb

from .machine import machine, read_bandwidth, spread
from .rivals import Contender, Kokanee, LlamaCpp, Torch, requantized

F32 = npt.NDArray[np.float32]


def _llama(*sizes: int) -> LlamaConfig:
    d_model, n_layers, n_heads, n_kv_heads, d_ffn, n_vocab, n_positions = sizes
    return LlamaConfig(
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_model // n_heads,
        d_ffn=d_ffn,
        n_vocab=n_vocab,
        n_positions=n_positions,
        rope_theta=10_000.0,
        rms_epsilon=1e-5,
        tied_head=False,
        lora_rank=8,
    )


SHAPES = {
    "1b": _llama(2048, 22, 32, 4, 5632, 32000, 2048),  # TinyLlama-1.1B
    "7b": _llama(4096, 32, 32, 32, 11008, 32000, 4096),  # Vicuna-7B v1.5
}
PROMPTS = {"1b": (32, 128, 512), "7b": (32, 128)}  # tokens of the prefills
GGUFS = ("Q4_0", "Q4_K_M", "Q8_0")
OURS = ("int4", "int4_block128", "int8")
TORCH = ("float32", "bfloat16", "nf4")
TORCH_ROUNDS = 2  # they are slower by an order of magnitude, whatever the minute
SHORT, LONG, N_CTX = 64, 1900, 1984  # positions
N_STEPS = {"1b": 40, "7b": 16}


def contenders(shape: str) -> list[str]:
    """Names of all that can run here."""
    names = [f"kokanee {s}" for s in OURS] + [f"llama.cpp {g}" for g in GGUFS]
    if shape == "1b":  # at 7B, PyTorch's floats alone are 27 GB
        names += [f"torch {kind}" for kind in TORCH]
    return names


# --- random weights -------------------------------------------------------------------------------


class RandomWeights(Mapping[str, Tensor]):
    """Every tensor of a layout, each a stretch of its own of one random pool."""

    def __init__(self, layout: Layout) -> None:
        rng = np.random.default_rng(0)
        self._pool = 0.02 * rng.standard_normal(1 << 24, dtype=np.float32)
        sources = {s.key: s.shape for w in layout.weights for s in w.sources if s.key}
        self._shapes = dict(sorted(sources.items()))
        self._starts = {n: int(rng.integers(1 << 24)) for n in self._shapes}

    def __getitem__(self, name: str) -> F32:
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        at = self._starts[name] + np.arange(int(np.prod(shape)))
        values: F32 = self._pool[at & (len(self._pool) - 1)].reshape(shape)
        return values

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class RandomRows:
    """Stands for the embedding table."""

    def __init__(self, config: LlamaConfig) -> None:
        self._rows = np.random.default_rng(0).standard_normal((256, config.d_model), np.float32)

    def rows(self, ids: Sequence[int]) -> F32:
        """Embeddings of tokens, [n_ids, d_model]."""
        rows: F32 = self._rows[np.asarray(ids) & 255]
        return rows


def made(shape: str, scheme: str, work: Path) -> Path:
    """Our graphs and weights in a folder, made once."""
    folder, config = work / f"{shape}-{scheme}", SHAPES[shape]
    if not (folder / "llm.bin").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        stored = LLM_SCHEMES[scheme]
        packings = {"packing": stored.packing, "head_packing": stored.head_packing}
        for int8_cache in (True, False):
            graph = build_llm(config, int8_cache=int8_cache, **packings)
            graph.save(folder)
        fill(graph.layout(), RandomWeights(graph.layout()), folder / "llm.bin")
    return folder


def gguf(shape: str, kind: str, work: Path) -> Path:
    """The same shape in one of llama.cpp's types, made once."""
    target = work / f"{shape}-{kind}.gguf"
    if not target.is_file():
        floats = work / f"{shape}-f16.gguf"
        if not floats.is_file():
            write_gguf(SHAPES[shape], floats)
        requantized(floats, target, kind)
    return target


def write_gguf(c: LlamaConfig, path: Path) -> None:
    """Random float16 weights of a shape, as llama.cpp reads them."""
    writer = importlib.import_module("gguf").GGUFWriter(str(path) + ".partial", "llama")
    writer.add_context_length(c.n_positions)
    writer.add_embedding_length(c.d_model)
    writer.add_block_count(c.n_layers)
    writer.add_feed_forward_length(c.d_ffn)
    writer.add_head_count(c.n_heads)
    writer.add_head_count_kv(c.n_kv_heads)
    writer.add_layer_norm_rms_eps(c.rms_epsilon)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_rope_dimension_count(c.d_head)
    writer.add_file_type(1)
    writer.add_vocab_size(c.n_vocab)
    writer.add_tokenizer_model("llama")
    tokens = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % i for i in range(256))]
    writer.add_token_list([*tokens, *(b"t%d" % i for i in range(c.n_vocab - len(tokens)))])
    writer.add_token_scores([0.0] * c.n_vocab)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (c.n_vocab - 259))
    pool = np.random.default_rng(0).standard_normal(1 << 24, dtype=np.float32) * 0.02
    pool16 = np.tile(pool.astype(np.float16), 1 + c.n_vocab * c.d_model // len(pool) + 1)
    rng = np.random.default_rng(1)

    def add(name: str, *shape: int) -> None:
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
            return
        start = int(rng.integers(1 << 24))
        writer.add_tensor(name, pool16[start : start + int(np.prod(shape))].reshape(shape))

    kv = c.n_kv_heads * c.d_head
    add("token_embd.weight", c.n_vocab, c.d_model)
    for i in range(c.n_layers):
        add(f"blk.{i}.attn_norm.weight", c.d_model)
        for name, rows in (("q", c.d_model), ("k", kv), ("v", kv), ("output", c.d_model)):
            add(f"blk.{i}.attn_{name}.weight", rows, c.d_model)
        add(f"blk.{i}.ffn_norm.weight", c.d_model)
        add(f"blk.{i}.ffn_gate.weight", c.d_ffn, c.d_model)
        add(f"blk.{i}.ffn_up.weight", c.d_ffn, c.d_model)
        add(f"blk.{i}.ffn_down.weight", c.d_model, c.d_ffn)
    add("output_norm.weight", c.d_model)
    add("output.weight", c.n_vocab, c.d_model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    Path(str(path) + ".partial").rename(path)


# --- one contender, in a process of its own -------------------------------------------------------


def run_one(name: str, shape: str, work: Path) -> dict[str, Any]:
    """Load, prefill, decode; what it took."""
    family, _, kind = name.partition(" ")
    config, threads = SHAPES[shape], available_threads()
    files = _files(name, shape, work)
    for file in files:  # what is timed is a load from a warm page cache
        with file.open("rb") as stream:
            while stream.read(1 << 24):
                pass
    started = time.perf_counter()
    contender: Contender
    if family == "kokanee":
        contender = _ours(made(shape, kind, work), config, threads, int8_cache=False)
    elif family == "llama.cpp":
        contender = LlamaCpp(files[0], name, threads=threads, n_ctx=N_CTX)
    else:
        contender = Torch(config, kind, threads=threads)
    contender.prefill([5])
    result: dict[str, Any] = {"ready_s": time.perf_counter() - started}
    ids = np.random.default_rng(0).integers(300, 30_000, 512).tolist()
    slow = family == "torch"
    result["prefill"] = {
        str(n): n / _seconds(contender.prefill, ids[:n])
        for n in PROMPTS[shape]
        if not (slow and n > 32)
    }
    contender.prefill(ids[:SHORT])
    steps = N_STEPS[shape] if not slow else 4
    result["decode"] = 1 / statistics.median(_seconds(contender.step, i) for i in ids[:steps])
    result["peak_rss_mb"] = peak_rss_mb()
    if family == "kokanee":
        assert isinstance(contender, Kokanee)
        result["decode_long"] = _long(contender, ids[:steps])
        n_bytes = files[0].stat().st_size + _cache_bytes(config, 4) * SHORT
        result["n_bytes"] = files[0].stat().st_size
        result["bandwidth"] = read_bandwidth()
        result["share_of_bandwidth"] = n_bytes * result["decode"] / result["bandwidth"]
        del contender  # the next one has the same weights
        short = _ours(made(shape, kind, work), config, threads, int8_cache=True)
        short.prefill(ids[:SHORT])
        result["int8_cache"] = {
            "decode": 1 / statistics.median(_seconds(short.step, i) for i in ids[:steps]),
            "decode_long": _long(short, ids[:steps]),
        }
    elif files:
        result["n_bytes"] = files[0].stat().st_size
    return result


def _files(name: str, shape: str, work: Path) -> list[Path]:
    family, _, kind = name.partition(" ")
    if family == "kokanee":
        return [made(shape, kind, work) / "llm.bin"]
    return [gguf(shape, kind, work)] if family == "llama.cpp" else []


def _ours(folder: Path, config: LlamaConfig, threads: int, *, int8_cache: bool) -> Kokanee:
    names = {f.name for f in dataclasses.fields(Dims)}
    known = {k: v for k, v in dataclasses.asdict(config).items() if k in names}
    width = config.n_kv_heads * config.d_head
    units = {f"{kv}_scale.{i}" for i in range(config.n_layers) for kv in ("key", "value")}
    embedding: Any = RandomRows(config)
    return Kokanee(
        "kokanee",
        folder / ("llm.kv8.onnx" if int8_cache else "llm.onnx"),
        embedding,
        Dims(d_speech=1, d_audio=1, d_qformer=1, **known),
        n_ctx=N_CTX,
        threads=threads,
        kv_scales={u: np.full(width, 0.05, np.float32) for u in units} if int8_cache else None,
    )


def _long(contender: Kokanee, ids: Sequence[int]) -> float:
    """Tokens a second behind LONG positions."""
    cache = contender.decoder.cache
    for pair in cache.layers:
        for array in pair:
            array[...] = 1  # pages that are there
    cache.length = LONG
    contender.step(ids[0])
    return 1 / statistics.median(_seconds(contender.step, i) for i in ids[1:])


def _cache_bytes(config: LlamaConfig, item: int) -> int:
    """Bytes of a position."""
    return 2 * config.n_layers * config.n_kv_heads * config.d_head * item


def _seconds(call: Any, *args: Any) -> float:
    started = time.perf_counter()
    call(*args)
    return time.perf_counter() - started


# --- all of them ----------------------------------------------------------------------------------


def measure(shape: str, work: Path, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Every contender in turn, `rounds` times."""
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    missing: dict[str, str] = {}
    for name in names:
        try:
            _files(name, shape, work)
        except ImportError as error:
            missing[name] = f"{error.name} is not installed"
    for turn in range(rounds):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            if name in missing or (name.startswith("torch") and turn >= TORCH_ROUNDS):
                continue
            click.echo(f"round {turn + 1} of {rounds}: {name}", err=True)
            command = [sys.executable, "-m", __spec__.name, "--shape", shape]
            command += ["--work", str(work), "--child", name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                missing[name] = done.stderr.strip().splitlines()[-1][:200]
                click.echo(f"  left out: {missing[name]}", err=True)
                continue
            samples[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        "what": f"LLM of the shape {shape}, random weights",
        "command": f"python -m kokanee.benchmarks.shapes --shape {shape} --work FOLDER",
        "threads": available_threads(),
        "rounds": rounds,
        "results": {name: _summary(runs) for name, runs in samples.items() if runs},
        "ratios": _ratios(samples),
        "left_out": missing,
        "machine": machine(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("onnxruntime", "llama-cpp-python", "numpy")
        },
    }


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and spread of every number, however deep."""
    return {
        key: _summary([r[key] for r in runs])
        if isinstance(value, dict)
        else value
        if key == "n_bytes"
        else spread([float(r[key]) for r in runs])
        for key, value in runs[0].items()
    }


def _ratios(samples: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Ours to llama.cpp's within a round, the median of the rounds."""
    ratios: dict[str, dict[str, float]] = {}
    for ours, runs in samples.items():
        if not ours.startswith("kokanee") or not runs:
            continue
        for theirs, others in samples.items():
            bits = "8" if "int8" in ours else "4"
            if not theirs.startswith(f"llama.cpp Q{bits}") or not others:
                continue
            pairs = list(zip(runs, others, strict=False))
            of = {"decode": [a["decode"] / b["decode"] for a, b in pairs]}
            of["ready_s"] = [a["ready_s"] / b["ready_s"] for a, b in pairs]
            of["peak_rss_mb"] = [a["peak_rss_mb"] / b["peak_rss_mb"] for a, b in pairs]
            for n in runs[0]["prefill"]:
                of[f"prefill {n}"] = [a["prefill"][n] / b["prefill"][n] for a, b in pairs]
            ratios[f"{ours} / {theirs}"] = {k: statistics.median(v) for k, v in of.items()}
    return ratios


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), required=True)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where weights go; what is there is used again. 5 GB for 1b, 40 GB for 7b.",
)
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", help="Names of contenders, with commas.")
@click.option("--child", hidden=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(
    shape: str, work: Path, rounds: int, only: str | None, child: str | None, out: Path | None
) -> None:
    """Measure; a table, then one JSON line."""
    work.mkdir(parents=True, exist_ok=True)
    if child is not None:
        click.echo(json.dumps(run_one(child, shape, work)))
        return
    names = only.split(",") if only else contenders(shape)
    result = measure(shape, work, names, rounds)
    for name, row in result["results"].items():
        prefills = ", ".join(f"{n}: {v['median']:.0f}" for n, v in row["prefill"].items())
        click.echo(
            f"{name:24} decode {row['decode']['median']:6.1f}  prefill {prefills:28}"
            f"  ready {row['ready_s']['median']:5.1f} s,"
            f" peak {row['peak_rss_mb']['median']:6.0f} MB"
        )
    for pair, ratio in result["ratios"].items():
        click.echo(f"{pair:44} " + ", ".join(f"{k} {v:.2f}" for k, v in ratio.items()))
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
