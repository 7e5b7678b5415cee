"""A disagreement has a name, a shape or a value, in that order."""

from __future__ import annotations

import numpy as np
import pytest

from kokanee.engine.errors import NameMismatch, ShapeMismatch, ValueMismatch
from kokanee.export.parity import check_parity

WANT = {"y": np.zeros((2, 3), np.float32)}


def test_agreement_is_measured() -> None:
    got = {"y": np.full((2, 3), 0.25, np.float32)}
    parity = check_parity("g", got, WANT, tolerance=0.5, against="torch")
    assert (parity.max_abs, parity.tolerance, parity.against) == (0.25, 0.5, "torch")


@pytest.mark.parametrize(
    ("got", "error"),
    [
        ({"z": np.zeros((2, 3), np.float32)}, NameMismatch),
        ({"y": np.zeros((3, 2), np.float32)}, ShapeMismatch),
        ({"y": np.ones((2, 3), np.float32)}, ValueMismatch),
        ({"y": np.full((2, 3), np.nan, np.float32)}, ValueMismatch),
    ],
)
def test_disagreement_is_named(got: dict[str, np.ndarray], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^g"):
        check_parity("g", got, WANT, tolerance=0.5, against="torch")
