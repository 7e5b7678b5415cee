"""Writes a shard of mixtures: training speech over training sounds and music."""

import argparse
import random
from collections.abc import Iterator

import numpy as np

from training.shards import Record, Shard, is_validation, write

RATE = 16_000


def mixtures(
    speech: list[Shard], sounds: list[Shard], n: int, seed: int
) -> Iterator[tuple[Record, np.ndarray]]:
    """Speech from 2 dB below to 15 dB above the sound; which of the two starts first varies."""
    r = random.Random(seed)
    voices = [(s, i) for s in speech for i in range(len(s)) if s.records[i]["n_samples"] < 5 * RATE]
    pools: dict[str, list[tuple[Shard, int]]] = {}
    for shard in sounds:
        for i, record in enumerate(shard.records):
            if record["n_samples"] > RATE // 3:
                pools.setdefault(record["text"], []).append((shard, i))
    labels = sorted(pools)
    weights = [min(len(pools[name]), 60) for name in labels]
    for _ in range(n):
        shard, i = r.choice(voices)
        record, pcm = shard.records[i], shard.pcm(i)
        other, k = r.choice(pools[r.choices(labels, weights)[0]])
        sound = other.pcm(k)
        if r.random() < 0.5:  # sound first, as a whole or in part
            lead = r.randrange(min(len(sound), RATE))
            pcm = np.pad(pcm, (lead, 0))
        repeats = -(-len(pcm) // len(sound)) if r.random() < 0.6 else 1
        sound = np.tile(sound, repeats)[: len(pcm) + RATE]
        n_samples = min(max(len(pcm), len(sound)), 6 * RATE)
        loud = float(np.sqrt(np.mean(np.square(shard.pcm(i)))))
        quiet = float(np.sqrt(np.mean(np.square(sound)))) + 1e-6
        gain = loud / quiet * 10 ** (-r.uniform(-2, 15) / 20)
        mixed = np.zeros(n_samples, np.float32)
        mixed[: len(pcm)] += pcm[:n_samples]
        mixed[: len(sound)] += gain * sound[:n_samples]
        mixed *= min(1.0, 0.98 / float(np.abs(mixed).max()))
        held = is_validation(record) or is_validation(other.records[k])
        yield (
            Record(
                source="mixtures",
                name=f"{record['source']}/{record['name']} {other.records[k]['name']}",
                kind="mixture",
                text=record["text"],
                sound=other.records[k]["text"],
                held=held,
            ),
            mixed,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speech", nargs="+", required=True)
    parser.add_argument("--sounds", nargs="+", default=["sounds"])
    parser.add_argument("--clips", type=int, default=3000)
    parser.add_argument("--name", default="mixtures", help="of the shard")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    speech, sounds = [Shard(n) for n in options.speech], [Shard(n) for n in options.sounds]
    made = mixtures(speech, sounds, options.clips, options.seed)
    print(options.name, write(options.name, made))


if __name__ == "__main__":
    main()
