"""SALMONN on GPUs that nobody has run it on: predicted, and how far off such predictions are.

    python -m kokanee.benchmarks.predict [--out FILE]      GPUs of devices.json, and a check

Bytes and FLOPs are those of roofline.py, the turn that of replay.py.

How far off it is, on two cores of a shared EPYC, where it could be held to figures: one model's
stages from the shares that another's reached are off by a factor of 2.5 to 3.3 typically, 3.8 at
worst, from nano to 7B, whose 8-bit products are faster than nano's float32 encoders; by 1.4
typically, 2.1 at worst, from 7B at 30 s to 7B at 1 to 20 s, another day. On a GPU nothing was held
to anything.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from tokenizers import Tokenizer

from kokanee.engine import EXACT, FAST, read_manifest
from kokanee.engine.prompt import fill, tokenise
from kokanee.export.dims import (
    Architecture,
)

from .replay import (
    Costs,
    Pace,
    across,
    costs,
)
from .roofline import (
    ENDS,
    GPU,
    Device,
    Efficiency,
    End,
    Model,
    Range,
    Stage,
    official,
    read_devices,
    seconds,
)

QUESTION = "Write down what is said."  # benchmarks/ask.py
RESULTS = Path(__file__).parent / "results"

# --- how well it predicts -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A stage that was measured."""

    stage: Stage
    measured: float  # seconds


def share(known: Known, device: Device) -> float:
    """Of its roof that a measured stage reached; above 1 means a peak was measured too low."""
    roof = Efficiency(compute=(1, 1), bandwidth=(1, 1))
    return seconds(known.stage, device, roof).best / known.measured


def calibrated(known: Sequence[Known], device: Device) -> dict[str, Efficiency]:
    """What each stage reached of its roof, for predicting another model's: the median share."""
    by_name: dict[str, list[float]] = {}
    for one in known:
        by_name.setdefault(one.stage.name, []).append(share(one, device))
    return {
        name: Efficiency(compute=(at, at), bandwidth=(at, at))
        for name, at in ((n, statistics.median(shares)) for n, shares in by_name.items())
    }


def checked(
    known: Sequence[Known], device: Device, efficiency: Mapping[str, Efficiency]
) -> list[dict[str, Any]]:
    """Prediction beside measurement, for each measured stage of a calibrated name."""
    return [
        {
            "stage": one.stage.name,
            "gflop": one.stage.work.flops / 1e9,
            "mb": one.stage.work.bytes / 1e6,
            "measured_ms": one.measured * 1e3,
            "share_of_the_roof": share(one, device),
            "predicted_ms": (at := seconds(one.stage, device, efficiency[one.stage.name]).best)
            * 1e3,
            "predicted_to_measured": at / one.measured,
        }
        for one in known
        if one.stage.name in efficiency
    ]


def live_stages(live: Mapping[str, Any]) -> list[Known]:
    """The stages in a result of `live_fullsize`."""
    cache_bytes = {"float32": 4.0, "float16": 2.0, "int8": 1.0}[live["kv_cache"]]
    model = Model(
        name=live["size"],
        sizes=Architecture.from_json(live["architecture"]),
        cache_bytes=cache_bytes,
    )
    measured, known = live["measured"]["median"], []
    for length, ms in measured["encode_ms"].items():
        for stage in model.encoding(float(length)):
            known.append(Known(stage=stage, measured=ms[stage.name] / 1e3))
    for n, ms in measured["prefill_ms"].items():
        known.append(Known(stage=model.prefill(int(n), n_past=16), measured=ms / 1e3))
    question = model.prefill(live["n_question"], n_past=40)
    known.append(Known(stage=question, measured=measured["first_token_ms"] / 1e3))
    known.append(Known(stage=model.prefill(1, n_past=64), measured=measured["step_ms"] / 1e3))
    return [k for k in known if k.stage.name != "prefill" or _is_long(k)]


def _is_long(known: Known) -> bool:
    """Not one of the shortest prefills, which are neither arithmetic nor traffic alone."""
    return known.stage.work.flops > 8 * known.stage.work.bytes


