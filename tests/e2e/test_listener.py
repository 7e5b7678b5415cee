"""Sound in, answers out, while it goes on, on a random bundle."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from fed import Fed, Loud
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kokanee.engine import EXACT, FAST, Engine, Sampling, Session, Streaming
from kokanee.engine.errors import Interrupted
from kokanee.engine.growing import GrowingSound
from kokanee.runtime.endpoint import End, Endpointer, Start, TurnDetection
from kokanee.runtime.in_writing import punctuated
from kokanee.runtime.listener import Listener
from kokanee.runtime.listening import Ask, Listening, unpadded
from kokanee.runtime.sources import Playback
from kokanee.runtime.updates import (
    Device,
    Final,
    Forgotten,
    Level,
    Partial,
    Piece,
    SpeechStarted,
    SpeechStopped,
    Update,
    as_dict,
)

F32 = npt.NDArray[np.float32]

S = 16_000
SOUND = 0.05  # loud, and no voice to the stand-in below
ASR = Ask(task="asr")
TURNS = TurnDetection(
    prefix_padding_ms=100, silence_duration_ms=300, suffix_padding_ms=100, min_speech_ms=96
)
# Drawn with a fixed seed: greedy answers of random weights hardly depend on what was heard.
HOW = Listening(
    streaming=EXACT,
    turns=TURNS,
    max_new_tokens=24,
    sampling=Sampling(temperature=1.0, seed=1),
    n_ctx=1024,
)
LONG = dataclasses.replace(HOW, max_new_tokens=600)  # longer than anybody waits, if steps are slow
NO_TRACE = Streaming(name="no trace", piece_s=2.72, ahead=0, tolerance=0.0)


def scene(*seconds: float, seed: int = 0, loud: float = 0.3) -> F32:
    """Quiet, loud, quiet ... of so many seconds each; no two loud stretches are alike."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, n_samples in enumerate(round(s * S) for s in seconds):
        t = np.arange(n_samples) / S
        tones = sum(np.sin(2 * np.pi * f * t) for f in rng.uniform(80, 4000, 3))
        pcm = tones + rng.uniform(0.2, 2) * rng.normal(size=n_samples)
        level = loud if i % 2 else 1e-3
        parts.append(level * pcm / np.sqrt(np.square(pcm).sum() / max(1, n_samples) + 1e-9))
    pcm = np.concatenate(parts).clip(-1, 1 - 2**-15)
    return (np.round(pcm * 32768) / 32768).astype(np.float32)  # whole steps of 16 bits


def turns_in(pcm: F32, turns: TurnDetection = TURNS) -> list[tuple[Start, End]]:
    """Found in one go."""
    endpointer = Endpointer(turns, Loud())
    marks = endpointer.push(pcm) + endpointer.close()
    starts = [mark for mark in marks if isinstance(mark, Start)]
    return list(zip(starts, (mark for mark in marks if isinstance(mark, End)), strict=True))


def session(engine: Engine, how: Listening = HOW) -> Session:
    return engine.session(n_ctx=how.n_ctx, policy=unpadded(engine.manifest.policy))


def ids(one: Session, ask: Ask = ASR, how: Listening = HOW) -> tuple[int, ...]:
    answer = one.ask(
        ask.question,
        task=ask.task,
        raw_prompt=ask.raw_prompt,
        sampling=how.sampling,
        max_new_tokens=how.max_new_tokens,
    )
    return tuple(answer.all_ids())


def offline(engine: Engine, pcm: F32, ask: Ask = ASR, how: Listening = HOW) -> tuple[int, ...]:
    """The slow path: a turn that is heard in one go and asked about for itself."""
    return _offline(engine, pcm.tobytes(), ask, how)


@functools.lru_cache
def _offline(engine: Engine, pcm: bytes, ask: Ask, how: Listening) -> tuple[int, ...]:
    with session(engine, how) as one:
        one.hear(np.frombuffer(pcm, np.float32))
        return ids(one, ask, how)


def listener(engine: Engine, source: Any, how: Listening = HOW) -> Listener:
    return Listener(engine, source, how, voice=Loud())


def told(engine: Engine, source: Any, how: Listening = HOW) -> list[Update]:
    with listener(engine, source, how) as one:
        return list(one)


def finals(updates: Iterable[Update]) -> list[Final]:
    return [update for update in updates if isinstance(update, Final)]


def of(updates: Iterable[Update], *kinds: type[Update]) -> list[Any]:
    return [update for update in updates if isinstance(update, kinds)]


def cut(pcm: F32, final: Final) -> F32:
    """What a final is about."""
    return pcm[round(final.start_s * S) : round(final.end_s * S)]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.001)


def slow_steps(one: Listener, monkeypatch: pytest.MonkeyPatch, step_s: float) -> list[float]:
    """A step takes longer, as in a model of size; when each of them was done."""
    step = one._session._decoder.step
    done: list[float] = []

    def slow(token: int) -> F32:
        time.sleep(step_s)
        logits = step(token)
        done.append(time.monotonic())
        return logits

    monkeypatch.setattr(one._session._decoder, "step", slow)
    return done


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_for(lambda: before.issuperset(threading.enumerate()))


# --- streamed equals offline ---------------------------------------------------------------------


