"""How much room a question about a file gets."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny import POLICY

from kokanee.engine import Audio
from kokanee.runtime.ask import TEXT, _enough


def engine(n_positions: int) -> Any:
    dims = SimpleNamespace(n_positions=n_positions)
    return SimpleNamespace(manifest=SimpleNamespace(policy=POLICY, dims=dims))


@pytest.mark.parametrize(
    ("seconds", "n_positions", "expected"),
    [
        (5, 8192, 2048),  # the default does
        (600, 8192, 2 * 1765 + TEXT + 200),  # 600 s are 20 segments of 88 windows and 5 more
        (600, 2048, 2048),  # never more than the model knows
    ],
)
def test_room_follows_the_sound(seconds: int, n_positions: int, expected: int) -> None:
    pcm = np.zeros(seconds * 16_000, np.float32)
    audio = Audio(pcm=pcm, source_rate=16_000, source_channels=1)
    assert _enough(engine(n_positions), audio, POLICY, 200) == expected
