"""A stream of updates into what was asked for: JSON lines, plain lines, or a screen."""

import sys
from json import dumps
from typing import Protocol, Self

import click
from rich.console import Console

from .screen import Screen
from .updates import (
    Device,
    Final,
    Forgotten,
    Level,
    Piece,
    SpeechStopped,
    Update,
    as_dict,
)
from .wording import CUT, AnswerSoFar, continued, keep_span, notice, span_of


class Show(Protocol):
    """Takes updates one by one, in one thread; unfinished answers are ended on exit."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def __call__(self, update: Update) -> None:
        """Shows an update."""


def choose(
    *,
    json: bool = False,
    plain: bool = False,
    levels: bool = False,
    n_answers: int = 1,
    console: Console | None = None,
) -> Show:
    """The way to show updates that was asked for and that standard output can do.

    Args:
        json: One JSON object a line.
        plain: No screen, though it is a terminal.
        levels: Loudness too, among JSON lines.
        n_answers: Answers to expect a turn, so that a screen knows when the last one is there.
        console: What to draw a screen on instead of standard output.
    """
    if json:
        return Lines(levels=levels)
    # FORCE_COLOR makes rich call a pipe a terminal, which is right for colour but not for a cursor.
    # Without any standard output there is nothing to draw on either.
    if plain or (console is None and (sys.stdout is None or not sys.stdout.isatty())):
        return Plain()
    console = console or Console()
    if (
        not console.is_terminal
        or console.is_dumb_terminal
        or not console.encoding.startswith("utf")
    ):
        return Plain()
    return Screen(console, n_answers=n_answers)


class Lines:
    """One JSON object a line on standard output, flushed at once.

    Args:
        levels: Also write `Level` updates, ten a second.
    """

    def __init__(self, *, levels: bool = False) -> None:
        self._levels = levels

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is left to write."""

    def __call__(self, update: Update) -> None:
        """Writes a line.

        Raises:
            BrokenPipeError: If the reader is gone.
        """
        if self._levels or not isinstance(update, Level):
            click.echo(dumps(as_dict(update)))


class Plain:
    """Answers on standard output as they come, all else on standard error; no colour, no cursor.

    An answer is `[12.3-14.9 s] question? -> text`; further lines of it are indented. Answers that
    come at the same time are written one after the other, in the order in which they began.
    """

    def __init__(self) -> None:
        self._open: list[AnswerSoFar] = []
        self._spans: dict[int, str] = {}
        self._n_written = 0  # characters of the first open answer, what is before the text included

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the lines that were begun."""
        if not isinstance(error[1], BrokenPipeError):
            for answer in self._open:
                answer.done = True
            self._write()

    def __call__(self, update: Update) -> None:
        """Writes what an update adds.

        Raises:
            BrokenPipeError: If the reader is gone.
        """
        match update:
            case SpeechStopped():
                keep_span(self._spans, update)
            case Piece() | Final():
                continued(self._open, update, self._spans)
                self._write()
                if isinstance(update, Final) and update.finish_reason in CUT:
                    self._say(f"({span_of(update)} {CUT[update.finish_reason]})")
            case Device() | Forgotten():
                self._say(f"({notice(update)})")
            case _:
                pass

    def _write(self) -> None:
        while self._open:
            answer = self._open[0]
            line = answer.before + answer.shown
            if (new := line[self._n_written :]) and (answer.shown or answer.done):
                click.echo(_encodable(new, getattr(sys.stdout, "encoding", None)), nl=False)
                self._n_written += len(new)
            if not answer.done:
                return
            click.echo()
            self._n_written = 0
            del self._open[0]

    def _say(self, notice: str) -> None:
        if self._n_written and sys.stdout.isatty() and sys.stderr.isatty():
            click.echo(err=True)  # the answer that is being written goes on below
        click.echo(_encodable(notice, sys.stderr.encoding), err=True)


def _encodable(text: str, encoding: str | None) -> str:
    """Text with a question mark for what a stream cannot write."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)
