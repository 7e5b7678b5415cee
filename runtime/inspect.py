"""`kokanee inspect`: a bundle's manifest as tables."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from kokanee.engine import Manifest, read_manifest
from kokanee.engine.manifest import Receipt, verify_files

from . import options
from .bundle import find_bundle


@click.command()
@click.argument("bundle", default=options.NANO)
@click.option("--verify", is_flag=True, help="Check every file's SHA-256 as well.")
@options.cache_dir
@options.as_json
def command(*, bundle: str, verify: bool, cache_dir: Path | None, as_json: bool) -> None:
    """Show what is in a bundle: sizes, schemes, files, sources, parity and quality."""
    folder = find_bundle(bundle, cache_dir=cache_dir)
    manifest = read_manifest(folder)
    if verify:
        verify_files(folder, manifest)
    if as_json:
        what = {
            "folder": str(folder),
            "n_bytes": _n_bytes(manifest),
            **dataclasses.asdict(manifest),
        }
        click.echo(json.dumps(what, ensure_ascii=False))
        return
    console = Console(markup=False, highlight=False)
    console.print(f"{manifest.name}, {_mb(_n_bytes(manifest))}, in {folder}")
    for table in _tables(manifest):
        console.print(table)
    console.print(f"made by: {manifest.command} (Kokanee {manifest.kokanee})")


def _tables(manifest: Manifest) -> list[Table]:
    tables = [
        _table("Sizes", ("", ""), dataclasses.asdict(manifest.dims).items()),
        _table("Sound", ("", ""), dataclasses.asdict(manifest.policy).items()),
        _table(
            "Language model",
            ("", ""),
            [
                ("template", repr(manifest.prompt.template)),
                *((f"task {name}", wording) for name, wording in manifest.prompt.tasks.items()),
                ("adapter", f"rank {manifest.lora.rank}, scale {manifest.lora.scale:g}"),
            ],
        ),
        _table(
            "Graphs",
            ("graph", "weights", "difference to PyTorch", "bound"),
            [
                (name, graph.scheme, *_parity(manifest, name))
                for name, graph in manifest.graphs.items()
            ],
        ),
        _table(
            "Files",
            ("file", "size", "SHA-256"),
            [(name, _mb(file.n_bytes), file.sha256[:12]) for name, file in manifest.files.items()],
        ),
        _table(
            "Sources",
            ("weights", "origin", "licence"),
            [(source.name, source.origin, source.licence) for source in manifest.sources],
        ),
    ]
    if manifest.receipt is not None:
        tables += _receipt(manifest.receipt)
    if manifest.quality:
        rows = ((name, json.dumps(value)) for name, value in manifest.quality.items())
        tables.append(_table("Quality", ("", ""), rows))
    return tables


def _receipt(receipt: Receipt) -> list[Table]:
    """What storing it so did, and what it costs."""
    rows = [
        (
            f"{of}{name}",
            a.n_positions,
            f"{a.kl:.4f}",
            f"{a.top1:.1%}",
            f"{a.perplexity:.1f} ({a.perplexity_exact:.1f})",
        )
        for of, found in (("", receipt.llm), ("int8 cache alone, ", receipt.int8_cache))
        for name, a in found.items()
    ]
    columns = ("prompts", "positions", "KL, nats", "same next token", "perplexity (exact)")
    title = f"Receipt: {receipt.method}; beside {receipt.against}; KL at most {receipt.limits.kl:g}"
    tables = [_table(title, columns, rows)]
    facts: list[tuple[str, str]] = []
    if receipt.soft_tokens is not None:
        s = receipt.soft_tokens
        facts.append(("soft tokens, least cosine", f"{s.least_cosine:.5f} of {s.n_soft_tokens}"))
        facts.append(("soft tokens, signal to noise", f"{s.snr_db:.1f} dB"))
    if receipt.cost is not None:
        c = receipt.cost
        facts.append(("peak memory of an answer", f"{c.peak_rss_mb:.0f} MB"))
        speeds = f"{c.prefill_tokens_per_s:.0f} and {c.decode_tokens_per_s:.1f} tokens/s"
        facts.append(("prefill and decode", f"{speeds}, {c.threads} threads, {c.machine}"))
    return [*tables, _table("", ("", ""), facts)] if facts else tables


def _table(title: str, columns: tuple[str, ...], rows: Any) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table


def _parity(manifest: Manifest, graph: str) -> tuple[str, str]:
    entry = manifest.parity.get(graph)
    return (
        ("not recorded", "") if entry is None else (f"{entry.max_abs:.1e}", f"{entry.tolerance:g}")
    )


def _n_bytes(manifest: Manifest) -> int:
    return sum(file.n_bytes for file in manifest.files.values())


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"