@settings(
    max_examples=6,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    sizes=st.lists(st.integers(1, 30_000), min_size=1, max_size=12),
    # Pauses within a turn are longer than the suffix, so that answers are begun in vain.
    turns=st.lists(st.lists(st.sampled_from([0.3, 0.45, 0.6]), max_size=1), min_size=1, max_size=3),
    pause_s=st.sampled_from([0.15, 0.22]),
    seed=st.integers(0, 99),
)
def test_how_sound_arrives_changes_no_turn_and_no_answer(
    tiny_engine: Engine, sizes: list[int], turns: list[list[float]], pause_s: float, seed: int
) -> None:
    lengths = [0.3]
    for more in turns:
        lengths.append(0.4)
        for voice_s in more:
            lengths += [pause_s, voice_s]
        lengths.append(0.5)
    pcm = scene(*lengths, seed=seed)
    ends = itertools.accumulate(itertools.cycle(sizes))
    cuts = [0, *itertools.takewhile(lambda end: end < len(pcm), ends), len(pcm)]
    arrays = [pcm[a:b] for a, b in itertools.pairwise(cuts)]
    want = turns_in(pcm)
    assert len(want) == len(turns)
    updates: list[Update] = []
    rows: list[F32] = []
    with listener(tiny_engine, Playback(arrays)) as one:
        for update in one:
            updates.append(update)
            if isinstance(update, Final):
                rows.append(one._session._context.rows.copy())
        tally = one.tally
    assert of(updates, SpeechStarted, SpeechStopped) == list(
        itertools.chain.from_iterable(
            (
                SpeechStarted(turn=n, kind="speech", at_s=s.onset / S, start_s=s.at / S),
                SpeechStopped(
                    turn=n,
                    kind="speech",
                    at_s=e.offset / S,
                    start_s=s.at / S,
                    end_s=e.at / S,
                    reason="silence",
                ),
            )
            for n, (s, e) in enumerate(want, 1)
        )
    )
    with session(tiny_engine) as slow:
        for final, got, (start, end) in zip(finals(updates), rows, want, strict=True):
            slow.hear(pcm[start.at : end.at])
            np.testing.assert_array_equal(got, slow._context.rows)
            assert final.ids == ids(slow)
            assert (final.start_s, final.end_s) == (start.at / S, end.at / S)
            assert final.text == "".join(p.text for p in of(updates, Piece) if p.turn == final.turn)
    assert tally.turns == len(turns)
    assert tally.guesses - tally.guesses_void <= len(turns)


def test_a_pause_that_is_none_makes_the_answer_begun_in_it_void(tiny_engine: Engine) -> None:
    pcm = scene(0.3, 0.5, 0.22, 0.5, 0.22, 0.4, 0.5)
    with listener(tiny_engine, Playback([pcm])) as one:
        [final] = finals(one)
    assert final.ids == offline(tiny_engine, cut(pcm, final))
    assert (one.tally.turns, one.tally.guesses, one.tally.guesses_void) == (1, 3, 2)
    assert final.latencies_ms["settled_ahead"] > 0


def test_a_second_loop_goes_on_where_the_first_one_stopped(tiny_engine: Engine) -> None:
    pcm = scene(0.3, 0.5, 0.5, 0.6, 0.5)
    whole = told(tiny_engine, Playback([pcm]))
    with listener(tiny_engine, Playback([pcm])) as one:
        first = list(itertools.takewhile(lambda update: not isinstance(update, Piece), one))
        pieces = of([*first, *one], Piece, Final)
    assert [p.text for p in pieces] == [p.text for p in of(whole, Piece, Final)][1:]  # takewhile's


# --- cancelling ----------------------------------------------------------------------------------


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, 58),
    how=st.sampled_from(["cancel", "barge in", "close"]),
    late_s=st.floats(0, 0.003),
)
def test_stopping_at_any_step_leaves_no_trace(
    tiny_engine: Engine, at: int, how: str, late_s: float
) -> None:
    """The first turn's answer is stopped around its nth pass; the next turn knows nothing of it."""
    first, second = scene(0.3, 0.5, 0.5, seed=1), scene(0.05, 0.7, 0.5, seed=2)
    pcm = np.concatenate([first, second])
    source = Fed(first)
    with listener(tiny_engine, source, dataclasses.replace(LONG, max_new_tokens=60)) as one:
        decoder, n_passes = one._session._decoder, itertools.count()
        step, helpers = decoder.step, list[threading.Thread]()

        def stop() -> None:
            time.sleep(late_s)
            if how == "cancel":
                one.cancel()
            elif how == "close":
                one.close()

        def counted(token: int) -> F32:
            if next(n_passes) == at:
                if how == "barge in":
                    source.feed(second)
                helpers.append(threading.Thread(target=stop))
                helpers[-1].start()
            return step(token)

        decoder.step = counted  # type: ignore[method-assign]
        said = finals(itertools.islice(until_final(one), 1))
        decoder.step = step  # type: ignore[method-assign]
        if not helpers:  # it said all it had to say before
            stop()
        for helper in helpers:
            helper.join()
        whole = offline(tiny_engine, cut(pcm, said[0]), how=one._taking._how)
        assert said[0].ids == whole[: len(said[0].ids)]
        if how == "close":
            assert finals(one) == []
        else:
            if source.n_fed == len(first):
                source.feed(second)
            source.feed(None)
            [next_final] = finals(one)
            assert next_final.ids == offline(
                tiny_engine, cut(pcm, next_final), how=one._taking._how
            )
            assert next_final.finish_reason != "cancelled"
    if how == "close":
        [again] = finals(told(tiny_engine, Playback([second])))
        assert again.ids == offline(tiny_engine, cut(second, again))


def until_final(one: Listener) -> Iterator[Update]:
    return (update for update in one if isinstance(update, Final))


@pytest.mark.parametrize("seed", range(2))
def test_cancelling_at_random_times_leaves_the_next_answer_as_it_was(
    tiny_engine: Engine, seed: int
) -> None:
    dice = random.Random(seed)
    pcm = scene(0.3, 0.5, 0.5, 0.7, 0.5, seed=seed)
    with listener(tiny_engine, Playback([pcm])) as one:
        over = threading.Event()

        def cancel() -> None:
            while not over.wait(dice.uniform(0, 0.004)):
                one.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        updates = until_final(one)
        next(updates)
        over.set()
        canceller.join()
        [final] = finals(updates)
    assert final.ids == offline(tiny_engine, cut(pcm, final))


