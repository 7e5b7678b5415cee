"""Writes the shards `fotaq`, `fotaq-again` and `words`: recorded speech with its texts.

Acted lines of a game; the same at other pitches, in rooms, over telephones, with noise; and single
words and letters that people said for children, for chess and for a table-tennis umpire, alone
and two or three behind each other.
"""

import argparse
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.augment import spoken
from training.sentences import cardinal
from training.shards import WORK, Record, is_validation, write
from training.sounds import RATE, read
from training.talkies import unpack_fotaq


def lines(tree: Path, folder: Path) -> Iterator[tuple[Record, np.ndarray]]:
    """Lines of at most seven seconds, at a peak between -16 and -0.5 dB."""
    queen = next((tree / "flight-of-the-amazon-queen").rglob("queen.1c"))
    rng = np.random.default_rng(zlib.crc32(b"fotaq"))
    for name, text in unpack_fotaq(queen, folder).items():
        pcm = read(folder / name)
        if 0.4 * RATE <= len(pcm) <= 7 * RATE:
            level = 10 ** (rng.uniform(-16, -0.5) / 20)
            record = {"source": "fotaq", "name": name, "kind": "speech", "text": text}
            yield record, pcm / max(1e-3, float(np.abs(pcm).max())) * level


def again(clips: Iterator[tuple[Record, np.ndarray]]) -> Iterator[tuple[Record, np.ndarray]]:
    rng = np.random.default_rng(zlib.crc32(b"fotaq-again"))
    for record, pcm in clips:
        if not is_validation(record):
            yield record, spoken(pcm, rng, pitch=0.14)


# Folders of files that are named after what is said in them; each is one speaker.
WORDS = (
    "qabcs-data/usr/share/qabcs/abcs/en/sounds",
    "qabcs-data/usr/share/qabcs/abcs/en_gb/sounds",
    "klettres-data/usr/share/klettres/en",
    "klettres-data/usr/share/klettres/en_GB",
    "scid-data/usr/share/scid/sounds",
    "csmash-data/usr/share/games/csmash/wav",
)
NOT_SAID = {"click", "racket", "table", "loveall", "alert", "move", "castlek", "castleq", "ipu"}
N_TAKES, N_JOINED = 4, 120  # of a word, of a speaker


def word_of(path: Path) -> str | None:
    """What a file of WORDS says, or None for one that is no word."""
    name = path.stem.lower().replace("_", " ").replace("-", " ")
    if name.isdecimal():
        return cardinal(int(name))
    syllable = path.parent.name == "syllab" and name in {"aw", "ch", "th", "or"}
    return None if syllable or name in NOT_SAID else name


def words(tree: Path) -> Iterator[tuple[Record, np.ndarray]]:
    """Every word in several takes, and some of a speaker's words behind each other."""
    rng, r = np.random.default_rng(zlib.crc32(b"words")), random.Random(0)
    for folder in WORDS:
        package = folder.split("/")[0]
        said = []
        for path in sorted((tree / folder).rglob("*")):
            if path.suffix in {".ogg", ".wav"} and (text := word_of(path)):
                said.append((text, closely(read(path))))
        for text, pcm in said * N_TAKES:
            record = {"source": package, "name": text, "kind": "speech", "text": text}
            yield record, spoken(pcm, rng, pitch=0.2, line=0.3)
        for _ in range(N_JOINED):
            several = r.sample(said, r.choice((2, 2, 3)))
            parts: list[np.ndarray] = []
            for _, word in several:
                parts += [word, np.zeros(int(r.uniform(0.05, 0.3) * RATE), np.float32)]
            pcm = np.concatenate(parts)
            text = " ".join(text for text, _ in several)
            record = {"source": package, "name": text, "kind": "speech", "text": text}
            yield record, spoken(pcm, rng, pitch=0.2, line=0.3)


def closely(pcm: np.ndarray) -> np.ndarray:
    """Without what is 35 dB below its loudest, before and after, but for a tenth of a second."""
    loud = np.flatnonzero(np.abs(pcm) > 0.018 * np.abs(pcm).max())
    return pcm[max(0, loud[0] - 1600) : loud[-1] + 1600]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, help="TREE/<package> is an unpacked Debian package")
    parser.add_argument("--words", action="store_true", help="the shard `words`, no other")
    options = parser.parse_args()
    if options.words:
        print("words", write("words", words(options.tree)))
        return
    print("fotaq", write("fotaq", lines(options.tree, WORK / "fotaq")))
    print("fotaq-again", write("fotaq-again", again(lines(options.tree, WORK / "fotaq"))))


if __name__ == "__main__":
    main()
