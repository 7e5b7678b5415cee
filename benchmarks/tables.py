"""`benchmarks/results/*.json` -> the figures in the README, so that no number is typed by hand.

    python -m kokanee.benchmarks.tables README.md      # rewrites what stands between the markers

A test holds the README equal to what this makes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ENCODERS = ("speech_encoder", "audio_encoder", "connector")
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- figures: python -m kokanee.benchmarks.tables README.md -->", "<!-- /figures -->"


def figures(results: Path = RESULTS) -> str:
    """The markdown between the markers."""
    read = {path.stem: json.loads(path.read_text("utf-8")) for path in results.glob("*.json")}
    quality, ask, decode = (read[f"{name}_nano"] for name in ("quality", "ask", "decode"))
    full = [read[f"fullsize_{size}"] for size in ("7b", "13b")]
    return "\n\n".join(
        [
            *(_quality(quality), _ask(ask), _decode(decode)),
            *(_fullsize(full), _encode(read["encode_large"]), _schemes(read["schemes_golden"])),
        ]
    )


def rewritten(text: str, results: Path = RESULTS) -> str:
    """`text` with fresh figures between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{figures(results)}\n\n{END}{after}"


def _quality(quality: dict[str, Any]) -> str:
    four, full = (quality[name]["scores"] for name in ("int4", "float"))
    words = four["words"]
    rows = [
        (
            "words said (word error rate, lower is better)",
            words["n"],
            f"**{words['wer']:.1%}**",
            f"{full['words']['wer']:.1%}",
            f"{words['majority_wer']:.0%}",
        )
    ]
    for name, label in (
        ("sound", "which sound, of {n} classes"),
        ("kind", "speech, music or sound"),
    ):
        rows.append(
            (
                label.format(n=four[name]["n_classes"]),
                four[name]["n"],
                f"**{four[name]['top1']:.1%}**",
                f"{full[name]['top1']:.1%}",
                f"{four[name]['majority']:.1%}",
            )
        )
    balanced = [quality[name]["scores"]["kind"]["balanced"] for name in ("int4", "float")]
    rows.append(
        (
            "the same, each of the three counting alike",
            four["kind"]["n"],
            f"**{balanced[0]:.1%}**",
            f"{balanced[1]:.1%}",
            "33.3%",
        )
    )
    head = "| recordings nano was not trained on | clips | int4 | float LLM | constant answer |"
    return (
        "### What nano hears\n\n"
        f"{_table(head, rows)}\n\n"
        "`kokanee eval nano`, and `kokanee eval FOLDER` on a bundle built with `--llm-quant none`."
    )


def _ask(ask: dict[str, Any]) -> str:
    stages = ask["timings_ms"]
    shown = ("verify", "load", "features", "speech_encoder", "audio_encoder", "connector")
    cells = [f"{name.replace('_', ' ')} {stages[name]['median']:.0f}" for name in shown]
    cells += [
        f"{n.replace('_', ' ')} {stages[n]['median']:.0f}" for n in ("prefill_audio", "decode")
    ]
    wall, memory = ask["wall_s"], ask["memory_mb"]
    machine = ask["machine"]
    return (
        f"### What an answer costs\n\n"
        f"`kokanee ask` on a {ask['seconds']:g} s clip, a new process each time,"
        f" {len(ask['samples'])} runs on {machine['n_cpus']} cores of an {machine['cpu']}"
        f" (shared, so an upper bound): **{wall['median']:.1f} s** from Return to the last word"
        f" ({wall['min']:.1f} to {wall['max']:.1f}), peak memory **{memory['median']:.0f} MB**,"
        f" bundle {ask['bundle_mb']:.0f} MB.\n\n"
        f"Median milliseconds: {', '.join(cells)}. `{ask['command']}`"
    )


def _decode(decode: dict[str, Any]) -> str:
    rows = [
        (
            name,
            f"{row['prefill']['median']:.0f}",
            f"{row['decode']['median']:.0f}",
            f"{row['prefill']['kokanee_ratio']:.2f}",
            f"{row['decode']['kokanee_ratio']:.2f}",
        )
        for name, row in decode["results"].items()
    ]
    head = "| SmolLM2-135M, tokens/s | prefill | decode | ours / theirs, prefill | decode |"
    return (
        "### The language model beside llama.cpp\n\n"
        f"{_table(head, rows)}\n\n"
        f"{decode['threads']} threads, {decode['n_prompt']} tokens of prompt, {decode['n_tokens']}"
        f" decoded, {decode['rounds']} interleaved rounds in one process; trust the ratios, the"
        " machine was shared. `python -m kokanee.benchmarks.decode`"
    )


