"""`kokanee eval`: recordings with known truth through a bundle, and what it makes of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kokanee.benchmarks import (
    agreement,
    evaluation_sets,
    hearing_pictures,
    hearing_quality,
    hearing_scores,
    heldout,
    quality,
)
from kokanee.benchmarks.clip_list import read_clip_list
from kokanee.benchmarks.quality import Ask, Example, Row, Task
from kokanee.engine import Engine, Session, read_manifest
from kokanee.engine.engine import Cache, Device
from kokanee.engine.growing import STREAMING
from kokanee.engine.manifest import FILE_NAME, sha256
from kokanee.engine.prompt import fill_written
from kokanee.export.nano import default_cache

from . import hearing_tables, options
from .bundle import find_bundle
from .in_writing import check_bundle, write_down
from .phrases import F32, LONGEST_S, max_new_tokens, transcribe

SCHEMA = "kokanee.eval/1"
# How a clip is heard and asked about, beside the names of `STREAMING`.
WHOLE, BY_PHRASE, IN_WRITING = "whole", "by-phrase", "in-writing"
READ = "read"  # not heard at all: a question's exact words, answered by the bare language model

EPILOG = """\b
Sets:
  speech     what is said in English telephone prompts, and that it is speech
  sound      which sound of 18 kinds it is, and that it is one
  music      that it is music
  language   which of seven languages is spoken
  mixture    speech over a sound, 5 dB louder than it: both are to be heard
  noise      that nothing is said in noise, hum, silence, sounds and music
  question   spoken questions: answered as their text is?

\b
Examples:
  kokanee eval                                       nano, all sets: 2300 questions
  kokanee eval --limit 5                             a first look
  kokanee eval --set speech --set noise my-bundle/
  kokanee eval --manifest mine.jsonl --pictures drawn/
  kokanee eval nano-int4/ --beside nano-float/       the same answers?
  kokanee eval --streamed --set sound                the same as from a microphone?
  kokanee eval --by-phrase --set speech              fewer words wrong if cut at pauses?
  kokanee eval --in-writing --set question           better answered in writing?

