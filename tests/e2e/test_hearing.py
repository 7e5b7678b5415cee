"""A sound that is still being made, heard as it comes, on a random bundle."""

from __future__ import annotations

import random
import threading
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import POLICY

from kokanee.engine import (
    EXACT,
    FAST,
    AudioFormatError,
    ContextFull,
    Engine,
    Session,
    SessionClosed,
    Streaming,
)
from kokanee.engine.errors import Interrupted

F32 = npt.NDArray[np.float32]
QUESTION = "What do you hear?"
GUESSING = Streaming(name="guessing", piece_s=2.72, ahead=0, tolerance=0.0)


def sound(seconds: float, seed: int = 0) -> F32:
    """Noise whose loudness goes up and down, so that its loudest part is seen late."""
    rng = np.random.default_rng(seed)
    n_samples = round(seconds * 16_000)
    loudness = 0.1 + 0.1 * np.sin(np.arange(n_samples) / 4000)
    return (loudness * rng.normal(size=n_samples)).astype(np.float32)


def ids(session: Session, question: str = QUESTION) -> list[int]:
    return session.ask(question, max_new_tokens=12).all_ids()


def offline(engine: Engine, pcm: F32) -> tuple[F32, list[int]]:
    with engine.session(n_ctx=512) as session:
        session.hear(pcm)
        return session._context.rows.copy(), ids(session)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    seconds=st.floats(0.01, 33.0),
    cuts=st.lists(st.floats(0, 1), max_size=12),
    seed=st.integers(0, 3),
)
def test_how_a_sound_arrives_changes_nothing_in_exact_mode(
    tiny_engine: Engine, seconds: float, cuts: list[float], seed: int
) -> None:
    """Soft tokens to the last bit and the ids, whatever the chunks and whenever it caught up."""
    pcm = sound(seconds, seed)
    want_rows, want_ids = offline(tiny_engine, pcm)
    dice = random.Random(seed)
    ends = sorted({0, len(pcm), *(round(cut * len(pcm)) for cut in cuts)})
    with tiny_engine.session(n_ctx=512) as session:
        hearing = session.listen(EXACT)
        for start, end in pairwise(ends):
            hearing.append(pcm[start:end])
            match dice.randrange(4):
                case 0:
                    hearing.catch_up()
                case 1:
                    hearing.settle()  # a pause that was none
                case 2 if hearing.seconds:
                    hearing.settle()
                    session.ask(QUESTION, max_new_tokens=2).text()
        heard = hearing.settle()
        np.testing.assert_array_equal(session._context.rows, want_rows)
        assert ids(session) == want_ids
        assert heard.seconds == len(pcm) / 16_000
        assert heard.n_soft_tokens == len(want_rows)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(cuts=st.lists(st.integers(1, 159_999), max_size=12))
def test_guesses_leave_no_trace_when_no_change_is_let_pass(
    tiny_engine: Engine, cuts: list[int]
) -> None:
    """With a tolerance of 0, guessing early ends where not guessing ends."""
    pcm = sound(10.0)
    ends = sorted({0, len(pcm), *cuts})
    with tiny_engine.session(n_ctx=512) as guessed, tiny_engine.session(n_ctx=512) as at_once:
        hearing = guessed.listen(GUESSING)
        for start, end in pairwise(ends):
            hearing.append(pcm[start:end])
            hearing.catch_up()
        hearing.settle()
        one = at_once.listen(GUESSING)
        one.append(pcm)
        one.settle()
        np.testing.assert_array_equal(guessed._context.rows, at_once._context.rows)
        assert ids(guessed) == ids(at_once)


def test_fast_mode_has_nearly_everything_in_the_cache_before_the_end(tiny_engine: Engine) -> None:
    pcm = sound(9.0)
    with tiny_engine.session(n_ctx=512) as session:
        hearing = session.listen(FAST)
        computed = []
        for at in range(0, len(pcm), 8_000):
            hearing.append(pcm[at : at + 8_000])
            computed.append(hearing.catch_up())
        before = hearing.n_soft_tokens
        heard = hearing.settle()
        assert before >= 2 * (9.0 / 0.34 - 3)
        assert heard.n_soft_tokens - before <= 2 * 4
        assert heard.n_segments == 3  # 9 s in pieces of 2.72 to 5.44 s
        assert (
            sum(computed) < 3 * heard.n_soft_tokens
        )  # some are computed again, not all every time
        assert ids(session)


