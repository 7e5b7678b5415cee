"""`kokanee bench`: latency, memory and quality of a bundle, beside the alternatives."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kokanee.benchmarks import comparison, pictures, report, shown
from kokanee.benchmarks.contenders import CONTENDERS, KOKANEE
from kokanee.benchmarks.field import Setup, subject
from kokanee.benchmarks.machine import conditions
from kokanee.benchmarks.record import Record, read, to_json, write
from kokanee.benchmarks.run import PARTS, UNTRAINED, again, run
from kokanee.engine import read_manifest
from kokanee.engine.onnx import available_threads, has_cuda
from kokanee.export.nano import default_cache

from . import options
from .bundle import find_bundle
from .eval import fetch_heldout, need_bench

F = TypeVar("F", bound=Callable[..., Any])

RESULTS = Path(comparison.__file__).parent / "results"
ALTERNATIVES = tuple(name for name in CONTENDERS if name != KOKANEE)

_SAYS = "\n".join(
    f"  {one.name:16} {one.says}\n{'':18} {one.install}"
    for one in CONTENDERS.values()
    if one.install
)
EPILOG = f"""\b
Examples:
  kokanee bench offline                        nano, clips of 1, 3, 10 and 30 s
  kokanee bench stream --against cascade       end of speech to first token, in real time
  kokanee bench all my-bundle/ --out now.json --html now.html
  kokanee bench compare before.json now.json   exit code 3 where something became worse
  kokanee bench reproduce                      every number of the README again, and what differs

\b
Alternatives for --against, and how each is installed:
{_SAYS}
"""


@click.group(epilog=EPILOG)
def command() -> None:
    """Measure a bundle: every stage, memory and quality in one record.

    Times are medians of repeats behind a warm-up; all samples are kept. Alternatives are measured
    in the same run, in turns, each in a process of its own; one that is not installed is skipped by
    name. The extra [bench] is needed.
    """


command.add_command(comparison.compare)


# --- options that every measurement has -----------------------------------------------------------


def outputs(made: F) -> F:
    """--json, --pictures, --html, --csv, --markdown: the forms of a record."""
    for option in (
        options.as_json,
        click.option(
            "--pictures",
            type=click.Path(file_okay=False, path_type=Path),
            help="Draw what the record holds into this folder, as PNG.",
        ),
        _file("--html", "The record as a page that opens offline."),
        _file("--csv", "Its statistics, a row a measure."),
        _file("--markdown", "Its tables."),
    ):
        made = option(made)
    return made


def measurement(made: F) -> F:
    """The bundle, the machine, how often, beside whom, and where the record goes."""
    for option in (
        outputs,
        _file("--out", "The record itself: JSON, every sample kept."),
        work,
        click.option(
            "--against",
            default="",
            metavar="NAMES|all",
            help="Alternatives to measure beside it, with commas.",
        ),
        click.option("--warmup", type=click.IntRange(min=0), default=1, show_default=True),
        click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True),
        options.machine,
        click.argument("bundle", default=options.NANO),
    ):
        made = option(made)
    return made


def work(made: F) -> F:
    """--work."""
    return click.option(
        "--work",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where alternatives keep the weights they make.  [default: in the cache folder]",
    )(made)


def _file(name: str, says: str) -> Callable[[F], F]:
    return click.option(name, type=click.Path(dir_okay=False, path_type=Path), help=says)


def _numbers(kind: type) -> Callable[[click.Context, click.Parameter, str], tuple[Any, ...]]:
    """Reads numbers with commas between them."""

    def read_them(ctx: click.Context, param: click.Parameter, value: str) -> tuple[Any, ...]:
        try:
            numbers = tuple(kind(x) for x in value.split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) <= 0:
            raise click.BadParameter(f"expected numbers above 0 with commas, got {value!r}")
        return numbers

    return read_them


def _against(names: str) -> tuple[str, ...]:
    if names == "all":
        return ALTERNATIVES
    chosen = tuple(name for name in names.split(",") if name)
    for name in chosen:
        if name not in ALTERNATIVES:
            raise click.BadParameter(
                f"--against: expected some of {', '.join(ALTERNATIVES)}, or all; got {name!r}"
            )
    return chosen


# --- the measurements -----------------------------------------------------------------------------


@command.command()
@click.option(
    "--seconds",
    default="1,3,10,30",
    show_default=True,
    callback=_numbers(float),
    help="Lengths of the clips.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Times that the whole `kokanee ask` is run.",
)
@measurement
def offline(seconds: tuple[float, ...], processes: int, **given: Any) -> None:
    """Clips and a question: every stage, first token, whole answer."""
    _run({"offline": {"seconds": seconds, "processes": processes}}, given)


@command.command()
@click.option("--n", type=click.IntRange(min=1), default=20, show_default=True, help="Utterances.")
@click.option("--microphone", is_flag=True, help="Speak --n turns yourself instead.")
@click.option("--input-device", help="Of the microphone; see `kokanee listen --list-devices`.")
@measurement
def stream(n: int, microphone: bool, input_device: str | None, **given: Any) -> None:
    """End of speech to first token: held-out recordings in real time, or a microphone."""
    if microphone and given["against"]:
        raise click.UsageError("--against: beside a microphone nobody else can be measured.")
    if microphone:
        _run({"stream": {"n": n, "microphone": input_device or ""}}, given)
    else:
        _run({"stream": {"n": n}}, given)


@command.command()
@click.option(
    "--seconds",
    default="30",
    show_default=True,
    callback=_numbers(float),
    help="Lengths of the clips.",
)
@measurement
def encode(seconds: tuple[float, ...], **given: Any) -> None:
    """Sound to soft tokens, by stage."""
    _run({"encode": {"seconds": seconds}}, given)


@command.command()
@click.option(
    "--depths",
    default="64,512,1900",
    show_default=True,
    callback=_numbers(int),
    help="Positions in the cache.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Tokens decoded at each depth in a round.",
)
@measurement
def decode(depths: tuple[int, ...], steps: int, **given: Any) -> None:
    """Token by token at several depths, as llama-bench's tg."""
    _run({"decode": {"depths": depths, "n_steps": steps}}, given)