\b
A manifest has a JSON object a line: path (relative to it), kind (speech, sound, music, mixture,
noise or question), and what is true: text, label, language (a name, or an ISO code), answer (by
default what the bundle's language model answers to the text):
  {"path": "a.wav", "kind": "speech", "text": "Press one.", "language": "en"}
  {"path": "b.flac", "kind": "sound", "label": "dog"}
  {"path": "c.wav", "kind": "question", "text": "What do cats eat?"}
"""


@click.command(epilog=EPILOG)
@click.argument("bundle", default=options.NANO)
@click.option(
    "--set",
    "sets",
    multiple=True,
    type=click.Choice(list(evaluation_sets.SETS)),
    help="One of those below; may be repeated.  [default: all, or none with --manifest]",
)
@click.option(
    "--manifest",
    "manifests",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your own recordings, as JSON lines; may be repeated.",
)
@click.option(
    "--skip-broken", is_flag=True, help="Exit with 0 even if recordings of a manifest were broken."
)
@click.option(
    "--beside",
    multiple=True,
    metavar="BUNDLE",
    help="Ask this one too: how many answers are the same, how each figure differs; may be"
    " repeated.",
)
@click.option(
    "--streamed", is_flag=True, help="Hear every clip in chunks of 0.1 s too: the same answers?"
)
@click.option(
    "--by-phrase",
    is_flag=True,
    help="Write down every clip phrase by phrase too, as `kokanee transcribe` does.",
)
@click.option(
    "--in-writing",
    is_flag=True,
    help="Answer every spoken question in two steps too, as `kokanee ask --in-writing` does.",
)
@click.option(
    "--mode",
    type=click.Choice(list(STREAMING)),
    default="fast",
    show_default=True,
    help="Of --streamed, as in `kokanee listen`.",
)
@click.option(
    "--unseen-wordings", is_flag=True, help="Ask with other words than any that was trained with."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="At most so many clips of each kind and language of each set.",
)
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Draw the figures and what was taken for what.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the recordings are, or go.  [default: in the cache folder]",
)
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Answers as JSON lines; a run goes on with them. Other bundles, wordings and streaming"
    " have logs of their own beside it.  [default: in the cache folder]",
)
@click.option("--fresh", is_flag=True, help="Ask again what was answered already.")
@options.machine
@options.as_json
def command(
    *,
    bundle: str,
    sets: tuple[str, ...],
    manifests: tuple[Path, ...],
    skip_broken: bool,
    beside: tuple[str, ...],
    streamed: bool,
    by_phrase: bool,
    in_writing: bool,
    mode: str,
    unseen_wordings: bool,
    limit: int | None,
    pictures: Path | None,
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

    Recordings that nano was not trained on are fetched as Debian packages (apt-get, dpkg-deb), or
    yours are read; the extra [bench] is needed. Every figure comes with the interval that it would
    lie in, 95 times of 100, had other clips of the same kind been drawn. An interrupted run goes on
    where it was.
    """
    need_bench("av", "jiwer", "whisper_normalizer", *(["matplotlib"] if pictures else []))
    started = time.perf_counter()
    names = tuple(dict.fromkeys(sets)) or (() if manifests else tuple(evaluation_sets.SETS))
    folder = find_bundle(bundle, cache_dir=cache_dir)
    others = [find_bundle(name, cache_dir=cache_dir) for name in beside]
    cache = cache_dir or default_cache()
    examples, broken = _examples(names, manifests, data or cache / "heldout", limit)
    if not examples:
        raise click.ClickException(f"no recording can be read: {broken[0]['error']}")
    if by_phrase and not any("words" in example.truths for example in examples):
        raise click.UsageError("--by-phrase: none of these clips is to be written down; add speech")
    if in_writing and not any("question" in example.truths for example in examples):
        raise click.UsageError(
            "--in-writing: none of these clips asks anything; add --set question, or lines of"
            ' "kind": "question" to a manifest'
        )
    if in_writing:
        try:
            check_bundle(read_manifest(folder).prompt)
        except ValueError as error:
            raise click.UsageError(f"--in-writing: {error}") from None
    unanswered = any(example.truths.get("question") == "" for example in examples)
    if unanswered:
        for reader in (folder, *others):
            try:
                fill_written(read_manifest(reader).prompt, "?")
            except ValueError as error:
                raise click.UsageError(f"{reader}: {error}; give each question an answer") from None
    digest = _digest(folder)
    # A bundle answers otherwise on another device, and with another cache.
    setting = [str(choice) for choice in (kv_cache, device) if choice != "auto"]
    asking = _Asking(
        examples=examples,
        wordings="unseen" if unseen_wordings else "trained",
        fresh=fresh,
        opening={"device": device, "threads": threads, "kv_cache": kv_cache},
        setting=setting if log else None,
    )

    def kept(digest: str) -> Path:
        return cache / "eval" / f"{'-'.join([digest, *setting])}.jsonl"

    def own_answers(folder: Path, log: Path) -> list[Row]:
        """What a bundle answers to the questions' exact words, where that is wanted."""
        return _ask(_only(asking, "question"), folder, log, how=READ).rows

    answers_log = log or kept(digest)
    asked = _ask(asking, folder, answers_log)
    read = own_answers(folder, answers_log) if unanswered or in_writing else []
    rows = _settled(asked.rows, read)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "bundle": asked.name,
        "folder": str(folder),
        "manifest_sha256": digest,
        "sets": list(names),
        "manifests": [{"path": str(path), "sha256": sha256(path)} for path in manifests],
        "limit": limit,
        "wordings": asking.wordings,
        "n_clips": len(examples),
        "clip_seconds": round(sum(len(e.clip.pcm) for e in examples) / heldout.RATE, 1),
        "n_answers": len(rows),
        "scores": quality.scores(rows),
        **hearing_scores.scored(rows),
        "beside": [],
        "streamed": None,
        "by_phrase": None,
        "in_writing": None,
        "broken": broken,
        "log": str(asked.log),
    }
    for other in others:
        its_digest = _digest(other)
        its_log = log.with_stem(f"{log.stem}-{its_digest}") if log else kept(its_digest)
        its = _ask(asking, other, its_log)
        its_rows = _settled(its.rows, own_answers(other, its_log)) if unanswered else its.rows
        result["beside"].append(
            {
                "bundle": its.name,
                "folder": str(other),
                "manifest_sha256": its_digest,
                "log": str(its.log),
                **agreement.compared(rows, its_rows),
            }
        )
    if streamed:
        heard = _ask(asking, folder, answers_log, how=mode)
        compared = agreement.compared(rows, _settled(heard.rows, read))
        result["streamed"] = {"mode": mode, "log": str(heard.log), **compared}
    if by_phrase:
        heard = _ask(_only(asking, "words"), folder, answers_log, how=BY_PHRASE)
        compared = agreement.compared([r for r in rows if r.task == "words"], heard.rows)
        result["by_phrase"] = {"longest_s": LONGEST_S, "log": str(heard.log), **compared}
    if in_writing:
        heard = _ask(_only(asking, "question"), folder, answers_log, how=IN_WRITING)
        at_once = [r for r in rows if r.task == "question"]
        result["in_writing"] = {
            "log": str(heard.log),
            **agreement.compared(at_once, _settled(heard.rows, read)),
            "read": agreement.beside_reading(at_once, heard.rows, read),
        }
    result["wall_s"] = round(time.perf_counter() - started, 1)
    if not as_json:
        # Labels and paths may hold brackets.
        hearing_tables.show(result, Console(markup=False, highlight=False))
    if pictures:
        for file in hearing_pictures.save_all(result, pictures):
            click.echo(f"drew {file}", err=True)
    if as_json:
        click.echo(json.dumps(result))
    for one in broken:
        click.echo(f"kokanee: {one['manifest']}:{one['line']}: {one['error']}", err=True)
    if broken and not skip_broken:
        raise click.exceptions.Exit(1)


