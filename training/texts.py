"""Sentences that others wrote, for voices to read: what the templates of `sentences` do not know.

English: Debian's fortunes, the dialogues of fillets-ng and of Wesnoth's tutorials. Other languages:
the translations of fillets-ng. Only what is said out loud is kept: words that are in a word list
(Debian's wamerican), 2 to 13 of them.
"""

import functools
import re
from pathlib import Path

from kokanee.benchmarks.heldout import is_held_out, normalised


@functools.cache
def words(tree: Path) -> frozenset[str]:
    """Lower-case English words."""
    path = tree / "wamerican/usr/share/dict/american-english"
    return frozenset(path.read_text("utf-8").lower().split()) | {"a", "i", "o"}


def english(tree: Path) -> list[str]:
    """Normalised sentences, each once, in a fixed order."""
    known = words(tree)
    found: dict[str, None] = {}
    for text in (*_fortunes(tree), *_dialogues(tree, "en"), *_wesnoth(tree)):
        for part in re.split(r"(?<=[.!?;:])\s+|--|\.\.\.|[()]", text):
            if re.search(r"\d{3,}|[A-Z]{3,}|[@#_/\\|~*=<>{}\[\]]", part):
                continue
            sentence = normalised(part).strip("' ")
            split = sentence.split()
            if 2 <= len(split) <= 13 and all(w.strip("'") in known or w in known for w in split):
                found[sentence] = None
    return sorted(found)


def foreign(tree: Path, language: str) -> list[str]:
    """Sentences in a language of fillets-ng's translations (its two-letter code)."""
    found = {t.strip() for t in _dialogues(tree, language) if 8 <= len(t.strip()) <= 90}
    return sorted(found)


def _fortunes(tree: Path) -> list[str]:
    texts = []
    for package in ("fortunes", "fortunes-min"):
        folder = tree / package / "usr/share/games/fortunes"
        for path in sorted(folder.iterdir()):
            if path.suffix not in {".dat", ".u8"} and path.is_file() and not path.is_symlink():
                for text in path.read_text("utf-8", "replace").split("\n%\n"):
                    texts.append(" ".join(re.sub(r"\n\s*--.*", "", text, flags=re.S).split()))
    return texts


def _dialogues(tree: Path, language: str) -> list[str]:
    texts = []
    scripts = tree / "fillets-ng-data/usr/share/games/fillets-ng/script"
    for path in sorted(scripts.glob(f"*/dialogs_{language}.lua")):
        # English is read aloud by synthetic voices, and no level is held out for it.
        level = f"{path.parent.name}/cs/"
        if language != "en" and is_held_out("fillets-ng-data-cs", level):
            continue
        lua = path.read_text("utf-8", "replace")
        # English stands in the dialogs' identifiers, each translation in a line of its own.
        pattern = (
            r'dialogId\([^,]+,[^,]+,\s*"(.*?)"\)' if language == "en" else r'dialogStr\("(.*?)"\)'
        )
        texts += [t.replace('\\"', '"').replace("%1", "") for t in re.findall(pattern, lua)]
    return texts


def _wesnoth(tree: Path) -> list[str]:
    folder = tree / "wesnoth-1.16-data"
    return [
        " ".join(text.split())
        for path in sorted(folder.rglob("*.cfg"))
        for text in re.findall(
            r'(?:message|description|help_text)\s*=\s*_\s*"([^"]{8,400})"',
            path.read_text("utf-8", "replace"),
        )
    ]
