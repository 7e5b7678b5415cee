"""Caches one encoder's features of the shards named, in that order, for at most some minutes."""

import argparse
import time
from pathlib import Path

import torch

from training.audio_encoder import trained
from training.precision import autocast
from training.shards import Shard
from training.weights import whisper_base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    encoder = parser.add_mutually_exclusive_group(required=True)
    encoder.add_argument("--whisper", type=Path, nargs=2, metavar=("PART1", "PART2"))
    encoder.add_argument("--audio", action="store_true", help="the small BEATs, once trained")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("shards", nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.time()
    until = start + 60 * options.minutes
    model = trained() if options.audio else whisper_base(options.whisper)
    for name in options.shards:
        shard = Shard(name)
        with autocast():  # an error of 3 %, where training adds noise of 15 % itself
            if options.audio:
                shard.hear(model, until)
            else:
                shard.encode(model, until)
        done = shard.n_heard if options.audio else shard.n_encoded
        print(f"{name}: {done}/{len(shard)} clips, {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
