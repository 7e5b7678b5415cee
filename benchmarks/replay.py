"""What a listener would do with stages that take so long: a turn, replayed with a clock of times.

`follow` replays runtime/listener.py with a clock made of stage times, measured or predicted. With t
the seconds since the voice ended, m = 0.032 a frame:

    t_pause    = 0.2 + m                    the pause is found; a hop in flight may end later
    t_ready    = max(t_pause, t_hop) + encode(last piece) + prefill(windows) + question
    first token = max(t_ready, 0.5 + m)     the turn is over after half a second of silence
    after the decision = first token - (0.5 + m)

Exact mode encodes all of the sound behind t_pause; fast mode only the piece that still grows, at
most 5.44 s. What hops cost meanwhile decides how often they come, and t_hop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from kokanee.engine import Streaming

from .roofline import (
    FRAME_S,
    Device,
    Efficiency,
    End,
    Model,
    Range,
    Stage,
    seconds,
)

VAD_FRAME_S = 0.032
BLOCK_S = 0.02  # a microphone's
LOAD = 0.5  # runtime/listener.py, _LOAD: share of the time that hops may take
HELD_BACK_S = 2 * VAD_FRAME_S  # runtime/listener.py, _HELD_BACK


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds that a machine takes, measured or predicted."""

    encode: tuple[tuple[float, float], ...]  # (seconds of sound, seconds), ascending
    prefill: tuple[tuple[float, float], ...]  # (positions, seconds), ascending
    question: float  # its prefill, to the first token
    step: float  # of decoding
    features: float = 0.0  # a second of sound, as it arrives

    def encoding(self, sound_s: float) -> float:
        """A piece of sound into soft tokens."""
        return interpolated(self.encode, sound_s)

    def prefilling(self, n: float) -> float:
        """Positions into the cache."""
        return interpolated(self.prefill, n) if n > 0 else 0.0

    def stretched(self, by: float) -> Costs:
        """Everything takes so many times as long: other programs run beside."""
        return Costs(
            encode=tuple((x, by * s) for x, s in self.encode),
            prefill=tuple((x, by * s) for x, s in self.prefill),
            question=by * self.question,
            step=by * self.step,
            features=by * self.features,
        )


def interpolated(table: Sequence[tuple[float, float]], x: float) -> float:
    """Between the neighbours in an ascending table; in proportion below, along the end above."""
    if not table:
        raise ValueError("table: expected at least one point, got none")
    if x <= table[0][0]:
        return table[0][1]  # nothing is cheaper than the smallest run
    for (x0, y0), (x1, y1) in pairwise(table):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    if len(table) == 1:
        return table[0][1] * x / table[0][0]
    (x0, y0), (x1, y1) = table[-2:]
    return max(y1, y1 + (y1 - y0) * (x - x1) / (x1 - x0))


