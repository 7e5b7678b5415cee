"""SALMONN at full size while somebody speaks: what a hop costs, and how long the answer takes then.

    python -m kokanee.benchmarks.live_fullsize --work FOLDER [--size 7b|nano] [--runs 2]

Who speaks to a machine notices one figure: the time from the end of the voice to the first word of
the answer. Whether a machine keeps up with a 7B model while the sound goes on decides it.

Three things, never to be mixed up:

    measured     sound is fed to Session.listen hop by hop, as fast as it is taken, and the work of
                 every stage is timed, in seconds of this process having every core (its processor
                 time divided by them), for other programs run beside it here; `slowed` is by how
                 much the clock on the wall went faster than that
    simulated    benchmarks/roofline.py, `follow`: the listener's own order of events for the same
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
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import click
import numpy as np
import numpy.typing as npt

from kokanee.engine import EXACT, FAST, Engine, Session, Streaming, read_audio
from kokanee.engine.encoders import STAGES, Features, Run
from kokanee.engine.features import SAMPLE_RATE
from kokanee.engine.growing import GrowingSound
from kokanee.engine.manifest import Policy
from kokanee.engine.onnx import available_threads
from kokanee.engine.segments import FRAME, Segment
from kokanee.export.nano import build_nano
from kokanee.runtime.endpoint import End, Endpointer, Pause, Resume, Start, TurnDetection
from kokanee.runtime.listener import Listener
from kokanee.runtime.listening import Ask, Listening, unpadded
from kokanee.runtime.sources import Playback
from kokanee.runtime.updates import Final
from kokanee.runtime.vad import SileroVAD, VoiceDetector

from .ask import RECORDING
from .machine import machine, run_measured, spread
from .replay import BLOCK_S, Costs, Mark, Pace, Turn, about, follow

F32 = npt.NDArray[np.float32]
Sample = dict[str, Any]
Size = Literal["7b", "13b", "nano"]

LENGTHS = (2.0, 5.0, 10.0, 20.0)  # seconds of voice
HOPS = (0.5, 1.0)  # seconds
MODES = (FAST, EXACT)
# Exact mode leaves its work for the end however it hops.
PACES = ((FAST, HOPS[0]), (FAST, HOPS[1]), (EXACT, HOPS[0]))
N_CTX, N_NEW = 1024, 8
WORK = (*STAGES, "prefill_audio", "prefill_question", "decode")  # all of a turn, counted once
PAUSE_S = 0.1  # between repetitions: too short to be taken for an end
BEFORE_S, AFTER_S = 0.6, 1.5  # silence around a recording that is listened to
LLM_QUANT = "int4_block128"


# --- what is heard --------------------------------------------------------------------------------


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


def voice(seconds: float) -> F32:
    """A recording, repeated with short pauses, [n_samples]."""
    pcm = read_audio(RECORDING).pcm
    spoken = np.flatnonzero(np.abs(pcm) > 0.02)
    pcm = pcm[spoken[0] : spoken[-1] + 1]
    pcm = np.pad(pcm, (0, round(PAUSE_S * SAMPLE_RATE)))
    return np.resize(pcm, round(seconds * SAMPLE_RATE))


def in_silence(pcm: F32) -> F32:
    """With a second of nearly nothing around it."""
    rng = np.random.default_rng(0)
    before, after = (round(s * SAMPLE_RATE) for s in (BEFORE_S, AFTER_S))
    sound = np.pad(pcm, (before, after))
    noise: F32 = (1e-4 * rng.standard_normal(len(sound))).astype(np.float32)
    return (sound + noise).astype(np.float32)


def heard(pcm: F32, policy: Policy, streaming: Streaming, detector: VoiceDetector) -> Turn:
    """The first turn in a recording as the ears would have it, its times from its first sample on.

    Raises:
        ValueError: there is no turn in it.
    """
    ears = Endpointer(TurnDetection(), detector)
    step = round(BLOCK_S * SAMPLE_RATE)
    start: Start | None = None
    found = 0.0
    marks: list[Mark] = []
    speaking = True
    for at in range(0, len(pcm), step):
        now = (at + step) / SAMPLE_RATE
        for mark in ears.push(pcm[at : at + step]):
            if isinstance(mark, Start) and start is None:
                start, found = mark, now
            elif isinstance(mark, Pause):
                marks.append(Mark(at_s=now, what="pause", until_s=mark.at / SAMPLE_RATE))
            elif isinstance(mark, Resume):
                marks.append(Mark(at_s=now, what="resume"))
            elif isinstance(mark, End) and start is not None:
                marks.append(Mark(at_s=now, what="end", until_s=mark.at / SAMPLE_RATE))
                zero = start.at / SAMPLE_RATE
                return Turn(
                    marks=tuple(
                        dataclasses.replace(m, at_s=m.at_s - zero, until_s=m.until_s - zero)
                        for m in marks
                    ),
                    offset_s=mark.offset / SAMPLE_RATE - zero,
                    found_s=found - zero,
                    cuts=cuts(pcm[start.at : mark.at], policy, streaming),
                )
        if start is not None and ears.speaking != speaking:
            speaking = ears.speaking
            marks.append(Mark(at_s=now, what="voice" if speaking else "quiet"))
    raise ValueError(f"recording: expected a turn within {len(pcm) / SAMPLE_RATE:.1f} s, got none")


class Lengths:
    """Seconds of every piece that a growing sound would encode, without encoding it."""

    def __init__(self, policy: Policy, streaming: Streaming) -> None:
        self.made: list[float] = []
        self.sound = GrowingSound(self._encode, policy, streaming, d_model=1)
        self._n_queries = policy.n_queries

    def _encode(
        self, segment: Segment, timings_ms: dict[str, float], features: Features, run: Run
    ) -> F32:
        self.made.append(len(segment.speech_pcm) // FRAME * 0.02)
        return np.zeros((segment.n_windows * self._n_queries, 1), np.float32)

    def take(self) -> list[float]:
        """What was made since the last call."""
        made, self.made = self.made, []
        return made


def cuts(pcm: F32, policy: Policy, streaming: Streaming) -> tuple[float, ...]:
    """Where a sound's pieces end, in seconds, but for the last."""
    lengths = Lengths(policy, streaming)
    lengths.sound.append(pcm)
    return tuple(float(x) for x in np.cumsum(lengths.take()))


