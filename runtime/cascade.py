"""A spoken question in two steps: which words it has, then what the language model answers to them.

    sound --adapter--> words --punctuated--> text --bare language model--> answer

The adapter of a small model learns to hear, and answers questions worse than the language model
that it sits on; in writing that model has its own voice. Source: the idea is SpeechGPT's chain of
modality (Zhang et al., arXiv 2305.11000); here one set of weights plays both parts, the adapter
switched off for the second.
"""

from __future__ import annotations

import re

NOTHING = "Nothing is said."  # nano's answer where nobody speaks
_ASKS = re.compile(
    r"(what|which|who|whom|whose|where|when|why|how|is|are|am|was|were|do|does|did|can|could|will"
    r"|would|should|shall|may|might|must|has|have|had)\b",
    re.IGNORECASE,
)


def punctuated(words: str) -> str:
    """Words as people write them; a transcript may come without capitals and full stop.

    A small language model answers otherwise to `what is a tiger` than to `What is a tiger?`.
    """
    words = " ".join(words.split())
    if not words or re.search(r"[.!?]$", words):
        return words
    words = re.sub(r"\bi\b", "I", words)
    mark = "?" if _ASKS.match(words) else "."
    return words[0].upper() + words[1:] + mark


def written_question(transcript: str) -> str:
    """A transcript as a question for `Session.ask_in_writing`; "" where nobody speaks."""
    words = transcript.strip()
    return "" if words == NOTHING else punctuated(words)
