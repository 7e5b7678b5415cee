"""Writes the shards `acted` and `acted-again`: lines of two more games, written down by Whisper.

Beneath a Steel Sky has no texts at all, and Drascula's actors say what they like. Whisper base
(CTranslate2, 8 bits) writes every line down; what it is not sure of is left out, and of Drascula
the text is taken where the two are about the same. The second shard holds the same lines at other
pitches, in rooms, over telephones, with noise.
"""

import argparse
import importlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soxr
from tokenizers import Tokenizer

from kokanee.benchmarks.heldout import normalised
from kokanee.engine.features import log_mel
from training.recordings import levelled
from training.revoiced import again
from training.shards import Record, write
from training.talkies import RATE_8_BIT, U8, drascula_lines, sky_lines

RATE = 16_000
LONGEST_S = 7.0
# Frames of 10 ms that Whisper sees: trained on 3,000, it says more short lines twice where it sees
# less.
CONTEXT = 800
# Mean log-probability of a token, at least: of a dozen known lines, those with errors have less.
SURE = -0.3
NO_SPEECH = 0.3
BATCH = 8
FASTEST = 5.5  # words a second, at most: of lines with known texts five in a thousand are faster
SAME = 0.2  # characters wrong, at most, where what is written is taken to be what is said


def lines(tree: Path) -> Iterator[tuple[str, str, U8, str | None]]:
    """Source, name, samples and text, if there is one, of every line."""
    sky = next((tree / "beneath-a-steel-sky").rglob("sky.dnr")).parent
    for name, pcm in sky_lines(sky):
        yield "beneath-a-steel-sky", name, pcm, None
    texts = next((tree / "drascula").rglob("drascula.dat"))
    for name, pcm, text in drascula_lines(texts.parent, texts):
        yield "drascula", name, pcm, text


def believable(text: str, seconds: float) -> bool:
    """Whether somebody may have said it: no phrase over and over, nor more than a mouth can."""
    words = normalised(text).split()
    repeated = any(
        len(words) % n == 0 and words == words[:n] * (len(words) // n)
        for n in range(1, len(words) // 2 + 1)
    )
    return bool(words) and not repeated and len(words) <= FASTEST * seconds


class Whisper:
    """Whisper as CTranslate2 runs it."""

    def __init__(self, folder: Path, n_threads: int) -> None:
        ctranslate2: Any = importlib.import_module("ctranslate2")  # nothing else needs it
        self._array = ctranslate2.StorageView.from_array
        self._model: Any = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type="int8", intra_threads=n_threads
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        opening = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
        self._prompt = [self._tokenizer.token_to_id(token) for token in opening]

    def __call__(self, clips: Sequence[np.ndarray]) -> list[str]:
        """What is said in each, "" where Whisper is not sure."""
        mels = np.zeros((len(clips), 80, CONTEXT), np.float32)
        for mel, pcm in zip(mels, clips, strict=True):
            padded = np.zeros(CONTEXT * RATE // 100, np.float32)
            padded[: len(pcm)] = pcm
            mel[...] = log_mel(padded)[:, :CONTEXT]
        found = self._model.generate(
            self._array(mels),
            [self._prompt] * len(clips),
            beam_size=3,
            max_length=60,
            return_scores=True,
            return_no_speech_prob=True,
        )
        return [
            self._tokenizer.decode(one.sequences_ids[0]).strip()
            if one.scores[0] >= SURE and one.no_speech_prob < NO_SPEECH
            else ""
            for one in found
        ]


def clips(tree: Path, whisper: Whisper) -> Iterator[tuple[Record, np.ndarray]]:
    """Lines that are known well enough."""
    rng = np.random.default_rng(zlib.crc32(b"acted"))
    waiting: list[tuple[str, str, np.ndarray, str | None]] = []
    for source, name, samples, text in lines(tree):
        pcm = soxr.resample((samples.astype(np.float32) - 128) / 128, RATE_8_BIT, RATE)
        pcm -= pcm.mean()
        if 0.4 * RATE <= len(pcm) <= LONGEST_S * RATE:
            waiting.append((source, name, levelled(pcm, rng), text))
    waiting.sort(key=lambda line: len(line[2]))
    for k in range(0, len(waiting), BATCH):
        batch = waiting[k : k + BATCH]
        if k % (40 * BATCH) == 0:
            print(f"{k} of {len(waiting)} lines", flush=True)
        heard = whisper([pcm for _, _, pcm, _ in batch])
        for (source, name, pcm, text), said in zip(batch, heard, strict=True):
            if text and said and jiwer.cer(normalised(text), normalised(said) or " ") <= SAME:
                said = text
            if believable(said, len(pcm) / RATE):
                record = {"source": source, "name": name, "kind": "speech", "text": said}
                yield record, pcm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--whisper", type=Path, required=True, help="folder of Whisper base for CTranslate2"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("tree", type=Path, help="TREE/<package> is an unpacked Debian package")
    options = parser.parse_args()
    made = list(clips(options.tree, Whisper(options.whisper, options.threads)))
    print("acted", write("acted", made))
    print("acted-again", write("acted-again", again(made, b"acted-again")))


if __name__ == "__main__":
    main()
