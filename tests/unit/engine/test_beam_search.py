"""Beam search: against looking at every text, and the tree in the cache against lone texts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kokanee.engine import BeamSearch, Engine
from kokanee.engine.beam_search import Beams

F32 = npt.NDArray[np.float32]
BOS, EOS, N_VOCAB = 1, 2, 6


def a_model(seed: int) -> F32:
    """Logits of the next token by the last one: [last, next]."""
    return np.random.default_rng(seed).normal(size=(N_VOCAB, N_VOCAB)).astype(np.float32)


def run(model: F32, search: BeamSearch, n_steps: int) -> tuple[list[int], bool, list[int]]:
    """The result, whether it met the end token, and what was settled before it was known."""
    beams = Beams(search, bos_id=BOS, eos_ids=(EOS,))
    beams.advance(model[None, BOS])
    for _ in range(n_steps - 1):
        if beams.done:
            break
        beams.advance(model[beams.tokens])
    settled = list(beams.settled)
    return *beams.result(), settled


def log_probs(model: F32) -> F32:
    p: F32 = np.exp(model) / np.exp(model).sum(1, keepdims=True)
    return np.log(p)


def score(table: F32, ids: list[int], length_penalty: float, n_steps: int) -> float:
    """As the reference does; a text shorter than n_steps ends with EOS, which counts as well."""
    total = sum(float(table[a, b]) for a, b in itertools.pairwise((BOS, *ids)))
    if len(ids) < n_steps:
        total += float(table[(BOS, *ids)[-1], EOS])
    return total / math.pow(len(ids) + 1, length_penalty)


def all_texts(n_steps: int) -> Iterator[list[int]]:
    others = [i for i in range(N_VOCAB) if i != EOS]
    for n in range(n_steps + 1):
        for ids in itertools.product(others, repeat=n):
            yield list(ids)


@example(seed=1601, length_penalty=0.5)
@given(seed=st.integers(0, 10_000), length_penalty=st.sampled_from([0.5, 1.0, 2.0]))
def test_enough_beams_find_the_best_of_all_texts(seed: int, length_penalty: float) -> None:
    model = a_model(seed)
    # As many beams as there are texts. Without early stopping, which is a shortcut.
    n_beams = N_VOCAB**3
    search = BeamSearch(n_beams=n_beams, length_penalty=length_penalty)
    ids, _, _ = run(model, search, n_steps=3)
    table = log_probs(model)
    best = max(score(table, text, length_penalty, 3) for text in all_texts(3))
    # Not the ids: 1 3 1 and 3 1 1 behind a BOS of 1 are made of the same steps, so that rounding
    # decides between them.
    assert score(table, ids, length_penalty, 3) == pytest.approx(best, rel=1e-6)


@given(seed=st.integers(0, 10_000), n_beams=st.integers(2, 5), n_steps=st.integers(1, 9))
def test_what_is_settled_is_never_taken_back(seed: int, n_beams: int, n_steps: int) -> None:
    search = BeamSearch(n_beams=n_beams, length_penalty=1.5, repetition_penalty=1.2)
    ids, _, settled = run(a_model(seed), search, n_steps)
    assert ids[: len(settled)] == settled


@given(seed=st.integers(0, 10_000), n_beams=st.integers(2, 5), size=st.integers(1, 3))
def test_no_beam_says_a_run_of_tokens_again(seed: int, n_beams: int, size: int) -> None:
    search = BeamSearch(n_beams=n_beams, no_repeat_ngram_size=size)
    model = a_model(seed)
    model[:, EOS] -= 30  # or texts would be short
    ids, _, _ = run(model, search, N_VOCAB - 2)
    runs = [tuple(ids[at : at + size]) for at in range(len(ids) - size + 1)]
    assert len(runs) == len(set(runs))


def test_bos_counts_in_the_length_and_the_end_token_does_not() -> None:
    """Two texts, `3 EOS` and `3 4 EOS`, whose order depends on how long they are said to be."""
    model = np.full((N_VOCAB, N_VOCAB), -30, np.float32)
    model[BOS, 3] = 0
    model[3, EOS], model[3, 4] = np.log(0.52), np.log(0.48)
    model[4, EOS] = 0
    # ln .52 / 2 = -.327 against ln .48 / 3 = -.245: the longer one. Without BOS in the lengths
    # they would be ln .52 / 1 and ln .48 / 2, with the same winner, so the penalty is bent too.
    assert run(model, BeamSearch(n_beams=2), 5)[0] == [3, 4]
    assert run(model, BeamSearch(n_beams=2, length_penalty=0.1), 5)[0] == [3]
    # (2/3)^p = ln .52 / ln .48 = .891 at p = .285; with 1 and 2 it would be at p = .167
    assert run(model, BeamSearch(n_beams=2, length_penalty=0.25), 5)[0] == [3]
    assert run(model, BeamSearch(n_beams=2, length_penalty=0.32), 5)[0] == [3, 4]


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_beams": 1},
        {"length_penalty": float("nan")},
        {"repetition_penalty": 0.0},
        {"no_repeat_ngram_size": -1},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected n_beams >= 2"):
        BeamSearch(**wrong)  # type: ignore[arg-type]


def test_branches_in_one_cache_are_texts_of_their_own(tiny_engine: Engine, tiny: Path) -> None:
    """Three branches of two tokens behind a prompt, against each alone."""
    prompt, branches = (5, 6, 7), ((10, 20), (11, 21), (12, 22))
    alone = []
    for branch in branches:
        decoder = tiny_engine._decoder(16, 4.0)
        decoder.prefill(decoder.embed(prompt))
        alone.append([decoder.step(token).copy() for token in branch])
    decoder = tiny_engine._decoder(16, 4.0)
    decoder.prefill(decoder.embed(prompt))
    hidden = np.zeros((3, 3), np.float32)
    for i in range(2):
        each_other = np.where(np.eye(3), 0, -np.inf).astype(np.float32)
        hidden = np.hstack([hidden, each_other])
        tokens = [branch[i] for branch in branches]
        together = decoder.branch(tokens, position=3 + i, hidden=hidden)
        # One row and three are computed by different kernels, on activations of 8 bits.
        np.testing.assert_allclose(together, [logits[i] for logits in alone], atol=0.05)
