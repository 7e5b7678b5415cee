import numpy as np
import numpy.typing as npt
import pytest

from kokanee.quant import blocks, fit
from kokanee.quant.blocks import F32
from kokanee.quant.gptq import gptq, hessian
from kokanee.quant.schemes import BLOCKWISE, INT4_OFFSET, Blockwise

SCHEMES = [BLOCKWISE[n] for n in ("int4_block32", "int4_zeros_block64", "int8_block128")]


def correlated(n: int, d_in: int, seed: int = 0) -> F32:
    """Inputs whose channels hang together, as those of a trained model do."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((n, 24)) @ rng.standard_normal((24, d_in))
    return (mixed + 0.2 * rng.standard_normal((n, d_in))).astype(np.float32)


def error(x: F32, weight: F32, quantized: blocks.Blocks) -> float:
    """Of the products, relative."""
    want = x @ weight.T
    return float(np.linalg.norm(x @ blocks.dequantize(quantized).T - want) / np.linalg.norm(want))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_products_come_out_nearer_than_rounded_to_nearest_on_inputs_not_seen(
    scheme: Blockwise,
) -> None:
    everything = correlated(800, 160)
    seen, new = everything[:400], everything[400:]
    weight = np.random.default_rng(1).standard_normal((48, 160)).astype(np.float32)
    ours = error(new, weight, gptq(weight, hessian(seen), scheme))
    assert ours < 0.5 * error(new, weight, blocks.quantize(weight, scheme))


def test_uncorrelated_inputs_leave_nothing_to_make_good() -> None:
    """H is the identity: every weight's nearest code, on the scale of least error."""
    weight = np.random.default_rng(0).standard_normal((8, 96)).astype(np.float32)
    scheme = BLOCKWISE["int4_block32"]
    got = gptq(weight, np.eye(96, dtype=np.float32), scheme)
    want = blocks.quantize(weight, scheme, fit.least_error)
    np.testing.assert_array_equal(got.codes, want.codes)
    np.testing.assert_allclose(got.scales, want.scales, rtol=1e-6)


def test_it_is_the_published_algorithm() -> None:
    """Algorithm 1 of arXiv 2210.17323, column by column as it stands there, on the same grid."""
    rng = np.random.default_rng(3)
    x, weight = correlated(300, 64), rng.standard_normal((5, 64)).astype(np.float32)
    scheme, h = BLOCKWISE["int4_block32"], hessian(x)
    got = gptq(weight, h, scheme, damp=0.01)
    order = np.argsort(-np.diagonal(h), kind="stable")
    damped = h[np.ix_(order, order)].astype(np.float64)
    damped += 0.01 * np.diagonal(h).mean() * np.eye(64)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left: npt.NDArray[np.float64] = weight[:, order].astype(np.float64)
    values = np.empty_like(left)
    for i in range(64):
        scale = got.scales[:, order[i] // 32]
        values[:, i] = (np.clip(np.floor(left[:, i] / scale + 8.5), 0, 15) - 8) * scale
        left[:, i:] -= np.outer((left[:, i] - values[:, i]) / upper[i, i], upper[i, i:])
    same = np.isclose(blocks.dequantize(got)[:, order], values, atol=1e-5)
    # a weight on the edge between two codes may fall to either side, and its row with it
    assert same.all(axis=1).sum() >= 4


def test_channels_that_are_never_there_and_padding_do_no_harm() -> None:
    x = correlated(200, 100)
    x[:, 40:60] = 0
    weight = np.random.default_rng(1).standard_normal((6, 100)).astype(np.float32)
    quantized = gptq(weight, hessian(x), BLOCKWISE["int4_block64"])
    assert np.isfinite(quantized.scales).all()
    assert error(x, weight, quantized) < 0.1
    assert quantized.shape == (6, 100)


@pytest.mark.parametrize(
    ("h", "scheme", "complaint"),
    [
        (np.eye(3, dtype=np.float32), BLOCKWISE["int4_block32"], "expected shape"),
        (np.full((32, 32), np.nan, np.float32), BLOCKWISE["int4_block32"], "finite"),
        (-np.eye(32, dtype=np.float32), BLOCKWISE["int4_block32"], "not positive"),
        (np.eye(32, dtype=np.float32), INT4_OFFSET, "without offsets"),
    ],
)
def test_bad_input_is_told(h: F32, scheme: Blockwise, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        gptq(np.zeros((2, 32), np.float32), h, scheme)
