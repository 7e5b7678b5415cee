"""Pictures of what `kokanee eval` found: figures with intervals, and what was taken for what.

    figures.png     every figure, its interval, and what the best constant answer reaches
    confusion.png   sound classes
    languages.png   languages

In the style of `pictures`; the same scores give the same file, byte for byte (extra [bench]).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .pictures import COLOURS, INK, LINES, blank, drawing, save_each

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DARK = 0.55  # the share from which a cell's number is white
_BESIDE = 12.0  # %: as wide as a number is written


def drawn(scores: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """(name, picture) of all that `hearing_scores.scored` found."""
    if scores["figures"]:
        yield "figures", figures(scores["figures"])
    for name, what, title in (
        ("confusion", "sounds", "What sounds are taken for"),
        ("languages", "languages", "What languages are taken for"),
    ):
        if what in scores:
            yield name, confusion(scores[what]["confusion"], title)


def save_all(scores: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws all of them as PNG into a folder, which is made."""
    return save_each(drawn(scores), folder)


def figures(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A bar a figure, those that are to be long above those that are to be short."""
    rows = sorted(found.values(), key=lambda one: one["better"] != "more")  # stable
    with drawing():
        figure = blank(1.1 + 0.3 * len(rows))
        axes = figure.subplots()
        for better, colour in (("more", COLOURS[0]), ("less", COLOURS[1])):
            at = [i for i, one in enumerate(rows) if one["better"] == better]
            if at:
                values = [100 * rows[i]["value"] for i in at]
                label = f"{better} is better"
                axes.barh(at, values, height=0.7, color=colour, alpha=0.85, label=label)
        for i, one in enumerate(rows):
            axes.plot([100 * one["low"], 100 * one["high"]], [i, i], color=INK, linewidth=1.5)
            if one["constant"] is not None:
                at_constant = [100 * one["constant"]] * 2
                label = "the best constant answer" if not _labelled(axes, "the best") else ""
                axes.plot(at_constant, [i - 0.4, i + 0.4], color=COLOURS[5], lw=2, label=label)
            text = f"{100 * one['value']:.1f} %"
            end, constant = 100 * one["high"], 100 * (one["constant"] or 0)
            end = max(end, constant) if constant - end < _BESIDE else end
            axes.annotate(text, (end, i), (5, 0), textcoords="offset points", va="center", size=9)
        axes.set_yticks(range(len(rows)), [f"{one['says']} ({one['n']})" for one in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.margins(x=0.1)
        axes.set_xlim(left=0)
        axes.set_xlabel("% (number of clips); dark lines: 95 % confidence")
        axes.grid(axis="x", alpha=0.6)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def _labelled(axes: Any, start: str) -> bool:
    return any(str(line.get_label()).startswith(start) for line in axes.get_lines())


def confusion(found: Mapping[str, Any], title: str) -> Figure:
    """A row a class, a column an answer; a number is clips, the shade their share of the row."""
    truths, answers, counts = found["truths"], found["answers"], found["counts"]
    shares = [[count / sum(row) for count in row] for row in counts]
    with drawing():
        from matplotlib.colors import LinearSegmentedColormap

        shades = LinearSegmentedColormap.from_list("share", ["#FFFFFF", COLOURS[0]])
        figure = blank(1.6 + 0.32 * len(truths))
        axes = figure.subplots()
        axes.imshow(shares, cmap=shades, vmin=0, vmax=1, aspect="auto", interpolation="none")
        for i, row in enumerate(counts):
            for k, count in enumerate(row):
                if count:
                    colour = "white" if shares[i][k] > _DARK else INK
                    centred: dict[str, Any] = {"ha": "center", "va": "center", "size": 9}
                    axes.annotate(str(count), (k, i), color=colour, **centred)
        slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(answers)), answers, **slanted)
        axes.set_yticks(range(len(truths)), truths)
        axes.set_xticks([k + 0.5 for k in range(len(answers) - 1)], minor=True)
        axes.set_yticks([i + 0.5 for i in range(len(truths) - 1)], minor=True)
        axes.grid(which="minor", color=LINES)
        axes.tick_params(which="both", length=0)
        axes.set_ylabel("what it is")
        axes.set_xlabel("what the answer names")
        axes.set_title(title)
    return figure
