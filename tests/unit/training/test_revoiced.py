"""Speech said again: the same words, other sound, and nothing of validation."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("soxr")

from training import revoiced, shards


def test_training_s_clips_are_said_again_and_validation_s_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "WORK", tmp_path)
    rng = np.random.default_rng(0)
    pcm = {n: (0.2 * rng.standard_normal(n)).astype(np.float32) for n in (16_000, 20_000, 160_000)}
    said = [
        ({"source": "tts-joe", "name": "1", "kind": "speech", "text": "one"}, pcm[16_000]),
        ({"source": "tts-flite-rms", "name": "2", "kind": "speech", "text": "two"}, pcm[16_000]),
        ({"source": "tts-joe", "name": "3", "kind": "question", "text": "Who?"}, pcm[20_000]),
        ({"source": "tts-joe", "name": "4", "kind": "speech", "text": "long"}, pcm[160_000]),
    ]
    shards.write("said", said)
    made = revoiced.again(revoiced.told([shards.Shard("said")]), b"more")
    assert shards.write("more", made) == 2
    before, after = shards.Shard("said"), shards.Shard("more")
    assert [r["name"] for r in after.records] == ["1", "3"]
    for record, i in zip(after.records, (0, 2), strict=True):
        assert {k: record[k] for k in ("source", "kind", "text")} == {
            k: before.records[i][k] for k in ("source", "kind", "text")
        }
    assert not np.array_equal(after.pcm(0)[:16_000], before.pcm(0))
    assert np.isfinite(after.pcm(1)).all()
