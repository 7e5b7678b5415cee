"""What one `kokanee ask` costs from a cold process to the last word.

    python -m kokanee.benchmarks.ask [--runs 7] [--seconds 5]

A user at a prompt pays for all of it: starting Python, checking and opening the bundle, hearing,
answering. Runs the real command as a subprocess, after one warm-up, and keeps every sample. Times
on a busy machine are upper bounds; memory and sizes are exact.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile

from kokanee.engine import read_audio, read_manifest
from kokanee.export.nano import build_nano

from .machine import machine

RECORDING = Path(__file__).parents[1] / "runtime" / "recordings" / "speech.wav"
QUESTION = "Write down what is said."
LIBRARIES = ("numpy", "onnxruntime", "tokenizers")


def measure(folder: Path, *, seconds: float, runs: int) -> dict[str, Any]:
    """Ask about a clip of `seconds` again and again, each time in a new process."""
    pcm = read_audio(RECORDING).pcm
    pcm = np.resize(np.pad(pcm, (0, 8_000)), round(seconds * 16_000))  # repeated, with pauses
    samples = []
    with tempfile.TemporaryDirectory() as scratch:
        clip = Path(scratch) / "clip.wav"
        soundfile.write(clip, pcm, 16_000)
        command = [sys.executable, "-m", "kokanee.runtime", "ask", str(folder), str(clip)]
        for _ in range(runs + 1):
            started = time.perf_counter()
            done = subprocess.run(
                [*command, QUESTION, "--json"], capture_output=True, text=True, check=True
            )
            wall_s = time.perf_counter() - started
            samples.append({"wall_s": wall_s, **json.loads(done.stdout.splitlines()[-1])})
    samples = samples[1:]  # the first one warms the file cache
    manifest = read_manifest(folder)
    stages = samples[0]["timings_ms"]
    return {
        "what": f"kokanee ask, {seconds:g} s clip, whole process",
        "command": f"python -m kokanee.benchmarks.ask --runs {runs} --seconds {seconds:g}",
        "bundle": manifest.name,
        "bundle_mb": sum(f.n_bytes for f in manifest.files.values()) / 1e6,
        "seconds": seconds,
        "wall_s": _spread([s["wall_s"] for s in samples]),
        "memory_mb": _spread([s["memory_mb"] for s in samples]),
        "timings_ms": {k: _spread([s["timings_ms"][k] for s in samples]) for k in stages},
        "samples": samples,
        "machine": machine(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


@click.command()
@click.option("--runs", default=7, show_default=True)
@click.option("--seconds", default=5.0, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(runs: int, seconds: float, out: Path | None) -> None:
    """Measure nano; a table, then one JSON line."""
    result = measure(build_nano(), seconds=seconds, runs=runs)
    for name in ("wall_s", "memory_mb"):
        spread = result[name]
        click.echo(
            f"{name:>16}  {spread['median']:8.2f}  ({spread['min']:.2f} to {spread['max']:.2f})"
        )
    for name, spread in result["timings_ms"].items():
        click.echo(f"{name:>16}  {spread['median']:8.1f} ms")
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps({k: v for k, v in result.items() if k != "samples"}))


if __name__ == "__main__":
    main()
