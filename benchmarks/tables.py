"""Recorded results -> the figures in the documents, so that no number is typed by hand.

    python -m kokanee.benchmarks.tables README.md docs/benchmarks.md docs/nano.md

rewrites what stands between the markers of each; a test holds the documents equal to what this
makes. The README's figures are those of two records of `kokanee bench`, which `kokanee bench
reproduce` makes again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .confidence import Ratio, ratio
from .contenders import KOKANEE
from .record import Label, Measure, Part, Record, read
from .tables_further import further, table
from .tables_nano import card

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- figures: python -m kokanee.benchmarks.tables {} -->", "<!-- /figures -->"

CASCADE, LLAMA = "cascade", "llama.cpp"
HEARD_S = 10.0  # the clip whose stages are shown


def figures(results: Path) -> str:
    """The README's."""
    nano, large = read(results / "nano.json"), read(results / "salmonn_7b.json")
    return "\n\n".join(
        [
            _beside_the_cascade(nano),
            _live(nano),
            _answer(nano),
            _llm(nano),
            _memory(nano),
            _full_size(large),
            _trust(nano),
        ]
    )


DOCUMENTS: dict[str, Callable[[Path], str]] = {
    "README.md": figures,
    "docs/benchmarks.md": further,
    "docs/nano.md": card,
}


def rewritten(text: str, name: str, results: Path = RESULTS) -> str:
    """A document's text with fresh figures between its markers.

    Args:
        text: of the document.
        name: in DOCUMENTS.
        results: folder of the records.

    Raises:
        ValueError: a marker is missing.
    """
    opens = BEGIN.format(name)
    before, begin, rest = text.partition(opens)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{name}: expected the markers {opens} and {END}")
    return f"{before}{begin}\n\n{DOCUMENTS[name](results)}\n\n{END}{after}"


# --- nano -----------------------------------------------------------------------------------------


def _beside_the_cascade(record: Record) -> str:
    """Ours and faster-whisper with llama.cpp, the same recordings, the same run."""
    stream, memory, quality = (record.part(n) for n in ("stream", "memory", "quality"))
    offline = record.part("offline")
    of = {"mode": "offline", "length": "all"}
    theirs = stream.find("compute", contender=CASCADE, **of)
    live = stream.find("compute", contender=KOKANEE, mode="fast", length="all")
    rows: list[tuple[str, ...]] = []

    def add(what: str, ours: Measure, other: Measure, *, paired: bool) -> None:
        found = ratio(ours.samples, other.samples, paired=paired)
        rows.append((what, _value(ours), _value(other), _times(found)))

    add("a turn is over: until the first token, live", live, theirs, paired=False)
    add(
        "the same, all of it after the turn",
        stream.find("compute", contender=KOKANEE, **of),
        theirs,
        paired=True,
    )
    for seconds in (3.0, HEARD_S):
        for name, what in (("first_token", "first token"), ("total", "whole answer")):
            add(
                f"a clip of {seconds:g} s: {what}",
                offline.find(name, contender=KOKANEE, seconds=seconds),
                offline.find(name, contender=CASCADE, seconds=seconds),
                paired=True,
            )
    add(
        "peak memory",
        memory.find("rss_peak", contender=KOKANEE),
        memory.find("rss_peak", contender=CASCADE),
        paired=True,
    )
    words = [quality.count("word_error_rate", contender=name) for name in (KOKANEE, CASCADE)]
    rows.append(("word error rate", *(f"{w:.1%}" for w in words), ""))
    sounds = quality.count("sound_accuracy", contender=KOKANEE)
    kinds = quality.count("kind_accuracy", contender=KOKANEE)
    n_classes = quality.count("sound_classes")
    rows.append((f"which sound, of {n_classes:g} classes", f"{sounds:.1%}", "cannot", ""))
    rows.append(("speech, music or sound", f"{kinds:.1%}", "cannot", ""))
    turns = stream.find("turn", contender=CASCADE, **of).statistics
    clips = quality.count("words_clips"), quality.count("sound_clips")
    versions = stream.settings["contenders"][CASCADE]["versions"]
    return (
        "### Beside the cascade\n\n"
        + table("| | Kokanee, nano | cascade | ours / theirs |", list(rows))
        + "\n\nThe cascade is what people build today: "
        + " and ".join(f"{name} {version}" for name, version in versions.items())
        + f", Whisper base int8, SmolLM2-135M Q4_0. Medians over {turns.n} turns of"
        f" {turns.least:.0f} to {turns.most:.0f} s; words on {clips[0]:g} held-out phrases, sounds"
        f" on {clips[1]:g} clips; in brackets where the ratio lies at 95 %. Nano answers from"
        " sound, so it hears sounds too; it writes words down far worse."
        f" `{record.command}`"
    )


