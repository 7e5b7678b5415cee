"""Thirty seconds of sound into soft tokens: the exported graphs against PyTorch, in one run.

    python -m kokanee.benchmarks.encode CHECKPOINTS [--schemes none,int8] [--rounds 5]

CHECKPOINTS is a folder as `kokanee.benchmarks.synthetic` writes it; random weights take the same
time as trained ones. PyTorch runs the reference's modules (kokanee.export.reference) in float32, as
upstream does, with as many threads. Rounds alternate, so that a slow minute hits both. The error is
that of the soft tokens against PyTorch's: with random weights an indication, not a quality figure.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from kokanee.engine.features import fbank, log_mel
from kokanee.engine.onnx import available_threads, open_graph
from kokanee.export.audio_encoder import audio_encoder
from kokanee.export.checkpoint import Checkpoint, Unpickler, read_json
from kokanee.export.connector import connector
from kokanee.export.fill import fill
from kokanee.export.official import Beats, Salmonn, Whisper, read_beats, read_salmonn, read_whisper
from kokanee.export.requantize import ENCODER_PACKINGS
from kokanee.export.speech_encoder import speech_encoder

from .machine import machine, spread

F32 = npt.NDArray[np.float32]
Encode = Callable[[F32, F32], tuple[F32, dict[str, float]]]

SECONDS = 30
STAGES = ("speech_encoder", "audio_encoder", "connector")


def some_sound(seconds: float = SECONDS) -> F32:
    """Tones that come and go, and noise: [n_samples] at 16 kHz, the same every time."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * 16_000), dtype=np.float32) / 16_000
    voice = sum(
        np.sin(2 * np.pi * f * t) * np.sin(np.pi * t / p) for f, p in ((180, 0.7), (950, 1.3))
    )
    sound: F32 = (0.2 * voice + 0.02 * rng.standard_normal(len(t))).astype(np.float32)
    return sound


def measure(folder: Path, schemes: list[str], rounds: int) -> dict[str, Any]:
    """Time every scheme and PyTorch in turn."""
    pcm = some_sound()
    mel, bank = log_mel(pcm)[None], fbank(pcm)[None]
    with tempfile.TemporaryDirectory() as scratch, Unpickler(Path(scratch) / "spill") as unpickle:
        salmonn = read_salmonn(folder / "salmonn.pth", unpickle, read_json(folder / "qformer.json"))
        whisper = read_whisper(folder / "whisper", unpickle)
        beats = read_beats(folder / "beats.pt", unpickle)
        runners: dict[str, Encode] = {"PyTorch": _torch(salmonn, whisper, beats)}
        for scheme in schemes:
            graphs = Path(scratch) / scheme
            runners[scheme] = _ours(graphs, scheme, salmonn, whisper, beats)
        soft = {name: run(mel, bank)[0] for name, run in runners.items()}  # warms up as well
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in runners}
        for _ in range(rounds):
            for name, run in runners.items():
                taken[name].append(run(mel, bank)[1])
    results = {}
    for name, laps in taken.items():
        whole = [sum(lap.values()) for lap in laps]
        theirs = [sum(lap.values()) for lap in taken["PyTorch"]]
        ratios = [a / b for a, b in zip(theirs, whole, strict=True)]
        results[name] = {
            "seconds": spread(whole),
            "stages_s": {stage: spread([lap[stage] for lap in laps])["median"] for stage in STAGES},
            "faster_than_pytorch": spread(ratios),
            **_error(soft[name], soft["PyTorch"]),
        }
    return {
        "what": f"{SECONDS} s of sound to {len(soft['PyTorch'])} soft tokens, features apart",
        "d_speech": whisper.dims.d_model,
        "threads": available_threads(),
        "rounds": rounds,
        "results": results,
        "machine": machine(),
        "versions": {name: version(name) for name in ("numpy", "onnxruntime", "torch")},
    }


def _ours(folder: Path, scheme: str, salmonn: Salmonn, whisper: Whisper, beats: Beats) -> Encode:
    packing = ENCODER_PACKINGS[scheme]
    small = "f32" if scheme == "none" else "f16"
    folder.mkdir()
    sessions = []
    for graph, entries in (
        (speech_encoder(whisper.dims, packing=packing), whisper.entries),
        (audio_encoder(beats.dims, packing=packing), beats.entries),
        (connector(salmonn.qformer, packing=small), salmonn.connector),
    ):
        graph.save(folder)
        layout = graph.layout()
        fill(layout, Checkpoint(entries), folder / layout.file)
        sessions.append(open_graph(folder / f"{graph.name}.onnx", device="cpu", arena=False))

    def run(mel: F32, bank: F32) -> tuple[F32, dict[str, float]]:
        at = [time.perf_counter()]
        (speech,) = sessions[0].run(["speech"], {"log_mel": mel})
        at.append(time.perf_counter())
        (audio,) = sessions[1].run(["audio"], {"fbank": bank})
        at.append(time.perf_counter())
        (soft,) = sessions[2].run(["soft_tokens"], {"speech": speech, "audio": audio})
        at.append(time.perf_counter())
        return soft[0], dict(zip(STAGES, np.diff(at).tolist(), strict=True))

    return run


def _torch(salmonn: Salmonn, whisper: Whisper, beats: Beats) -> Encode:
    import torch

    from kokanee.export import reference

    torch.set_num_threads(available_threads())
    modules = [
        reference.WhisperEncoder(whisper.dims).eval(),
        reference.BEATs(beats.dims).eval(),
        reference.Connector(salmonn.qformer).eval(),
    ]
    prefix = "model.encoder."
    for module, entries in zip(
        modules, (whisper.entries, beats.entries, salmonn.connector), strict=True
    ):
        named = {n.removeprefix(prefix): e for n, e in entries.items()}
        state = {n: torch.from_numpy(named[n].read()) for n in module.state_dict()}
        module.load_state_dict(state, assign=True)

    def run(mel: F32, bank: F32) -> tuple[F32, dict[str, float]]:
        with torch.no_grad():
            at = [time.perf_counter()]
            speech = modules[0](torch.from_numpy(mel))
            at.append(time.perf_counter())
            audio = modules[1](torch.from_numpy(bank))
            at.append(time.perf_counter())
            soft = modules[2](speech, audio)
            at.append(time.perf_counter())
        return soft[0].numpy(), dict(zip(STAGES, np.diff(at).tolist(), strict=True))

    return run


def _error(got: F32, want: F32) -> dict[str, float]:
    cosines = (got * want).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(want, axis=1)
    return {
        "relative_error": float(np.linalg.norm(got - want) / np.linalg.norm(want)),
        "max_abs_error": float(np.abs(got - want).max()),
        "least_cosine": float(cosines.min()),
    }


@click.command()
@click.argument("checkpoints", type=click.Path(file_okay=False, exists=True, path_type=Path))
@click.option("--schemes", default="none,fp16,int8", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(checkpoints: Path, schemes: str, rounds: int, out: Path | None) -> None:
    """Measure; a table, then one JSON line."""
    result = measure(checkpoints, schemes.split(","), rounds)
    result["command"] = "python -m kokanee.benchmarks.encode CHECKPOINTS"
    for name, row in result["results"].items():
        click.echo(
            f"{name:>8}  {row['seconds']['median']:7.2f} s"
            f"  {row['faster_than_pytorch']['median']:5.2f} x PyTorch"
            f"  relative error {row['relative_error']:.1e}, least cosine {row['least_cosine']:.5f}"
        )
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
