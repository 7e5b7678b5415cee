"""A profile gives measured points back, and between them more is never faster."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.benchmarks.profile import (
    RECORDED,
    Point,
    Profile,
    ProfileError,
    between,
    of_samples,
    read,
)


def point(op: str, size: float, rows: float, seconds: float) -> Point:
    """As measured once."""
    return Point(
        op=op, size=size, rows=rows, seconds=seconds, least=seconds, median=seconds, n_runs=1
    )


def a_profile(*points: Point) -> Profile:
    """Of a machine that does not exist."""
    return Profile(
        machine={"cpu": "toy", "n_cpus": 1, "instructions": []},
        versions={"onnxruntime": "0"},
        date="2026-01-01",
        bandwidth_gb_s=1.0,
        points=points,
    )


TOY = a_profile(
    point("product f32", 16, 1, 1e-6),
    point("product f32", 16, 100, 5e-5),
    point("product f32", 1600, 1, 3e-5),
    point("product f32", 1600, 100, 4e-3),
    point("add", 1, 10, 2e-6),
    point("add", 1, 1000, 4e-5),
)


def test_a_measured_point_comes_back_exactly() -> None:
    for profile in (TOY, read(RECORDED)):
        for p in profile.points:
            assert profile.seconds(p.op, rows=p.rows, size=p.size) == p.seconds


def test_between_two_points_time_follows_a_power() -> None:
    # Ten times the rows in two steps of 10 ** 0.5 each: from 1 us to 100 us it is 10 us in between.
    assert between(((1.0, 1e-6), (100.0, 1e-4)), 10) == pytest.approx(1e-5)
    assert between(((1.0, 1e-6), (100.0, 1e-6)), 10) == pytest.approx(1e-6)


def test_beyond_the_points_no_steeper_than_proportional() -> None:
    steep = ((1.0, 1e-6), (2.0, 1e-5))
    assert between(steep, 4) == pytest.approx(2e-5)
    assert between(steep, 0.5) == pytest.approx(5e-7)
    falling = ((1.0, 1e-5), (2.0, 1e-6))
    assert between(falling, 4) == pytest.approx(1e-6)
    assert between(((10.0, 1e-5),), 5) == 1e-5
    assert between(((10.0, 1e-5),), 20) == pytest.approx(2e-5)


times = st.floats(1e-7, 1.0)


@given(
    steps=st.lists(st.tuples(st.floats(1.1, 50.0), st.floats(1.0, 50.0)), min_size=1, max_size=6),
    first=times,
    a=st.floats(0.01, 1e7),
    b=st.floats(0.01, 1e7),
)
def test_more_rows_are_never_faster_where_no_measured_ones_are(
    steps: list[tuple[float, float]], first: float, a: float, b: float
) -> None:
    points, rows, took = [(1.0, first)], 1.0, first
    for further, slower in steps:
        rows, took = rows * further, took * slower
        points.append((rows, took))
    less, more = sorted((a, b))
    assert between(points, less) <= between(points, more) * (1 + 1e-9)


@given(rows=st.floats(0.5, 1e6), size=st.floats(1, 1e8))
def test_a_time_is_always_above_0(rows: float, size: float) -> None:
    assert TOY.seconds("product f32", rows=rows, size=size) > 0
    assert TOY.seconds("add", rows=rows) > 0


def test_nothing_takes_no_rows() -> None:
    with pytest.raises(ValueError, match="above 0"):
        TOY.seconds("add", rows=0)


def test_an_operator_that_was_not_measured_is_named_with_the_known_ones() -> None:
    with pytest.raises(ProfileError, match="'gelu', got add, product f32"):
        TOY.seconds("gelu", rows=1)


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "machine.json"
    TOY.write(path)
    assert read(path) == TOY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "not json",
        '{"format": 0}',
        '{"format": 1}',
        '{"format": 1, "points": [{"op": "add"}]}',
        '{"format": 1, "points": [], "colour": "red"}',
    ],
)
def test_a_damaged_file_says_what_mends_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "machine.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ProfileError, match=r"machine\.json.*kokanee plan --measure"):
        read(path)


def test_a_point_of_no_time_is_refused(tmp_path: Path) -> None:
    kept = TOY.to_json()
    kept["points"][0]["seconds"] = 0
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(kept), "utf-8")
    with pytest.raises(ProfileError, match="above 0"):
        read(path)


def test_of_many_runs_the_lower_quartile_counts() -> None:
    made = of_samples("add", [5.0, 1.0, 4.0, 2.0, 3.0], rows=7)
    assert (made.seconds, made.least, made.median, made.n_runs) == (2.0, 1.0, 3.0, 5)
