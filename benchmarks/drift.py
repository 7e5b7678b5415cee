"""What fast mode costs in quality: its soft tokens and its answers beside those of exact mode.

    python -m kokanee.benchmarks.drift [BUNDLE] [--n 60] [--out FILE]

Held-out utterances of 2 to 20 s are heard hop by hop, as a listener hears them, and asked about.
Two things make fast mode another: windows that stay in the cache although they changed a little,
which cosines against the soft tokens of the finished piece show, and shorter pieces, which only
answers show; so utterances of one piece and longer ones are told apart.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from kokanee.engine import EXACT, FAST, Engine, Session, Streaming
from kokanee.export.nano import build_nano, default_cache
from kokanee.runtime.listening import unpadded

from .heldout import RATE, normalised, word_error_rate
from .machine import machine
from .utterances import Utterance, utterances

QUESTION = "Write down what is said."
HOP = RATE // 2  # samples


def heard(session: Session, utterance: Utterance, streaming: Streaming) -> dict[str, Any]:
    """Hear an utterance hop by hop and ask; what was computed, and how near the soft tokens are."""
    hearing = session.listen(streaming)
    n_early = 0
    for at in range(0, len(utterance.pcm), HOP):
        hearing.append(utterance.pcm[at : at + HOP])
        if at + HOP < len(utterance.pcm):
            n_early += hearing.catch_up()
    want = hearing.fresh()
    n_before = hearing.n_computed
    hearing.settle()
    got = hearing.soft_tokens
    cosine = (got * want).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(want, axis=1)
    return {
        "utterance": utterance.name,
        "seconds": round(utterance.seconds, 2),
        "n_soft_tokens": len(got),
        "computed_early": n_early,
        "computed_at_the_end": hearing.n_computed - n_before,
        "cosine_mean": float(cosine.mean()),
        "cosine_least": float(cosine.min()),
        "truth": utterance.text,
        "text": session.ask(QUESTION, max_new_tokens=120).text(),
    }


def compared(fast: list[dict[str, Any]], exact: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of fast mode beside exact mode over the same utterances."""
    if not fast:
        return {"n": 0}
    pairs = list(zip(fast, exact, strict=True))
    truths = [row["truth"] for row in fast]
    n_tokens = sum(row["n_soft_tokens"] for row in fast)
    return {
        "n": len(fast),
        "wer_fast": round(word_error_rate(truths, [row["text"] for row in fast]), 4),
        "wer_exact": round(word_error_rate(truths, [row["text"] for row in exact]), 4),
        "same_answer": round(
            sum(normalised(a["text"]) == normalised(b["text"]) for a, b in pairs) / len(pairs), 4
        ),
        "cosine_mean": round(float(np.mean([row["cosine_mean"] for row in fast])), 5),
        "cosine_least": round(min(row["cosine_least"] for row in fast), 4),
        "computed_early_per_soft_token": round(
            sum(row["computed_early"] for row in fast) / n_tokens, 3
        ),
        "computed_at_the_end": round(
            float(np.median([row["computed_at_the_end"] for row in fast])), 1
        ),
        "soft_tokens": round(float(np.median([row["n_soft_tokens"] for row in fast])), 1),
    }


@click.command()
@click.argument("bundle", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option("--n", default=60, show_default=True, help="Utterances.")
@click.option("--tolerance", type=float, help="Another one than fast mode's.")
@click.option("--piece-s", type=float, help="Longest piece, other than fast mode's.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Recordings.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here too.")
def main(
    bundle: Path | None,
    n: int,
    tolerance: float | None,
    piece_s: float | None,
    data: Path | None,
    out: Path | None,
) -> None:
    """Compare; a table, then one JSON line."""
    mode = Streaming(
        name="fast",
        piece_s=FAST.piece_s if piece_s is None else piece_s,
        ahead=FAST.ahead,
        tolerance=FAST.tolerance if tolerance is None else tolerance,
        guess_tolerance=FAST.guess_tolerance,
    )
    said = utterances(data or default_cache() / "heldout", n)
    fast, exact = [], []
    with (
        Engine.open(bundle or build_nano(), device="cpu") as engine,
        engine.session(policy=unpadded(engine.manifest.policy)) as session,
    ):
        for i, utterance in enumerate(said):
            fast.append(heard(session, utterance, mode))
            exact.append(heard(session, utterance, EXACT))
            click.echo(f"{i + 1}/{len(said)} {utterance.seconds:.1f} s", err=True)
        name = engine.manifest.name
    one = [i for i, row in enumerate(fast) if row["seconds"] <= (mode.piece_s or 30)]
    more = [i for i in range(len(fast)) if i not in one]
    result = {
        "what": f"fast mode beside exact mode, {name}, {len(said)} held-out utterances",
        "command": f"python -m kokanee.benchmarks.drift --n {n}",
        "mode": dataclasses.asdict(mode),
        "all": compared(fast, exact),
        "one piece": compared([fast[i] for i in one], [exact[i] for i in one]),
        "several pieces": compared([fast[i] for i in more], [exact[i] for i in more]),
        "machine": machine(),
    }
    for part in ("all", "one piece", "several pieces"):
        click.echo(f"{part:>15}  {json.dumps(result[part])}")
    if out:
        record = result | {"fast": fast, "exact": exact}
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
