"""Writes a shard of speech that is there already, again, as somebody else would say it.

At other pitches (a tape's: formants move too), in rooms, over telephones, with noise, at other
levels. It costs no synthesis, and voices are what training has too few of.
"""

import argparse
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from training.augment import RATE, spoken
from training.shards import MEASURED, Record, Shard, is_validation, write


def again(
    clips: Iterable[tuple[Record, np.ndarray]], seed: bytes, *, pitch: float = 0.14
) -> Iterator[tuple[Record, np.ndarray]]:
    """Training's clips once more; those of validation stay as they are."""
    rng = np.random.default_rng(zlib.crc32(seed))
    for record, pcm in clips:
        if not is_validation(record):
            yield record, spoken(pcm, rng, pitch=pitch)


def told(shards: Iterable[Shard]) -> Iterator[tuple[Record, np.ndarray]]:
    """What shards have, but for clips of more than nine seconds."""
    for shard in shards:
        for i, record in enumerate(shard.records):
            if record["n_samples"] <= 9 * RATE:
                yield {k: v for k, v in record.items() if k not in MEASURED}, shard.pcm(i)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the new shard")
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--pitch", type=float, default=0.14, help="as `augment.spoken` has it")
    options = parser.parse_args()
    clips = told(Shard(name) for name in options.shards)
    made = again(clips, options.name.encode(), pitch=options.pitch)
    print(options.name, write(options.name, made))


if __name__ == "__main__":
    main()
