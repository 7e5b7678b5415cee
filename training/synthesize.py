"""Writes shards of synthetic speech: `tts-<voice>` with phrases nobody else has said.

Half of them come from the templates of `sentences`, half from what others wrote (`texts`). With
`--short` shards `short-<voice>` of one to three words, which are the hardest to hear.
"""

import argparse
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.augment import spoken
from training.sentences import few_words, sentence
from training.shards import Record, write
from training.texts import english
from training.voices import voices


def clips(
    voice: str, n_clips: int, seed: int, texts: list[str], *, short: bool = False
) -> Iterator[tuple[Record, np.ndarray]]:
    key = zlib.crc32(f"{voice} {seed}".encode())
    r, rng = random.Random(key), np.random.default_rng(key)
    speak = voices()[voice]()
    read = iter(r.sample(texts, len(texts)))
    for i in range(n_clips):
        others = few_words if short else sentence
        text = next(read) if i % 2 and not short else others(r)
        try:
            pcm = speak(text)
        except Exception as error:  # one phrase a voice cannot say is no reason to stop
            print(f"{voice}: {text!r}: {error}")
            continue
        if not 0.1 < len(pcm) / 16_000 < 9:
            continue
        name = f"short-{i}" if short else str(i)
        record = {"source": f"tts-{voice}", "name": name, "kind": "speech", "text": text}
        yield record, spoken(pcm, rng, pitch=0.16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="one to three words")
    parser.add_argument("tree", type=Path, help="TREE/<package> is an unpacked Debian package")
    parser.add_argument("plan", nargs="+", help="VOICE:N_CLIPS")
    options = parser.parse_args()
    texts = english(options.tree)
    for part in options.plan:
        voice, n_clips = part.rsplit(":", 1)
        made = clips(voice, int(n_clips), options.seed, texts, short=options.short)
        kind = "short" if options.short else "tts"
        print(voice, write(f"{kind}-{voice}", made), flush=True)


if __name__ == "__main__":
    main()