def costs(
    model: Model,
    device: Device,
    efficiency: Efficiency | Mapping[str, Efficiency],
    *,
    end: End,
    n_question: int,
    features: float = 0.0,
) -> Costs:
    """What a model's stages are predicted to take on a device.

    Args:
        model: which.
        device: where.
        efficiency: of every stage, or by a stage's name.
        end: of the range.
        n_question: positions behind the sound.
        features: seconds of the host's work for a second of sound.
    """

    def took(stage: Stage) -> float:
        known = efficiency if isinstance(efficiency, Efficiency) else efficiency[stage.name]
        return float(getattr(seconds(stage, device, known), end))

    window_s = model.sizes.connector.stride_frames * FRAME_S
    lengths = [window_s * n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 88)]
    return Costs(
        encode=tuple((x, sum(map(took, model.encoding(x)))) for x in lengths),
        prefill=tuple(
            (n, took(model.prefill(n, n_past=32))) for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        ),
        question=took(model.prefill(n_question, n_past=64)),
        step=took(model.prefill(1, n_past=64)),
        features=features,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that the ears find out, in seconds since the turn's first sample."""

    at_s: float  # when it is known
    what: Literal["voice", "quiet", "pause", "resume", "end"]
    until_s: float = 0.0  # of a pause and an end: where the turn's sound ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What is said when."""

    marks: tuple[Mark, ...]  # in order; the last is the end
    offset_s: float  # where the voice ends
    found_s: float = 0.0  # when it is known that the turn began
    cuts: tuple[float, ...] = ()  # where fast mode cuts its pieces; from there on every piece_s


def plain_turn(voice_s: float) -> Turn:
    """A voice without a pause, with the listener's defaults; not in step with any frame."""
    before, suffix, silence, least = 0.3, 0.2, 0.5, 0.16
    offset = before + voice_s
    return Turn(
        marks=(
            Mark(at_s=offset + VAD_FRAME_S, what="quiet"),
            Mark(at_s=offset + suffix + VAD_FRAME_S, what="pause", until_s=offset + suffix),
            Mark(at_s=offset + silence + VAD_FRAME_S, what="end", until_s=offset + suffix),
        ),
        offset_s=offset,
        found_s=before + least,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a sound is followed; see engine/growing.py and runtime/listener.py."""

    piece_s: float | None  # None: the whole sound at the end
    ahead: int  # windows of sound behind one that is guessed
    hop_s: float = 0.5
    window_s: float = 0.34
    n_queries: int = 1
    rewritten: float = 0.0  # windows of the growing piece that a hop prefills again, on average

    @classmethod
    def of(cls, streaming: Streaming, **rest: Any) -> Pace:
        """A mode's."""
        piece_s = streaming.piece_s if streaming.ahead is not None else None
        return cls(piece_s=piece_s, ahead=streaming.ahead or 0, **rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What came of a turn, in seconds."""

    wait_s: float  # from the end of the voice to the decision that the turn is over
    compute_s: float  # from there to the first token; 0: it was there already
    first_token_s: float  # their sum
    final_s: float  # work of the last pass: encode, prefill, question
    n_hops: int
    hop_s: float  # sound between two hops, on average
    busy: float  # share of the time from the beginning to the end of the voice
    n_guesses: int  # answers that were begun; all but the last in vain


class _Follower:
    """A listener whose clock is arithmetic."""

    def __init__(self, turn: Turn, costs: Costs, pace: Pace) -> None:
        self.turn, self.costs, self.pace = turn, costs, pace
        self.now = turn.found_s
        self.fed = self.begun = 0.0  # seconds of sound; where the growing piece begins
        self.n_done = self.n_cached = 0.0  # windows of whole pieces; in the cache
        self.next_hop = pace.hop_s
        self.hopped_at: list[float] = []
        self.busy = 0.0
        self.cuts = list(turn.cuts)

    def spend(self, cost: float) -> None:
        before = self.now
        self.now += cost
        self.busy += max(0.0, min(self.now, self.turn.offset_s) - before)

    def feed(self, until: float) -> None:
        """Sound up to there; pieces that it fills are encoded."""
        new = max(0.0, until - self.fed)
        self.spend(new * self.costs.features)
        self.fed += new
        longest = self.pace.piece_s
        while longest is not None and self.fed - self.begun > longest + 0.1:
            cut = self.cuts.pop(0) if self.cuts else self.begun + longest
            self.spend(self.costs.encoding(cut - self.begun))
            self.n_done += round((cut - self.begun) / self.pace.window_s)
            self.begun = cut

    def hop(self) -> None:
        """Have the cache hold what can be told by now."""
        started = self.now
        grown = self.fed - self.begun
        n_guessed = math.floor(grown / self.pace.window_s) - self.pace.ahead
        if self.pace.piece_s is not None:
            if n_guessed > 0:
                self.spend(self.costs.encoding(grown))
            self.put(self.n_done + max(0, n_guessed))
        self.hopped_at.append(self.fed)
        self.next_hop = self.fed + max(self.pace.hop_s, (self.now - started) / LOAD)

    def settle(self) -> None:
        """The sound as if it ended here."""
        grown = self.fed - self.begun
        self.spend(self.costs.encoding(grown))
        self.put(self.n_done + math.ceil(grown / self.pace.window_s - 1e-6))

    def put(self, n_windows: float) -> None:
        keep = max(0.0, min(self.n_cached, n_windows) - min(self.pace.rewritten, self.n_cached))
        if n_windows > self.n_cached or self.pace.rewritten:
            self.spend(self.costs.prefilling((n_windows - keep) * self.pace.n_queries))
        self.n_cached = n_windows


def follow(turn: Turn, costs: Costs, pace: Pace) -> Followed:
    """Replay a turn: the order of runtime/listener.py's loop, with a clock made of `costs`."""
    f = _Follower(turn, costs, pace)
    marks = list(turn.marks)
    quiet, pause, guessed, n_guesses, final_s = False, None, False, 0, 0.0
    ready = end = None
    while end is None:
        heard = f.now
        while marks and marks[0].at_s <= heard and end is None:
            mark = marks.pop(0)
            quiet = {"voice": False, "resume": False}.get(mark.what, True)
            if mark.what == "pause":
                pause, guessed = mark, False
                f.feed(mark.until_s)
            elif mark.what == "resume":
                pause, guessed = None, False
            elif mark.what == "end":
                end = mark
        if end is not None:
            break
        if pause is None:
            f.feed(heard - HELD_BACK_S)
        if marks and marks[0].at_s <= f.now:
            continue
        if pause is not None and not guessed:
            started = f.now
            f.settle()
            f.spend(costs.question)
            guessed, ready, final_s = True, f.now, f.now - started
            n_guesses += 1
        elif pause is None and not quiet and f.fed >= f.next_hop:
            f.hop()
        else:
            due = f.next_hop + HELD_BACK_S if pause is None and not quiet else math.inf
            # Never the same moment again: sound comes in blocks.
            f.now = max(f.now + 1e-9, min(marks[0].at_s, max(due, f.now + BLOCK_S)))
    if not guessed or ready is None:
        f.now = max(f.now, end.at_s)
        started = f.now
        f.feed(end.until_s)
        f.settle()
        f.spend(costs.question)
        ready, final_s = f.now, f.now - started
        n_guesses += 1
    wait_s = end.at_s - turn.offset_s
    compute_s = max(0.0, ready - end.at_s)
    gaps = [b - a for a, b in pairwise(f.hopped_at)]
    return Followed(
        wait_s=wait_s,
        compute_s=compute_s,
        first_token_s=wait_s + compute_s,
        final_s=final_s,
        n_hops=len(f.hopped_at),
        hop_s=sum(gaps) / len(gaps) if gaps else 0.0,
        busy=f.busy / turn.offset_s,
        n_guesses=n_guesses,
    )


PHASES = tuple(i / 20 for i in range(-10, 11))  # seconds around a length: hops fall differently


def about(
    voice_s: float,
    costs: Costs,
    pace: Pace,
    of: Literal["first_token_s", "final_s"] = "first_token_s",
) -> Range:
    """A figure of `follow` over utterances about that long, hops falling as they may."""
    made = [getattr(follow(plain_turn(voice_s + p), costs, pace), of) for p in PHASES]
    return Range(best=min(made), worst=max(made))


def across(
    voice_s: float,
    costs: Mapping[End, Costs],
    pace: Pace,
    of: Literal["first_token_s", "final_s"] = "first_token_s",
) -> Range:
    """`about`, from the best of the best costs to the worst of the worst."""
    ranges = {end: about(voice_s, cost, pace, of) for end, cost in costs.items()}
    return Range(best=ranges["best"].best, worst=ranges["worst"].worst)
