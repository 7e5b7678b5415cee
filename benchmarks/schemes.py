"""What storing nano's LLM in each scheme does to it, and what each scheme then costs.

    python -m kokanee.benchmarks.schemes --work FOLDER [--hear]

Every scheme becomes a bundle through `kokanee quantize nano --compare`, whose receipts are the
figures: next-token distributions beside the released weights computed in float32, on text and on
questions about a recording, bytes, memory and speed. With --hear some of them hear the held-out
recordings as well (three to four minutes each, needs what `kokanee eval` needs).
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kokanee.engine import read_manifest
from kokanee.engine.manifest import Cost, Receipt
from kokanee.export.nano import build_nano
from kokanee.quant.receipt import cost
from kokanee.runtime.quantize import draw

from .machine import machine

ROUNDS = 5
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


def measured(folders: Mapping[str, Path]) -> dict[str, Receipt]:
    """The bundles' receipts, their costs asked again in turns: medians over the rounds."""
    receipts: dict[str, Receipt] = {}
    for name, folder in folders.items():
        kept = read_manifest(folder).receipt
        assert kept is not None
        receipts[name] = kept
    costs: dict[str, list[Cost]] = {name: [] for name in folders}
    for _ in range(ROUNDS):
        for name, folder in folders.items():
            files = read_manifest(folder).files.values()
            costs[name].append(cost(folder, sum(f.n_bytes for f in files)))

    return {
        name: dataclasses.replace(receipt, cost=_middle(costs[name]))
        for name, receipt in receipts.items()
    }


def _middle(costs: list[Cost]) -> Cost:
    """Medians of what differs from one time to the next."""
    return dataclasses.replace(
        costs[0],
        peak_rss_mb=statistics.median(c.peak_rss_mb for c in costs),
        prefill_tokens_per_s=statistics.median(c.prefill_tokens_per_s for c in costs),
        decode_tokens_per_s=statistics.median(c.decode_tokens_per_s for c in costs),
    )


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
    run("quantize", "nano", str(work), "--compare", ",".join(SCHEMES), "--json")
    folders = {"as released": build_nano(), **{name: work / name for name in SCHEMES}}
    receipts = measured(folders)
    if picture:
        draw({name: r for name, r in receipts.items() if name in SCHEMES}, Path(picture))
    heard = {}
    if hear:
        for name in HEARD:
            sets = ("--set", "speech", "--set", "sound", "--set", "music")
            scores = run("eval", str(folders[name]), *sets, "--json")["scores"]
            heard[name] = {
                "word_error_rate": scores["words"]["wer"],
                "sound_top1": scores["sound"]["top1"],
            }
    result = {
        "what": "nano's LLM in each scheme, beside its released weights computed in float32",
        "command": "python -m kokanee.benchmarks.schemes --work FOLDER --hear",
        "receipts": {name: dataclasses.asdict(r) for name, r in receipts.items()},
        "rounds": ROUNDS,
        "heard": heard,
        "machine": machine(),
    }
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
