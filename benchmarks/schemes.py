"""What storing the LLM at 8 or 4 bits changes: next-token logits against the float bundle's.

    python -m kokanee.benchmarks.schemes tests/golden/salmonn

For checkpoints and clips as the golden set has them. Soft tokens must not change at all. On the
golden set's tiny random model the next token is nearly a draw, so agreement is far lower than a
trained model's would be: the figures say that nothing is broken, and which scheme is nearer.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from kokanee.engine import Engine, read_audio
from kokanee.export.checkpoint import read_json
from kokanee.export.salmonn import Options, Parts, build_salmonn

from .machine import machine

FLOATS = "none"
SCHEMES = (FLOATS, "int8", "int8_block32", "int4", "int4_block128", "gptq4", "gptq4_block128")


def measure(folder: Path) -> dict[str, Any]:
    """Trace every clip with every scheme."""
    model = folder / "model"
    parts = Parts(
        salmonn=model / "salmonn.pth",
        whisper=model / "whisper",
        beats=model / "beats.pt",
        llm=model / "llama",
    )
    sets = read_json(folder / "vectors" / "manifest.json")["sets"]
    clips = {clip: next((folder / "audio").glob(f"{clip}.*")) for clip in sets}
    traced: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for scheme in SCHEMES:
            bundle = Path(scratch) / scheme
            options = Options(
                llm_quant=scheme,
                encoder_quant="none",
                qformer=read_json(model / "qformer_bert_overrides.json"),
            )
            build_salmonn(
                bundle, parts, options, progress=lambda *_: None, warn=click.echo, command=__name__
            )
            with Engine.open(bundle, device="cpu") as engine:
                traced[scheme] = [
                    engine.trace(read_audio(path).pcm, sets[clip]["prompt"], max_new_tokens=1)
                    for clip, path in clips.items()
                ]
    results = {}
    for scheme in SCHEMES[1:]:
        pairs = list(zip(traced[scheme], traced[FLOATS], strict=True))
        got, want = (np.concatenate([pair[i]["prefill_logits"] for pair in pairs]) for i in (0, 1))
        results[scheme] = {
            "soft_tokens_equal": all(
                np.array_equal(a["speech_tokens"], b["speech_tokens"]) for a, b in pairs
            ),
            "relative_error": float(np.linalg.norm(got - want) / np.linalg.norm(want)),
            "top1_agreement": float(np.mean(got.argmax(1) == want.argmax(1))),
        }
    return {
        "what": "LLM schemes against float on the golden set, every position of every prompt",
        "command": "python -m kokanee.benchmarks.schemes tests/golden/salmonn",
        "n_clips": len(clips),
        "n_positions": len(np.concatenate([t["prefill_logits"] for t in traced[FLOATS]])),
        "results": results,
        "machine": machine(),
    }


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, exists=True, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(folder: Path, out: Path | None) -> None:
    """Measure; a table, then one JSON line."""
    result = measure(folder)
    for name, row in result["results"].items():
        click.echo(
            f"{name:>14}  relative error {row['relative_error']:.3f}, same next token"
            f" {row['top1_agreement']:.1%}, soft tokens equal: {row['soft_tokens_equal']}"
        )
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
