"""One figure clip by clip, and how sure it is: shares and error rates with bootstrap intervals.

    value = sum of what is counted / sum of what it is counted out of

The clips are what is drawn again (Efron, 1979), so that an interval says what other recordings of
the same kind would have given; greedy answers themselves are the same every time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .confidence import CONFIDENCE, RESAMPLES
from .record import Better

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a figure is made of."""

    name: str
    says: str  # for people
    better: Better
    keys: tuple[str, ...]  # the clips, each once
    counted: tuple[float, ...]  # right answers, or wrong words, of each clip
    out_of: tuple[float, ...]  # answers, or words, of each clip
    classes: tuple[str, ...] | None = None  # of each clip: the value is the mean of the classes'
    constant: float | None = None  # what the best constant answer reaches

    def __post_init__(self) -> None:
        lengths = {
            len(self.keys),
            len(self.counted),
            len(self.out_of),
            len(self.classes or self.keys),
        }
        if len(lengths) != 1 or not self.keys or sum(self.out_of) <= 0:
            raise ValueError(f"{self.name}: expected the same clips in every column, and something")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value, and the interval that it lies in with `confidence.CONFIDENCE`."""

    value: float
    low: float
    high: float
    n: int  # clips


def estimate(tally: Tally) -> Estimate:
    """The figure and its interval; the same every time."""
    columns, value_of = _columns(tally)
    n = len(columns)
    value = float(value_of(columns.sum(0, keepdims=True))[0])
    low, high = _bounds(value_of(_draws(n) @ columns))
    return Estimate(value=value, low=low, high=high, n=n)


def difference(tally: Tally, other: Tally) -> Estimate:
    """How much more `tally` is than `other`, on the clips that both have, drawn together.

    Raises:
        ValueError: They have no clip in common.
    """
    common = set(tally.keys) & set(other.keys)
    if not common:
        raise ValueError(f"{tally.name}: expected clips that both have, got none")
    (a, value_a), (b, value_b) = (_columns(_only(t, common)) for t in (tally, other))
    value = float((value_a(a.sum(0, keepdims=True)) - value_b(b.sum(0, keepdims=True)))[0])
    draws = _draws(len(a))
    low, high = _bounds(value_a(draws @ a) - value_b(draws @ b))
    return Estimate(value=value, low=low, high=high, n=len(a))


def _only(tally: Tally, keys: set[str]) -> Tally:
    """Those clips, in the order of their keys."""
    order = sorted((key, i) for i, key in enumerate(tally.keys) if key in keys)
    at = [i for _, i in order]
    return Tally(
        name=tally.name,
        says=tally.says,
        better=tally.better,
        keys=tuple(tally.keys[i] for i in at),
        counted=tuple(tally.counted[i] for i in at),
        out_of=tuple(tally.out_of[i] for i in at),
        classes=None if tally.classes is None else tuple(tally.classes[i] for i in at),
    )


def _columns(tally: Tally) -> tuple[F64, Callable[[F64], F64]]:
    """[n_clips, 2 * n_classes] of counts, and what makes values [n] of sums [n, 2 * n_classes]."""
    pairs = np.array([tally.counted, tally.out_of], np.float64).T
    if tally.classes is None:
        columns = pairs
    else:
        names = sorted(set(tally.classes))
        member = np.array([[name == of for name in names] for of in tally.classes], np.float64)
        columns = np.concatenate([member * pairs[:, :1], member * pairs[:, 1:]], axis=1)
    half = columns.shape[1] // 2

    def value_of(sums: F64) -> F64:
        # A class may not be drawn at all: the mean is then over those that were.
        out_of = sums[:, half:]
        there = out_of > 0
        shares = np.where(there, sums[:, :half] / np.where(there, out_of, 1), 0.0)
        made: F64 = shares.sum(1) / np.maximum(1, there.sum(1))
        return made

    return columns, value_of


def _draws(n: int) -> F64:
    """[RESAMPLES, n]: how often each of n clips is drawn, n times with replacement."""
    rng = np.random.default_rng(0)
    return rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)


def _bounds(values: F64) -> tuple[float, float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
