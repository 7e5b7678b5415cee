"""How fast a configuration would be on a machine or card: nothing is opened or run.

Of a processor it is a sum over operators (plan_operations.py), of a GPU a roofline (roofline.py).
Every time is a range from best to worst. A processor's is a prediction divided and multiplied by
the factor that such were off by at worst where they were checked; a GPU's follows from the shares
of their peaks that such cards reached elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kokanee.engine import EXACT, FAST

from . import plan_operations as operations
from .planning import KV_BYTES, N_BEFORE, WHOLE_S, Configuration
from .profile import Profile
from .replay import Costs, Pace, across, costs
from .roofline import ENDS, Device, Efficiency, End, Model, Range, n_windows, seconds

CHECKED = Path(__file__).parent / "results" / "plan_check.json"
REWRITTEN = 1.8  # windows that a hop prefills again: results/live_7b.json, from nano's trained ones
VOICES_S = (5.0, 20.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What a configuration is predicted to take; seconds, best and worst."""

    encode: dict[str, dict[str, Range]]  # seconds of sound -> stage -> seconds
    n_audio: int  # positions of thirty seconds of sound, those before it included
    prefill_audio: Range
    question: Range
    step_short: Range  # behind 150 positions
    step_full: Range  # behind a full context
    first_token: dict[str, Range]  # "fast_5s": from the end of the voice
    offline: dict[str, Range]  # from the moment that the turn is known to be over

    def to_json(self) -> dict[str, Any]:
        """Milliseconds and tokens a second, [best, worst]."""
        rate = Range(best=self.n_audio / self.prefill_audio.best, worst=0.0)
        rate = dataclasses.replace(rate, worst=self.n_audio / self.prefill_audio.worst)
        return {
            "encode_ms": {
                length: {stage: _ms(took) for stage, took in stages.items()}
                | {"all": _ms(total(stages))}
                for length, stages in self.encode.items()
            },
            "prefill_audio": {"positions": self.n_audio, "ms": _ms(self.prefill_audio)},
            "prefill_tokens_per_s": [round(rate.best, 1), round(rate.worst, 1)],
            "question_ms": _ms(self.question),
            "decode_tokens_per_s": {
                name: [round(1 / step.best, 2), round(1 / step.worst, 2)]
                for name, step in (("short", self.step_short), ("full", self.step_full))
            },
            "end_of_speech_to_first_token_ms": {n: _ms(r) for n, r in self.first_token.items()},
            "offline_to_first_token_ms": {n: _ms(r) for n, r in self.offline.items()},
        }


def total(stages: Mapping[str, Range]) -> Range:
    """One after the other."""
    return Range(
        best=sum(r.best for r in stages.values()), worst=sum(r.worst for r in stages.values())
    )


def _ms(took: Range) -> list[float]:
    return [float(f"{1e3 * took.best:.4g}"), float(f"{1e3 * took.worst:.4g}")]


@functools.cache
def worst_factor(path: Path = CHECKED) -> float:
    """By which a stage of nano or 7B was off at most when a processor's figures were checked."""
    return float(json.loads(path.read_text("utf-8"))["worst_factor"])


def _about(value: float) -> Range:
    return Range(best=value / worst_factor(), worst=value * worst_factor())


