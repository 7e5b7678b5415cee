"""Writes the shard `retakes`: every named sound of training again, as other microphones hear it.

There are few recordings of a sound, cut and loud as games want them. Each is taken again at another
speed and pitch, through another loudspeaker, in a room, from further away, behind silence, over
noise. Clips of validation stay as they are.
"""

import argparse
import math
import random
from collections.abc import Iterator

import numpy as np

from training.augment import (
    F32,
    RATE,
    coded,
    coloured,
    coloured_noise,
    faster,
    in_room,
    peaked,
    telephone,
)
from training.shards import Record, Shard, is_validation, write

LONGEST = 6 * RATE


def taken_again(pcm: F32, rng: np.random.Generator) -> F32:
    """One sound through whatever may lie between it and a microphone."""
    if rng.random() < 0.3 and len(pcm) > 2 * RATE:
        start = int(rng.integers(0, len(pcm) - RATE))
        pcm = pcm[start : start + int(rng.uniform(1, 4) * RATE)]
    pcm = faster(pcm, math.exp(rng.uniform(-0.3, 0.3)))
    if len(pcm) < RATE and rng.random() < 0.3:  # once more, and once more
        pause = np.zeros(int(rng.uniform(0, 0.4) * RATE), np.float32)
        pcm = np.concatenate([pcm, pause] * int(rng.integers(2, 5)))
    if rng.random() < 0.5:
        pcm = coloured(pcm, rng)
    if rng.random() < 0.4:
        pcm = in_room(pcm, rng)
    if rng.random() < 0.1:
        pcm = telephone(pcm)
    elif rng.random() < 0.1:
        pcm = coded(pcm, ("GSM610", "ULAW")[int(rng.integers(2))])
    pcm = peaked(pcm, 10 ** (rng.uniform(-26, -0.5) / 20))
    before, after = (rng.uniform(0, 0.8, 2) * RATE).astype(int)
    pcm = np.pad(pcm, (before, after))[:LONGEST]
    if rng.random() < 0.6:
        noise = coloured_noise(len(pcm), rng, rng.uniform(0, 2))
        pcm = pcm + noise * 10 ** (rng.uniform(-70, -32) / 20)
    return np.asarray(np.clip(pcm, -1, 1), np.float32)


def retakes(shards: list[Shard], n_each: int, seed: int) -> Iterator[tuple[Record, F32]]:
    """Of every class about as many, of a recording at most eight."""
    r, rng = random.Random(seed), np.random.default_rng(seed)
    pools: dict[str, list[tuple[Shard, int]]] = {}
    for shard in shards:
        for i, record in enumerate(shard.records):
            if record["kind"] == "sound" and not is_validation(record):
                pools.setdefault(record["text"], []).append((shard, i))
    for _, pool in sorted(pools.items()):
        takes = pool * min(8, -(-n_each // len(pool)))
        for shard, i in r.sample(takes, min(n_each, len(takes))):
            kept = ("source", "name", "kind", "text", "phrase")
            record = {k: v for k, v in shard.records[i].items() if k in kept}
            yield record, taken_again(shard.pcm(i), rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", nargs="*", default=["sounds"])
    parser.add_argument("--each", type=int, default=450, help="of a class")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    shards = [Shard(name) for name in options.shards]
    print("retakes", write("retakes", retakes(shards, options.each, options.seed)))


if __name__ == "__main__":
    main()
