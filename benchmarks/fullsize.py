"""SALMONN at full size on this machine: build, open, hear thirty seconds, answer; what each takes.

    python -m kokanee.benchmarks.fullsize --size 7b --work FOLDER

The checkpoints are synthetic (kokanee.benchmarks.synthetic): official names, shapes, types and
shards, random weights. Time and memory are those of the real ones, answers are not. Every step is
the real command line in a process of its own. FOLDER needs 26 GB for 7b, 44 GB for 13b.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import soundfile

from kokanee.engine import read_manifest

from .encode import SECONDS, some_sound
from .machine import machine, run_measured, spread
from .synthetic import sizes, write

CLASSES_GB = {"7b": 8, "13b": 12}  # the memory of the machine or card a user has
N_NEW = 64


def measure(size: str, work: Path, llm_quant: str, encoder_quant: str, runs: int) -> dict[str, Any]:
    """Build once, ask `runs` times."""
    checkpoints, bundle, clip = work / size, work / f"{size}-{llm_quant}", work / "clip.wav"
    if not (checkpoints / "qformer.json").is_file():
        click.echo(f"writing synthetic checkpoints to {checkpoints}", err=True)
        write(checkpoints, sizes(size))
    soundfile.write(clip, some_sound(), 16_000)
    click.echo("building", err=True)
    built = run_measured(
        [
            *("build", str(bundle), "--llm-quant", llm_quant, "--encoder-quant", encoder_quant),
            *(
                "--salmonn",
                str(checkpoints / "salmonn.pth"),
                "--beats",
                str(checkpoints / "beats.pt"),
            ),
            *("--whisper", str(checkpoints / "whisper"), "--llm", str(checkpoints / "llm")),
            *("--qformer-config", str(checkpoints / "qformer.json")),
        ]
    )
    asked = ["ask", str(bundle), str(clip), "--task", "asr", "--json"]
    asked += ["--max-new-tokens", str(N_NEW)]
    samples = []
    for i in range(runs + 1):
        click.echo(f"asking, {i} of {runs}", err=True)
        sample = run_measured(asked)
        samples.append(sample | json.loads(sample.pop("stdout").splitlines()[-1]))
    samples = samples[1:]  # the first warms the file cache
    manifest = read_manifest(bundle)
    bundle_mb = sum(f.n_bytes for f in manifest.files.values()) / 1e6
    peak_mb = statistics.median(s["peak_rss_mb"] for s in samples)
    stages = samples[0]["timings_ms"]
    return {
        "what": f"synthetic SALMONN-{size.upper()}, LLM {llm_quant}, encoders {encoder_quant}",
        "command": f"python -m kokanee.benchmarks.fullsize --size {size} --work FOLDER"
        + ("" if llm_quant == "int4" else f" --llm-quant {llm_quant}"),
        "bundle_mb": bundle_mb,
        "hashes_beside": True,  # "load" holds the time to hash as well
        "build": {"wall_s": built["wall_s"], "peak_rss_mb": built["peak_rss_mb"]},
        "ask": {
            "seconds_of_sound": SECONDS,
            "n_soft_tokens": samples[0]["n_soft_tokens"],
            "n_new_tokens": len(samples[0]["ids"]),
            "wall_s": spread([s["wall_s"] for s in samples]),
            "peak_rss_mb": spread([s["peak_rss_mb"] for s in samples]),
            "peak_rss_to_bundle": peak_mb / bundle_mb,
            "timings_ms": {k: spread([s["timings_ms"][k] for s in samples]) for k in stages},
            "prefill_tokens_per_s": spread([_prefill_speed(s) for s in samples]),
            "decode_tokens_per_s": spread([s["tokens_per_s"] for s in samples]),
        },
        "budget": budget(bundle, clip),
        "class_gb": CLASSES_GB[size],
        "machine": machine(),
        "versions": {name: version(name) for name in ("numpy", "onnxruntime", "tokenizers")},
    }


def budget(bundle: Path, clip: Path) -> dict[str, Any]:
    """What has to be in memory to answer, in MB of 1e6 bytes.

    Weights are counted as large as their files. The embedding table's file is mapped and an answer
    touches a few hundred of its rows, so it does not count. Activations are what answering adds to
    the process's own memory, the cache apart; 100 MB are the interpreter and its libraries.
    """
    manifest = read_manifest(bundle)
    d = manifest.dims
    measured = subprocess.run(
        [sys.executable, "-c", _ACTIVATIONS, str(bundle), str(clip)],
        capture_output=True,
        text=True,
        check=True,
    )
    activations = json.loads(measured.stdout)["activations_mb"]
    weights = {
        name: manifest.files[f"{name}.bin"].n_bytes / 1e6 for name in sorted(manifest.graphs)
    }
    without_cache = sum(weights.values()) + activations + 100
    position_mb = 2 * d.n_layers * d.n_kv_heads * d.d_head * 4 / 1e6  # float32
    caches = {f"float32, {n} positions": n * position_mb for n in sorted({2048, d.n_positions})}
    caches[f"float16, {d.n_positions} positions"] = d.n_positions * position_mb / 2
    return {
        "weights_mb": weights,
        "activations_mb": activations,
        "cache_mb": caches,
        "whole_mb": {name: without_cache + mb for name, mb in caches.items()},
    }


# Anonymous memory: mapped weights come and go with the system's mood, this does not.
_ACTIVATIONS = """
import json, sys, threading
from pathlib import Path
from kokanee.engine import Engine, read_audio

