"""A record -> what people read: tables in the terminal, markdown, CSV; and comparisons of two.

A part becomes `Sheet`s, which are the same everywhere; the HTML report (report.py) takes them too.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from csv import writer
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .comparison import Comparison, Difference, Verdict, compared, counted_verdicts
from .confidence import ratio
from .contenders import KOKANEE
from .record import Count, Label, Measure, Part, Record, Series

T = TypeVar("T")

_FEW = 3  # of fewer samples no interval is shown
_INTERVAL = "95 % sure"
_LEFT_OUT = ("p99", "p90", "n", _INTERVAL)  # columns, the first first, where a terminal is narrow
_GAP = 2  # spaces between two columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table in words; the first column names the row, or what a group of rows is about."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_names: int  # so many columns hold words, the others numbers
    grouped: bool = False  # rows with the same first cell are one behind the other

    def groups(self) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
        """What rows are about, and those rows without it."""
        for title, rows in groupby(self.rows, key=lambda row: row[0]):
            yield title, [row[1:] for row in rows]


# --- numbers and words ----------------------------------------------------------------------------


def number(value: float) -> str:
    """Three significant digits, never an exponent above 1: 0.0123, 1.23, 12.3, 123, 12,345."""
    value = float(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-4:
        return f"{value:.2e}"
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    value = float(f"{value:.3g}")  # 99.96 is 100 before the digits are counted
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def heading(name: str, unit: str) -> str:
    """Words and the unit: "first token, ms"."""
    named = "%" if unit == "share" else unit
    return name.replace("_", " ") + (f", {named}" if named else "")


def labels(of: Mapping[str, Label], *, without: Sequence[str] = ("contender",)) -> str:
    """What distinguishes a measure, in words: "features, 30 s", "depth 64"."""
    said = []
    for name, value in of.items():
        text = f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")
        if name in without:
            continue
        if name == "seconds":
            said.append(f"{text} s")
        elif name.endswith("_ms"):
            said.append(f"{name.removesuffix('_ms').replace('_', ' ')} {text} ms")
        else:
            alone = isinstance(value, str) and value not in ("yes", "no")
            said.append(text if alone else f"{name.replace('_', ' ')} {text}")
    return ", ".join(said)


def verdict(part: Part) -> str:
    """Whether the machine was quiet while the part ran, in a sentence."""
    if part.noise.quiet:
        return "The machine was quiet."
    reasons = "; ".join(part.noise.reasons) or "no reason was recorded"
    return (
        f"The machine was busy: {reasons}. Times may be too long; where other processes took part"
        " of a core, ratios are off too, as threads that wait for one another suffer most."
    )


def _as_shown(value: float, unit: str) -> str:
    return number(100 * value if unit == "share" else value)


def _exactly(value: float, unit: str) -> str:
    if unit != "share" and float(value).is_integer():
        return f"{value:,.0f}"
    return _as_shown(value, unit)


# --- a part as sheets -----------------------------------------------------------------------------


def sheets(part: Part) -> Iterator[Sheet]:
    """What was measured, then what was counted, where there is any."""
    if part.measures:
        yield _measured(part)
    if part.counts:
        yield _counted(part.counts)


def _measured(part: Part) -> Sheet:
    several = len({m.of["contender"] for m in part.measures if "contender" in m.of}) > 1
    head = ["measure", "of", *["contender"] * several, "median", _INTERVAL, "p90", "p99", "n"]
    rows = []
    for name, group in _grouped(part.measures):
        ours = next((m for m in group if m.of.get("contender") == KOKANEE), None)
        for measure in group:
            found, unit = measure.statistics, measure.unit
            row = [name, labels(measure.of)]
            row += [str(measure.of.get("contender", ""))] * several
            row += [_as_shown(found.median, unit), ""]
            if found.n >= _FEW:
                low, high = (_as_shown(x, unit) for x in (found.low, found.high))
                row[-1] = f"{low} to {high}"
            row += [_as_shown(found.p90, unit), _as_shown(found.p99, unit), str(found.n)]
            rows.append((*row, *[_beside(measure, ours)] * several))
    return Sheet(
        caption=f"{part.name}: measured",
        head=(*head, *["theirs / ours"] * several),
        rows=tuple(rows),
        n_names=2 + several,
        grouped=True,
    )


def _grouped(measures: Sequence[Measure]) -> Iterator[tuple[str, list[Measure]]]:
    """Those that differ in the contender only, ours first, by name and by labels."""
    groups: dict[_Key, list[Measure]] = {}
    orders: dict[Label, list[_Key]] = {}
    for m in sorted(measures, key=lambda m: m.of.get("contender") != KOKANEE):
        rest = tuple(sorted((k, str(v)) for k, v in m.of.items() if k != "contender"))
        groups.setdefault((m.name, m.unit, rest), []).append(m)
        orders.setdefault(m.of.get("contender", ""), []).append((m.name, m.unit, rest))
    order = merged(orders.values())
    names = list(dict.fromkeys(name for name, _, _ in order))
    for at in sorted(order, key=lambda k: (names.index(k[0]), _numbers(groups[k][0]))):
        yield heading(at[0], at[1]), groups[at]


_Key = tuple[str, str, tuple[tuple[str, str], ...]]  # name, unit, labels but the contender


def _numbers(measure: Measure) -> tuple[float, ...]:
    return tuple(v for v in measure.of.values() if not isinstance(v, str))


def merged(orders: Iterable[Sequence[T]]) -> list[T]:
    """One order that keeps all of these, as far as they agree: what is new before what follows."""
    made: list[T] = []
    for order in orders:
        at = len(made)
        for one in reversed(order):
            if one in made:
                at = made.index(one)
            else:
                made.insert(at, one)
    return made


def _beside(theirs: Measure, ours: Measure | None) -> str:
    """The ratio to ours; round by round where both were in every round."""
    if ours is None or theirs is ours or theirs.of.get("contender") is None:
        return ""
    if not all(ours.samples):
        return "ours is 0"
    paired = len(theirs.samples) == len(ours.samples)
    found = ratio(theirs.samples, ours.samples, paired=paired)
    if min(len(theirs.samples), len(ours.samples)) < _FEW:
        return number(found.ratio)
    return f"{number(found.ratio)} ({number(found.low)} to {number(found.high)})"


def _counted(counts: Sequence[Count]) -> Sheet:
    rows = tuple(
        (heading(c.name, c.unit), labels(c.of, without=()), _exactly(c.value, c.unit))
        for c in counts
    )
    return Sheet(
        caption="counted: the same on every run",
        head=("count", "of", "value"),
        rows=rows,
        n_names=2,
        grouped=True,
    )


def remarks(part: Part) -> Iterator[str]:
    """What a part says beside its tables: series, what was skipped and how to have it, notes."""
    for series in part.series:
        yield _over_time(series)
    for skipped in part.skipped:
        yield f"skipped {skipped.name}: {skipped.why}" + (
            f"; {skipped.install}" if skipped.install else ""
        )
    yield from part.notes


def _over_time(series: Series) -> str:
    what = heading(series.name, series.unit)
    of = labels(series.of, without=())
    if not series.values:
        return f"{what}{f' of {of}' if of else ''}: nothing"
    least, most = (_as_shown(f(series.values), series.unit) for f in (min, max))
    lasted = number(series.t_s[-1] - series.t_s[0])
    return f"{what}{f' of {of}' if of else ''}: {least} to {most} over {lasted} s"


def subject(record: Record) -> str:
    """What was measured on what, in a sentence."""
    what, on = record.subject, record.conditions
    machine = on.get("machine")
    cpu = machine.get("cpu", "") if isinstance(machine, Mapping) else machine or ""
    said = [str(what.get("name", "a bundle"))]
    if isinstance(what.get("bytes"), int):
        said.append(f"{what['bytes'] / 1e6:,.0f} MB")
    if on.get("threads"):
        said.append(f"{on['threads']} threads")
    said += [str(x) for x in (cpu, on.get("device")) if x]
    return ", ".join(said) + f"; {record.when}"


# --- terminal, markdown, CSV ----------------------------------------------------------------------


def show(record: Record, console: Console | None = None) -> None:
    """Print it, a part after the other."""
    console = console or Console()
    console.print(Text(subject(record)))
    for part in record.parts:
        console.print()
        took = f"{part.name}, {number(part.seconds)} s"
        console.print(Text.assemble((took, "bold"), ". ", verdict(part)))
        for sheet in sheets(part):
            console.print()
            console.print(_table(sheet, console.width))
        if part.series or part.skipped or part.notes:
            console.print()
        for remark in remarks(part):
            console.print(Text(remark))


def _table(sheet: Sheet, width: int, styles: Mapping[str, str] | None = None) -> Table:
    """The groups' titles in the column of the labels; only what fits into so many characters."""
    head, lines = list(sheet.head[1:]), list(_lines(sheet))
    for column in _LEFT_OUT:
        at = head.index(column) if column in head else None
        if at is None or (_needed(head, lines) <= width and any(line[at] for line in lines)):
            continue
        head.pop(at)
        lines = [(*line[:at], *line[at + 1 :]) for line in lines]
    made = Table(
        title=Text(sheet.caption),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, _GAP - 1, 0, 0),
        pad_edge=False,
    )
    widths = _widths(head, lines)
    n_names = sheet.n_names - 1
    _shrink(widths, [_longest_word(line[i] for line in lines) for i in range(n_names)], width)
    for i, (name, characters) in enumerate(zip(head, widths, strict=True)):
        made.add_column(
            Text(name),
            justify="left" if i < n_names else "right",
            vertical="bottom",
            overflow="fold",
            width=characters,
        )
    for line in lines:  # Text: names may hold what rich would take for markup
        made.add_row(*(Text(cell, style=(styles or {}).get(cell, "")) for cell in line))
    return made


