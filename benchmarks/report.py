"""A record -> one HTML page that opens offline: tables, pictures, conditions, terms and samples.

Nothing is loaded from anywhere, which a content security policy in the page holds it to. It reads
on a telephone and in the dark, by eye or by ear.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from . import pictures
from .record import Part, Record, key, to_json
from .shown import Sheet, number, remarks, sheets, subject, verdict

TERMS = {
    "time to first token": "from handing over the sound to the first text that can be read;"
    " encoding and prefill lie in it",
    "end of speech to first token": "what somebody who speaks waits for: from the end of the last"
    " word; the silence that ends a turn lies in it",
    "inter-token latency": "between two tokens of an answer; every step is a sample",
    "time per output token": "from the first text to the last over the steps of the model between"
    " them, the one that finds the end included: the mean inter-token latency of one answer",
    "real-time factor": "time until the last token over the length of the sound; below 1 is faster"
    " than real time",
}
_DRAWN = {  # part -> its pictures, with what they show
    "offline": {"stages": "Medians of the stages until the first token, by length of the clip."},
    "encode": {"encode": "Medians of the stages of encoding, by length of the clip."},
    "stream": {"latency": "Share of the turns answered within a time after the end of speech."},
    "memory": {"memory": "Resident memory over time."},
    "quality": {"trade": "Quality against bytes; the area of a point is its decoding speed."},
}
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2a31;--page:#fff;--line:#d5dde1;
--soft:#f4f7f8;--busy:#9a3412}
@media (prefers-color-scheme:dark){
:root{--ink:#dbe6ec;--page:#12191d;--line:#34444d;--soft:#1b252b;--busy:#fdba74}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);
max-width:60rem;margin:0 auto;padding:1rem}
h1,h2{line-height:1.2}h2{margin-top:2.5rem;border-top:1px solid var(--line);padding-top:1rem}
.wide{overflow-x:auto;margin:1rem 0}table{border-collapse:collapse;font-size:.9rem}
caption{text-align:left;font-weight:600;padding:.25rem 0}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
thead{background:var(--soft)}
tbody th{font-weight:400}figure{margin:1rem 0}figure svg{width:100%;min-width:34rem;height:auto}
code,pre{font-size:.85rem;overflow-wrap:anywhere;white-space:pre-wrap}
tbody .group{font-weight:600;border-bottom:0;padding-top:.6rem}.in{padding-left:1.4rem}
.long{overflow-wrap:anywhere;min-width:8rem}
.busy{color:var(--busy);border-left:.25rem solid;padding-left:.75rem}a{color:inherit}
summary{cursor:pointer}dl{max-width:46rem}dd{margin:0 0 .6rem}
"""


def html(record: Record) -> str:
    """The whole page."""
    name = str(record.subject.get("name", "bundle"))
    figures = {n: pictures.inline(figure, n) for n, figure in pictures.drawn(record)}
    body = [
        f"<header><h1>kokanee bench: {escape(name)}</h1>",
        f"<p>{escape(subject(record))}</p><p><code>{escape(record.command)}</code></p></header>",
        "<main>",
        *(piece for part in record.parts for piece in _part(part, figures)),
        *_conditions(record),
        *_terms(),
        *_samples(record),
        "</main>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>kokanee bench: {escape(name)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _part(part: Part, figures: Mapping[str, str]) -> Iterator[str]:
    yield f'<section aria-label="{escape(part.name)}"><h2>{escape(part.name)}</h2>'
    quiet = "quiet" if part.noise.quiet else "busy"
    yield f'<p class="{quiet}">{escape(verdict(part))}</p>'
    for name, says in _DRAWN.get(part.name, {}).items():
        if name in figures:
            yield _figure(figures[name], says)
    for sheet in sheets(part):
        yield _table(sheet)
    if said := list(remarks(part)):
        yield "<ul>" + "".join(f"<li>{escape(remark)}</li>" for remark in said) + "</ul>"
    if settings := tuple(_facts(part.settings, ())):
        yield "<details><summary>Settings</summary>"
        yield _table(
            Sheet(caption=f"{part.name}: settings", head=("what", "is"), rows=settings, n_names=2)
        )
        yield "</details>"
    yield "</section>"


def _figure(svg: str, says: str) -> str:
    labelled = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(says)}" ', 1)
    return f"<figure>{_wide(labelled, says)}<figcaption>{escape(says)}</figcaption></figure>"


def _wide(inside: str, says: str) -> str:
    """What a telephone scrolls sideways, by keys as well."""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(says)}">{inside}</div>'
    )


def _table(sheet: Sheet) -> str:
    names = sheet.head[sheet.grouped :]
    words = sheet.n_names - sheet.grouped
    head = "".join(
        f'<th scope="col"{_numeric(i, words)}>{escape(name)}</th>' for i, name in enumerate(names)
    )
    long = "" if sheet.grouped else ' class="long"'  # a hash, a list of samples
    bodies = []
    for title, rows in sheet.groups() if sheet.grouped else [("", list(sheet.rows))]:
        bare = not any(label for label, *_ in rows)
        titled = not bare and sheet.grouped
        lines = []
        if titled:
            across = f'colspan="{len(names)}" class="group"'
            lines.append(f'<tr><th scope="rowgroup" {across}>{escape(title)}</th></tr>')
        for label, *cells in rows:
            inside = ' class="in"' if titled else long
            line = f'<th scope="row"{inside}>{escape(title if bare else label)}</th>'
            line += "".join(
                f"<td{_numeric(i, words) or long}>{escape(cell)}</td>"
                for i, cell in enumerate(cells, 1)
            )
            lines.append(f"<tr>{line}</tr>")
        bodies.append(f"<tbody>{''.join(lines)}</tbody>")
    caption = escape(sheet.caption)
    return _wide(
        f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead>"
        f"{''.join(bodies)}</table>",
        sheet.caption,
    )


