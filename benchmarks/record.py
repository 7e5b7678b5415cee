"""What a benchmark leaves behind: samples, counts and the conditions they were taken in, as JSON.

One record holds everything that was measured in one run, whichever parts that were:

    Record   schema, command, when, subject (what was measured), conditions (on what)
      Part     one benchmark: settings, noise, seconds
        Measure  name, of (what distinguishes it), unit, better, samples      times, rates, bytes
        Count    name, of, unit, value                                        exact, the same always
        Series   name, of, unit, t_s, values, marks                           memory over time
        Skipped  name, why, install                                           what did not run

Samples are kept raw; the statistics beside them in the JSON are for readers and are worked out
again when a record is read. Samples of one part with the same index were taken in the same round,
so measures of different contenders may be divided pair by pair.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from kokanee.engine.errors import KokaneeError

from .confidence import Statistics, statistics

SCHEMA = "kokanee.bench/1"

Label = str | int | float
Better = Literal["less", "more"]
UNITS = ("ms", "s", "tokens/s", "MB", "B", "share", "x", "dB", "")


class RecordError(KokaneeError):
    """A file that is no record, or one of another schema: make a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Something that comes out a little different every time."""

    name: str
    unit: str
    samples: tuple[float, ...]  # in the order they were taken; warm-up is not among them
    of: Mapping[str, Label] = dataclasses.field(default_factory=dict)
    better: Better = "less"

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_unit(self.unit)
        _check_labels(self.of, self.name)
        if not self.samples or not all(math.isfinite(x) for x in self.samples):
            raise RecordError(f"{self.name}: expected finite samples, got {self.samples!r}")
        if self.better not in ("less", "more"):
            raise RecordError(f"{self.name}: expected better less or more, got {self.better!r}")

    @property
    def statistics(self) -> Statistics:
        """Median, percentiles, spread and confidence of the samples."""
        return statistics(self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Something that is the same on every run: bytes, nodes, right answers."""

    name: str
    unit: str
    value: float
    of: Mapping[str, Label] = dataclasses.field(default_factory=dict)
    better: Better | None = None  # None: neither, it is a fact

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_unit(self.unit)
        _check_labels(self.of, self.name)
        if isinstance(self.value, bool) or not math.isfinite(self.value):
            raise RecordError(f"{self.name}: expected a finite value, got {self.value!r}")
        if self.better not in ("less", "more", None):
            raise RecordError(f"{self.name}: expected better less or more, got {self.better!r}")


T = TypeVar("T", Measure, Count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """When something began, in a series."""

    t_s: float
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Something over time."""

    name: str
    unit: str
    t_s: tuple[float, ...]
    values: tuple[float, ...]
    of: Mapping[str, Label] = dataclasses.field(default_factory=dict)
    marks: tuple[Mark, ...] = ()

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_unit(self.unit)
        _check_labels(self.of, self.name)
        if len(self.t_s) != len(self.values):
            raise RecordError(
                f"{self.name}: expected as many times as values, got {len(self.t_s)} and"
                f" {len(self.values)}"
            )
        if not all(map(math.isfinite, (*self.t_s, *self.values))):
            raise RecordError(f"{self.name}: expected finite times and values")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Something that was asked for and could not run."""

    name: str
    why: str
    install: str | None = None  # the line that would mend it


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How far the machine was somebody else's while a part ran: see noise.py."""

    quiet: bool
    reasons: tuple[str, ...]  # why not, in words; empty where quiet
    evidence: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one benchmark measured."""

    name: str
    seconds: float  # it took
    settings: Mapping[str, Any]
    noise: Noise
    measures: tuple[Measure, ...] = ()
    counts: tuple[Count, ...] = ()
    series: tuple[Series, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not math.isfinite(self.seconds):
            raise RecordError(f"{self.name}: expected finite seconds, got {self.seconds!r}")
        keys = [key(self.name, m) for m in self.measures]
        keys += [key(self.name, c) for c in self.counts]
        if len(set(keys)) != len(keys):
            twice = sorted({k for k in keys if keys.count(k) > 1})
            raise RecordError(f"{self.name}: measured twice: {', '.join(twice)}")

    def find(self, name: str, **of: Label) -> Measure:
        """The one measure of this name and these labels.

        Raises:
            KeyError: there is none, or more than one.
        """
        return _only(self.measures, name, of)

    def count(self, name: str, **of: Label) -> float:
        """The value of the one count of this name and these labels.

        Raises:
            KeyError: there is none, or more than one.
        """
        return _only(self.counts, name, of).value


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One run of `kokanee bench`."""

    command: str
    when: str  # ISO 8601, UTC
    subject: Mapping[str, Any]  # the bundle: name, hash, bytes, schemes
    conditions: Mapping[str, Any]  # machine, threads, libraries, commit
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise RecordError(f"parts: expected each once, got {', '.join(names)}")

    def part(self, name: str) -> Part:
        """The part of this name.

        Raises:
            KeyError: it was not run.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)

    def measures(self) -> Iterator[tuple[str, Measure]]:
        """Every measure under a key that is the same in every record of the same benchmark."""
        for part in self.parts:
            for measure in part.measures:
                yield key(part.name, measure), measure

    def counts(self) -> Iterator[tuple[str, Count]]:
        """Every count under such a key."""
        for part in self.parts:
            for count in part.counts:
                yield key(part.name, count), count


def _only(among: Sequence[T], name: str, of: Mapping[str, Label]) -> T:
    """The one that is called so and has these labels, whatever others it has."""
    found = [
        one
        for one in among
        if one.name == name and all(one.of.get(label) == value for label, value in of.items())
    ]
    if len(found) != 1:
        raise KeyError(f"{len(found)} named {name} of {dict(of)}")
    return found[0]


def key(part: str, one: Measure | Count) -> str:
    """What tells a measure from all others: "decode.step[contender=kokanee,depth=64]"."""
    labels = ",".join(f"{name}={one.of[name]}" for name in sorted(one.of))
    return f"{part}.{one.name}" + (f"[{labels}]" if labels else "")


# --- JSON -----------------------------------------------------------------------------------------


def to_json(record: Record) -> dict[str, Any]:
    """The record, its schema first, statistics beside the samples of every measure."""
    made = {"schema": SCHEMA, **dataclasses.asdict(record)}
    for part, kept in zip(made["parts"], record.parts, strict=True):
        for row, measure in zip(part["measures"], kept.measures, strict=True):
            row["statistics"] = dataclasses.asdict(measure.statistics)
    plain: dict[str, Any] = json.loads(json.dumps(made))  # tuples are lists there
    return plain


def from_json(data: Any, *, where: str = "record") -> Record:
    """Check and read what `to_json` made.

    Raises:
        RecordError: an unknown schema, a missing or unknown key, a value of a wrong kind.
    """
    if not isinstance(data, dict) or "schema" not in data:
        raise RecordError(f"{where}: expected a record of `kokanee bench` ({SCHEMA}), got none")
    if data["schema"] != SCHEMA:
        raise RecordError(f"{where}: expected schema {SCHEMA}, got {data['schema']!r}")
    data = {name: value for name, value in data.items() if name != "schema"}
    record: Record = _made(Record, data, where)
    return record


def write(record: Record, path: Path) -> None:
    """Write it as JSON, whole or not at all."""
    text = json.dumps(to_json(record), indent=1) + "\n"
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read(path: Path) -> Record:
    """Read what `write` wrote.

    Raises:
        RecordError: it is no record, and why.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: expected JSON, got {error}") from None
    return from_json(data, where=str(path))


# Which fields hold which dataclasses; everything else is taken as it is.
_NESTED: dict[tuple[type, str], type] = {
    (Record, "parts"): Part,
    (Part, "measures"): Measure,
    (Part, "counts"): Count,
    (Part, "series"): Series,
    (Part, "skipped"): Skipped,
    (Series, "marks"): Mark,
}
_KINDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "unit": str,
    "command": str,
    "when": str,
    "why": str,
    "what": str,
    "seconds": (int, float),
    "value": (int, float),
    "samples": list,
    "values": list,
    "of": dict,
    "settings": dict,
    "subject": dict,
    "conditions": dict,
    "evidence": dict,
    "noise": dict,
    "quiet": bool,
    "reasons": list,
    "notes": list,
}