def _examples(
    names: Sequence[str], manifests: Iterable[Path], data: Path, limit: int | None
) -> tuple[list[Example], list[dict[str, Any]]]:
    """What is asked about, and what of the manifests cannot be read."""
    # Manifests first: what is wrong with them is told before anything is fetched.
    own: list[Example] = []
    broken = []
    for path in manifests:
        found = read_clip_list(path)
        own += evaluation_sets.few(found.examples, limit)
        broken += [{"manifest": str(path), **dataclasses.asdict(one)} for one in found.broken]
    if not names:
        return own, broken
    fetch_heldout(data, names)
    try:
        return evaluation_sets.examples(data, names, limit=limit) + own, broken
    except RuntimeError as error:
        raise click.ClickException(f"{error}; leave it out with --set") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asking:
    """What is asked, and how."""

    examples: Sequence[Example]
    wordings: str  # trained or unseen
    fresh: bool
    opening: dict[str, Any]  # of an engine
    setting: list[str] | None  # what a log that was named by hand must be of, beside the bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One bundle's answers."""

    name: str
    log: Path
    rows: list[Row]


def _only(asking: _Asking, task: Task) -> _Asking:
    """The same clips, as far as this is asked about them."""
    examples = [
        dataclasses.replace(e, truths={task: e.truths[task]})
        for e in asking.examples
        if task in e.truths
    ]
    return dataclasses.replace(asking, examples=examples)


def _ask(asking: _Asking, folder: Path, log: Path, *, how: str = WHOLE) -> _Asked:
    """Asks a bundle about every example: heard whole, streamed, by phrase, in writing, or read.

    Answers to other wordings, and what is not heard as a whole, go into logs of their own beside
    the given one.
    """
    unseen = ["unseen"] if asking.wordings == "unseen" else []
    parts = [] if how == WHOLE else ["streamed", how] if how in STREAMING else [how]
    log = log.with_stem("-".join([log.stem, *unseen, *parts]))
    if asking.fresh:
        log.unlink(missing_ok=True)
    if asking.setting is not None:
        try:
            quality.claim(log, " ".join([_digest(folder), *asking.setting]))
        except ValueError as error:
            raise click.UsageError(f"--log: {error}; name another one, or add --fresh") from None
    doing = TextColumn("reading" if how == READ else "listening")
    columns = (doing, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Engine.open(folder, **asking.opening) as engine,
        engine.session() as session,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        options.say_notes(engine)
        shown = bar.add_task("")
        rows = quality.ask_examples(
            _hearing(session, how),
            asking.examples,
            log,
            progress=lambda n, total: bar.update(shown, completed=n, total=total),
            wordings=quality.QUESTIONS if asking.wordings == "trained" else quality.UNSEEN,
        )
        return _Asked(name=engine.manifest.name, log=log, rows=rows)


def _hearing(session: Session, how: str) -> Ask:
    if how == WHOLE:
        return lambda clip, questions: hearing_quality.answers(session, clip.pcm, questions)
    if how == BY_PHRASE:
        return lambda clip, questions: [
            " ".join(phrase.text for phrase in transcribe(session, clip.pcm, question=question))
            for question in questions
        ]
    if how == IN_WRITING:
        return lambda clip, questions: [_in_writing(session, clip.pcm) for _ in questions]
    if how == READ:  # a clip that asks is called as it asks
        return lambda clip, questions: [_read(session, clip.name, clip.pcm) for _ in questions]
    return lambda clip, questions: agreement.streamed_answers(
        session, clip.pcm, questions, streaming=STREAMING[how]
    )


def _in_writing(session: Session, pcm: F32) -> str:
    session.hear(pcm)
    question = write_down(session, pcm).text
    return _read(session, question, pcm) if question else ""


def _read(session: Session, question: str, pcm: F32) -> str:
    return session.ask_in_writing(question, max_new_tokens=max_new_tokens(pcm)).text()


def _settled(rows: Sequence[Row], read: Iterable[Row]) -> list[Row]:
    """With the bundle's own answer as the true one wherever a question came without."""
    own = {(row.package, row.name): row.answer for row in read}
    return [
        dataclasses.replace(row, truth=own[row.package, row.name])
        if row.task == "question" and not row.truth
        else row
        for row in rows
    ]


def _digest(folder: Path) -> str:
    """What distinguishes a bundle from every other."""
    return sha256(folder / FILE_NAME)[:12]


def fetch_heldout(data: Path, names: Iterable[str] = ("speech", "sound", "music")) -> None:
    """The held-out recordings of these sets, if they are not there yet."""
    elsewhere = f"on another system than Debian 12, put the .deb files into {data} yourself"
    try:
        evaluation_sets.fetch(data, names)
    except FileNotFoundError as error:
        what = f"{error.filename} is needed to fetch recordings"
        raise click.ClickException(f"{what}; {elsewhere}") from None
    except (subprocess.CalledProcessError, RuntimeError) as error:
        what = f"recordings could not be fetched: {error}"
        raise click.ClickException(f"{what}; {elsewhere}") from None


def need_bench(*names: str) -> None:
    """Makes sure that modules of the extra [bench] are there."""
    for name in names or ("av", "jiwer"):
        if importlib.util.find_spec(name) is None:
            raise click.ClickException(f"{name} is not installed; pip install 'kokanee[bench]'")
