"""How long speech is best heard, and what keeps answers from going round in circles; on validation.

Clips of 9 to 28 seconds, joined from acted validation lines with pauses of 0.1 to 0.7 s, and the
lines themselves, through a bundle as it is released. Prints the share of words that are wrong.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from rich.progress import track

from kokanee.benchmarks.hearing_scores import word_errors
from kokanee.benchmarks.heldout import normalised
from kokanee.engine import BeamSearch, Engine, Sampling, Session
from kokanee.runtime.bundle import find_bundle
from kokanee.runtime.phrases import max_new_tokens, transcribe
from training.joined import LEAST, MOST, RATE
from training.shards import Shard, is_validation

WHOLE: dict[str, Sampling | BeamSearch] = {
    "whole, anything": Sampling(no_repeat_ngram_size=0),
    "whole, penalty 1.1": Sampling(no_repeat_ngram_size=0, repetition_penalty=1.1),
    "whole, beams, anything": BeamSearch(length_penalty=0.0, no_repeat_ngram_size=0),
    "whole, beams": BeamSearch(length_penalty=0.0),
    "whole, beams, divided by length": BeamSearch(length_penalty=1.0),
} | {f"whole, no {n} tokens again": Sampling(no_repeat_ngram_size=n) for n in (3, 4, 5, 6)}
LENGTHS = (4.0, 6.0, 8.0, 12.0)
Clip = tuple[np.ndarray, str]


def joined(lines: list[Clip], n: int) -> list[Clip]:
    r = random.Random(1)
    clips = []
    for _ in range(n):
        wanted = r.uniform(LEAST, MOST)
        parts: list[np.ndarray] = []
        texts: list[str] = []
        while (length := sum(map(len, parts))) < wanted:
            pcm, text = r.choice(lines)
            pause = np.zeros(int(r.uniform(0.1, 0.7) * RATE), np.float32)
            if length + len(pcm) + len(pause) > MOST:
                break
            parts += [pcm, pause]
            texts.append(text)
        clips.append((np.concatenate(parts), " ".join(texts)))
    return clips


def answers(session: Session, pcm: np.ndarray) -> Iterator[tuple[str, str]]:
    session.hear(pcm)
    most = max_new_tokens(pcm)
    for how, sampling in WHOLE.items():
        yield how, session.ask(task="asr", sampling=sampling, max_new_tokens=most).text()
    for longest in LENGTHS:
        phrases = transcribe(session, pcm, longest_s=longest, sampling=Sampling())
        yield f"by phrase, {longest:g} s", " ".join(phrase.text for phrase in phrases)
    phrases = transcribe(session, pcm, sampling=BeamSearch(length_penalty=0.0))
    yield "by phrase, 8 s, beams", " ".join(phrase.text for phrase in phrases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--clips", type=int, default=40)
    options = parser.parse_args()
    shard = Shard("fotaq")
    lines = [
        (shard.pcm(i), record["text"])
        for i, record in enumerate(shard.records)
        if is_validation(record) and record["text"]
    ]
    with (
        Engine.open(find_bundle(options.bundle, cache_dir=None)) as engine,
        engine.session() as session,
    ):
        for name, clips in (("lines", lines), ("joined", joined(lines, options.clips))):
            counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
            for pcm, text in track(clips, name):
                for how, said in answers(session, pcm):
                    for k, n in enumerate(word_errors(text, said, normalised)):
                        counts[how][k] += n
            print(f"{name}: {len(clips)} clips")
            for how, (wrong, n_words) in counts.items():
                print(f"  {how:24} {100 * wrong / n_words:5.1f} %", flush=True)


if __name__ == "__main__":
    main()
