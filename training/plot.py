"""Draws docs/nano-training.png and docs/nano-lora-scale.png from export/nano/training.json."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def series(rows: list[dict[str, Any]], group: str, key: str) -> tuple[list[float], list[float]]:
    """Minutes of all runs together, each of which counts from nought, and percent of one figure."""
    before, last, run = 0.0, 0.0, None
    minutes, percents = [], []
    for row in rows:
        if row["run"] != run:
            before += last
        last, run = row["minutes"], row["run"]
        if key in row[group]:
            minutes.append(before + last)
            percents.append(100 * row[group][key])
    return minutes, percents


def sweep(swept: dict[str, Any]) -> None:
    """What validation answers at other scales of the LoRA; `training.sweep` has measured it."""
    figure, axis = plt.subplots(figsize=(7, 4), constrained_layout=True)
    scales = [row["scale"] for row in swept["scales"]]
    for key, says in (
        ("fotaq wer", "words right, acted lines"),
        ("tts-flite-rms wer", "words right, unheard voice"),
        ("sound class", "sounds right"),
        ("language", "languages right"),
        ("same answer", "questions answered as in text"),
        ("stories", "tells a story when asked to"),
    ):
        shares = [100 * row[key] for row in swept["scales"]]
        if key.endswith(" wer"):
            shares = [max(0.0, 100 - share) for share in shares]
        style = "--" if key == "stories" else "-"
        axis.plot(scales, shares, style, marker="o", markersize=3, label=says)
    axis.axvline(swept["trained_at"], color="0.5", linewidth=0.8)
    axis.set_xlabel("scale of the LoRA (trained at the grey line)")
    axis.set_ylabel("%")
    axis.set_ylim(0, 103)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig("docs/nano-lora-scale.png", dpi=90)


def main() -> None:
    record = json.loads(Path("export/nano/training.json").read_text())
    if "sweep" in record:
        sweep(record["sweep"])
    curves = record["curves"]
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), constrained_layout=True)
    plans = (
        (
            "audio_encoder",
            "accuracy",
            "small BEATs alone: right, %",
            ["classes", "kinds", "teacher_top"],
        ),
        (
            "align",
            "validation",
            "connector alone, greedy CTC: errors (*: right), %",
            ["fotaq", "tts-flite-rms", "mixture", "*sound", "*foreign"],
        ),
        (
            "instruct",
            "validation",
            "through the LLM: errors (*: right), %",
            [
                "fotaq wer",
                "tts-flite-rms wer",
                "mixture wer",
                "invented",
                "*sound class",
                "*language",
                "*both named",
                "*same answer",
            ],
        ),
    )
    for axis, (stage, group, title, keys) in zip(axes, plans, strict=True):
        for key in keys:
            name = key.removeprefix("*")
            style = "--" if key != name else "-"
            points = series(curves[stage], group, name)
            axis.plot(*points, style, marker="o", markersize=3, label=key)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("minutes")
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, ncols=2, framealpha=0.6)
    figure.savefig("docs/nano-training.png", dpi=90)


if __name__ == "__main__":
    main()
