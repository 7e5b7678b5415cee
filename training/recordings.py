"""Writes the shards `fotaq` and `fotaq-again`: acted lines of a game with their texts.

The second holds the same lines at other pitches, in rooms, over telephones, with noise.
"""

import argparse
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.revoiced import again
from training.shards import WORK, Record, write
from training.sounds import RATE, read
from training.talkies import unpack_fotaq


def levelled(pcm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At a peak between -16 and -0.5 dB."""
    level = 10 ** (rng.uniform(-16, -0.5) / 20)
    return np.asarray(pcm / max(1e-3, float(np.abs(pcm).max())) * level)


def lines(tree: Path, folder: Path) -> Iterator[tuple[Record, np.ndarray]]:
    """Lines of at most seven seconds."""
    queen = next((tree / "flight-of-the-amazon-queen").rglob("queen.1c"))
    rng = np.random.default_rng(zlib.crc32(b"fotaq"))
    for name, text in unpack_fotaq(queen, folder).items():
        pcm = read(folder / name)
        if 0.4 * RATE <= len(pcm) <= 7 * RATE:
            record = {"source": "fotaq", "name": name, "kind": "speech", "text": text}
            yield record, levelled(pcm, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, help="TREE/<package> is an unpacked Debian package")
    options = parser.parse_args()
    print("fotaq", write("fotaq", lines(options.tree, WORK / "fotaq")))
    print(
        "fotaq-again",
        write("fotaq-again", again(lines(options.tree, WORK / "fotaq"), b"fotaq-again")),
    )


if __name__ == "__main__":
    main()
