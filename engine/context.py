"""What the KV cache holds: turns that are over, then the one that is asked about.

    0        n_base                         n_heard                  n_ctx
    |  turns  |  head  |  soft tokens        |  question  |  answer  |  |
    +-- keep -+-- listen ---- put -----------+-- rewind: here again

Rotary positions and what a token saw are baked into its keys and values. A change is therefore a
rewind to before it and a prefill from there on; nothing is moved or patched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .decoder import Decoder
from .errors import ContextFull

F32 = npt.NDArray[np.float32]

# Soft tokens of an exact prefill come in chunks of so many, counted from the first: the same chunks
# give the same bits however the sound arrived. Speed is flat from about 32 on.
GRID = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A turn that is over and stays in the context."""

    head: tuple[int, ...]
    rows: F32  # [n_soft_tokens, d_model]
    behind: tuple[int, ...]  # question, answer and end
    seconds: float  # of sound
    n_positions: int
    lora_scale: float


class Context:
    """The decoder's cache and what each stretch of it means; one thread's."""

    def __init__(self, decoder: Decoder, *, d_model: int, bos_id: int | None) -> None:
        self.decoder = decoder
        self.head: tuple[int, ...] | None = None
        """Ids before the sound in the cache, without BOS; None: there is no turn in it."""
        self.rows: F32 = np.empty((0, d_model), np.float32)
        """Soft tokens in the cache, behind the head."""
        self.turns: list[Turn] = []
        self._n_base = 0
        self._bos = () if bos_id is None else (bos_id,)

    @property
    def n_heard(self) -> int:
        """Positions up to the end of the sound."""
        return self._n_before(self.head or ()) + len(self.rows)

    @property
    def n_free(self) -> int:
        """Positions behind the turns that are over."""
        return self.decoder.cache.n_ctx - self._n_base

    def room_behind(self, head: tuple[int, ...]) -> int:
        """Positions that are left for what follows a head."""
        return self.decoder.cache.n_ctx - self._n_before(head)

    def listen(self, head: tuple[int, ...], *, lora_scale: float) -> None:
        """Begin a turn: `head` is in the cache, no sound behind it.

        Raises:
            ContextFull: the head does not fit; the cache is as before.
        """
        self._start(head, lora_scale, 0)

    def put(self, rows: F32, *, keep: int, grid: int | None = None) -> int:
        """Have the sound be `rows` [n_rows, d_model], the first `keep` as they are in the cache.

        Args:
            rows: soft tokens.
            keep: how many of them need no prefill.
            grid: prefill from a multiple of this many on, in chunks of this many; None: from `keep`
                on, in one.

        Returns:
            How many positions were computed.

        Raises:
            ContextFull: they do not fit; the cache is as before.
        """
        assert self.head is not None
        keep = min(keep, len(self.rows), len(rows))
        if grid is not None:
            keep = keep // grid * grid
        before = self._n_before(self.head)
        self._check_room(before + len(rows))
        rows = np.concatenate([self.rows[:keep], rows[keep:]])  # what the cache was computed from
        # Counted first: an interrupt in the middle leaves what is computed, and no more.
        self.rows = rows[:keep]
        self.decoder.cache.trim(before + keep)
        step = grid or max(1, len(rows) - keep)
        for at in range(keep, len(rows), step):
            self.decoder.prefill(rows[at : at + step])
            self.rows = rows[: at + step]
        return len(rows) - keep

    def refill(self, head: tuple[int, ...], *, lora_scale: float, grid: int | None) -> None:
        """The same sound behind another head, or under another scale of the adapter.

        Raises:
            ContextFull: they do not fit; the cache is as before.
        """
        rows = self.rows
        self._start(head, lora_scale, len(rows))
        self.put(rows, keep=0, grid=grid)

    def rewind(self) -> None:
        """Back to the end of the sound."""
        self.decoder.cache.trim(self.n_heard)

    def keep(self, behind: tuple[int, ...], *, seconds: float) -> None:
        """The turn is over and stays: `behind`, its question, answer and end, become the past.

        Raises:
            ContextFull: they do not fit; the turn is as before.
        """
        assert self.head is not None
        self.rewind()
        self.decoder.prefill(self.decoder.embed(behind))
        n_base, self._n_base = self._n_base, self.decoder.cache.length
        turn = Turn(
            head=self.head,
            rows=self.rows,
            behind=behind,
            seconds=seconds,
            n_positions=self._n_base - n_base,
            lora_scale=self.decoder.lora_scale,
        )
        self.turns.append(turn)
        self.head, self.rows = None, self.rows[:0]

    def forget(self, n_turns: int) -> tuple[Turn, ...]:
        """Drop the oldest turns and prefill those that stay, as if the others had never been."""
        dropped, kept = tuple(self.turns[:n_turns]), self.turns[n_turns:]
        if dropped:
            self.head, self.rows = None, self.rows[:0]
            self.turns, self._n_base = [], 0
            self.decoder.cache.trim(0)
            for turn in kept:
                self._start(turn.head, turn.lora_scale, len(turn.rows))
                self.put(turn.rows, keep=0, grid=GRID)
                self.keep(turn.behind, seconds=turn.seconds)
        return dropped

    def _start(self, head: tuple[int, ...], lora_scale: float, n_rows: int) -> None:
        decoder, n_before = self.decoder, self._n_before(head)
        self._check_room(n_before + n_rows)
        at_hand = self.head == head and decoder.cache.length >= n_before
        if not at_hand or lora_scale != decoder.lora_scale:
            self.head = None  # until it is whole: an interrupt may come in between
            decoder.cache.trim(self._n_base)
            decoder.lora_scale = lora_scale
            if n_before > self._n_base:
                decoder.prefill(decoder.embed(self._opening(head)))
            self.head = head
        self.rows = self.rows[:0]
        decoder.cache.trim(n_before)

    def _opening(self, head: tuple[int, ...]) -> tuple[int, ...]:
        """What is prefilled before the sound: only the first turn begins with BOS."""
        return head if self._n_base else (*self._bos, *head)

    def _n_before(self, head: tuple[int, ...]) -> int:
        return self._n_base + len(self._opening(head))

    def _check_room(self, n_positions: int) -> None:
        n_ctx = self.decoder.cache.n_ctx
        if n_positions > n_ctx:
            raise full("the audio", n_positions - self._n_base, n_ctx - self._n_base, n_ctx)


def full(
    what: str, n_needed: int, n_free: int, n_ctx: int, *, advice: str = "hear less at once"
) -> ContextFull:
    """The error for what does not fit."""
    return ContextFull(
        f"{what} needs {n_needed} positions, {n_free} of {n_ctx} are free;"
        f" open a session with a larger n_ctx, or {advice}"
    )
