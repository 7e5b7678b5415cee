"""Spoken questions, and what the LLM alone answers when it reads them: the shard `questions`.

The targets are the LLM's own words (greedy, first sentence), not facts: the sound is to take the
place of the text, no more. None of the questions of the evaluation is among them.
"""

import argparse
import itertools
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kokanee.benchmarks.heldout import normalised
from training.augment import spoken
from training.llm import SpeakingLlm
from training.sentences import listed
from training.shards import Record, write
from training.voices import voices

COUNTRIES = listed(
    "France Germany Italy Spain Portugal England Ireland Scotland Norway Sweden Denmark Finland "
    "Poland Austria Hungary Greece Turkey Russia China Japan India Thailand Vietnam Egypt Kenya "
    "Nigeria Canada Mexico Brazil Peru Chile Argentina Cuba Australia Belgium Switzerland"
)
THINGS = listed(
    "milk snow grass coal sugar honey salt lemon banana tomato blood sky ocean sun moon rose "
    "carrot chocolate butter bread cheese gold silver iron wood glass paper cotton wool silk "
    "leather"
)
ANIMALS = listed(
    "dog cat cow horse sheep pig duck hen frog lion tiger bear wolf fox rabbit mouse elephant "
    "giraffe monkey snake spider bee ant fish shark whale dolphin penguin eagle owl parrot camel"
)
ADJECTIVES = listed(
    "hot big fast tall old happy rich light hard clean wet full early strong loud near good easy "
    "cheap long young dark high soft empty open sweet thick wide brave"
)
TOOLS = listed(
    "hammer knife spoon pen pencil key umbrella clock camera telephone computer ladder bicycle "
    "car bus boat plane lamp mirror oven fridge broom scissors needle bucket map compass "
    "microscope telescope thermometer piano guitar drum book newspaper wallet blanket pillow soap "
    "towel"
)
JOBS = listed(
    "doctor teacher baker pilot farmer nurse carpenter plumber tailor butcher dentist lawyer "
    "judge soldier sailor singer painter writer cook waiter gardener firefighter librarian"
)
NUMBERS = listed("one two three four five six seven eight nine ten")


def asked() -> list[str]:
    """Every question, in a fixed order."""
    sets = (
        ("What is the capital of {}?", COUNTRIES),
        ("Which language do people speak in {}?", COUNTRIES),
        ("On which continent is {}?", COUNTRIES),
        ("What is {} famous for?", COUNTRIES),
        ("What colour is {}?", THINGS),
        ("What is {} made of?", THINGS),
        ("What can you do with {}?", THINGS),
        ("What does a {} eat?", ANIMALS),
        ("Where does a {} live?", ANIMALS),
        ("How many legs does a {} have?", ANIMALS),
        ("Is a {} a mammal?", ANIMALS),
        ("What sound does a {} make?", ANIMALS),
        ("What is the opposite of {}?", ADJECTIVES),
        ("Give me another word for {}.", ADJECTIVES),
        ("What is a {} used for?", TOOLS),
        ("What is a {}?", TOOLS),
        ("What does a {} do?", JOBS),
        ("Where does a {} work?", JOBS),
    )
    questions = [text.format(word) for text, words in sets for word in words]
    for a, b in itertools.product(NUMBERS, NUMBERS):
        questions += [f"What is {a} plus {b}?", f"What is {a} times {b}?"][:: 1 if a < b else 2]
    questions += listed(
        "Who wrote Romeo and Juliet?|Who painted the Mona Lisa?|How many days are in a week?|"
        "How many months are in a year?|How many hours are in a day?|"
        "What is the largest ocean?|What is the tallest mountain?|What is the longest river?|"
        "Which planet is the largest?|What is the boiling point of water?|"
        "What do plants need to grow?|Why is the sky blue?|How do birds fly?|What is rain?|"
        "What causes thunder?|What is a rainbow?|Who was Einstein?|Who was Napoleon?|"
        "Who invented the telephone?|Who invented the light bulb?|What is photosynthesis?|"
        "What is gravity?|What is a volcano?|What is an earthquake?|What is democracy?|"
        "What is music?|How do I boil an egg?|How do I make tea?|"
        "What should I eat for breakfast?|How can I sleep better?|Tell me a joke.|"
        "What is your name?|Who are you?|How are you?|Can you help me?|What can you do?|"
        "Say hello.|Good morning.|Thank you very much.|Tell me something about the moon.",
        "|",
    )
    here = Path(__file__).parents[1] / "benchmarks/questions.json"
    kept_back = {normalised(q["question"]) for q in json.loads(here.read_text("utf-8"))}
    return [q for q in dict.fromkeys(questions) if normalised(q) not in kept_back]


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


def clips(
    texts: dict[str, str], plan: dict[str, int], seed: int
) -> Iterator[tuple[Record, np.ndarray]]:
    r, rng = random.Random(seed), np.random.default_rng(seed)
    for voice, n in plan.items():
        speak = voices()[voice]()
        for i, question in enumerate(r.sample(sorted(texts), min(n, len(texts)))):
            pcm = speak(question)
            if 0.1 < len(pcm) / 16_000 < 9:
                record = {"source": f"tts-{voice}", "name": f"question-{i}", "kind": "question"}
                record |= {"text": question, "answer": texts[question]}
                yield record, spoken(pcm, rng, pitch=0.16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("plan", nargs="+", help="VOICE:N_CLIPS")
    options = parser.parse_args()
    texts = answered(SpeakingLlm(options.llm), asked())
    print(len(texts), "questions", dict(itertools.islice(texts.items(), 0, None, 60)))
    plan = {v: int(n) for v, n in (part.rsplit(":", 1) for part in options.plan)}
    print("questions", write("questions", clips(texts, plan, options.seed)))


if __name__ == "__main__":
    main()
