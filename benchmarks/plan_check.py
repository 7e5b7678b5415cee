"""How far `kokanee plan` is off on this machine: each stage predicted beside the same one measured.

    python -m kokanee.benchmarks.plan_check [--bundle FOLDER ...] [--profile FILE] [--out FILE]

The prediction is a machine's profile, which saw no model, times what the graphs compute. Both are
in seconds as if this process had every core: what its threads waited for one is taken off. The
profile is taken afresh unless it is given, a part of it again between models: `drift` is by how
much the machine has slowed down by then.
"""

from __future__ import annotations

import gc
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from kokanee.engine import Engine, read_manifest
from kokanee.engine.encoders import Encoders
from kokanee.engine.engine import open_decoder
from kokanee.engine.features import Fbank, LogMel
from kokanee.engine.manifest import GRAPHS
from kokanee.engine.onnx import open_graph
from kokanee.engine.segments import apply_policy
from kokanee.export.dims import Architecture
from kokanee.export.nano import build_nano
from kokanee.runtime.bundle import BuildProgress
from kokanee.runtime.listening import unpadded

from . import profile_measure
from .machine import machine
from .plan_operations import Operations, encoding, in_chunks, prefill, seconds
from .profile import Profile, read

SOUND_S = (5.1, 29.92)  # whole windows: 15 and 88
PREFILLS = (32, 117)
DEEP = 1500  # positions behind which a token is decoded, beside 150
N_CTX = DEEP + 100
RUNS = 7
WITHIN = 0.25
ENCODE = ("features", "speech_encoder", "audio_encoder", "connector")


