"""A record -> pictures of it: stages, latencies, memory, and quality beside bytes and speed.

    waterfall   offline   what lies before the first token, stage by stage     stacked bars
    latency     stream    how many turns were answered how soon                cumulative shares
    memory      memory    resident memory over time                            lines and marks
    trade       several   quality against bytes; the area is the speed         points

Each is a matplotlib Figure (extra [bench]), as wide as a README, in colours that the colour-blind
can tell apart (Okabe and Ito, 2008). The same record gives the same file, byte for byte.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .contenders import KOKANEE
from .record import Measure, Part, Record, RecordError
from .shown import heading, merged, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C7A6B", "#F0E442")
INK, LINES = "#26323a", "#b9c3c9"
_ON_DOTS = "#222222"  # on white in the dark too, where INK is bright
_DASHES = ("-", "--", "-.", ":")
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "kokanee",  # ids of clips and markers: the same every time
    "svg.fonttype": "none",  # text stays text
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINES,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": LINES,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def waterfall(record: Record, *, part: str = "offline") -> Figure:
    """Medians of the stages one after the other, a bar a contender, by length of the clip.

    The whole bar is the median first token (or total, where that is what the part holds); what the
    stages do not explain of it is the grey rest.

    Raises:
        RecordError: the record has no stages in this part.
    """
    found = _part(record, part)
    stages = _wanted(found, [m for m in found.measures if m.name == "stage"], "stage")
    bars = list(dict.fromkeys((m.of.get("seconds"), _contender(m)) for m in stages))
    bars.sort(key=lambda bar: (float(bar[0] or 0), bar[1] != KOKANEE))
    names = merged(
        [str(m.of["stage"]) for m in stages if (m.of.get("seconds"), _contender(m)) == bar]
        for bar in bars
    )
    several = len({contender for _, contender in bars}) > 1
    with drawing():
        figure = blank(1.5 + 0.42 * len(bars))
        axes = figure.subplots()
        ends = [0.0] * len(bars)
        for i, name in enumerate(names):
            widths = [
                sum(
                    m.statistics.median
                    for m in stages
                    if m.of["stage"] == name and (m.of.get("seconds"), _contender(m)) == bar
                )
                for bar in bars
            ]
            axes.barh(
                range(len(bars)),
                widths,
                left=ends,
                height=0.7,
                color=COLOURS[i % len(COLOURS)],
                hatch=("", "///", "...")[i // len(COLOURS) % 3],
                edgecolor="white",
                linewidth=0.5,
                label=name.replace("_", " "),
            )
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
        wholes = [_whole(found, bar) for bar in bars]
        rest = [max(0.0, (whole or end) - end) for whole, end in zip(wholes, ends, strict=True)]
        if any(r > 0.01 * end for r, end in zip(rest, ends, strict=True)):
            axes.barh(range(len(bars)), rest, left=ends, height=0.7, color=LINES, label="rest")
        for i, (whole, end) in enumerate(zip(wholes, ends, strict=True)):
            at = end + rest[i]
            text = f"{number(whole if whole is not None else end)} ms"
            axes.annotate(text, (at, i), (4, 0), textcoords="offset points", va="center", size=9)
        axes.set_yticks(range(len(bars)), [_bar_name(bar, several=several) for bar in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"median milliseconds until {_until(found)}")
        axes.grid(axis="x", alpha=0.6)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper left", ncols=4)
    return figure


def _bar_name(bar: tuple[Any, str], *, several: bool) -> str:
    seconds, contender = bar
    length = "" if seconds is None else f"{float(seconds):g} s"
    return ", ".join(filter(None, [length, contender if several or not length else ""]))


def _whole(part: Part, bar: tuple[Any, str]) -> float | None:
    name = "first_token" if _until(part) == "the first token" else "total"
    for m in part.measures:
        if m.name == name and (m.of.get("seconds"), _contender(m)) == bar:
            return m.statistics.median
    return None


def _until(part: Part) -> str:
    named = {m.name for m in part.measures}
    if "first_token" in named:
        return "the first token"
    return "the sound is encoded" if part.name == "encode" else "the end"


def latency(record: Record, *, part: str = "stream", name: str = "first_token") -> Figure:
    """The share of turns that were answered within a time, a line a mode and contender.

    Raises:
        RecordError: the record has no such measure in this part.
    """
    found = _part(record, part)
    every = [m for m in found.measures if m.name == name]
    # Turns of some lengths alone stand beside those of all of them.
    every = [m for m in every if m.of.get("length", "all") == "all"]
    measures = _wanted(found, every, name)
    with drawing():
        figure = blank(3.6)
        axes = figure.subplots()
        for i, m in enumerate(measures):
            values = sorted(m.samples)
            shares = [100 * (k + 1) / len(values) for k in range(len(values))]
            label = ", ".join(str(v) for k, v in m.of.items() if k != "length") or name
            axes.step(
                [values[0], *values],
                [0.0, *shares],
                where="post",
                color=COLOURS[i % len(COLOURS)],
                linestyle=_DASHES[i % len(_DASHES)],
                linewidth=2,
                label=f"{label}: median {number(m.statistics.median)} {m.unit}",
            )
        axes.axhline(50, color=LINES, linewidth=1, zorder=0)
        least = min(min(m.samples) for m in measures)
        if least > 0 and max(max(m.samples) for m in measures) > 20 * least:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda x, _: number(x))
        else:
            axes.set_xlim(left=0)
        axes.set_ylim(0, 102)
        said = "end of speech to first token" if name == "first_token" else name.replace("_", " ")
        axes.set_xlabel(f"{said}, {measures[0].unit}")
        axes.set_ylabel("turns answered by then, %")
        axes.grid()
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def memory(record: Record, *, part: str = "memory", name: str = "rss") -> Figure:
    """Resident memory over time, a line a contender; numbered dots where something began.

    Raises:
        RecordError: the record has no such series in this part.
    """
    found = _part(record, part)
    series = [s for s in found.series if s.name == name and s.values]
    if not series:
        raise RecordError(f"{part}: expected a series {name} to draw, got none")
    series.sort(key=lambda s: s.of.get("contender") != KOKANEE)
    with drawing():
        figure = blank(3.6)
        axes = figure.subplots()
        marked = list(dict.fromkeys(mark.what for s in series for mark in s.marks))
        for i, s in enumerate(series):
            colour = COLOURS[i % len(COLOURS)]
            label = ", ".join(str(v) for v in s.of.values()) or name
            label += f": at most {number(max(s.values))} {s.unit}"
            dash = _DASHES[i % len(_DASHES)]
            axes.plot(s.t_s, s.values, color=colour, linestyle=dash, linewidth=2, label=label)
            for mark in s.marks:
                nearest = min(range(len(s.t_s)), key=lambda k: abs(s.t_s[k] - mark.t_s))
                at = mark.t_s, s.values[nearest]
                dot: dict[str, Any] = {"markersize": 11, "markerfacecolor": "white"}
                dot |= {"color": colour, "markeredgewidth": 1.5, "zorder": 3 + len(series) - i}
                axes.plot(*at, marker="o", linestyle="", clip_on=False, **dot)
                text = str(marked.index(mark.what) + 1)
                centred: dict[str, Any] = {"ha": "center", "va": "center_baseline", "size": 8}
                axes.annotate(text, at, color=_ON_DOTS, zorder=dot["zorder"], **centred)
        axes.set_ylim(0, 1.1 * max(max(s.values) for s in series))
        axes.set_xlim(left=min(0.0, *(s.t_s[0] for s in series)))
        legend = "; ".join(f"{k + 1} {what}" for k, what in enumerate(marked))
        axes.set_xlabel(f"seconds\n{legend}" if legend else "seconds")
        axes.set_ylabel(f"resident memory, {series[0].unit}")
        axes.grid()
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def trade(records: Record | Sequence[Record], *, quality: str = "word_error_rate") -> Figure:
    """Quality against bytes, the area of a point its decoding speed; names are in the legend.

    A point is a record (the bytes of its subject, its quality, its rate of decoding at the least
    depth), or, in one record, a scheme: counts "bytes" and `quality` and a measure "rate" of it.

    Args:
        records: one or several.
        quality: the count that is drawn.

    Raises:
        RecordError: fewer than two of them have bytes and that count.
    """
    every = [records] if isinstance(records, Record) else list(records)
    points = [p for r in every for p in _points(r, quality)]
    if len(points) < 2:
        raise RecordError(
            f"expected two or more with bytes and a count {quality}, got {len(points)}"
        )
    unit, better = points[0].unit, points[0].better
    rates = [p.rate for p in points if p.rate]
    with drawing():
        figure = blank(4.2)
        axes = figure.subplots()
        for i, p in enumerate(sorted(points, key=lambda p: p.value)):
            at = p.n_bytes / 1e6, (100 if unit == "share" else 1) * p.value
            area = 700 * p.rate / max(rates) if p.rate else 30
            label = f"{p.name}: {number(at[0])} MB, {number(at[1])}" + " %" * (unit == "share")
            label += f", {number(p.rate)} tokens/s" if p.rate else ""
            colour = COLOURS[i % len(COLOURS)]
            axes.scatter(*at, s=area, color=colour, alpha=0.65, linewidths=0, label=label)
        axes.margins(0.25)
        axes.set_xlabel("bytes, MB" + ("; the area is the speed of decoding" if rates else ""))
        axes.set_ylabel(f"{heading(quality, unit)}" + (f"; {better} is better" if better else ""))
        axes.grid()
        legend = figure.legend(loc="outside upper left", ncols=2)
        for handle in filter(None, legend.legend_handles):
            handle.set(sizes=[60])
    return figure


class _Point:
    def __init__(self, name: str, n_bytes: float, value: float) -> None:
        self.name, self.n_bytes, self.value = name, n_bytes, value
        self.rate: float | None = None
        self.unit, self.better = "", ""


def _points(record: Record, quality: str) -> Iterator[_Point]:
    counts = [c for part in record.parts for c in part.counts]
    measures = [m for part in record.parts for m in part.measures]
    scored = [c for c in counts if c.name == quality and _contender(c) in ("", KOKANEE)]
    for count in scored:
        scheme = count.of.get("scheme")
        sizes = [c.value for c in counts if c.name == "bytes" and c.of.get("scheme") == scheme]
        if scheme is None:
            named = str(record.subject.get("name", "bundle"))
            sizes = [float(record.subject["bytes"])] if "bytes" in record.subject else []
        else:
            named = str(scheme)
        if not sizes:
            continue
        made = _Point(named, sum(sizes), count.value)
        made.unit, made.better = count.unit, count.better or ""
        rates = [
            m
            for part in record.parts
            for m in part.measures
            if m.name == "rate" and m.of.get("scheme") == scheme and part.name != "prefill"
            if _contender(m) in ("", KOKANEE)
        ]
        if rates and measures:
            least = min(rates, key=lambda m: float(m.of.get("depth", 0)))
            made.rate = least.statistics.median
        yield made


# --- files ----------------------------------------------------------------------------------------

PICTURES: Mapping[str, Callable[[Record], Figure]] = {
    "stages": waterfall,
    "encode": lambda record: waterfall(record, part="encode"),
    "latency": latency,
    "memory": memory,
    "trade": trade,
}


def drawn(record: Record) -> Iterator[tuple[str, Figure]]:
    """All that the record has the parts for, by name."""
    _need()
    for name, draw in PICTURES.items():
        try:
            figure = draw(record)
        except RecordError:  # not measured: nothing to draw
            continue
        yield name, figure


def save(figure: Figure, path: Path) -> None:
    """Write it, as SVG or PNG by suffix; the same figure gives the same bytes."""
    suffix = path.suffix.lower()
    if suffix not in (".svg", ".png"):
        raise click.BadParameter(f"expected a picture as .svg or .png, got {path}")
    with drawing():
        metadata = {"Date": None} if suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=200, metadata=metadata, facecolor="white")


def save_all(record: Record, folder: Path, *, suffix: str = ".png") -> list[Path]:
    """Draw all that the record has the parts for into a folder, which is made."""
    return save_each(drawn(record), folder, suffix=suffix)


def save_each(
    figures: Iterable[tuple[str, Figure]], folder: Path, *, suffix: str = ".png"
) -> list[Path]:
    """Write figures under their names into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in figures:
        files.append(folder / f"{name}{suffix}")
        save(figure, files[-1])
    return files


