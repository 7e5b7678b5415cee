"""What `kokanee eval` found, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

READING = {
    "at_once": "heard, and answered at once",
    "in_writing": "heard, and answered in writing",
    "kept": "read, beside the answers given",
}
SHOWN_MISTAKES = 2  # the most frequent ones of a class


def show(result: Mapping[str, Any], console: Console) -> None:
    """Figures, classes, and how other bundles and streaming differ."""
    console.print(figures(result["figures"], title=f"{result['bundle']}: {_sets(result)}"))
    for name, title in (("sounds", "Sounds"), ("languages", "Languages")):
        if name in result:
            console.print(classes(result[name], title=title))
    for other in result["beside"]:
        pair = [other["bundle"], result["bundle"]]
        if len(set(pair)) == 1:
            pair = [Path(one["folder"]).name for one in (other, result)]
        console.print(beside(other, title=" beside ".join(pair)))
    if streamed := result["streamed"]:
        title = f"Streamed ({streamed['mode']}) beside offline"
        console.print(beside(streamed, title=title))
    if by_phrase := result["by_phrase"]:
        title = f"Cut at pauses into {by_phrase['longest_s']:g} s at most, beside whole clips"
        console.print(beside(by_phrase, title=title))
    if in_writing := result["in_writing"]:
        title = "Questions answered in writing, beside at once"
        console.print(beside(in_writing, title=title))
        console.print(reading(in_writing["read"]))


def _sets(result: Mapping[str, Any]) -> str:
    named = [*result["sets"], *(entry["path"] for entry in result["manifests"])]
    return ", ".join(named)


def figures(found: Mapping[str, Mapping[str, Any]], *, title: str) -> Table:
    """A row a figure."""
    table = Table("", "clips", "result", "95 %", "best constant", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for one in found.values():
        constant = "" if one["constant"] is None else f"{one['constant']:.1%}"
        says = one["says"] + (" (less is better)" if one["better"] == "less" else "")
        table.add_row(says, str(one["n"]), f"{one['value']:.1%}", _interval(one), constant)
    return table


def classes(found: Mapping[str, Any], *, title: str) -> Table:
    """A row a class: how often it is told, and what it is taken for instead."""
    table = Table(title, "clips", "right", "95 %", "taken for")
    for column in table.columns[1:4]:
        column.justify = "right"
    confusion = found["confusion"]
    for truth, counts in zip(confusion["truths"], confusion["counts"], strict=True):
        one = found["recall"][truth]
        taken = _mistakes(truth, confusion["answers"], counts)
        table.add_row(truth, str(one["n"]), f"{one['value']:.0%}", _interval(one, digits=0), taken)
    return table


def beside(found: Mapping[str, Any], *, title: str) -> Table:
    """A row a figure that differs: what it is there, and how much more that is."""
    same = [one["says"] for one in found["figures"].values() if not _moved(one)]
    caption = f"{len(same)} figures do not differ." if same else None
    table = Table("", "clips", "result", "difference", "95 %", title=title, caption=caption)
    for column in table.columns[1:]:
        column.justify = "right"
    for task, one in found["equal_answers"].items():
        says = "equal answers" if task == "all" else f"- to the question for {task}"
        table.add_row(says, str(one["n"]), f"{one['value']:.1%}", "", _interval(one))
    for one in filter(_moved, found["figures"].values()):
        difference = one["difference"]
        interval = f"{100 * difference['low']:+.1f} to {100 * difference['high']:+.1f}"
        table.add_row(
            one["says"],
            str(difference["n"]),
            f"{one['value']:.1%}",
            f"{100 * difference['value']:+.1f}",
            interval,
        )
    return table


def reading(found: Mapping[str, Any]) -> Table:
    """Questions beside what the bundle itself answers to their exact words."""
    title = "Questions beside the bundle's own answers to their exact words"
    table = Table("same answer", "clips", "result", "95 %", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, one in found.items():
        table.add_row(READING[name], str(one["n"]), f"{one['value']:.1%}", _interval(one))
    return table


def _moved(one: Mapping[str, Any]) -> bool:
    return any(one["difference"][k] for k in ("value", "low", "high"))


def _mistakes(truth: str, answers: Sequence[str], counts: Sequence[int]) -> str:
    wrong = [(n, a) for n, a in zip(counts, answers, strict=True) if n and a != truth]
    wrong.sort(key=lambda pair: -pair[0])  # stable: ties in the order of the classes
    said = [f"{answer} {n}" for n, answer in wrong[:SHOWN_MISTAKES]]
    return ", ".join([*said, *(["..."] if len(wrong) > SHOWN_MISTAKES else [])])


def _interval(one: Mapping[str, Any], *, digits: int = 1) -> str:
    return f"{100 * one['low']:.{digits}f} to {100 * one['high']:.{digits}f}"
