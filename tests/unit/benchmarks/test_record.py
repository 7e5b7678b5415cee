import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.benchmarks.record import (
    UNITS,
    Count,
    Mark,
    Measure,
    Noise,
    Part,
    Record,
    RecordError,
    Series,
    Skipped,
    from_json,
    key,
    read,
    to_json,
    write,
)

QUIET = Noise(quiet=True, reasons=(), evidence={})
NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
NUMBERS = st.floats(-1e6, 1e6)
LABELS = st.dictionaries(
    NAMES, st.one_of(NAMES, st.integers(0, 99), st.floats(0.5, 9.5)), max_size=2
)
UNIT = st.sampled_from(UNITS)


def record(*parts: Part) -> Record:
    return Record(command="kokanee bench", when="now", subject={}, conditions={}, parts=parts)


def part(**held: Any) -> Part:
    return Part(name="decode", seconds=1.0, settings={}, noise=QUIET, **held)


STEP = Measure(name="step", unit="ms", of={"depth": 64}, samples=(1.0, 2.0, 3.0))
WRITTEN = json.loads(json.dumps(to_json(record(part(measures=(STEP,))))))


@st.composite
def records(draw: st.DrawFn) -> Record:
    def named(i: int) -> str:
        return f"{draw(NAMES)}{i}"

    measures = tuple(
        Measure(
            name=named(i),
            unit=draw(UNIT),
            samples=tuple(draw(st.lists(NUMBERS, min_size=1, max_size=4))),
            of=draw(LABELS),
            better=draw(st.sampled_from(["less", "more"])),
        )
        for i in range(draw(st.integers(0, 2)))
    )
    counts = tuple(
        Count(name=named(i + 9), unit=draw(UNIT), value=draw(NUMBERS), of=draw(LABELS))
        for i in range(draw(st.integers(0, 2)))
    )
    times = tuple(draw(st.lists(NUMBERS, max_size=3)))
    marks = tuple(Mark(t_s=t, what=draw(st.text())) for t in times[:1])
    series = (Series(name="rss", unit="MB", t_s=times, values=times, marks=marks),)
    skipped = (Skipped(name=draw(st.text()), why=draw(st.text()), install=None),)
    noise = Noise(quiet=draw(st.booleans()), reasons=(draw(st.text()),), evidence={"steal": 0.1})
    made = Part(
        name=draw(NAMES),
        seconds=1.5,
        settings={"rounds": 5},
        noise=noise,
        measures=measures,
        counts=counts,
        series=series,
        skipped=skipped,
        notes=(draw(st.text()),),
    )
    return record(made)


@given(records())
def test_a_record_is_the_same_after_writing_and_reading(made: Record) -> None:
    assert from_json(json.loads(json.dumps(to_json(made)))) == made


def test_a_file_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    made = record(part(measures=(STEP,)))
    write(made, tmp_path / "a.json")
    assert read(tmp_path / "a.json") == made
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("at", "change", "says"),
    [
        (
            (),
            {"schema": "kokanee.bench/0"},
            r"expected schema kokanee.bench/1, got 'kokanee.bench/0'",
        ),
        ((), {"colour": "red"}, "r: unknown colour"),
        ((), {"when": None}, r"r\.when: got NoneType"),
        (("parts", 0), {"extra": 1}, r"r\.parts\[0\]: unknown extra"),
        (
            ("parts", 0, "measures", 0),
            {"unit": "furlongs"},
            "unit: expected one of ms, .*'furlongs'",
        ),
        (("parts", 0, "measures", 0), {"samples": []}, "step: expected finite samples"),
        (("parts", 0, "measures", 0), {"samples": [float("nan")]}, "step: expected finite samples"),
        (("parts", 0, "measures", 0), {"samples": ["1"]}, "expected numbers, got '1'"),
        (("parts", 0, "measures", 0), {"samples": [True]}, "expected numbers, got True"),
        (("parts", 0, "measures", 0), {"name": "a.b"}, "expected a name of letters"),
        (("parts", 0, "measures", 0), {"better": "red"}, "expected better less or more"),
    ],
)
def test_what_is_no_record_is_refused_by_name(
    at: tuple[Any, ...], change: dict[str, Any], says: str
) -> None:
    data = copy.deepcopy(WRITTEN)
    place: Any = data
    for step in at:
        place = place[step]
    place.update(change)
    with pytest.raises(RecordError, match=says):
        from_json(data, where="r")


def test_a_missing_key_is_named() -> None:
    data = copy.deepcopy(WRITTEN)
    del data["parts"][0]["noise"]
    with pytest.raises(RecordError, match=r"r\.parts\[0\]: missing noise"):
        from_json(data, where="r")


def test_something_else_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="expected a record"):
        from_json([1])
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RecordError, match="expected JSON"):
        read(tmp_path / "a.json")


def test_nothing_is_measured_twice() -> None:
    with pytest.raises(RecordError, match=r"measured twice: decode\.step\[depth=64\]"):
        part(measures=(STEP, STEP))
    with pytest.raises(RecordError, match="each once, got decode, decode"):
        record(part(), part())
    with pytest.raises(RecordError, match="expected a finite value"):
        Count(name="bytes", unit="B", value=float("inf"))


def test_a_series_has_a_finite_value_at_every_time() -> None:
    with pytest.raises(RecordError, match="as many times as values, got 1 and 2"):
        Series(name="rss", unit="MB", t_s=(0.0,), values=(1.0, 2.0))
    with pytest.raises(RecordError, match="rss: expected finite times and values"):
        Series(name="rss", unit="MB", t_s=(0.0,), values=(float("nan"),))


def test_the_order_of_labels_does_not_change_a_key() -> None:
    a = Measure(name="x", unit="ms", samples=(1.0,), of={"b": 1, "a": "y"})
    b = Measure(name="x", unit="ms", samples=(1.0,), of={"a": "y", "b": 1})
    assert key("p", a) == key("p", b) == "p.x[a=y,b=1]"


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=30))
def test_the_statistics_are_numpys(samples: list[float]) -> None:
    found = Measure(name="x", unit="ms", samples=tuple(samples)).statistics
    p25, p50, p75, p90, p95, p99 = np.percentile(samples, [25, 50, 75, 90, 95, 99])
    assert found.n == len(samples)
    assert found.median == found.p50 == pytest.approx(float(np.median(samples)))
    assert (found.p90, found.p95, found.p99) == pytest.approx((p90, p95, p99))
    assert (found.least, found.most) == (min(samples), max(samples))
    assert found.spread == pytest.approx((p75 - p25) / p50)
    slack = 1e-9 * found.most
    assert found.low - slack <= found.median <= found.high + slack
    assert found.least - slack <= found.low <= found.high <= found.most + slack


def test_one_measure_is_found_and_two_are_not() -> None:
    deep = Measure(name="step", unit="ms", of={"depth": 512}, samples=(9.0,))
    held = part(measures=(STEP, deep), counts=(Count(name="bytes", unit="B", value=7),))
    assert held.find("step", depth=512) is deep
    assert held.count("bytes") == 7
    with pytest.raises(KeyError, match="2 named step"):
        held.find("step")