@pytest.mark.parametrize("barge_in", [True, False])
def test_who_speaks_up_stops_the_answer_at_once(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch, barge_in: bool
) -> None:
    pcm = scene(0.2, 0.3, 0.6, 0.3, 0.35)
    n_tokens = 120  # more than half a second at 5 ms a step
    how = dataclasses.replace(LONG, max_new_tokens=n_tokens, barge_in=barge_in)
    with listener(tiny_engine, Playback([pcm], realtime=True), how) as one:
        steps = slow_steps(one, monkeypatch, 0.005)
        decided: list[tuple[float, int]] = []
        on_start = one._ears._on_start
        assert on_start is not None

        def timed() -> None:
            decided.append((time.monotonic(), len(steps)))
            on_start()

        one._ears._on_start = timed
        updates = []
        ends = []
        for update in one:
            updates.append(update)
            if isinstance(update, Final):
                ends.append(len(steps))
    first, second = finals(updates)
    assert len(decided) == 2
    said_s = decided[1]
    assert 0 < said_s[1] < n_tokens - 1  # it was in the middle of it
    whole = offline(tiny_engine, cut(pcm, first), how=how)
    if barge_in:
        assert first.finish_reason == "cancelled"
        assert ends[0] - said_s[1] <= 2
        assert steps[ends[0] - 1] - said_s[0] < 0.05
        assert first.ids == whole[: len(first.ids)]
    else:
        assert first.finish_reason in ("stop", "length")
        assert first.ids == whole
    assert second.finish_reason in ("stop", "length")
    assert second.ids == offline(tiny_engine, cut(pcm, second), how=how)


