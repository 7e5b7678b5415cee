"""Where a recording is cut, and what is written down between the cuts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.engine import Engine
from kokanee.engine.audio import read_audio
from kokanee.runtime.demo import RECORDINGS
from kokanee.runtime.phrases import max_new_tokens, spans, transcribe, voice_of
from kokanee.runtime.vad import FRAME

F32 = npt.NDArray[np.float32]
PER_S = 16_000 / FRAME  # frames


def voice(*parts: tuple[float, float]) -> F32:
    """Parts of (seconds, how sure a voice is)."""
    return np.concatenate([np.full(round(s * PER_S), p, np.float32) for s, p in parts])


@given(
    parts=st.lists(st.tuples(st.floats(0.05, 20), st.floats(0, 1)), max_size=12),
    longest_s=st.floats(1, 12),
)
def test_every_voice_is_in_one_span_and_no_span_is_too_long(
    parts: list[tuple[float, float]], longest_s: float
) -> None:
    heard = voice(*parts) if parts else np.zeros(0, np.float32)
    found = spans(heard, longest_s=longest_s)
    covered = np.zeros(len(heard), int)
    for start, end in found:
        assert 0 <= start < end <= len(heard)
        assert end - start <= longest_s * PER_S
        covered[start:end] += 1
    assert covered.max(initial=0) <= 1
    assert covered[heard >= 0.5].min(initial=1) == 1
    assert found == sorted(found)


def test_a_cut_is_amid_the_longest_pause() -> None:
    heard = voice((3, 0.9), (0.2, 0.1), (3, 0.9), (0.5, 0.1), (3, 0.9))
    (first, second) = spans(heard, longest_s=8)
    assert first[1] == second[0] == pytest.approx(6.45 * PER_S, abs=1)


def test_where_there_is_no_pause_the_unlikeliest_voice_is_cut() -> None:
    heard = voice((4, 0.9), (0.1, 0.6), (5, 0.9))
    (first, second) = spans(heard, longest_s=8)
    assert first[1] == second[0] == pytest.approx(4.05 * PER_S, abs=2)


def test_silence_around_and_between_is_not_heard() -> None:
    heard = voice((10, 0.0), (2, 0.9), (30, 0.0), (2, 0.9), (10, 0.0))
    (first, second) = spans(heard, longest_s=8)
    for span, start_s in ((first, 10), (second, 42)):
        assert span[0] == pytest.approx((start_s - 0.3) * PER_S, abs=1.5)
        assert span[1] == pytest.approx((start_s + 2.3) * PER_S, abs=1.5)


def test_too_short_spans_are_refused() -> None:
    with pytest.raises(ValueError, match=r"longest_s: expected 1 or more, got 0\.5"):
        spans(voice((2, 0.9)), longest_s=0.5)


def test_phrases_are_what_is_answered_to_their_samples(tiny_engine: Engine) -> None:
    speech = read_audio(RECORDINGS / "speech.wav").pcm
    pcm = np.concatenate([np.zeros(32_000, np.float32), speech, np.zeros(8_000, np.float32)])
    question = "Write down what is said."
    with tiny_engine.session(n_ctx=256) as session:
        said = list(transcribe(session, pcm, question=question))
        assert len(said) == 1
        (phrase,) = said
        assert 1.0 < phrase.start_s < 3.0
        assert phrase.start_s + 1 < phrase.end_s <= len(pcm) / 16_000
        session.hear(pcm[round(phrase.start_s * 16_000) : round(phrase.end_s * 16_000)])
        assert phrase.text == session.ask(question, max_new_tokens=64).text().strip()
        assert phrase.finish_reason == "length"


def test_nothing_is_written_where_nobody_speaks(tiny_engine: Engine) -> None:
    silence = np.zeros(20_000, np.float32)
    assert voice_of(silence).shape == (40,)
    with tiny_engine.session(n_ctx=256) as session:
        assert list(transcribe(session, silence)) == []


@pytest.mark.parametrize(("seconds", "most"), [(0.5, 64), (10, 64), (30, 180), (73.3, 200)])
def test_a_transcript_has_room_for_everything_that_can_be_said(seconds: float, most: int) -> None:
    assert max_new_tokens(np.zeros(int(seconds * 16_000), np.float32)) == most