def anonymous_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("RssAnon")) * 1024 / 1e6

peak, done = 0.0, threading.Event()
def watch():
    global peak
    while not done.wait(0.01):
        peak = max(peak, anonymous_mb())

pcm = read_audio(sys.argv[2]).pcm
with Engine.open(sys.argv[1], device="cpu") as engine, engine.session() as session:
    before = anonymous_mb()
    watcher = threading.Thread(target=watch)
    watcher.start()
    session.hear(pcm)
    session.ask(task="asr", max_new_tokens=8).text()
    done.set()
    watcher.join()
    cache = session.kv_bytes * session.n_used / session.n_ctx / 1e6
print(json.dumps({"activations_mb": peak - before - cache}))
"""


def _prefill_speed(sample: dict[str, Any]) -> float:
    """Positions a second while the head and the soft tokens go into the cache: BOS and 7 ids."""
    return float((sample["n_soft_tokens"] + 8) / sample["timings_ms"]["prefill_audio"] * 1e3)


@click.command()
@click.option("--size", type=click.Choice(list(CLASSES_GB)), required=True)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where checkpoints and bundle go; what is there is used again.",
)
@click.option("--llm-quant", default="int4", show_default=True)
@click.option("--encoder-quant", default="int8", show_default=True)
@click.option("--runs", default=3, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(
    size: str, work: Path, llm_quant: str, encoder_quant: str, runs: int, out: Path | None
) -> None:
    """Measure; a table, then one JSON line."""
    result = measure(size, work, llm_quant, encoder_quant, runs)
    build, ask = result["build"], result["ask"]
    click.echo(
        f"build   {build['wall_s']:.0f} s, peak {build['peak_rss_mb']:.0f} MB;"
        f" bundle {result['bundle_mb']:.0f} MB"
    )
    click.echo(
        f"ask     {ask['wall_s']['median']:.1f} s, peak {ask['peak_rss_mb']['median']:.0f} MB,"
        f" {ask['peak_rss_to_bundle']:.2f} x the bundle; prefill"
        f" {ask['prefill_tokens_per_s']['median']:.1f}, decode"
        f" {ask['decode_tokens_per_s']['median']:.2f} tokens/s"
    )
    for name, stage in ask["timings_ms"].items():
        click.echo(f"  {name:>16} {stage['median']:10.1f} ms")
    click.echo(f"budget, for the {result['class_gb']} GB class:")
    click.echo(f"  activations {result['budget']['activations_mb']:.0f} MB")
    for name, mb in result["budget"]["whole_mb"].items():
        click.echo(f"  with a {name} cache: {mb:.0f} MB")
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
