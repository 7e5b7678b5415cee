"""Sound in, answers out, while it goes on: when a turn is encoded, when it is asked about.

                +-- thread ----------------------+     +-- the thread that iterates --+
    Microphone  |  Ears: marks turns, queues all |     |  every hop: encode, prefill  |
    or file ──► |  of it; a turn that begins     | ──► |  a pause: settle, ask, hold  | ──► updates
                |  cancels the answer being given|     |  the end: say it             |
                +--------------------------------+     +------------------------------+

An answer is begun in the pause that may end the turn. If the voice goes on it is thrown away; if
not, it is there when the silence has lasted long enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kokanee.engine import Answer, Engine, Hearing
from kokanee.engine.errors import Interrupted
from kokanee.engine.features import SAMPLE_RATE
from kokanee.engine.prompt import fill

from .ears import Ears, Stretch
from .endpoint import End, Endpointer, Mark, Pause, Resume, Start, TurnDetection
from .listening import Ask, Listening, Tally, default_question, unpadded
from .sources import Source
from .updates import (
    Device,
    Final,
    Forgotten,
    Kind,
    Level,
    Partial,
    Piece,
    SpeechStarted,
    SpeechStopped,
    Update,
)
from .vad import FRAME, SileroVAD, VoiceDetector

F32 = npt.NDArray[np.float32]

LEVEL_S = 0.1
_TICK_S = 0.05  # how long to wait for sound before a level is told all the same
_LOAD = 0.5  # share of the time that encoding may take while somebody speaks
# A pause is found out a frame after the last sample of the turn: nothing later is encoded before.
_HELD_BACK = 2 * FRAME  # samples


@dataclass(slots=True)
class _Turn:
    """The turn that is open."""

    number: int
    start: Start
    hearing: Hearing
    fed: int  # index of the next sample to feed
    pause: Pause | None = None
    settled: int = -1  # the turn's end that the cache was settled for
    settle_ms: float = 0.0
    answer: Answer | None = None  # begun in the pause
    next_hop: int = 0  # index of the sample at which to encode again
    next_partial: int = 0


class Listener:
    """Iterate for updates; from any thread: `cancel`, `press`, `release`, `close`.

    The model works in the thread that iterates. Iterate slowly and sound waits; after `room_s` of
    it the oldest is dropped and counted. A context manager; also `async for`, or `start(callback)`.
    """

    def __init__(
        self,
        engine: Engine,
        source: Source,
        listening: Listening | None = None,
        *,
        voice: VoiceDetector | None = None,
    ) -> None:
        """Takes over the source; a live one is heard from now on.

        Args:
            engine: an open bundle.
            source: a Microphone, a Playback, or anything of that shape.
            listening: how.
            voice: what tells a voice; Silero by default.

        Raises:
            ValueError: a question that does not fit the bundle, or no room for a turn in n_ctx.
        """
        how = listening or Listening()
        form = engine.manifest.prompt
        questions = how.questions or (default_question(engine),)
        self._questions: dict[Kind, tuple[Ask, ...]] = {
            "speech": questions,
            "push": questions,
            "sound": how.sound_questions or questions,
        }
        for ask in (*questions, *how.sound_questions):
            fill(form, ask.question, task=ask.task, raw=ask.raw_prompt)
        self._how = how
        self._session = engine.session(
            n_ctx=how.n_ctx, lora_scale=how.lora_scale, policy=unpadded(engine.manifest.policy)
        )
        try:
            turns = self._turns_that_fit(how)
        except ValueError:
            self._session.close()
            raise
        self.longest_s = turns.max_turn_s
        """Seconds after which a turn is closed, for want of room or because the settings say so."""
        self._tape: deque[tuple[int, F32]] = deque()  # (index of the first sample, samples)
        self._now = 0  # index of the next sample
        self._turn: _Turn | None = None
        self._n_turns = 0
        self._kept: deque[int] = deque()  # numbers of the turns that are in the context
        self._hop = round(how.hop_s * SAMPLE_RATE)
        self._tally = Tally()
        self._told_level = -1  # in tenths of a second
        self._answer: Answer | None = None  # being given; read by other threads
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None  # our own that iterates, if any does
        self._lock = threading.Lock()
        if voice is None and turns.voices:
            voice = SileroVAD()
        self._ears = Ears(
            source,
            Endpointer(turns, voice),
            room_s=how.room_s,
            on_start=self._on_start,
            on_pause=self._on_pause,
            record=how.record,
        )
        self._source = source
        self._updates = self._run()

    # --- for any thread --------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop the answer that is being given."""
        with self._lock:
            if self._answer is not None:
                self._answer.cancel()

    def press(self) -> None:
        """Push to talk: the key goes down."""
        self._ears.press()

    def release(self) -> None:
        """Push to talk: the key goes up."""
        self._ears.release()

    def close(self) -> None:
        """Stop listening; whoever iterates comes to the end soon. Harmless twice."""
        self._closing.set()
        self.cancel()
        self._ears.close()

    @property
    def heard_s(self) -> float:
        """Seconds of sound since the listener was opened, gaps included."""
        return self._ears.level[2] / SAMPLE_RATE

    @property
    def tally(self) -> Tally:
        """What was done so far."""
        return dataclasses.replace(self._tally, dropped_s=self._ears.n_dropped / SAMPLE_RATE)

    # --- for one thread --------------------------------------------------------------------------

    def __enter__(self) -> Listener:
        """The listener itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close, and give the KV cache back."""
        self.close()
        if self._thread is not None:
            self._thread.join()
        self._updates.close()
        self._session.close()

    def __iter__(self) -> Iterator[Update]:
        """The updates, as they come; a second loop goes on where the first one stopped."""
        return self._updates

    def start(
        self,
        on_update: Callable[[Update], object],
        on_error: Callable[[Exception], object] | None = None,
    ) -> threading.Thread:
        """Listen in a thread of its own that calls on_update; it ends after `close`.

        Args:
            on_update: called with every update, in that thread.
            on_error: called with what ended it before its time; by default the thread dies of it,
                and Python says so on standard error.

        Raises:
            ValueError: it was started already.
        """

        def work() -> None:
            try:
                for update in self:
                    on_update(update)
            except Exception as error:
                if on_error is None:
                    raise
                on_error(error)

        return self._started(work)

    async def __aiter__(self) -> AsyncIterator[Update]:
        """The updates in an event loop, which is never blocked; leaving the loop closes."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Update | BaseException | None] = asyncio.Queue()

        def work() -> None:
            last: BaseException | None = None
            try:
                for update in self:
                    loop.call_soon_threadsafe(queue.put_nowait, update)
            except BaseException as error:
                last = error
            loop.call_soon_threadsafe(queue.put_nowait, last)

        thread = self._started(work)
        try:
            while True:
                update = await queue.get()
                if update is None:
                    return
                if isinstance(update, BaseException):
                    raise update
                yield update
        finally:
            await asyncio.to_thread(self.close)
            await asyncio.to_thread(thread.join)

    def _started(self, work: Callable[[], None]) -> threading.Thread:
        if self._thread is not None:
            raise ValueError("this listener was started already; open another one")
        self._thread = threading.Thread(target=work, name="kokanee listener", daemon=True)
        self._thread.start()
        return self._thread

    def _turns_that_fit(self, how: Listening) -> TurnDetection:
        """The settings, with turns no longer than the context has room for."""
        # Half of the context is for earlier turns, if any are kept.
        self._n_turn = self._session.n_ctx // (2 if how.memory_turns else 1)
        n_reserved = how.max_new_tokens + max(
            self._session.n_prompt(ask.question, task=ask.task, raw_prompt=ask.raw_prompt)
            for asks in self._questions.values()
            for ask in asks
        )
        room_s = self._session.room_s(self._n_turn - n_reserved, streaming=how.streaming)
        try:
            return dataclasses.replace(how.turns, max_turn_s=min(how.turns.max_turn_s, room_s))
        except ValueError:
            raise ValueError(
                f"n_ctx: {self._session.n_ctx} positions have room for {room_s:.1f} s of sound"
                " beside question and answer; give more"
            ) from None

    # --- inside: what is done when ---------------------------------------------------------------

    def _run(self) -> Generator[Update]:
        try:
            while not self._closing.is_set():
                yield from self._level()
                stretches = self._ears.take(_TICK_S)
                if stretches is None:
                    return
                for stretch in stretches:
                    yield from self._hear(stretch)
                yield from self._think()
        finally:
            self._ears.close()

    def _hear(self, stretch: Stretch) -> Iterator[Update]:
        """Sound onto the tape, and what its marks mean."""
        if stretch.device is not None:
            yield stretch.device
        if stretch.lost:
            yield Device(
                what="dropped",
                at_s=stretch.start / SAMPLE_RATE,
                name=self._source.name,
                lost_s=stretch.lost / SAMPLE_RATE,
                detail="the model was too late for this sound",
            )
        if len(stretch.pcm):
            self._tape.append((stretch.start, stretch.pcm))
        self._now = max(self._now, stretch.end)
        for mark in stretch.marks:
            yield from self._heed(mark, stretch.heard_at)
        if self._turn is not None and self._turn.pause is None:
            self._feed_busily(self._turn, stretch.end - _HELD_BACK)
        self._wind_tape()

    def _heed(self, mark: Mark, heard_at: float) -> Iterator[Update]:
        turn = self._turn
        match mark:
            case Start():
                yield from self._begin(mark)
            case Pause() if turn is not None:
                turn.pause = mark
                self._feed_busily(turn, mark.at)
            case Resume() if turn is not None:
                turn.pause = None
                self._drop_guess(turn)
            case End() if turn is not None:
                self._turn = None
                yield from self._finish(turn, mark, heard_at)

    def _begin(self, start: Start) -> Iterator[Update]:
        self._n_turns += 1
        self._tally = dataclasses.replace(self._tally, turns=self._n_turns)
        raw = self._questions[start.kind][0].raw_prompt
        self._turn = _Turn(
            number=self._n_turns,
            start=start,
            hearing=self._session.listen(self._how.streaming, raw_prompt=raw),
            fed=start.at,
            next_hop=start.at + self._hop,
            next_partial=start.at + self._partial_samples,
        )
        yield SpeechStarted(
            turn=self._n_turns,
            kind=start.kind,
            at_s=start.onset / SAMPLE_RATE,
            start_s=start.at / SAMPLE_RATE,
        )

    def _think(self) -> Iterator[Update]:
        """What can be done about an open turn before its end."""
        turn = self._turn
        if turn is None or not turn.hearing.seconds:  # nothing yet, or all of it was dropped
            return
        partial: Partial | None = None
        started = time.perf_counter()
        if turn.pause is not None:
            if turn.answer is None and not self._ears.has_marks:
                self._guess(turn, turn.pause.at)
        # A voice that is silent right now may have ended: then there is better to do soon.
        elif turn.fed >= turn.next_hop and not self._ears.is_quiet and not self._ears.has_marks:
            try:
                turn.hearing.catch_up()
            except Interrupted:
                self._count_busy(started)
                return
            self._tally = dataclasses.replace(self._tally, hops=self._tally.hops + 1)
            self._put_off_hop(turn, time.perf_counter() - started)
            if self._how.partial_s is not None and turn.fed >= turn.next_partial:
                partial = self._partial(turn)
                turn.next_partial = turn.fed + self._partial_samples
        self._count_busy(started)
        if partial is not None:
            yield partial

    def _guess(self, turn: _Turn, end: int) -> None:
        """Settle the sound as if it ended there, and compute the first piece of the answer."""
        self._settle(turn, end)
        turn.answer = self._asked(self._questions[turn.start.kind][0])
        next(iter(turn.answer), None)
        self._tally = dataclasses.replace(self._tally, guesses=self._tally.guesses + 1)

    def _drop_guess(self, turn: _Turn) -> None:
        if turn.answer is not None:
            turn.answer.cancel()
            turn.answer = None
            self._tally = dataclasses.replace(
                self._tally, guesses_void=self._tally.guesses_void + 1
            )

    def _settle(self, turn: _Turn, end: int) -> None:
        self._feed(turn, end)
        if turn.settled != end and turn.hearing.seconds:
            started = time.perf_counter()
            turn.hearing.settle()
            turn.settled, turn.settle_ms = end, (time.perf_counter() - started) * 1e3

    def _finish(self, turn: _Turn, end: End, heard_at: float) -> Iterator[Update]:
        """Answer a turn that is over."""
        yield SpeechStopped(
            turn=turn.number,
            kind=end.kind,
            at_s=end.offset / SAMPLE_RATE,
            start_s=turn.start.at / SAMPLE_RATE,
            end_s=end.at / SAMPLE_RATE,
            reason=end.reason,
        )
        if self._closing.is_set():
            return
        started = time.perf_counter()
        # When the sample that settled it was there, on the clock.
        decided = heard_at - max(0, self._now - end.decided_at) / SAMPLE_RATE
        guessed = turn.settled == end.at
        if turn.answer is not None and (not guessed or end.kind != turn.start.kind):
            self._drop_guess(turn)
        self._settle(turn, end.at)
        if not turn.hearing.n_soft_tokens:  # a key that was let go at once
            return
        latencies = {
            "wait": (end.decided_at - end.offset) / SAMPLE_RATE * 1e3,
            "settle": turn.settle_ms,
            "settled_ahead": turn.settle_ms if guessed else 0.0,
        }
        first = turn.answer
        given: list[tuple[Ask, Answer]] = []
        self._count_busy(started)
        for ask in self._questions[end.kind]:
            answer = first if first is not None else self._asked(ask)
            first = None
            given.append((ask, answer))
            yield from self._give(turn, end, ask, answer, decided, latencies)
            if answer.cancelled:
                break
        if self._how.memory_turns:
            yield from self._remember(turn, given[0][1])
        self._session.rest()  # now, while nobody waits for anything

    def _give(
        self,
        turn: _Turn,
        end: End,
        ask: Ask,
        answer: Answer,
        decided: float,
        latencies: dict[str, float],
    ) -> Iterator[Update]:
        """An answer, piece by piece, unless somebody speaks up."""
        latencies = dict(latencies)
        with self._lock:
            self._answer = answer
        if self._closing.is_set() or (self._how.barge_in and self._ears.has_start):
            answer.cancel()  # whoever closed, or speaks already, found no answer to stop
        pieces, started = iter(answer), time.perf_counter()
        while (piece := next(pieces, None)) is not None:
            self._count_busy(started)
            if "compute" not in latencies:
                latencies["compute"] = (time.monotonic() - decided) * 1e3
            yield Piece(turn=turn.number, question=ask.label, text=piece)
            yield from self._level()
            started = time.perf_counter()
        self._count_busy(started)
        with self._lock:
            self._answer = None
        latencies.setdefault("compute", (time.monotonic() - decided) * 1e3)
        latencies["first_token"] = latencies["wait"] + latencies["compute"]
        latencies["answer"] = (time.monotonic() - decided) * 1e3
        yield Final(
            turn=turn.number,
            kind=end.kind,
            question=ask.label,
            text=answer.text(),
            ids=tuple(answer.ids),
            finish_reason=answer.finish_reason,
            start_s=turn.start.at / SAMPLE_RATE,
            end_s=end.at / SAMPLE_RATE,
            latencies_ms={name: round(ms, 2) for name, ms in latencies.items()},
            work_ms={
                name: round(ms, 2)
                for name, ms in (turn.hearing.timings_ms | answer.timings_ms).items()
            },
        )

    def _partial(self, turn: _Turn) -> Partial | None:
        """The first question, about what was said so far; None if there is better to do."""
        if self._how.streaming.ahead is None or not turn.hearing.n_soft_tokens:
            turn.hearing.settle()  # nothing was guessed that could be asked about
        until = turn.fed
        answer = self._asked(self._questions[turn.start.kind][0])
        for _ in answer:
            if self._ears.has_marks or self._closing.is_set():
                answer.cancel()
                return None
        return Partial(turn=turn.number, text=answer.text(), until_s=until / SAMPLE_RATE)

    def _remember(self, turn: _Turn, answer: Answer) -> Iterator[Update]:
        """Keep a turn in front of the next ones, and let go of old ones to make room for those."""
        session, forgotten = self._session, 0
        session.keep(answer)
        self._kept.append(turn.number)
        turns = session.turns
        n_free = session.n_ctx - sum(kept.n_positions for kept in turns)
        while forgotten < len(turns) and (
            len(turns) - forgotten > self._how.memory_turns or n_free < self._n_turn
        ):
            n_free += turns[forgotten].n_positions
            forgotten += 1
        if forgotten:
            n_positions = session.forget(forgotten)
            yield Forgotten(
                turns=tuple(self._kept.popleft() for _ in range(forgotten)),
                seconds=sum(kept.seconds for kept in turns[:forgotten]),
                n_positions=n_positions,
            )

    def _asked(self, ask: Ask) -> Answer:
        return self._session.ask(
            ask.question,
            task=ask.task,
            raw_prompt=ask.raw_prompt,
            sampling=self._how.sampling,
            max_new_tokens=self._how.max_new_tokens,
        )

    # --- inside: sound ---------------------------------------------------------------------------

    def _feed(self, turn: _Turn, end: int) -> None:
        """Give the growing sound what the tape has of it up to `end`."""
        started, n_pieces = time.perf_counter(), max(1, turn.hearing.n_pieces)
        for start, pcm in self._tape:
            if start + len(pcm) > turn.fed and start < end:
                part = pcm[max(0, turn.fed - start) : end - start]
                turn.hearing.append(part)
                turn.fed = max(turn.fed, start) + len(part)
        turn.fed = max(turn.fed, end)  # what is missing was dropped
        if turn.hearing.n_pieces > n_pieces:  # one was full, and encoded: as good as a hop
            self._put_off_hop(turn, time.perf_counter() - started)

    def _feed_busily(self, turn: _Turn, end: int) -> None:
        started = time.perf_counter()
        self._feed(turn, end)
        self._count_busy(started)

    def _put_off_hop(self, turn: _Turn, took_s: float) -> None:
        """Encode again a hop later, or later still where encoding takes that long."""
        n_samples = self._hop
        if self._source.live:  # else the sound waits, and hops depend on nothing but it
            n_samples = max(n_samples, round(took_s / _LOAD * SAMPLE_RATE))
        turn.next_hop = turn.fed + n_samples

    def _wind_tape(self) -> None:
        """Forget sound that no turn can begin with any more."""
        turns = self._how.turns
        n_kept = (turns.prefix_padding_ms + turns.min_speech_ms) * SAMPLE_RATE // 1000 + 4 * FRAME
        if self._turn is None:
            keep_from = self._now - n_kept - turns.silence_duration_ms * SAMPLE_RATE // 1000
        else:
            keep_from = min(self._turn.fed, self._now - n_kept)
        while self._tape and self._tape[0][0] + len(self._tape[0][1]) <= keep_from:
            self._tape.popleft()

    def _level(self) -> Iterator[Update]:
        """How loud it is, ten times a second of the clock, or of the sound if it comes faster."""
        dbfs, voice, at = self._ears.level
        now = time.monotonic() if self._source.live else at / SAMPLE_RATE
        if (tick := int(now / LEVEL_S + 1e-6)) > self._told_level:  # 0.3 / 0.1 is less than 3
            self._told_level = tick
            yield Level(at_s=at / SAMPLE_RATE, dbfs=round(dbfs, 1), voice=round(voice, 3))

    def _on_start(self) -> None:
        """In the thread of the ears: a turn begins."""
        if self._how.barge_in:
            self.cancel()

    def _on_pause(self) -> None:
        """In the thread of the ears: a turn may be over, and what is encoded of it is stale."""
        if (turn := self._turn) is not None:
            turn.hearing.interrupt()

    def _count_busy(self, started: float) -> None:
        busy_s = self._tally.busy_s + time.perf_counter() - started
        self._tally = dataclasses.replace(self._tally, busy_s=busy_s)

    @property
    def _partial_samples(self) -> int:
        return round((self._how.partial_s or 0.0) * SAMPLE_RATE)


def listen(
    engine: Engine,
    source: Source | None = None,
    listening: Listening | None = None,
    *,
    voice: VoiceDetector | None = None,
) -> Iterator[Update]:
    """What a microphone hears and what the model makes of it, for ever, in one loop.

    Args:
        engine: an open bundle.
        source: the system's microphone by default.
        listening: how.
        voice: what tells a voice; Silero by default.

    Raises:
        DeviceError: there is no microphone; the message tells why and what to do.
        ValueError: as `Listener`.
    """
    from .microphone import Microphone

    source = Microphone() if source is None else source
    with contextlib.closing(source), Listener(engine, source, listening, voice=voice) as listener:
        yield from listener
