"""How fast a machine's operators are: measured points, and what lies between them.

A point says how long one operator took at one size and one number of rows. Between points time
follows a power of the rows, and of the size: straight lines through logarithms. A point itself
comes back exactly. Beyond the last row or size the last line goes on, never flatter than nothing
and never steeper than proportional; below the first it does too, so that less is never dearer.

profile_measure.py measures; plan_operations.py says what a model asks for.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from kokanee.engine import KokaneeError

FORMAT = 1
FILE = "machine.json"  # in the user's cache folder
RECORDED = Path(__file__).parent / "results" / "profile.json"


class ProfileError(KokaneeError):
    """A machine's profile is damaged, of another version, or lacks an operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One operator, as measured."""

    op: str  # what, and how it is stored: "product int4_block128", "add", ...
    size: float  # of a matrix: its weights; of attention: its keys; else 1
    rows: float  # or elements, or frames
    seconds: float  # the lower quartile: other programs only ever add to it
    least: float
    median: float
    n_runs: int

    def __post_init__(self) -> None:
        if min(self.size, self.rows, self.seconds) <= 0:
            raise ProfileError(f"point: expected size, rows and seconds above 0, got {self}")


Curve = tuple[tuple[float, float], ...]  # (rows, seconds), ascending


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A machine, by its points."""

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    date: str
    bandwidth_gb_s: float  # read by all cores together
    points: tuple[Point, ...]
    took_s: float = 0.0
    note: str = ""
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def _curves(self) -> dict[str, tuple[tuple[float, Curve], ...]]:
        by_op: dict[str, dict[float, list[tuple[float, float]]]] = defaultdict(dict)
        for p in self.points:
            by_op[p.op].setdefault(p.size, []).append((p.rows, p.seconds))
        return {
            op: tuple((size, tuple(sorted(points))) for size, points in sorted(curves.items()))
            for op, curves in by_op.items()
        }

    @property
    def ops(self) -> tuple[str, ...]:
        """Every operator that was measured."""
        return tuple(self._curves)

    def seconds(self, op: str, *, rows: float, size: float = 1.0) -> float:
        """How long one operator takes.

        Raises:
            ProfileError: it was not measured.
        """
        curves = self._curves.get(op)
        if curves is None:
            raise ProfileError(
                f"profile: expected the operator {op!r}, got {', '.join(sorted(self._curves))};"
                " measure this machine again with kokanee plan --measure"
            )
        if len(curves) == 1:
            return between(curves[0][1], rows)
        return between([(at, between(curve, rows)) for at, curve in curves], size)

    def to_json(self) -> dict[str, Any]:
        """What a file keeps."""
        return {
            "format": FORMAT,
            "note": self.note,
            "date": self.date,
            "took_s": self.took_s,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "bandwidth_gb_s": self.bandwidth_gb_s,
            "points": [asdict(p) for p in self.points],
        }

    def write(self, path: Path) -> None:
        """Keep it, one point a line."""
        made = self.to_json()
        points = ",\n".join("  " + json.dumps(p) for p in made.pop("points"))
        head = json.dumps(made, indent=1)[:-2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{head},\n "points": [\n{points}\n ]\n}}\n', encoding="utf-8")


def between(points: Sequence[tuple[float, float]], x: float) -> float:
    """Between ascending points (x, seconds), straight in logarithms; see the module."""
    if x <= 0:
        raise ValueError(f"expected something above 0, got {x}")
    for at, seconds in points:
        if x == at:
            return seconds
    if len(points) == 1:
        return points[0][1] * max(1.0, x / points[0][0])
    inside = [pair for pair in pairwise(points) if pair[0][0] < x < pair[1][0]]
    if inside:
        (x0, y0), (x1, y1) = inside[0]
        return float(y0 * (x / x0) ** (math.log(y1 / y0) / math.log(x1 / x0)))
    (x0, y0), (x1, y1) = points[:2] if x < points[0][0] else points[-2:]
    slope = min(1.0, max(0.0, math.log(y1 / y0) / math.log(x1 / x0)))
    end, least = (x0, y0) if x < x0 else (x1, y1)
    return float(least * (x / end) ** slope)


def read(path: Path) -> Profile:
    """A kept profile.

    Raises:
        ProfileError: it is damaged or of another version.
    """
    try:
        kept = json.loads(path.read_text("utf-8"))
        if kept.pop("format") != FORMAT:
            raise ProfileError(
                f"{path}: another version made it; measure again with kokanee plan --measure"
            )
        points = tuple(Point(**p) for p in kept.pop("points"))
        return Profile(points=points, **kept)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProfileError(
            f"{path}: not a machine's profile ({error}); measure again with kokanee plan --measure"
        ) from None


def of_samples(op: str, samples: Iterable[float], *, rows: float, size: float = 1.0) -> Point:
    """A point from the seconds of several runs of one operator."""
    times = sorted(samples)
    return Point(
        op=op,
        size=size,
        rows=rows,
        seconds=times[(len(times) - 1) // 4],
        least=times[0],
        median=times[len(times) // 2],
        n_runs=len(times),
    )
