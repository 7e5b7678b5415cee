"""Answers -> every figure of `kokanee eval` with its interval, recalls and confusions.

    rows --tallies--> clip by clip --estimate--> value, low, high, n
         `-recalls, confusion----> class by class

`quality.scores` has the three figures that are recorded since the first release; they are here too,
under the names that `kokanee bench quality` gives them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .heldout import CLASS_NAMES, normalised
from .languages import LANGUAGE_NAMES, language_of
from .mixtures import names_both, names_class
from .quality import TASKS, Row, heard_class, is_transcript, kind_of, kind_or_silence
from .record import Better
from .spoken_questions import same_answer
from .tally import Estimate, Tally, estimate
from .unspoken import VOICED_CLASSES, invents_speech

NOTHING = "none of these"  # the column of answers that name no class
ANY = 1_000_000
LENGTHS = ((1, 3), (4, 15), (16, ANY))  # words: single words, phrases, and what goes on for long
MAX_WRONG = 1 / 3  # of the words of a transcript that still counts as heard

Normalise = Callable[[str], str]


def tallies(rows: Sequence[Row]) -> list[Tally]:
    """Every figure that the answers allow, in a fixed order (needs jiwer, whisper-normalizer)."""
    made = [
        *_transcripts(rows),
        *_sounds(rows),
        *_kinds(rows),
        *_languages(rows),
        *_mixtures(rows),
        *_inventions(rows),
        question_agreement(rows),
    ]
    return [tally for tally in made if tally is not None]


def scored(rows: Sequence[Row]) -> dict[str, Any]:
    """`tallies` with intervals, recalls and confusions, as plain JSON."""
    made: dict[str, Any] = {"figures": {}}
    for tally in tallies(rows):
        made["figures"][tally.name] = {
            "says": tally.says,
            **as_json(estimate(tally)),
            "better": tally.better,
            "constant": None if tally.constant is None else round(tally.constant, 4),
        }
    for name, pairs, order in (
        ("sounds", sound_pairs(rows), CLASS_NAMES),
        ("languages", language_pairs(rows), LANGUAGE_NAMES),
    ):
        if pairs:
            made[name] = {
                "recall": {k: as_json(e) for k, e in recalls(pairs, order).items()},
                "confusion": dataclasses.asdict(confusion(pairs, order)),
            }
    return made


def as_json(one: Estimate) -> dict[str, Any]:
    """Four decimals are more than any interval here is worth."""
    rounded = {k: round(getattr(one, k), 4) for k in ("value", "low", "high")}
    return {**rounded, "n": one.n}


# --- class by class -------------------------------------------------------------------------------

Pair = tuple[str, str | None]  # what it is, what the answer says it is


def sound_pairs(rows: Iterable[Row]) -> list[Pair]:
    """Of sounds that are heard alone."""
    return [
        (row.truth, heard_class(row.truth, row.answer))
        for row in rows
        if row.task == "sound" and row.kind == "sound"
    ]


def language_pairs(rows: Iterable[Row]) -> list[Pair]:
    """Of speech whose language was asked for."""
    return [(row.truth, _language(row)) for row in rows if row.task == "language"]


@dataclasses.dataclass(frozen=True, slots=True)
class Confusion:
    """How often what was taken for what."""

    truths: tuple[str, ...]
    answers: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]  # [n_truths, n_answers]


def confusion(pairs: Sequence[Pair], order: Sequence[str]) -> Confusion:
    """Counts of pairs; classes in the given order, others behind them by name.

    Every truth is a column too, so that what is right lies on the diagonal as far as that goes.
    """
    counts = Counter((truth, said or NOTHING) for truth, said in pairs)
    truths = _ordered({truth for truth, _ in counts}, order)
    said = {answer for _, answer in counts} - {NOTHING}
    answers = (*truths, *_ordered(said - set(truths), order), NOTHING)
    table = tuple(tuple(counts[truth, answer] for answer in answers) for truth in truths)
    return Confusion(truths, answers, table)


def recalls(pairs: Sequence[Pair], order: Sequence[str]) -> dict[str, Estimate]:
    """The share of each class that was told for what it is."""
    found = {}
    for name in _ordered({truth for truth, _ in pairs}, order):
        right = [float(said == name) for truth, said in pairs if truth == name]
        found[name] = estimate(
            Tally(
                name=name,
                says=name,
                better="more",
                keys=tuple(str(i) for i in range(len(right))),
                counted=tuple(right),
                out_of=(1.0,) * len(right),
            )
        )
    return found


def _ordered(names: set[str], order: Sequence[str]) -> tuple[str, ...]:
    return (*(n for n in order if n in names), *sorted(names - set(order)))


# --- figures --------------------------------------------------------------------------------------


def word_errors(truth: str, answer: str, normalise: Normalise) -> tuple[int, int]:
    """(wrong words, words) of a transcript: what was replaced, left out and put in."""
    import jiwer

    reference, hypothesis = normalise(truth), normalise(answer)
    if not reference:
        return 0, 0
    found = jiwer.process_words(reference, hypothesis)
    wrong = found.substitutions + found.deletions + found.insertions
    return wrong, len(reference.split())


@functools.cache
def whisper_english() -> Normalise:
    """The normaliser that Whisper's authors and most since compare English with."""
    from whisper_normalizer.english import EnglishTextNormalizer

    normaliser: Normalise = EnglishTextNormalizer()
    return normaliser