def test_fast_mode_drifts_no_further_than_its_tolerance(tiny_engine: Engine) -> None:
    pcm = sound(5.0)
    loose = Streaming(name="loose", piece_s=5.44, ahead=0, tolerance=0.05, guess_tolerance=0.2)
    with tiny_engine.session(n_ctx=512) as session:
        hearing = session.listen(loose)
        for at in range(0, len(pcm), 4_000):
            hearing.append(pcm[at : at + 4_000])
            hearing.catch_up()
        hearing.settle()
        got = session._context.rows.reshape(-1, 2 * 64)
    with tiny_engine.session(n_ctx=512) as session:
        session.hear(pcm)  # one piece either way
        want = session._context.rows.reshape(-1, 2 * 64)
    drift = np.linalg.norm(got - want, axis=1) / np.linalg.norm(got, axis=1)
    assert drift.max() <= 0.05 + 1e-6


def test_a_session_can_be_asked_while_the_sound_goes_on(tiny_engine: Engine) -> None:
    pcm = sound(6.0)
    with tiny_engine.session(n_ctx=512) as session:
        hearing = session.listen(FAST)
        hearing.append(pcm[:48_000])
        hearing.catch_up()
        assert ids(session)
        hearing.append(pcm[48_000:])
        hearing.settle()
        got = ids(session)
        hearing = session.listen(FAST)
        hearing.append(pcm)
        hearing.settle()
        assert session.ask("Something else?", max_new_tokens=3).all_ids()
        assert got != []