def _live(record: Record) -> str:
    """End of speech to first token."""
    stream = record.part("stream")
    rows: list[tuple[str, ...]] = []
    for contender, mode, what in (
        (KOKANEE, "fast", "live, fast"),
        (KOKANEE, "exact", "live, exact"),
        (KOKANEE, "offline", "offline"),
        (CASCADE, "offline", "cascade"),
    ):
        of = {"contender": contender, "mode": mode}
        cells = []
        for length in ("all", "short", "long"):
            s = stream.find("compute", length=length, **of).statistics
            cells += [f"{s.p50:.0f}", f"{s.p95:.0f}"]
        whole = stream.find("first_token", length="all", **of).statistics
        rows.append((what, f"{whole.p50:.0f}", f"{whole.p95:.0f}", *cells))
    n = {
        length: stream.find("turn", contender=KOKANEE, mode="exact", length=length).statistics.n
        for length in ("all", "short", "long")
    }
    head = (
        "| milliseconds | end of speech to first token, p50 | p95 | compute, p50 | p95"
        f" | of {n['short']} below 3 s | p95 | of {n['long']} of 12 s and more | p95 |"
    )
    return (
        "### How soon a live answer begins\n\n"
        + table(head, list(rows))
        + f"\n\n{n['all']} turns in real time, 0.5 s of silence included in the first two columns;"
        " compute is what comes after it. `kokanee bench stream --against cascade`"
    )


def _answer(record: Record) -> str:
    """What an answer costs, by stage."""
    offline = record.part("offline")
    lengths = sorted({float(m.of["seconds"]) for m in offline.measures if m.name == "first_token"})
    stages = list(
        dict.fromkeys(
            str(m.of["stage"])
            for m in offline.measures
            if m.name == "stage" and m.of["contender"] == KOKANEE
        )
    )
    rows = []
    for what in (*stages, "first_token", "total", "real_time_factor"):
        cells = []
        for seconds in lengths:
            of: dict[str, Label] = {"contender": KOKANEE, "seconds": seconds}
            if what in stages:
                cells.append(f"{offline.find('stage', stage=what, **of).statistics.median:.0f}")
            else:
                median = offline.find(what, **of).statistics.median
                cells.append(f"{median:.2f}" if what == "real_time_factor" else f"**{median:.0f}**")
        rows.append((what.replace("_", " "), *cells))
    whole = offline.find("process", contender=KOKANEE)
    peak = offline.find("process_rss_peak", contender=KOKANEE)
    head = "| milliseconds, a clip of |" + "".join(f" {s:g} s |" for s in lengths)
    bundle = record.subject["bytes"] / 1e6
    return (
        "### What an answer costs\n\n"
        + table(head, rows)
        + f"\n\nMedians of {offline.settings['rounds']} rounds. The whole process on a"
        f" {whole.of['seconds']:g} s clip, from Return to the last word:"
        f" **{whole.statistics.median:.1f} s** ({whole.statistics.least:.1f} to"
        f" {whole.statistics.most:.1f}), peak memory **{peak.statistics.median:.0f} MB**, bundle"
        f" {bundle:.0f} MB. `kokanee bench offline`"
    )


def _llm(record: Record) -> str:
    """Prefill and decode beside others."""
    return "### The language model alone\n\n" + "\n\n".join(_speeds(record))


def _speeds(record: Record) -> Iterator[str]:
    decode, prefill = record.part("decode"), record.part("prefill")
    names = _contenders(decode)
    for part, by in ((prefill, ("n", "depth")), (decode, ("depth",))):
        rates = [m for m in part.measures if m.name == "rate"]
        cases = list(dict.fromkeys(tuple(int(m.of[label]) for label in by) for m in rates))
        rows = []
        for name in names:
            cells = []
            for case in cases:
                try:
                    of = dict(zip(by, case, strict=True))
                    found = part.find("rate", contender=name, **of)
                except KeyError:
                    cells.append("")
                    continue
                cells.append(_figure(found) + _beside(part, found, of))
            if any(cells):
                rows.append((_called(part, name), *cells))
        heads = [
            f"{c[0]} positions" + (f" behind {c[1]}" if c[1] else "")
            if len(by) == 2
            else f"behind {c[0]}"
            for c in cases
        ]
        yield table(f"| {part.name}, tokens/s | " + " | ".join(heads) + " |", rows)
    yield (
        f"Medians of {decode.settings['rounds']} rounds in turn, {record.conditions['threads']}"
        " threads; in brackets ours / theirs within a round. Ours carries its adapter."
        " `kokanee bench prefill`, `kokanee bench decode`"
    )