@functools.cache
def whisper_basic() -> Normalise:
    """The same authors' for every other language."""
    from whisper_normalizer.basic import BasicTextNormalizer

    normaliser: Normalise = BasicTextNormalizer()
    return normaliser


def _transcripts(rows: Sequence[Row]) -> Iterator[Tally | None]:
    english = [row for row in rows if is_transcript(row)]
    if english:
        common, _ = Counter(row.truth for row in english).most_common(1)[0]
        pairs = [word_errors(row.truth, common, normalised) for row in english]
        n_words = sum(of for _, of in pairs)
        # Saying nothing at all has an error rate of 1.
        constant = min(1.0, sum(wrong for wrong, _ in pairs) / n_words) if n_words else None
        yield _wer("word_error_rate", "words wrong", english, normalised, constant)
        for least, most in LENGTHS:
            rows_of = [r for r in english if least <= len(normalised(r.truth).split()) <= most]
            name = f"word_error_rate_{least}_{most}" if most < ANY else f"word_error_rate_{least}"
            says = f"- of {least} to {most} words" if most < ANY else f"- of {least} words or more"
            yield _wer(name, says, rows_of, normalised)
        says = "words wrong, Whisper's normaliser"
        yield _wer("word_error_rate_whisper", says, english, whisper_english())
        exact = [normalised(row.answer) == normalised(row.truth) for row in english]
        yield _share("sentences_right", "whole sentences right", english, exact)
    others = [
        row
        for row in rows
        if row.task == "words" and row.kind == "speech" and row.language != "English"
    ]
    says = "words wrong, other languages"
    yield _wer("word_error_rate_other_languages", says, others, whisper_basic()) if others else None


def _sounds(rows: Sequence[Row]) -> Iterator[Tally | None]:
    asked = [row for row in rows if row.task == "sound" and row.kind == "sound"]
    right = [truth == said for truth, said in sound_pairs(asked)]
    truths = [row.truth for row in asked]
    says = f"which sound, of {len(set(truths))}"
    yield _share("sound_accuracy", says, asked, right, constant=_most_common(truths))
    yield _share("sound_balanced", "which sound, mean of the classes", asked, right, classes=truths)


def _kinds(rows: Sequence[Row]) -> Iterator[Tally | None]:
    asked = [row for row in rows if row.task == "kind" and row.kind in TASKS]
    kinds = [row.kind for row in asked]
    right = [kind_of(row.answer) == row.kind for row in asked]
    says = "speech, music or sound"
    yield _share("kind_accuracy", says, asked, right, constant=_most_common(kinds))
    yield _share("kind_balanced", f"{says}, mean of the three", asked, right, classes=kinds)
    asked = [row for row in rows if row.task == "kind"]
    kinds = ["sound" if row.kind == "noise" else row.kind for row in asked]
    if "silence" in kinds:
        right = [kind_or_silence(row.answer) == k for row, k in zip(asked, kinds, strict=True)]
        says = "speech, music, sound or silence"
        yield _share("kind4_accuracy", says, asked, right, constant=_most_common(kinds))
        yield _share("kind4_balanced", f"{says}, mean of the four", asked, right, classes=kinds)


