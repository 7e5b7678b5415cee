import dataclasses
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import click
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from kokanee.benchmarks import pictures
from kokanee.benchmarks.record import (
    Count,
    Label,
    Mark,
    Measure,
    Noise,
    Part,
    Record,
    RecordError,
    Series,
)

QUIET = Noise(quiet=True, reasons=(), evidence={})
STAGES = {"features": 10.0, "speech_encoder": 60.0, "prefill_audio": 20.0}


def part(name: str, **held: Any) -> Part:
    return Part(name=name, seconds=1, settings={}, noise=QUIET, **held)


def record(*parts: Part, **subject: Any) -> Record:
    return Record(command="kokanee bench", when="now", subject=subject, conditions={}, parts=parts)


def offline() -> Part:
    measures = []
    for contender, factor in (("pytorch", 3.0), ("kokanee", 1.0)):
        of: dict[str, Label] = {"contender": contender, "seconds": 10.0}
        for stage, ms in STAGES.items():
            times = (factor * ms, factor * ms, 1e4)
            measures.append(
                Measure(name="stage", unit="ms", of=of | {"stage": stage}, samples=times)
            )
        whole = (100 * factor,)
        measures.append(Measure(name="first_token", unit="ms", of=of, samples=whole))
    return part("offline", measures=tuple(measures))


def stream() -> Part:
    def turns(mode: str, length: str, *samples: float) -> Measure:
        of: dict[str, Label] = {"contender": "kokanee", "mode": mode, "length": length}
        return Measure(name="first_token", unit="ms", of=of, samples=samples)

    return part(
        "stream",
        measures=(
            turns("fast", "all", 300.0, 100.0, 200.0, 400.0),
            turns("fast", "short", 100.0),
            turns("exact", "all", 250.0, 350.0),
        ),
    )


def memory() -> Part:
    marks = (Mark(t_s=0.0, what="opened"), Mark(t_s=1.0, what="asked"))
    rss = Series(
        name="rss",
        unit="MB",
        of={"contender": "kokanee"},
        t_s=(0.0, 1.0, 2.0),
        values=(90.0, 400.0, 380.0),
        marks=marks,
    )
    return part("memory", series=(rss,))


def scored(name: str, n_bytes: int, share: float, rate: float) -> Record:
    wer = Count(name="word_error_rate", unit="share", value=share, better="less")
    rates = Measure(name="rate", unit="tokens/s", of={"depth": 64}, samples=(rate,), better="more")
    deep = dataclasses.replace(rates, of={"depth": 1900}, samples=(1.0,))
    return record(
        part("quality", counts=(wer,)),
        part("decode", measures=(deep, rates)),
        name=name,
        bytes=n_bytes,
    )


def test_a_bar_is_its_stages_medians_and_the_rest() -> None:
    (axes,) = pictures.waterfall(record(offline())).axes
    bars: list[Any] = list(axes.containers)
    drawn = {b.get_label(): [(p.get_x(), p.get_width()) for p in b.patches] for b in bars}
    assert drawn == {
        "features": [(0, 10), (0, 30)],
        "speech encoder": [(10, 60), (30, 180)],
        "prefill audio": [(70, 20), (210, 60)],
        "rest": [(90, 10), (270, 30)],
    }
    assert [t.get_text() for t in axes.get_yticklabels()] == ["10 s, kokanee", "10 s, pytorch"]
    assert [t.get_text() for t in axes.texts] == ["100 ms", "300 ms"]


def test_a_stage_of_another_contender_stands_where_it_happens() -> None:
    stages = {
        "cascade": ("transcribe", "prefill", "first piece"),
        "kokanee": ("features", "prefill", "first piece"),
    }
    measures = [
        Measure(
            name="stage",
            unit="ms",
            of={"contender": name, "seconds": 1, "stage": s},
            samples=(5.0,),
        )
        for name in ("cascade", "kokanee")
        for s in stages[name]
    ]
    (axes,) = pictures.waterfall(record(part("offline", measures=tuple(measures)))).axes
    bars: list[Any] = list(axes.containers)
    assert [b.get_label() for b in bars] == ["features", "transcribe", "prefill", "first piece"]
    kokanee, cascade = zip(*([p.get_x() for p in b.patches] for b in bars), strict=True)
    assert (kokanee, cascade) == ((0, 5, 5, 10), (0, 0, 5, 10))


def test_labels_and_numbers_do_not_overlap_or_leave_the_picture() -> None:
    figures = pictures.drawn(record(offline(), stream(), memory()))
    for name, figure in figures:
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        whole = figure.bbox
        (axes,) = figure.axes
        legends = [t for legend in figure.legends for t in legend.get_texts()]
        low, high = sorted(axes.get_ylim())
        ticks = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        ticked = [t for at, t in ticks if low <= at <= high]  # the others are not drawn
        texts: list[Any] = [*axes.texts, *legends, *ticked, axes.xaxis.label]
        boxes = [t.get_window_extent() for t in texts if t.get_text()]
        for i, one in enumerate(boxes):
            assert one.x0 >= whole.x0 - 1, name
            assert one.x1 <= whole.x1 + 1, name
            assert one.y0 >= whole.y0 - 1, name
            assert one.y1 <= whole.y1 + 1, name
            assert not any(one.overlaps(other) for other in boxes[i + 1 :]), name


