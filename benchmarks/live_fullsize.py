"""SALMONN at full size while somebody speaks: what a hop costs, and how long the answer takes then.

    python -m kokanee.benchmarks.live_fullsize --work FOLDER [--size 7b|nano] [--runs 2]

Who speaks to a machine notices one figure: the time from the end of the voice to the first word of
the answer. Whether a machine keeps up with a 7B model while the sound goes on decides it.

Three things, never to be mixed up:

    measured     sound is fed to Session.listen hop by hop, as fast as it is taken, and the work of
                 every stage is timed, in seconds of this process having every core (its processor
                 time divided by them), for other programs run beside it here; `slowed` is by how
                 much the clock on the wall went faster than that
    simulated    benchmarks/replay.py, `follow`: the listener's own order of events for the same
                 recording, its pauses found by the same voice detector, with a clock made of the
                 measured times: what they would come to in real time on this machine if it did
                 nothing else
    in real time the Listener itself, the recording played to it at the speed of sound, other
                 programs and all; beside it what `follow` makes of the measured times when they are
                 stretched by `slowed` of that very run, which is how well it can be trusted

The checkpoint is synthetic (kokanee.benchmarks.synthetic): times are those of the real one, but how
many windows of its soft tokens change as more sound comes in, and are prefilled again, is that of
random weights. `--size nano` tells what it is for trained ones. FOLDER needs 26 GB while the bundle
is built, 5 GB after. What was measured is kept in FOLDER, and a run that was broken off goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import numpy.typing as npt

from kokanee.engine import EXACT, FAST, Engine, Streaming
from kokanee.engine.encoders import STAGES
from kokanee.export.nano import build_nano
from kokanee.runtime.listening import Ask, unpadded
from kokanee.runtime.vad import SileroVAD

from .hops import (
    N_CTX,
    cores_clock,
    follow_sound,
    heard,
    in_real_time,
    in_silence,
    offline,
    rewritten,
    stages,
    voice,
)
from .machine import machine, run_measured, spread
from .replay import Costs, Pace, Turn, about, follow

F32 = npt.NDArray[np.float32]
Sample = dict[str, Any]
Size = Literal["7b", "13b", "nano"]

LENGTHS = (2.0, 5.0, 10.0, 20.0)  # seconds of voice
HOPS = (0.5, 1.0)  # seconds
MODES = (FAST, EXACT)
# Exact mode leaves its work for the end however it hops.
PACES = ((FAST, HOPS[0]), (FAST, HOPS[1]), (EXACT, HOPS[0]))
LLM_QUANT = "int4_block128"


def bundle(size: Size, work: Path) -> Path:
    """The bundle in the folder, built if it is not there; its checkpoint is deleted then."""
    if size == "nano":
        return build_nano()
    folder = work / f"{size}-{LLM_QUANT}"
    if not (folder / "manifest.json").is_file():
        from .synthetic import sizes, write  # needs the extra [build]

        checkpoints = work / size
        click.echo(f"writing a synthetic checkpoint to {checkpoints}", err=True)
        write(checkpoints, sizes(size))
        click.echo("building", err=True)
        run_measured(
            [
                *("build", str(folder), "--llm-quant", LLM_QUANT, "--encoder-quant", "int8"),
                *("--no-receipt", "--kv-cache", "float32"),
                *("--salmonn", str(checkpoints / "salmonn.pth")),
                *("--beats", str(checkpoints / "beats.pt")),
                *("--whisper", str(checkpoints / "whisper"), "--llm", str(checkpoints / "llm")),
                *("--qformer-config", str(checkpoints / "qformer.json")),
            ]
        )
        shutil.rmtree(checkpoints)
    return folder


class Kept:
    """Samples in a file, so that a run that was broken off goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        self.load: dict[str, float] = self._known.setdefault("load", {})
        """How busy the machine was by then: the load average of a minute, by sample."""

    def get(self, key: str, make: Callable[[], Sample]) -> Sample:
        """The sample of that name, made if it is not there."""
        if key not in self._known:
            click.echo(key, err=True)
            self._known[key] = make()
            self.load[key] = round(os.getloadavg()[0], 1)
            self._path.write_text(json.dumps(self._known), encoding="utf-8")
        known: Sample = self._known[key]
        return known


