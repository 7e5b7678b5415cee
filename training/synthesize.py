"""Writes shards of synthetic speech: `tts-<voice>` with phrases nobody else has said."""

import argparse
import random
import zlib
from collections.abc import Iterator

import numpy as np

from training.sentences import sentence
from training.shards import Record, write
from training.voices import voices


def clips(voice: str, n_clips: int, seed: int) -> Iterator[tuple[Record, np.ndarray]]:
    key = zlib.crc32(f"{voice} {seed}".encode())
    words, sounds = random.Random(key), np.random.default_rng(key)
    speak = voices()[voice]()
    for i in range(n_clips):
        text = sentence(words)
        try:
            pcm = speak(text)
        except Exception as error:  # one phrase a voice cannot say is no reason to stop
            print(f"{voice}: {text!r}: {error}")
            continue
        if not 0.1 < len(pcm) / 16_000 < 9:
            continue
        record = {"source": f"tts-{voice}", "name": str(i), "kind": "speech", "text": text}
        yield record, dress(pcm, sounds)


def dress(pcm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A level between -20 and -1 dB, some silence around, a little hiss on every other clip."""
    pcm = pcm / max(1e-3, float(np.abs(pcm).max())) * 10 ** (rng.uniform(-20, -1) / 20)
    before, after = (rng.uniform(0, 0.25, 2) * 16_000).astype(int)
    pcm = np.pad(pcm, (before, after))
    if rng.random() < 0.5:
        pcm = pcm + rng.standard_normal(len(pcm)) * 10 ** (rng.uniform(-75, -45) / 20)
    return pcm.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("plan", nargs="+", help="VOICE:N_CLIPS")
    options = parser.parse_args()
    for part in options.plan:
        voice, n_clips = part.rsplit(":", 1)
        print(voice, write(f"tts-{voice}", clips(voice, int(n_clips), options.seed)), flush=True)


if __name__ == "__main__":
    main()
