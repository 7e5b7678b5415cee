"""How long an answer may become while a bundle is being evaluated."""

import numpy as np
import pytest

from kokanee.benchmarks.hearing_quality import max_new_tokens


@pytest.mark.parametrize(("seconds", "most"), [(0.5, 64), (10, 64), (30, 180), (73.3, 200)])
def test_a_transcript_has_room_for_everything_that_can_be_said(seconds: float, most: int) -> None:
    assert max_new_tokens(np.zeros(int(seconds * 16_000), np.float32)) == most
