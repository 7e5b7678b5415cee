"""A question into the token ids that stand before and after the sound.

template   USER: <Speech><SpeechHere></Speech> {}      the halves are tokenised apart:
ids        [bos] before | soft tokens | after          joined they would give other ids
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .errors import ManifestError
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
    """The text around the sound, and what makes ids of it."""

    before: str  # the sound
    after: str
    question_fits: bool  # whether `after` holds {}, where the question goes
    bos_id: int | None  # None where the text brings its own
    tokenizer: Tokenizer

    @classmethod
    def of_bundle(cls, form: PromptFormat, tokenizer: Tokenizer) -> "Prompt":
        """The bundle's own template.

        Raises:
            ManifestError: If it asks before the sound is heard: every question would then have to
                encode the sound anew.
        """
        before, after = form.template.split(SPEECH_HERE)
        if "{}" not in after:
            raise ManifestError(f"prompt.template: expected {{}} after {SPEECH_HERE}")
        return cls(
            before=before, after=after, question_fits=True, bos_id=form.bos_id, tokenizer=tokenizer
        )

    def raw(self, text: str) -> "Prompt":
        """A whole turn in the user's own words; braces in it are just braces.

        Raises:
            ValueError: If it does not hold `<SpeechHere>` exactly once.
        """
        if (n := text.count(SPEECH_HERE)) != 1:
            raise ValueError(f"raw prompt: expected {SPEECH_HERE} exactly once, got it {n} times")
        before, after = text.split(SPEECH_HERE)
        return replace(self, before=before, after=after, question_fits=False)

    @property
    def ids_before(self) -> tuple[int, ...]:
        """BOS, where it is prepended by hand, and all that precedes the sound."""
        ids = self._ids(self.before)
        return ids if self.bos_id is None else (self.bos_id, *ids)

    def ids_after(self, question: str) -> tuple[int, ...]:
        """All that follows the sound; a raw prompt has no place for the question.

        Raises:
            ValueError: If the question is needed and blank.
        """
        if not self.question_fits:
            return self._ids(self.after)
        if not question.strip():
            raise ValueError("question: expected some words, got none")
        # Stripped, as SALMONN strips it; replaced, not formatted, since it may hold braces.
        return self._ids(self.after.replace("{}", question.strip(), 1))

    def _ids(self, text: str) -> tuple[int, ...]:
        """Nothing added: special tokens only where they are spelled."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)


def task_question(form: PromptFormat, task: str, question: str | None = None) -> str:
    """The wording of a named task, with the user's own question in its gap where it has one.

    Raises:
        ValueError: If there is no such task, or it needs a question, or takes none.
    """
    if task not in form.tasks:
        raise ValueError(f"task: expected one of {sorted(form.tasks)}, got {task!r}")
    asked = form.tasks[task]
    if ("{}" in asked) != (question is not None):
        needs = "needs a" if "{}" in asked else "takes no"
        raise ValueError(f"task {task!r} {needs} question")
    return asked if question is None else asked.replace("{}", question.strip(), 1)
