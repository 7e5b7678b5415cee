"""Writes the shard `long`: speech of 9 to 28 seconds, joined from the clips of one source.

Nothing that was recorded or made for training lasts longer than nine seconds, but prompts do: an
LLM that never saw more windows stops early, or repeats itself. Whisper's positions are absolute, so
the sound itself is joined, not its features.
"""

import argparse
import random
from collections.abc import Iterator

import numpy as np

from training.shards import Record, Shard, is_validation, write

RATE = 16_000
LEAST, MOST = 9 * RATE, 28 * RATE


def joined(shards: list[Shard], n: int, seed: int) -> Iterator[tuple[Record, np.ndarray]]:
    """Pauses of 0.1 to 0.7 s; never a training clip beside one of validation."""
    r = random.Random(seed)
    pools: list[tuple[Shard, list[int], bool]] = []
    for shard in shards:
        for held in (False, True):
            ids = [
                i
                for i, record in enumerate(shard.records)
                if record["kind"] == "speech" and record["text"] and is_validation(record) == held
            ]
            # A source of which only some lines are validation keeps those to itself.
            if len(ids) > 50 and (not held or len(ids) == len(shard)):
                pools.append((shard, ids, held))
    weights = [len(ids) ** 0.5 for _, ids, _ in pools]
    for k in range(n):
        ((shard, ids, held),) = r.choices(pools, weights)
        wanted = r.randrange(LEAST, MOST)
        parts: list[np.ndarray] = []
        texts: list[str] = []
        length = 0
        while length < wanted:
            i = r.choice(ids)
            pcm = shard.pcm(i)
            pause = np.zeros(int(r.uniform(0.1, 0.7) * RATE), np.float32)
            if length + len(pcm) + len(pause) > MOST:
                break
            parts += [pcm, pause]
            texts.append(shard.records[i]["text"].rstrip(". ") + ".")
            length += len(pcm) + len(pause)
        source = shard.records[ids[0]]["source"]
        record = {"source": source, "name": f"long-{k}", "kind": "speech", "text": " ".join(texts)}
        yield record | {"held": held}, np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("shards", nargs="+", help="of speech")
    options = parser.parse_args()
    made = joined([Shard(name) for name in options.shards], options.clips, options.seed)
    print("long", write("long", made))


if __name__ == "__main__":
    main()