def test_a_hop_gives_way_to_the_pause_that_makes_it_stale(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hop of a large model in flight kept the answer waiting until it was done."""
    stale, n_begun = threading.Event(), itertools.count()

    def so_far(sound: GrowingSound) -> F32:
        stale.clear()
        next(n_begun)
        assert stale.wait(5)  # it would take that long
        raise Interrupted("computing was interrupted")

    monkeypatch.setattr(GrowingSound, "so_far", so_far)
    monkeypatch.setattr(GrowingSound, "interrupt", lambda sound: stale.set())
    pcm = scene(0.3, 1.0, 0.8)
    how = dataclasses.replace(HOW, streaming=NO_TRACE, hop_s=0.2)
    (final,) = finals(told(tiny_engine, Playback([pcm], realtime=True), how))
    assert next(n_begun) > 0
    assert final.latencies_ms["compute"] < 1000  # not 5 s; a machine may be busy
    monkeypatch.undo()
    (want,) = finals(told(tiny_engine, Playback([pcm]), how))
    assert final.ids == want.ids


def test_who_spoke_up_before_the_answer_began_stops_it_too(tiny_engine: Engine) -> None:
    """A consumer that was late got the end of a turn and the next start in one go."""
    pcm = scene(0.3, 0.5, 0.5, 0.6, 0.5)
    source = Fed(pcm)
    with listener(tiny_engine, source) as one:
        wait_for(lambda: one.heard_s == len(pcm) / S)
        source.feed(None)
        first, second = finals(one)
    assert (first.finish_reason, first.ids) == ("cancelled", ())
    assert second.ids == offline(tiny_engine, cut(pcm, second))


# --- a consumer that is late ---------------------------------------------------------------------


def test_a_late_consumer_loses_the_oldest_sound_and_is_told_how_much(tiny_engine: Engine) -> None:
    pcm = scene(0.5, 0.6, 1.5, 0.3, 0.4)  # the second turn is within the last second
    source = Fed(pcm)
    how = dataclasses.replace(HOW, backlog_s=1.0)
    with listener(tiny_engine, source, how) as one:
        wait_for(lambda: one.heard_s == len(pcm) / S)
        source.feed(None)
        updates = list(one)
        tally = one.tally
    dropped = [update for update in of(updates, Device) if update.what == "dropped"]
    n_lost = sum(round(update.lost_s * S) for update in dropped)
    assert n_lost == len(pcm) - S  # blocks of 20 ms fill the room to the sample
    assert tally.dropped_s == n_lost / S
    assert all(update.name == "fed" for update in dropped)
    assert [update.at_s for update in dropped] == sorted(update.at_s for update in dropped)
    want = turns_in(pcm)
    assert [(u.start_s, u.end_s) for u in of(updates, SpeechStopped)] == [
        (start.at / S, end.at / S) for start, end in want
    ]
    [final] = finals(updates)  # there is no sound to answer about in the first
    assert final.turn == 2
    assert final.ids == offline(tiny_engine, cut(pcm, final))


def test_a_turn_of_which_nothing_is_left_is_no_error(tiny_engine: Engine) -> None:
    """Its pause was found, and an answer begun: "nothing was heard yet"."""
    pcm = scene(0.2, 0.5, 1.5)
    source = Fed(pcm)
    turns = dataclasses.replace(TURNS, silence_duration_ms=3000)
    with listener(tiny_engine, source, dataclasses.replace(HOW, backlog_s=1.0, turns=turns)) as one:
        wait_for(lambda: one.heard_s == len(pcm) / S)
        updates = []
        for update in one:
            updates.append(update)
            if isinstance(update, SpeechStarted):
                threading.Timer(0.1, source.feed, (None,)).start()
    [stopped] = of(updates, SpeechStopped)
    assert stopped.reason == "closed"
    assert finals(updates) == []


def test_an_answer_waits_for_its_consumer_and_sound_is_still_heard(tiny_engine: Engine) -> None:
    source = Fed(scene(0.3, 0.5, 0.5))
    with listener(tiny_engine, source) as one:
        for update in one:
            if isinstance(update, Piece):
                break
        source.feed(scene(0.1, 0.5, 0.5))
        wait_for(lambda: one.heard_s == source.n_fed / S)
        source.feed(None)
        assert [final.turn for final in finals(one)] == [1, 2]
        assert one.tally.dropped_s == 0


# --- gaps ----------------------------------------------------------------------------------------


def test_lost_sound_ends_a_turn_and_everything_keeps_its_time(
    tiny_engine: Engine, tmp_path: Path
) -> None:
    pcm, n_lost = scene(0.4, 1.6, 0.5), 7_000
    cut_at = round(1.1 * S)  # in the middle of the voice
    behind = cut_at + n_lost
    source = Fed(pcm[:cut_at])
    lost = Device(what="gap", at_s=cut_at / S, lost_s=n_lost / S)
    source.feed(lost)
    source.lose(n_lost)
    source.feed(pcm[behind:])
    source.feed(None)
    how = dataclasses.replace(HOW, barge_in=False, record=tmp_path / "heard.wav")
    updates = told(tiny_engine, source, how)
    assert of(updates, Device) == [lost]
    one, two = of(updates, SpeechStopped)
    assert (one.reason, one.end_s) == ("gap", cut_at / S)
    assert (two.reason, two.start_s) == ("silence", behind / S)
    assert abs(two.at_s - 2.0) <= 0.032
    first, second = finals(updates)
    assert first.ids == offline(tiny_engine, cut(pcm, first))
    assert second.ids == offline(tiny_engine, cut(pcm, second))
    record, _ = soundfile.read(tmp_path / "heard.wav", dtype="float32")
    np.testing.assert_array_equal(record, np.r_[pcm[:cut_at], np.zeros(n_lost), pcm[behind:]])


# --- errors and the end --------------------------------------------------------------------------


@pytest.mark.parametrize("live", [True, False])
def test_an_error_of_the_source_comes_out_of_the_loop(tiny_engine: Engine, live: bool) -> None:
    source = Fed(scene(0.3, 0.5, 0.5), live=live)
    source.feed(OSError("the cable was pulled"))
    updates: list[Update] = []
    with listener(tiny_engine, source) as one:
        with pytest.raises(OSError, match="the cable was pulled"):
            updates.extend(one)
        assert list(one) == []
    [final] = finals(updates)
    assert final.finish_reason is not None


def test_the_end_of_the_source_is_the_end_of_a_turn_and_of_the_loop(tiny_engine: Engine) -> None:
    pcm = scene(0.3, 0.8)
    updates = told(tiny_engine, Playback([pcm]))
    [stopped] = of(updates, SpeechStopped)
    assert (stopped.reason, stopped.end_s) == ("closed", len(pcm) / S)
    [final] = finals(updates)
    assert final.ids == offline(tiny_engine, cut(pcm, final))
    assert told(tiny_engine, Playback([])) == [Level(at_s=0.0, dbfs=-120.0, voice=0.0)]


@pytest.mark.parametrize("when", ["waiting", "answering", "encoding"])
def test_closing_ends_the_loop_within_a_second_whatever_it_does(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    busy = threading.Event()
    if when == "encoding":
        soft_tokens = tiny_engine.encoders.soft_tokens

        def slowly(*args: Any, **options: Any) -> F32:
            busy.set()
            time.sleep(0.2)
            return soft_tokens(*args, **options)

        monkeypatch.setattr(tiny_engine.encoders, "soft_tokens", slowly)
    source = Fed(scene(0.3, 0.5, 0.5) if when != "waiting" else scene(0.3))
    closed_at = []
    with listener(tiny_engine, source, LONG) as one:
        slow_steps(one, monkeypatch, 0.01)  # six seconds of answer

        def close() -> None:
            assert busy.wait(5.0)
            closed_at.append(time.monotonic())
            one.close()

        closer = threading.Thread(target=close)
        closer.start()
        for update in one:
            if isinstance(update, {"waiting": Level, "answering": Piece}.get(when, ())):
                busy.set()
            assert when != "waiting" or not isinstance(update, Piece)
            if isinstance(update, Final):
                assert update.finish_reason == "cancelled"
        assert time.monotonic() - closed_at[0] < 1.0
        closer.join()


def test_a_listener_that_was_closed_says_nothing_more(tiny_engine: Engine) -> None:
    one = listener(tiny_engine, Fed(scene(0.3, 0.5, 0.5)))
    one.close()
    one.close()
    assert list(one) == []
    one.start(lambda update: pytest.fail(str(update))).join()
    one.cancel()
    one.release()
    with one:
        pass
    assert list(one) == []


def test_leaving_in_the_middle_of_an_answer_leaves_nothing_behind(tiny_engine: Engine) -> None:
    source = Fed(scene(0.3, 0.5, 0.5))
    with listener(tiny_engine, source) as one:
        for update in one:
            if isinstance(update, Piece):
                break
    assert list(one) == []
    with pytest.raises(ValueError, match="closed"):
        one._session._decoder.step(0)
    assert source.read(0.0) is None


# --- several questions ---------------------------------------------------------------------------


def test_several_questions_share_one_hearing(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = (ASR, Ask(question="Who speaks?"), Ask(task="qa", question="Where?"))
    how = dataclasses.replace(HOW, questions=asks)
    pcm = scene(0.3, 0.8, 0.5)
    want = [offline(tiny_engine, cut(pcm, f), ask, how) for f, ask in zip_asks(pcm, asks)]
    soft_tokens, n_encoded = tiny_engine.encoders.soft_tokens, []

    def counted(segment: Any, *args: Any, **options: Any) -> F32:
        rows = soft_tokens(segment, *args, **options)
        n_encoded.append(len(rows))
        return rows

    monkeypatch.setattr(tiny_engine.encoders, "soft_tokens", counted)
    with listener(tiny_engine, Playback([pcm]), how) as one:
        prefill, n_prefilled = one._session._decoder.prefill, []

        def counting(embeds: F32) -> F32:
            n_prefilled.append(len(embeds))
            return prefill(embeds)

        monkeypatch.setattr(one._session._decoder, "prefill", counting)
        got = finals(one)
        n_prompts = [
            one._session.n_prompt(a.question, task=a.task, raw_prompt=a.raw_prompt) for a in asks
        ]
    assert [final.question for final in got] == ["asr", "Who speaks?", "qa Where?"]
    assert [final.ids for final in got] == want
    assert len(n_encoded) == 1  # in the pause; at the end nothing is left to do
    head, *rest = n_prefilled
    assert rest == [n_encoded[0], *(n - head for n in n_prompts)]


def zip_asks(pcm: F32, asks: tuple[Ask, ...]) -> Iterator[tuple[Final, Ask]]:
    [(start, end)] = turns_in(pcm)
    span = Final(
        turn=1,
        kind="speech",
        question="",
        text="",
        ids=(),
        finish_reason=None,
        start_s=start.at / S,
        end_s=end.at / S,
    )
    return ((span, ask) for ask in asks)


def test_who_speaks_up_ends_all_questions_of_the_turn(tiny_engine: Engine) -> None:
    asks = (ASR, Ask(question="Who speaks?"))
    source = Fed(scene(0.3, 0.5, 0.5))
    with listener(tiny_engine, source, dataclasses.replace(LONG, questions=asks)) as one:
        given: list[Any] = []
        for update in one:
            if isinstance(update, Piece) and not given:
                given.append(update)
                source.feed(scene(0.05, 0.5, 0.5))
                wait_for(lambda: one._ears.has_start)
                source.feed(None)
            if isinstance(update, Final):
                given.append(update)
    assert [(u.turn, u.finish_reason == "cancelled", u.question) for u in given[1:]] == [
        (1, True, "asr"),
        (2, False, "asr"),
        (2, False, "Who speaks?"),
    ]


def test_what_was_said_is_answered_in_writing(tiny_engine: Engine) -> None:
    how = dataclasses.replace(HOW, in_writing=True, memory_turns=1)
    pcm = scene(0.3, 0.8, 0.5, 0.8, 0.5)
    plain = finals(told(tiny_engine, Playback([pcm]), dataclasses.replace(how, in_writing=False)))
    got = finals(told(tiny_engine, Playback([pcm]), how))
    assert [final.turn for final in got] == [1, 1, 2, 2]
    # The sound, its transcript and the memory are as without it.
    assert [final.ids for final in got[::2]] == [final.ids for final in plain]
    with tiny_engine.session() as session:
        for heard, answered in zip(got[::2], got[1::2], strict=True):
            assert answered.question == punctuated(heard.text)
            answer = session.ask_in_writing(
                answered.question, sampling=how.sampling, max_new_tokens=how.max_new_tokens
            )
            assert answered.ids == tuple(answer.all_ids())
            assert answered.start_s == heard.start_s


def test_who_speaks_up_stops_an_answer_in_writing_too(tiny_engine: Engine) -> None:
    source = Fed(scene(0.3, 0.5, 0.5))
    how = dataclasses.replace(HOW, in_writing=True, max_new_tokens=400)
    with listener(tiny_engine, source, how) as one:
        given: list[Final] = []
        fed = False
        for update in one:
            if isinstance(update, Piece) and update.question != "asr" and not fed:
                fed = True
                source.feed(scene(0.05, 0.5, 0.5))
                wait_for(lambda: one._ears.has_start)
                source.feed(None)
            if isinstance(update, Final):
                given.append(update)
    stopped = [(final.turn, final.question == "asr") for final in given if _was_stopped(final)]
    assert stopped == [(1, False)]
    assert [final.turn for final in given] == [1, 1, 2, 2]


def test_what_is_no_speech_is_not_answered_in_writing(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = dataclasses.replace(HOW, in_writing=True)
    pcm = scene(0.3, 0.8, 0.5)
    monkeypatch.setattr("kokanee.runtime.turn_taking.written_question", lambda transcript: "")
    assert [final.question for final in finals(told(tiny_engine, Playback([pcm]), how))] == ["asr"]


def _was_stopped(final: Final) -> bool:
    return final.finish_reason == "cancelled"


# --- memory --------------------------------------------------------------------------------------

MEMORY = dataclasses.replace(HOW, memory_turns=3, max_new_tokens=8, n_ctx=300)


@pytest.fixture(scope="module")
def conversation(tiny_engine: Engine) -> tuple[F32, list[Update], list[int]]:
    """Thirty turns of some length, what was told, and how many positions were in use meanwhile."""
    pcm = scene(0.3, *itertools.chain.from_iterable((0.3 + i % 3 / 4, 0.4) for i in range(30)))
    n_used = []
    updates = []
    with listener(tiny_engine, Playback([pcm]), MEMORY) as one:
        for update in one:
            updates.append(update)
            n_used.append(one._session.n_used)
    return pcm, updates, n_used


def test_thirty_turns_never_fill_a_small_context(
    conversation: tuple[F32, list[Update], list[int]],
) -> None:
    _, updates, n_used = conversation
    assert [final.turn for final in finals(updates)] == list(range(1, 31))
    assert max(n_used) <= 300
    assert all(final.finish_reason in ("stop", "length") for final in finals(updates))


def test_turns_are_forgotten_in_order_and_the_sums_are_right(
    conversation: tuple[F32, list[Update], list[int]],
) -> None:
    _, updates, _ = conversation
    forgotten = of(updates, Forgotten)
    numbers = [turn for update in forgotten for turn in update.turns]
    assert numbers == list(range(1, len(numbers) + 1))
    assert 30 - 3 <= len(numbers) < 30
    seconds = {final.turn: final.end_s - final.start_s for final in finals(updates)}
    for update in forgotten:
        assert update.seconds == pytest.approx(sum(seconds[turn] for turn in update.turns))
        # Head and question of one, six soft tokens a second, answer and end.
        assert 44 + 6 + 1 <= update.n_positions / len(update.turns) <= 44 + 8 + 8 + 1


def test_what_was_said_is_remembered_and_what_was_forgotten_is_not(
    tiny_engine: Engine, conversation: tuple[F32, list[Update], list[int]]
) -> None:
    """To the bit: a session that heard only the turns that stayed gives the same answer."""
    pcm, updates, _ = conversation
    said = {final.turn: final for final in finals(updates)}
    first_kept = 1
    for update in updates:
        match update:
            case Final(turn=2 | 17 | 30 as turn):
                assert turn == 2 or first_kept > 1
                with session(tiny_engine, MEMORY) as fresh:
                    for n in range(first_kept, turn):
                        fresh.hear(cut(pcm, said[n]))
                        answer = fresh.ask(task="asr")
                        answer.ids.extend(said[n].ids)
                        fresh.keep(answer)
                    fresh.hear(cut(pcm, update))
                    assert update.ids == ids(fresh, how=MEMORY)
                assert update.ids != offline(tiny_engine, cut(pcm, update), how=MEMORY)
            case Forgotten(turns=turns):
                first_kept = turns[-1] + 1


# --- long turns ----------------------------------------------------------------------------------


def test_a_turn_that_lasts_too_long_goes_on_in_the_next_at_the_very_sample(
    tiny_engine: Engine,
) -> None:
    pcm = scene(0.3, 4.7, 0.5)
    turns = dataclasses.replace(TURNS, max_turn_s=1.3)
    updates = told(tiny_engine, Playback([pcm]), dataclasses.replace(HOW, turns=turns))
    stopped = of(updates, SpeechStopped)
    assert [turn.reason for turn in stopped] == ["length"] * 3 + ["silence"]
    for one, next_one in itertools.pairwise(stopped):
        assert next_one.start_s == one.end_s
    assert stopped[0].start_s <= 0.3
    assert stopped[-1].end_s >= 5.0
    for final in finals(updates):
        assert final.ids == offline(tiny_engine, cut(pcm, final))
    assert len(finals(updates)) == 4


@pytest.mark.parametrize("streaming", [EXACT, FAST])
def test_a_turn_that_would_fill_the_context_is_closed_in_time(
    tiny_engine: Engine, streaming: Streaming
) -> None:
    pcm = scene(0.3, 9.0, 0.5)
    how = dataclasses.replace(HOW, streaming=streaming, n_ctx=96)
    with listener(tiny_engine, Playback([pcm]), how) as one:
        assert 1 < one.longest_s < 4
        n_used, updates = [], []
        for update in one:
            updates.append(update)
            n_used.append(one._session.n_used)
        longest_s = one.longest_s
    stopped = of(updates, SpeechStopped)
    assert {turn.reason for turn in stopped[:-1]} == {"length"}
    assert max(turn.end_s - turn.start_s for turn in stopped) <= longest_s
    assert max(n_used) <= 96
    assert all(final.finish_reason != "context" for final in finals(updates))
    assert len(finals(updates)) == len(stopped) >= 3


# --- sounds, keys, partials ----------------------------------------------------------------------


def test_a_sound_is_asked_other_questions_than_a_voice(tiny_engine: Engine) -> None:
    pcm = np.concatenate(
        [scene(1.3), scene(0.0, 0.7, 0.6, loud=SOUND, seed=1), scene(0.0, 0.5, 0.5, seed=2)]
    )
    ask = Ask(question="What is that?")
    how = dataclasses.replace(
        HOW, turns=dataclasses.replace(TURNS, sounds=True), sound_questions=(ask,)
    )
    updates = told(tiny_engine, Playback([pcm]), how)
    assert [start.kind for start in of(updates, SpeechStarted)] == ["sound", "speech"]
    sound, voice = finals(updates)
    assert (sound.kind, sound.question) == ("sound", "What is that?")
    assert sound.ids == offline(tiny_engine, cut(pcm, sound), ask)
    assert (voice.kind, voice.question) == ("speech", "asr")
    assert voice.ids == offline(tiny_engine, cut(pcm, voice))


def test_a_voice_within_a_sound_is_asked_the_questions_of_a_voice(tiny_engine: Engine) -> None:
    """The answer begun in a pause of the sound was to another question."""
    parts = [scene(1.3), scene(0.0, 0.5, 0.2, loud=SOUND, seed=1), scene(0.0, 0.5, 0.5, seed=2)]
    pcm = np.concatenate(parts)
    ask = Ask(question="What is that?")
    how = dataclasses.replace(
        HOW, turns=dataclasses.replace(TURNS, sounds=True), sound_questions=(ask,)
    )
    updates = told(tiny_engine, Playback([pcm]), how)
    assert [start.kind for start in of(updates, SpeechStarted)] == ["sound"]
    [final] = finals(updates)
    assert (final.kind, final.question) == ("speech", "asr")
    assert final.ids == offline(tiny_engine, cut(pcm, final))


def test_a_key_opens_and_closes_turns_from_another_thread(tiny_engine: Engine) -> None:
    pcm = scene(0.5, 0.6, 0.4, 0.5)
    source = Fed()
    how = dataclasses.replace(
        HOW, turns=dataclasses.replace(TURNS, push_to_talk=True), barge_in=False
    )
    with listener(tiny_engine, source, how) as one:

        def talk() -> None:
            for at, act in (
                (8_000, one.press),
                (16_000, one.release),
                (24_000, one.press),
                (28_000, one.release),
                (28_000, one.press),
                (28_000, one.release),  # let go at once
            ):
                source.feed(pcm[source.n_fed : at])
                wait_for(lambda until=at: one.heard_s == until / S)  # type: ignore[misc]
                act()
            source.feed(pcm[source.n_fed :])
            source.feed(None)

        thread = threading.Thread(target=talk)
        thread.start()
        updates = list(one)
        thread.join()
    stopped = of(updates, SpeechStopped)
    assert [(u.kind, u.reason, u.start_s, u.end_s) for u in stopped] == [
        ("push", "released", 0.4, 1.0),
        ("push", "released", 1.4, 1.75),
        ("push", "released", 1.75, 1.75),
    ]
    first, second = finals(updates)
    for final in (first, second):
        assert final.ids == offline(tiny_engine, cut(pcm, final))
        assert final.finish_reason in ("stop", "length")


@pytest.mark.parametrize("streaming", [EXACT, NO_TRACE])
def test_a_partial_is_what_asking_at_that_moment_says(
    tiny_engine: Engine, streaming: Streaming
) -> None:
    pcm = scene(0.3, 1.8, 0.5)
    how = dataclasses.replace(HOW, streaming=streaming, partial_s=0.4, hop_s=0.2)
    updates = told(tiny_engine, Playback([pcm]), how)
    [start] = of(updates, SpeechStarted)
    partials = of(updates, Partial)
    assert len(partials) >= 2
    assert all(b.until_s - a.until_s > 0.399 for a, b in itertools.pairwise(partials))
    begin = round(start.start_s * S)
    for partial in partials:
        with session(tiny_engine) as one:
            hearing = one.listen(streaming)
            hearing.append(pcm[begin : round(partial.until_s * S)])
            hearing.settle()
            answer = one.ask(task="asr", sampling=how.sampling, max_new_tokens=how.max_new_tokens)
            assert partial.text == answer.text()
    [final] = finals(updates)
    if streaming is EXACT:
        assert final.ids == offline(tiny_engine, cut(pcm, final))


def test_a_consumer_that_takes_its_time_is_not_what_the_model_was_busy_with(
    tiny_engine: Engine,
) -> None:
    how = dataclasses.replace(HOW, partial_s=0.3, hop_s=0.2)
    with listener(tiny_engine, Playback([scene(0.3, 0.8)]), how) as one:
        while not isinstance(next(iter(one)), Partial):
            pass
        before = one.tally.busy_s
        assert before > 0
        time.sleep(0.4)
        next(iter(one))
        assert one.tally.busy_s - before < 0.4


def test_a_partial_gives_way_when_the_voice_pauses(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Fed(scene(0.3, 0.9))
    how = dataclasses.replace(LONG, partial_s=0.3, hop_s=0.2)
    with listener(tiny_engine, source, how) as one:
        step, n_steps = one._session._decoder.step, itertools.count(1)

        def counted(token: int) -> F32:
            if next(n_steps) == 20:
                source.feed(scene(0.6))
                wait_for(lambda: one._ears.has_marks)
                source.feed(None)
            return step(token)

        monkeypatch.setattr(one._session._decoder, "step", counted)
        updates = []
        for update in one:
            updates.append(update)
            if isinstance(update, SpeechStopped):
                assert next(n_steps) < 60  # the whole of it would be 600
    assert of(updates, Partial) == []
    assert len(finals(updates)) == 1


# --- other ways to iterate -----------------------------------------------------------------------


def test_an_event_loop_gets_the_same_updates(tiny_engine: Engine) -> None:
    pcm = scene(0.3, 0.5, 0.5, 0.6, 0.5)

    async def listen() -> list[Update]:
        return [update async for update in listener(tiny_engine, Playback([pcm]))]

    def same(updates: Iterable[Update]) -> list[Update]:
        return [
            dataclasses.replace(update, latencies_ms={}, work_ms={})
            if isinstance(update, Final)
            else update
            for update in updates
        ]

    assert same(asyncio.run(listen())) == same(told(tiny_engine, Playback([pcm])))


def test_leaving_an_event_loop_early_closes(tiny_engine: Engine) -> None:
    async def listen() -> Listener:
        source = Fed(scene(0.3, 0.5, 0.5))
        with listener(tiny_engine, source) as one:
            async for update in one:
                if isinstance(update, Piece):
                    break
        return one

    one = asyncio.run(listen())
    assert list(one) == []


def test_an_error_reaches_the_event_loop(tiny_engine: Engine) -> None:
    async def listen() -> None:
        source = Fed(scene(0.3))
        source.feed(OSError("the cable was pulled"))
        async for _ in listener(tiny_engine, source):
            pass

    with pytest.raises(OSError, match="the cable was pulled"):
        asyncio.run(listen())


def test_a_task_that_is_cancelled_closes(tiny_engine: Engine) -> None:
    async def listen(one: Listener) -> None:
        async for _ in one:
            pass

    async def main() -> Listener:
        one = listener(tiny_engine, Fed(scene(0.3)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(listen(one), 0.1)
        return one

    assert list(asyncio.run(main())) == []


def test_a_callback_gets_every_update_and_leaving_waits_for_its_thread(
    tiny_engine: Engine,
) -> None:
    pcm = scene(0.3, 0.5, 0.5)
    updates: list[Update] = []
    with listener(tiny_engine, Playback([pcm])) as one:
        one.start(updates.append).join()
    [final] = finals(updates)
    assert final.ids == offline(tiny_engine, cut(pcm, final))
    spoke = threading.Event()
    with listener(tiny_engine, Fed(pcm), LONG) as one:
        one.start(lambda update: spoke.set() if isinstance(update, Piece) else None)
        assert spoke.wait(5.0)
    assert list(one) == []


# --- fast ----------------------------------------------------------------------------------------


def test_in_fast_mode_most_of_a_turn_is_in_the_cache_before_its_end(tiny_engine: Engine) -> None:
    pcm = scene(0.3, 4.5, 0.5)
    with listener(tiny_engine, Playback([pcm]), dataclasses.replace(HOW, streaming=FAST)) as one:
        put, sizes, events = one._session._context.put, [], list[Update]()

        def counted(rows: F32, **options: Any) -> int:
            n_computed = put(rows, **options)
            sizes.append((len(rows), n_computed))
            return n_computed

        one._session._context.put = counted  # type: ignore[method-assign]
        for update in one:
            if isinstance(update, SpeechStarted):
                assert one.tally.hops == 0
            events.append(update)
        hops = one.tally.hops
    assert hops == len(sizes) - 1 >= 2  # the last is the whole, in the pause
    (n_before, _), (n_whole, n_left) = sizes[-2:]
    assert n_before > n_whole / 2
    assert n_left < n_whole / 2
    [final] = finals(events)
    assert final.latencies_ms["settled_ahead"] > 0


def test_guesses_leave_no_trace_when_no_change_is_let_pass(tiny_engine: Engine) -> None:
    pcm = scene(0.3, 3.5, 0.22, 0.5, 0.5)
    with listener(
        tiny_engine, Playback([pcm]), dataclasses.replace(HOW, streaming=NO_TRACE, hop_s=0.3)
    ) as one:
        final = next(until_final(one))
        assert isinstance(final, Final)
        rows = one._session._context.rows.copy()
        assert one.tally.hops >= 3
    with session(tiny_engine) as at_once:
        hearing = at_once.listen(NO_TRACE)
        hearing.append(cut(pcm, final))
        hearing.settle()
        np.testing.assert_array_equal(rows, at_once._context.rows)
        assert final.ids == ids(at_once)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop_s": 0.0}, "hop_s and partial_s: expected more than 0, got 0.0 and None"),
        ({"partial_s": -1.0}, "hop_s and partial_s: expected more than 0, got 0.5 and -1.0"),
        ({"memory_turns": -1}, "expected at least 0, 1 and 1, got -1, 120 and 30.0"),
        ({"max_new_tokens": 0}, "expected at least 0, 1 and 1, got 0, 120 and 30.0|got 0, 0 and"),
        ({"backlog_s": 0.5}, "expected at least 0, 1 and 1, got 0, 120 and 0.5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Listening(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"questions": (Ask(task="dance"),)}, r"expected one of \['asr', 'qa'\], got 'dance'"),
        ({"questions": (Ask(task="qa"),)}, "task 'qa' needs a question"),
        ({"questions": (Ask(),)}, "question: expected some words, or a task"),
        ({"questions": (ASR, Ask(raw_prompt="Hm?"))}, "<SpeechHere> exactly once, got it 0 times"),
        (
            {"sound_questions": (Ask(raw_prompt="<SpeechHere>", question="What?"),)},
            "a raw prompt is the whole text",
        ),
        ({"in_writing": True, "questions": (Ask(question="Who?"),)}, "first question is the task"),
        ({"n_ctx": 76}, r"n_ctx: 76 positions have room for 0\.\d s of sound beside question"),
        ({"n_ctx": 150, "memory_turns": 1}, r"n_ctx: 150 positions have room for 0\.\d s"),
        ({"n_ctx": 5000}, "n_ctx: expected 1 to 1024, got 5000"),
    ],
)
def test_what_does_not_fit_the_bundle_is_refused(
    tiny_engine: Engine, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        listener(tiny_engine, Fed(), dataclasses.replace(HOW, **options))


def test_a_raw_prompt_asks_with_what_it_says_before_the_sound(tiny_engine: Engine) -> None:
    ask = Ask(raw_prompt="Listen closely: <SpeechHere> Well?")
    pcm = scene(0.3, 0.5, 0.5)
    [final] = finals(told(tiny_engine, Playback([pcm]), dataclasses.replace(HOW, questions=(ask,))))
    assert final.question == ask.raw_prompt
    assert final.ids == offline(tiny_engine, cut(pcm, final), ask)


# --- what is told --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [320, 512, 1600, 30_000])
def test_the_level_is_told_ten_times_a_second(tiny_engine: Engine, n_samples: int) -> None:
    pcm = scene(0.5, 0.5, 1.0)
    arrays = [pcm[at : at + n_samples] for at in range(0, len(pcm), n_samples)]
    levels = of(told(tiny_engine, Playback(arrays)), Level)
    assert 19 <= len(levels) <= 21
    assert max(b.at_s - a.at_s for a, b in itertools.pairwise(levels)) < 0.2
    assert all(level.dbfs < -50 and level.voice == 0 for level in levels if level.at_s < 0.5)
    assert all(level.dbfs > -12 for level in levels if 0.65 < level.at_s < 0.95)


def test_a_live_source_gets_levels_also_while_nothing_comes(tiny_engine: Engine) -> None:
    with listener(tiny_engine, Fed()) as one:
        started = time.monotonic()
        levels = list(itertools.islice(one, 4))
        assert 0.2 < time.monotonic() - started < 1.5
    assert all(isinstance(level, Level) for level in levels)


def test_every_update_is_a_line_of_json(tiny_engine: Engine) -> None:
    source = Fed(scene(0.3, 0.9, 0.5, 0.3, 0.4, 0.3, 0.4), live=False)
    source.feed(Device(what="ended", at_s=1.0), None)
    how = dataclasses.replace(MEMORY, memory_turns=1, partial_s=0.2, hop_s=0.2)
    updates = told(tiny_engine, source, how)
    events = set()
    for update in updates:
        line = json.loads(json.dumps(as_dict(update), allow_nan=False))
        events.add(line.pop("event"))
        for name, value in line.items():
            was = getattr(update, name)
            assert value == (list(was) if isinstance(was, tuple) else was)
    assert events == {
        "device",
        "level",
        "speech_started",
        "speech_stopped",
        "partial",
        "piece",
        "final",
        "forgotten",
    }