def asked_stages(asked: Mapping[str, Any], folder: Path) -> list[Known]:
    """The same of a result of `benchmarks.ask` and the bundle that it was taken with."""
    manifest = read_manifest(folder)
    sizes = Architecture.from_json(manifest.architecture)
    model = Model(
        name=manifest.name, sizes=sizes, cache_bytes=4.0 if manifest.int8_cache is None else 1.0
    )
    ms = {name: values["median"] for name, values in asked["timings_ms"].items()}
    known = [
        Known(stage=stage, measured=ms[stage.name] / 1e3)
        for stage in model.encoding(asked["seconds"])
    ]
    tokenizer = Tokenizer.from_file(str(folder / manifest.tokenizer))
    prompt = tokenise(
        fill(manifest.prompt, QUESTION, task=None, raw=None),
        tokenizer,
        bos_id=manifest.prompt.bos_id,
    )
    n_heard = len(prompt.head) + asked["samples"][0]["n_soft_tokens"]
    heard = model.prefill(n_heard)
    known.append(Known(stage=heard, measured=ms["prefill_audio"] / 1e3))
    behind = model.prefill(len(prompt.ids_after), n_past=n_heard)
    known.append(Known(stage=behind, measured=ms["prefill_question"] / 1e3))
    speed = statistics.median(s["tokens_per_s"] for s in asked["samples"])
    step = model.prefill(1, n_past=n_heard + len(prompt.ids_after))
    return [*known, Known(stage=step, measured=1 / speed)]


def full_stages(taken: Mapping[str, Any], n_question: int) -> list[Known]:
    """The same of a result of `benchmarks.fullsize --size 7b --llm-quant int4_block128`."""
    model = Model(name="7b", sizes=official("7b"), cache_bytes=4.0)
    asked = taken["ask"]
    ms = {name: values["median"] for name, values in asked["timings_ms"].items()}
    heard_s = min(float(asked["seconds_of_sound"]), 29.92)  # 88 windows, as the reference's
    known = [Known(stage=s, measured=ms[s.name] / 1e3) for s in model.encoding(heard_s)]
    n_heard = asked["n_soft_tokens"] + 8  # BOS and 7 ids
    step = 1 / asked["decode_tokens_per_s"]["median"]
    return [
        *known,
        Known(stage=model.prefill(n_heard), measured=ms["prefill_audio"] / 1e3),
        Known(stage=model.prefill(n_question, n_heard), measured=ms["prefill_question"] / 1e3),
        Known(stage=model.prefill(1, n_heard + n_question), measured=step),
    ]


# --- this machine, and the table ------------------------------------------------------------------


def this_machine() -> Device:
    """Read bandwidth and float32 products of all cores together, measured now: the best."""
    from .shapes import read_bandwidth  # needs the extra [build]

    a = np.random.default_rng(0).standard_normal((1536, 1536)).astype(np.float32)
    best = 0.0
    for _ in range(20):
        started = time.perf_counter()
        a @ a
        best = max(best, 2 * len(a) ** 3 / (time.perf_counter() - started))
    return Device(
        name="this machine",
        memory_gb=0.0,
        bandwidth_gb_s=read_bandwidth() / 1e9,
        tflops=best / 1e12,
        source="measured by this command: numpy's float32 product, reading with all cores",
        unpacks=False,
    )


LENGTHS = (5.0, 20.0)  # seconds of voice
N_CTX = 2048
ASIDE_GB = 1.0  # assumed: CUDA's context, activations, a matrix as halves
SIZES: tuple[Literal["7b", "13b"], ...] = ("7b", "13b")


