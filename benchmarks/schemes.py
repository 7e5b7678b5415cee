"""What storing nano's LLM in each scheme does to it, and what each scheme then costs.

    python -m kokanee.benchmarks.schemes --work FOLDER [--hear]

Every scheme becomes a bundle through `kokanee quantize nano --compare`, whose receipts are the
figures: next-token distributions beside the released weights computed in float32, on text and on
questions about a recording, bytes, memory and speed. With --hear some of them hear the held-out
recordings as well (three to four minutes each, needs what `kokanee eval` needs).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from kokanee.engine import read_manifest
from kokanee.export.nano import build_nano

from .machine import machine

HEARD = ("as released", "gptq4", "int4")
SCHEMES = ("int8", "llm_int8", "nf4", "gptq4", "kq4", "int4", "gptq4_block128", "int4_block128")


def run(*arguments: str) -> dict[str, Any]:
    """A command's JSON.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", "kokanee.runtime", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@click.command()
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where the bundles go; what is there is used again.",
)
@click.option("--hear", is_flag=True, help="Hear the held-out recordings with some.")
@click.option("--picture", type=click.Path(dir_okay=False), help="Draw it too.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(work: Path, hear: bool, picture: str | None, out: Path | None) -> None:
    """Measure; one JSON line."""
    drawn = ("--picture", picture) if picture else ()
    compared = ("--compare", ",".join(SCHEMES), *drawn, "--json")
    receipts = run("quantize", "nano", str(work), *compared)["receipts"]
    kept = read_manifest(build_nano()).receipt
    assert kept is not None
    heard = {}
    if hear:
        for name in HEARD:
            bundle = "nano" if name == "as released" else str(work / name)
            scores = run("eval", bundle, "--json")["scores"]
            heard[name] = {
                "word_error_rate": scores["words"]["wer"],
                "sound_top1": scores["sound"]["top1"],
            }
    result = {
        "what": "nano's LLM in each scheme, beside its released weights computed in float32",
        "command": "python -m kokanee.benchmarks.schemes --work FOLDER --hear",
        "receipts": receipts,
        "as_released": json.loads(read_manifest(build_nano()).to_json())["receipt"],
        "heard": heard,
        "machine": machine(),
    }
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
