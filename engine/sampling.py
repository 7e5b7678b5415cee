"""Logits into the next token: small functions, put together once per answer.

    logits --repetition--> --no repeat--> --temperature--> --top_k--> --top_p--> --min_p--> draw

The order is that of Hugging Face transformers, so equal settings mean the same here and there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Filter = Callable[[F32], F32]
Sampler = Callable[[F32, Sequence[int]], int]  # logits [n_vocab], ids generated so far -> id

_NEVER = np.float32(-np.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the defaults always take the likeliest that may come."""

    temperature: float = 0.0  # 0: greedy, and the next three have no effect
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0  # of the likeliest token's probability
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int | None = None  # 0: say anything again; None: as the bundle has it
    seed: int | None = None  # None: another answer every time

    def __post_init__(self) -> None:
        if not (
            0 <= self.temperature < float("inf")
            and self.top_k >= 0
            and 0 < self.top_p <= 1
            and 0 <= self.min_p <= 1
            and 0 < self.repetition_penalty < float("inf")
            and (self.no_repeat_ngram_size or 0) >= 0
        ):
            raise ValueError(
                "expected temperature >= 0, top_k >= 0, 0 < top_p <= 1, 0 <= min_p <= 1,"
                f" repetition_penalty > 0 and no_repeat_ngram_size >= 0, got {self}"
            )


def make_sampler(sampling: Sampling, *, bos_id: int | None = None) -> Sampler:
    """A function from logits and the ids generated so far to the next id.

    It holds the random state: make one per answer, and the same seed gives the same answer.

    Args:
        sampling: how to choose.
        bos_id: an id that the repetition penalty sees before the generated ones. SALMONN's decoder
            starts from BOS alone, so that there the prompt is not penalised, but BOS is.
    """
    before = () if bos_id is None else (bos_id,)
    filters: list[Filter] = []
    if sampling.temperature > 0:
        filters.append(lambda logits: logits / np.float32(sampling.temperature))
        if sampling.top_k:
            filters.append(lambda logits: top_k(logits, sampling.top_k))
        if sampling.top_p < 1:
            filters.append(lambda logits: top_p(logits, sampling.top_p))
        if sampling.min_p > 0:
            filters.append(lambda logits: min_p(logits, sampling.min_p))
    rng = np.random.default_rng(sampling.seed)

    def sample(logits: F32, ids: Sequence[int]) -> int:
        if sampling.repetition_penalty != 1.0:
            logits = penalise(logits, (*before, *ids), sampling.repetition_penalty)
        if sampling.no_repeat_ngram_size:
            logits = forbid_repeats(logits, ids, sampling.no_repeat_ngram_size)
        if sampling.temperature == 0:
            return int(logits.argmax())
        for apply in filters:
            logits = apply(logits)
        return draw(logits, rng)

    return sample


def penalise(logits: F32, ids: Sequence[int], penalty: float) -> F32:
    """Makes the tokens in `ids` less likely (penalty > 1).

    Source: Keskar et al., CTRL (arXiv 1909.05858), with negative logits multiplied instead of
    divided, as everyone does since.
    """
    if penalty == 1.0 or not ids:
        return logits
    seen = np.unique(np.asarray(ids, np.int64))
    out = logits.copy()
    factor = np.float32(penalty)
    out[seen] = np.where(out[seen] > 0, out[seen] / factor, out[seen] * factor)
    return out


def forbid_repeats(logits: F32, ids: Sequence[int], size: int) -> F32:
    """Takes out each token that would end a run of `size` tokens which `ids` already has.

    A small model that says the same four tokens twice often says them for ever. `logits` stay as
    they are.

    Source: Paulus et al., A Deep Reinforced Model for Abstractive Summarization (arXiv
    1705.04304), trigrams there; transformers' `NoRepeatNGramLogitsProcessor`.
    """
    n_before = size - 1
    start = tuple(ids[len(ids) - n_before :]) if n_before else ()
    forbidden = [
        ids[at + n_before]
        for at in range(len(ids) - n_before)
        if tuple(ids[at : at + n_before]) == start
    ]
    if not forbidden:
        return logits
    out = logits.copy()
    out[forbidden] = _NEVER
    return out


def top_k(logits: F32, k: int) -> F32:
    """Keeps the k likeliest tokens, and those that tie with the last of them."""
    if k >= len(logits):
        return logits
    return np.where(logits < np.partition(logits, -k)[-k], _NEVER, logits)


def top_p(logits: F32, p: float) -> F32:
    """Keeps the fewest tokens that together have probability p or more.

    Source: Holtzman et al., The Curious Case of Neural Text Degeneration (arXiv 1904.09751).
    """
    order = np.argsort(-logits, kind="stable")
    total = np.cumsum(_softmax(logits)[order])
    n_kept = int(np.searchsorted(total, p)) + 1
    out = np.full_like(logits, _NEVER)
    out[order[:n_kept]] = logits[order[:n_kept]]
    return out


def min_p(logits: F32, p: float) -> F32:
    """Keeps tokens at least p times as likely as the likeliest.

    Source: Nguyen et al., Min-p Sampling (arXiv 2407.01082).
    """
    if p == 0:
        return logits
    return np.where(logits < logits.max() + np.float32(np.log(p)), _NEVER, logits)


def draw(logits: F32, rng: np.random.Generator) -> int:
    """One id, with the probabilities that the logits stand for."""
    total = np.cumsum(_softmax(logits))
    # side="right" steps over tokens of probability zero, also at a draw of exactly 0.
    at = np.searchsorted(total, np.float32(rng.random(dtype=np.float32)) * total[-1], side="right")
    return int(min(at, np.flatnonzero(logits > _NEVER)[-1]))


def _softmax(logits: F32) -> F32:
    p: F32 = np.exp(logits - logits.max())
    p /= p.sum()
    return p
