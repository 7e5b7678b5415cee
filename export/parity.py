"""A graph beside its reference: names first, then shapes, then values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from kokanee.engine.errors import NameMismatch, ShapeMismatch, ValueMismatch
from kokanee.engine.manifest import Parity

Arrays = Mapping[str, npt.NDArray[np.float32]]


def check_parity(
    graph: str, got: Arrays, want: Arrays, *, tolerance: float, against: str
) -> Parity:
    """Compare a graph's outputs with the reference's.

    Args:
        graph: its name, for the messages.
        got: the graph's outputs.
        want: the reference's.
        tolerance: largest absolute difference allowed.
        against: what the reference is, for the manifest.

    Returns:
        The measured difference, to be kept in the manifest.

    Raises:
        NameMismatch: an output is missing or was not expected.
        ShapeMismatch: an output has another shape.
        ValueMismatch: a value is not finite, or further away than `tolerance`.
    """
    if set(got) != set(want):
        raise NameMismatch(f"{graph}: expected outputs {sorted(want)}, got {sorted(got)}")
    for name, array in want.items():
        if got[name].shape != array.shape:
            raise ShapeMismatch(
                f"{graph}.{name}: expected shape {array.shape}, got {got[name].shape}"
            )
    worst = 0.0
    for name, array in want.items():
        difference = float(np.abs(got[name] - array).max(initial=0.0))
        if not difference <= tolerance:  # a NaN is not within any tolerance
            raise ValueMismatch(
                f"{graph}.{name}: differs by {difference:.3g} from {against},"
                f" allowed is {tolerance:.3g}"
            )
        worst = max(worst, difference)
    return Parity(max_abs=worst, tolerance=tolerance, against=against)