def predictions(
    devices: Sequence[Device],
    *,
    n_question: int,
    rewritten: float,
    features: float,
    efficiency: Efficiency = GPU,
) -> list[dict[str, Any]]:
    """End of speech to first token of SALMONN int4 on each device, in both modes. PREDICTED."""
    rows = []
    for size in SIZES:
        model = Model(name=size, sizes=official(size), cache_bytes=2.0)
        needs = model.memory_gb(N_CTX) + ASIDE_GB
        for device in devices:
            both: dict[End, Costs] = {
                end: costs(
                    model, device, efficiency, end=end, n_question=n_question, features=features
                )
                for end in ENDS
            }
            row: dict[str, Any] = {
                "PREDICTED": True,
                "model": size,
                "device": device.name,
                "needs_gb": round(needs, 1),
                "fits": needs <= device.memory_gb,
                "encode_5s_ms": [round(1e3 * both[e].encoding(5.1), 1) for e in ENDS],
                "question_ms": [round(1e3 * both[e].question, 1) for e in ENDS],
                "decode_tokens_per_s": [round(1 / both[e].step, 1) for e in ENDS],
            }
            for mode in (FAST, EXACT):
                pace = Pace.of(mode, rewritten=rewritten if mode is FAST else 0.0)
                for length in LENGTHS:
                    made = across(length, both, pace)
                    last = across(length, both, pace, "final_s")
                    name = f"{mode.name}_{length:g}s"
                    row[f"{name}_ms"] = _ms(made)
                    row[f"{name}_work_ms"] = _ms(last)
            rows.append(row)
    return rows


@click.command()
@click.option(
    "--live",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    default=[RESULTS / "live_7b.json"],
    show_default=True,
    help="Results of kokanee.benchmarks.live_fullsize to be held to; the first has the question.",
)
@click.option("--check/--no-check", default=True, help="Measure this machine and compare.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(live: tuple[Path, ...], check: bool, out: Path | None) -> None:
    """Predict; a table, then one JSON line."""
    lives = [json.loads(path.read_text("utf-8")) for path in live]
    taken = lives[0]
    result: dict[str, Any] = {
        "what": "PREDICTED by a roofline model, not measured: SALMONN int4_block128, encoders int8",
        "command": "python -m kokanee.benchmarks.predict",
        "efficiency": dataclasses.asdict(GPU),
        "lengths_s": LENGTHS,
    }
    if check:
        result["check"] = _check(lives)
    result["predicted"] = predictions(
        read_devices(),
        n_question=taken["n_question"],
        rewritten=taken["windows_prefilled_again_by_a_hop"]["simulated"],
        features=taken["measured"]["median"]["features_ms_a_second"] / 1e3,
    )
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


def _check(lives: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is predicted for one model with the shares of the other, both ways, on this machine."""
    from kokanee.export.nano import build_nano

    device = this_machine()
    asked, full = (
        json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
        for name in ("ask_nano", "fullsize_7b_block128")
    )
    known = {
        "nano (ask, 5 s)": asked_stages(asked, build_nano()),
        "7b (ask, 30 s)": full_stages(full, lives[0]["n_question"]),
    }
    known |= {f"{live['size']} (live)": live_stages(live) for live in lives}
    click.echo(
        f"this machine, MEASURED: {device.bandwidth_gb_s:.1f} GB/s, {1e3 * device.tflops:.0f}"
        " GFLOPS in float32"
    )
    made: dict[str, Any] = {"device": dataclasses.asdict(device)}
    for other, of in itertools.permutations(known, 2):
        rows = checked(known[of], device, calibrated(known[other], device))
        errors = [abs(math.log(row["predicted_to_measured"])) for row in rows]
        click.echo(f"{of} predicted with the shares that {other} reached; predicted / measured:")
        for row in rows:
            click.echo(
                f"  {row['stage']:>16} {row['gflop']:9.1f} GFLOP {row['mb']:7.0f} MB  measured"
                f" {row['measured_ms']:8.1f} ms, {row['share_of_the_roof']:.2f} of the roof;"
                f"  ratio {row['predicted_to_measured']:.2f}"
            )
        made[f"{of} from {other}"] = {
            "stages": rows,
            "typical_factor": math.exp(statistics.median(errors)),
            "worst_factor": math.exp(max(errors)),
        }
        click.echo(
            f"  off by a factor of {math.exp(statistics.median(errors)):.2f} typically,"
            f" {math.exp(max(errors)):.2f} at worst"
        )
    return made


def _ms(seconds: Range) -> list[int]:
    return [round(1e3 * seconds.best), round(1e3 * seconds.worst)]


def _span(ends: Sequence[float]) -> str:
    return f"{ends[0]:g} to {ends[1]:g}" if ends[0] != ends[1] else f"{ends[0]:g}"


if __name__ == "__main__":
    main()
