"""Lets the teacher hear shards: `<shard>.teacher`, and what the clips of `collected` are called.

`<shard>.teacher` holds float16 [n_patches, 521] logits, clips end to end. Of `collected` and
`rendered` the clips that have a name then become the shard `sounds`, at most `--most` of a class,
and those that have none `unnamed`: what is heard in them only the teacher says.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator

import numpy as np

from training.shards import WORK, Record, Shard, write
from training.teacher import Teacher, heard, named


def judged(record: Record, logits: np.ndarray, seconds: float) -> tuple[str, str]:
    """(kind, text) of a recording, by its file's name and the teacher's scores."""
    found = heard(logits)
    top = max(found, key=lambda n: found[n])
    music = found["music"] > 0.5 and seconds > 1.5 and (record["long"] or not record["file_label"])
    if music and (record["music_by_name"] or (record["long"] and top == "music")):
        return "music", "music"
    voiced = record["file_label"] in {"laugh", "scream", "cough"}
    if found["speech"] > 0.5 and top == "speech" and not voiced:
        return "other", "speech"
    label = named(record["file_label"], logits)
    return ("sound", label) if label else ("other", "")


def chosen(most: int) -> Iterator[tuple[Record, np.ndarray]]:
    """Named clips of `collected` and `rendered`; of music twice as many as of another class."""
    r = random.Random(0)
    pools: dict[str, list[tuple[Shard, int]]] = {}
    for shard in (Shard("collected"), Shard("rendered")):
        for i, record in enumerate(shard.records):
            if record["kind"] in {"sound", "music"}:
                pools.setdefault(record["text"], []).append((shard, i))
    for text, pool in sorted(pools.items()):
        n = most * (2 if text == "music" else 1)
        for shard, i in r.sample(pool, min(n, len(pool))):
            kept = ("source", "name", "kind", "text")
            yield {k: shard.records[i][k] for k in kept}, shard.pcm(i)


def unnamed() -> Iterator[tuple[Record, np.ndarray]]:
    """Clips of `collected` without a name of ours, and those whose speech nobody wrote down."""
    shard = Shard("collected")
    for i, record in enumerate(shard.records):
        if record["kind"] == "other":
            kept = ("source", "name", "kind", "text")
            yield {k: record[k] for k in kept}, shard.pcm(i)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", nargs="*")
    parser.add_argument(
        "--choose", action="store_true", help="name `collected`, write `sounds`, `unnamed`"
    )
    parser.add_argument("--most", type=int, default=350)
    options = parser.parse_args()
    if options.choose:
        shard = Shard("collected")
        for i, record in enumerate(shard.records):
            logits = shard.teacher(i).astype(np.float32)
            record["kind"], record["text"] = judged(record, logits, record["n_samples"] / 16_000)
        (WORK / "shards" / "collected.json").write_text(json.dumps(shard.records))
        print("sounds", write("sounds", chosen(options.most)))
        print("unnamed", write("unnamed", unnamed()))
        print(Counter(record["text"] for record in Shard("sounds").records).most_common())
        return
    teacher = Teacher()
    for name in options.shards:
        shard = Shard(name)
        with (WORK / "shards" / f"{name}.teacher").open("wb") as sink:
            for i, record in enumerate(shard.records):
                pcm = shard.pcm(i)
                logits = teacher.logits(pcm)
                sink.write(logits.astype(np.float16).tobytes())
                record["n_patches"] = len(logits)
        (WORK / "shards" / f"{name}.json").write_text(json.dumps(shard.records))
        print(name, len(shard), flush=True)


if __name__ == "__main__":
    main()
