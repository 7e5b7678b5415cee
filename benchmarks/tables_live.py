"""The README's figures about listening, from `results/*.json`."""

from __future__ import annotations

from typing import Any


def live(read: dict[str, dict[str, Any]]) -> str:
    """Markdown: how soon, how good, how dear, and for how long."""
    return "\n\n".join(
        [
            _latency(read["live_nano"]),
            _drift(read["drift_nano"]),
            _attention(read["attention_nano"], read["soak_nano"]),
            _large(read["live_7b"], read["predicted_gpus"]),
        ]
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
        + f"\n\n`{gpus['command']}`; on the CPU such predictions were off by a factor of 1.4 within"
        " one model, of 2.5 to 3.3 from nano to 7B."
    )


def _range(ends: list[float]) -> str:
    low, high = sorted(ends)
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def table(head: str, rows: list[tuple[Any, ...]]) -> str:
    """A markdown table."""
    rule = "|" + "---|" * (head.count("|") - 1)
    return "\n".join([head, rule, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _latency(record: dict[str, Any]) -> str:
    modes = record["modes"]
    rows = []
    for mode, what in (
        ("fast", "compute after the decision"),
        ("fast", "settled in the silence before it"),
        ("fast", "end of speech to first token, 0.5 s of silence included"),
        ("exact", "compute after the decision"),
        ("exact", "settled in the silence before it"),
        ("offline", "compute"),
    ):
        stage = {"settled": "settle", "end": "first_token"}.get(what.split()[0], "compute")
        p = modes[mode]["ms"][stage]
        rows.append((f"{mode}: {what}", f"{p['p50']:.0f}", f"{p['p95']:.0f}"))
    lengths = []
    for mode in ("fast", "exact", "offline"):
        for length in ("short", "long"):
            part = modes[mode][length]
            if part["n"]:
                p = part["ms"]
                settle = f"{p['settle']['p50']:.0f}" if "settle" in p else ""
                lengths.append(
                    (
                        mode,
                        f"{part['seconds']:.1f} s",
                        part["n"],
                        f"{p['compute']['p50']:.0f}",
                        settle,
                    )
                )
    machine = record["machine"]
    return (
        "### How soon a live answer begins\n\n"
        f"{table('| milliseconds | p50 | p95 |', rows)}\n\n"
        f"{table('| mode | turns of about | turns | compute, p50 | settle, p50 |', lengths)}\n\n"
        f"{record['what'][0].upper()}{record['what'][1:]} on {machine['n_cpus']} cores of an"
        f" {machine['cpu']}; {modes['fast']['n']} turns were found in them. `{record['command']}`"
    )


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
        f" `{record['command']}`"
    )


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
        f"`{attention['command']}`, `{day['command']}`"
    )
