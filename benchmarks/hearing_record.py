"""What `kokanee eval` found of nano -> `results/`, and the quality that its manifest states.

    kokanee build --llm-quant none --out nano-float
    kokanee eval nano --beside nano-float --by-phrase --in-writing --json > both.json
    kokanee eval nano-float --by-phrase --in-writing --json > float.json
    python -m kokanee.benchmarks.hearing_record both.json float.json

`measured.json` is one of the things that nano's bundle is made of. So build both again afterwards,
call the kept answers (`"log"`) as the new manifests' hashes, and do the same once more: what is
recorded then is what the bundle that is released says of itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
MEASURED = Path(__file__).parents[1] / "export" / "nano" / "measured.json"
STATED = (
    "kind4_accuracy",
    "language_accuracy",
    "mixture_named",
    "mixture_both",
    "invented_speech",
    "question_agreement",
)
CONSTANT = ("kind4_accuracy", "language_accuracy", "mixture_named")


def stated(found: Mapping[str, Any]) -> dict[str, float]:
    """What a manifest says of one bundle's hearing, from its `kokanee eval --json`."""
    words, sound, kind = (found["scores"][task] for task in ("words", "sound", "kind"))
    return {
        "word_error_rate": words["wer"],
        "word_error_rate_by_phrase": found["by_phrase"]["figures"]["word_error_rate"]["value"],
        "speech_clips": words["n"],
        "sound_top1": sound["top1"],
        "sound_clips": sound["n"],
        "sound_classes": sound["n_classes"],
        "kind_accuracy": kind["top1"],
        "kind_balanced": kind["balanced"],
        **{name: found["figures"][name]["value"] for name in STATED},
        "question_agreement_in_writing": found["in_writing"]["figures"]["question_agreement"][
            "value"
        ],
    }


def quality(four: Mapping[str, Any], full: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's `quality`: at 4 bits, in floats, and the best answers that do not listen."""
    words, sound, kind = (four["scores"][task] for task in ("words", "sound", "kind"))
    return {
        "what": "kokanee eval nano, held-out recordings",
        "int4": stated(four),
        "float": stated(full),
        "constant_answer": {
            "word_error_rate": words["majority_wer"],
            "sound_top1": sound["majority"],
            "kind_accuracy": kind["majority"],
            **{name: four["figures"][name]["constant"] for name in CONSTANT},
        },
    }


def _unplaced(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same without this machine's paths."""
    kept = {k: v for k, v in found.items() if k != "log"}
    return kept | {"folder": Path(found["folder"]).name} if "folder" in kept else kept


def main() -> None:
    """Write all three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("both", type=Path, help="nano's, with the floats beside it")
    parser.add_argument("floats", type=Path, help="the floats' own")
    options = parser.parse_args()
    four, full = (json.loads(path.read_text()) for path in (options.both, options.floats))
    (beside,) = four["beside"]
    if beside["manifest_sha256"] != full["manifest_sha256"]:
        parser.error(f"{options.floats} is of another bundle than the one beside nano")

    path = RESULTS / "hearing_nano.json"
    record = json.loads(path.read_text())
    record["now"] = _unplaced(four) | {
        "beside": [_unplaced(beside)],
        "by_phrase": _unplaced(four["by_phrase"]),
        "in_writing": _unplaced(four["in_writing"]),
    }
    for how in ("by_phrase", "in_writing"):
        record[f"floats_{how}"] = full[how]["figures"]
    path.write_text(json.dumps(record, indent=1) + "\n")

    path = RESULTS / "quality_nano.json"
    record = json.loads(path.read_text())
    for name, found in (("int4", four), ("float", full)):
        kept = ("bundle", "manifest_sha256", "scores", "clip_seconds", "wall_s")
        record[name] = {k: found[k] for k in kept}
    path.write_text(json.dumps(record, indent=1) + "\n")

    measured = json.loads(MEASURED.read_text())
    measured["quality"] = quality(four, full)
    MEASURED.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