def test_shares_of_turns_rise_at_their_latencies() -> None:
    (axes,) = pictures.latency(record(stream())).axes
    fast, exact = axes.lines[:2]
    assert list(fast.get_xdata()) == [100, 100, 200, 300, 400]  # type: ignore[arg-type]
    assert list(fast.get_ydata()) == [0, 25, 50, 75, 100]  # type: ignore[arg-type]
    assert fast.get_drawstyle() == "steps-post"
    assert fast.get_label() == "kokanee, fast: median 250 ms"
    assert exact.get_label() == "kokanee, exact: median 300 ms"
    assert len(axes.lines) == 3  # short turns are among all of them; the third is the half


def test_memory_over_time_has_its_marks() -> None:
    (axes,) = pictures.memory(record(memory())).axes
    line, *dots = axes.lines
    assert list(line.get_ydata()) == [90, 400, 380]  # type: ignore[arg-type]
    assert [(*d.get_xdata(), *d.get_ydata()) for d in dots] == [(0, 90), (1, 400)]  # type: ignore[misc]
    assert axes.get_xlabel() == "seconds\n1 opened; 2 asked"
    assert [t.get_text() for t in axes.texts] == ["1", "2"]
    assert axes.get_ylim()[0] == 0


def test_a_point_is_at_its_bytes_and_quality_and_as_large_as_it_is_fast() -> None:
    figure = pictures.trade(
        [scored("a", 100_000_000, 0.5, 60.0), scored("b", 200_000_000, 0.4, 30.0)]
    )
    (axes,) = figure.axes
    points: list[Any] = list(axes.collections)
    at = [tuple(p.get_offsets()[0]) for p in points]
    b, a = (p.get_sizes()[0] for p in points)
    assert at == [pytest.approx((200, 40)), pytest.approx((100, 50))]
    assert a / b == pytest.approx(2)
    assert [p.get_label() for p in points] == [
        "b: 200 MB, 40.0 %, 30.0 tokens/s",
        "a: 100 MB, 50.0 %, 60.0 tokens/s",
    ]
    assert axes.get_xlabel() == "bytes, MB; the area is the speed of decoding"
    assert axes.get_ylabel() == "word error rate, %; less is better"


def test_schemes_in_one_record_are_points() -> None:
    counts = [
        Count(name=name, unit=unit, value=value, of={"scheme": scheme})
        for scheme, n_bytes, share in (("int4", 1e8, 0.5), ("int8", 2e8, 0.4))
        for name, unit, value in (("bytes", "B", n_bytes), ("word_error_rate", "share", share))
    ]
    (axes,) = pictures.trade(record(part("schemes", counts=tuple(counts)))).axes
    points: list[Any] = list(axes.collections)
    assert [p.get_label() for p in points] == ["int8: 200 MB, 40.0 %", "int4: 100 MB, 50.0 %"]
    assert axes.get_xlabel() == "bytes, MB"
    assert [tuple(p.get_offsets()[0]) for p in points] == [(200, 40), (100, 50)]


def test_what_was_not_measured_is_named() -> None:
    with pytest.raises(RecordError, match="expected a part offline to draw, got stream"):
        pictures.waterfall(record(stream()))
    with pytest.raises(RecordError, match="stream: expected measures first_token to draw"):
        pictures.latency(record(part("stream")))
    with pytest.raises(RecordError, match="memory: expected a series rss to draw"):
        pictures.memory(record(part("memory")))
    with pytest.raises(RecordError, match="two or more with bytes and a count word_error_rate"):
        pictures.trade(record(offline()))
    with pytest.raises(RecordError, match="got 1"):  # a point alone is no trade
        pictures.trade(scored("a", 1, 0.5, 1.0))


def test_all_that_can_be_drawn_is_saved_the_same_every_time(tmp_path: Path) -> None:
    made = record(offline(), memory())
    for folder in ("a", "b"):
        files = pictures.save_all(made, tmp_path / folder, suffix=".svg")
        assert [file.name for file in files] == ["stages.svg", "memory.svg"]
    for file in files:
        text = file.read_bytes()
        assert text == (tmp_path / "a" / file.name).read_bytes()
        assert b"dc:date" not in text
        assert ET.fromstring(text).tag.endswith("svg")
    (png,) = pictures.save_all(record(memory()), tmp_path)
    assert png.read_bytes()[:4] == b"\x89PNG"
    width = int.from_bytes(png.read_bytes()[16:20], "big")
    assert width == 1800  # twice as wide as a README
    with pytest.raises(click.BadParameter, match=r"as \.svg or \.png"):
        pictures.save(pictures.memory(made), tmp_path / "a.gif")


def test_a_missing_matplotlib_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(click.ClickException, match=r"pip install 'kokanee\[bench\]'"):
        pictures.memory(record(memory()))
