"""How well a bundle hears: words of speech, kinds of sound, and which of the two (or music) it is.

    clips --ask--> one JSON line an answer, so that an interrupted run goes on --scores--> figures

Every figure stands beside what the best constant answer would reach. The clips are those of
`heldout`: no part of nano was trained on them. What else is asked, and how sure the figures are, is
in `evaluation_sets` and `hearing_scores`.
"""

import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .heldout import CLASS_NAMES, Clip, class_of, normalised, word_error_rate

Task = Literal["words", "sound", "kind", "language", "question"]
Ask = Callable[[Clip, Sequence[str]], Sequence[str]]  # clip, questions -> answers

QUESTIONS: dict[Task, str] = {
    "words": "Write down what is said.",
    "sound": "What do you hear?",
    "kind": "Is this speech, music or some other sound?",
    "language": "Which language is spoken?",
    "question": "Answer the question.",
}
# Nothing is trained with these: whether a question is understood, or only its wording known.
UNSEEN: dict[Task, str] = {
    "words": "Can you write what was spoken?",
    "sound": "What sound is in the audio?",
    "kind": "Would you call this speech, music or a sound?",
    "language": "Do you know what language that was?",
    "question": "Please reply to what was asked.",
}
TASKS: dict[str, tuple[Task, ...]] = {
    "speech": ("words", "kind"),
    "sound": ("sound", "kind"),
    "music": ("kind",),
}
KIND_WORDS = {"speech": r"speech|speak|talk|voice", "music": r"music", "sound": r"\bsound|noise"}
SILENCE_WORDS = r"silence|silent|nothing|quiet"


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to one question about one clip."""

    package: str
    name: str
    kind: str  # what the clip is: speech, sound, music, mixture, noise or silence
    truth: str  # what is said, the sound's class, the language, or the answer in text
    task: Task
    answer: str
    language: str = "English"  # of what is said


@dataclass(frozen=True, slots=True)
class Example:
    """A clip, and what is asked about it."""

    clip: Clip
    truths: Mapping[Task, str]  # to each task, in the order of asking; "kind" needs clip.kind only
    language: str = "English"


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
    """Asks the questions of `TASKS` about every clip; see `ask_examples`."""
    examples = [Example(clip, dict.fromkeys(TASKS[clip.kind], clip.text)) for clip in clips]
    return ask_examples(ask, examples, log, progress=progress)


def ask_examples(
    ask: Ask,
    examples: Sequence[Example],
    log: Path,
    *,
    progress: Callable[[int, int], None],
    wordings: Mapping[Task, str] = QUESTIONS,
) -> list[Row]:
    """Asks every question about every clip, but those that `log` answers already.

    Args:
        ask: The model.
        examples: What it is asked about.
        log: JSON lines; made if missing, added to after each clip.
        progress: Called with clips done and clips in all.
        wordings: What is asked for each task; a log holds answers to one wording of each.
    """
    known = {(row.package, row.name, row.task): row.answer for row in _read(log)}
    rows = []
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = log.exists() and log.read_bytes()[-1:] not in {b"", b"\n"}
    with log.open("a", encoding="utf-8") as file:
        if begun:
            file.write("\n")  # ends the line at which a run was interrupted
        for n_done, example in enumerate(examples):
            progress(n_done, len(examples))
            # What is true is the example's: a list may be corrected between two runs.
            clip = example.clip
            asked = [
                Row(clip.package, clip.name, clip.kind, truth, task, "", example.language)
                for task, truth in example.truths.items()
            ]
            missing = [row for row in asked if (row.package, row.name, row.task) not in known]
            if missing:
                answers = ask(clip, [wordings[row.task] for row in missing])
                for row, answer in zip(missing, answers, strict=True):
                    known[row.package, row.name, row.task] = answer
                    line = asdict(replace(row, answer=answer))
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
            for row in asked:
                rows.append(replace(row, answer=known[row.package, row.name, row.task]))
    progress(len(examples), len(examples))
    return rows


def scores(rows: Sequence[Row]) -> dict[str, Any]:
    """Word error rate, top-1 over sound classes, and speech / music / sound; fractions of 1.

    Of clips that are one of these three; what else is asked is scored in `hearing_scores`.
    """
    return {
        "words": _words([row for row in rows if is_transcript(row)]),
        "sound": _accuracy(
            [
                (row.truth, heard_class(row.truth, row.answer))
                for row in rows
                if row.task == "sound" and row.kind == "sound"
            ]
        ),
        "kind": _accuracy(
            [
                (row.kind, kind_of(row.answer))
                for row in rows
                if row.task == "kind" and row.kind in TASKS
            ]
        ),
    }


def is_transcript(row: Row) -> bool:
    """Whether an answer is to be what is said in English, with nothing else to be heard."""
    return row.task == "words" and row.kind == "speech" and row.language == "English"


def heard_class(truth: str, answer: str) -> str | None:
    """What an answer says that a sound is, to be compared with what it is.

    A class of ours is found by its words. Any other name counts where the answer has its words.
    """
    if truth not in CLASS_NAMES:
        wanted = normalised(truth).split()
        if wanted and set(wanted) <= set(normalised(answer).split()):
            return truth
    return class_of(answer)


def kind_of(answer: str) -> str | None:
    """Speech, music or sound, whichever an answer names first; None if none."""
    return _first_named(answer, KIND_WORDS)


def kind_or_silence(answer: str) -> str | None:
    """Speech, music, sound or silence, whichever an answer names first; None if none."""
    return _first_named(answer, KIND_WORDS | {"silence": SILENCE_WORDS})


def _first_named(answer: str, words_of: Mapping[str, str]) -> str | None:
    found = [
        (m.start(), k) for k, words in words_of.items() if (m := re.search(words, answer.lower()))
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


def claim(log: Path, of: str) -> None:
    """Say in a log's first line whose answers it holds; a log that does not say so is believed.

    Raises:
        ValueError: they are somebody else's.
    """
    if not log.exists() or not log.stat().st_size:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(json.dumps({"answers_of": of}) + "\n", "utf-8")
        return
    with log.open(encoding="utf-8") as file:
        first = file.readline()
    if first.startswith('{"answers_of"') and (found := json.loads(first)["answers_of"]) != of:
        raise ValueError(f"{log} has the answers of another bundle or setting: {found}, not {of}")


def _read(log: Path) -> list[Row]:
    rows = []
    for line in log.read_text("utf-8").splitlines() if log.exists() else ():
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # blank, or begun by a run that was interrupted
    return rows
