"""Measure what this machine's operators take: small graphs, opened as the product opens its own.

Each graph is a chain or a row of one operator with weights of its own at every node, together
larger than a processor's caches, so that they come from memory as a model's do. None has the sizes
of a model that is predicted: widths are powers of two. The time of a run is divided by the nodes.

Other programs only ever add time. What this process's threads waited for a core, as Linux counts
it, is taken off; of what is left every point keeps the lower quartile of its runs, and the rows of
one graph take turns, so that a slow minute does not fall on one of them.

Needs the extra [build].
"""

from __future__ import annotations

import datetime
import importlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kokanee.engine.features import SAMPLE_RATE, Fbank, LogMel
from kokanee.engine.onnx import Binding, available_threads, open_graph
from kokanee.quant.schemes import BLOCKWISE

from .machine import machine, read_bandwidth, versions
from .profile import Point, Profile, ProfileError, of_samples

F32 = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]
Run = Callable[[], object]

PACKINGS = (
    "f32",
    "int8_block128",
    "int8_block32",
    "int4_block128",
    "int4_block32",
    "int4_zeros_block128",
    "int4_zeros_block32",
)
WIDTHS = (256, 1024, 4096)  # of square matrices
ROWS = {
    256: (1, 8, 32, 128, 512, 1536),
    1024: (1, 8, 32, 128, 512, 1536),
    4096: (1, 8, 32, 128, 512),
}
F32_WIDTHS = (256, 1024, 2048)  # a float32 matrix of 4096 is in no model
N_ELEMENTS = (1 << 9, 1 << 13, 1 << 17, 1 << 20, 1 << 22)
CACHE_BYTES = 192 << 20  # weights of a chain: more than any cache
MOST_NODES = 1500
AT_LEAST, AT_MOST, RUN_S = 4, 40, 0.12  # runs of a point, and seconds it may take before the least
N_CTX, HEADS, GQA_NODES = 1024, 16, 12
TOTALS, NEW = (64, 256, 1024), (1, 8, 64, 256)


@dataclass(frozen=True, slots=True)
class Timed:
    """A run of n_nodes alike."""

    op: str
    size: float
    rows: float
    n_nodes: int
    run: Run


def measure(progress: Progress | None = None) -> Profile:
    """Every operator of the product on this machine; about a minute and a half.

    Raises:
        ProfileError: the extra [build] is missing.
    """
    try:
        importlib.import_module("onnx")
    except ModuleNotFoundError:
        raise ProfileError(
            "measuring a machine makes small graphs, which needs onnx; pip install 'kokanee[build]'"
        ) from None
    jobs: list[tuple[str, Callable[[Path], Sequence[Timed]]]] = [
        *(
            (f"{packing}, {width} wide", _products(packing, width))
            for packing in PACKINGS
            for width in (F32_WIDTHS if packing == "f32" else WIDTHS)
        ),
        *((op, _elementwise(op)) for op in ELEMENTWISE),
        *((f"attention, {d} a head", _attention(d)) for d in (32, 64)),
        *((f"{cache} cache, {d} a head", _gqa(cache, d)) for cache in CACHES for d in (64, 128)),
        *((f"convolutions, {d} wide", _convolutions(d)) for d in (128, 1024)),
        ("features", _features),
    ]
    points: list[Point] = []
    started = time.perf_counter()
    bandwidth = read_bandwidth()
    for n_done, (what, make) in enumerate(jobs):
        if progress is not None:
            progress(f"measuring {what}", n_done, len(jobs))
        with tempfile.TemporaryDirectory() as folder:
            points += measured(make(Path(folder)))
    if progress is not None:
        progress("measured", len(jobs), len(jobs))
    return Profile(
        machine=machine(),
        versions=versions(("numpy", "onnxruntime")),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        bandwidth_gb_s=bandwidth / 1e9,
        points=tuple(points),
        took_s=round(time.perf_counter() - started, 1),
        note="seconds: the lower quartile of n_runs",
    )


def important() -> list[Point]:
    """The products that decide, again: whether the machine is still the one of its profile."""
    points: list[Point] = []
    for packing, width in (("f32", 1024), ("int8_block128", 1024), ("int4_block128", 4096)):
        with tempfile.TemporaryDirectory() as folder:
            points += measured(_products(packing, width)(Path(folder)))
    return points


def some_sound(seconds: float) -> F32:
    """Noise, [n_samples]: what is in it changes no operator's time."""
    return 0.1 * _random(round(seconds * SAMPLE_RATE))


