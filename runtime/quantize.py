"""`kokanee quantize`: a bundle stored otherwise, with a receipt; or schemes side by side."""

import dataclasses
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from kokanee.engine.manifest import FILE_NAME, Manifest, Receipt, read_manifest
from kokanee.quant.schemes import LLM_SCHEMES

from . import options
from .bundle import BuildProgress, find_bundle

EXAMPLES = """\b
Examples:
  kokanee quantize nano nano-gptq/ --llm-quant gptq4
  kokanee quantize salmonn-7b-float/ salmonn-7b/ --llm-quant gptq4_block128 --encoder-quant int8
  kokanee quantize my-bundle/ out/ --llm-quant gptq4 --calibration prompts.jsonl
  kokanee quantize nano --compare int4,kq4,gptq4,int8 --picture schemes.png
"""

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(epilog=EXAMPLES)
@click.argument("bundle", default=options.NANO)
@click.argument("out", type=FOLDER, required=False)
@options.storage
@click.option(
    "--encoder-quant",
    type=click.Choice(["none", "fp16", "int8"]),
    help="Storage of Whisper and BEATs.  [default: as they are]",
)
@click.option(
    "--compare",
    metavar="SCHEME,SCHEME,...",
    help="Make each of these for comparison, in OUT if given: one table of quality, bytes, speed.",
)
@click.option("--picture", type=FILE, help="With --compare: draw it too (extra [bench]).")
@options.cache_dir
@options.as_json
def command(
    *,
    bundle: str,
    out: Path | None,
    llm_quant: str | None,
    kv_cache: Any,
    calibration: Path | None,
    receipt: bool,
    encoder_quant: Any,
    compare: str | None,
    picture: Path | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Store a bundle's model in another scheme, and measure what that did.

    BUNDLE should hold floats (`kokanee build ... --llm-quant none`): what an earlier scheme has
    lost stays lost, and the receipt compares with BUNDLE. nano's own 4 bits are its released ones.
    The language model is calibrated with texts and recordings that come with Kokanee, or with
    --calibration. An interrupted run goes on where it was.
    """
    names = compare.split(",") if compare is not None else [llm_quant or "gptq4"]
    unknown = [name for name in names if name not in (*LLM_SCHEMES, "none")]
    if unknown:
        raise click.UsageError(
            f"--compare: unknown {', '.join(unknown)}; known are {', '.join(LLM_SCHEMES)}, none"
        )
    if compare is not None and llm_quant is not None:
        raise click.UsageError("--compare and --llm-quant exclude each other.")
    if compare is None and (out is None or picture is not None):
        raise click.UsageError("OUT is missing." if out is None else "--picture needs --compare.")
    source = find_bundle(bundle, cache_dir=cache_dir)
    if out is not None and out.resolve() == source.resolve():
        raise click.UsageError(f"OUT: expected another folder than the bundle's own, got {out}")
    try:
        from kokanee.export.quantized import Treatment
        from kokanee.export.requantize import requantize
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed; pip install 'kokanee[build]'"
        ) from None
    made: dict[str, Manifest] = {}
    with BuildProgress() as progress, tempfile.TemporaryDirectory() as scratch:
        for name in names:
            if compare is None:
                assert out is not None
                folder = out
            else:
                folder = (out or Path(scratch)) / name
            if compare is not None and (folder / FILE_NAME).is_file():
                made[name] = read_manifest(folder)
                continue
            made[name] = requantize(
                source,
                folder,
                Treatment(
                    scheme=name,
                    kv_cache=kv_cache or ("float32" if name == "none" else "int8"),
                    receipt=receipt,
                    calibration=calibration,
                ),
                encoder_quant,
                progress=progress,
                command=shlex.join(["kokanee", *sys.argv[1:]]),
            )
    receipts = {name: m.receipt for name, m in made.items() if m.receipt is not None}
    if picture is not None:
        draw(receipts, picture)
    if as_json:
        found = {name: dataclasses.asdict(r) for name, r in receipts.items()}
        click.echo(json.dumps({"folder": str(out) if out else None, "receipts": found}))
        return
    Console(markup=False, highlight=False).print(table(receipts))
    if out is not None:
        click.echo(str(out))


def table(receipts: Mapping[str, Receipt]) -> Table:
    """A row a receipt: quality, bytes, speed."""
    columns = ("scheme", "KL text", "KL audio", "same next token", "perplexity", "MB", "peak MB")
    made = Table(*columns, "prefill /s", "decode /s", title="Beside the exact model")
    for name, receipt in receipts.items():
        text, audio, cost = receipt.llm["text"], receipt.llm["audio"], receipt.cost
        spent = ["", "", "", ""]
        if cost is not None:
            numbers = (cost.n_bytes / 1e6, cost.peak_rss_mb)
            spent = [f"{n:.0f}" for n in numbers]
            spent += [f"{cost.prefill_tokens_per_s:.0f}", f"{cost.decode_tokens_per_s:.0f}"]
        made.add_row(
            name,
            f"{text.kl:.4f}",
            f"{audio.kl:.4f}",
            f"{text.top1:.1%}",
            f"{text.perplexity:.1f} ({text.perplexity_exact:.1f})",
            *spent,
        )
    return made


def draw(receipts: Mapping[str, Receipt], path: Path) -> None:
    """Quality against bytes; the area of a point is its speed. Needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise click.ClickException(
            "--picture needs matplotlib; pip install 'kokanee[bench]'"
        ) from None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    # Neighbours are told apart by standing below and above their points.
    ranked = sorted(receipts.items(), key=lambda item: item[1].llm["text"].kl)
    for i, (name, receipt) in enumerate(ranked):
        if receipt.cost is None:
            continue
        at = receipt.cost.n_bytes / 1e6, max(receipt.llm["text"].kl, 1e-5)
        axes.scatter(*at, s=2 * receipt.cost.decode_tokens_per_s, alpha=0.6)
        text = f"{name}, {receipt.cost.decode_tokens_per_s:.0f} tokens/s"
        axes.annotate(
            text,
            at,
            textcoords="offset points",
            xytext=(0, 10 if i % 2 else -17),
            ha="center",
            size=8,
        )
    axes.set_yscale("log")
    axes.set_xlabel("bundle, MB")
    axes.set_ylabel("KL divergence from the exact model, nats")
    axes.margins(0.18)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