def _numeric(column: int, words: int) -> str:
    return ' class="n"' if column >= words else ""


def _conditions(record: Record) -> Iterator[str]:
    facts = [*_facts(record.subject, ("bundle",)), *_facts(record.conditions, ())]
    yield '<section aria-label="conditions"><h2>Conditions</h2>'
    yield _table(Sheet(caption="taken on", head=("what", "is"), rows=tuple(facts), n_names=2))
    yield "</section>"


def _facts(found: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from _facts(value, (*above, name))
        else:
            told = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            told = f"{value:.6g}" if isinstance(value, float) else told
            told = {"True": "yes", "False": "no", "None": "none"}.get(told, told)
            yield " ".join((*above, name)).replace("_", " "), told


def _terms() -> Iterator[str]:
    yield '<section aria-label="terms"><h2>Terms</h2>'
    yield f"<figure>{_wide(TERMS_SVG, 'the terms on a line of time')}</figure><dl>"
    for term, means in TERMS.items():
        yield f"<dt><strong>{escape(term)}</strong></dt><dd>{escape(means)}</dd>"
    yield "</dl></section>"


def _samples(record: Record) -> Iterator[str]:
    text = json.dumps(to_json(record), separators=(",", ":"))
    coded = base64.b64encode(text.encode()).decode()
    rows = tuple(
        (f"{key(part.name, m)}{', ' * bool(m.unit)}{m.unit}", " ".join(map(number, m.samples)))
        for part in record.parts
        for m in part.measures
    )
    yield '<section aria-label="samples"><h2>Samples</h2>'
    yield (
        f'<p><a download="record.json" href="data:application/json;base64,{coded}">The whole record'
        " as JSON</a>, as <code>kokanee bench compare</code> reads it.</p>"
    )
    yield "<details><summary>Every sample, in the order taken</summary>"
    yield _table(Sheet(caption="samples", head=("measure", "samples"), rows=rows, n_names=2))
    yield "</details></section>"


# docs/bench-terms.svg, which wheels do not carry; a test holds the two equal.
TERMS_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" class="terms" viewBox="0 0 900 256" role="img"
aria-labelledby="terms-title" font-family="DejaVu Sans, Helvetica, Arial, sans-serif"
font-size="13">
<title id="terms-title">On a line of time: speech, the silence behind it, the stages, and the
tokens of the answer. End of speech to first token runs from the last word to the first token;
time to first token from when the sound is handed over; inter-token latency lies between two
tokens.</title>
<style>.terms{color:#12303f}
.terms text{fill:currentColor}
.terms .line{stroke:currentColor;stroke-width:1.4;fill:none}
.terms .thin{stroke:currentColor;stroke-width:1;stroke-dasharray:3 3;opacity:.5}
.terms .box{fill:none;stroke:currentColor;stroke-width:1.2}
.terms .speech{fill:#56b4e9;fill-opacity:.45}
.terms .wait{fill:#999;fill-opacity:.25}
.terms .work{fill:#e69f00;fill-opacity:.5}
.terms .token{fill:#009e73;fill-opacity:.7}
@media (prefers-color-scheme:dark){.terms{color:#dbe6ec}}</style>
<rect class="speech" x="30" y="40" width="250" height="40"/>
<text x="155" y="65" text-anchor="middle">somebody speaks</text>
<rect class="wait" x="280" y="40" width="100" height="40"/>
<text x="330" y="65" text-anchor="middle">silence</text>
<rect class="work" x="380" y="40" width="80" height="40"/>
<text x="420" y="65" text-anchor="middle">encode</text>
<rect class="work" x="460" y="40" width="80" height="40"/>
<text x="500" y="65" text-anchor="middle">prefill</text>
<rect class="token" x="540" y="40" width="14" height="40"/>
<rect class="token" x="620" y="40" width="14" height="40"/>
<rect class="token" x="700" y="40" width="14" height="40"/>
<rect class="token" x="780" y="40" width="14" height="40"/>
<text x="667" y="28" text-anchor="middle">tokens of the answer</text>
<path class="line" d="M30 88H860M853 83L860 88L853 93"/>
<path class="thin" d="M30 92V232M280 92V232M380 92V126M380 146V232M540 92V182M620 92V126
M794 92V232"/>
<path class="line" d="M280 120H540M280 114V126M540 114V126"/>
<text x="410" y="140" text-anchor="middle">end of speech to first token</text>
<path class="line" d="M540 120H620M620 114V126"/>
<text x="560" y="140">inter-token latency</text>
<path class="line" d="M380 170H540M380 164V176M540 164V176"/>
<text x="460" y="190" text-anchor="middle">time to first token</text>
<path class="line" d="M540 170H794M794 164V176"/>
<text x="667" y="190" text-anchor="middle">3 x time per output token</text>
<path class="line" d="M380 220H794M380 214V226M794 214V226"/>
<text x="587" y="240" text-anchor="middle">total; over the length of the sound: real-time
factor</text>
<path class="line" d="M30 220H280M30 214V226M280 214V226"/>
<text x="155" y="240" text-anchor="middle">length of the sound</text>
</svg>"""