def measured(timed: Sequence[Timed]) -> list[Point]:
    """Take turns until every one has had its time."""
    samples: list[list[float]] = [[] for _ in timed]
    for one in timed:
        one.run()  # pages, caches, threads
    spent = [0.0] * len(timed)
    open_ones = set(range(len(timed)))
    while open_ones:
        for i in sorted(open_ones):
            took, wall = undisturbed(timed[i].run)
            spent[i] += wall
            samples[i].append(took / timed[i].n_nodes)
            enough = len(samples[i]) >= AT_LEAST and spent[i] >= RUN_S
            if enough or len(samples[i]) >= AT_MOST:
                open_ones.discard(i)
    return [
        of_samples(one.op, times, rows=one.rows, size=one.size)
        for one, times in zip(timed, samples, strict=True)
    ]


def undisturbed(run: Run) -> tuple[float, float]:
    """Seconds that a run would take if its threads never waited for a core, and those on the wall.

    Work is shared by threads as it comes, so that each core lost costs its share. Where the system
    does not say how long threads waited, both are the same.
    """
    before, started = _waited(), time.perf_counter()
    run()
    wall = time.perf_counter() - started
    return max(wall / 4, wall - (_waited() - before) / available_threads()), wall


def _waited() -> float:
    """Seconds that this process's threads were ready and had no core, all together."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return 0.0
    n_ns = 0
    for task in tasks.iterdir():
        try:
            n_ns += int((task / "schedstat").read_text("ascii").split()[1])
        except (OSError, IndexError):  # ended meanwhile, or a system that does not count
            continue
    return n_ns / 1e9


# --- graphs ---------------------------------------------------------------------------------------


def _opened(graph: Any, folder: Path, *, arena: bool = False) -> Any:
    """The graph with random weights, open; encoders have no arena, the LLM has one."""
    graph.save(folder)
    layout = graph.layout()
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, 1 << 20, np.uint8).tobytes()
    with (folder / layout.file).open("wb") as file:
        for weight in layout.weights:
            for part in weight.parts:
                file.write(bytes(part.offset - file.tell()))
                if part.dtype == "uint8":
                    start = int(rng.integers(len(pool)))  # equal weights are packed only once
                    codes = pool * (part.n_bytes // len(pool) + 2)
                    file.write(codes[start : start + part.n_bytes])
                else:  # of a size that leaves the activations' as it is
                    bits = BLOCKWISE[weight.packing].bits if weight.packing in BLOCKWISE else 0
                    spread = (1 << bits) / 3.5 if bits else 1.0
                    n_in = max(1, weight.shape[0] if len(weight.shape) > 1 else 1)
                    values = rng.standard_normal(1024, np.float32)
                    values = 1 + 0.01 * values if bits else values
                    values = (values / spread / np.sqrt(n_in)).astype(part.dtype).tobytes()
                    file.write((values * (part.n_bytes // len(values) + 1))[: part.n_bytes])
    return open_graph(folder / f"{graph.name}.onnx", device="cpu", arena=arena)


def _input(session: Any, feeds: dict[str, Any], outputs: Sequence[str]) -> Run:
    return lambda: session.run(outputs, feeds)


def _random(*shape: int) -> F32:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def _products(packing: str, width: int) -> Callable[[Path], Sequence[Timed]]:
    def make(folder: Path) -> list[Timed]:
        from kokanee.export.graph import Graph
        from kokanee.export.layout import key

        per = width * width * (4 if packing == "f32" else BLOCKWISE[packing].bits / 8)
        many = max(4, min(MOST_NODES, round(CACHE_BYTES / per)))
        timed = []
        for n_nodes, rows in (
            (many, [r for r in ROWS.get(width, ROWS[1024]) if r <= 32]),
            (3, [r for r in ROWS.get(width, ROWS[1024]) if r > 32]),
        ):
            g = Graph(f"products{n_nodes}")
            x = g.input("x", "float32", ["n", width])
            for i in range(n_nodes):
                x = g.linear(f"w{i}", x, key(f"w{i}", width, width), packing=packing)
            g.output(x, "y", "float32", ["n", width])
            session = _opened(g, folder)
            timed += [
                Timed(
                    op=f"product {packing}",
                    size=width * width,
                    rows=n,
                    n_nodes=n_nodes,
                    run=_input(session, {"x": _random(n, width)}, ["y"]),
                )
                for n in rows
            ]
        return timed

    return make


ELEMENTWISE = ("add", "gelu", "norm", "copy", "step add", "step silu", "step norm")
"""`step`: as in the LLM, whose memory is kept from one run to the next."""


def _elementwise(op: str) -> Callable[[Path], Sequence[Timed]]:
    width, n_nodes = 512, 12

    def make(folder: Path) -> list[Timed]:
        from kokanee.export.graph import CONTRIB, Graph
        from kokanee.export.layout import key

        g = Graph("elementwise")
        x = first = g.input("x", "float32", ["n", width])
        for i in range(n_nodes):
            match op.split()[-1]:
                case "add":
                    x = g.node("Add", x, first)
                case "gelu":
                    x = g.gelu(x)
                case "silu":
                    x = g.node("QuickGelu", x, domain=CONTRIB, alpha=1.0)
                case "copy":
                    # Two halves of the elements in each node; what they say does not matter.
                    a, b = g.nodes("Split", x, outputs=("", ""), axis=1, num_outputs=2)
                    x = g.node("Concat", b, a, axis=1)
                case _:
                    weight = g.weight(f"n{i}.weight", key(f"n{i}.weight", width))
                    if op.startswith("step"):
                        x = g.nodes(
                            "SkipSimplifiedLayerNormalization",
                            *(x, first, weight),
                            outputs=("", "", "", ""),
                            domain=CONTRIB,
                            epsilon=1e-5,
                        )[0]
                    else:
                        x = g.node("LayerNormalization", x, weight, weight)
        g.output(x, "y", "float32", ["n", width])
        session = _opened(g, folder, arena=op.startswith("step"))
        per = 2 * n_nodes if op == "copy" else n_nodes
        most = 1 << 20 if op.startswith("step") else N_ELEMENTS[-1]
        return [
            Timed(
                op=op,
                size=1,
                rows=n,
                n_nodes=per,
                run=_input(session, {"x": _random(n // width, width)}, ["y"]),
            )
            for n in N_ELEMENTS
            if n <= most
        ]

    return make


def _attention(d_head: int) -> Callable[[Path], Sequence[Timed]]:
    """Of one head: all rows to all rows; and blocks of queries with a bias, as BEATs has them."""
    n_heads, n_nodes = 8, 3

    def make(folder: Path) -> list[Timed]:
        from kokanee.export.graph import CONTRIB, Graph

        d = n_heads * d_head
        timed = []
        for op in ("attention", "biased attention"):
            g = Graph("attention")
            x = y = g.input("x", "float32", [1, "n", d])
            q = g.input("q", "float32", [1, "n_queries", d])
            bias = g.input("bias", "float32", [1, n_heads, "n_queries", "n"])
            for _ in range(n_nodes):
                if op == "attention":
                    y = g.node("MultiHeadAttention", y, x, x, domain=CONTRIB, num_heads=n_heads)
                else:
                    y = q = g.node(
                        "MultiHeadAttention",
                        *(q, x, x, "", "", bias),
                        domain=CONTRIB,
                        num_heads=n_heads,
                    )
            g.output(y, "y", "float32", [1, "n_rows", d])
            session = _opened(g, folder)
            for n in (16, 64, 256, 1024, 1536):
                n_queries = min(n, 128)
                feeds = {
                    "x": _random(1, n, d),
                    "q": _random(1, n_queries, d),
                    "bias": _random(1, n_heads, n_queries, n),
                }
                # Per head; with a bias, per head and query.
                per = n_heads * (n_queries if op != "attention" else 1)
                timed.append(
                    Timed(
                        op=op,
                        size=d_head,
                        rows=n,
                        n_nodes=n_nodes * per,
                        run=_input(session, feeds, ["y"]),
                    )
                )
        return timed

    return make


CACHES = ("float32", "int8")


def _gqa(cache: str, d_head: int) -> Callable[[Path], Sequence[Timed]]:
    """Of one head: so many new positions, so many in the cache with them."""

    def make(folder: Path) -> list[Timed]:
        from kokanee.export.graph import CONTRIB, Graph
        from kokanee.export.layout import Source

        g = Graph("gqa")
        d = HEADS * d_head
        x = g.input("x", "float32", [1, "n", 3 * d])
        last = g.input("seqlens_k", "int32", [1])
        total = g.input("total_sequence_length", "int32", [])
        ids = g.input("position_ids", "int64", [1, "n"])
        bias = g.input("attention_bias", "float32", [1, 1, "n", "n_total"])
        half = (N_CTX, d_head // 2)
        tables = [
            g.weight(f"rope.{kind}", Source(f"rope_{kind}", half, theta=1e4))
            for kind in ("cos", "sin")
        ]
        extra: dict[str, Any] = {}
        if cache == "int8":
            extra = {f"{kv}_quant_type": "PER_CHANNEL" for kv in "kv"} | {"kv_cache_bit_width": 8}
            units = g.input("units", "float32", [d])
        for i in range(GQA_NODES):
            past = [g.input(f"past.{i}.{kv}", cache, [1, HEADS, N_CTX, d_head]) for kv in "kv"]
            y, *present = g.nodes(
                "GroupQueryAttention",
                *(x, "", "", *past, last, total, *tables, ids, bias),
                *(("", units, units) if cache == "int8" else ()),
                outputs=(f"y{i}", f"k{i}", f"v{i}"),
                domain=CONTRIB,
                num_heads=HEADS,
                kv_num_heads=HEADS,
                do_rotary=1,
                **extra,
            )
            g.output(y, f"y{i}", "float32", [1, "n", d])
            for kv, value in zip("kv", present, strict=True):
                g.output(value, f"{kv}{i}", cache, [1, HEADS, N_CTX, d_head])
        session = _opened(g, folder, arena=True)
        buffers = [np.ones((1, HEADS, N_CTX, d_head), cache) for _ in range(2 * GQA_NODES)]

        def timed(n_new: int, n_total: int) -> Timed:
            binding = Binding(session)
            binding.input("x", _random(1, n_new, 3 * d))
            binding.input("seqlens_k", np.array([n_total - 1], np.int32))
            binding.input("total_sequence_length", np.array(n_total, np.int32))
            binding.input("position_ids", np.arange(n_total - n_new, n_total)[None])
            binding.input("attention_bias", np.zeros((1, 1, n_new, n_total), np.float32))
            if cache == "int8":
                binding.input("units", np.full(d, 0.05, np.float32))
            for i in range(GQA_NODES):
                binding.output(f"y{i}", np.zeros((1, n_new, d), np.float32))
                for j, kv in enumerate("kv"):
                    binding.input(f"past.{i}.{kv}", buffers[2 * i + j])
                    binding.output(f"{kv}{i}", buffers[2 * i + j])
            return Timed(
                op=f"cached attention {cache} {d_head}",
                size=n_total,
                rows=n_new,
                n_nodes=GQA_NODES * HEADS,
                run=binding.run,
            )

        return [timed(n_new, n) for n in TOTALS for n_new in NEW if n_new <= n]

    return make


def _convolutions(d: int) -> Callable[[Path], Sequence[Timed]]:
    """Whisper's two and BEATs' two, `rows` frames out."""

    def make(folder: Path) -> list[Timed]:
        from kokanee.export.graph import Graph
        from kokanee.export.layout import key

        shapes: dict[str, tuple[tuple[int, ...], list[int | str], dict[str, Any]]] = {
            "convolution 1": ((d, 80, 3), [1, 80, "n"], {"pads": [1, 1]}),
            "convolution 2": ((d, d, 3), [1, d, "n"], {"pads": [1, 1], "strides": [2]}),
            "convolution positions": (
                (d, d // 16, 128),
                [1, d, "n"],
                {"pads": [64, 63], "group": 16},
            ),
            "convolution patches": ((d, 1, 16, 16), [1, 1, "n", 128], {"strides": [16, 16]}),
        }
        timed = []
        for op, (shape, inputs, attributes) in shapes.items():
            g = Graph(op.replace(" ", "_"))
            x = g.input("x", "float32", inputs)
            y = g.node("Conv", x, g.weight("w", key("w", *shape)), **attributes)
            g.output(y, "y", "float32", [1, d, *(["n_out"] if len(inputs) == 3 else ["a", "b"])])
            session = _opened(g, folder)
            for n in (48, 256, 1536):
                n_in = {"convolution 2": 2 * n, "convolution patches": 2 * n}.get(op, n)
                full = [n_in if side == "n" else int(side) for side in inputs]
                run = _input(session, {"x": _random(*full)}, ["y"])
                timed.append(Timed(op=op, size=d, rows=n, n_nodes=1, run=run))
        return timed

    return make


def _features(folder: Path) -> list[Timed]:
    """Both pictures of so many seconds of sound."""

    def run(n_samples: int) -> Run:
        pcm = some_sound(n_samples / SAMPLE_RATE)
        return lambda: (LogMel().picture(pcm), Fbank().picture(pcm))

    return [
        Timed(op="features", size=1, rows=s, n_nodes=1, run=run(s * SAMPLE_RATE))
        for s in (1, 5, 30)
    ]
