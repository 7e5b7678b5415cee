from pathlib import Path

import numpy as np
import pytest

from kokanee.engine.embedding import Embedding
from kokanee.engine.errors import ManifestError
from kokanee.engine.manifest import Table
from kokanee.quant import blocks
from kokanee.quant.schemes import INT8

FLOATS = np.random.default_rng(0).normal(size=(20, 48)).astype(np.float32)


def table(folder: Path) -> Table:
    """48 columns: the second block of 32 is half padding."""
    quantized = blocks.quantize(FLOATS, INT8)
    codes = quantized.codes.tobytes()
    (folder / "t.bin").write_bytes(b"x" * 64 + codes + quantized.scales.tobytes())
    return Table(file="t.bin", dtype="uint8", offset=64, block=32, scales_offset=64 + len(codes))


def test_rows_are_the_dequantized_table(tmp_path: Path) -> None:
    embedding = Embedding(tmp_path, table(tmp_path), n_vocab=20, d_model=48)
    want = blocks.dequantize(blocks.quantize(FLOATS, INT8))
    np.testing.assert_array_equal(embedding.rows([3, 19, 3, 0]), want[[3, 19, 3, 0]])
    assert embedding.rows([]).shape == (0, 48)


def test_pages_that_were_let_go_come_back(tmp_path: Path) -> None:
    embedding = Embedding(tmp_path, table(tmp_path), n_vocab=20, d_model=48)
    want = embedding.rows(range(20))
    embedding.release()
    np.testing.assert_array_equal(embedding.rows(range(20)), want)


@pytest.mark.parametrize("ids", [[20], [0, -1]])
def test_an_unknown_token_is_refused(ids: list[int], tmp_path: Path) -> None:
    embedding = Embedding(tmp_path, table(tmp_path), n_vocab=20, d_model=48)
    with pytest.raises(ValueError, match="expected 0 to 19"):
        embedding.rows(ids)


def test_a_table_cut_short_is_refused(tmp_path: Path) -> None:
    spec = table(tmp_path)
    whole = (tmp_path / "t.bin").read_bytes()
    (tmp_path / "t.bin").write_bytes(whole[:-1])
    with pytest.raises(ManifestError, match=r"t\.bin: too short"):
        Embedding(tmp_path, spec, n_vocab=20, d_model=48)
