"""Writes the shard `noises`: silence and noise, in which nothing is said and nothing happens."""

import argparse
from collections.abc import Iterator

import numpy as np

from training.augment import F32, RATE, coloured_noise, in_room
from training.shards import Record, write


def clips(n: int, seed: int) -> Iterator[tuple[Record, F32]]:
    rng = np.random.default_rng(seed)
    for i in range(n):
        size = int(rng.uniform(0.8, 6) * RATE)
        t = np.arange(size) / RATE
        if i % 4 == 0:  # from digital silence to the hiss of a quiet room
            level = -120 if i % 8 == 0 else rng.uniform(-90, -62)
            pcm, text = coloured_noise(size, rng, rng.uniform(0, 2)) * 10 ** (level / 20), "silence"
        else:
            pcm, text = coloured_noise(size, rng, rng.uniform(-0.5, 2.5)), "noise"
            if i % 4 == 1:  # hum and its harmonics
                base = rng.choice((50.0, 60.0, rng.uniform(30, 300)))
                hum = sum(
                    rng.uniform(0, 1) / k * np.sin(2 * np.pi * base * k * t) for k in range(1, 9)
                )
                pcm = 0.3 * pcm * rng.random() + np.asarray(hum, np.float32)
            elif i % 4 == 2:  # swelling, or crackling
                if rng.random() < 0.5:
                    pcm = pcm * (0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(0.1, 2) * t))
                else:
                    pcm = 0.1 * pcm + (rng.random(size) < rng.uniform(1e-4, 4e-3)) * rng.normal(
                        size=size
                    )
            if rng.random() < 0.3:
                pcm = in_room(np.asarray(pcm, np.float32), rng)
            pcm = pcm / float(np.abs(pcm).max()) * 10 ** (rng.uniform(-45, -2) / 20)
        record = {"source": "made", "name": f"noise-{i}", "kind": "noise", "text": text}
        yield record, np.asarray(pcm, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    print("noises", write("noises", clips(options.clips, options.seed)))


if __name__ == "__main__":
    main()
