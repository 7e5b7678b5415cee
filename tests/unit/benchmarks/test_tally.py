import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.benchmarks.tally import Tally, difference, estimate

RIGHT = st.lists(st.booleans(), min_size=1, max_size=30)


def tally(right: list[bool] | list[float], **more: object) -> Tally:
    columns = {
        "keys": tuple(str(i) for i in range(len(right))),
        "counted": tuple(float(r) for r in right),
        "out_of": (1.0,) * len(right),
    }
    return Tally(name="a", says="a", better="more", **{**columns, **more})  # type: ignore[arg-type]


@given(RIGHT)
def test_a_share_lies_within_its_interval(right: list[bool]) -> None:
    found = estimate(tally(right))
    assert found.value == pytest.approx(sum(right) / len(right))
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 1
    assert found.n == len(right)


def test_an_error_rate_is_over_all_words() -> None:
    found = estimate(tally([1.0, 0.0, 3.0], out_of=(4.0, 10.0, 2.0)))
    assert found.value == 4 / 16


def test_balance_is_the_mean_of_the_classes() -> None:
    found = estimate(tally([True, True, True, False], classes=("a", "a", "a", "b")))
    assert found.value == 0.5


@given(RIGHT)
def test_nothing_differs_from_itself(right: list[bool]) -> None:
    found = difference(tally(right), tally(right))
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_pairs_are_found_by_clip_whatever_their_order() -> None:
    ours = tally([True, False, True], keys=("a", "b", "c"))
    theirs = tally([False, True, True, False], keys=("b", "a", "d", "c"))
    found = difference(ours, theirs)
    assert found.n == 3
    assert found.value == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="clips that both have"):
        difference(ours, tally([True], keys=("z",)))


def test_pairing_is_surer_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    ours = rng.random(200) < 0.5
    theirs = ours.copy()
    theirs[:6] = ~theirs[:6]
    paired = difference(tally(ours.tolist()), tally(theirs.tolist()))
    alone = estimate(tally(ours.tolist()))
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        found = estimate(tally((rng.random(60) < 0.7).tolist()))
        held += found.low <= 0.7 <= found.high
    assert 88 <= held <= 100


def test_columns_that_do_not_fit_are_refused() -> None:
    for wrong in ({"out_of": (1.0,)}, {"keys": ("a",)}, {"out_of": (0.0, 0.0)}):
        with pytest.raises(ValueError, match="the same clips in every column"):
            tally([True, False], **wrong)
