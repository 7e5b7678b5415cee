"""Logits of several running texts into the likeliest whole text, as SALMONN's decoder counts.

            +- the quick     -1.2         Every beam is a branch of one tree in the KV cache: its
    BOS ----+- the slow      -1.9         tokens stand behind the prompt in the order they were
            +- a quick brown -2.0         computed, and what is not a beam's own past is hidden from
            +- a fast        -2.4         its attention. So nothing is ever copied between beams.

Source: transformers 4.28 generation/beam_search.py (BeamSearchScorer, BeamHypotheses), with which
SALMONN's answers were made: BOS counts in a hypothesis's length, the end token does not. Later
releases count otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .decoder import Decoder
from .sampling import forbid_repeats, penalise

F32 = npt.NDArray[np.float32]

_HIDDEN = np.float32(-np.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearch:
    """How many texts are followed, and how a finished one is scored."""

    n_beams: int = 4
    length_penalty: float | None = None
    """A text's log-probability is divided by its length to this power; None: as the bundle has
    it, 1 for SALMONN."""
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int | None = None  # 0: say anything again; None: as the bundle has it

    def __post_init__(self) -> None:
        if not (
            self.n_beams >= 2
            and -float("inf") < (self.length_penalty or 0) < float("inf")
            and 0 < self.repetition_penalty < float("inf")
            and (self.no_repeat_ngram_size or 0) >= 0
        ):
            raise ValueError(
                "expected n_beams >= 2 (one is greedy), a finite length_penalty,"
                f" repetition_penalty > 0 and no_repeat_ngram_size >= 0, got {self}"
            )


@dataclass(frozen=True, slots=True)
class _Finished:
    """A text that met the end token, or the limit."""

    score: float
    ids: tuple[int, ...]
    stopped: bool


class Beams:
    """The running and the finished texts. It sees logits only; who computes them is not its affair.

    `settled` grows as soon as every text that can still win begins with the same ids.
    """

    def __init__(self, search: BeamSearch, *, bos_id: int | None, eos_ids: Sequence[int]) -> None:
        """Starts with one empty text.

        Args:
            search: how to search.
            bos_id: the id that stands before every text; it counts in the length, and the
                repetition penalty sees it.
            eos_ids: ids that end a text.
        """
        self._search = search
        penalty = search.length_penalty
        self._length_penalty = 1.0 if penalty is None else penalty
        self._bos = () if bos_id is None else (bos_id,)
        self._eos_ids = frozenset(eos_ids)
        self._running: list[tuple[int, ...]] = [()]
        self._sums = np.zeros(1, np.float32)  # log-probability of each running text
        self._finished: list[_Finished] = []
        self.done = False
        self.settled: list[int] = []
        """Ids that the answer is sure to begin with."""

    @property
    def tokens(self) -> list[int]:
        """The last id of each running text: what to compute next."""
        return [ids[-1] for ids in self._running]

    def advance(self, logits: F32) -> list[int]:
        """Follow the likeliest continuations.

        Args:
            logits: [n_running, n_vocab], a row for each running text.

        Returns:
            For each text that runs on, the index of the one it continues.
        """
        n = self._search.n_beams
        sums = self._sums[:, None] + self._penalised(_log_softmax(logits))
        n_vocab = sums.shape[1]
        flat = sums.reshape(-1)
        running: list[tuple[int, ...]] = []
        running_sums: list[np.float32] = []
        parents: list[int] = []
        best = _best(flat, 2 * n)
        for rank, at in enumerate(best):
            parent, token = divmod(at, n_vocab)
            if token in self._eos_ids:
                if rank < n:  # a worse one is passed over, as the reference does
                    self._finish(self._running[parent], float(flat[at]), stopped=True)
            elif len(running) < n:
                running.append((*self._running[parent], token))
                running_sums.append(flat[at])
                parents.append(parent)
        self._running, self._sums = running, np.array(running_sums, np.float32)
        if len(self._finished) == n and running:
            # BOS and the new token count in the length that is reached for.
            length = len(self._bos) + len(running[0])
            reachable = float(flat[best[0]]) / length**self._length_penalty
            self.done = min(f.score for f in self._finished) >= reachable
        self.done |= not running
        self._settle()
        return parents

    def result(self) -> tuple[list[int], bool]:
        """End here: the best text's ids without the end token, and whether it met one."""
        if not self.done:
            for ids, total in zip(self._running, self._sums, strict=True):
                self._finish(ids, float(total), stopped=False)
        best = max(reversed(self._finished), key=lambda f: f.score)  # of equals, the later one
        return list(best.ids), best.stopped

    def _penalised(self, log_probs: F32) -> F32:
        penalty, size = self._search.repetition_penalty, self._search.no_repeat_ngram_size
        if penalty == 1.0 and not size:
            return log_probs
        rows = []
        for row, ids in zip(log_probs, self._running, strict=True):
            penalised = penalise(row, (*self._bos, *ids), penalty)
            rows.append(forbid_repeats(penalised, ids, size) if size else penalised)
        return np.stack(rows)

    def _finish(self, ids: tuple[int, ...], total: float, *, stopped: bool) -> None:
        length = len(self._bos) + len(ids)
        # Without BOS an empty text has no length: it counts as one.
        score = total / max(1, length) ** self._length_penalty
        worst = min((f.score for f in self._finished), default=-float("inf"))
        if len(self._finished) < self._search.n_beams or score > worst:
            self._finished.append(_Finished(score, ids, stopped))
            if len(self._finished) > self._search.n_beams:
                self._finished.remove(min(self._finished, key=lambda f: f.score))

    def _settle(self) -> None:
        """Lengthen `settled` while all texts agree; only what is behind it is looked at."""
        first, *others = [*self._running, *(f.ids for f in self._finished)]
        shortest = min(map(len, (first, *others)))
        while (at := len(self.settled)) < shortest and all(o[at] == first[at] for o in others):
            self.settled.append(first[at])


def search_beams(
    decoder: Decoder, logits: F32, beams: Beams, *, max_new_tokens: int
) -> Iterator[None]:
    """Run the decoder until the search is done, or the next step does not fit into the cache.

    A step appends one position a beam to the cache.

    Args:
        decoder: has the prompt in its cache.
        logits: [n_vocab] behind the prompt.
        beams: the search, at its start.
        max_new_tokens: longest text.

    Yields:
        After every step: `beams.settled` may have grown.
    """
    cache = decoder.cache
    n_prompt = cache.length
    beams.advance(logits[None])
    # A row for each beam: what of the cache behind the prompt it may not see.
    hidden = np.zeros((len(beams.tokens), 0), np.float32)
    for n_steps in range(1, max_new_tokens + 1):
        yield
        tokens = beams.tokens
        if beams.done or n_steps == max_new_tokens or cache.room < len(tokens):
            return
        n = len(tokens)
        each_other = np.where(np.eye(n, dtype=bool), np.float32(0), _HIDDEN)
        hidden = np.concatenate([hidden, each_other], axis=1)
        visible = np.zeros((n, n_prompt), np.float32)
        logits_of_all = decoder.branch(
            tokens, position=n_prompt + n_steps - 1, hidden=np.hstack([visible, hidden])
        )
        hidden = hidden[beams.advance(logits_of_all)]


def _best(values: F32, n: int) -> list[int]:
    """Indices of the n largest, the largest first."""
    n = min(n, len(values))
    largest = np.argpartition(values, -n)[-n:]
    return [int(i) for i in largest[np.argsort(-values[largest], kind="stable")]]


def _log_softmax(logits: F32) -> F32:
    shifted: F32 = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted
