"""Writes the shard `fotaq`: acted lines of Flight of the Amazon Queen with their texts."""

import argparse
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.shards import WORK, Record, write
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, help="TREE/<package> is an unpacked Debian package")
    options = parser.parse_args()
    print("fotaq", write("fotaq", lines(options.tree, WORK / "fotaq")))


if __name__ == "__main__":
    main()
