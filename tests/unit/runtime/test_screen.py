import io
import json
import re
import sys
import unicodedata
from collections.abc import Iterator

import pytest
from rich.cells import cell_len
from rich.console import Console

from kokanee.runtime.screen import Screen
from kokanee.runtime.show import Lines, Plain, Show, choose
from kokanee.runtime.updates import (
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

CUE = Device(what="opened", at_s=0.0, name="Mic 1")


def level(at_s: float = 1.0, dbfs: float = -30.0, voice: float = 0.0) -> Level:
    return Level(at_s=at_s, dbfs=dbfs, voice=voice)


def started(turn: int = 1) -> SpeechStarted:
    return SpeechStarted(turn=turn, kind="speech", at_s=12.5, start_s=12.3)


def stopped(turn: int = 1) -> SpeechStopped:
    return SpeechStopped(
        turn=turn, kind="speech", at_s=14.6, start_s=12.3, end_s=14.9, reason="silence"
    )


def piece(text: str, *, turn: int = 1, question: str = "What?") -> Piece:
    return Piece(turn=turn, question=question, text=text)


def final(
    text: str,
    *,
    turn: int = 1,
    question: str = "What?",
    reason: str = "stop",
    **latencies_ms: float,
) -> Final:
    return Final(
        turn=turn,
        kind="speech",
        question=question,
        text=text,
        ids=(1, 2),
        finish_reason=reason,
        start_s=12.3,
        end_s=14.9,
        latencies_ms=latencies_ms,
    )


def show_all(show: Show, *updates: Update) -> None:
    with show:
        for update in updates:
            show(update)


# --- lines ---------------------------------------------------------------------------------------


def test_each_update_is_one_json_object_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_all(Lines(), CUE, level(), started(), final("é\n\x1b[bold]"))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["device", "speech_started", "final"]
    assert lines[1] == {
        "event": "speech_started",
        "turn": 1,
        "kind": "speech",
        "at_s": 12.5,
        "start_s": 12.3,
    }
    assert lines[2]["text"] == "é\n\x1b[bold]"


def test_levels_are_lines_where_they_were_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    show_all(Lines(levels=True), level())
    assert capsys.readouterr().out == (
        '{"event": "level", "at_s": 1.0, "dbfs": -30.0, "voice": 0.0}\n'
    )


# --- plain ---------------------------------------------------------------------------------------


def test_an_answer_is_one_plain_line_that_grows_piece_by_piece(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Plain() as show:
        written = []
        for update in (started(), stopped(), piece(" A"), level(), piece(" dog"), final(" A dog")):
            show(update)
            written.append(capsys.readouterr())
    assert [out for out, _ in written] == ["", "", "[12.3-14.9 s] What? -> A", "", " dog", "\n"]
    assert all(err == "" for _, err in written)


def test_plain_answers_that_come_together_are_written_one_after_the_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_all(
        Plain(),
        stopped(),
        piece("a", question="One?"),
        piece("b", question="Two?"),
        piece("A", question="One?"),
        final("bB", question="Two?"),
        piece("c", question="Three?"),
        final("aA", question="One?"),
        final("c", question="Three?"),
    )
    assert capsys.readouterr().out == (
        "[12.3-14.9 s] One? -> aA\n[12.3-14.9 s] Two? -> bB\n[12.3-14.9 s] Three? -> c\n"
    )


def test_further_lines_of_a_plain_answer_are_indented_and_blanks_at_its_ends_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_all(Plain(), stopped(), piece("\n1."), piece("\n"), piece("2.\n\n"), final("\n1.\n2.\n\n"))
    assert capsys.readouterr().out == "[12.3-14.9 s] What? -> 1.\n    2.\n"


def test_an_answer_without_pieces_and_one_without_text_are_whole_plain_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_all(Plain(), final("A dog"), final("", turn=2, question="", reason="cancelled"))
    assert capsys.readouterr() == (
        "[12.3-14.9 s] What? -> A dog\n[12.3-14.9 s] \n",
        "([12.3-14.9 s] cancelled)\n",
    )


def test_notices_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    show_all(
        Plain(),
        CUE,
        Device(what="stalled", at_s=3.0, name="Mic 1", detail="unplugged?\x1b"),
        Device(what="lost", at_s=4.0),
        Device(what="reopened", at_s=5.0, name="Mic 1"),
        Device(what="reopened", at_s=5.0, lost_s=2.0),
        Device(what="gap", at_s=5.0, lost_s=1.25),
        Device(what="dropped", at_s=6.0, lost_s=0.5),
        Forgotten(turns=(1,), seconds=2.6, n_positions=90),
        Forgotten(turns=(2, 3), seconds=4.0, n_positions=180),
        Device(what="ended", at_s=7.0),
    )
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "([0.0 s] listening to Mic 1)",
        "([3.0 s] no sound from Mic 1: unplugged?)",
        "([4.0 s] lost the source)",
        "([5.0 s] listening to Mic 1 again)",
        "([5.0 s] listening to the source again, 2.0 s of sound missing)",
        "([5.0 s] 1.2 s of sound missing)",
        "([6.0 s] 0.5 s of sound thrown away)",
        "(forgot turn 1 to make room: 2.6 s of sound)",
        "(forgot turns 2, 3 to make room: 4.0 s of sound)",
        "([7.0 s] end of the sound)",
    ]


def test_control_characters_do_not_reach_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_all(Plain(), stopped(), final("\x1b[31mred\x07\x9b2J\u202e\tend\ud800", question="a\rb?"))
    assert capsys.readouterr().out == "[12.3-14.9 s] ab? -> [31mred2J end\ufffd\n"


def test_a_plain_line_that_was_interrupted_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    show = Plain()
    show(piece("A d", turn=7))
    show(piece("b", turn=7, question="Two?"))
    show.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().out == "[turn 7] What? -> A d\n[turn 7] Two? -> b\n"


@pytest.mark.parametrize("show", [Plain(), Lines()])
def test_a_reader_that_is_gone_is_told_once(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError("gone")

    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError) as caught, show:
        show(piece("A"))
    assert caught.value.__context__ is None


def test_what_a_stream_cannot_encode_is_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", newline="\n"))
    show_all(Plain(), final("犬 dog"))
    assert raw.getvalue() == b"[12.3-14.9 s] What? -> ? dog\n"


# --- screen --------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """What a terminal shows of the codes that rich writes; anything else is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0
        self.cursor = True
        self.n_writes = 0

    def write(self, text: str) -> int:
        self.n_writes += 1
        for code, char in re.findall(r"(\x1b\[[?\d;]*[A-Za-z])|([\s\S])", text):
            if code:
                self._obey(code)
            else:
                self._put(char)
        return super().write(text)

    def _obey(self, code: str) -> None:
        if code.endswith("m"):
            return
        match code:
            case "\x1b[2K":
                self.rows[self.row] = []
            case "\x1b[1A":
                self.row = max(0, self.row - 1)
            case "\x1b[?25l" | "\x1b[?25h":
                self.cursor = code.endswith("h")
            case _:
                raise AssertionError(f"unexpected {code!r}")

    def _put(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.row, self.column = self.row + 1, 0
            if self.row == len(self.rows):
                self.rows.append([])
        else:
            assert unicodedata.category(char) != "Cc", f"unexpected {char!r}"
            cells = self.rows[self.row]
            cells += " " * (self.column - len(cells))
            cells[self.column : self.column + 1] = [char]
            self.column += 1

    @property
    def text(self) -> list[str]:
        rows = ["".join(row).rstrip() for row in self.rows]
        while rows and not rows[-1]:
            rows.pop()
        return rows


@pytest.fixture(autouse=True)
def _no_colour_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "COLUMNS",
        "LINES",
        "NO_COLOR",
        "FORCE_COLOR",
        "TTY_COMPATIBLE",
        "TTY_INTERACTIVE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def console(terminal: Terminal, *, width: int = 80, height: int = 24) -> Console:
    return Console(
        file=terminal, force_terminal=True, width=width, height=height, legacy_windows=False
    )


def ticks() -> Iterator[float]:
    now = 0.0
    while True:
        now += 1.0
        yield now


def screen(terminal: Terminal, *, n_answers: int = 1, width: int = 80, height: int = 24) -> Screen:
    """A screen whose clock is always late enough to draw."""
    on = console(terminal, width=width, height=height)
    return Screen(on, n_answers=n_answers, clock=ticks().__next__)


def state(terminal: Terminal) -> str:
    row = next(row for row in terminal.text if row.startswith("│ ● "))
    return row.removeprefix("│ ● ").split("   ")[0].strip()


def test_the_state_follows_from_the_updates(terminal: Terminal) -> None:
    expected: list[tuple[Update, str]] = [
        (CUE, "idle"),
        (level(), "idle"),
        (started(1), "hearing"),
        (Partial(turn=1, text="so far", until_s=1.0), "hearing"),
        (stopped(1), "thinking"),
        (piece("A"), "answering"),
        (started(2), "hearing"),
        (final("A"), "hearing"),
        (stopped(2), "thinking"),
        (Device(what="stalled", at_s=20.0), "no sound"),
        (level(), "no sound"),
        (Device(what="lost", at_s=21.0), "no sound"),
        (Device(what="reopened", at_s=22.0), "thinking"),
        (final("B", turn=2), "idle"),
        (Device(what="ended", at_s=30.0), "ended"),
    ]
    with screen(terminal) as show:
        assert state(terminal) == "idle"
        states = []
        for update, _ in expected:
            show(update)
            states.append(state(terminal))
    assert states == [name for _, name in expected]


def test_a_turn_of_several_questions_is_answered_when_the_last_one_is(terminal: Terminal) -> None:
    states = []
    with screen(terminal, n_answers=2) as show:
        for update in (started(), stopped(), final("a", question="One?"), final("b")):
            show(update)
            states.append(state(terminal))
    assert states == ["hearing", "thinking", "thinking", "idle"]


def test_a_turn_without_an_answer_is_over_when_a_later_one_is_answered(terminal: Terminal) -> None:
    with screen(terminal) as show:
        for update in (started(1), stopped(1), started(2), stopped(2), final("b", turn=2)):
            show(update)
        assert state(terminal) == "idle"


def test_the_panel_shows_text_meter_latencies_device_and_lost_sound(terminal: Terminal) -> None:
    with screen(terminal) as show:
        for update in (
            CUE,
            Device(what="gap", at_s=1.0, lost_s=0.25),
            Device(what="reopened", at_s=1.0, lost_s=1.0),
            Device(what="dropped", at_s=1.0, lost_s=0.5),
            started(),
            stopped(),
            final("A dog", wait=300.0, compute=118.4, first_token=418.4),
            final("later, in the same turn", question="Two?", compute=900.0),
            started(2),
            stopped(2),
            piece("A ", turn=2),
            piece("cat", turn=2),
            level(3661.0, -30.0, 0.87),
        ):
            show(update)
        assert terminal.text[-6:] == [
            "│ What? -> A cat",
            "│",
            "│",
            "│ ● answering   1:01:01   2 turns   Mic 1",
            "│ ███████████████···············  -30 dBFS   voice 87 %",
            "│ wait 300, compute 118, first token 418 ms   1.2 s missing, 0.5 s thrown away",
        ]


@pytest.mark.parametrize(
    ("dbfs", "bar"),
    [
        (-120.0, "·" * 30),
        (-60.0, "·" * 30),
        (-59.0, "▌" + "·" * 29),
        (0.0, "█" * 30),
        (3.0, "█" * 30),
    ],
)
def test_the_meter_reaches_from_60_db_below_full_scale_to_full_scale(
    terminal: Terminal, dbfs: float, bar: str
) -> None:
    with screen(terminal) as show:
        show(level(dbfs=dbfs))
        assert terminal.text[-2] == f"│ {bar} {dbfs:4.0f} dBFS   voice 0 %"


@pytest.mark.parametrize(("voice", "colour"), [(0.9, 32), (0.3, 33), (0.0, 34)])
def test_the_colour_of_the_meter_tells_voice_from_sound(
    terminal: Terminal, voice: float, colour: int
) -> None:
    with screen(terminal) as show:
        terminal.truncate(0)
        show(level(dbfs=-30.0, voice=voice))
        assert f"\x1b[{colour}m{'█' * 15}\x1b[0m" in terminal.getvalue()


def test_what_was_understood_so_far_is_replaced_and_gives_way_to_the_answer(
    terminal: Terminal,
) -> None:
    shown = []
    with screen(terminal) as show:
        for update in (
            started(),
            Partial(turn=1, text="so", until_s=1.0),
            Partial(turn=1, text="so far", until_s=2.0),
            stopped(),
            piece("A"),
        ):
            show(update)
            shown.append(terminal.text[0])
    assert shown == ["│", "│ so", "│ so far", "│ so far", "│ What? -> A"]


def test_answers_that_come_together_are_shown_each_with_its_question(terminal: Terminal) -> None:
    with screen(terminal, width=30) as show:
        show(piece("one " * 20 + "the end", question="Who?"))
        assert terminal.text[0] == "│ Who? -> …"
        assert terminal.text[2].endswith("the end")
        show(piece("a dog", question="A question that does not fit into a row of thirty?"))
        assert terminal.text[:3] == [
            "│ Who? -> …the end",
            "│ A question t… -> …a dog",
            "│",
        ]
        show(piece("", question="Another that does not fit into a row of thirty?"))
        assert terminal.text[2] == "│ Another that… -> …"


def test_finished_answers_are_printed_once_and_whole_and_stay(terminal: Terminal) -> None:
    long = "word " * 60 + "end"
    with screen(terminal) as show:
        for update in (CUE, started(), stopped(), piece(long[:9]), piece(long[9:]), final(long)):
            show(update)
        show(final("1.\n2.", question="Two?", reason="length"))
        show(level())
        assert len(terminal.text) == 4 + 6
    assert terminal.text == [
        "[0.0 s] listening to Mic 1",
        f"[12.3-14.9 s] What? -> {long}",
        "[12.3-14.9 s] Two? -> 1.",
        "    2. (cut at its longest length)",
    ]


def test_markup_and_control_characters_are_text_or_nothing(terminal: Terminal) -> None:
    nasty = "[bold]犬[/] :smile: \x1b[2J\x1b]0;title\x07\r\x9b1A\u202ex"
    clean = "[bold]犬[/] :smile: [2J]0;title1Ax"
    with screen(terminal) as show:
        show(Device(what="opened", at_s=0.0, name="Mic [red]\x1b[31m", detail="a\nb"))
        show(Partial(turn=1, text=nasty, until_s=1.0))
        assert terminal.text[1] == f"│ {clean}"
        show(piece(nasty, question="[link]?\x1b"))
        assert terminal.text[1] == f"│ [link]? -> {clean}"
        assert terminal.text[4].endswith("Mic [red][31m")
        show(final(nasty, question="[link]?\x1b"))
    assert terminal.text == [
        "[0.0 s] listening to Mic [red][31m: a b",
        f"[12.3-14.9 s] [link]? -> {clean}",
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (20, 24), (10, 4), (4, 2), (1, 1)])
def test_the_panel_fits_whatever_the_terminal_is_like(
    terminal: Terminal, width: int, height: int
) -> None:
    with screen(terminal, width=width, height=height) as show:
        for update in (started(), stopped(), piece("犬" * 50), piece("b", question="?"), level()):
            show(update)
        assert len(terminal.text) == min(6, max(1, height - 1))
        # A row is at least its frame and one cell of text.
        assert all(cell_len(row) <= max(3, width - 2) for row in terminal.text)


def test_an_emoji_of_several_is_shown_apart_in_the_panel_and_whole_in_the_answer(
    terminal: Terminal,
) -> None:
    """rich 15 divided by zero where it cut a text that a joiner begins."""
    with screen(terminal, width=10) as show:
        show(piece("\u200d\u200d犬", question="\u200d👩\u200d👧❤\ufe0f" * 9))
        show(piece("\u200d\u200d犬" * 9, turn=2))
        assert "\u200d" not in "".join(terminal.text)
        show(final("👩 👧", turn=2))
    show_all(screen(terminal), final("❤\ufe0f"))
    assert terminal.text[-1] == "[12.3-14.9 s] What? -> ❤\ufe0f"


def test_a_panel_that_a_narrower_terminal_has_wrapped_is_erased_whole(terminal: Terminal) -> None:
    on = console(terminal)
    with Screen(on, clock=ticks().__next__) as show:
        show(piece("x" * 70))
        on.width = 40  # of the six rows, those of 80 and of 51 cells now take two lines
        wrapped = sum(max(0, len(row) - 1) // 40 for row in terminal.text)
        terminal.truncate(0)
        terminal.seek(0)
        show(level())
        # To its first row rich goes up five lines by itself.
        assert terminal.getvalue().count("\x1b[1A") == wrapped + 5
        assert wrapped == 2


def test_levels_and_pieces_draw_at_most_every_90_ms_and_a_new_state_at_once(
    terminal: Terminal,
) -> None:
    now = 0.0
    drawn = []
    with Screen(console(terminal), clock=lambda: now) as show:
        updates: list[tuple[float, Update]] = [
            (0.05, level()),
            (0.10, level()),
            (0.15, level()),
            (0.19, level()),
            (0.20, started()),
            (0.21, stopped()),
            (0.22, piece("a")),
            (0.23, piece("b")),
            (0.32, piece("c")),
        ]
        for at_s, update in updates:
            now = at_s
            before = terminal.n_writes
            show(update)
            drawn.append(terminal.n_writes > before)
        assert terminal.text[0] == "│ What? -> abc"
    assert drawn == [False, True, False, True, True, True, True, False, True]


def test_the_cursor_is_hidden_while_it_draws_and_shown_after_it(terminal: Terminal) -> None:
    stdout, stderr = sys.stdout, sys.stderr
    with screen(terminal) as show:
        show(CUE)
        assert not terminal.cursor
        sys.stdout.write("a stray line\n")  # goes above the panel
    assert terminal.cursor
    assert (sys.stdout, sys.stderr) == (stdout, stderr)
    assert terminal.text == ["[0.0 s] listening to Mic 1", "a stray line"]
    assert terminal.column == 0


def test_an_exception_keeps_what_was_answered_and_restores_the_terminal(
    terminal: Terminal,
) -> None:
    def interrupted() -> None:
        with screen(terminal) as show:
            show(stopped())
            show(piece("A d"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert terminal.cursor
    assert terminal.text == ["[12.3-14.9 s] What? -> A d (unfinished)"]


@pytest.mark.parametrize("n_writes", range(1, 5))
def test_an_interrupt_while_it_stops_restores_the_terminal(
    terminal: Terminal, n_writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout = sys.stdout
    write = terminal.write
    left = 1000

    def interrupted(text: str) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return write(text)

    monkeypatch.setattr(terminal, "write", interrupted)
    show = screen(terminal)
    show.__enter__()
    show(piece("A d"))
    left = n_writes
    try:
        show.__exit__(None, None, None)
    except KeyboardInterrupt:
        assert left <= 0
    assert sys.stdout is stdout
    assert terminal.cursor


def test_an_interrupt_while_it_starts_restores_the_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout = sys.stdout
    show = screen(terminal)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kokanee.runtime.screen._meter_row", interrupted)
        with pytest.raises(KeyboardInterrupt):
            show.__enter__()
    assert sys.stdout is stdout
    assert terminal.cursor


# --- the choice ----------------------------------------------------------------------------------


def test_what_was_asked_for_is_chosen(terminal: Terminal) -> None:
    on = console(terminal)
    assert isinstance(choose(json=True, plain=False, levels=False, console=on), Lines)
    assert isinstance(choose(plain=True, console=on), Plain)
    assert isinstance(choose(console=on, n_answers=2), Screen)


def test_what_is_no_terminal_gets_plain_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes a pipe a terminal in rich's eyes
    assert isinstance(choose(), Plain)
    assert isinstance(choose(console=Console(file=terminal, force_terminal=False)), Plain)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(choose(console=console(terminal)), Plain)