def _memory(record: Record) -> str:
    memory = record.part("memory")
    rows = []
    for name in _contenders(memory):
        steady, peak, ready = (
            memory.find(what, contender=name).statistics.median
            for what in ("rss_steady", "rss_peak", "ready")
        )
        rows.append((_called(memory, name), f"{steady:.0f}", f"{peak:.0f}", f"{ready:.1f} s"))
    kv = {
        cache: memory.count("kv_bytes", cache=cache, positions=1) for cache in ("float32", "int8")
    }
    parts = [m for m in memory.measures if m.name == "part_rss"]
    shown = ", ".join(
        f"{str(m.of['part']).replace('_', ' ')} {m.statistics.median:.0f}" for m in parts
    )
    return (
        "### Memory\n\n"
        + table("| MB, resident | open and asked | peak | ready in |", rows)
        + f"\n\nEach graph alone adds, in MB: {shown}. A position of the KV cache:"
        f" {kv['float32'] / 1e3:.1f} kB in float32, {kv['int8'] / 1e3:.1f} kB in int8."
        " `kokanee bench memory`"
    )


def _full_size(record: Record) -> str:
    """SALMONN-7B's shapes, random weights, beside others."""
    encode = record.part("encode")
    rows = []
    stages = list(
        dict.fromkeys(
            str(m.of["stage"])
            for m in encode.measures
            if m.name == "stage" and m.of["contender"] == KOKANEE
        )
    )
    for name in _contenders(encode):
        total = encode.find("total", contender=name)
        cells = []
        for stage in stages:
            try:
                found = encode.find("stage", contender=name, stage=stage)
                cells.append(f"{found.statistics.median / 1e3:.1f}")
            except KeyError:
                cells.append("")
        beside = _beside(encode, total, {"seconds": total.of["seconds"]}, name="total")
        whole = f"{total.statistics.median / 1e3:.1f}{beside}"
        rows.append((_called(encode, name), whole, *cells))
    head = "| 30 s of sound, seconds | to soft tokens | " + " | ".join(stages).replace("_", " ")
    peaks = "; ".join(
        f"{what}: "
        + ", ".join(
            f"{name} {record.part(part).find('rss_peak', contender=name).statistics.p50 / 1e3:.1f}"
            for name in _contenders(record.part(part))
        )
        for part, what in (("encode", "encoding"), ("decode", "the language model alone"))
    )
    return (
        f"### SALMONN-7B's shapes, random weights\n\n{table(head + ' |', rows)}\n\n"
        + "\n\n".join(_speeds(record))
        + f"\n\nPeak memory in GB, {peaks}. Kokanee encodes with the language model open."
        f" `{record.command}`"
    )


def _trust(record: Record) -> str:
    """On what, how quiet, and what the benchmark itself costs."""
    machine, timers = record.conditions["machine"], record.part("timers")
    overhead = timers.find("overhead").statistics
    sampling = timers.find("sampling").statistics.median
    reading = 1e3 * timers.find("reading").statistics.median
    busy = [part.name for part in record.parts if not part.noise.quiet]
    return (
        f"All of it on {machine['n_cpus']} cores of an {machine['cpu']} with"
        f" {', '.join(machine['instructions'])}, shared with others:"
        f" {'every part was quiet' if not busy else 'busy during ' + ', '.join(busy)}"
        " ([how that is known](docs/benchmarks.md)). Measuring costs"
        f" {sampling:.1%} of a core while memory is sampled and {reading:.1g} us a reading of the"
        f" clock; an answer with all of it took {overhead.median:.3f} times one without"
        f" ({overhead.low:.3f} to {overhead.high:.3f})."
        " `kokanee bench reproduce` runs it all again, and says which numbers differ by more than"
        " the noise."
    )


def _contenders(part: Part) -> list[str]:
    """Ours first."""
    found = dict.fromkeys(str(m.of["contender"]) for m in part.measures if "contender" in m.of)
    return sorted(found, key=lambda name: name != KOKANEE)


def _called(part: Part, name: str) -> str:
    """A contender as its own facts describe it."""
    facts = part.settings.get("contenders", {}).get(name, {}).get("facts", {})
    says = facts.get("what")
    return f"{name}: {says}" if says else name


def _value(measure: Measure) -> str:
    return f"{_figure(measure)} {measure.unit}"


def _figure(measure: Measure) -> str:
    median = measure.statistics.median
    return f"{median:.0f}" if median >= 100 else f"{median:.3g}"


def _beside(part: Part, theirs: Measure, of: Mapping[str, Label], *, name: str = "rate") -> str:
    if theirs.of["contender"] == KOKANEE:
        return ""
    ours = part.find(name, contender=KOKANEE, **of)
    paired = len(ours.samples) == len(theirs.samples)
    return f" ({ratio(ours.samples, theirs.samples, paired=paired).ratio:.2f})"


def _times(found: Ratio) -> str:
    return f"**{found.ratio:.2f}** ({found.low:.2f} to {found.high:.2f})"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        document = Path(argument)
        name = next(n for n in DOCUMENTS if document.resolve().match(f"*/{n}"))
        document.write_text(rewritten(document.read_text("utf-8"), name), encoding="utf-8")