def _made(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise RecordError(f"{where}: expected an object, got {type(data).__name__}")
    data = dict(data)
    if kind is Measure:
        data.pop("statistics", None)  # worked out again
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(data.keys() - fields.keys())
    needed = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed - data.keys())
    if unknown or missing:
        said = [f"unknown {', '.join(unknown)}"] * bool(unknown)
        said += [f"missing {', '.join(missing)}"] * bool(missing)
        raise RecordError(f"{where}: {'; '.join(said)}")
    made: dict[str, Any] = {}
    for name, value in data.items():
        at = f"{where}.{name}"
        expected = list if name == "t_s" and kind is Series else _KINDS.get(name)
        if expected is not None and not isinstance(value, expected):
            raise RecordError(f"{at}: got {type(value).__name__} {str(value)[:40]!r}")
        if (kind, name) in _NESTED:
            if not isinstance(value, list):
                raise RecordError(f"{at}: expected a list, got {type(value).__name__}")
            nested = _NESTED[kind, name]
            made[name] = tuple(_made(nested, v, f"{at}[{i}]") for i, v in enumerate(value))
        elif name == "noise":
            made[name] = _made(Noise, value, at)
            _check_numbers(list(made[name].evidence.values()), f"{at}.evidence")
        elif isinstance(value, list):
            if name in ("samples", "values", "t_s"):
                _check_numbers(value, at)
            if name in ("reasons", "notes"):
                _check_texts(value, at)
            made[name] = tuple(value)
        else:
            made[name] = value
    return kind(**made)


def _check_numbers(values: Sequence[Any], where: str) -> None:
    wrong = [v for v in values if isinstance(v, bool) or not isinstance(v, (int, float))]
    if wrong:
        raise RecordError(f"{where}: expected numbers, got {wrong[0]!r}")


def _check_texts(values: Sequence[Any], where: str) -> None:
    wrong = [v for v in values if not isinstance(v, str)]
    if wrong:
        raise RecordError(f"{where}: expected text, got {wrong[0]!r}")


def _check_labels(of: Mapping[str, Label], name: str) -> None:
    for label, value in of.items():
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise RecordError(f"{name}: label {label}: expected text or a number, got {value!r}")
        if set(f"{label}{value}") & {",", "\n"}:
            raise RecordError(f"{name}: label {label}: expected no commas, got {value!r}")


def _check_name(name: str) -> None:
    if not name or set(name) & set("[]=,. \n"):
        raise RecordError(f"expected a name of letters, digits, - and _, got {name!r}")


def _check_unit(unit: str) -> None:
    if unit not in UNITS:
        raise RecordError(f"unit: expected one of {', '.join(UNITS[:-1])} or none, got {unit!r}")
