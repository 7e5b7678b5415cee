"""A sound followed hop by hop: the work of every stage, and what a machine's costs are by it.

Times are this process's share of every core, see `cores_clock`: other programs run beside it here.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from kokanee.engine import Engine, Session, Streaming, read_audio
from kokanee.engine.encoders import STAGES, Features, Run
from kokanee.engine.features import SAMPLE_RATE
from kokanee.engine.growing import GrowingSound
from kokanee.engine.manifest import Policy
from kokanee.engine.onnx import available_threads
from kokanee.engine.segments import FRAME, Segment
from kokanee.runtime.endpoint import End, Endpointer, Pause, Resume, Start, TurnDetection
from kokanee.runtime.listener import Listener
from kokanee.runtime.listening import Ask, Listening
from kokanee.runtime.sources import Playback
from kokanee.runtime.updates import Final
from kokanee.runtime.vad import VoiceDetector

from .field import RECORDING
from .replay import BLOCK_S, Costs, Mark, Turn

F32 = npt.NDArray[np.float32]
Sample = dict[str, Any]
Size = Literal["7b", "13b", "nano"]

WORK = (*STAGES, "prefill_audio", "prefill_question", "decode")  # all of a turn, counted once
PAUSE_S = 0.1  # between repetitions: too short to be taken for an end
BEFORE_S, AFTER_S = 0.6, 1.5  # silence around a recording that is listened to
N_CTX, N_NEW = 1024, 8


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
