"""Long clips are whole short ones, one after the other, and keep validation apart."""

import random
from pathlib import Path

import numpy as np
import pytest
from training import shards
from training.joined import LEAST, MOST, joined
from training.sentences import few_words
from training.shards import Record, Shard, is_validation, write


def spoken(source: str, n: int) -> list[tuple[Record, np.ndarray]]:
    level = np.linspace(0.1, 0.9, n)
    return [
        (
            {"source": source, "name": f"{k}", "kind": "speech", "text": f"line {k}"},
            np.full(3 * 16_000, level[k], np.float32),
        )
        for k in range(n)
    ]


def test_joined_clips_say_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "WORK", tmp_path)
    write("fotaq", spoken("fotaq", 120))
    write("tts-flite-rms", spoken("tts-flite-rms", 60))
    held = {r["text"] for r in Shard("fotaq").records if is_validation(r)}
    assert held
    made = list(joined([Shard("fotaq"), Shard("tts-flite-rms")], 30, seed=0))
    assert {record["source"] for record, _ in made} == {"fotaq", "tts-flite-rms"}
    for record, pcm in made:
        assert len(pcm) <= MOST
        lines = record["text"].rstrip(".").split(". ")
        assert len(pcm) >= LEAST or len(pcm) + 4 * 16_000 > MOST
        assert is_validation(record) is (record["source"] == "tts-flite-rms")
        if record["source"] == "fotaq":
            assert not held & set(lines)
            for line, level in zip(lines, levels(pcm), strict=True):
                assert int(line.split()[1]) == round((level - 0.1) / 0.8 * 119)


def levels(pcm: np.ndarray) -> list[float]:
    """The level of each of the parts between pauses."""
    starts = np.flatnonzero((pcm[1:] > 0) & (pcm[:-1] == 0)) + 1
    return [float(pcm[start]) for start in (0, *starts)]


def test_few_words_are_few() -> None:
    r = random.Random(0)
    counts = [len(few_words(r).split()) for _ in range(500)]
    assert max(counts) <= 9
    assert np.mean(np.array(counts) == 1) > 0.5
