"""What a listener tells while it listens: typed, frozen, each with its place in the sound's time.

Times ending in `_s` are seconds of sound since the listener was opened, gaps included. Every update
turns into one JSON line with `as_dict`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["speech", "sound", "push"]
"""What opened a turn: a voice, another sound, or a key."""
EndReason = Literal["silence", "length", "gap", "released", "closed"]
"""What ended it: quiet, its longest length, lost sound, the key, or the end of the source."""
DeviceKind = Literal["opened", "stalled", "lost", "reopened", "gap", "dropped", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The microphone, or what stands for it, opened, failed, came back or lost sound."""

    what: DeviceKind
    at_s: float
    name: str = ""  # of the device
    lost_s: float = 0.0  # sound that was never had ("gap") or had to be thrown away ("dropped")
    detail: str = ""  # one line for a person, with what to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How loud it is, ten times a second, for a meter."""

    at_s: float
    dbfs: float  # of the samples since the last level; -120 for digital silence
    voice: float  # what the voice detector thinks, 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStarted:
    """A turn opened."""

    turn: int  # counts from 1
    kind: Kind
    at_s: float  # where the voice or sound began
    start_s: float  # where the turn's sound begins: a little earlier, so that nothing is cut


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStopped:
    """A turn closed; its answers follow."""

    turn: int
    kind: Kind
    at_s: float  # where the voice or sound ended
    start_s: float
    end_s: float  # where the turn's sound ends: a little later
    reason: EndReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """An answer to what was said so far, while it is still being said; the next one replaces it."""

    turn: int
    text: str
    until_s: float  # the sound that it is about ends here


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of an answer."""

    turn: int
    question: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """A whole answer.

    `question` is the label of what was asked; of an answer in writing, what was said, as it was
    written down.

    `latencies_ms` holds, where they are known: "wait", from the end of the voice to the decision
    that the turn is over; "compute", from there to the first piece; "first_token", their sum;
    "answer", from the decision to the last piece; "settle", what settling the sound took, and
    "settled_ahead", how much of that was done before the decision.
    """

    turn: int
    kind: Kind
    question: str
    text: str
    ids: tuple[int, ...]
    finish_reason: str | None  # "stop", "length", "context" or "cancelled"
    start_s: float
    end_s: float
    latencies_ms: dict[str, float] = field(default_factory=dict)
    work_ms: dict[str, float] = field(default_factory=dict)  # by stage, wherever it was done


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """The oldest turns were dropped from the context to make room."""

    turns: tuple[int, ...]
    seconds: float  # of sound
    n_positions: int  # of the KV cache


Update = Device | Level | SpeechStarted | SpeechStopped | Partial | Piece | Final | Forgotten

_EVENTS = {
    Device: "device",
    Level: "level",
    SpeechStarted: "speech_started",
    SpeechStopped: "speech_stopped",
    Partial: "partial",
    Piece: "piece",
    Final: "final",
    Forgotten: "forgotten",
}


def as_dict(update: Update) -> dict[str, Any]:
    """An update for JSON: its fields, and its name under "event"."""
    return {"event": _EVENTS[type(update)], **dataclasses.asdict(update)}
