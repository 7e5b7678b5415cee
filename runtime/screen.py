"""A small panel at the bottom of a terminal, drawn from what the updates so far amount to."""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

from .updates import (
    Device,
    Final,
    Forgotten,
    Level,
    Partial,
    Piece,
    SpeechStarted,
    SpeechStopped,
    Update,
)
from .wording import CUT, AnswerSoFar, clean, continued, keep_span, notice, span_of

_MIN_REDRAW_S = 0.09  # just under the 0.1 s between levels, so that each of them is drawn
_SHOW_CURSOR = "\x1b[?25h"


class Screen:
    """A small panel at the bottom of a terminal; finished answers scroll by above it and stay.

    One thread. Nothing is drawn between updates, and only as often as an eye can follow.

    Args:
        console: A terminal.
        n_answers: Answers to expect a turn.
        clock: Seconds, for how often to draw.
    """

    def __init__(
        self,
        console: Console,
        *,
        n_answers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._clock = clock
        self._status = _Status(n_answers=n_answers)
        self._panel = _Panel(self._status)
        self._live = Live(self._panel, console=console, auto_refresh=False, transient=True)
        self._drawn_at = 0.0
        self._streams = (sys.stdout, sys.stderr)

    def __enter__(self) -> Self:
        self._streams = (sys.stdout, sys.stderr)
        try:
            self._live.start(refresh=True)
            self._drawn_at = self._clock()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Prints what there is of unfinished answers, and leaves the terminal as it was."""
        with ExitStack() as stack:
            stack.callback(self._restore)
            stack.callback(self._live.stop)
            answers, self._status.answers = self._status.answers, []
            for answer in answers:
                self._print(_as_text(answer, "unfinished"))
            self._forget_wrapped()

    def _restore(self) -> None:
        """What rich does when it stops, by hand: Ctrl-C may have come in the middle of that."""
        sys.stdout, sys.stderr = self._streams
        if not self._console.legacy_windows:
            self._console.file.write(_SHOW_CURSOR)
            self._console.file.flush()

    def __call__(self, update: Update) -> None:
        """Shows an update, at once if it changes more than the meter or the text."""
        before = self._status.state
        finished = self._status.take(update)
        match update:
            case Final() if finished is not None:
                self._print(_as_text(finished, CUT.get(update.finish_reason or "")))
            case Device():
                bad = update.what in ("stalled", "lost", "gap", "dropped")
                self._print(Text(notice(update), "yellow" if bad else "dim"))
            case Forgotten():
                self._print(Text(notice(update), "dim"))
            case _:
                since_s = self._clock() - self._drawn_at
                if self._status.state != before or since_s >= _MIN_REDRAW_S:
                    self._forget_wrapped()
                    self._live.refresh()
                    self._drawn_at = self._clock()

    def _print(self, text: Text) -> None:
        """Prints above the panel, and leaves it to the terminal where to break the line."""
        self._forget_wrapped()
        self._console.print(text, soft_wrap=True, highlight=False)
        self._drawn_at = self._clock()

    def _forget_wrapped(self) -> None:
        """Goes up the lines by which a terminal that became narrower has lengthened the panel.

        rich goes up as many lines as it has drawn; terminals wrap them anew, except for xterm.
        """
        n_more = sum(max(0, n_cells - 1) // self._console.width for n_cells in self._panel.drawn)
        if n_more:
            up = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
            self._console.control(Control(*up * n_more))
            self._panel.drawn = []


# --- what is shown -------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Status:
    """What the updates so far amount to."""

    n_answers: int
    at_s: float = 0.0
    dbfs: float = -120.0
    voice: float = 0.0
    n_turns: int = 0
    device: str = ""
    silent: bool = False  # stalled or lost
    ended: bool = False
    missing_s: float = 0.0
    thrown_away_s: float = 0.0
    hearing: int | None = None  # the turn that is open
    expected: dict[int, int] = field(default_factory=dict)  # turn -> answers still to come
    answers: list[AnswerSoFar] = field(default_factory=list)
    partial: str = ""
    latencies_ms: dict[str, float] = field(default_factory=dict)
    measured_turn: int | None = None  # whose latencies these are: its first answer's
    spans: dict[int, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.silent:
            return "no sound"
        if self.hearing is not None:
            return "hearing"
        if self.answers:
            return "answering"
        if self.expected:
            return "thinking"
        return "ended" if self.ended else "idle"

    def take(self, update: Update) -> AnswerSoFar | None:
        """Takes an update in; the answer if it ends one."""
        match update:
            case Level():
                self.at_s, self.dbfs, self.voice = update.at_s, update.dbfs, update.voice
            case Device():
                self._take_device(update)
            case SpeechStarted():
                self.at_s, self.n_turns = max(self.at_s, update.at_s), update.turn
                self.hearing, self.partial = update.turn, ""
            case SpeechStopped():
                self.at_s = max(self.at_s, update.at_s)
                self.hearing = None
                self.expected[update.turn] = self.n_answers
                keep_span(self.spans, update)
            case Partial():
                self.partial = update.text
            case Piece():
                self.partial = ""
                continued(self.answers, update, self.spans)
            case Final():
                return self._finish(update)
            case Forgotten():
                pass
        return None

    def _take_device(self, update: Device) -> None:
        self.at_s = max(self.at_s, update.at_s)
        self.device = update.name or self.device
        if update.what == "dropped":
            self.thrown_away_s += update.lost_s
        else:
            self.missing_s += update.lost_s
        match update.what:
            case "opened" | "reopened":
                self.silent = self.ended = False
            case "stalled" | "lost":
                self.silent = True
                self.dbfs, self.voice = -120.0, 0.0
            case "gap" | "dropped":
                pass
            case "ended":
                self.silent, self.ended = False, True
                self.dbfs, self.voice = -120.0, 0.0

    def _finish(self, update: Final) -> AnswerSoFar:
        self.partial = ""
        answer = continued(self.answers, update, self.spans)
        self.answers.remove(answer)
        answer.span = span_of(update)
        n_left = self.expected.get(update.turn, 1) - 1
        # Turns are answered in order, so none before this one is still to be answered.
        self.expected = {turn: n for turn, n in self.expected.items() if turn > update.turn}
        if n_left > 0:
            self.expected[update.turn] = n_left
        if update.turn != self.measured_turn:
            self.latencies_ms, self.measured_turn = update.latencies_ms, update.turn
        return answer


# --- the panel -----------------------------------------------------------------------------------

_N_TEXT_ROWS = 3
_N_METER_CELLS = 30
_METER_FLOOR_DBFS = -60.0
_EIGHTHS = " ▏▎▍▌▋▊▉"
_STYLES = {
    "no sound": "bold red",
    "hearing": "bold green",
    "answering": "bold cyan",
    "thinking": "bold yellow",
}
_LATENCIES = {"wait": "wait", "compute": "compute", "first_token": "first token"}


@dataclass(slots=True)
class _Panel:
    """The status in six rows, or in as many as there is room for.

    │ the text that is coming, or what was understood so far
    │
    │
    │ ● hearing   0:42   3 turns   Built-in Microphone
    │ ██████████████▌                -31 dBFS   voice 87 %
    │ wait 300, compute 118, first token 418 ms   1.2 s missing, 0.5 s thrown away
    """

    status: _Status
    drawn: list[int] = field(default_factory=list)  # cells of each row

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Two columns stay free for the ^C that a terminal echoes: if wrapped, it shifted the panel.
        width = max(1, console.width - len("│ ") - len("^C"))
        room = max(1, console.height - 1)
        bottom = [_state_row(self.status), _meter_row(self.status, width), _count_row(self.status)]
        bottom = bottom[: max(1, room - 1)]
        rows = _text_rows(self.status, min(_N_TEXT_ROWS, room - len(bottom)), width, console)
        rows += bottom
        self.drawn = []
        bar = Segment("│ ", console.get_style("dim"))
        for i, row in enumerate(rows):
            row.truncate(width, overflow="ellipsis")
            row.end = ""
            self.drawn.append(len("│ ") + row.cell_len)
            if i:
                yield Segment.line()
            yield bar
            yield from row.render(console)


def _state_row(status: _Status) -> Text:
    minutes, seconds = divmod(int(status.at_s), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    row = Text()
    row.append(f"● {status.state:<9}", _STYLES.get(status.state, "dim"))
    row.append(f"   {clock}   {status.n_turns} turn{'s' if status.n_turns != 1 else ''}")
    if status.device:
        row.append(f"   {_one_line(status.device)}", "dim")
    return row


def _meter_row(status: _Status, width: int) -> Text:
    n_cells = max(0, min(_N_METER_CELLS, width - len(" -120 dBFS   voice 100 %")))
    share = min(1.0, max(0.0, 1 - status.dbfs / _METER_FLOOR_DBFS))
    full, eighths = divmod(round(share * n_cells * 8), 8)
    bar = "█" * full + (_EIGHTHS[eighths] if eighths else "")
    style = "green" if status.voice >= 0.5 else "yellow" if status.voice >= 0.2 else "blue"
    row = Text()
    row.append(bar, style)
    row.append("·" * (n_cells - len(bar)), "dim")
    row.append(f" {status.dbfs:4.0f} dBFS   ")
    row.append(f"voice {100 * status.voice:.0f} %", style)
    return row


def _count_row(status: _Status) -> Text:
    known = [
        f"{words} {status.latencies_ms[name]:.0f}"
        for name, words in _LATENCIES.items()
        if name in status.latencies_ms
    ]
    lost = [
        f"{seconds:.1f} s {how}"
        for seconds, how in ((status.missing_s, "missing"), (status.thrown_away_s, "thrown away"))
        if seconds
    ]
    row = Text(f"{', '.join(known)} ms   " if known else "")
    row.append(", ".join(lost), "yellow")
    row.rstrip()
    return row


def _text_rows(status: _Status, n_rows: int, width: int, console: Console) -> list[Text]:
    """The ends of the open answers, else of what was understood so far; always `n_rows`."""
    rows: list[Text] = []
    if n_rows == 0:
        return rows
    if status.answers:
        last = status.answers[-n_rows:]
        for answer in last:
            rows += _answer_rows(answer, n_rows // len(last), width, console)
    elif status.partial:
        partial = Text(_measurable(status.partial), "italic dim")
        rows += partial.wrap(console, width)[-n_rows:]
    return rows + [Text() for _ in range(n_rows - len(rows))]


def _answer_rows(answer: AnswerSoFar, n_rows: int, width: int, console: Console) -> list[Text]:
    """The end of an answer in `n_rows` or less, its question always in the first."""
    asked = _one_line(answer.question)
    before = Text(f"{asked} -> " if asked else "", "bold")
    text = Text(_measurable(answer.text))
    rows = (before + text).wrap(console, width)
    if len(rows) <= n_rows or not asked:
        return list(rows[-n_rows:])
    if n_rows > 1:
        return [before + Text("…"), *rows[-n_rows + 1 :]]
    before = Text(asked, "bold")
    before.truncate(max(1, width // 2), overflow="ellipsis")
    before.append(" -> …")
    rows = text.wrap(console, max(1, width - before.cell_len))
    return [before + rows[-1]] if rows else [before]


def _as_text(answer: AnswerSoFar, cut: str | None) -> Text:
    """A finished answer, to stay above the panel."""
    text = Text(answer.before, "bold")
    text.stylize("dim", 0, len(answer.span))
    text = text + Text(answer.shown)
    if cut:
        text.append(f" ({cut})", "dim")
    return text


def _measurable(text: str) -> str:
    """Clean text without the marks that join emoji, with which rich 15 cannot cut it to a width.

    It counts the cells of such text in two ways (`cell_len` and `split_graphemes` of rich.cells),
    and where they differ it divides by zero or cuts too late.
    """
    return clean(text).strip().translate({0x200D: None, 0xFE0F: None})


def _one_line(text: str) -> str:
    return " ".join(_measurable(text).split())