def measure(
    size: Size, work: Path, runs: int, lengths: Sequence[float], again: float | None
) -> dict[str, Any]:
    """Everything about one model."""
    work.mkdir(parents=True, exist_ok=True)
    folder = bundle(size, work)
    kept = Kept(work / f"live_{size}.samples.json")
    with Engine.open(folder, device="cpu") as engine:
        manifest = engine.manifest
        policy = unpadded(manifest.policy)
        tasks = manifest.prompt.tasks
        ask = Ask(task="asr") if "asr" in tasks else Ask(question="What do you hear?")
        with engine.session(n_ctx=N_CTX, policy=policy) as session:
            n_prompt = session.n_prompt(ask.question, task=ask.task)
            session.listen()
            n_question = n_prompt - session.n_used  # the rest is before the sound
            follow_sound(session, voice(2.0), FAST, 1.0, policy, ask)  # pages and caches warm

            def follow_once(mode: Streaming, hop_s: float, length: float) -> Sample:
                return follow_sound(session, voice(length), mode, hop_s, policy, ask)

            followed: dict[tuple[str, float], list[Sample]] = defaultdict(list)
            for run, (mode, hop_s), length in itertools.product(range(runs), PACES, lengths):
                key = f"{mode.name}, hop {hop_s:g} s, {length:g} s, run {run}"
                with cores_clock():
                    sample = kept.get(key, functools.partial(follow_once, mode, hop_s, length))
                followed[mode.name, hop_s].append(sample)
        with engine.session(n_ctx=N_CTX) as at_once:
            whole: dict[float, Sample] = {}
            for length in lengths:
                once = functools.partial(offline, at_once, voice(length), ask)
                with cores_clock():
                    whole[length] = kept.get(f"offline, {length:g} s", once)
        played: dict[tuple[str, float], Sample] = {}
        for mode, length in itertools.product(MODES, lengths):
            sound = in_silence(voice(length))
            key = f"in real time, {mode.name}, {length:g} s"
            played[mode.name, length] = kept.get(
                key, functools.partial(in_real_time, engine, sound, mode)
            )
    everything = [sample for samples in followed.values() for sample in samples]
    least, median = stages(everything, min), stages(everything, statistics.median)
    detector = SileroVAD()
    n_again = rewritten([s for h in HOPS for s in followed["fast", h]], policy.n_queries)
    simulated_again = n_again if again is None else again
    window_s = policy.stride_frames * 0.02

    @functools.cache
    def turn(mode: Streaming, length: float) -> Turn:
        detector.reset()
        return heard(in_silence(voice(length)), policy, mode, detector)

    def simulated(mode: Streaming, hop_s: float, length: float, costs: Costs) -> dict[str, Any]:
        pace = Pace.of(
            mode,
            hop_s=hop_s,
            window_s=window_s,
            n_queries=policy.n_queries,
            rewritten=simulated_again if mode is FAST else 0.0,
        )
        wherever = about(length, costs, pace)  # hops happen to fall
        return dataclasses.asdict(follow(turn(mode, length), costs, pace)) | {
            "first_token_at_best_s": wherever.best,
            "first_token_at_worst_s": wherever.worst,
        }

    return {
        "what": f"listening to {manifest.name} on this machine, {size}",
        "command": f"python -m kokanee.benchmarks.live_fullsize --work FOLDER --size {size}"
        f" --runs {runs}" + ("" if again is None else f" --again {again:g}"),
        "size": size,
        "synthetic_weights": size != "nano",
        "bundle_mb": sum(f.n_bytes for f in manifest.files.values()) / 1e6,
        "architecture": manifest.architecture,
        "llm": manifest.graphs["llm"].scheme,
        "kv_cache": "float32" if manifest.int8_cache is None else "int8",
        "runs": runs,
        "n_question": n_question,
        "n_queries": policy.n_queries,
        "windows_prefilled_again_by_a_hop": {"measured": n_again, "simulated": simulated_again},
        "slowed": spread([sample["slowed"] for sample in everything]),
        "measured": {
            "least": least.to_json(),
            "median": median.to_json(),
            "hops": {
                f"{mode}, hop {hop_s:g} s": _hops(samples)
                for (mode, hop_s), samples in followed.items()
            },
            "final": {
                f"{mode}, hop {hop_s:g} s, {length:g} s": _final(samples[i :: len(lengths)])
                for (mode, hop_s), samples in followed.items()
                for i, length in enumerate(lengths)
            },
        },
        "offline": {
            f"{length:g} s": sample
            | {"whole": sum(sample["hear"].values()) + sample["ask"]["first_token"]}
            for length, sample in whole.items()
        },
        "simulated": {
            f"{mode.name}, hop {hop_s:g} s, {length:g} s": simulated(
                mode, hop_s, length, median.costs()
            )
            for mode, hop_s in PACES
            for length in lengths
        },
        "in_real_time": {
            f"{mode.name}, {length:g} s": (sample := played[mode.name, length])
            | {
                "simulated": simulated(
                    mode, HOPS[0], length, median.costs().stretched(sample["slowed"])
                )
            }
            for mode in MODES
            for length in lengths
        },
        "load_average": kept.load,
        "machine": machine(),
        "versions": {name: version(name) for name in ("numpy", "onnxruntime", "tokenizers")},
    }


