import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kokanee.engine.manifest import Limits, Receipt
from kokanee.quant import receipt

F32 = npt.NDArray[np.float32]

ROWS = hnp.arrays(np.float32, (4, 7), elements=st.floats(-20, 20, width=16))


def log_p(logits: F32) -> F32:
    p: F32 = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(p - np.log(np.exp(p).sum(axis=1, keepdims=True)), np.float32)


@given(ROWS, ROWS)
def test_divergence_is_never_negative_and_zero_only_for_equals(a: F32, b: F32) -> None:
    targets = np.zeros(4, np.int64)
    assert receipt.agreement(log_p(a), log_p(b), targets).kl >= -1e-4
    same = receipt.agreement(log_p(a), log_p(a), targets)
    assert (same.kl, same.top1) == (0, 1)
    assert same.perplexity == same.perplexity_exact


def test_a_known_divergence_and_perplexity() -> None:
    exact = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32))
    ours = np.log(np.array([[0.25, 0.75], [0.9, 0.1]], np.float32))
    found = receipt.agreement(ours, exact, np.array([0, 0]))
    assert found.kl == pytest.approx((0.5 * np.log(2) + 0.5 * np.log(2 / 3)) / 2, abs=1e-6)
    assert found.top1 == 0.5  # a tie falls to the first token in one of them
    assert found.perplexity == pytest.approx((0.25 * 0.9) ** -0.5, rel=1e-5)
    assert found.perplexity_exact == pytest.approx((0.5 * 0.9) ** -0.5, rel=1e-5)


def test_soft_tokens_are_compared_row_by_row() -> None:
    want = np.array([[3, 4], [1, 0]], np.float32)
    got = np.array([[3, 4], [0, 1]], np.float32)
    found = receipt.soft_tokens(got, want)
    assert found.least_cosine == pytest.approx(0)
    assert found.snr_db == pytest.approx(10 * np.log10(26 / 2))
    assert receipt.soft_tokens(want, want).snr_db == 200


def test_limits_that_are_not_kept_are_said() -> None:
    found = receipt.agreement(
        np.log(np.array([[0.1, 0.9]], np.float32)),
        np.log(np.array([[0.9, 0.1]], np.float32)),
        np.array([0]),
    )
    bad = Receipt(
        against="",
        method="",
        llm={"text": found},
        int8_cache={},
        soft_tokens=receipt.soft_tokens(np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32)),
        cost=None,
        limits=Limits(kl=0.3, least_cosine=0.98),
    )
    complaints = bad.complaints()
    assert "KL 1.76 on text, the limit is 0.3" in complaints[0]
    assert "cosine 0.707, the limit is 0.98" in complaints[1]
    assert Receipt.from_json(dataclasses.asdict(bad)) == bad
