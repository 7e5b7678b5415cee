from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from kokanee.runtime.hearing_tables import show

ESTIMATE = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 8}


def difference(value: float) -> dict[str, Any]:
    moved = {"value": value, "low": min(0.0, value), "high": 0.0, "n": 8}
    return {"says": f"figure {value}", "value": 0.25, "better": "more", "difference": moved}


RESULT: dict[str, Any] = {
    "bundle": "nano",
    "folder": "/bundles/nano-int4",
    "sets": ["sound"],
    "manifests": [{"path": "mine[red].jsonl"}],
    "figures": {
        "sound_accuracy": {"says": "which sound", **ESTIMATE, "better": "more", "constant": 0.5},
        "invented_speech": {"says": "made up", **ESTIMATE, "better": "less", "constant": None},
    },
    "sounds": {
        "recall": {"dog": ESTIMATE},
        "confusion": {
            "truths": ["dog"],
            "answers": ["dog", "cat", "bird", "horse", "none of these"],
            "counts": [[2, 1, 3, 0, 2]],
        },
    },
    "beside": [
        {
            "bundle": "nano",
            "folder": "/bundles/nano-float",
            "equal_answers": {"all": ESTIMATE, "sound": ESTIMATE},
            "figures": {"a": difference(-0.125), "b": difference(0.0)},
        }
    ],
    "streamed": {"mode": "fast", "equal_answers": {}, "figures": {"a": difference(-0.5)}},
    "by_phrase": {"longest_s": 8.0, "equal_answers": {}, "figures": {"a": difference(-0.25)}},
    "in_writing": {
        "equal_answers": {},
        "figures": {"a": difference(0.75)},
        "read": {"at_once": ESTIMATE, "in_writing": ESTIMATE, "kept": ESTIMATE | {"value": 0.875}},
    },
}


def shown(result: dict[str, Any]) -> str:
    file = io.StringIO()
    show(result, Console(file=file, width=120, markup=False))
    return file.getvalue()


def test_everything_is_in_a_table() -> None:
    text = shown(RESULT)
    assert "nano: sound, mine[red].jsonl" in text
    assert "made up (less is better)" in text
    assert "25.0%" in text
    assert "10.0 to 40.0" in text
    assert "bird 3, none of these 2, ..." in text
    assert "Cut at pauses into 8 s at most, beside whole clips" in text
    assert "Questions answered in writing, beside at once" in text
    assert "own answers to their exact words" in text
    assert "87.5%" in text


def test_bundles_of_one_name_are_told_apart_by_their_folders() -> None:
    assert "nano-float beside nano-int4" in shown(RESULT)


def test_what_does_not_differ_is_only_counted() -> None:
    text = shown(RESULT)
    assert "figure -0.125" in text
    assert "-12.5" in text
    assert "figure 0.0" not in text
    assert "1 figures do not differ" in text
