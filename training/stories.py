"""Stories about sounds, which the LLM alone writes when it is told in words what is heard.

For the last, short step of training (`instruct --stories`). Trained on short answers only, a model
forgets how to do anything else with what it hears; SALMONN (arXiv:2310.13289, section 3.3) calls it
task over-fitting and wakes the LLM's own skills with a dozen stories that the model itself tells
at a lower scale of its LoRA. Here they come from the LLM without a LoRA and without the sound, so
that they are about it for certain.
"""

import argparse
import importlib
import json
import random
import re
from pathlib import Path
from typing import Protocol

from training.instructions import ANSWERS
from training.shards import WORK, Record

STORIES = WORK / "stories.json"  # what is heard to what was written about it
UNTOLD = "Tell me a short story about what you hear."  # `sweep` asks so, training never
ASKED = (
    "Tell a story about this sound.",
    "Make up a story about what you hear.",
    "Write a few sentences about what might be happening here.",
    "Invent a little story with this sound in it.",
    "Imagine what is going on here and tell me about it.",
    "Write a short tale about this recording.",
)
_WRITTEN = (
    "Write a very short story about {}.",
    "Tell me a short story with {} in it.",
    "Somebody hears {}. What is happening? Answer in two sentences.",
    "Write two sentences about {}.",
    "Tell a short story that begins with {}.",
)
FEWEST, MOST = 20, 60  # words


class Writer(Protocol):
    """Whoever writes them: `llm.SpeakingLlm`."""

    def written_answers(self, questions: list[str], most: int) -> list[str]:
        """One answer a question, of so many tokens at most."""
        ...


def cut(text: str) -> str | None:
    """Whole sentences of at most `MOST` words; None if that leaves too few."""
    out = ""
    for sentence in re.split(r"(?<=[.!?])\s+", text.replace("\n", " ").strip()):
        if sentence[-1:] not in ".!?" or len(f"{out} {sentence}".split()) > MOST:
            break
        out = f"{out} {sentence}".strip()
    return out if len(out.split()) >= FEWEST else None


def written(llm: Writer) -> dict[str, list[str]]:
    """Greedy stories about every class; those that go round in circles are left out."""
    asked = [(name, way.format(what)) for name, what in ANSWERS.items() for way in _WRITTEN]
    out: dict[str, list[str]] = {}
    for k in range(0, len(asked), 32):
        batch = asked[k : k + 32]
        texts = llm.written_answers([question for _, question in batch], most=90)
        for (name, _), text in zip(batch, texts, strict=True):
            story = cut(text)
            sentences = re.split(r"(?<=[.!?])\s+", story or "")
            if story and len(set(sentences)) == len(sentences):
                out.setdefault(name, []).append(story)
    return out


def told(
    record: Record, stories: dict[str, list[str]], share: float, r: random.Random
) -> tuple[str, str] | None:
    """A story to ask for of this clip and how it goes, for `share` of those it can be told of."""
    label = record.get("sound") if record["kind"] == "mixture" else record["text"]
    if record["kind"] not in {"sound", "music", "mixture"} or label not in stories:
        return None
    return (r.choice(ASKED), r.choice(stories[label])) if r.random() < share else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", type=Path, required=True)
    options = parser.parse_args()
    # By name: the module needs gguf, which neither the tests nor mypy has where it checks them.
    writer: Writer = importlib.import_module("training.llm").SpeakingLlm(options.llm)
    stories = written(writer)
    STORIES.write_text(json.dumps(stories, indent=1))
    print(sum(map(len, stories.values())), "stories about", len(stories), "classes")


if __name__ == "__main__":
    main()
