"""The figures of docs/benchmarks.md: what takes longer than a run of `kokanee bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ENCODERS = ("speech_encoder", "audio_encoder", "connector")


def further(results: Path) -> str:
    """Markdown, from `results/*.json`."""
    read = {path.stem: json.loads(path.read_text("utf-8")) for path in results.glob("*.json")}
    full = [read[f"fullsize_{size}"] for size in ("7b", "13b")]
    return "\n\n".join(
        [
            _quality(read["quality_nano"]),
            _drift(read["drift_nano"]),
            _attention(read["attention_nano"], read["soak_nano"]),
            _large(read["live_7b"], read["predicted_gpus"]),
            _schemes(read["schemes_nano"], read["quality_nano"]),
            _shapes({size: read[f"shapes_{size}"] for size in ("1b", "7b")}),
            _fullsize(full, read["fullsize_7b_int8_cache"]),
            _encode(read["encode_large"]),
        ]
    )


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
        f"{table(head, rows)}\n\n"
        "`kokanee eval nano`, and `kokanee eval FOLDER` on a bundle built with `--llm-quant none`."
    )


def _fullsize(sizes: list[dict[str, Any]], with_receipt: dict[str, Any]) -> str:
    def median(size: dict[str, Any], stage: str) -> float:
        return float(size["ask"]["timings_ms"][stage]["median"]) / 1e3

    rows: list[tuple[Any, ...]] = [
        ("build from float16 shards", *(f"{s['build']['wall_s']:.0f} s" for s in sizes)),
        ("peak memory of the build", *(_gb(s["build"]["peak_rss_mb"]) for s in sizes)),
        ("bundle", *(_gb(s["bundle_mb"]) for s in sizes)),
        ("verify and open", *(f"{_opened(s):.1f} s" for s in sizes)),
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
    busy, built = with_receipt["ask"], with_receipt["build"]
    head = "| synthetic SALMONN, int4, encoders int8 | 7B | 13B |"
    return (
        "### SALMONN at full size\n\n"
        f"{table(head, rows)}\n\n"
        f"Official names, shapes and shards, random weights, on {machine['n_cpus']} cores of an"
        f" {machine['cpu']} with {', '.join(machine['instructions'])}; float32 cache, built"
        " without a receipt. With the int8 cache and a receipt, on a busier machine (half as fast"
        f" throughout): build {built['wall_s']:.0f} s and"
        f" {_gb(built['peak_rss_mb'])}, answer {_gb(busy['peak_rss_mb']['median'])},"
        f" {busy['peak_rss_to_bundle']:.2f} times the bundle (7B)."
        f" `{sizes[0]['command'].replace('7b', '7b|13b')}`"
    )


def _opened(size: dict[str, Any]) -> float:
    """Seconds; older records hashed first and opened then."""
    stages = size["ask"]["timings_ms"]
    hashed = 0.0 if size.get("hashes_beside") else stages["verify"]["median"]
    return float(stages["load"]["median"] + hashed) / 1e3


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
        f"{table(head, rows)}\n\n"
        f"Whisper-large-v2 and BEATs sizes, random weights, {encode['threads']} threads,"
        f" {encode['rounds']} alternating rounds in one process. `{encode['command']}`"
    )


def _schemes(schemes: dict[str, Any], quality: dict[str, Any]) -> str:
    # Kept beside the schemes once the weights that they were measured with are no longer nano's.
    exactly = schemes.get("float_word_errors", quality["float"]["scores"]["words"]["wer"])
    rows = []
    for name, receipt in schemes["receipts"].items():
        text, audio, cost = receipt["llm"]["text"], receipt["llm"]["audio"], receipt["cost"]
        heard = schemes["heard"].get(name)
        rows.append(
            (
                f"`{name}`" if " " not in name else name,
                f"{cost['n_bytes'] / 1e6:.0f} MB",
                f"{text['kl']:.4f}",
                f"{audio['kl']:.4f}",
                f"{text['top1']:.1%}",
                "" if heard is None else f"{heard['word_error_rate']:.1%}",
                f"{cost['prefill_tokens_per_s']:.0f}",
                f"{cost['decode_tokens_per_s']:.0f}",
            )
        )
    exact = schemes["receipts"]["as released"]["int8_cache"]
    head = (
        "| nano's LLM | bundle | KL, text | KL, audio | same next token | word errors | prefill /s"
        " | decode /s |"
    )
    return (
        "### What a scheme does\n\n"
        f"{table(head, rows)}\n\n"
        "Beside the released weights computed in float32 (word errors there:"
        f" {exactly:.1%}), with the int8 KV cache, whose own"
        f" part is a KL of {exact['text']['kl']:.4f} and {exact['audio']['kl']:.4f}. Speeds are"
        f" medians of {schemes['rounds']} answers in turn, a process each."
        f" `{schemes['command']}`{_of_weights(schemes)}"
    )


def _shapes(shapes: dict[str, dict[str, Any]]) -> str:
    """Ours beside others at 1.1B and 7B."""
    rows, longs = [], []
    for size, record in shapes.items():
        for name, row in record["results"].items():
            prefill = row["prefill"].get("128") or row["prefill"]["32"]
            share = row.get("share_of_bandwidth")
            rows.append(
                (
                    size,
                    name,
                    f"{row['n_bytes'] / 1e9:.2f} GB" if "n_bytes" in row else "",
                    f"{prefill['median']:.0f}",
                    f"{row['decode']['median']:.1f}",
                    "" if share is None else f"{share['median']:.0%}",
                    f"{row['ready_s']['median']:.1f} s",
                    f"{row['peak_rss_mb']['median'] / 1e3:.1f} GB",
                )
            )
        for name, row in record["results"].items():
            if "int8_cache" in row:
                cache = row["int8_cache"]
                longs.append(
                    (
                        size,
                        name,
                        f"{row['decode']['median']:.1f}",
                        f"{row['decode_long']['median']:.1f}",
                        f"{cache['decode']['median']:.1f}",
                        f"{cache['decode_long']['median']:.1f}",
                    )
                )
    ratios = [
        (size, pair, *(f"{ratio[k]:.2f}" for k in ("decode", "prefill 128", "ready_s")))
        for size, record in shapes.items()
        for pair, ratio in record["ratios"].items()
    ]
    behind = "| decode /s behind | | 64, float32 cache | 1900 | 64, int8 cache | 1900 |"
    head = (
        "| | LLM, random weights | weights | prefill /s | decode /s | of the bandwidth | ready"
        " | peak memory |"
    )
    first = next(iter(shapes.values()))
    return (
        "### The LLM at 1.1B and 7B\n\n"
        f"{table(head, rows)}\n\n"
        f"{table('| | ours / theirs, within a round | decode | prefill | ready |', ratios)}\n\n"
        f"{table(behind, longs)}"
        f"\n\nMedians of {first['rounds']} rounds of processes in turn, {first['threads']} threads"
        f" of an {first['machine']['cpu']} with {', '.join(first['machine']['instructions'])};"
        " PyTorch and bitsandbytes: 2 rounds, prefill of 32. Blocks of 32 where nothing else is"
        f" said, int8 blocks of 128. `{first['command'].replace('1b', '1b|7b')}`"
    )


def _large(live_7b: dict[str, Any], gpus: dict[str, Any]) -> str:
    lengths = ("2", "5", "10", "20")
    simulated = live_7b["simulated"]
    rows: list[tuple[Any, ...]] = []
    for mode in ("fast", "exact"):
        turns = [simulated[f"{mode}, hop 0.5 s, {n} s"] for n in lengths]
        cells = (f"{turn['first_token_s']:.1f}" for turn in turns)
        rows.append((f"{mode}, simulated from measured stages", *cells))
    rows.append(
        (
            "offline, measured, padded to 30 s",
            *(f"{live_7b['offline'][f'{n} s']['whole'] / 1e3:.1f}" for n in lengths),
        )
    )
    predicted = [
        (
            row["device"],
            f"{row['model'].upper()}",
            *(_range(row[what]) for what in ("fast_20s_ms", "exact_20s_ms", "decode_tokens_per_s")),
        )
        if row["fits"]
        else (row["device"], row["model"].upper(), "does not fit", "", "")
        for row in gpus["predicted"]
    ]
    head = "| SALMONN-7B int4, seconds from the end of speech to the first token, turns of |"
    head += "".join(f" {n} s |" for n in lengths)
    shares = gpus["efficiency"]
    return (
        "### SALMONN live\n\n"
        f"{table(head, rows)}\n\n"
        f"Synthetic weights, {live_7b['machine']['n_cpus']} cores of an"
        f" {live_7b['machine']['cpu']}, 0.5 s of silence included; played in real time it took 1.1"
        f" to 1.45 times as long as simulated. `{live_7b['command']}`\n\n"
        f"**Predicted, never run**, from bytes and FLOPs at {shares['compute'][0]:.0%} to"
        f" {shares['compute'][1]:.0%} of a card's arithmetic and {shares['bandwidth'][0]:.0%} to"
        f" {shares['bandwidth'][1]:.0%} of its bandwidth; 532 ms of it are the silence:\n\n"
        + table("| predicted | | fast, 20 s of speech, ms | exact | decode /s |", predicted)
        + f"\n\n`{gpus['command']}`; shares {gpus['efficiency_from']}. `kokanee plan` has more"
        " cards, schemes and contexts."
    )


def _range(ends: list[float]) -> str:
    low, high = sorted(ends)
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def table(head: str, rows: list[tuple[Any, ...]]) -> str:
    """A markdown table."""
    rule = "|" + "---|" * (head.count("|") - 1)
    return "\n".join([head, rule, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _drift(record: dict[str, Any]) -> str:
    rows = [
        (
            name,
            part["n"],
            f"{part['wer_fast']:.1%}",
            f"{part['wer_exact']:.1%}",
            f"{part['same_answer']:.0%}",
            f"{part['cosine_mean']:.4f}",
            f"{part['cosine_least']:.3f}",
            f"{part['computed_at_the_end']:.0f} of {part['soft_tokens']:.0f}",
        )
        for name, part in (
            ("all", record["all"]),
            (f"up to {record['mode']['piece_s']:g} s, one piece", record["one piece"]),
            ("longer", record["several pieces"]),
        )
    ]
    head = (
        "| utterances | n | word errors, fast | exact | same answer | cosine of soft tokens, mean"
        " | least | prefilled at the end |"
    )
    return (
        f"### What fast mode costs\n\n{table(head, rows)}\n\n"
        "Whole utterances, whatever pauses are in them; nano was trained on 8 s at most."
        f" `{record['command']}`{_of_weights(record)}"
    )


def _of_weights(record: dict[str, Any]) -> str:
    """What has to be said of a record that is older than nano's weights."""
    return f" Measured with {record['weights']}." if "weights" in record else ""


def _attention(attention: dict[str, Any], soak: dict[str, Any]) -> str:
    quiet, speech = attention["silence"], attention["speech"]
    day = soak["fast"]
    memory, answers = day["memory"], day["answers"]
    rows = [
        (f"{name}, share of a core", f"{part['share_of_a_core']:.1%}")
        for name, part in quiet.items()
    ]
    rows += [
        (
            f"speech without a pause, {name}: real-time factor on {attention['machine']['n_cpus']}"
            " cores",
            f"{part['real_time_factor']:.2f}",
        )
        for name, part in speech.items()
    ]
    rows += [
        (
            f"{day['hours']:.0f} h of sound at {day['times_real_time']:.0f} times real time:"
            " growth of memory after the first hour",
            f"{memory['rss_growth_mb']:.1f} MB",
        ),
        (
            f"word errors of {answers['clips']} clips in the first hour, and in the last",
            f"{answers['wer_first']:.1%}, {answers['wer_last']:.1%}"
            f" ({answers['identical']} answers identical)",
        ),
    ]
    return (
        f"### What listening costs\n\n{table('| nano | |', rows)}\n\n"
        f"`{attention['command']}`, `{day['command']}`{_of_weights(attention)}"
    )
