"""A recording, cut where its speaker pauses: a model hears a phrase or two at a time.

    pcm --Silero VAD--> voice [n_frames] --spans--> from, to --transcribe--> Phrase, Phrase ...

A small model loses clauses of what goes on for long, and none hears an hour at once. Source: the
idea is WhisperX's cut and merge (Bain et al., arXiv 2303.00747); here spans are not merged up to a
length but halved down to it, each time at the pause that is longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kokanee.engine import BeamSearch, Sampling, Session
from kokanee.engine.features import SAMPLE_RATE
from kokanee.engine.session import DEFAULT_MAX_NEW_TOKENS

from .vad import FRAME, SileroVAD

F32 = npt.NDArray[np.float32]

LONGEST_S = 8.0  # least errors on validation (`python -m training.circles`)
MIN_NEW_TOKENS = 64  # of a transcript, at least
TOKENS_PER_S = 6  # twice of what people say

_VOICE = 0.5  # from which on somebody speaks, as `TurnDetection` has it
_MARGIN = 9  # frames kept on both sides of a voice: 0.3 s
_LEAST = 15  # frames of a span: half a second
_LONG_PAUSE = 25  # frames; of pauses from here on the one nearest the middle is as good as any


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """What is said between two times."""

    start_s: float
    end_s: float
    text: str
    finish_reason: str | None  # as of an `Answer`


def voice_of(pcm: F32) -> F32:
    """How sure Silero VAD is, 0 to 1, that somebody speaks: [n_frames] of 32 ms, from [n_samples].

    A last frame that is not whole ends in silence.
    """
    detect = SileroVAD()
    frames = np.zeros((-(-len(pcm) // FRAME), FRAME), np.float32)
    frames.reshape(-1)[: len(pcm)] = pcm
    return np.array([detect(frame) for frame in frames], np.float32)


def spans(voice: F32, *, longest_s: float = LONGEST_S) -> list[tuple[int, int]]:
    """Frames from and to which a phrase lasts, in order, none beyond `longest_s`; [] if no voice.

    Args:
        voice: [n_frames], as `voice_of` has it.
        longest_s: at least a second.

    Raises:
        ValueError: spans of less than a second were asked for.
    """
    if longest_s < 1:
        raise ValueError(f"longest_s: expected 1 or more, got {longest_s:g}")
    longest = int(longest_s * SAMPLE_RATE / FRAME)
    waiting, done = [(0, len(voice))], []
    while waiting:  # not recursive: an hour may be cut at its end every time
        start, end = waiting.pop()
        spoken = start + np.flatnonzero(voice[start:end] >= _VOICE)
        if not len(spoken):
            continue
        start, end = max(start, spoken[0] - _MARGIN), min(end, spoken[-1] + 1 + _MARGIN)
        if end - start <= longest:
            done.append((int(start), int(end)))
        else:
            at = start + _cut(voice[start:end])
            waiting += [(at, end), (start, at)]
    return done


def _cut(voice: F32) -> int:
    """Where to halve a span: amid its longest pause, or where a voice is unlikeliest."""
    inner = voice[_LEAST:-_LEAST]
    quiet = np.concatenate([[False], inner < _VOICE, [False]]).astype(np.int8)
    starts, ends = (np.flatnonzero(np.diff(quiet) == step) for step in (1, -1))
    if not len(starts):
        return _LEAST + int(inner.argmin())
    from_middle = np.abs((starts + ends) / 2 - len(inner) / 2)
    best = np.lexsort((from_middle, -np.minimum(ends - starts, _LONG_PAUSE)))[0]
    return _LEAST + int(starts[best] + ends[best]) // 2


def max_new_tokens(pcm: F32) -> int:
    """Enough for a transcript of the whole sound, as far as `kokanee ask` by itself would go."""
    n_spoken = TOKENS_PER_S * len(pcm) // SAMPLE_RATE
    return max(MIN_NEW_TOKENS, min(DEFAULT_MAX_NEW_TOKENS, n_spoken))


def transcribe(
    session: Session,
    pcm: F32,
    *,
    longest_s: float = LONGEST_S,
    question: str | None = None,
    task: str | None = None,
    sampling: Sampling | BeamSearch | None = None,
) -> Iterator[Phrase]:
    """What is said, phrase by phrase, each as soon as it is heard; nothing where nobody speaks.

    Args:
        session: hears and is asked; what it heard before is gone.
        pcm: [n_samples], 16 kHz mono, of any length.
        longest_s: longest stretch that is heard at once.
        question: what is asked of each phrase, or
        task: the name of one of the bundle's tasks; "asr" by default.
        sampling: as for `Session.ask`; `Session.transcript_search` by default.

    Raises:
        AudioFormatError: as `Session.hear`.
        ContextFull: a phrase does not fit into the session's cache.
        ValueError: the bundle has no such task, or `longest_s` is below a second.
    """
    task = task or (None if question else "asr")
    sampling = sampling or session.transcript_search
    for start, end in spans(voice_of(pcm), longest_s=longest_s):
        spoken = pcm[start * FRAME : end * FRAME]
        session.hear(spoken)
        most = max_new_tokens(spoken)
        answer = session.ask(question, task=task, sampling=sampling, max_new_tokens=most)
        yield Phrase(
            start_s=start * FRAME / SAMPLE_RATE,
            end_s=min(end * FRAME, len(pcm)) / SAMPLE_RATE,
            text=answer.text().strip(),
            finish_reason=answer.finish_reason,
        )