# --- measuring ------------------------------------------------------------------------------------


def follow_sound(
    session: Session, pcm: F32, streaming: Streaming, hop_s: float, policy: Policy, ask: Ask
) -> Sample:
    """Feed a sound hop by hop, settle it, ask; the work of every stage in milliseconds."""
    hearing, lengths = session.listen(streaming), Lengths(policy, streaming)
    n_hop = round(hop_s * SAMPLE_RATE)
    hops: list[Sample] = []
    began = time.monotonic(), time.perf_counter()
    before = dict(hearing.timings_ms)

    def lap() -> dict[str, float]:
        nonlocal before
        now = dict(hearing.timings_ms)
        spent = {name: now[name] - before[name] for name in now}
        before = now
        return spent

    for at in range(0, len(pcm), n_hop):
        part = pcm[at : at + n_hop]
        watch = _Watch()
        hearing.append(part)
        append_ms = watch.lap()
        encoded_ms = sum((appended := lap()).values())
        n_before = hearing.n_soft_tokens
        lengths.sound.append(part)
        filled = lengths.take()
        if at + n_hop >= len(pcm):
            break  # a pause is settled, not hopped to
        watch.lap()
        n_computed = hearing.catch_up()
        caught_up_ms, spent = watch.lap(), lap()
        lengths.sound.so_far()
        hops.append(
            {
                "until_s": (at + len(part)) / SAMPLE_RATE,
                "filled_s": filled,
                "grown_s": lengths.take(),
                "extend": append_ms - encoded_ms,
                "appended": appended,
                "caught_up": spent,
                "wall": append_ms + caught_up_ms,
                "n_computed": n_computed,
                "n_new": hearing.n_soft_tokens - n_before,
            }
        )
    n_before, watch = hearing.n_soft_tokens, _Watch()
    settled = hearing.settle()
    settle_ms = watch.lap()
    lengths.sound.whole()
    return {
        "hops": hops,
        "settle": {
            "wall": settle_ms,
            "spent": lap(),
            "grown_s": lengths.take(),
            "n_soft_tokens": settled.n_soft_tokens,
            "n_before": n_before,
        },
        "ask": answered(session, ask),
        "slowed": (time.monotonic() - began[0]) / (time.perf_counter() - began[1]),
    }


def offline(session: Session, pcm: F32, ask: Ask) -> Sample:
    """Hear all of it at once, and ask."""
    began = time.monotonic(), time.perf_counter()
    whole = session.hear(pcm)
    return {
        "hear": whole.timings_ms,
        "n_soft_tokens": whole.n_soft_tokens,
        "ask": answered(session, ask),
        "slowed": (time.monotonic() - began[0]) / (time.perf_counter() - began[1]),
    }


def answered(session: Session, ask: Ask) -> Sample:
    """Milliseconds to the first token and for a step after it."""
    answer = session.ask(ask.question, task=ask.task, max_new_tokens=N_NEW)
    answer.text()
    times = answer.timings_ms
    return {
        "prefill_question": times["prefill_question"],
        "first_token": times["first_token"],
        "step": times["decode"] / (len(answer.ids) - 1) if len(answer.ids) > 1 else None,
    }