def _languages(rows: Sequence[Row]) -> Iterator[Tally | None]:
    asked = [row for row in rows if row.task == "language"]
    truths = [row.truth for row in asked]
    right = [_language(row) == row.truth for row in asked]
    says = f"which language, of {len(set(truths))}"
    yield _share("language_accuracy", says, asked, right, constant=_most_common(truths))


def _language(row: Row) -> str | None:
    """What an answer says a language is; one that is none of ours counts where it is named."""
    if row.truth not in LANGUAGE_NAMES and row.truth.lower() in row.answer.lower():
        return row.truth
    return language_of(row.answer)


def _mixtures(rows: Sequence[Row]) -> Iterator[Tally | None]:
    mixed = [row for row in rows if row.kind == "mixture"]
    sounds = {_key(row): row for row in mixed if row.task == "sound"}
    words = {_key(row): row for row in mixed if row.task == "words"}
    truths = [row.truth for row in sounds.values()]
    yield _share(
        "mixture_named",
        "speech over a sound: names both",
        list(sounds.values()),
        [names_both(row.answer, row.truth) for row in sounds.values()],
        constant=_most_common(truths),
    )
    yield _share(
        "mixture_both",
        "speech over a sound: right sound, and words",
        [row for key, row in sounds.items() if key in words],
        [
            names_class(row.answer, row.truth) and _heard_words(words[key])
            for key, row in sounds.items()
            if key in words
        ],
    )
    if words:
        says = "words wrong over a sound"
        yield _wer("mixture_word_error_rate", says, list(words.values()), normalised)


def _heard_words(row: Row) -> bool:
    wrong, n_words = word_errors(row.truth, row.answer, normalised)
    return n_words > 0 and wrong <= MAX_WRONG * n_words


def _inventions(rows: Sequence[Row]) -> Iterator[Tally | None]:
    asked = [
        row
        for row in rows
        if row.task == "words"
        and row.kind in ("noise", "silence", "sound", "music")
        and row.truth not in VOICED_CLASSES
    ]
    for name, says, kinds in (
        ("invented_speech", "words made up for noise and sounds", ("noise", "silence", "sound")),
        ("invented_speech_noise", "- for noise, hum and silence", ("noise", "silence")),
        ("invented_speech_sound", "- for sounds without voices", ("sound",)),
        ("invented_speech_music", "words made up for music", ("music",)),
    ):
        of_kind = [row for row in asked if row.kind in kinds]
        invented = [invents_speech(row.answer) for row in of_kind]
        yield _share(name, says, of_kind, invented, better="less")


def question_agreement(rows: Sequence[Row]) -> Tally | None:
    """Of spoken questions, whose truth is an answer to their text; none at all is never right."""
    asked = [row for row in rows if row.task == "question"]
    same = [
        bool(normalised(row.answer)) and same_answer(row.name, row.truth, row.answer)
        for row in asked
    ]
    return _share("question_agreement", "spoken question, same answer as in text", asked, same)


def _wer(
    name: str,
    says: str,
    rows: Sequence[Row],
    normalise: Normalise,
    constant: float | None = None,
) -> Tally | None:
    errors = [(row, *word_errors(row.truth, row.answer, normalise)) for row in rows]
    errors = [(row, wrong, n_words) for row, wrong, n_words in errors if n_words]
    if not errors:
        return None
    return Tally(
        name=name,
        says=says,
        better="less",
        keys=tuple(_key(row) for row, _, _ in errors),
        counted=tuple(float(wrong) for _, wrong, _ in errors),
        out_of=tuple(float(n_words) for _, _, n_words in errors),
        constant=constant,
    )


def _share(
    name: str,
    says: str,
    rows: Sequence[Row],
    counted: Sequence[bool],
    *,
    better: Better = "more",
    classes: Sequence[str] | None = None,
    constant: float | None = None,
) -> Tally | None:
    if not rows:
        return None
    return Tally(
        name=name,
        says=says,
        better=better,
        keys=tuple(_key(row) for row in rows),
        counted=tuple(float(yes) for yes in counted),
        out_of=(1.0,) * len(rows),
        classes=None if classes is None else tuple(classes),
        constant=constant,
    )


def _key(row: Row) -> str:
    return f"{row.package}/{row.name}"


def _most_common(truths: Sequence[str]) -> float | None:
    return max(Counter(truths).values()) / len(truths) if truths else None
