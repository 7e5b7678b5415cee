import json
from pathlib import Path

import numpy as np
import pytest

from kokanee.benchmarks.heldout import RATE, Clip
from kokanee.benchmarks.soak import (
    GAP_S,
    Event,
    Part,
    Said,
    Sample,
    Scene,
    memory_of,
    part,
    programme,
    rooms,
    slope,
    sound,
    texts_of,
    write,
)

NOISES = [np.ones(30 * RATE, np.float32)]
ONE = np.ones(RATE, np.float32)


def clip(name: str, kind: str = "speech", seconds: float = 2.0) -> Clip:
    pcm = np.full(round(seconds * RATE), 0.5, np.float32)
    return Clip("package", name, kind, f"text {name}", "CC0", pcm)  # type: ignore[arg-type]


RECORDINGS = [clip(str(i), seconds=1 + i) for i in range(6)] + [clip("dog", "sound")]


def sample(heard_s: float, rss_mb: float) -> Sample:
    return Sample(
        heard_s=heard_s,
        wall_s=heard_s / 60,
        rss_mb=rss_mb,
        anon_mb=rss_mb - 10,
        python_blocks=1000,
        threads=8,
        descriptors=11,
        n_used=64,
        kv_bytes=2048,
        tally={},
    )


def test_events_never_touch_and_stay_in_their_part() -> None:
    one = part(np.random.default_rng(0), 1200, RECORDINGS[:6], RECORDINGS[6:])
    ends = [0, *(event.start + len(event.pcm) + GAP_S * RATE for event in one.events)]
    starts = [event.start for event in one.events] + [one.seconds * RATE]
    assert all(end <= start for end, start in zip(ends, starts, strict=True))
    assert sorted(event.text for event in one.events if event.text) == [
        f"text {i}" for i in range(6)
    ]


def test_a_part_that_is_too_full_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        part(np.random.default_rng(0), 12, RECORDINGS[:6], RECORDINGS[6:])


def test_an_event_lies_over_its_room_at_its_sample() -> None:
    scenes = (Scene(at_s=0, room=0, gain=0.1), Scene(at_s=2, room=None, gain=1.0))
    events = (Event(start=RATE + 7, pcm=ONE), Event(start=3 * RATE, pcm=ONE))
    heard = np.concatenate(list(sound(Part(seconds=4, events=events, scenes=scenes), NOISES)))
    want = np.repeat(np.array([0.1, 0.1, 0, 0], np.float32), RATE)
    want[RATE + 7 : 2 * RATE + 7] += 1
    want[3 * RATE :] += 1
    np.testing.assert_array_equal(heard, want)


def test_the_first_part_comes_again_as_the_last_and_a_seed_decides_all() -> None:
    parts = programme(0.5, 3, RECORDINGS)
    assert parts[0] is parts[-1]
    noises = rooms(np.random.default_rng(0))
    once, again = (list(sound(programme(0.5, 3, RECORDINGS)[0], noises)) for _ in range(2))
    np.testing.assert_array_equal(np.stack(once), np.stack(again))
    assert [len(p) for p in once] == [RATE] * 900


def test_rooms_are_as_loud_as_full_scale() -> None:
    levels = [float(np.sqrt(np.square(room).mean())) for room in rooms(np.random.default_rng(0))]
    assert levels == pytest.approx([1, 1, 1], rel=1e-4)


def test_an_event_gets_the_answers_to_the_turns_it_lies_in() -> None:
    events = [Event(start=0, pcm=ONE, text="a"), Event(start=8 * RATE, pcm=ONE, text="b")]
    said = [Said(99.9, 100.4, "one"), Said(100.5, 101.2, " two"), Said(104, 105, "noise")]
    assert texts_of(events, 100.0, said) == ["one two", ""]


def test_growth_is_counted_from_the_end_of_the_warm_up() -> None:
    rss = [100.0, 150.0, 152.0, 154.0]
    grown = memory_of([sample(3600.0 * i, mb) for i, mb in enumerate(rss)], 3600.0)
    assert grown["rss_growth_mb"] == 4.0
    assert grown["rss_growth_mb_per_hour"] == pytest.approx(2.0)
    assert grown["rss_mb_before"] == 100.0


def test_one_point_has_no_slope() -> None:
    assert slope([2.0], [5.0]) == 0.0


def test_a_result_is_added_to_those_of_other_modes(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    write(out, "fast", {"hours": 24})
    write(out, "exact", {"hours": 2})
    write(out, "fast", {"hours": 1})
    assert json.loads(out.read_text("utf-8")) == {"fast": {"hours": 1}, "exact": {"hours": 2}}
    assert [path.name for path in tmp_path.iterdir()] == ["soak.json"]
