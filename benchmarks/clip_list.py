"""A list of recordings with what is true of them, as JSON lines, into examples to ask about.

    {"path": "a.wav", "kind": "speech", "text": "Press one.", "language": "en"}
    {"path": "b.flac", "kind": "sound", "label": "dog"}
    {"path": "c.ogg", "kind": "music"}
    {"path": "d.wav", "kind": "mixture", "text": "Press one.", "label": "rain"}
    {"path": "e.wav", "kind": "noise"}
    {"path": "f.wav", "kind": "question", "text": "What do cats eat?", "answer": "Cats eat mice."}

Paths are relative to the list. What a line says decides what is asked: the kind always, the words
where there is a text, the sound where there is a label, the language where it is named. A question
is only to be answered; where no answer is given, any bundle's own answer to the text is the right
one, and the truth stays empty until it has been asked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kokanee.engine import AudioFormatError, KokaneeError, read_audio

from .heldout import CLASS_NAMES, Clip, Kind, class_of, label_of
from .languages import language_named
from .quality import Example, Task

FIELDS = ("path", "kind", "text", "label", "language", "answer")
# What a line of each kind may hold beside its path, and what it must.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "speech": (("text", "language"), ()),
    "sound": (("label",), ()),
    "music": ((), ()),
    "mixture": (("text", "label"), ("text", "label")),
    "noise": ((), ()),
    "question": (("text", "answer"), ("text",)),
}


class ClipListError(KokaneeError):
    """A list of recordings that does not say what it should; the message has file and line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A recording of the list that cannot be read."""

    line: int
    path: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipList:
    """What a list has."""

    examples: tuple[Example, ...]
    broken: tuple[Broken, ...]


def read_clip_list(path: Path) -> ClipList:
    """Reads a list and its recordings (any that `read_audio` can); blank lines are let pass.

    Raises:
        ClipListError: A line is no JSON object, lacks a field, has one that is not known or of the
            wrong type, or names a recording again; or there is no line at all.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ClipListError(f"{path}: expected text in UTF-8, got {error.reason}") from None
    # All lines before any recording: a mistyped one is told of at once.
    entries = [(n, _entry(line, f"{path}:{n}")) for n, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise ClipListError(f"{path}: expected a JSON object a line, got no line")
    seen: dict[str, int] = {}
    examples, broken = [], []
    for n, entry in entries:
        name = entry["path"]
        if seen.setdefault(name, n) != n:
            raise ClipListError(f"{path}:{n}: path: {name} is named in line {seen[name]} already")
        try:
            examples.append(_example(entry, path.parent / name))
        except AudioFormatError as error:
            broken.append(Broken(line=n, path=name, error=str(error)))
    return ClipList(examples=tuple(examples), broken=tuple(broken))


def _entry(line: str, at: str) -> dict[str, str]:
    try:
        entry: Any = json.loads(line)
    except ValueError as error:
        raise ClipListError(f"{at}: expected a JSON object, got {_short(line)} ({error})") from None
    if not isinstance(entry, dict):
        raise ClipListError(f"{at}: expected a JSON object, got {_short(line)}")
    for field, value in entry.items():
        if field not in FIELDS:
            raise ClipListError(f"{at}: expected {', '.join(FIELDS)}, got {_short(field)}")
        if not isinstance(value, str) or not value.strip():
            raise ClipListError(f"{at}: {field}: expected words, got {_short(json.dumps(value))}")
    for field in ("path", "kind"):
        if field not in entry:
            raise ClipListError(f"{at}: expected a {field}, got {', '.join(entry) or 'nothing'}")
    kind = entry["kind"]
    if kind not in KINDS:
        raise ClipListError(f"{at}: kind: expected {', '.join(KINDS)}, got {_short(kind)}")
    may, must = KINDS[kind]
    for field in must:
        if field not in entry:
            raise ClipListError(f"{at}: {kind}: expected a {field}, got {', '.join(entry)}")
    for field in entry:
        if field not in ("path", "kind", *may):
            said = " and ".join(may) or "nothing"
            raise ClipListError(f"{at}: {kind}: expected {said} beside the path, got a {field}")
    return entry


def _example(entry: dict[str, str], path: Path) -> Example:
    pcm = read_audio(path).pcm
    text, label = entry.get("text", ""), known_label(entry.get("label", ""))
    language = entry.get("language")
    named = "English" if language is None else (language_named(language) or language.strip())
    # Answers are kept by what was heard: another recording of the same name is asked about anew.
    package = f"list:{hashlib.sha256(pcm.tobytes()).hexdigest()[:12]}"
    if entry["kind"] == "question":  # called as it is asked, as `spoken_questions` has it
        clip = Clip(package, entry["text"], "speech", "", "", pcm)
        return Example(clip, {"question": entry.get("answer", "")})
    kind: Kind = entry["kind"]  # type: ignore[assignment]  # _entry has looked
    if kind == "noise" and not pcm.any():
        kind = "silence"
    clip = Clip(package, entry["path"], kind, text or label, "", pcm)
    truths: dict[Task, str] = {}
    if label:
        truths["sound"] = label
    if text or kind in ("noise", "silence"):
        truths["words"] = text
    if kind != "mixture":
        truths["kind"] = text or label
    if language is not None and kind == "speech":
        truths["language"] = named
    return Example(clip, truths, named)


def known_label(label: str) -> str:
    """The class of ours that a label means, by its name, its words or a file's; else the label."""
    plain = label.strip().lower()
    if plain in CLASS_NAMES:
        return plain
    return label_of(plain) or class_of(plain.replace("_", " ")) or label.strip()


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
