import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kokanee.engine.sampling import (
    Sampling,
    draw,
    forbid_repeats,
    make_sampler,
    min_p,
    penalise,
    top_k,
    top_p,
)

F32 = npt.NDArray[np.float32]

LOGITS = hnp.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32, allow_subnormal=False)
)


def logits_of(*probabilities: float) -> F32:
    return np.log(np.array(probabilities, np.float32))


def kept(logits: F32) -> list[int]:
    return np.flatnonzero(np.isfinite(logits)).tolist()


@given(LOGITS)
def test_by_default_the_likeliest_token_is_taken(logits: F32) -> None:
    assert make_sampler(Sampling())(logits, []) == logits.argmax()


@given(LOGITS)
def test_every_filter_keeps_the_likeliest_token_and_changes_no_kept_logit(logits: F32) -> None:
    for out in (top_k(logits, 1), top_p(logits, 0.01), min_p(logits, 1.0), top_p(logits, 0.9)):
        assert out.dtype == np.float32
        assert logits.argmax() in kept(out)
        np.testing.assert_array_equal(out[kept(out)], logits[kept(out)])


def test_each_filter_keeps_what_its_formula_says() -> None:
    logits = logits_of(0.1, 0.4, 0.2, 0.3)
    assert kept(top_k(logits, 2)) == [1, 3]
    assert kept(top_k(logits, 9)) == [0, 1, 2, 3]
    assert kept(top_p(logits, 0.65)) == [1, 3]
    assert kept(top_p(logits, 0.75)) == [1, 2, 3]
    assert kept(min_p(logits, 0.45)) == [1, 2, 3]
    assert kept(min_p(logits, 0)) == [0, 1, 2, 3]


def test_repetition_penalty_lowers_what_was_generated_and_leaves_the_input_alone() -> None:
    logits = np.array([2, -2, 1], np.float32)
    np.testing.assert_array_equal(
        penalise(logits, [0, 1, 1], 2.0), np.array([1, -4, 1], np.float32)
    )
    np.testing.assert_array_equal(logits, np.array([2, -2, 1], np.float32))
    assert make_sampler(Sampling(repetition_penalty=2.5))(logits, [0]) == 2


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(1, 6))
def test_only_what_would_say_a_run_again_is_forbidden(ids: list[int], size: int) -> None:
    logits = np.zeros(5, np.float32)
    runs = {tuple(ids[at : at + size]) for at in range(len(ids) - size + 1)}
    new = [t for t in range(5) if len(ids) < size or (*ids, t)[-size:] not in runs]
    assert kept(forbid_repeats(logits, ids, size)) == new
    np.testing.assert_array_equal(logits, np.zeros(5, np.float32))


def test_a_circle_is_left_where_it_would_close() -> None:
    logits = np.array([0, 1, 2, 3], np.float32)
    sample = make_sampler(Sampling(no_repeat_ngram_size=3))
    assert sample(logits, [1, 2, 3, 1, 2]) == 2
    assert make_sampler(Sampling())(logits, [1, 2, 3, 1, 2]) == 3


def test_draws_follow_the_probabilities() -> None:
    rng = np.random.default_rng(1)
    logits = logits_of(0.0001, 0.6, 0.3, 0.0999)
    counts = np.bincount([draw(logits, rng) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, [0.0001, 0.6, 0.3, 0.0999], atol=0.03)


@given(LOGITS, st.integers(0, 2**32))
def test_an_excluded_token_is_never_drawn(logits: F32, seed: int) -> None:
    out = top_k(logits, 3)
    assert draw(out, np.random.default_rng(seed)) in kept(out)


def test_the_same_seed_gives_the_same_answer() -> None:
    logits = np.zeros(1000, np.float32)

    def answer(seed: int) -> list[int]:
        sample = make_sampler(Sampling(temperature=1.0, top_p=0.9, seed=seed))
        return [sample(logits, []) for _ in range(8)]

    assert answer(3) == answer(3) != answer(4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"no_repeat_ngram_size": -1},
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_value(wrong: dict[str, float]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Sampling(**wrong)  # type: ignore[arg-type]
