"""Shards on disk: what is made again loses what was computed of it, and validation stays apart."""

from pathlib import Path

import numpy as np
import pytest
from training import shards
from training.shards import Shard, is_validation, write

RECORD = {"source": "made", "name": "a", "kind": "noise", "text": "noise"}


def test_a_shard_made_again_loses_its_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "WORK", tmp_path)
    write("noises", [(RECORD, np.full(20_000, 0.1, np.float32))])
    frames = int(Shard("noises").frame_at[-1])
    for kind, width in (("speech", 512), ("audio", 256)):
        (tmp_path / f"shards/noises.{kind}").write_bytes(bytes(2 * width * frames))
    assert (Shard("noises").n_encoded, Shard("noises").n_heard) == (1, 1)
    write("noises", [(RECORD, np.full(20_000, 0.2, np.float32))])
    assert (Shard("noises").n_encoded, Shard("noises").n_heard) == (0, 0)
    assert Shard("noises").pcm(0) == pytest.approx(np.full(20_000, 0.2), abs=1e-4)


def test_who_joins_clips_says_which_part_they_are_of() -> None:
    joined = {"source": "fotaq", "name": "", "kind": "speech", "text": "Hello. Who is there?"}
    names = {f"long-{k}" for k in range(200) if is_validation(joined | {"name": f"long-{k}"})}
    assert names
    for name in names:
        assert not is_validation(joined | {"name": name, "held": False})