def _hops(samples: Sequence[Sample]) -> dict[str, Any]:
    """Milliseconds of a hop's work, and its parts."""
    hops = [hop for sample in samples for hop in sample["hops"]]
    if not hops:
        return {}
    parts: dict[str, Callable[[Sample], float]] = {
        "features": lambda h: h["extend"] + h["appended"]["features"] + h["caught_up"]["features"],
        **{
            stage: lambda h, s=stage: h["appended"][s] + h["caught_up"][s]  # type: ignore[misc]
            for stage in STAGES[1:]
        },
        "prefill": lambda h: h["caught_up"]["prefill_audio"],
        "wall": lambda h: h["wall"],
        "positions": lambda h: h["n_computed"],
    }
    return {name: spread([float(of(hop)) for hop in hops]) for name, of in parts.items()}


def _final(samples: Sequence[Sample]) -> dict[str, Any]:
    """Milliseconds between a pause that is found at once and the first token."""
    encode = [sum(s["settle"]["spent"][stage] for stage in STAGES) for s in samples]
    prefill = [s["settle"]["spent"]["prefill_audio"] for s in samples]
    first = [s["ask"]["first_token"] for s in samples]
    return {
        "encode": spread(encode),
        "prefill": spread(prefill),
        "question": spread(first),
        "whole": spread([sum(parts) for parts in zip(encode, prefill, first, strict=True)]),
    }


def _table(result: dict[str, Any], lengths: Sequence[float]) -> None:
    found = result["measured"]
    click.echo(f"{result['what']}; {result['bundle_mb']:.0f} MB, {result['runs']} runs")
    click.echo("MEASURED, the least and the median, ms for a piece of so many seconds:")
    for name, ms in found["least"]["encode_ms"].items():
        middle = found["median"]["encode_ms"][name]
        cells = "  ".join(f"{part} {ms[part]:6.0f} {middle[part]:6.0f}" for part in STAGES)
        click.echo(f"  {name:>6} s  {cells}")
    for kind in ("least", "median"):
        took = found[kind]
        prefills = ", ".join(f"{n}: {ms:.0f}" for n, ms in took["prefill_ms"].items())
        click.echo(f"  prefill, positions: ms ({kind})  {prefills}")
        click.echo(
            f"  question to first token {took['first_token_ms']:.0f}, a step"
            f" {took['step_ms']:.0f}, features {took['features_ms_a_second']:.1f} a second of"
            f" sound ({kind})"
        )
    for name, hop in found["hops"].items():
        if hop:
            parts = ", ".join(f"{part} {x['median']:.0f}" for part, x in hop.items())
            click.echo(f"  {name}: {parts}; {hop['wall']['min']:.0f} to {hop['wall']['max']:.0f}")
    click.echo("end of speech to first token, ms (of it after the decision that the turn is over)")
    click.echo(f"{'':>30}" + "".join(f"{length:>18g} s" for length in lengths))
    for mode, hop_s in PACES:
        made = [result["simulated"][f"{mode.name}, hop {hop_s:g} s, {x:g} s"] for x in lengths]
        row = "".join(_cell(1e3 * x["first_token_s"], 1e3 * x["compute_s"]) for x in made)
        click.echo(f"{f'SIMULATED {mode.name}, hop {hop_s:g} s':<30}{row}")
        ends = "".join(
            f"{1e3 * x['first_token_at_best_s']:>11.0f} to{1e3 * x['first_token_at_worst_s']:>6.0f}"
            for x in made
        )
        click.echo(f"{'  as hops happen to fall':<30}{ends}")
    for mode in MODES:
        played = [result["in_real_time"][f"{mode.name}, {x:g} s"] for x in lengths]
        row = "".join(
            _cell(x["turns"][0]["first_token"], x["turns"][0]["compute"])
            if x["turns"]
            else f"{'no turn':>20}"
            for x in played
        )
        click.echo(f"{f'IN REAL TIME {mode.name}':<30}{row}")
        row = "".join(
            _cell(1e3 * x["simulated"]["first_token_s"], 1e3 * x["simulated"]["compute_s"])
            for x in played
        )
        click.echo(f"{'  simulated, as slowed':<30}{row}")
        row = "".join(f"{x['slowed']:>11.1f}{'':9}" for x in played)
        click.echo(f"{'  slowed by other programs':<30}{row}")
    row = "".join(f"{result['offline'][f'{x:g} s']['whole']:>11.0f}{'':9}" for x in lengths)
    click.echo(f"{'MEASURED offline, hear and ask':<30}{row}")


def _cell(first_token: float, compute: float) -> str:
    return f"{first_token:>11.0f} ({compute:>6.0f})"


@click.command()
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where the bundle and samples go; what is there is used again.",
)
@click.option("--size", type=click.Choice(["7b", "13b", "nano"]), default="7b", show_default=True)
@click.option("--runs", default=2, show_default=True, type=click.IntRange(1))
@click.option(
    "--again",
    type=click.FloatRange(0),
    help="Windows that a hop prefills again, for the simulation: random weights tell too few.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(work: Path, size: Size, runs: int, again: float | None, out: Path | None) -> None:
    """Measure, simulate, play; a table, then one JSON line."""
    result = measure(size, work, runs, LENGTHS, again)
    _table(result, LENGTHS)
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
