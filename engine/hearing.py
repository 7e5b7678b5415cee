"""A sound goes into the KV cache while it is still being made.

    append ─► GrowingSound ─► soft tokens so far ──compare──► soft tokens in the cache
                                    │ first window that changed by more than the tolerance
                                    ▼
              Context.put: rewind to there, prefill from there

`catch_up` does that with what can be told by now, `settle` with the whole sound.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .context import GRID, Context
from .growing import GrowingSound, Streaming

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What is in the cache of a sound."""

    seconds: float
    n_segments: int
    n_soft_tokens: int
    notes: tuple[str, ...]  # what was done to the audio: padded, cut, split
    timings_ms: dict[str, float]  # all work since the sound began


class Hearing:
    """One sound that grows in a session's cache; from `Session.listen`, for the session's thread.

    The session can be asked at any time; the answer is to what is in the cache by then. The next
    sound of the session ends it.
    """

    def __init__(
        self,
        sound: GrowingSound,
        context: Context,
        streaming: Streaming,
        *,
        n_queries: int,
        claim: Callable[[Hearing], None],
    ) -> None:
        self._sound = sound
        self._context = context
        self._streaming = streaming
        self._n_queries = n_queries
        self._claim = claim  # raises if the cache is not this sound's any more; stops an answer
        self._prefill_ms = 0.0
        self.n_computed = 0
        """Positions that were prefilled for this sound, some of them again."""

    @property
    def seconds(self) -> float:
        """Length of the sound so far."""
        return self._sound.seconds

    @property
    def n_pieces(self) -> int:
        """Stretches that are encoded each for itself, the growing one included."""
        return self._sound.n_pieces

    @property
    def n_soft_tokens(self) -> int:
        """Soft tokens in the cache."""
        return len(self._context.rows)

    @property
    def soft_tokens(self) -> F32:
        """What is in the cache, [n_soft_tokens, d_model]; not a copy."""
        return self._context.rows

    def fresh(self) -> F32:
        """What the encoders make of the whole sound by now, [n, d_model]; the cache stays as it is.

        Raises:
            AudioFormatError: there is no sound yet.
        """
        return self._sound.whole()

    @property
    def timings_ms(self) -> dict[str, float]:
        """Milliseconds of work by stage since the sound began."""
        return self._sound.timings_ms | {"prefill_audio": self._prefill_ms}

    def append(self, pcm: F32) -> None:
        """More sound, [n_samples], 16 kHz mono, in chunks of any length.

        Cheap, but for pieces that become full, which are encoded (every `piece_s` of sound, or
        every 30 s). The cache stays as it is until `catch_up` or `settle`.

        Raises:
            AudioFormatError: not one-dimensional float32, or not finite; nothing is taken.
        """
        self._sound.append(pcm)

    def catch_up(self) -> int:
        """Have the cache hold what can be told, or guessed, of the sound so far.

        Returns:
            How many positions were computed.

        Raises:
            ContextFull: they do not fit; what is in the cache stays.
            Interrupted: `interrupt` was called meanwhile; what is in the cache stays.
            ValueError: the session hears another sound by now.
            SessionClosed: it was closed.
        """
        self._claim(self)
        rows = self._sound.so_far()
        if self._streaming.tolerance == 0:  # chunks that are not full would have to be redone
            rows = rows[: len(rows) // GRID * GRID]
        return self._put(rows, self._sound.n_final)

    def interrupt(self) -> None:
        """End a `catch_up` that is encoding, as there is better to do; from any thread."""
        self._sound.interrupt()

    def settle(self) -> Heard:
        """Have the cache hold the whole sound, as if it ended here; more may be appended after.

        Raises:
            AudioFormatError: there is no sound yet.
            ContextFull: it does not fit; what is in the cache stays.
            ValueError: the session hears another sound by now.
            SessionClosed: it was closed.
        """
        self._claim(self)
        rows = self._sound.whole()
        self._put(rows, len(rows))
        n_pieces = self._sound.n_pieces
        notes = (f"heard {self.seconds:.1f} s in {n_pieces} pieces",) if n_pieces > 1 else ()
        return Heard(
            seconds=self.seconds,
            n_segments=n_pieces,
            n_soft_tokens=self.n_soft_tokens,
            notes=notes,
            timings_ms=self.timings_ms,
        )

    def _put(self, rows: F32, n_final: int) -> int:
        started = time.perf_counter()
        how = self._streaming
        let_pass = np.full(len(rows) // self._n_queries, how.guess_tolerance, np.float32)
        let_pass[: n_final // self._n_queries] = how.tolerance
        keep = first_change(self._context.rows, rows, let_pass, n_queries=self._n_queries)
        grid = GRID if how.tolerance == 0 else None
        n_computed = self._context.put(rows, keep=keep, grid=grid)
        self.n_computed += n_computed
        self._prefill_ms += (time.perf_counter() - started) * 1e3
        return n_computed


def first_change(old: F32, new: F32, let_pass: F32, *, n_queries: int) -> int:
    """Where two runs of soft tokens begin to differ, in soft tokens, at a window's start.

    Args:
        old: [n_old, d_model], in the cache.
        new: [n_new, d_model].
        let_pass: [n_new // n_queries], norm of a window's change, as a share of its norm, up to
            which it counts as the same.
        n_queries: soft tokens a window.
    """
    n = min(len(old), len(new)) // n_queries
    if n == 0:
        return 0
    before = old[: n * n_queries].reshape(n, -1)
    change = new[: n * n_queries].reshape(n, -1) - before
    norms = np.sqrt(np.square(change).sum(1)), np.sqrt(np.square(before).sum(1))
    changed = np.flatnonzero(norms[0] > let_pass[:n] * norms[1])
    return int(changed[0] if len(changed) else n) * n_queries