def measure(folder: Path, runs: int) -> dict[str, float]:
    """Seconds of each stage of a bundle, the lower quartile: "speech_encoder 5.1 s", ..."""
    samples: dict[str, list[float]] = {}

    def add(name: str, took: float) -> None:
        samples.setdefault(name, []).append(took)

    _encode(folder, runs, add)
    gc.collect()
    decoder = open_decoder(folder, n_ctx=N_CTX)
    embeds = 0.1 * np.random.default_rng(0).standard_normal(
        (max(PREFILLS), read_manifest(folder).dims.d_model), np.float32
    )
    for pair in decoder.cache.layers:
        for array in pair:  # what was never written is one page for all, and comes from the cache
            array[...] = 1
    for run in range(runs + 1):
        for n in PREFILLS:
            decoder.cache.trim(0)
            took, _ = profile_measure.undisturbed(partial(decoder.prefill, embeds[:n]))
            if run:
                add(f"prefill {n}", took)
        for depth in (150, DEEP):
            decoder.cache.trim(0)
            decoder.cache.append(depth)

            def steps() -> None:
                for token in range(8):
                    decoder.step(token + 100)

            took, _ = profile_measure.undisturbed(steps)
            if run:
                add(f"decode at {depth}", took / 8)
    decoder.close()
    return {name: sorted(times)[(len(times) - 1) // 4] for name, times in samples.items()}


def _encode(folder: Path, runs: int, add: Any) -> None:
    manifest = read_manifest(folder)
    graphs = {
        name: open_graph(folder / manifest.graphs[name].file, device="cpu", arena=False)
        for name in GRAPHS[:-1]
    }
    names = {id(graph): name for name, graph in graphs.items()}
    policy = unpadded(manifest.policy)
    encoders = Encoders(**graphs, policy=policy, d_audio=manifest.dims.d_audio)
    for run in range(runs + 1):
        for length in SOUND_S:
            pcm = profile_measure.some_sound(length)
            (segment,) = apply_policy(pcm, policy).segments
            took, _ = profile_measure.undisturbed(partial(_features, pcm))
            spent = {"features": took}

            def timed(graph: Any, outputs: Any, feeds: Any, spent: Any = spent) -> Any:
                made: list[Any] = []
                took, _ = profile_measure.undisturbed(
                    lambda: made.extend(graph.run(outputs, feeds))
                )
                spent[names[id(graph)]] = took
                return made

            encoders.soft_tokens(segment, dict.fromkeys(ENCODE, 0.0), run=timed)
            for name, took in spent.items() if run else ():
                add(f"{name} {length:g} s", took)


def _features(pcm: Any) -> None:
    LogMel().picture(pcm)
    Fbank().picture(pcm)


def predict(folder: Path, profile: Profile) -> dict[str, float]:
    """The same stages, from what the graphs compute."""
    manifest = read_manifest(folder)
    a = Architecture.from_json(manifest.architecture)
    cache = "float32" if manifest.int8_cache is None else "int8"
    wanted: dict[str, Operations] = {}
    for length in SOUND_S:
        wanted |= {f"{name} {length:g} s": ops for name, ops in encoding(a, length).items()}
    wanted |= {f"prefill {n}": prefill(a, n, 0, cache=cache) for n in PREFILLS}
    wanted |= {f"decode at {n}": prefill(a, 1, n + 3, cache=cache) for n in (150, DEEP)}
    return {name: seconds(operations, profile) for name, operations in wanted.items()}


def compared(measured: Mapping[str, float], predicted: Mapping[str, float]) -> dict[str, Any]:
    """Each stage, and the encoding as a whole."""
    both = {name: (predicted[name], measured[name]) for name in measured}
    for length in SOUND_S:
        parts = [both[f"{name} {length:g} s"] for name in ENCODE]
        both[f"encode {length:g} s"] = (sum(p for p, _ in parts), sum(m for _, m in parts))
    return {
        name: {
            "predicted_ms": 1e3 * p,
            "measured_ms": 1e3 * m,
            "predicted_to_measured": p / m,
            "within": abs(math.log(p / m)) <= math.log(1 + WITHIN),
        }
        for name, (p, m) in both.items()
    }


def answered(folder: Path, profile: Profile, runs: int, length: float = 5.1) -> dict[str, float]:
    """From the end of a sound to the first token, offline: hear it all, ask."""
    manifest = read_manifest(folder)
    a = Architecture.from_json(manifest.architecture)
    pcm = profile_measure.some_sound(length)
    times, n_before, n_soft, n_behind, cache = [], 0, 0, 0, "float32"
    with Engine.open(folder, device="cpu") as engine:
        policy = unpadded(manifest.policy)
        task = "asr" if "asr" in manifest.prompt.tasks else None
        question = None if task else "What do you hear?"
        with engine.session(n_ctx=512, policy=policy) as session:
            cache = "float32" if manifest.int8_cache is None else "int8"

            def once() -> None:
                nonlocal n_before, n_soft, n_behind
                n_soft = session.hear(pcm).n_soft_tokens
                n_before = session.n_used - n_soft
                n_behind = session.n_prompt(question, task=task) - n_before
                next(iter(session.ask(question, task=task)))

            for run in range(runs + 1):
                took, _ = profile_measure.undisturbed(once)
                if run:
                    times.append(took)
    stages = list(encoding(a, length).values())
    chunks = [
        *([(n_before, 0)] if n_before else []),
        *in_chunks(n_soft, 64, n_before),
        (n_behind, n_before + n_soft),
    ]
    stages += [prefill(a, n, past, cache=cache) for n, past in chunks]
    made = sum(seconds(operations, profile) for operations in stages)
    measured = sorted(times)[(len(times) - 1) // 4]
    return {
        "predicted_ms": 1e3 * made,
        "measured_ms": 1e3 * measured,
        "predicted_to_measured": made / measured,
        "within": abs(math.log(made / measured)) <= math.log(1 + WITHIN),
    }


def drift(profile: Profile) -> float:
    """By how much the profile's most important points take longer by now."""
    again = profile_measure.important()
    ratios = [p.seconds / profile.seconds(p.op, rows=p.rows, size=p.size) for p in again]
    return statistics.median(ratios)


@click.command()
@click.option(
    "--bundle",
    "bundles",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="Beside nano.",
)
@click.option(
    "--profile",
    "kept",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of this machine, taken a moment ago.  [default: taken now]",
)
@click.option("--runs", default=RUNS, show_default=True, type=click.IntRange(2))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(bundles: Sequence[Path], kept: Path | None, runs: int, out: Path | None) -> None:
    """Measure and compare; a table, then one JSON line."""
    if kept is not None:
        profile = read(kept)
    else:
        with BuildProgress() as progress:
            profile = profile_measure.measure(progress)
    models: dict[str, Any] = {}
    for folder in (build_nano(), *bundles):
        manifest = read_manifest(folder)
        before = drift(profile)
        stages = compared(measure(folder, runs), predict(folder, profile))
        if folder not in bundles:
            stages["end of speech to first token, offline, 5.1 s"] = answered(folder, profile, runs)
        after = drift(profile)
        models[manifest.name] = {
            "schemes": {name: graph.scheme for name, graph in manifest.graphs.items()},
            "drift": [before, after],
            "stages": stages,
        }
        click.echo(f"{manifest.name}: {models[manifest.name]['schemes']}")
        click.echo(f"  the machine, beside its profile: {before:.2f} before, {after:.2f} after")
        for name, row in stages.items():
            beyond = "" if row["within"] else f"  beyond {WITHIN:.0%}"
            click.echo(
                f"  {name:<46} predicted {row['predicted_ms']:9.1f} ms  measured"
                f" {row['measured_ms']:9.1f}  ratio {row['predicted_to_measured']:.2f}{beyond}"
            )
    result = {
        "what": "prediction from a machine's profile against measurement, undisturbed seconds",
        "command": "python -m kokanee.benchmarks.plan_check"
        + "".join(" --bundle FOLDER" for _ in bundles),
        "runs": runs,
        "profile": {"date": profile.date, "took_s": profile.took_s},
        "models": models,
        "worst_factor": max(
            math.exp(abs(math.log(row["predicted_to_measured"])))
            for model in models.values()
            for row in model["stages"].values()
        ),
        "machine": machine(),
    }
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
