"""Updates in words: answers as far as they have come, and notices of what happened.

A model may say anything: what goes to a terminal is cleaned of all that would move the cursor.
"""

import unicodedata
from dataclasses import dataclass

from .updates import (
    Device,
    Final,
    Forgotten,
    Piece,
    SpeechStopped,
)

_N_SPANS = 16  # turns of which the times are kept until their answers come
CUT = {
    "length": "cut at its longest length",
    "context": "cut: no room left in the context",
    "cancelled": "cancelled",
}


@dataclass(slots=True, kw_only=True)
class AnswerSoFar:
    """An answer as far as it has come."""

    turn: int
    question: str
    span: str  # of its turn's sound, in brackets
    text: str = ""
    done: bool = False

    @property
    def before(self) -> str:
        """What stands before the text."""
        asked = clean(self.question).strip().replace("\n", " ")
        return f"{self.span} {asked} -> " if asked else f"{self.span} "

    @property
    def shown(self) -> str:
        """The text in one paragraph; each piece only adds to its end."""
        return clean(self.text).strip().replace("\n", "\n    ")


def continued(
    answers: list[AnswerSoFar], update: Piece | Final, spans: dict[int, str]
) -> AnswerSoFar:
    """Adds to the open answer that an update is of, or opens it."""
    for answer in answers:
        if (answer.turn, answer.question, answer.done) == (update.turn, update.question, False):
            break
    else:
        if isinstance(update, Final):
            span = span_of(update)
        else:
            span = spans.get(update.turn, f"[turn {update.turn}]")
        answer = AnswerSoFar(turn=update.turn, question=update.question, span=span)
        answers.append(answer)
    if isinstance(update, Piece):
        answer.text += update.text
    else:
        answer.text, answer.done = update.text, True
    return answer


def keep_span(spans: dict[int, str], update: SpeechStopped) -> None:
    """Remembers when a turn was, until its answers come; of the last few turns."""
    spans[update.turn] = span_of(update)
    if len(spans) > _N_SPANS:
        del spans[next(iter(spans))]


def span_of(update: SpeechStopped | Final) -> str:
    """When the sound of a turn was, in brackets."""
    return f"[{update.start_s:.1f}-{update.end_s:.1f} s]"


def notice(update: Device | Forgotten) -> str:
    """A line for a person."""
    if isinstance(update, Forgotten):
        turns = ", ".join(map(str, update.turns))
        which = f"turn {turns}" if len(update.turns) == 1 else f"turns {turns}"
        return f"forgot {which} to make room: {update.seconds:.1f} s of sound"
    name = update.name or "the source"
    after = f", {update.lost_s:.1f} s of sound missing" if update.lost_s else ""
    what = {
        "opened": f"listening to {name}",
        "stalled": f"no sound from {name}",
        "lost": f"lost {name}",
        "reopened": f"listening to {name} again{after}",
        "gap": f"{update.lost_s:.1f} s of sound missing",
        "dropped": f"{update.lost_s:.1f} s of sound thrown away",
        "ended": "end of the sound",
    }[update.what]
    detail = f": {update.detail}" if update.detail else ""
    return " ".join(clean(f"[{update.at_s:.1f} s] {what}{detail}").split())


def clean(text: str) -> str:
    """Text that moves nothing but the cursor, and that to the right or to a new line.

    A model may say anything: escape codes, and marks that turn the direction of the line around.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_clean_char, text))


def _clean_char(char: str) -> str:
    if char in "\n\u2028\u2029":
        return "\n"
    if char == "\t":
        return " "
    if "\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u2069":
        return ""
    match unicodedata.category(char):
        case "Cc":
            return ""
        case "Cs":
            return "\ufffd"  # half a character, which no stream can encode
        case _:
            return char
