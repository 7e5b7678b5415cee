"""What is said about samples: where their middle is, how far they spread, how sure that is.

Nothing here takes samples to be normally distributed: times on a shared machine have a floor and a
long tail. Confidence comes from the bootstrap (Efron, 1979): what the median would have been, had
other samples of the same run been drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Of one measure."""

    n: int
    median: float
    p50: float
    p90: float
    p95: float
    p99: float
    least: float
    most: float
    spread: float  # (p75 - p25) / median: 0 where all agree
    low: float  # the median lies between low and high
    high: float


def statistics(samples: Sequence[float]) -> Statistics:
    """Of at least one sample; a percentile between two samples lies between their values."""
    values = np.asarray(samples, np.float64)
    p25, p50, p75, p90, p95, p99 = (
        float(p) for p in np.percentile(values, [25, 50, 75, 90, 95, 99])
    )
    low, high = _bounds(np.median(_resampled(values), axis=1))
    return Statistics(
        n=len(values),
        median=p50,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        least=float(values.min()),
        most=float(values.max()),
        spread=(p75 - p25) / abs(p50) if p50 else 0.0,
        low=low,
        high=high,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One measure over another."""

    ratio: float
    low: float
    high: float
    paired: bool  # round by round, so that a slow minute is in both


def ratio(over: Sequence[float], under: Sequence[float], *, paired: bool) -> Ratio:
    """The ratio of two medians, or, in the same rounds, the median of the rounds' ratios.

    Raises:
        ValueError: paired, and not of the same length; or something to divide by is 0.
    """
    a, b = np.asarray(over, np.float64), np.asarray(under, np.float64)
    if paired and len(a) != len(b):
        raise ValueError(f"paired: expected as many samples, got {len(a)} and {len(b)}")
    if not b.all():
        raise ValueError("a ratio to 0")
    if paired:
        by_round = a / b
        middle, made = float(np.median(by_round)), np.median(_resampled(by_round), axis=1)
    else:
        middle = float(np.median(a) / np.median(b))
        made = np.median(_resampled(a), axis=1) / np.median(_resampled(b, seed=1), axis=1)
    low, high = _bounds(made)
    return Ratio(ratio=middle, low=low, high=high, paired=paired)


def _resampled(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """[RESAMPLES, n]: drawn with replacement, the same draws every time."""
    rng = np.random.default_rng(seed)
    drawn: np.ndarray = values[rng.integers(len(values), size=(RESAMPLES, len(values)))]
    return drawn


def _bounds(values: np.ndarray) -> tuple[float, float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
