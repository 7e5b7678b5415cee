"""What is done about a turn while it is spoken, in the pause that may end it, and when it is over.

    Start ──► hop, hop, hop ──► Pause: settle, ask, first piece ──► End: say it, keep or forget
              encode, prefill       │ Resume: thrown away
                ▲───────────────────┘

A hop is left out while the voice is silent, and interrupted when a pause makes it stale: the pause
has better to do.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kokanee.engine import Answer, Hearing, Session
from kokanee.engine.errors import Interrupted
from kokanee.engine.features import SAMPLE_RATE

from .ears import Ears, Stretch
from .endpoint import End, Mark, Pause, Resume, Start
from .in_writing import written_question
from .listening import Ask, Listening, Tally
from .sources import Source
from .updates import (
    Device,
    Final,
    Forgotten,
    Kind,
    Partial,
    Piece,
    SpeechStarted,
    SpeechStopped,
    Update,
)
from .vad import FRAME

F32 = npt.NDArray[np.float32]

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
    guess: tuple[Ask, Answer] | None = None  # begun in the pause
    next_hop: int = 0  # index of the sample at which to encode again
    next_partial: int = 0


class TurnTaking:
    """The session's side of listening; one thread's, but for `cancel` and `pause`."""

    def __init__(
        self,
        session: Session,
        ears: Ears,
        how: Listening,
        questions: dict[Kind, tuple[Ask, ...]],
        *,
        n_turn: int,
        source: Source,
        is_closing: Callable[[], bool],
        meanwhile: Callable[[], Iterator[Update]],
        writer: Session | None = None,
    ) -> None:
        """No turn is open.

        Args:
            session: whose policy pads nothing to 30 s.
            ears: what waits to be taken is asked of them.
            how: the settings.
            questions: what is asked about each kind of turn, at least one.
            n_turn: positions of the context that the next turn must find free.
            source: whose name is told, and that decides whether sound waits.
            is_closing: asked between the pieces of work.
            meanwhile: updates to be told between the pieces of an answer.
            writer: answers in writing what the first answer has written down, if it is there.
        """
        self.tally = Tally()
        self._session, self._ears, self._how, self._source = session, ears, how, source
        self._writer = writer
        self._questions, self._n_turn = questions, n_turn
        self._is_closing, self._meanwhile = is_closing, meanwhile
        self._tape: deque[tuple[int, F32]] = deque()  # (index of the first sample, samples)
        self._now = 0  # index of the next sample
        self._turn: _Turn | None = None
        self._kept: deque[int] = deque()  # numbers of the turns that are in the context
        self._n_hop = round(how.hop_s * SAMPLE_RATE)
        self._answer: Answer | None = None  # being given; read by other threads
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Stop the answer that is being given."""
        with self._lock:
            if self._answer is not None:
                self._answer.cancel()

    def pause(self) -> None:
        """A turn may be over: what is encoded of it is stale. From any thread."""
        if (turn := self._turn) is not None:
            turn.hearing.interrupt()

    def hear(self, stretch: Stretch) -> Iterator[Update]:
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
        self.tally.turns += 1
        raw = self._questions[start.kind][0].raw_prompt
        self._turn = _Turn(
            number=self.tally.turns,
            start=start,
            hearing=self._session.listen(self._how.streaming, raw_prompt=raw),
            fed=start.at,
            next_hop=start.at + self._n_hop,
            next_partial=start.at + self._partial_samples,
        )
        yield SpeechStarted(
            turn=self.tally.turns,
            kind=start.kind,
            at_s=start.onset / SAMPLE_RATE,
            start_s=start.at / SAMPLE_RATE,
        )

    def think(self) -> Iterator[Update]:
        """What can be done about an open turn before its end."""
        turn = self._turn
        if turn is None or not turn.hearing.seconds:  # nothing yet, or all of it was dropped
            return
        partial: Partial | None = None
        started = time.perf_counter()
        if self._ears.has_marks:
            pass  # what is known of the turn is not all there is to know
        elif turn.pause is not None:
            if turn.guess is None:
                self._guess(turn, turn.pause.at)
        # A voice that is silent right now may have ended: then there is better to do soon.
        elif turn.fed >= turn.next_hop and not self._ears.is_quiet:
            partial = self._hop(turn)
        self._count_busy(started)
        if partial is not None:
            yield partial

    def _hop(self, turn: _Turn) -> Partial | None:
        """Have the cache follow the sound; from time to time, say what is understood so far."""
        started = time.perf_counter()
        try:
            turn.hearing.catch_up()
        except Interrupted:
            return None
        self.tally.hops += 1
        self._put_off_hop(turn, time.perf_counter() - started)
        if self._how.partial_s is None or turn.fed < turn.next_partial:
            return None
        turn.next_partial = turn.fed + self._partial_samples
        return self._partial(turn)

    def _guess(self, turn: _Turn, end: int) -> None:
        """Settle the sound as if it ended there, and compute the first piece of the answer."""
        self._settle(turn, end)
        ask = self._questions[turn.start.kind][0]
        turn.guess = ask, self._asked(ask)
        next(iter(turn.guess[1]), None)
        self.tally.guesses += 1

    def _drop_guess(self, turn: _Turn) -> None:
        if turn.guess is not None:
            turn.guess[1].cancel()
            turn.guess = None
            self.tally.guesses_void += 1

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
        if self._is_closing():
            return
        started = time.perf_counter()
        # When the sample that settled it was there, on the clock.
        decided = heard_at - max(0, self._now - end.decided_at) / SAMPLE_RATE
        guessed = turn.settled == end.at
        asks = self._questions[end.kind]
        # A sound may have turned out to be a voice, which is asked something else.
        if turn.guess is not None and not (guessed and turn.guess[0] == asks[0]):
            self._drop_guess(turn)
        self._settle(turn, end.at)
        if not turn.hearing.n_soft_tokens:  # a key that was let go at once
            return
        latencies = {
            "wait": (end.decided_at - end.offset) / SAMPLE_RATE * 1e3,
            "settle": turn.settle_ms,
            "settled_ahead": turn.settle_ms if guessed else 0.0,
        }
        given: list[Answer] = []
        self._count_busy(started)
        for ask in asks:
            guess, turn.guess = turn.guess, None
            answer = self._asked(ask) if guess is None else guess[1]
            given.append(answer)
            yield from self._give(turn, end, ask, answer, decided, latencies)
            if answer.cancelled:
                break
        else:
            yield from self._answer_in_writing(turn, end, given[0].text(), decided, latencies)
        if self._how.memory_turns:
            yield from self._remember(turn, given[0])
        self._session.rest()  # now, while nobody waits for anything

    def _answer_in_writing(
        self, turn: _Turn, end: End, words: str, decided: float, latencies: dict[str, float]
    ) -> Iterator[Update]:
        """What the bare language model has to say to a transcript; the sound stays where it is."""
        if self._writer is None or end.kind == "sound" or not (text := written_question(words)):
            return
        answer = self._writer.ask_in_writing(
            text, sampling=self._how.sampling, max_new_tokens=self._how.max_new_tokens
        )
        yield from self._give(turn, end, Ask(question=text), answer, decided, latencies)

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
        if self._is_closing() or (self._how.barge_in and self._ears.has_start):
            answer.cancel()  # whoever closed, or speaks already, found no answer to stop
        pieces, started = iter(answer), time.perf_counter()
        while (piece := next(pieces, None)) is not None:
            self._count_busy(started)
            if "compute" not in latencies:
                latencies["compute"] = (time.monotonic() - decided) * 1e3
            yield Piece(turn=turn.number, question=ask.label, text=piece)
            yield from self._meanwhile()
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
            if self._ears.has_marks or self._is_closing():
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
        n_samples = self._n_hop
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

    def _count_busy(self, started: float) -> None:
        self.tally.busy_s += time.perf_counter() - started

    @property
    def _partial_samples(self) -> int:
        return round((self._how.partial_s or 0.0) * SAMPLE_RATE)