def on_processor(c: Configuration, profile: Profile) -> Speed:
    """From operators that were measured: each figure with the uncertainty around it."""
    a, cache = c.sizes, c.kv_cache

    def took(made: operations.Operations) -> float:
        return operations.seconds(made, profile)

    def run(n_new: int, n_past: int) -> float:
        return took(operations.prefill(a, n_new, n_past, cache=cache))

    def encoded(sound_s: float) -> dict[str, float]:
        return {name: took(made) for name, made in operations.encoding(a, sound_s).items()}

    def prefilled(n: int, size: int) -> float:
        chunks = operations.in_chunks(n, size, N_BEFORE)
        return run(N_BEFORE, 0) + sum(run(new, past) for new, past in chunks)

    window_s = a.connector.stride_frames * 0.02
    lengths = [window_s * n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 88)]
    middle = Costs(
        encode=tuple((x, sum(encoded(x).values()) - encoded(x)["features"]) for x in lengths),
        prefill=tuple((n, run(n, 32)) for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)),
        question=run(c.n_question, 64),
        step=run(1, 150),
        features=profile.seconds("features", rows=5) / 5,
    )
    both: dict[End, Costs] = {
        "best": middle.stretched(1 / worst_factor()),
        "worst": middle.stretched(worst_factor()),
    }

    def offline(length: float) -> float:
        heard = encoded(length)
        if c.padded:  # Whisper and the Q-Former hear the padding, BEATs does not
            whole = encoded(WHOLE_S)
            heard |= {name: whole[name] for name in ("speech_encoder", "connector")}
        n_soft = n_windows(WHOLE_S if c.padded else length, a.connector) * a.connector.n_queries
        n_heard = N_BEFORE + n_soft
        return sum(heard.values()) + prefilled(n_soft, operations.GRID) + run(c.n_question, n_heard)

    n_soft = n_windows(WHOLE_S, a.connector) * a.connector.n_queries
    return Speed(
        encode={
            f"{length:g}": {name: _about(value) for name, value in encoded(length).items()}
            for length in (5.1, WHOLE_S)
        },
        n_audio=N_BEFORE + n_soft,
        prefill_audio=_about(prefilled(n_soft, operations.GRID)),
        question=_about(middle.question),
        step_short=_about(middle.step),
        step_full=_about(run(1, c.n_ctx - 1)),
        first_token=_first_tokens(c, both),
        offline={f"{length:g}s": _about(offline(length)) for length in VOICES_S},
    )


def on_card(c: Configuration, device: Device, efficiency: Efficiency, features: float) -> Speed:
    """From bytes and FLOPs at the shares that others' software reached on such cards.

    Args:
        c: what is to run.
        device: where.
        efficiency: the range of shares.
        features: seconds of the host's work for a second of sound.
    """
    model = Model(name=c.model, sizes=c.sizes, cache_bytes=KV_BYTES["float16"])
    q = c.sizes.connector.n_queries

    def run(n_new: int, n_past: int) -> Range:
        return seconds(model.prefill(n_new, n_past), device, efficiency)

    def encoded(sound_s: float) -> dict[str, Range]:
        host = Range(best=features * sound_s, worst=features * sound_s)
        made = {s.name: seconds(s, device, efficiency) for s in model.encoding(sound_s)}
        return {"features": host, **made}

    def prefilled(n: int) -> Range:
        chunks = operations.in_chunks(n, operations.GRID, N_BEFORE)
        made = run(N_BEFORE, 0)
        for new, past in chunks:
            made += run(new, past)
        return made

    def offline(length: float) -> Range:
        heard = encoded(length)
        if c.padded:
            whole = encoded(WHOLE_S)
            heard |= {name: whole[name] for name in ("speech_encoder", "connector")}
        n_soft = n_windows(WHOLE_S if c.padded else length, c.sizes.connector) * q
        return total(heard) + prefilled(n_soft) + run(c.n_question, N_BEFORE + n_soft)

    both: dict[End, Costs] = {
        end: costs(model, device, efficiency, end=end, n_question=c.n_question, features=features)
        for end in ENDS
    }
    n_soft = n_windows(WHOLE_S, c.sizes.connector) * q
    return Speed(
        encode={f"{length:g}": encoded(length) for length in (5.1, WHOLE_S)},
        n_audio=N_BEFORE + n_soft,
        prefill_audio=prefilled(n_soft),
        question=run(c.n_question, N_BEFORE + n_soft),
        step_short=run(1, 150),
        step_full=run(1, c.n_ctx - 1),
        first_token=_first_tokens(c, both),
        offline={f"{length:g}s": offline(length) for length in VOICES_S},
    )


def _first_tokens(c: Configuration, both: Mapping[End, Costs]) -> dict[str, Range]:
    """A listener's, in both modes; the silence that ends a turn included."""
    made: dict[str, Range] = {}
    for mode in (FAST, EXACT):
        pace = Pace.of(
            mode,
            window_s=c.sizes.connector.stride_frames * 0.02,
            n_queries=c.sizes.connector.n_queries,
            rewritten=REWRITTEN if mode is FAST else 0.0,
        )
        for length in VOICES_S:
            made[f"{mode.name}_{length:g}s"] = across(length, both, pace)
    return made
