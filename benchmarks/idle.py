"""What a session costs while nobody speaks: the processor time of an open engine that waits.

    python -m kokanee.benchmarks.idle [BUNDLE] [--seconds 20]

An assistant waits for speech most of the day. Threads of ONNX Runtime that spin while they wait
would show here; the session has answered once before it is watched.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import click

from kokanee.engine import Engine
from kokanee.export.nano import build_nano

from .encode import some_sound
from .machine import machine


@click.command()
@click.argument("bundle", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option("--seconds", default=20.0, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(bundle: Path | None, seconds: float, out: Path | None) -> None:
    """Answer once, then wait; one JSON line."""
    with Engine.open(bundle or build_nano(), device="cpu") as engine, engine.session() as session:
        session.hear(some_sound(5))
        session.ask("What do you hear?", max_new_tokens=16).text()
        before, started = os.times(), time.perf_counter()
        time.sleep(seconds)
        after, ended = os.times(), time.perf_counter()
    spent = after.user + after.system - before.user - before.system
    result = {
        "what": f"an open session of {engine.manifest.name} that waits",
        "command": "python -m kokanee.benchmarks.idle",
        "seconds": ended - started,
        "cpu_seconds": spent,
        "share_of_a_core": spent / (ended - started),
        "machine": machine(),
    }
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
