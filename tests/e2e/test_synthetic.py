"""Synthetic checkpoints have the official names and shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kokanee.benchmarks.synthetic import (
    N_PIECES,
    Values,
    beats_shapes,
    llm_shapes,
    salmonn_shapes,
    sizes,
    tokenizer_model,
    whisper_shapes,
    write,
)
from kokanee.export.llama_tokenizer import llama_tokenizer

OFFICIAL: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "salmonn" / "fullsize_keys.json").read_text("utf-8")
)


def official(part: str, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {f"{prefix}{name}": tuple(shape) for name, shape in OFFICIAL[part].items()}


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_salmonns_names_and_shapes_are_the_official_ones(size: str) -> None:
    trained, buffers = salmonn_shapes(sizes(size))
    assert trained | buffers == official(f"salmonn_{size.upper()}")


def test_the_encoders_names_and_shapes_are_the_official_ones() -> None:
    prefix = "model.encoder."
    whisper = whisper_shapes(sizes("7b").whisper)
    encoder = {n: s for n, s in whisper.items() if n.startswith(prefix)}
    assert encoder == official("whisper_encoder_prefix_model.encoder", prefix)
    assert beats_shapes(sizes("7b").beats) == official("beats")


@pytest.mark.parametrize(("size", "n_parameters"), [("7b", 6_738_415_616), ("13b", 13_015_864_320)])
def test_the_llm_has_vicunas_parameters(size: str, n_parameters: int) -> None:
    shapes = llm_shapes(sizes(size).llm)
    counted = [torch.Size(s).numel() for n, s in shapes.items() if "inv_freq" not in n]
    assert sum(counted) == n_parameters


def test_the_files_hold_tensors_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, sizes("tiny"))
    for path in (*tmp_path.rglob("*.bin"), *tmp_path.glob("*.p*")):
        assert torch.load(path, weights_only=True, mmap=True)
    shards = sorted((tmp_path / "llm").glob("pytorch_model-*.bin"))
    assert [p.name for p in shards] == [f"pytorch_model-0000{i}-of-00003.bin" for i in (1, 2, 3)]
    index = json.loads((tmp_path / "llm" / "pytorch_model.bin.index.json").read_text())
    for shard in shards:
        weights = torch.load(shard, weights_only=True)
        assert {n for n, f in index["weight_map"].items() if f == shard.name} == set(weights)
        assert {t.dtype for t in weights.values()} == {torch.float16}


def test_its_tokenizer_is_one_of_llamas_kind(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model())
    tokenizer = llama_tokenizer(tmp_path / "tokenizer.model")
    assert tokenizer.get_vocab_size() == N_PIECES
    ids = tokenizer.encode("the cat, at 9", add_special_tokens=False).ids
    assert tokenizer.decode(ids) == "the cat, at 9"


def test_no_two_tensors_are_equal() -> None:
    """Large ones were all the same stretch, which ONNX Runtime then kept in memory once."""
    values = Values()
    for n in (64, 4096, 1 << 24, (1 << 24) + 5000):
        one, other = (values("x.weight", (n,), "float16") for _ in range(2))
        assert one.shape == (n,)
        assert not np.array_equal(one, other)
        assert not np.shares_memory(one, other)