def test_the_head_is_prefilled_once(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny_engine.session(n_ctx=512) as session:
        session.listen(EXACT)
        n_head = session.n_used
        counted: list[int] = []
        prefill = session._decoder.prefill

        def counting(embeds: F32) -> F32:
            counted.append(len(embeds))
            return prefill(embeds)

        monkeypatch.setattr(session._decoder, "prefill", counting)
        hearing = session.listen(EXACT)
        assert session.n_used == n_head > 0
        assert counted == []
        hearing.append(sound(1.0))
        hearing.settle()
        assert counted == [6]


@settings(max_examples=10)
@given(stop=st.integers(0, 5))
def test_a_turn_that_was_stopped_anywhere_leaves_no_trace(tiny_engine: Engine, stop: int) -> None:
    want = offline(tiny_engine, sound(3.0, 1))[1]
    with tiny_engine.session(n_ctx=512) as session:
        hearing = session.listen(FAST)
        hearing.append(sound(4.0))
        if stop >= 1:
            hearing.catch_up()
        if stop >= 2:
            hearing.append(sound(2.0, 5))
            hearing.settle()
        if stop >= 3:
            answer = session.ask(QUESTION, max_new_tokens=50)
            if stop >= 4:
                next(iter(answer))
            if stop >= 5:
                answer.cancel()
                answer.text()
        second = session.listen(EXACT)
        second.append(sound(3.0, 1))
        second.settle()
        assert ids(session) == want


def test_cancel_interrupts_the_pass_in_flight(tiny_engine: Engine) -> None:
    """A step of a large model takes longer than anybody who speaks up should wait."""
    with tiny_engine.session(n_ctx=1024) as session:
        hearing = session.listen(EXACT)
        hearing.append(sound(2.0))
        hearing.settle()
        want = ids(session)
        answer = session.ask("x" * 500, max_new_tokens=400)
        canceller = threading.Timer(0.005, answer.cancel)
        canceller.start()
        answer.text()
        canceller.join()
        assert answer.finish_reason == "cancelled"
        assert len(answer.ids) < 400
        answer.cancel()  # too late to be of any harm to what comes next
        assert ids(session) == want


def test_encoding_can_be_interrupted_for_what_is_better_to_do(tiny_engine: Engine) -> None:
    """An encoding of a large model that is stale would keep the answer waiting for seconds."""
    pcm = sound(5.0)
    with tiny_engine.session(n_ctx=512) as session, tiny_engine.session(n_ctx=512) as undisturbed:
        hearings = [s.listen(FAST) for s in (session, undisturbed)]
        over = threading.Event()

        def interrupt() -> None:
            while not over.wait(0.0005):
                hearings[0].interrupt()

        for hearing in hearings:
            hearing.append(pcm)
        thread = threading.Thread(target=interrupt)
        thread.start()
        n_interrupted = 0
        for _ in range(20):
            try:
                hearings[0].catch_up()
            except Interrupted:
                n_interrupted += 1
        hearings[0].settle()  # is not to be interrupted
        over.set()
        thread.join()
        hearings[1].settle()
        np.testing.assert_array_equal(session._context.rows, undisturbed._context.rows)
        assert ids(session) == ids(undisturbed)
        assert n_interrupted > 0


def test_rest_gives_memory_back_and_changes_nothing(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=256) as session:
        session.hear(sound(2.0))
        want = ids(session)
        session.rest()
        assert ids(session) == want


def test_an_old_hearing_is_refused(tiny_engine: Engine) -> None:
    session = tiny_engine.session(n_ctx=256)
    first = session.listen()
    first.append(sound(1.0))
    session.listen()
    with pytest.raises(ValueError, match="another sound"):
        first.settle()
    second = session.listen()
    with pytest.raises(AudioFormatError, match="nothing was heard"):
        second.settle()
    with pytest.raises(AudioFormatError, match="finite"):
        second.append(np.full(16, np.nan, np.float32))
    with pytest.raises(ValueError, match="nothing was heard"):
        session.ask(QUESTION)
    session.close()
    with pytest.raises(SessionClosed):
        second.settle()
    with pytest.raises(SessionClosed):
        session.listen()


def test_a_sound_that_outgrows_the_cache_is_said_and_what_was_there_stays(
    tiny_engine: Engine,
) -> None:
    with tiny_engine.session(n_ctx=64) as session:
        hearing = session.listen(FAST)
        hearing.append(sound(2.0))
        hearing.catch_up()
        n_used = session.n_used
        hearing.append(sound(20.0))
        with pytest.raises(ContextFull, match="the audio needs"):
            hearing.catch_up()
        assert session.n_used == n_used


@pytest.mark.parametrize("streaming", [EXACT, FAST])
@pytest.mark.parametrize("n_ctx", [128, 300, 512])
def test_room_in_seconds_is_never_too_much(
    tiny_engine: Engine, streaming: Streaming, n_ctx: int
) -> None:
    with tiny_engine.session(n_ctx=n_ctx) as session:
        seconds = session.room_s(n_ctx - 60, streaming=streaming)
        assert seconds > 0.3 * (n_ctx - 60) / POLICY.n_queries * 0.34
        hearing = session.listen(streaming)
        hearing.append(sound(seconds))
        hearing.settle()
        assert session.n_used <= n_ctx - 60 + 30  # the head is of what was reserved


# --- turns that stay -----------------------------------------------------------------------------


def turn(session: Session, seed: int) -> list[int]:
    session.hear(sound(1.5, seed))
    said = ids(session)
    session.keep()
    return said


def test_an_earlier_turn_is_seen_and_can_be_forgotten(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=512) as session:
        alone = offline(tiny_engine, sound(1.5, 2))[1]
        turn(session, 1)
        session.hear(sound(1.5, 2))
        behind = ids(session)
        assert behind != alone
        assert [turn.seconds for turn in session.turns] == [1.5]
        assert session.forget(1) > 0
        session.hear(sound(1.5, 2))
        assert ids(session) == alone


def test_what_stays_is_as_if_the_forgotten_had_never_been(tiny_engine: Engine) -> None:
    """The turns that stay saw the others, and stood behind them: both are undone, to the bit."""
    with tiny_engine.session(n_ctx=512) as long, tiny_engine.session(n_ctx=512) as short:
        long.hear(sound(2.0, 1))
        ids(long)
        long.keep()
        for session in (long, short):
            session.hear(sound(1.5, 2))
            session.ask("A?", max_new_tokens=1).text()
            session.keep()
        n_used = long.n_used
        freed = long.forget(1)
        assert long.n_used == n_used - freed
        # The answers differed; the sound and the question are the same.
        if long._context.turns[0].behind == short._context.turns[0].behind:
            for ours, theirs in zip(
                long._decoder.cache.layers, short._decoder.cache.layers, strict=True
            ):
                for a, b in zip(ours, theirs, strict=True):
                    used = slice(0, long.n_used)
                    np.testing.assert_array_equal(a[:, :, used], b[:, :, used])
        for session in (long, short):
            session.hear(sound(1.0, 3))
        assert long.n_used == short.n_used


def test_only_a_turn_that_was_asked_about_can_be_kept(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=512) as session:
        with pytest.raises(ValueError, match="nothing was asked"):
            session.keep()
        session.hear(sound(1.0))
        with pytest.raises(ValueError, match="nothing was asked"):
            session.keep()
        ids(session)
        kept = session.keep()
        assert kept.n_positions == session.n_used
        with pytest.raises(ValueError, match="nothing was heard"):
            session.ask(QUESTION)
