"""Bytes, nodes and allocations: the same on every run, and what is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from kokanee.benchmarks.counts import counts, kv_bytes, n_nodes, step_bytes
from kokanee.benchmarks.record import key, read
from kokanee.engine import Engine, read_manifest

RECORDED = Path(__file__).parents[3] / "benchmarks" / "results" / "nano.json"


@pytest.mark.artefact
def test_nano_weighs_what_is_recorded(nano: Path) -> None:
    recorded = dict(read(RECORDED).counts())
    now = {
        key("memory", count): count.value
        for count in counts(nano)
        if count.name != "step_bytes"  # depends on the interpreter; held by the next test
    }
    assert now == {name: recorded[name].value for name in now}


@pytest.mark.artefact
def test_a_step_allocates_the_same_however_much_was_heard(nano: Path) -> None:
    by_depth = step_bytes(nano)
    # The interpreter itself may allocate a few bytes in between; a cache's position has 11 kB.
    assert max(by_depth.values()) - min(by_depth.values()) < 1_000
    # One embedding, one position: nothing of the cache (11 kB a position) or the logits (197 kB).
    assert max(by_depth.values()) < 10_000


def test_a_copy_of_the_cache_would_show(tiny: Path) -> None:
    from kokanee.engine.kv_cache import KVCache

    class Copying(KVCache):
        def append(self, n_new: int) -> None:
            self.kept = [key[:, :, : self.length].copy() for key, _ in self.layers]
            super().append(n_new)

    honest = step_bytes(tiny)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kokanee.engine.decoder.KVCache", Copying)
        copying = step_bytes(tiny)
    grown = {name: by[400] - by[8] for name, by in (("copying", copying), ("honest", honest))}
    assert grown["copying"] > 1_000 > abs(grown["honest"])


def test_kv_bytes_are_those_of_a_session(tiny: Path) -> None:
    with Engine.open(tiny, kv_cache="float32") as engine, engine.session(n_ctx=300) as session:
        assert session.kv_bytes == kv_bytes(read_manifest(tiny), "float32", 300)
        assert kv_bytes(read_manifest(tiny), "int8", 300) * 4 == session.kv_bytes


def test_nodes_are_counted_without_reading_weights(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "alone.onnx"
    file.write_bytes((tiny / "connector.onnx").read_bytes())  # its weights are elsewhere
    assert n_nodes(file) == n_nodes(tiny / "connector.onnx") > 0
