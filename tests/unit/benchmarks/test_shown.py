import csv
import dataclasses
import io

import pytest
from rich.console import Console

from kokanee.benchmarks import shown
from kokanee.benchmarks.comparison import compared
from kokanee.benchmarks.record import Count, Mark, Measure, Noise, Part, Record, Series, Skipped

ROUNDS = (10.0, 11.0, 12.0, 10.0, 20.0)
QUIET = Noise(quiet=True, reasons=(), evidence={})
BUSY = Noise(quiet=False, reasons=("31 % went to other processes",), evidence={})
PART = Part(
    name="offline",
    seconds=12.3,
    settings={},
    noise=BUSY,
    measures=(
        Measure(
            name="first_token",
            unit="ms",
            of={"contender": "[red]b|c", "seconds": 3.0},
            samples=tuple(2 * x for x in ROUNDS),
        ),
        Measure(
            name="first_token",
            unit="ms",
            of={"contender": "kokanee", "seconds": 3.0},
            samples=ROUNDS,
        ),
    ),
    counts=(
        Count(name="word_error_rate", unit="share", value=0.5214, of={"contender": "kokanee"}),
    ),
    series=(
        Series(
            name="rss",
            unit="MB",
            t_s=(0.0, 2.0),
            values=(90.0, 410.0),
            marks=(Mark(t_s=0.0, what="x"),),
        ),
    ),
    skipped=(Skipped(name="llama.cpp", why="not installed", install="pip install it"),),
    notes=("a note",),
)
RECORD = Record(
    command="kokanee bench offline",
    when="2026-01-01T00:00:00+00:00",
    subject={"name": "nano", "bytes": 213_000_000},
    conditions={"machine": {"cpu": "Xeon"}, "threads": 2},
    parts=(PART,),
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (1.0, "1.00"),
        (99.96, "100"),
        (999.6, "1,000"),
        (12345.6, "12,346"),
        (-1.234, "-1.23"),
        (1.2e-7, "1.20e-07"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert shown.number(value) == text


def test_ours_is_first_and_theirs_is_divided_round_by_round() -> None:
    measured, counted = shown.sheets(PART)
    ours, theirs = measured.rows
    assert ours[:5] == ("first token, ms", "3 s", "kokanee", "11.0", "10.0 to 20.0")
    assert ours[-1] == ""
    assert theirs[2] == "[red]b|c"
    assert theirs[-1] == "2.00 (2.00 to 2.00)"
    assert counted.rows == (("word error rate, %", "kokanee", "52.1"),)


def test_one_contender_needs_no_column() -> None:
    (sheet,) = shown.sheets(
        Part(name="p", seconds=1, settings={}, noise=BUSY, measures=PART.measures[1:])
    )
    assert "contender" not in sheet.head
    assert len(sheet.rows[0]) == len(sheet.head)


def test_the_terminal_says_whether_the_machine_was_quiet_and_what_was_skipped() -> None:
    out = io.StringIO()
    shown.show(RECORD, Console(file=out, width=140))
    text = out.getvalue()
    assert text.startswith("nano, 213 MB, 2 threads, Xeon; 2026-01-01")
    assert text.index("The machine was busy: 31 % went to") < text.index("first token, ms")
    assert "[red]b|c" in text
    assert "skipped llama.cpp: not installed; pip install it" in text
    assert "rss, MB: 90.0 to 410 over 2.00 s" in text
    assert "a note" in text


def wide(*names: str, n: int = 5) -> Part:
    """As many columns as there can be, one number longer than the other."""
    measures = [
        Measure(
            name="stage",
            unit="ms",
            of={"contender": name, "seconds": seconds, "stage": stage},
            samples=tuple(1000 * x * seconds for x in ROUNDS[:n]),
        )
        for seconds in (30.0, 1.0)
        for name in names
        for stage in ("features", "prefill_question")
    ]
    return Part(name="offline", seconds=1, settings={}, noise=BUSY, measures=tuple(measures))


def printed(part: Part, width: int) -> list[str]:
    out = io.StringIO()
    record = dataclasses.replace(RECORD, parts=(part,))
    shown.show(record, Console(file=out, width=width))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("names", [("kokanee",), ("kokanee", "cascade", "llama.cpp-audio")])
def test_every_row_is_on_one_line_of_the_terminal(names: tuple[str, ...], width: int) -> None:
    lines = printed(wide(*names), width)
    assert max(map(len, lines)) <= width
    table = lines[[set(line) == {"\u2500"} for line in lines].index(True) + 1 :]
    assert len(table) == 1 + 4 * len(names)  # a title
    assert next(line for line in table if line.startswith("  ")).startswith("  1 s, features  ")
    assert sum(line.startswith("  30 s, prefill question") for line in table) == 1


def test_labels_fold_between_words_where_a_terminal_is_very_narrow() -> None:
    lines = printed(wide("kokanee", "llama.cpp-audio"), 60)
    assert max(map(len, lines)) <= 60
    assert any(line.startswith("prefill ") for line in lines)


def test_a_narrow_terminal_leaves_columns_out_but_never_the_ratio() -> None:
    for width, left in ((80, {"95 % sure", "p90", "p99", "n"}), (140, set[str]())):
        text = "\n".join(printed(wide("kokanee", "llama.cpp-audio"), width))
        assert ("p99" in text) == ("p99" not in left)
        assert ("10,000 to 20,000" in text) == ("95 % sure" not in left)
        assert text.count("1.00 (1.00 to 1.00)") == 4


def test_a_column_of_nothing_is_left_out() -> None:
    assert "95 %" not in "\n".join(printed(wide("kokanee", n=2), 200))
    assert "95 %" in "\n".join(printed(wide("kokanee", n=3), 200))


def test_rows_go_by_length_and_then_in_the_order_of_the_stages() -> None:
    (sheet,) = shown.sheets(wide("cascade", "kokanee"))
    assert [row[1:3] for row in sheet.rows] == [
        (f"{seconds} s, {stage}", name)
        for seconds in (1, 30)
        for stage in ("features", "prefill question")
        for name in ("kokanee", "cascade")
    ]


@pytest.mark.parametrize(
    ("orders", "one"),
    [
        (["ab", "ab"], "ab"),
        (["abd", "cd"], "abcd"),
        (["ab", "bc"], "abc"),
        (["", "a"], "a"),
        (["ab", "ba"], "ab"),
    ],
)
def test_one_order_keeps_all_as_far_as_they_agree(orders: list[str], one: str) -> None:
    assert "".join(shown.merged(orders)) == one


def test_markdown_has_as_many_cells_in_every_row() -> None:
    text = shown.markdown(RECORD)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = [line.replace(r"\|", "").count("|") for line in tables]
    assert widths == [10] * 4 + [4] * 3
    assert r"\[red\]b\|c" in text


def test_csv_holds_every_number_unrounded() -> None:
    theirs, ours, count = csv.DictReader(io.StringIO(shown.csv(RECORD)))
    found = PART.measures[1].statistics
    assert (ours["kind"], ours["labels"]) == ("measure", "contender=kokanee;seconds=3.0")
    assert [float(ours[c]) for c in ("n", "median", "p90", "p95", "p99", "min", "max")] == [
        5,
        found.median,
        found.p90,
        found.p95,
        found.p99,
        10.0,
        20.0,
    ]
    assert [float(ours[c]) for c in ("spread", "low", "high")] == [
        found.spread,
        found.low,
        found.high,
    ]
    assert theirs["labels"] == "contender=[red]b|c;seconds=3.0"
    assert (count["name"], count["value"], count["median"]) == ("word_error_rate", "0.5214", "")


def test_a_run_again_says_what_differs() -> None:
    again = Record(
        command=RECORD.command,
        when="later",
        subject=RECORD.subject,
        conditions=RECORD.conditions,
        parts=(
            Part(
                name="offline",
                seconds=1,
                settings={},
                noise=Noise(quiet=True, reasons=(), evidence={}),
                measures=PART.measures,
                counts=(
                    Count(
                        name="word_error_rate",
                        unit="share",
                        value=0.6,
                        of={"contender": "kokanee"},
                        better="less",
                    ),
                ),
            ),
        ),
    )
    said = shown.differences(RECORD, again)
    assert "word_error_rate[contender=kokanee]" in said.replace(" ", "_")
    assert "recorded 52.1, now 60.0: worse" in said
    assert said.endswith("1 of 3 numbers differ by more than the noise")


def test_a_comparison_is_a_table_a_part_and_says_how_many_are_worse() -> None:
    before = Record(
        command="",
        when="",
        subject={},
        conditions={},
        parts=(dataclasses.replace(wide("kokanee", "cascade"), noise=QUIET),),
    )
    slower = [
        dataclasses.replace(m, samples=tuple(2 * x for x in m.samples))
        if m.of["contender"] == "kokanee" and m.of["stage"] == "features"
        else m
        for m in before.parts[0].measures
    ]
    part = dataclasses.replace(before.parts[0], measures=tuple(slower))
    out = io.StringIO()
    found = compared(before, dataclasses.replace(before, parts=(part,)))
    shown.show_comparison(found, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = (line for line in lines if line.startswith("  1 s, features, kokanee"))
    assert line.split()[4:8] == ["worse", "11,000", "22,000", "2.00"]
    (line,) = (line for line in lines if line.startswith("  1 s, features, cascade"))
    assert line.split()[4:] == ["same", "11,000", "11,000"]
    assert lines[-1] == "2 worse, 6 the same"
