"""`kokanee eval`: held-out recordings through a bundle, and what it makes of them."""

import hashlib
import importlib.util
import json
import subprocess
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kokanee.benchmarks import hearing_quality, heldout, quality
from kokanee.engine import Engine
from kokanee.engine.engine import Cache, Device
from kokanee.engine.manifest import FILE_NAME
from kokanee.export.nano import default_cache

from . import options
from .bundle import find_bundle


@click.command()
@click.argument("bundle", default=options.NANO)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many clips of each kind.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the recordings are, or go.  [default: in the cache folder]",
)
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Answers as JSON lines; a run goes on with them.  [default: in the cache folder]",
)
@click.option("--fresh", is_flag=True, help="Ask again what was answered already.")
@options.machine
@options.as_json
def command(
    *,
    bundle: str,
    limit: int | None,
    data: Path | None,
    log: Path | None,
    fresh: bool,
    device: Device,
    threads: int | None,
    kv_cache: Cache,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Measure how well a bundle hears.

    Recordings that nano was not trained on are fetched as Debian packages (apt-get, dpkg-deb); the
    extra [bench] is needed. An interrupted run goes on where it was.
    """
    need_bench()
    folder = find_bundle(bundle, cache_dir=cache_dir)
    cache = cache_dir or default_cache()
    digest = hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest()[:12]
    log = log or cache / "eval" / f"{digest}.jsonl"  # another bundle answers anew
    if fresh:
        log.unlink(missing_ok=True)
    data = data or cache / "heldout"
    fetch_heldout(data)
    clips = quality.chosen(heldout.clips(data), limit)
    started = time.perf_counter()
    columns = (TextColumn("listening"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Engine.open(folder, device=device, threads=threads, kv_cache=kv_cache) as engine,
        engine.session() as session,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        options.say_notes(engine)
        shown = bar.add_task("")
        rows = quality.ask_all(
            lambda pcm, questions: hearing_quality.answers(session, pcm, questions),
            clips,
            log,
            progress=lambda n, total: bar.update(shown, completed=n, total=total),
        )
    result = {
        "bundle": engine.manifest.name,
        "manifest_sha256": digest,
        "scores": quality.scores(rows),
        "clip_seconds": round(sum(len(clip.pcm) for clip in clips) / heldout.RATE, 1),
        "wall_s": round(time.perf_counter() - started, 1),
        "log": str(log),
    }
    if not as_json:
        _print(result)
    click.echo(json.dumps(result))


def fetch_heldout(data: Path) -> None:
    """The held-out recordings, if they are not there yet."""
    try:
        heldout.fetch(data)
    except FileNotFoundError as error:
        raise click.ClickException(f"{error.filename} is needed to fetch recordings") from None
    except (subprocess.CalledProcessError, RuntimeError) as error:
        raise click.ClickException(f"recordings could not be fetched: {error}") from None


def _print(result: dict[str, object]) -> None:
    scores = result["scores"]
    assert isinstance(scores, dict)
    words, sound, kind = scores["words"], scores["sound"], scores["kind"]
    table = Table("", "clips", "result", "constant answer", title="Held-out recordings")
    if words["n"]:
        wer, constant = f"{words['wer']:.1%} word errors", f"{words['majority_wer']:.1%}"
        table.add_row("what is said", str(words["n"]), wer, constant)
    for name, scored in (("which sound", sound), ("speech, music or sound", kind)):
        if scored["n"]:
            right = f"{scored['top1']:.1%} of {scored['n_classes']} right"
            table.add_row(name, str(scored["n"]), right, f"{scored['majority']:.1%}")
    console = Console()
    console.print(table)
    if sound["n"]:
        each = ", ".join(f"{name} {right}/{n}" for name, (right, n) in sound["recall"].items())
        console.print(f"sounds right: {each}", highlight=False)


def need_bench(*names: str) -> None:
    """Makes sure that modules of the extra [bench] are there."""
    for name in names or ("av", "jiwer"):
        if importlib.util.find_spec(name) is None:
            raise click.ClickException(f"{name} is not installed; pip install 'kokanee[bench]'")
