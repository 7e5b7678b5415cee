"""How to listen: what is asked, how closely to follow, what to keep; and what was done so far."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from kokanee.engine import FAST, Engine, Sampling, Session, Streaming
from kokanee.engine.manifest import Policy
from kokanee.engine.prompt import fill

from .endpoint import TurnDetection
from .in_writing import check_bundle
from .updates import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked about every turn: a question, a task of the bundle, or a whole prompt."""

    question: str | None = None
    task: str | None = None
    raw_prompt: str | None = None

    @property
    def label(self) -> str:
        """How updates call it."""
        return self.raw_prompt or " ".join(x for x in (self.task, self.question) if x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """How to listen; every value has a default."""

    questions: tuple[Ask, ...] = ()  # about a voice; the bundle's task "asr" by default
    sound_questions: tuple[Ask, ...] = ()  # about another sound; the same as about a voice
    # The bare language model answers what was said, once it is written down. It knows of that turn
    # alone, whatever `memory_turns` says.
    in_writing: bool = False
    streaming: Streaming = FAST
    turns: TurnDetection = field(default_factory=TurnDetection)
    hop_s: float = 0.5  # how often the growing sound is encoded, at most
    partial_s: float | None = None  # how often the first question is asked while somebody speaks
    barge_in: bool = True  # a turn that begins ends the answers to the one before
    memory_turns: int = 0  # earlier turns that stay in the context, at most
    max_new_tokens: int = 120
    sampling: Sampling = field(default_factory=Sampling)
    lora_scale: float | None = None
    n_ctx: int | None = None
    backlog_s: float = (
        30.0  # sound that waits for a model that is late; beyond, the oldest is dropped
    )
    record: Path | None = None

    def __post_init__(self) -> None:
        if self.hop_s <= 0 or (self.partial_s is not None and self.partial_s <= 0):
            raise ValueError(
                f"hop_s and partial_s: expected more than 0, got {self.hop_s} and {self.partial_s}"
            )
        if self.memory_turns < 0 or self.max_new_tokens < 1 or self.backlog_s < 1:
            raise ValueError(
                "memory_turns, max_new_tokens and backlog_s: expected at least 0, 1 and 1,"
                f" got {self.memory_turns}, {self.max_new_tokens} and {self.backlog_s}"
            )

    def asked(self, engine: Engine) -> dict[Kind, tuple[Ask, ...]]:
        """What is asked about each kind of turn, at least one question.

        Raises:
            ValueError: one does not fit the bundle.
        """
        form = engine.manifest.prompt
        by_default = Ask(task="asr") if "asr" in form.tasks else Ask(question="What do you hear?")
        questions = self.questions or (by_default,)
        for ask in (*questions, *self.sound_questions):
            fill(form, ask.question, task=ask.task, raw=ask.raw_prompt)
        if self.in_writing:
            check_bundle(form)
            if questions[0] != Ask(task="asr"):
                raise ValueError(
                    'in_writing: the first question is the task "asr", which writes down what is'
                    f" to be answered; got {questions[0].label!r}"
                )
        sounds = self.sound_questions or questions
        return {"speech": questions, "push": questions, "sound": sounds}


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a listener did so far."""

    turns: int = 0
    hops: int = 0
    guesses: int = 0  # answers begun in a pause
    guesses_void: int = 0  # of these, thrown away because the voice went on
    busy_s: float = 0.0  # spent encoding, prefilling and decoding
    dropped_s: float = 0.0  # sound that came in faster than it could be taken


def unpadded(policy: Policy) -> Policy:
    """A bundle's policy for endless sound: nothing is padded to 30 s, nothing is cut off there."""
    n_windows = (round(policy.max_s * 50) - policy.window_frames) // policy.stride_frames
    whole_s = (policy.window_frames + n_windows * policy.stride_frames) / 50
    return dataclasses.replace(policy, pad_to_s=None, long_audio="segment", max_s=whole_s)


def turns_that_fit(
    session: Session, how: Listening, questions: dict[Kind, tuple[Ask, ...]], *, n_turn: int
) -> TurnDetection:
    """The settings, with turns no longer than n_turn positions of the context have room for.

    Raises:
        ValueError: not even the shortest turn fits.
    """
    n_reserved = how.max_new_tokens + max(
        session.n_prompt(ask.question, task=ask.task, raw_prompt=ask.raw_prompt)
        for asks in questions.values()
        for ask in asks
    )
    room_s = session.room_s(n_turn - n_reserved, streaming=how.streaming)
    try:
        return dataclasses.replace(how.turns, max_turn_s=min(how.turns.max_turn_s, room_s))
    except ValueError:
        raise ValueError(
            f"n_ctx: {session.n_ctx} positions have room for {room_s:.1f} s of sound"
            " beside question and answer; give more"
        ) from None
