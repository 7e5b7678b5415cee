import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.benchmarks.confidence import ratio, statistics

SAMPLES = st.lists(st.floats(0.5, 100), min_size=1, max_size=20)


@given(SAMPLES, st.booleans())
def test_the_ratio_of_the_same_samples_is_1(samples: list[float], paired: bool) -> None:
    found = ratio(samples, samples, paired=paired)
    assert found.ratio == 1
    assert found.low <= 1 <= found.high


@given(SAMPLES, st.floats(0.1, 10), st.booleans())
def test_scaling_one_side_scales_the_ratio(
    samples: list[float], factor: float, paired: bool
) -> None:
    plain = ratio(samples, samples, paired=paired)
    scaled = ratio([factor * x for x in samples], samples, paired=paired)
    for of in ("ratio", "low", "high"):
        assert getattr(scaled, of) == pytest.approx(factor * getattr(plain, of))


def test_pairing_removes_a_slow_down_that_both_had() -> None:
    rng = np.random.default_rng(0)
    slow = rng.uniform(1, 5, 20)
    ours, theirs = 10 * slow, 20 * slow
    paired = ratio(theirs.tolist(), ours.tolist(), paired=True)
    alone = ratio(theirs.tolist(), ours.tolist(), paired=False)
    assert (paired.ratio, paired.low, paired.high) == pytest.approx((2, 2, 2))
    assert alone.high - alone.low > 0.5


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        found = statistics(rng.exponential(1, 40).tolist())
        held += found.low <= np.log(2) <= found.high
    assert 88 <= held <= 100


def test_more_samples_are_surer() -> None:
    rng = np.random.default_rng(0)
    few, many = (statistics(rng.normal(100, 5, n).tolist()) for n in (10, 1000))
    assert many.high - many.low < (few.high - few.low) / 3


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="expected as many samples, got 1 and 2"):
        ratio([1.0], [1.0, 2.0], paired=True)
    with pytest.raises(ValueError, match="a ratio to 0"):
        ratio([1.0], [0.0], paired=False)
