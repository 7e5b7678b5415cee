"""A spoken question in two steps: which words it has, then what the language model answers to them.

    sound --adapter--> words --punctuated--> text --bare language model--> answer

The adapter of a small model learns to hear, and answers questions worse than the language model
that it sits on; in writing that model has its own voice. Source: the idea is SpeechGPT's chain of
modality (Zhang et al., arXiv 2305.11000); here one set of weights plays both parts, the adapter
switched off for the second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kokanee.engine import BeamSearch, Sampling, Session
from kokanee.engine.manifest import PromptFormat
from kokanee.engine.prompt import fill_written

from .phrases import F32, max_new_tokens

_NOTHING = {"", "nothing is said", "silence"}  # what models say where nobody speaks
_REMARKS = re.compile(r"\[[^]]*\]|\([^)]*\)")  # [speaking French], (music)
_MARKED = re.compile(r"[.!?\u2026\u3002\uff01\uff1f]['\"\u2019\u201d\xbb)]*$")
_ASKS = re.compile(
    r"(what|which|who|whom|whose|where|when|why|how|is|are|am|was|were|do|does|did|can|could|will"
    r"|would|should|shall|may|might|must|has|have|had)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A question that was heard."""

    text: str  # "" where nobody speaks
    whole: bool  # False: there was no room for more of it


def check_bundle(form: PromptFormat) -> None:
    """Make sure that a bundle can do both steps.

    Raises:
        ValueError: it has no task "asr", or no template for questions without a sound.
    """
    if "asr" not in form.tasks:
        raise ValueError('this bundle has no task "asr", which writes a question down')
    fill_written(form, "?")


def write_down(
    session: Session, pcm: F32, *, search: Sampling | BeamSearch | None = None
) -> Written:
    """The question in what a session has heard, ready for `Session.ask_in_writing`.

    Args:
        session: has heard `pcm`.
        pcm: [n_samples], 16 kHz; its length limits that of the transcript.
        search: as for `Session.ask`; `Session.transcript_search` by default.

    Raises:
        ContextFull: the task's wording does not fit.
        ValueError: nothing was heard, or the bundle has no task "asr".
    """
    search = search or session.transcript_search
    answer = session.ask(task="asr", sampling=search, max_new_tokens=max_new_tokens(pcm))
    return Written(text=written_question(answer.text()), whole=answer.finish_reason == "stop")


def written_question(transcript: str) -> str:
    """A transcript as a question, without remarks in brackets; "" where nobody speaks."""
    words = " ".join(_REMARKS.sub(" ", transcript).split())
    return "" if words.lower().strip(" .!") in _NOTHING else punctuated(words)


def punctuated(words: str) -> str:
    """Words as people write them; nano's transcripts are English without capitals and full stop.

    A small language model answers otherwise to `what is a tiger` than to `What is a tiger?`. What
    ends in a mark, as SALMONN's transcripts do, stays as it is.
    """
    words = " ".join(words.split())
    if not words or _MARKED.search(words):
        return words
    mark = "?" if _ASKS.match(words) else "."
    words = re.sub(r"\bi\b", "I", words)
    return words[0].upper() + words[1:] + mark
