"""Spoken questions, and what the LLM alone answers when it reads them: the shard `questions`.

The targets are the LLM's own words (greedy, first sentence), not facts: the sound is to take the
place of the text, no more. None of the questions of the evaluation is among them.
"""

import argparse
import itertools
import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from kokanee.benchmarks.heldout import normalised
from training.asking import KEPT_BACK, asked, is_validation, wondered
from training.augment import spoken
from training.llm import SpeakingLlm
from training.shards import HELD_OUT_VOICE, WORK, Record, write
from training.voices import Speak, voices

ANSWERS = WORK / "answers.json"  # question to answer; `instruct --written` reads it too


def answered(llm: SpeakingLlm, questions: list[str]) -> dict[str, str]:
    """The LLM's own greedy answers, one sentence each; questions it goes on about are left out."""
    out = {}
    questions = sorted(questions, key=len)
    for k in range(0, len(questions), 32):
        batch = questions[k : k + 32]
        for question, text in zip(batch, llm.written_answers(batch), strict=True):
            first = re.split(r"(?<=[.!?])\s", text.replace("\n", " ").strip())[0]
            if 1 <= len(first.split()) <= 24 and first[-1] in ".!?":
                out[question] = first
    return out


def said(speak: Speak, question: str) -> np.ndarray:
    """Nothing where a voice cannot say it, which is no reason to stop."""
    try:
        return speak(question)
    except Exception as error:
        print(f"{question!r}: {error}")
        return np.zeros(0, np.float32)


def voiced(
    voice: str, asks: Iterable[tuple[str, Record]], rng: np.random.Generator
) -> Iterator[tuple[Record, np.ndarray]]:
    """Each question as a voice says it, where it can."""
    speak = voices()[voice]()
    for question, record in asks:
        pcm = said(speak, question)
        if 0.1 < len(pcm) / 16_000 < 9:
            yield {"source": f"tts-{voice}", **record}, spoken(pcm, rng, pitch=0.16)


def clips(
    texts: dict[str, str], plan: dict[str, int], seed: int
) -> Iterator[tuple[Record, np.ndarray]]:
    """Questions with their answers."""
    r, rng = random.Random(seed), np.random.default_rng(seed)
    for voice, n in plan.items():
        asks = [q for q in sorted(texts) if is_validation(q) == (voice == HELD_OUT_VOICE)]
        chosen = enumerate(r.sample(asks, min(n, len(asks))))
        records = (
            (q, {"name": f"question-{i}", "kind": "question", "text": q, "answer": texts[q]})
            for i, q in chosen
        )
        yield from voiced(voice, records, rng)


def unanswered(plan: dict[str, int], seed: int) -> Iterator[tuple[Record, np.ndarray]]:
    """Questions that are only written down: `wondered`, and one in four of `asked`."""
    r, rng = random.Random(seed), np.random.default_rng(seed)
    plain = [q for q in asked() if not is_validation(q)]
    for voice, n in plan.items():
        made = [r.choice(plain) if i % 4 == 0 else wondered(r) for i in range(n)]
        records = (
            (q, {"name": f"wondered-{i}", "kind": "speech", "text": normalised(q)})
            for i, q in enumerate(made)
            if normalised(q) not in KEPT_BACK
        )
        yield from voiced(voice, records, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", type=Path, help="who answers; none with --unanswered")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--unanswered", metavar="NAME", help="a shard of that name, to be written down only"
    )
    parser.add_argument("plan", nargs="+", help="VOICE:N_CLIPS")
    options = parser.parse_args()
    plan = {v: int(n) for v, n in (part.rsplit(":", 1) for part in options.plan)}
    if options.unanswered:
        print(options.unanswered, write(options.unanswered, unanswered(plan, options.seed)))
        return
    if ANSWERS.exists():
        print(f"{ANSWERS} is taken as it is; without it all questions are answered again")
        texts = json.loads(ANSWERS.read_text())
    elif options.llm is None:
        parser.error("--llm: expected a GGUF, which answers; or --unanswered NAME")
    else:
        texts = answered(SpeakingLlm(options.llm), asked())
    print(len(texts), "questions", dict(itertools.islice(texts.items(), 0, None, 60)), flush=True)
    ANSWERS.write_text(json.dumps(texts))
    print("questions", write("questions", clips(texts, plan, options.seed)))


if __name__ == "__main__":
    main()
