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
from collections.abc import AsyncIterator, Callable, Generator, Iterator

from kokanee.engine import Engine, Session
from kokanee.engine.features import SAMPLE_RATE

from .ears import Ears
from .endpoint import Endpointer
from .listening import Listening, Tally, turns_that_fit, unpadded
from .sources import Source
from .turn_taking import TurnTaking
from .updates import Level, Update
from .vad import SileroVAD, VoiceDetector

LEVEL_S = 0.1
_TEMPLATE = 64  # positions for what stands around a question in writing, and to spare
_TICK_S = 0.05  # how long to wait for sound before a level is told all the same


class Listener:
    """Iterate for updates; from any thread: `cancel`, `press`, `release`, `close`.

    The model works in the thread that iterates. Iterate slowly and sound waits; after `backlog_s`
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
        questions = how.asked(engine)
        self._session = engine.session(
            n_ctx=how.n_ctx, lora_scale=how.lora_scale, policy=unpadded(engine.manifest.policy)
        )
        self._writer: Session | None = None
        # Half of the context is for earlier turns, if any are kept.
        n_turn = self._session.n_ctx // (2 if how.memory_turns else 1)
        try:
            turns = turns_that_fit(self._session, how, questions, n_turn=n_turn)
            if how.in_writing:  # beside it: a sound that is followed must not make room for text
                n_ctx = _TEMPLATE + 2 * how.max_new_tokens
                self._writer = engine.session(n_ctx=min(n_ctx, engine.manifest.dims.n_positions))
        except Exception:
            self._session.close()
            raise
        self.longest_s = turns.max_turn_s
        """Seconds after which a turn is closed, for want of room or because the settings say so."""
        self._source = source
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None  # our own that iterates, if any does
        self._told_level = -1  # in tenths of a second
        if voice is None and turns.voices:
            voice = SileroVAD()
        self._ears = Ears(
            source, Endpointer(turns, voice), backlog_s=how.backlog_s, record=how.record
        )
        self._taking = TurnTaking(
            self._session,
            self._ears,
            how,
            questions,
            n_turn=n_turn,
            source=source,
            is_closing=self._closing.is_set,
            meanwhile=self._level,
            writer=self._writer,
        )
        self._ears.begin(
            on_start=self._taking.cancel if how.barge_in else _nothing,
            on_pause=self._taking.pause,
        )
        self._updates = self._run()

    # --- for any thread --------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop the answer that is being given."""
        self._taking.cancel()

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
        return dataclasses.replace(self._taking.tally, dropped_s=self._ears.n_dropped / SAMPLE_RATE)

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
        if self._writer is not None:
            self._writer.close()

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

    # --- inside ----------------------------------------------------------------------------------

    def _run(self) -> Generator[Update]:
        try:
            while not self._closing.is_set():
                yield from self._level()
                stretches = self._ears.take(_TICK_S)
                if stretches is None:
                    return
                for stretch in stretches:
                    yield from self._taking.hear(stretch)
                yield from self._taking.think()
        finally:
            self._ears.close()

    def _level(self) -> Iterator[Update]:
        """How loud it is, ten times a second of the clock, or of the sound if it comes faster."""
        dbfs, voice, at = self._ears.level
        now = time.monotonic() if self._source.live else at / SAMPLE_RATE
        if (tick := int(now / LEVEL_S + 1e-6)) > self._told_level:  # 0.3 / 0.1 is less than 3
            self._told_level = tick
            yield Level(at_s=at / SAMPLE_RATE, dbfs=round(dbfs, 1), voice=round(voice, 3))


def _nothing() -> None:
    """For a turn that begins and stops no answer."""


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
