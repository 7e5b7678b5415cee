import base64
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from kokanee.benchmarks import report
from kokanee.benchmarks.record import (
    Count,
    Label,
    Measure,
    Noise,
    Part,
    Record,
    Series,
    Skipped,
    from_json,
)

DRAWING = Path(__file__).parents[3] / "docs" / "bench-terms.svg"
NASTY = "<script>alert(1)</script>"
BUSY = Noise(quiet=False, reasons=(NASTY,), evidence={})
VOID = {"meta", "link", "img", "br"}


def made() -> Record:
    of: dict[str, Label] = {"contender": NASTY, "stage": "features", "seconds": 1.0}
    offline = Part(
        name="offline",
        seconds=1,
        settings={"said": NASTY},
        noise=BUSY,
        measures=(
            Measure(name="stage", unit="ms", of=of, samples=(1.0, 2.0, 3.0)),
            Measure(name="total", unit="ms", of={"contender": "kokanee"}, samples=(5.0,)),
        ),
        counts=(Count(name="bytes", unit="B", value=7, of={"part": NASTY}),),
        skipped=(Skipped(name=NASTY, why=NASTY, install=NASTY),),
        notes=(NASTY,),
    )
    rss = Series(name="rss", unit="MB", t_s=(0.0, 1.0), values=(1.0, 2.0), of={"contender": NASTY})
    memory = Part(name="memory", seconds=1, settings={}, noise=BUSY, series=(rss,))
    return Record(
        command=NASTY,
        when="2026",
        subject={"name": NASTY},
        conditions={NASTY: NASTY, "threads": 2},
        parts=(offline, memory),
    )


class Page(HTMLParser):
    """Writes down what is in a page, and holds every tag closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[Counter[str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append(Counter())
        elif self.tables:
            self.tables[-1][tag] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


TEXT = report.html(made())
PAGE = Page(TEXT)


def test_the_page_loads_nothing() -> None:
    for tag, attributes in PAGE.attributes:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                assert (value or "").startswith(("#", "data:")), (tag, name, value)
    assert not PAGE.tags.keys() & {"link", "img", "iframe", "object", "script"}
    assert not re.search(r"@import|url\((?!#)", TEXT)


def test_names_are_text_and_never_tags() -> None:
    assert PAGE.tags["script"] == 0
    assert NASTY not in TEXT
    assert f"skipped {NASTY}: {NASTY}; {NASTY}" in PAGE.text
    assert f"The machine was busy: {NASTY}" in PAGE.text
    assert PAGE.open == []


def test_every_table_has_a_caption_and_headers() -> None:
    assert len(PAGE.tables) == 5  # measured, counted, settings, conditions, samples
    for table in PAGE.tables:
        assert table["caption"] == 1
        assert table["thead"] == 1
        assert table["th"] >= 2
    scopes = {a.get("scope") for tag, a in PAGE.attributes if tag == "th"}
    assert scopes == {"col", "row", "rowgroup"}


def test_every_row_begins_with_what_it_is() -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", TEXT)
    assert len(rows) == sum(table["tr"] for table in PAGE.tables)
    assert all(row.startswith('<th scope="') for row in rows)
    (total,) = (row for row in rows if ">total, ms<" in row)  # alone, and of nothing
    assert total.startswith('<th scope="row">total, ms</th><td>kokanee</td><td class="n">5.00</td>')


def test_the_page_can_be_heard_and_read_on_a_telephone() -> None:
    attributes = dict(PAGE.attributes)
    assert attributes["html"] == {"lang": "en"}
    assert ("meta", "viewport") in [(t, a.get("name")) for t, a in PAGE.attributes]
    assert "prefers-color-scheme:dark" in TEXT
    assert PAGE.tags["h1"] == 1
    drawings = [a for tag, a in PAGE.attributes if tag == "svg"]
    assert len(drawings) == 3  # stages, memory, terms
    assert all(a["role"] == "img" for a in drawings)
    assert all(a.get("aria-label") or a.get("aria-labelledby") for a in drawings)


def test_no_two_things_have_the_same_id() -> None:
    ids = [a["id"] for _, a in PAGE.attributes if "id" in a]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', TEXT))
    assert used <= set(ids)


def test_the_page_holds_the_whole_record() -> None:
    (link,) = [a for tag, a in PAGE.attributes if tag == "a"]
    assert link["download"] == "record.json"
    coded = (link["href"] or "").removeprefix("data:application/json;base64,")
    assert from_json(json.loads(base64.b64decode(coded))) == made()


def test_the_terms_are_drawn_and_told() -> None:
    assert f"{report.TERMS_SVG}\n" == DRAWING.read_text("utf-8")
    assert report.TERMS_SVG in TEXT
    for term in report.TERMS:
        assert term in PAGE.text