def _fullsize(sizes: list[dict[str, Any]]) -> str:
    def median(size: dict[str, Any], stage: str) -> float:
        return float(size["ask"]["timings_ms"][stage]["median"]) / 1e3

    rows: list[tuple[Any, ...]] = [
        ("build from float16 shards", *(f"{s['build']['wall_s']:.0f} s" for s in sizes)),
        ("peak memory of the build", *(_gb(s["build"]["peak_rss_mb"]) for s in sizes)),
        ("bundle", *(_gb(s["bundle_mb"]) for s in sizes)),
        ("verify and open", *(f"{median(s, 'load'):.1f} s" for s in sizes)),
        (
            "encode 30 s of sound",
            *(f"{sum(median(s, x) for x in ENCODERS):.1f} s" for s in sizes),
        ),
    ]
    for what in ("prefill", "decode"):
        speeds = [s["ask"][f"{what}_tokens_per_s"]["median"] for s in sizes]
        rows.append((f"{what}, tokens/s", *(f"**{speed:.1f}**" for speed in speeds)))
    peaks = [s["ask"] for s in sizes]
    rows.append(("peak memory of an answer", *(_gb(p["peak_rss_mb"]["median"]) for p in peaks)))
    rows.append(
        ("the same to the bundle's size", *(f"{p['peak_rss_to_bundle']:.2f}" for p in peaks))
    )
    for kind in ("float32", "float16"):
        whole = []
        for size in sizes:
            caches = {k: v for k, v in size["budget"]["whole_mb"].items() if k.startswith(kind)}
            name = max(caches, key=lambda k: caches[k])
            whole.append(f"{_gb(caches[name])} ({name.partition(', ')[2]})")
        rows.append((f"budget with the whole {kind} cache", *whole))
    rows.append(("positions of a float32 cache in the class", *(_fitting(s) for s in sizes)))
    machine = sizes[0]["machine"]
    head = "| synthetic SALMONN, int4, encoders int8 | 7B | 13B |"
    return (
        "### SALMONN at full size\n\n"
        f"{_table(head, rows)}\n\n"
        f"Official names, shapes and shards, random weights, on {machine['n_cpus']} cores of an"
        f" {machine['cpu']} with {', '.join(machine['instructions'])}."
        f" `{sizes[0]['command'].replace('7b', '7b|13b')}`"
    )


def _fitting(size: dict[str, Any]) -> str:
    """How long a float32 cache may be in 8 GB (7B) or 12 GB (13B), as the CPU has it."""
    budget = size["budget"]
    name = next(k for k in budget["cache_mb"] if k.startswith("float32, 2048"))
    position_mb = budget["cache_mb"][name] / 2048
    free = size["class_gb"] * 1e3 - (budget["whole_mb"][name] - budget["cache_mb"][name])
    return f"{free / position_mb:.0f} in {size['class_gb']} GB"


def _gb(mb: float) -> str:
    return f"{mb / 1e3:.1f} GB"


def _encode(encode: dict[str, Any]) -> str:
    names = {"PyTorch": "PyTorch, float32", "none": "float32", "fp16": "stored as float16"}
    rows = [
        (
            names.get(name, name),
            f"{row['seconds']['median']:.1f} s",
            f"{row['faster_than_pytorch']['median']:.1f}",
            f"{row['relative_error']:.1e}",
            f"{row['least_cosine']:.5f}",
        )
        for name, row in encode["results"].items()
    ]
    head = "| 30 s of sound to soft tokens | time | x PyTorch | relative error | least cosine |"
    return (
        "### Encoders beside the reference's PyTorch modules\n\n"
        f"{_table(head, rows)}\n\n"
        f"Whisper-large-v2 and BEATs sizes, random weights, {encode['threads']} threads,"
        f" {encode['rounds']} alternating rounds in one process. `{encode['command']}`"
    )


def _schemes(schemes: dict[str, Any]) -> str:
    rows = [
        (name, f"{row['relative_error']:.3f}", f"{row['top1_agreement']:.1%}")
        for name, row in schemes["results"].items()
    ]
    head = "| LLM scheme | error of the logits | same next token |"
    return (
        "### What an LLM scheme changes\n\n"
        f"{_table(head, rows)}\n\n"
        f"Against the float bundle on the golden set ({schemes['n_clips']} clips,"
        f" {schemes['n_positions']} positions); soft tokens are equal to the bit. The golden LLM is"
        " a tiny random one, whose next token is nearly a draw: this ranks the schemes, a trained"
        f" model agrees far more often. `{schemes['command']}`"
    )


def _table(head: str, rows: list[tuple[Any, ...]]) -> str:
    rule = "|" + "---|" * (head.count("|") - 1)
    return "\n".join([head, rule, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(rewritten(document.read_text("utf-8")), encoding="utf-8")
