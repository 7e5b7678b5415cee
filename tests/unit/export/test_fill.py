import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kokanee.engine.errors import CheckpointError, ManifestError
from kokanee.export import fill as filling
from kokanee.export.fill import fill
from kokanee.export.layout import (
    Layout,
    Part,
    Source,
    Weight,
    key,
    packed_parts,
    transformed_shape,
    zeros,
)
from kokanee.quant import blocks
from kokanee.quant.schemes import INT4, INT4_OFFSET


def layout(*weights: tuple[tuple[Source, ...], tuple[str, ...], str]) -> Layout:
    """A layout with these weights, called w0, w1 ..., at multiples of 64 bytes."""
    made, end = [], 0
    for i, (sources, transforms, packing) in enumerate(weights):
        parts = []
        shape = transformed_shape(transforms, [s.shape for s in sources])
        for role, dtype, part_shape in packed_parts(packing, shape):
            part = Part(f"w{i}/{role}", role, dtype, part_shape, -(-end // 64) * 64)
            end = part.offset + part.n_bytes
            parts.append(part)
        made.append(Weight(f"w{i}", sources, transforms, packing, tuple(parts)))
    return Layout("toy", tuple(made))


def read(path: Path, part: Part) -> npt.NDArray[Any]:
    data = path.read_bytes()[part.offset : part.offset + part.n_bytes]
    return np.frombuffer(data, part.dtype).reshape(part.shape)


def written(
    tmp_path: Path, sources: tuple[Source, ...], transforms: tuple[str, ...], *arrays: blocks.F32
) -> npt.NDArray[Any]:
    """What the filler makes of one f32 weight whose keyed sources are `arrays`."""
    toy = layout((sources, transforms, "f32"))
    keys = [s.key for s in sources if s.key]
    fill(toy, dict(zip(keys, arrays, strict=True)), tmp_path / "toy.bin")
    return read(tmp_path / "toy.bin", toy.weights[0].parts[0])


RNG = np.random.default_rng(0)
A = RNG.normal(size=(3, 2)).astype(np.float32)
B = RNG.normal(size=(4, 2)).astype(np.float32)


def test_stacked_and_transposed(tmp_path: Path) -> None:
    got = written(tmp_path, (key("a", 3, 2), key("b", 4, 2)), ("concat 0", "transpose"), A, B)
    np.testing.assert_array_equal(got, np.concatenate([A, B]).T)


def test_along_the_diagonal_with_rows_of_zeros_between(tmp_path: Path) -> None:
    """LoRA acts on q and v, so k's rows of B are zero."""
    got = written(tmp_path, (key("a", 3, 2), zeros(5, 0), key("b", 4, 2)), ("block_diag",), A, B)
    want = np.zeros((12, 4), np.float32)
    want[:3, :2], want[8:, 2:] = A, B
    np.testing.assert_array_equal(got, want)


def test_weight_norm_is_unfolded(tmp_path: Path) -> None:
    g = RNG.normal(size=(1, 1, 5)).astype(np.float32)
    v = RNG.normal(size=(4, 3, 5)).astype(np.float32)
    got = written(tmp_path, (key("g", 1, 1, 5), key("v", 4, 3, 5)), ("weight_norm 2",), g, v)
    for k in range(5):
        want = g[0, 0, k] * v[:, :, k] / np.linalg.norm(v[:, :, k])
        np.testing.assert_allclose(got[:, :, k], want, rtol=1e-5)


def test_rotary_tables(tmp_path: Path) -> None:
    source = Source("rope_sin", (50, 4), theta=100.0)
    got = written(tmp_path, (source,), ())
    assert got[0].tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(got[7, 1], np.sin(7 * 100 ** (-2 / 8)), rtol=1e-6)


def test_quantized_blocks_go_through_bit_for_bit(tmp_path: Path) -> None:
    first, second = (
        blocks.quantize(RNG.normal(size=(n, 64)).astype(np.float32), INT4_OFFSET) for n in (3, 5)
    )
    toy = layout(((key("a", 3, 64), key("b", 5, 64)), ("concat 0",), INT4_OFFSET.name))
    fill(toy, {"a": first, "b": second}, tmp_path / "toy.bin")
    (weight,) = toy.weights
    codes = read(tmp_path / "toy.bin", weight.part("codes"))
    offsets = read(tmp_path / "toy.bin", weight.part("offsets"))
    np.testing.assert_array_equal(codes, np.concatenate([first.codes, second.codes]))
    assert first.offsets is not None
    np.testing.assert_array_equal(offsets[:, :3], first.offsets.T)


def test_blocks_of_another_scheme_are_quantized_anew(tmp_path: Path) -> None:
    have = blocks.quantize(RNG.normal(size=(3, 64)).astype(np.float32), INT4_OFFSET)
    toy = layout(((key("a", 3, 64),), (), INT4.name))
    fill(toy, {"a": have}, tmp_path / "toy.bin")
    want = blocks.quantize(blocks.dequantize(have), INT4)
    got = read(tmp_path / "toy.bin", toy.weights[0].part("codes"))
    np.testing.assert_array_equal(got, want.codes)


def test_the_report_is_the_file(tmp_path: Path) -> None:
    import hashlib

    toy = layout(((key("a", 3, 2),), (), "f32"), ((key("b", 4, 2),), (), "f16"))
    seen: list[tuple[int, int]] = []
    done = fill(toy, {"a": A, "b": B}, tmp_path / "toy.bin", progress=lambda *at: seen.append(at))
    data = (tmp_path / "toy.bin").read_bytes()
    assert done.n_bytes == len(data) == toy.n_bytes == 64 + 16
    assert done.sha256 == hashlib.sha256(data).hexdigest()
    assert seen == [(24, 80), (80, 80)]


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    toy = layout(((key("a", 3, 2),), (), "f32"))
    with pytest.raises(CheckpointError, match="toy: no tensor a"):
        fill(toy, {}, tmp_path / "toy.bin")


def test_a_wrong_shape_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    toy = layout(((key("a", 3, 2),), (), "f32"))
    with pytest.raises(CheckpointError, match=r"a: expected shape \(3, 2\), got \(4, 2\)"):
        fill(toy, {"a": B}, tmp_path / "toy.bin")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    toy = layout(((key("a", 3, 2),), (), "f32"))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(toy, {"a": A}, tmp_path / "toy.bin", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_layout_survives_its_text() -> None:
    toy = layout(
        ((key("a", 3, 32), zeros(2, 32)), ("concat 0",), INT4.name),
        ((Source("rope_cos", (50, 4), theta=1e4),), (), "f32"),
    )
    assert Layout.from_json(toy.to_json()) == toy
    assert toy.keys == {"a"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"f32"', '"f33"'),
        ('"transpose"', '"exec"'),
        ('"transpose"', '"concat 7"'),
        ('"kind": "key"', '"kind": "file"'),
        ('"offset": 0', '"offset": -64'),
        ('"theta"', '"gamma"'),
        ('"format": 1', '"format": 2'),
        ('"shape": [2, 3]', '"shape": [2, 4]'),
    ],
)
def test_a_layout_with_an_unknown_word_is_refused(old: str, new: str) -> None:
    text = layout(((key("a", 3, 2),), ("transpose",), "f32")).to_json()
    assert old in text
    with pytest.raises(ManifestError):
        Layout.from_json(text.replace(old, new))


def test_every_transform_has_a_shape_and_a_meaning() -> None:
    from kokanee.export import layout as layouts

    assert set(layouts._SHAPE_OF) == set(filling._APPLY)
    assert json.loads(layout(((key("a", 3, 2),), (), "f32")).to_json())["format"] == 1
