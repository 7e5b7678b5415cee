"""Writes the shard `words`: single words and letters, alone and two or three behind each other.

Six people said them, for children, for chess and for a table-tennis umpire; every file is named
after what is said in it.
"""

import argparse
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kokanee.benchmarks.heldout import cardinal
from training.augment import F32, RATE, spoken
from training.shards import Record, write
from training.sounds import read

# Each folder is one speaker.
FOLDERS = (
    "qabcs-data/usr/share/qabcs/abcs/en/sounds",
    "qabcs-data/usr/share/qabcs/abcs/en_gb/sounds",
    "klettres-data/usr/share/klettres/en",
    "klettres-data/usr/share/klettres/en_GB",
    "scid-data/usr/share/scid/sounds",
    "csmash-data/usr/share/games/csmash/wav",
)
NOT_SAID = {"click", "racket", "table", "loveall", "alert", "move", "castlek", "castleq", "ipu"}
SYLLABLES = {"aw", "ch", "th", "or"}  # of klettres's `syllab`; the rest of it are words
N_TAKES, N_JOINED = 4, 120  # of a word, of a speaker


def word_of(path: Path) -> str | None:
    """What a file of FOLDERS says, or None for one that is no word."""
    name = path.stem.lower().replace("_", " ").replace("-", " ")
    if name.isdecimal():
        return cardinal(int(name))
    if name in NOT_SAID or (path.parent.name == "syllab" and name in SYLLABLES):
        return None
    return name


def said(folder: Path) -> list[tuple[str, F32]]:
    """Every word of a speaker."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix in {".ogg", ".wav"})
    return [(text, closely(read(p))) for p in paths if (text := word_of(p))]


def closely(pcm: F32) -> F32:
    """Without what is 35 dB below its loudest, before and after, but for a tenth of a second."""
    loud = np.flatnonzero(np.abs(pcm) > 0.018 * np.abs(pcm).max())
    return pcm[max(0, loud[0] - RATE // 10) : loud[-1] + RATE // 10]


def joined(words: list[tuple[str, F32]], r: random.Random) -> tuple[str, F32]:
    """Two or three of them, with pauses."""
    several = r.sample(words, r.choice((2, 2, 3)))
    parts: list[F32] = []
    for _, word in several:
        parts += [word, np.zeros(int(r.uniform(0.05, 0.3) * RATE), np.float32)]
    return " ".join(text for text, _ in several), np.concatenate(parts)


def clips(tree: Path) -> Iterator[tuple[Record, F32]]:
    rng, r = np.random.default_rng(zlib.crc32(b"words")), random.Random(0)
    for folder in FOLDERS:
        alone = said(tree / folder)
        for text, pcm in alone * N_TAKES + [joined(alone, r) for _ in range(N_JOINED)]:
            source = folder.split("/")[0]
            record = {"source": source, "name": text, "kind": "speech", "text": text}
            yield record, spoken(pcm, rng, pitch=0.2, line=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, help="TREE/<package> is an unpacked Debian package")
    options = parser.parse_args()
    print("words", write("words", clips(options.tree)))


if __name__ == "__main__":
    main()
