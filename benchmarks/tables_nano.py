"""The figures of docs/nano.md: what nano hears, beside its first version and what was aimed at."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kokanee.export.nano.build import PROMPT

from .tables_further import table

TRAINING = Path(__file__).parents[1] / "export" / "nano" / "training.json"
# What the second version was to reach.
AIMS = {
    "word_error_rate": "30 %",
    "sound_accuracy": "65 %",
    "kind4_accuracy": "96 %",
    "language_accuracy": "85 %",
    "mixture_both": "50 %",
    "question_agreement": "60 %",
    "invented_speech_noise": "3 %",
}


def card(results: Path) -> str:
    """Markdown, from `hearing_nano.json` and the record of the training."""
    record = json.loads((results / "hearing_nano.json").read_text("utf-8"))
    now, first = record["now"], record["first"]
    (floats,) = now["beside"]
    rows = []
    for name, one in now["figures"].items():
        difference = floats["figures"][name]["difference"]
        constant = "" if one["constant"] is None else f"{one['constant']:.1%}"
        rows.append(
            (
                one["says"] + (" (less is better)" if one["better"] == "less" else ""),
                one["n"],
                f"**{one['value']:.1%}**",
                f"{one['low']:.1%} to {one['high']:.1%}",
                AIMS.get(name, ""),
                f"{first['figures'][name]['value']:.1%}" if name in first["figures"] else "",
                constant,
                f"{100 * difference['value']:+.1f}",
            )
        )
    head = (
        "| | clips | nano | 95 % | aim | first version | best constant | float LLM, points more |"
    )
    equal = floats["equal_answers"]["all"]
    commands = "` and `".join(record["commands"])
    return "\n\n".join(
        [
            table(head, rows),
            _by_phrase(now["by_phrase"], now["figures"], record["floats_by_phrase"]),
            _in_writing(now["in_writing"], now["figures"], record["floats_in_writing"]),
            f"The same answer to the last character with the language model in floats:"
            f" {equal['value']:.1%} of the answers to {equal['n']} clips. `{commands}`",
            _classes("| sound | clips | right | taken for |", now["sounds"]),
            _classes("| language | clips | right | taken for |", now["languages"]),
            _data(json.loads(TRAINING.read_text("utf-8"))),
        ]
    )


def _by_phrase(
    found: Mapping[str, Any], whole: Mapping[str, Any], floats: Mapping[str, Any]
) -> str:
    """What is written down, and what more or less of it is wrong if it is heard by phrase."""
    head = "| | clips | heard whole | by phrase | points more | 95 % | float LLM, points more |"
    return (
        f"Cut at pauses into {found['longest_s']:g} seconds at most and written down by"
        f" {PROMPT.transcript_beams} beams, as `kokanee transcribe` does; whole clips greedily, as"
        " by `kokanee ask` (`kokanee eval nano --by-phrase`):"
        f"\n\n{table(head, _two_ways(found, whole, floats))}"
    )


def _in_writing(
    found: Mapping[str, Any], whole: Mapping[str, Any], floats: Mapping[str, Any]
) -> str:
    """What the bare language model answers to what is written down."""
    head = "| | clips | at once | in writing | points more | 95 % | float LLM, points more |"
    return (
        f"Written down first by {PROMPT.transcript_beams} beams, then answered by the bare language"
        " model, as `kokanee ask --in-writing` does (`kokanee eval nano --in-writing`):\n\n"
        + table(head, _two_ways(found, whole, floats))
        + "\n\n"
        + _read(found["read"])
    )


def _read(found: Mapping[str, Mapping[str, float]]) -> str:
    """The same beside the bundle's own answers, which leaves hearing alone to differ."""
    at_once, in_writing, kept = (
        f"{found[k]['value']:.0%}" for k in ("at_once", "in_writing", "kept")
    )
    low, high = (f"{found['in_writing'][k]:.0%}" for k in ("low", "high"))
    return (
        "The answers that count here were written by the language model in 16 bits. Beside what the"
        f" bundle's own, at 4 bits, answers to the exact words, {at_once} of the answers at once"
        f" and **{in_writing}** of those in writing ({low} to {high}) say the same; {kept} of its"
        " answers to the exact words say the same as those that count."
    )


def _two_ways(
    found: Mapping[str, Any], whole: Mapping[str, Any], floats: Mapping[str, Any]
) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name, one in found["figures"].items():
        moved = one["difference"]
        rows.append(
            (
                one["says"] + (" (less is better)" if one["better"] == "less" else ""),
                moved["n"],
                f"{whole[name]['value']:.1%}",
                f"**{one['value']:.1%}**",
                f"{100 * moved['value']:+.1f}",
                f"{100 * moved['low']:+.1f} to {100 * moved['high']:+.1f}",
                f"{100 * (floats[name]['value'] - one['value']):+.1f}",
            )
        )
    return rows


def _classes(head: str, found: Mapping[str, Any]) -> str:
    rows = []
    confusion = found["confusion"]
    for truth, counts in zip(confusion["truths"], confusion["counts"], strict=True):
        one = found["recall"][truth]
        wrong = [
            (n, answer)
            for n, answer in zip(counts, confusion["answers"], strict=True)
            if n and answer != truth
        ]
        wrong.sort(key=lambda pair: -pair[0])
        taken = ", ".join(f"{answer} {n}" for n, answer in wrong[:3])
        rows.append((truth, one["n"], f"{one['value']:.0%}", taken))
    return table(head, rows)


def _data(training: Mapping[str, Any]) -> str:
    merged: dict[str, dict[str, Any]] = {}
    for entry in training["data"]:
        foreign = re.match(r"tts-[a-z]{2}-", entry["source"])
        name = "synthetic voices, six languages" if foreign else entry["source"]
        one = merged.setdefault(name, {**entry, "clips": 0, "minutes": 0.0, "validation_clips": 0})
        for key in ("clips", "minutes", "validation_clips"):
            one[key] += entry[key]
    rows = [
        (name, e["clips"], f"{e['minutes']:.0f}", e["validation_clips"], e["licence"])
        for name, e in sorted(merged.items(), key=lambda item: -item[1]["minutes"])
    ]
    spent = ", ".join(f"{stage} {n:.1f}" for stage, n in training["hours_by_stage"].items())
    hours = sum(entry["minutes"] for entry in training["data"]) / 60
    clips = sum(entry["clips"] for entry in training["data"])
    return (
        f"### What it was trained on\n\n{hours:.0f} hours of sound in {clips:,} clips, of each"
        " source the most of any round, validation's clips among them. Gradient"
        f" steps took {training['hours']:.1f} hours on two CPU cores ({spent}), seed"
        f" {training['seed']}; packages are pinned by SHA-256, and commands and curves are kept, in"
        " `export/nano/training.json`. Licences as the packages' copyright files name them, the"
        " most frequent first.\n\n"
        f"<details><summary>All {len(rows)} sources</summary>\n\n"
        + table("| source | clips | minutes | of them validation | licence |", rows)
        + "\n\n</details>"
    )
