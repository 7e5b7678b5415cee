"""Sound in, turns marked, all of it queued, whoever is late."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from fed import Fed, Loud
from hypothesis import given, settings
from hypothesis import strategies as st

from kokanee.runtime.ears import Ears, Stretch
from kokanee.runtime.endpoint import End, Endpointer, Mark, Pause, Start, TurnDetection
from kokanee.runtime.sources import Block, Playback, Source
from kokanee.runtime.updates import Device

F32 = npt.NDArray[np.float32]

S = 16_000
TURNS = TurnDetection(
    prefix_padding_ms=100, silence_duration_ms=300, suffix_padding_ms=100, min_speech_ms=96
)
KEYS = TurnDetection(push_to_talk=True, prefix_padding_ms=100)


def scene(*seconds: float) -> F32:
    """Quiet, loud, quiet ... of so many seconds each; every sample tells where it is from."""
    rng = np.random.default_rng(0)
    parts = [
        (0.4 if i % 2 else 1e-3) * rng.uniform(0.5, 1, round(s * S)) * rng.choice([-1, 1])
        for i, s in enumerate(seconds)
    ]
    pcm = np.concatenate(parts)
    return (np.round(pcm * 32768) / 32768).astype(np.float32)  # whole steps of 16 bits


def blocks(pcm: F32, n_samples: int = 320, *, at: int = 0) -> list[Block]:
    return [
        Block(pcm=pcm[i : i + n_samples], start=at + i, heard_at=time.monotonic())
        for i in range(0, len(pcm), n_samples)
    ]


def offline(pcm: F32, turns: TurnDetection = TURNS) -> list[Mark]:
    endpointer = Endpointer(turns, Loud())
    return endpointer.push(pcm) + endpointer.close()


def ears(
    source: Source,
    turns: TurnDetection = TURNS,
    *,
    backlog_s: float = 30.0,
    on_start: Callable[[], None] = lambda: None,
    record: Path | None = None,
) -> Ears:
    made = Ears(source, Endpointer(turns, Loud()), backlog_s=backlog_s, record=record)
    made.begin(on_start=on_start, on_pause=lambda: None)
    return made


def rest(heard: Ears) -> list[Stretch]:
    """All that is left, to the end."""
    stretches: list[Stretch] = []
    while (taken := heard.take(5.0)) is not None:
        assert taken, "nothing came for five seconds"
        stretches += taken
    return stretches


def sound_of(stretches: list[Stretch]) -> F32:
    return np.concatenate([np.empty(0, np.float32), *(stretch.pcm for stretch in stretches)])


def marks_of(stretches: list[Stretch]) -> list[Mark]:
    return [mark for stretch in stretches for mark in stretch.marks]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_for(lambda: before.issuperset(threading.enumerate()))


@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 9_000), min_size=1, max_size=30),
    seconds=st.lists(st.floats(0.05, 0.9), min_size=1, max_size=6),
    live=st.booleans(),
)
def test_what_is_taken_is_what_was_read_however_it_arrives(
    sizes: list[int], seconds: list[float], live: bool
) -> None:
    pcm = scene(0.2, *seconds)
    ends = [*itertools.accumulate(sizes), len(pcm)]
    cuts = sorted({0, *(min(end, len(pcm)) for end in ends)})
    arrived = [Block(pcm=pcm[a:b], start=a, heard_at=float(a)) for a, b in itertools.pairwise(cuts)]
    taken = rest(ears(Fed(*arrived, None, live=live)))
    np.testing.assert_array_equal(sound_of(taken), pcm)
    assert marks_of(taken) == offline(pcm)
    heard = [stretch for stretch in taken if len(stretch.pcm)]
    assert [(s.start, s.end, s.heard_at) for s in heard] == [
        (a, b, float(a)) for a, b in itertools.pairwise(cuts)
    ]


def test_every_read_of_what_is_not_live_is_one_block_and_nothing_is_dropped() -> None:
    pcm = scene(0.3, 0.5, 5.0)
    heard = ears(Playback([pcm]), backlog_s=1.0)
    first = heard.take(0.1)
    assert first is not None
    assert [len(stretch.pcm) for stretch in first] == [1600]
    taken = first + rest(heard)
    assert not any(stretch.lost for stretch in taken)
    np.testing.assert_array_equal(sound_of(taken), pcm)
    one = ears(Fed(Block(pcm=pcm, start=0, heard_at=0.0), None, live=False), backlog_s=1.0)
    np.testing.assert_array_equal(sound_of(rest(one)), pcm)


def test_a_reader_that_is_late_gets_the_newest_sound_and_every_mark() -> None:
    pcm = scene(0.5, 0.6, 1.0, 0.7, 0.6)
    device = Device(what="stalled", at_s=1.6)
    arrived: list[Block | Device] = [*blocks(pcm)]
    arrived.insert(80, device)
    heard = ears(Fed(*arrived, None), backlog_s=1.0)
    wait_for(lambda: heard.level[2] == len(pcm))
    taken = rest(heard)
    kept = sound_of(taken)
    assert S - 320 < len(kept) <= S
    np.testing.assert_array_equal(kept, pcm[-len(kept) :])
    assert marks_of(taken) == offline(pcm)
    assert [stretch.device for stretch in taken if stretch.device] == [device]
    assert sum(stretch.lost for stretch in taken) == heard.n_dropped == len(pcm) - len(kept)
    # In order, without a hole, and one long loss instead of a hundred short ones.
    for one, next_one in itertools.pairwise(taken):
        assert next_one.start == one.end
    assert sum(stretch.lost > 0 for stretch in taken) < 15


@settings(max_examples=15)
@given(steps=st.lists(st.tuples(st.integers(1, 12_000), st.booleans()), min_size=1, max_size=20))
def test_the_queue_stays_within_its_room_and_the_count_is_exact(
    steps: list[tuple[int, bool]],
) -> None:
    source = Fed()
    heard = ears(source, backlog_s=1.0)
    pcm = scene(*itertools.repeat(0.5, 2 * sum(n for n, _ in steps) // S + 2))
    at, taken = 0, list[Stretch]()
    for n, takes in steps:
        source.feed(Block(pcm=pcm[at : at + n], start=at, heard_at=0.0))
        at += n
        wait_for(lambda until=at: heard.level[2] == until)  # type: ignore[misc]
        assert sum(len(stretch.pcm) for stretch in heard._queue) == heard._n_queued <= S
        if takes:
            taken += heard.take(1.0) or []
    source.feed(None)
    taken += rest(heard)
    assert sum(stretch.lost for stretch in taken) == heard.n_dropped
    assert heard.n_dropped + len(sound_of(taken)) == at
    for stretch in taken:
        np.testing.assert_array_equal(
            stretch.pcm, pcm[stretch.start : stretch.start + len(stretch.pcm)]
        )
    assert marks_of(taken) == offline(pcm[:at])


def test_lost_sound_ends_the_turn_and_is_silence_in_the_record(tmp_path: Path) -> None:
    pcm, n_lost = scene(0.4, 2.0, 0.6), 5_000
    cut = S  # in the middle of the voice
    behind = cut + n_lost
    arrived = [*blocks(pcm[:cut]), *blocks(pcm[behind:], at=behind)]
    heard = ears(Fed(*arrived, None), record=tmp_path / "heard.wav")
    taken = rest(heard)
    [_, first, second, *_] = marks_of(taken)
    assert isinstance(first, End)
    assert (first.at, first.reason) == (cut, "gap")
    assert isinstance(second, Start)
    assert (second.at, second.onset) == (behind, behind)
    [*_, last] = marks_of(taken)
    assert isinstance(last, End)
    assert abs(last.offset - round(2.4 * S)) <= 512
    record, rate = soundfile.read(tmp_path / "heard.wav", dtype="float32")
    assert rate == S
    np.testing.assert_array_equal(record[:cut], pcm[:cut])
    np.testing.assert_array_equal(record[cut:behind], 0)
    np.testing.assert_array_equal(record[behind:], pcm[behind:])


@pytest.mark.parametrize("live", [True, False])
def test_an_error_of_the_source_is_raised_behind_what_was_heard(live: bool) -> None:
    pcm = scene(0.3, 0.4)
    error = OSError("the cable was pulled")
    heard = ears(Fed(*blocks(pcm), error, live=live))
    taken: list[Stretch] = []
    with pytest.raises(OSError, match="the cable was pulled"):  # noqa: PT012
        while (more := heard.take(5.0)) is not None:
            taken += more
    np.testing.assert_array_equal(sound_of(taken), pcm)
    heard.close()


def test_an_error_in_marking_is_raised_too() -> None:
    broken = Block(pcm=np.zeros((4, 2), np.float32), start=0, heard_at=0.0)
    heard = ears(Fed(broken))
    with pytest.raises(ValueError, match=r"pcm: expected float32 \[n_samples\]"):
        heard.take(5.0)
    heard.close()


def test_the_start_of_a_turn_is_told_in_the_reading_thread_once_it_can_be_seen() -> None:
    """An answer that begins between the call and the queue would have missed it otherwise."""
    seen: list[tuple[str, bool]] = []

    def on_start() -> None:
        seen.append((threading.current_thread().name, heard.has_start))

    source = Fed()
    heard = ears(source, on_start=on_start)
    source.feed(*blocks(scene(0.3, 0.5, 0.6, 0.5, 0.6)), None)
    taken = rest(heard)
    assert seen == [("kokanee ears", True)] * 2
    assert sum(isinstance(mark, Start) for mark in marks_of(taken)) == 2


def test_what_waits_behind_a_mark_can_be_seen_before_it_is_taken() -> None:
    """Two turns were taken at once: nobody knew, while the first was answered, of the second."""
    pcm = scene(0.3, 0.5, 0.6, 0.5)
    source = Fed(*blocks(pcm))
    heard = ears(source)
    wait_for(lambda: heard.level[2] == len(pcm))
    seen: list[tuple[type[Mark], bool, bool]] = []
    taken: list[Stretch] = []
    for _ in range(4):
        taken += heard.take(1.0) or []
        seen.append((type(taken[-1].marks[-1]), heard.has_marks, heard.has_start))
    assert seen == [
        (Start, True, True),
        (Pause, True, True),
        (End, True, True),
        (Start, False, False),
    ]
    source.feed(None)
    np.testing.assert_array_equal(sound_of(taken + rest(heard)), pcm)


def test_a_key_let_go_while_a_block_is_written_down_cuts_nothing_off(tmp_path: Path) -> None:
    """The end of the turn came before the last of its sound, which was then missing."""
    pcm = scene(0.2, 0.6)
    source = Fed()
    heard = ears(source, KEYS, record=tmp_path / "heard.wav")
    assert heard._file is not None
    write = heard._file.write
    writing = threading.Event()

    def slowly(samples: F32) -> None:
        writing.set()
        time.sleep(0.02)
        write(samples)

    heard._file.write = slowly
    heard.press()
    for block in blocks(pcm, 6400):
        writing.clear()
        source.feed(block)
        assert writing.wait(5.0)
    heard.release()
    source.feed(None)
    had = 0
    for stretch in rest(heard):
        for mark in stretch.marks:
            if isinstance(mark, End):
                assert mark.at == had
        had += len(stretch.pcm)
    assert had == len(pcm)


def test_keys_open_and_close_turns_where_the_sound_is() -> None:
    pcm = scene(0.5, 0.5, 0.5)
    source = Fed()
    heard = ears(source, KEYS)
    for n, (block, act) in enumerate(
        zip(
            blocks(pcm, 8_000),
            (heard.press, heard.release, heard.press),
            strict=True,
        )
    ):
        source.feed(block)
        wait_for(lambda until=(n + 1) * 8_000: heard.level[2] == until)  # type: ignore[misc]
        act()
    source.feed(None)
    assert [(type(m), m.at) for m in marks_of(rest(heard)) if isinstance(m, Start | End)] == [
        (Start, 8_000 - 1_600),
        (End, 16_000),
        (Start, 24_000 - 1_600),
        (End, 24_000),
    ]


def test_taking_waits_no_longer_than_it_is_told() -> None:
    heard = ears(Fed())
    started = time.monotonic()
    assert heard.take(0.05) == []
    assert 0.04 < time.monotonic() - started < 1
    heard.close()


@pytest.mark.parametrize("live", [True, False])
def test_closing_ends_an_open_turn_and_whoever_waits(live: bool, tmp_path: Path) -> None:
    pcm = scene(0.3, 0.5)
    source = Fed(*blocks(pcm), live=live)
    heard = ears(source, record=tmp_path / "heard.wav")
    closed_at: list[float] = []

    def close() -> None:
        wait_for(lambda: heard.level[2] == len(pcm))
        time.sleep(0.02)
        closed_at.append(time.monotonic())
        heard.close()

    closer = threading.Thread(target=close)
    closer.start()
    taken: list[Stretch] = []
    while (more := heard.take(0.2)) is not None:
        taken += more
    assert time.monotonic() - closed_at[0] < 0.6
    closer.join()
    assert marks_of(taken) == offline(pcm)
    assert isinstance(marks_of(taken)[-1], End)
    heard.close()
    assert source.n_closed >= 2
    assert heard.take(0.0) is None
    np.testing.assert_array_equal(soundfile.read(tmp_path / "heard.wav", dtype="float32")[0], pcm)


@pytest.mark.parametrize("seed", range(5))
def test_closing_at_any_time_leaves_a_whole_record_and_no_error(seed: int, tmp_path: Path) -> None:
    """The file was closed under the hands of the thread that wrote to it."""
    pcm = scene(*itertools.repeat(0.4, 20))
    heard = ears(Playback(itertools.repeat(pcm)), record=tmp_path / "heard.wav")
    canceller = threading.Timer(0.003 + seed * 0.002, heard.close)
    canceller.start()
    taken = rest(heard)
    canceller.join()
    record = soundfile.read(tmp_path / "heard.wav", dtype="float32")[0]
    np.testing.assert_array_equal(record, sound_of(taken))


class Idle(Fed):
    """Tells when everything was read and worked off, and the reader is back for more."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = threading.Event()

    def read(self, timeout_s: float) -> list[Block | Device] | None:
        if self._items.empty():
            self.idle.set()
        return super().read(timeout_s)


def test_the_reader_rests_only_while_nothing_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between blocks of quiet, never in a turn or near a voice, and never behind the clock."""
    rested: list[float] = []
    monkeypatch.setattr("kokanee.runtime.ears.time.sleep", rested.append)
    source = Idle()
    heard = ears(source)

    def rests(pcm: F32, *, age_s: float = 0.0) -> bool:
        assert source.idle.wait(5)
        n_rested = len(rested)
        source.idle.clear()
        source.feed(Block(pcm=pcm, start=heard.level[2], heard_at=time.monotonic() - age_s))
        assert source.idle.wait(5)
        return len(rested) > n_rested

    quiet, loud = np.full(1024, 1e-4, np.float32), np.full(1024, 0.5, np.float32)
    try:
        assert any(rests(quiet) for _ in range(20))  # a machine may be too busy for one
        assert not rests(quiet, age_s=1.0)
        assert not rests(loud)  # a voice, though no turn yet
        for _ in range(3):
            assert not rests(loud)  # a turn
        assert not rests(quiet)  # its silence
    finally:
        heard.close()
    assert set(rested) == {0.048}  # half of the shortest voice
