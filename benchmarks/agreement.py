"""Two ways to the same answers: how many are equal, and how far each figure moves.

Floats beside int8 and int4, a sound in chunks beside the whole of it: the clips are the same, so
differences are paired and their intervals much narrower than those of the figures themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kokanee.engine import Session, Streaming
from kokanee.runtime.phrases import max_new_tokens

from .hearing_scores import as_json, question_agreement, tallies
from .heldout import RATE
from .quality import Row
from .tally import Tally, difference, estimate

F32 = npt.NDArray[np.float32]

CHUNK = RATE // 10  # samples: 0.1 s


def streamed_answers(
    session: Session, pcm: F32, questions: Sequence[str], *, streaming: Streaming
) -> list[str]:
    """To each question about a sound that comes in chunks of 0.1 s, as from a microphone."""
    hearing = session.listen(streaming)
    for at in range(0, len(pcm), CHUNK):
        hearing.append(pcm[at : at + CHUNK])
        hearing.catch_up()
    hearing.settle()
    most = max_new_tokens(pcm)
    return [session.ask(q, max_new_tokens=most).text() for q in questions]


def equal_answers(rows: Sequence[Row], others: Sequence[Row]) -> Tally | None:
    """The share of answers that are equal to the last character; a clip is drawn with all of its.

    None if they have no question in common.
    """
    other = {(row.package, row.name, row.task): row.answer for row in others}
    counts: dict[str, tuple[int, int]] = {}
    for row in rows:
        answer = other.get((row.package, row.name, row.task))
        if answer is not None:
            n_equal, n = counts.get(f"{row.package}/{row.name}", (0, 0))
            equal = answer.strip() == row.answer.strip()
            counts[f"{row.package}/{row.name}"] = n_equal + equal, n + 1
    if not counts:
        return None
    return Tally(
        name="equal_answers",
        says="equal answers",
        better="more",
        keys=tuple(counts),
        counted=tuple(float(n_equal) for n_equal, _ in counts.values()),
        out_of=tuple(float(n) for _, n in counts.values()),
    )


def compared(rows: Sequence[Row], others: Sequence[Row]) -> dict[str, Any]:
    """Equal answers in all and by task, and for each figure how much more `others` have; JSON."""
    equal = {}
    for task in (None, *dict.fromkeys(row.task for row in rows)):
        of_task = [row for row in rows if task in (None, row.task)]
        if tally := equal_answers(of_task, others):
            equal[task or "all"] = as_json(estimate(tally))
    ours = {tally.name: tally for tally in tallies(rows)}
    moved = {}
    for tally in tallies(others):
        if tally.name in ours:
            moved[tally.name] = {
                "says": tally.says,
                "value": round(estimate(tally).value, 4),
                "better": tally.better,
                "difference": as_json(difference(tally, ours[tally.name])),
            }
    return {"equal_answers": equal, "figures": moved}


def beside_reading(
    at_once: Sequence[Row], in_writing: Sequence[Row], read: Sequence[Row]
) -> dict[str, Any]:
    """What not hearing a question's exact words costs, apart from all else; JSON.

    The truth here is what the bundle's own language model, at its own bits, answers to the exact
    words (`read`), so that any bundle can be asked. `kept`, where questions came with answers, is
    how many of those it gives itself to the exact words: with perfect ears no more can be expected.
    """
    own = {(row.package, row.name): row.answer for row in read}

    def by_own(rows: Sequence[Row]) -> list[Row]:
        return [dataclasses.replace(r, truth=own[r.package, r.name]) for r in rows]

    tallied = {
        "at_once": question_agreement(by_own(at_once)),
        "in_writing": question_agreement(by_own(in_writing)),
        "kept": question_agreement([row for row in read if row.truth]),
    }
    return {name: as_json(estimate(tally)) for name, tally in tallied.items() if tally}