def inline(figure: Figure, name: str) -> str:
    """An <svg> element for a page: no header, ids of its own, ink and --line as in the page."""
    made = io.StringIO()
    with drawing():
        figure.savefig(made, format="svg", metadata={"Date": None}, facecolor="none")
    text = made.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', "", text, count=1)
    return text.replace(INK, "currentColor").replace(LINES, "var(--line)")


def blank(height: float) -> Figure:
    """An empty figure as wide as all of them, of a height in inches; within `drawing`."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(9, height), layout="constrained", facecolor="none")
    layout: Any = made.get_layout_engine()
    layout.set(w_pad=0.08, h_pad=0.08)
    return made


def drawing() -> Any:
    """A context in which figures are made and written in the house's style."""
    _need()
    import matplotlib as mpl

    style: Any = _STYLE | {"axes.facecolor": "none"}
    return mpl.rc_context(style)


def _need() -> None:
    try:
        import matplotlib.figure  # noqa: F401  whether it is there
    except ImportError:
        raise click.ClickException(
            "matplotlib is not installed; pip install 'kokanee[bench]'"
        ) from None


def _part(record: Record, name: str) -> Part:
    try:
        return record.part(name)
    except KeyError:
        had = ", ".join(part.name for part in record.parts) or "none"
        raise RecordError(f"expected a part {name} to draw, got {had}") from None


def _wanted(part: Part, measures: list[Measure], name: str) -> list[Measure]:
    if not measures:
        raise RecordError(f"{part.name}: expected measures {name} to draw, got none")
    return sorted(measures, key=lambda m: _contender(m) != KOKANEE)


def _contender(one: Any) -> str:
    return str(one.of.get("contender", ""))
