"""SALMONN on GPUs that nobody has run it on: predicted, some cards of devices.json in one table.

    python -m kokanee.benchmarks.predict [--out FILE]

`kokanee plan` says more about one card. Bytes and FLOPs are those of roofline.py, the shares of a
card's peaks those that others measured with llama.cpp, the turn that of replay.py. Nothing of it
was held to anything on a GPU.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from kokanee.engine import EXACT, FAST

from .planning import KV_BYTES, Place, budget, configure, needed
from .replay import Costs, Pace, across, costs
from .roofline import (
    ENDS,
    Device,
    Efficiency,
    End,
    Model,
    Range,
    gpu_efficiency,
    read_devices,
)

RESULTS = Path(__file__).parent / "results"
LENGTHS = (5.0, 20.0)  # seconds of voice
CARDS = (  # one of each class of memory and bandwidth
    "RTX 3060 12GB",
    "RTX 3090",
    "RTX 4060",
    "RTX 4060 Ti 16GB",
    "RTX 4070",
    "RTX 4090",
    "RTX 5070",
    "RTX 5090",
)
SIZES: tuple[Literal["7b", "13b"], ...] = ("7b", "13b")


def predictions(
    devices: Sequence[Device],
    *,
    n_question: int,
    rewritten: float,
    features: float,
    efficiency: Efficiency | None = None,
) -> list[dict[str, Any]]:
    """End of speech to first token of SALMONN int4 on each device, in both modes. PREDICTED."""
    shares = efficiency or gpu_efficiency()
    rows = []
    for size in SIZES:
        c = configure(size, on_gpu=True)
        model = Model(name=size, sizes=c.sizes, cache_bytes=KV_BYTES[c.kv_cache])
        needs = needed(budget(c, on_gpu=True)) / 1e9
        for device in devices:
            both: dict[End, Costs] = {
                end: costs(model, device, shares, end=end, n_question=n_question, features=features)
                for end in ENDS
            }
            row: dict[str, Any] = {
                "PREDICTED": True,
                "model": size,
                "device": device.name,
                "needs_gb": round(needs, 1),
                "fits": Place.card(device).fits(c),
                "encode_5s_ms": [round(1e3 * both[e].encoding(5.1), 1) for e in ENDS],
                "question_ms": [round(1e3 * both[e].question, 1) for e in ENDS],
                "decode_tokens_per_s": [round(1 / both[e].step, 1) for e in ENDS],
            }
            for mode in (FAST, EXACT):
                pace = Pace.of(mode, rewritten=rewritten if mode is FAST else 0.0)
                for length in LENGTHS:
                    name = f"{mode.name}_{length:g}s"
                    row[f"{name}_ms"] = _ms(across(length, both, pace))
                    row[f"{name}_work_ms"] = _ms(across(length, both, pace, "final_s"))
            rows.append(row)
    return rows


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(out: Path | None) -> None:
    """Predict; a table, then one JSON line."""
    taken = json.loads((RESULTS / "live_7b.json").read_text("utf-8"))
    result: dict[str, Any] = {
        "what": "PREDICTED by a roofline model, not measured: SALMONN int4_block128, encoders int8",
        "command": "python -m kokanee.benchmarks.predict",
        "efficiency": dataclasses.asdict(gpu_efficiency()),
        "efficiency_from": "measured by others, not with this software: devices.json",
        "lengths_s": LENGTHS,
        "predicted": predictions(
            [device for device in read_devices() if device.name in CARDS],
            n_question=taken["n_question"],
            rewritten=taken["windows_prefilled_again_by_a_hop"]["simulated"],
            features=taken["measured"]["median"]["features_ms_a_second"] / 1e3,
        ),
    }
    click.echo(
        "PREDICTED, never run: end of speech to first token, ms, best to worst; 532 of them are the"
        " silence\nthat ends a turn. Last pass: encode, prefill and question, of which that silence"
        " hides 300 ms."
    )
    ways = [(mode, length) for mode in ("fast", "exact") for length in LENGTHS]
    heads = [f"{mode} {length:g} s" for mode, length in ways] + ["last pass" for _ in ways]
    click.echo(f"{'':22}" + "".join(f"{h:>13}" for h in [*heads, "decode /s"]) + "  memory")
    for row in result["predicted"]:
        names = [
            f"{mode}_{length:g}s_{what}" for what in ("ms", "work_ms") for mode, length in ways
        ]
        cells = "".join(f"{_span(row[name]):>13}" for name in (*names, "decode_tokens_per_s"))
        fits = "" if row["fits"] else "  does not fit"
        click.echo(f"{row['model']:>4} {row['device']:<17}{cells}  {row['needs_gb']} GB{fits}")
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


def _ms(seconds: Range) -> list[int]:
    return [round(1e3 * seconds.best), round(1e3 * seconds.worst)]


def _span(ends: Sequence[float]) -> str:
    return f"{ends[0]:g} to {ends[1]:g}" if ends[0] != ends[1] else f"{ends[0]:g}"


if __name__ == "__main__":
    main()
