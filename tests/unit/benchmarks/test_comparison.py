import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from kokanee.benchmarks.comparison import Verdict, compare, compared, differences
from kokanee.benchmarks.record import (
    Better,
    Count,
    Measure,
    Noise,
    Part,
    Record,
    RecordError,
    write,
)

QUIET = Noise(quiet=True, reasons=(), evidence={})
BUSY = Noise(quiet=False, reasons=("others",), evidence={"control_spread": 1.4})
TIMES = tuple(float(x) for x in 100 + np.random.default_rng(0).normal(0, 1, 20))


def record(
    *,
    by: float = 1.0,
    better: Better = "less",
    unit: str = "ms",
    noise: Noise = QUIET,
    counts: tuple[Count, ...] = (),
    samples: tuple[float, ...] = TIMES,
    **conditions: Any,
) -> Record:
    times = Measure(name="step", unit=unit, samples=tuple(by * x for x in samples), better=better)
    part = Part(
        name="decode", seconds=1, settings={}, noise=noise, measures=(times,), counts=counts
    )
    on = {
        "machine": {"cpu": "Xeon", "load_average": [by]},
        "threads": 2,
        "libraries": {"numpy": "2"},
    }
    return Record(
        command="kokanee bench",
        when="now",
        subject={"name": "nano", "manifest_sha256": "a" * 64},
        conditions=on | conditions,
        parts=(part,),
    )


def verdict(before: Record, after: Record) -> Verdict:
    return compared(before, after).differences[0].verdict


@pytest.mark.parametrize(
    ("by", "better", "expected"),
    [
        (1.2, "less", "worse"),
        (0.8, "less", "better"),
        (1.2, "more", "better"),
        (0.8, "more", "worse"),
        (1.01, "less", "the same within noise"),
        (1.0, "less", "the same"),
    ],
)
def test_a_difference_counts_in_its_direction(by: float, better: Better, expected: Verdict) -> None:
    assert verdict(record(better=better), record(better=better, by=by)) == expected


def test_samples_that_spread_far_let_nothing_be_said() -> None:
    wild = tuple(float(x) for x in np.random.default_rng(1).uniform(50, 200, 6))
    again = tuple(float(x) for x in np.random.default_rng(2).uniform(50, 200, 6))
    assert verdict(record(samples=wild), record(samples=again)) == "too noisy to say"


def test_two_samples_let_nothing_be_said() -> None:
    found = compared(record(samples=(1.0, 1.0)), record(samples=(9.0, 9.0))).differences[0]
    assert (found.verdict, found.why) == ("too noisy to say", "fewer than 3 samples")


def test_a_time_of_0_is_not_divided() -> None:
    found = compared(record(), record(by=0.0)).differences[0]
    assert (found.ratio, found.why) == (None, "cannot be divided")


def test_a_busy_machine_widens_the_limit_and_is_told() -> None:
    found = compared(record(), record(by=1.2, noise=BUSY))
    assert found.differences[0].limit == pytest.approx(0.4)
    assert found.differences[0].verdict == "the same within noise"
    assert found.noisy == (
        "decode: the machine was busy after; times count as different beyond 40% instead of 5%",
    )
    assert verdict(record(), record(by=1.5, noise=BUSY)) == "worse"


def test_a_busy_machine_is_no_excuse_for_memory() -> None:
    before = record(unit="MB", noise=BUSY)
    assert verdict(before, record(unit="MB", by=1.2)) == "worse"


@pytest.mark.parametrize(
    ("better", "now", "expected"),
    [
        (None, 100, "the same"),
        (None, 101, "changed"),
        ("less", 101, "worse"),
        ("less", 99, "better"),
        ("more", 101, "better"),
        ("more", 99, "worse"),
    ],
)
def test_counts_are_equal_or_reported(better: Better | None, now: int, expected: Verdict) -> None:
    def counted(value: int) -> Record:
        return record(counts=(Count(name="bytes", unit="B", value=value, better=better),))

    assert compared(counted(100), counted(now)).differences[1].verdict == expected


def test_keys_of_one_record_only_are_listed() -> None:
    count = Count(name="nodes", unit="", value=3)
    found = compared(record(counts=(count,)), record())
    assert (found.only_before, found.only_after) == (("decode.nodes",), ())


def test_what_else_differs_is_told() -> None:
    before = record()
    after = dataclasses.replace(
        record(machine={"cpu": "Arm"}, threads=4, libraries={"numpy": "3"}),
        subject={"name": "other", "manifest_sha256": "b" * 64},
    )
    assert compared(before, after).explanations == (
        "different machine: ratios say little (cpu Xeon before, Arm after)",
        "different threads: 2 before, 4 after",
        "different numpy: 2 before, 3 after",
        "different bundle: nano aaaaaaaaaaaa before, other bbbbbbbbbbbb after"
        " (name, manifest_sha256 differ)",
    )
    assert compared(before, record(by=1.2)).explanations == ()  # a load average is no machine


def test_differences_are_those_beyond_the_noise() -> None:
    assert differences(record(), record(by=1.01)) == ()
    (found,) = differences(record(), record(by=0.5))
    assert (found.key, found.verdict) == ("decode.step", "better")


def run(tmp_path: Path, before: Record, after: Record, *options: str) -> Any:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for made, file in zip((before, after), files, strict=True):
        write(made, file)
    return CliRunner().invoke(compare, [*map(str, files), *options])


@pytest.mark.parametrize(
    ("by", "options", "code"),
    [(1.2, (), 3), (1.02, (), 0), (0.8, (), 0), (1.2, ("--threshold", "30%"), 0)],
)
def test_the_exit_code_is_3_where_something_is_worse(
    tmp_path: Path, by: float, options: tuple[str, ...], code: int
) -> None:
    done = run(tmp_path, record(), record(by=by), *options)
    assert done.exit_code == code
    assert ("1 worse" in done.output) == (code == 3)


def test_another_machine_is_told_first(tmp_path: Path) -> None:
    done = run(tmp_path, record(), record(machine={"cpu": "Arm"}))
    assert done.output.startswith("! different machine: ratios say little")


def test_json_holds_the_verdicts(tmp_path: Path) -> None:
    done = run(tmp_path, record(), record(by=1.2), "--json")
    (found,) = json.loads(done.output)["differences"]
    assert (found["key"], found["verdict"]) == ("decode.step", "worse")
    assert found["ratio"]["low"] > 1.15


def test_misuse_is_2_and_no_record_is_an_error(tmp_path: Path) -> None:
    assert run(tmp_path, record(), record(), "--threshold", "much").exit_code == 2
    (tmp_path / "c.json").write_text("{}")
    done = CliRunner().invoke(compare, [str(tmp_path / "a.json"), str(tmp_path / "c.json")])
    assert isinstance(done.exception, RecordError)


def test_the_help_says_what_the_exit_codes_mean() -> None:
    text = CliRunner().invoke(compare, ["--help"]).output
    assert "3  something is worse" in text
    assert "kokanee bench compare before.json after.json" in text