@command.command()
@click.option(
    "--sizes",
    default="32,117,512",
    show_default=True,
    callback=_numbers(int),
    help="Positions appended at once.",
)
@click.option(
    "--depth",
    type=click.IntRange(min=0),
    default=1024,
    show_default=True,
    help="The middle size again, behind so many; 0: not.",
)
@measurement
def prefill(sizes: tuple[int, ...], depth: int, **given: Any) -> None:
    """Many positions at once, as llama-bench's pp."""
    prefills = [(n, 0) for n in sizes] + [(sizes[len(sizes) // 2], depth)] * (depth > 0)
    _run({"prefill": {"prefills": prefills}}, given)


@command.command()
@measurement
def memory(**given: Any) -> None:
    """Steady and peak, by part, over time; bytes of files and KV caches."""
    _run({"memory": {}}, given)


@command.command()
@click.option("--limit", type=click.IntRange(min=1), help="At most so many clips of each kind.")
@click.option("--fresh", is_flag=True, help="Ask again what was answered already.")
@measurement
def quality(limit: int | None, fresh: bool, **given: Any) -> None:
    """What `kokanee eval` scores, in the same record."""
    _run({"quality": {"limit": limit, "fresh": fresh}}, given)


@command.command()
@measurement
def timers(**given: Any) -> None:
    """Whether the clocks are right, and what measuring costs."""
    _run({"timers": {}}, given)


@command.command(name="all")
@click.option(
    "--parts",
    metavar="NAMES",
    help=f"Some of {', '.join(PARTS)}, with commas.  [default: all; of a bundle without figures of"
    f" quality in its manifest those that need no training: {', '.join(UNTRAINED)}]",
)
@click.option("--resume", is_flag=True, help="Take over the parts that --out holds already.")
@measurement
def everything(parts: str | None, resume: bool, **given: Any) -> None:
    """All of it in one record, written to --out after each part."""
    names = tuple(PARTS) if parts is None else tuple(parts.split(","))
    for name in names:
        if name not in PARTS:
            raise click.BadParameter(f"--parts: expected some of {', '.join(PARTS)}; got {name!r}")
    if parts is None and not _is_trained(_bundle(given)):
        names = UNTRAINED
        left_out = ", ".join(name for name in PARTS if name not in UNTRAINED)
        click.echo(
            f"left out: {left_out}. The bundle's manifest has no figures of quality, so that its"
            " weights may be random; --parts measures them all the same",
            err=True,
        )
    _run({name: {} for name in names}, given, resume=resume)


@command.command()
@click.argument("recorded", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@outputs
def show(recorded: Path, **given: Any) -> None:
    """Show a record that was kept, and draw or write it in any form."""
    _give(read(recorded), given)


@command.command()
@click.argument("recorded", type=click.Path(dir_okay=False, exists=True, path_type=Path), nargs=-1)
@click.option("--parts", metavar="NAMES", help="Only these, with commas.")
@click.option(
    "--bundle",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Of a record that is not nano's.  [default: made in --work: random weights, 26 GB free]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for the new records, each under the name of the old.",
)
@work
@options.cache_dir
def reproduce(
    recorded: tuple[Path, ...],
    parts: str | None,
    bundle: Path | None,
    out: Path | None,
    work: Path | None,
    cache_dir: Path | None,
) -> None:
    """Run records again as they were made, and say which numbers differ beyond the noise.

    Without RECORDED: those that the README's figures are from. Half an hour on two
    cores, after a 7B model of random weights was made (extra [build], 26 GB of disk).
    """
    need_bench("psutil", "av", "jiwer")
    cache = cache_dir or default_cache()
    work = work or cache / "bench"
    for file in recorded or (RESULTS / "nano.json", RESULTS / "salmonn_7b.json"):
        before = read(file)
        folder = bundle or _made(before, work, cache_dir)
        wanted = again(before)
        if parts is not None:
            wanted = {name: wanted[name] for name in parts.split(",") if name in wanted}
        if {"stream", "quality"} & wanted.keys():
            fetch_heldout(cache / "heldout")
        how = next((p.settings for p in before.parts if "rounds" in p.settings), {})
        with _Bars() as bars:
            setup = Setup(
                bundle=folder,
                threads=before.conditions["threads"],
                device=before.conditions["device"],
                kv_cache=how.get("kv_cache", "auto"),
                rounds=how.get("rounds", 5),
                warmup=how.get("warmup", 1),
                against=_contenders(before),
                work=work,
                progress=bars,
            )
            now = run(setup, wanted, cache=cache, command=before.command)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            write(now, out / file.name)
        click.echo(f"{file.name}: {before.command}")
        click.echo(shown.differences(before, now))


def _made(record: Record, work: Path, cache_dir: Path | None) -> Path:
    """The bundle that a record is of."""
    if record.subject["name"] == options.NANO:
        return find_bundle(options.NANO, cache_dir=cache_dir)
    name = record.subject["name"]
    sizes: tuple[Literal["7b", "13b"], ...] = ("7b", "13b")
    size = next((size for size in sizes if name == f"salmonn-{size}"), None)
    if size is None:
        raise click.UsageError(f"the record is of a bundle named {name}: give it with --bundle")
    from kokanee.benchmarks import live_fullsize  # needs the extra [build]

    work.mkdir(parents=True, exist_ok=True)
    return live_fullsize.bundle(size, work)


# --- how they are run -----------------------------------------------------------------------------


def _contenders(record: Record) -> tuple[str, ...]:
    found = {name for part in record.parts for name in part.settings.get("against", ())}
    return tuple(name for name in ALTERNATIVES if name in found)


def _is_trained(bundle: Path) -> bool:
    return bool(read_manifest(bundle).quality)


def _bundle(given: dict[str, Any]) -> Path:
    return find_bundle(given["bundle"], cache_dir=given["cache_dir"])


def _run(
    parts: Mapping[str, Mapping[str, Any]],
    given: dict[str, Any],
    *,
    resume: bool = False,
) -> None:
    """Measure, show, and write what was asked for."""
    need_bench("psutil")
    cache = given["cache_dir"] or default_cache()
    if "quality" in parts or ("stream" in parts and "microphone" not in parts["stream"]):
        need_bench("av", "jiwer")
        fetch_heldout(cache / "heldout")
    bundle, out = _bundle(given), given["out"]
    device = "cuda" if has_cuda(given["device"]) else "cpu"
    with _Bars() as bars:
        setup = Setup(
            bundle=bundle,
            threads=given["threads"] or available_threads(),
            device=device,
            kv_cache=given["kv_cache"],
            rounds=given["rounds"],
            warmup=given["warmup"],
            against=_against(given["against"]),
            work=given["work"] or cache / "bench",
            progress=bars,
        )
        kept = _kept(out, setup) if resume else None
        record = run(
            setup,
            parts,
            cache=cache,
            command=_command_line(),
            kept=kept,
            finished=lambda so_far: write(so_far, out) if out else None,
        )
    _give(record, given)


def _kept(out: Path | None, setup: Setup) -> Record | None:
    if out is None:
        raise click.UsageError("--resume goes on with the record in --out FILE: name one")
    if not out.is_file():
        return None
    kept = read(out)
    now = conditions(threads=setup.threads, device=setup.device)
    same = ("machine", "threads", "device", "libraries")
    if kept.subject != subject(setup.bundle) or any(
        _steady(kept.conditions.get(name)) != _steady(now[name]) for name in same
    ):
        raise click.UsageError(
            f"{out} is of another bundle, machine, number of threads or version of a library;"
            " leave --resume out to begin anew"
        )
    return kept


def _steady(condition: Any) -> Any:
    """Without what changes from minute to minute."""
    if isinstance(condition, Mapping):
        return {name: value for name, value in condition.items() if name != "load_average"}
    return condition


def _give(record: Record, given: dict[str, Any]) -> None:
    if not given["as_json"]:
        shown.show(record, Console())
    if path := given["markdown"]:
        path.write_text(shown.markdown(record), encoding="utf-8")
    if path := given["csv"]:
        path.write_text(shown.csv(record), encoding="utf-8")
    if path := given["html"]:
        path.write_text(report.html(record), encoding="utf-8")
    if folder := given["pictures"]:
        for file in pictures.save_all(record, folder):
            click.echo(f"drew {file}", err=True)
    if given["as_json"]:
        click.echo(json.dumps(to_json(record)))


def _command_line() -> str:
    return shlex.join(["kokanee", *sys.argv[1:]])


class _Bars:
    """One bar on standard error, for whatever goes on."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> _Bars:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=what, completed=done, total=total)
