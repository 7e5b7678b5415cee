"""Parts by name, run one after the other into one record; and a recorded run again.

A part's settings in a record are all that is needed to run it again in the same way.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import encode_speed, hearing_quality, heldout, llm_speed, memory, offline, stream, timers
from .field import Setup, is_large, subject
from .machine import conditions
from .record import Part, Record

Settings = Mapping[str, Any]


Measuring = Callable[[Setup, Path, Settings], Part]  # the path is the cache folder


def _stream(setup: Setup, cache: Path, s: Settings) -> Part:
    if s["microphone"] is None:
        heldout.fetch(cache / "heldout")
        return stream.measure(setup, cache / "heldout", n=s["n"])
    from kokanee.runtime.microphone import Microphone  # needs the extra [mic]

    name = s["microphone"]
    chosen = Microphone(int(name) if name.isdecimal() else name or None)
    return stream.microphone(setup, chosen, n=s["n"])


PARTS: dict[str, Measuring] = {
    "timers": lambda setup, cache, s: timers.measure(setup, repeats=s["repeats"]),
    "memory": lambda setup, cache, s: memory.measure(setup),
    "encode": lambda setup, cache, s: encode_speed.measure(setup, seconds=s["seconds"]),
    "offline": lambda setup, cache, s: offline.measure(
        setup, seconds=s["seconds"], processes=s["processes"]
    ),
    "prefill": lambda setup, cache, s: llm_speed.prefill(
        setup, prefills=[(n, depth) for n, depth in s["prefills"]]
    ),
    "decode": lambda setup, cache, s: llm_speed.decode(
        setup, depths=s["depths"], n_steps=s["n_steps"]
    ),
    "stream": _stream,
    "quality": lambda setup, cache, s: hearing_quality.measure(
        setup, cache, limit=s["limit"], fresh=s["fresh"]
    ),
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "timers": {"repeats": 100},
    "memory": {},
    "encode": {"seconds": encode_speed.SECONDS},
    "offline": {"seconds": offline.SECONDS, "processes": 5},
    "prefill": {"prefills": llm_speed.PREFILLS},
    "decode": {"depths": llm_speed.DEPTHS, "n_steps": llm_speed.N_STEPS},
    "stream": {"n": stream.N, "microphone": None},
    "quality": {"limit": None, "fresh": False},
}

LARGE: dict[str, dict[str, Any]] = {
    "prefill": {"prefills": ((117, 0),)},
    "decode": {"depths": (64,), "n_steps": 16},
}
"""What differs where a contender takes most of the memory and tens of seconds to start."""

UNTRAINED = ("timers", "memory", "encode", "prefill", "decode")
"""What says something of a bundle with random weights as well."""


def run(
    setup: Setup,
    parts: Mapping[str, Settings],
    *,
    cache: Path,
    command: str,
    kept: Record | None = None,
    finished: Callable[[Record], None] = lambda record: None,
) -> Record:
    """Measure parts one after the other.

    Args:
        setup: what, beside whom, how often.
        parts: settings by name; what is missing in them is as in DEFAULTS, or LARGE.
        cache: folder that recordings and answers are kept in.
        command: what the record says made it.
        kept: a record of the same bundle and machine that was broken off: its parts are taken over.
        finished: told of the record so far after each part.
    """
    record = Record(
        command=command,
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        subject=subject(setup.bundle),
        conditions=conditions(threads=setup.threads, device=setup.device),
        parts=kept.parts if kept is not None else (),
    )
    done = {part.name for part in record.parts}
    large = is_large(setup.manifest())
    for name, settings in parts.items():
        if name in done:
            continue
        usual = DEFAULTS[name] | (LARGE.get(name, {}) if large else {})
        made = PARTS[name](setup, cache, {**usual, **settings})
        record = Record(
            command=record.command,
            when=record.when,
            subject=record.subject,
            conditions=record.conditions,
            parts=(*record.parts, made),
        )
        finished(record)
    return record


def again(recorded: Record) -> dict[str, Settings]:
    """The settings that its parts were run with; nothing is taken from answers that were kept."""
    wanted: dict[str, Settings] = {}
    for part in recorded.parts:
        made = {name: part.settings[name] for name in DEFAULTS[part.name]}
        wanted[part.name] = made | ({"fresh": True} if "fresh" in made else {})
    return wanted