def _lines(sheet: Sheet) -> Iterator[tuple[str, ...]]:
    """Rows without the first column: it stands alone above them, or in place of no labels."""
    for title, rows in sheet.groups():
        bare = not any(label for label, *_ in rows)
        if not bare:
            yield title, *[""] * (len(sheet.head) - 2)
        before = ""
        for label, *cells in rows:
            named = title if bare else f"  {label}"
            yield "" if named == before else named, *cells
            before = named


def _widths(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[int]:
    """Of columns whose cells stay on one line; words of a heading may be below one another."""
    words = [max(map(cell_len, name.split())) for name in head]
    return [max(n, *(cell_len(line[i]) for line in lines)) for i, n in enumerate(words)]


def _shrink(widths: list[int], least: Sequence[int], width: int) -> None:
    """Take characters from columns of words, which fold between two, the widest first; in place."""
    while sum(widths) + _GAP * (len(widths) - 1) > width:
        wide = [i for i, n in enumerate(least) if widths[i] > n]
        if not wide:
            return
        widths[max(wide, key=lambda i: widths[i])] -= 1


def _longest_word(cells: Iterable[str]) -> int:
    """With what it is indented by."""
    longest = 8
    for cell in cells:
        indent = len(cell) - len(cell.lstrip())
        longest = max(longest, *(indent + cell_len(word) for word in cell.split() or [""]))
    return longest


def _needed(head: Sequence[str], lines: Sequence[Sequence[str]]) -> int:
    return sum(_widths(head, lines)) + _GAP * (len(head) - 1)


def markdown(record: Record) -> str:
    """The same as markdown."""
    lines = [f"{_plain(subject(record))}", "", f"`{record.command.replace('`', '')}`"]
    for part in record.parts:
        lines += ["", f"### {_plain(part.name)}", "", _plain(verdict(part))]
        for sheet in sheets(part):
            rules = ["---" if i < sheet.n_names else "---:" for i in range(len(sheet.head))]
            lines += ["", _line(sheet.head), f"|{'|'.join(rules)}|", *map(_line, sheet.rows)]
        if said := list(remarks(part)):
            lines += ["", *(f"* {_plain(remark)}" for remark in said)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    """Text that markdown leaves as it is."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(text.split()))


COLUMNS = (
    *("kind", "part", "name", "labels", "unit", "better", "value", "n"),
    *("median", "p50", "p90", "p95", "p99", "min", "max", "spread", "low", "high"),
)


def csv(record: Record) -> str:
    """A row a measure with its statistics, a row a count with its value; nothing rounded."""
    made = io.StringIO()
    out = writer(made, lineterminator="\n")
    out.writerow(COLUMNS)
    for part in record.parts:
        for m in part.measures:
            s = m.statistics
            row = ["measure", part.name, m.name, _pairs(m.of), m.unit, m.better, ""]
            numbers = [s.n, s.median, s.p50, s.p90, s.p95, s.p99, s.least, s.most]
            out.writerow([*row, *numbers, s.spread, s.low, s.high])
        for c in part.counts:
            told = ["count", part.name, c.name, _pairs(c.of), c.unit, c.better or "", c.value]
            out.writerow([*told, *[""] * (len(COLUMNS) - len(told))])
    return made.getvalue()


def _pairs(of: Mapping[str, Label]) -> str:
    return ";".join(f"{name}={of[name]}" for name in sorted(of))


# --- comparisons ----------------------------------------------------------------------------------

_STYLES: Mapping[Verdict, str] = {"worse": "red", "better": "green", "changed": "yellow"}
_SHORT: Mapping[Verdict, str] = {
    "worse": "worse",
    "better": "better",
    "changed": "changed",
    "too noisy to say": "too noisy",
    "the same within noise": "within noise",
    "the same": "same",
}


def show_comparison(found: Comparison, console: Console | None = None) -> None:
    """What else differs first, then every number, then how many are worse."""
    console = console or Console()
    for said in (*found.explanations, *found.noisy):
        console.print(Text(f"! {said}"))
    for part in dict.fromkeys(map(_part, found.differences)):
        sheet = _compared(part, [d for d in found.differences if _part(d) == part])
        console.print()
        console.print(_table(sheet, console.width, {_SHORT[v]: c for v, c in _STYLES.items()}))
    if found.differences:
        console.print()
    for where, keys in (("BEFORE", found.only_before), ("AFTER", found.only_after)):
        if keys:
            console.print(Text(f"only in {where}: {', '.join(keys)}"))
    totals = counted_verdicts(found.differences)
    said = ", ".join(f"{n} {name}" for name, n in totals.items())
    console.print(Text(said or "the records have no number in common"))


def differences(recorded: Record, again: Record) -> str:
    """In words: which numbers came out otherwise than recorded, by more than the noise."""
    found = compared(recorded, again)
    apart = found.of("worse", "better", "changed")
    lines = [f"! {said}" for said in (*found.explanations, *found.noisy)]
    for d in apart:
        before, after, by = _cells(d)
        times = f", {by} times" if by else ""
        lines.append(f"{heading(d.key, d.unit)}: recorded {before}, now {after}{times}: {_said(d)}")
    hidden = len(found.of("too noisy to say"))
    lines.append(
        f"{len(apart)} of {len(found.differences)} numbers differ by more than the noise"
        + (f"; of {hidden} the noise lets nothing be said" if hidden else "")
    )
    ran = {part.name for part in again.parts}
    left_out = [part.name for part in recorded.parts if part.name not in ran]
    missing = [key for key in found.only_before if key.partition(".")[0] in ran]
    if left_out or missing:
        lines.append(f"not measured again: {', '.join((*left_out, *missing))}")
    return "\n".join(lines)


def _part(d: Difference) -> str:
    return d.key.partition(".")[0]


def _compared(part: str, differences: Sequence[Difference]) -> Sheet:
    keys = [_parsed(d) for d in differences]
    several = len({of.get("contender") for _, of in keys}) > 1
    rows: dict[str, list[tuple[str, ...]]] = {}
    for d, (name, of) in zip(differences, keys, strict=True):
        before, after, by = _cells(d)
        by = by if d.why in (None, "counted") else d.why or ""
        said = labels(of, without=() if several else ("contender",))
        rows.setdefault(name, []).append((name, said, _SHORT[d.verdict], before, after, by))
    return Sheet(
        caption=part,
        head=("number", "of", "verdict", "before", "after", "after / before"),
        rows=tuple(row for group in rows.values() for row in group),
        n_names=3,
        grouped=True,
    )


def _parsed(d: Difference) -> tuple[str, dict[str, Label]]:
    """Of a key: the number's name in words, and its labels, the contender last."""
    name, _, rest = d.key.partition(".")[2].removesuffix("]").partition("[")
    of: dict[str, Label] = {}
    for pair in filter(None, rest.split(",")):
        label, _, value = pair.partition("=")
        of[label] = float(value) if value.replace(".", "", 1).isdecimal() else value
    if "contender" in of:
        of["contender"] = of.pop("contender")
    return heading(name, d.unit), of


def _cells(d: Difference) -> tuple[str, str, str]:
    form = _as_shown if d.limit is not None else _exactly
    by = ""
    if d.ratio is not None:
        low, high = number(d.ratio.low), number(d.ratio.high)
        by = f"{number(d.ratio.ratio)} ({low} to {high})"
    return form(d.before, d.unit), form(d.after, d.unit), by


def _said(d: Difference) -> str:
    return d.verdict + (f" ({d.why})" if d.why and d.why != "counted" else "")
