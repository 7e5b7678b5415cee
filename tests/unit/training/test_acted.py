"""What Whisper writes down of acted lines, where nobody could say what is said."""

import pytest
from training.acted import believable


@pytest.mark.parametrize(
    ("text", "seconds", "right"),
    [
        ("What do you want me to say?", 1.6, True),
        ("No chance, not in this shell. No chance, not in this shell.", 4.0, False),
        ("Peace. Peace. Peace.", 3.0, False),
        ("one two three four five six seven eight nine ten eleven", 1.0, False),
        ("...", 1.0, False),
        ("no, not no", 1.0, True),
    ],
)
def test_repeated_and_hurried_lines_are_not_believed(
    text: str, seconds: float, right: bool
) -> None:
    assert believable(text, seconds) is right
