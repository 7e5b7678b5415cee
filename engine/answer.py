"""The text of an answer, generated while it is read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from .prompt import Prompt


class Answer:
    """Text that is generated while it is read; reading it again replays it.

    Iterate for pieces, or take it whole with `text()`. `cancel()` may be called from any thread.
    The rest belongs to the session's thread.
    """

    def __init__(
        self, pieces: Callable[[Answer], Iterator[str]], interrupt: Callable[[], None]
    ) -> None:
        self.ids: list[int] = []
        """Generated token ids so far, without BOS and without the end token."""
        self.finish_reason: str | None = None
        """None while running; then "stop", "length", "context" or "cancelled"."""
        self.timings_ms: dict[str, float] = {}
        self.prompt: Prompt | None = None
        """What was asked, as ids; set by the session."""
        self._pieces: list[str] = []
        self._cancelled = threading.Event()
        self._interrupt = interrupt
        self._running = threading.Lock()  # held while cancelling, and while beginning and ending
        self._runs = False
        self._source = pieces(self)

    def __iter__(self) -> Iterator[str]:
        """Every piece from the first, generating those that are not there yet."""
        n_given = 0
        while True:
            while n_given < len(self._pieces):
                yield self._pieces[n_given]
                n_given += 1
            piece = next(self._source, None)
            if piece is None:
                return
            self._pieces.append(piece)

    def text(self) -> str:
        """The whole answer, generated to its end."""
        return "".join(self)

    def all_ids(self) -> list[int]:
        """The ids of the whole answer, generated to its end."""
        self.text()
        return self.ids

    def cancel(self) -> None:
        """Stop now, in the middle of a token if need be; what was said so far stays readable."""
        with self._running:
            self._cancelled.set()
            if self._runs:
                self._interrupt()

    @contextlib.contextmanager
    def cancellable(self, resume: Callable[[], None]) -> Iterator[None]:
        """While the session computes for this answer, and only then, `cancel` interrupts it."""
        with self._running:
            self._runs = not self.cancelled
        try:
            yield
        finally:
            with self._running:
                self._runs = False
                resume()

    @property
    def cancelled(self) -> bool:
        """Whether someone asked to stop."""
        return self._cancelled.is_set()