def in_real_time(engine: Engine, pcm: F32, streaming: Streaming) -> Sample:
    """What the Listener does with a recording that is played at the speed of sound."""
    how = Listening(streaming=streaming, n_ctx=N_CTX, max_new_tokens=N_NEW)
    source = Playback([pcm], realtime=True)
    began = time.process_time()
    with Listener(engine, source, how) as listener:
        finals = [u for u in listener if isinstance(u, Final)]
        tally = listener.tally
    had_s = (time.process_time() - began) / available_threads()
    worked_s = sum(
        final.work_ms[name] for final in finals for name in WORK if name in final.work_ms
    )
    worked_s /= 1e3
    return {
        "turns": [final.latencies_ms for final in finals],
        "work_ms": [final.work_ms for final in finals],
        "slowed": worked_s / had_s,
        "n_hops": tally.hops,
        "n_guesses": tally.guesses,
        "dropped_s": tally.dropped_s,
    }


def cores_clock() -> AbstractContextManager[Any]:
    """Within it, `time.perf_counter` stands still while other programs have the cores.

    Work that does not spread over all of them counts for less than it takes; features alone do not.
    """
    return patch("time.perf_counter", lambda: time.process_time() / available_threads())


class _Watch:
    """Milliseconds since the last lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return (self._last - last) * 1e3


# --- from samples to a machine's costs ------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Milliseconds of a stage by the length that it worked on, over all samples."""

    encode: dict[float, dict[str, float]]  # seconds of a piece -> stage -> ms
    prefill: dict[int, float]  # positions -> ms
    first_token: float
    step: float
    extend: float  # features, a second of sound as it arrives

    def to_json(self) -> dict[str, Any]:
        """For the result."""
        return {
            "encode_ms": {f"{s:g}": ms for s, ms in self.encode.items()},
            "prefill_ms": {str(n): ms for n, ms in self.prefill.items()},
            "first_token_ms": self.first_token,
            "step_ms": self.step,
            "features_ms_a_second": self.extend,
        }

    def costs(self) -> Costs:
        """For `follow`."""
        return Costs(
            encode=tuple((s, sum(ms.values()) / 1e3) for s, ms in sorted(self.encode.items())),
            prefill=tuple((n, ms / 1e3) for n, ms in sorted(self.prefill.items())),
            question=self.first_token / 1e3,
            step=self.step / 1e3,
            features=self.extend / 1e3,
        )


def stages(samples: Sequence[Sample], of: Callable[[list[float]], float]) -> Stages:
    """What `follow_sound` measured, by stage and length; `of` several the median, or the least."""
    encode: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    prefill: dict[int, list[float]] = defaultdict(list)
    extend: list[float] = []

    def add(lengths: list[float], spent: dict[str, float]) -> None:
        if len(lengths) == 1:  # two pieces in one go cannot be told apart
            for stage in STAGES:
                encode[round(lengths[0], 2)][stage].append(spent[stage])

    for sample in samples:
        hop_s = sample["hops"][0]["until_s"] if sample["hops"] else 1.0
        for hop in sample["hops"]:
            extend.append(max(0.0, hop["extend"]) / hop_s)
            add(hop["filled_s"], hop["appended"])
            add(hop["grown_s"], hop["caught_up"])
            if hop["n_computed"]:
                prefill[hop["n_computed"]].append(hop["caught_up"]["prefill_audio"])
        add(sample["settle"]["grown_s"], sample["settle"]["spent"])
        if not sample["settle"]["n_before"]:  # else it is not known how many of them were new
            n = sample["settle"]["n_soft_tokens"]
            prefill[n].append(sample["settle"]["spent"]["prefill_audio"])
    steps = [s["ask"]["step"] for s in samples if s["ask"]["step"] is not None]
    return Stages(
        encode={
            length: {stage: of(ms) for stage, ms in by_stage.items()}
            for length, by_stage in sorted(encode.items())
        },
        prefill={n: of(ms) for n, ms in sorted(prefill.items())},
        first_token=of([s["ask"]["first_token"] for s in samples]),
        step=of(steps) if steps else 0.0,
        extend=statistics.median(extend) if extend else 0.0,
    )


def rewritten(samples: Sequence[Sample], n_queries: int) -> float:
    """Windows that a hop prefills though they were in the cache before, on average."""
    again = [
        (hop["n_computed"] - max(0, hop["n_new"])) / n_queries
        for sample in samples
        for hop in sample["hops"]
        if hop["n_computed"]
    ]
    return max(0.0, statistics.mean(again)) if again else 0.0


# --- all of it ------------------------------------------------------------------------------------


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
