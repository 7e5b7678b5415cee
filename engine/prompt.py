"""A question into the token ids that stand before and after the sound.

template   USER: <Speech><SpeechHere></Speech> {}      the halves are tokenised apart:
ids        [bos] before | soft tokens | after          joined they would give other ids
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .manifest import SPEECH_HERE, PromptFormat


class Encoding(Protocol):
    """What a tokenizer makes of a text."""

    @property
    def ids(self) -> list[int]:
        """Token ids."""
        ...


class Tokenizer(Protocol):
    """The part of tokenizers.Tokenizer that is used."""

    def encode(self, sequence: str, *, add_special_tokens: bool = True) -> Encoding:
        """Text to ids."""
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Ids to text."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The text of one turn as ids, with a gap for the sound."""

    bos_id: int | None  # None where the text brings its own
    ids_before: tuple[int, ...]  # without BOS
    ids_after: tuple[int, ...]

    @property
    def head(self) -> tuple[int, ...]:
        """All that precedes the sound, BOS included."""
        return self.ids_before if self.bos_id is None else (self.bos_id, *self.ids_before)


def fill(
    form: PromptFormat, question: str | None, *, task: str | None = None, raw: str | None = None
) -> str:
    """The whole text of a turn, `<SpeechHere>` still in it.

    Args:
        form: The bundle's template and its named tasks.
        question: The user's words; stripped, as SALMONN strips them.
        task: The name of a task, whose wording asks; a few take a question as well.
        raw: A whole text in place of all that; braces in it are just braces.

    Raises:
        ValueError: If these do not go together, or `<SpeechHere>` is not in the text exactly once.
    """
    if raw is None:
        # Replaced once, not formatted: a question may hold braces.
        text = form.template.replace("{}", _asked(form, question, task).strip(), 1)
    elif question is None and task is None:
        text = raw
    else:
        raise ValueError("a raw prompt is the whole text: give no question and no task with it")
    if (n := text.count(SPEECH_HERE)) != 1:
        raise ValueError(f"prompt: expected {SPEECH_HERE} exactly once, got it {n} times")
    return text


def fill_written(form: PromptFormat, question: str) -> str:
    """The whole text of a turn without a sound.

    Raises:
        ValueError: There are no words, or the bundle has no template for this.
    """
    if form.written is None:
        raise ValueError(
            "this bundle has no template for questions without a sound (prompt.written in its"
            " manifest); a bundle that is built again has one"
        )
    if not question.strip():
        raise ValueError("question: expected some words")
    return form.written.replace("{}", question.strip(), 1)


def tokenise(text: str, tokenizer: Tokenizer, *, bos_id: int | None) -> Prompt:
    """Turns each side of `<SpeechHere>` into ids; special tokens only where they are spelled."""
    before, after = text.split(SPEECH_HERE)
    return Prompt(
        bos_id=bos_id,
        ids_before=tuple(tokenizer.encode(before, add_special_tokens=False).ids),
        ids_after=tuple(tokenizer.encode(after, add_special_tokens=False).ids),
    )


def _asked(form: PromptFormat, question: str | None, task: str | None) -> str:
    if task is None:
        if question is None or not question.strip():
            raise ValueError("question: expected some words, or a task")
        return question
    if task not in form.tasks:
        raise ValueError(f"task: expected one of {sorted(form.tasks)}, got {task!r}")
    wording = form.tasks[task]
    if ("{}" in wording) != (question is not None):
        needs = "needs a" if "{}" in wording else "takes no"
        raise ValueError(f"task {task!r} {needs} question")
    return wording if question is None else wording.replace("{}", question.strip(), 1)
