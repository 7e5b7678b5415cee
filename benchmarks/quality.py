"""How well a bundle hears: words of speech, kinds of sound, and which of the two (or music) it is.

    clips --ask--> one JSON line an answer, so that an interrupted run goes on --scores--> figures

Every figure stands beside what the best constant answer would reach. The clips are those of
`heldout`: no part of nano was trained on them.
"""

import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .heldout import Clip, class_of, normalised, word_error_rate

F32 = npt.NDArray[np.float32]
Task = Literal["words", "sound", "kind"]
Ask = Callable[[F32, Sequence[str]], Sequence[str]]  # pcm [n_samples], questions -> answers

QUESTIONS: dict[Task, str] = {
    "words": "Write down what is said.",
    "sound": "What do you hear?",
    "kind": "Is this speech, music or some other sound?",
}
TASKS: dict[str, tuple[Task, ...]] = {
    "speech": ("words", "kind"),
    "sound": ("sound", "kind"),
    "music": ("kind",),
}
KIND_WORDS = {"speech": r"speech|speak|talk|voice", "music": r"music", "sound": r"\bsound|noise"}


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to one question about one clip."""

    package: str
    name: str
    kind: str  # what it is: speech, sound or music
    truth: str  # what is said, or the sound's class
    task: Task
    answer: str


def chosen(clips: Iterable[Clip], limit: int | None) -> list[Clip]:
    """At most `limit` clips of each kind; always the same ones, from all over the set."""
    clips = sorted(clips, key=lambda clip: zlib.crc32(clip.name.encode()))
    counts: Counter[str] = Counter()
    kept = []
    for clip in clips:
        counts[clip.kind] += 1
        if limit is None or counts[clip.kind] <= limit:
            kept.append(clip)
    return kept


def ask_all(
    ask: Ask, clips: Sequence[Clip], log: Path, *, progress: Callable[[int, int], None]
) -> list[Row]:
    """Asks every question about every clip, but those that `log` answers already.

    Args:
        ask: The model.
        clips: What it is asked about.
        log: JSON lines; made if missing, added to after each clip.
        progress: Called with clips done and clips in all.
    """
    known = {(row.package, row.name, row.task): row for row in _read(log)}
    rows = []
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        if file.tell():
            file.write("\n")  # ends the line that an interrupted run may have begun
        for n_done, clip in enumerate(clips):
            progress(n_done, len(clips))
            tasks = TASKS[clip.kind]
            if not all((clip.package, clip.name, task) in known for task in tasks):
                answers = ask(clip.pcm, [QUESTIONS[task] for task in tasks])
                for task, answer in zip(tasks, answers, strict=True):
                    row = Row(clip.package, clip.name, clip.kind, clip.text, task, answer)
                    known[clip.package, clip.name, task] = row
                    file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
                file.flush()
            rows += [known[clip.package, clip.name, task] for task in tasks]
    progress(len(clips), len(clips))
    return rows


def scores(rows: Sequence[Row]) -> dict[str, Any]:
    """Word error rate, top-1 over sound classes, and speech / music / sound; fractions of 1."""
    return {
        "words": _words([row for row in rows if row.task == "words"]),
        "sound": _accuracy(
            [(row.truth, class_of(row.answer)) for row in rows if row.task == "sound"]
        ),
        "kind": _accuracy([(row.kind, kind_of(row.answer)) for row in rows if row.task == "kind"]),
    }


def kind_of(answer: str) -> str | None:
    """Speech, music or sound, whichever an answer names first; None if none."""
    found = [
        (m.start(), k) for k, words in KIND_WORDS.items() if (m := re.search(words, answer.lower()))
    ]
    return min(found)[1] if found else None


def _words(rows: Sequence[Row]) -> dict[str, Any]:
    if not rows:
        return {"n": 0}
    truths = [row.truth for row in rows]
    exact = sum(normalised(row.answer) == normalised(row.truth) for row in rows)
    common, _ = Counter(truths).most_common(1)[0]
    return {
        "n": len(rows),
        "wer": round(word_error_rate(truths, [row.answer for row in rows]), 4),
        "exact": round(exact / len(rows), 4),
        # Saying nothing at all has a word error rate of 1.
        "majority_wer": round(min(1.0, word_error_rate(truths, [common] * len(rows))), 4),
    }


def _accuracy(pairs: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    if not pairs:
        return {"n": 0}
    n_of = Counter(truth for truth, _ in pairs)
    right = Counter(truth for truth, said in pairs if said == truth)
    recall = {name: right[name] / n for name, n in sorted(n_of.items())}
    return {
        "n": len(pairs),
        "n_classes": len(n_of),
        "top1": round(right.total() / len(pairs), 4),
        "balanced": round(sum(recall.values()) / len(recall), 4),
        "majority": round(max(n_of.values()) / len(pairs), 4),
        "recall": {name: [right[name], n] for name, n in sorted(n_of.items())},
    }


def _read(log: Path) -> list[Row]:
    rows = []
    for line in log.read_text("utf-8").splitlines() if log.exists() else ():
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # blank, or begun by a run that was interrupted
    return rows
