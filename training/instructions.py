"""What nano is asked, in several wordings, and the answers it should give."""

import random

from kokanee.benchmarks.heldout import CLASSES, normalised
from training.shards import Record

TRANSCRIBE = (
    "Write down what is said.",
    "Transcribe the speech.",
    "What does the person say?",
    "Please write the words you hear.",
    "What is being said?",
    "Type out the spoken words.",
    "Give me the transcript.",
    "Which words are spoken?",
)
HEAR = (
    "What do you hear?",
    "What is in this recording?",
    "Describe the sound.",
    "What can be heard?",
    "Which sound is this?",
    "Tell me what you hear.",
    "What makes this sound?",
)
KIND = (
    "Is it speech, music or a sound?",
    "Is this speech, music or some other sound?",
    "Speech, music or a sound: which is it?",
    "Decide: speech, music or a sound.",
    "Do you hear speech, music or a sound?",
    "What kind of audio is this: speech, music or a sound?",
)
MUSIC = (
    "Is there music?",
    "Is music playing?",
    "Do you hear any music?",
    "Does this recording contain music?",
    "Can you hear music?",
    "Any music in it?",
)
SPEECH = (
    "Is someone speaking?",
    "Do you hear a voice?",
    "Is anybody talking?",
    "Is there speech?",
    "Does a person speak?",
    "Are words spoken?",
)
# Never trained on: what the wordings above are worth to somebody who asks in other words.
UNSEEN = {
    "transcribe": ("Can you write what was spoken?", "Put the speech into text."),
    "hear": ("What sound is in the audio?", "What is this noise?"),
    "music": ("Would you say there is music here?",),
}
ANSWERS = {c.name: c.answer for c in CLASSES} | {"music": "music"}
AMBIGUOUS = {"instrument", "drum", "bell", "beep", "laugh", "scream", "cough"}


def caption(record: Record) -> str:
    """What the soft tokens are first taught to spell: words said, then ` [` and what sounds."""
    said = normalised(record["text"]) if record["kind"] in {"speech", "mixture"} else ""
    label = {"speech": None, "mixture": record.get("sound")}.get(record["kind"], record["text"])
    return (f" {said}" if said else "") + (f" [{ANSWERS[label]}" if label else "")


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def task(record: Record, r: random.Random) -> tuple[str, str]:
    """A question and its answer for one clip."""
    kind, text = record["kind"], record["text"]
    x = r.random()
    if kind == "speech":
        if x < 0.84:
            return r.choice(TRANSCRIBE), normalised(text)
        if x < 0.89:
            return r.choice(HEAR), "A person speaking."
        if x < 0.94:
            return r.choice(KIND), "Speech."
        return (r.choice(MUSIC), "No.") if x < 0.98 else (r.choice(SPEECH), "Yes.")
    if kind == "mixture":
        if x < 0.6:
            return r.choice(TRANSCRIBE), normalised(text)
        if x < 0.9 or record["sound"] in AMBIGUOUS:
            return r.choice(HEAR), f"A person speaking and {ANSWERS[record['sound']]}."
        music = record["sound"] == "music"
        return (
            (r.choice(MUSIC), "Yes." if music else "No.")
            if x < 0.95
            else (r.choice(SPEECH), "Yes.")
        )
    if kind == "music":
        if x < 0.35:
            return r.choice(HEAR), "Music."
        if x < 0.65:
            return r.choice(KIND), "Music."
        return (r.choice(MUSIC), "Yes.") if x < 0.9 else (r.choice(SPEECH), "No.")
    if x < 0.68 or (text in AMBIGUOUS and x < 0.85):
        return r.choice(HEAR), sentence(ANSWERS[text])
    if x < 0.84 or text in AMBIGUOUS:
        return r.choice(KIND), "A sound."
    return r.choice(MUSIC if x < 0.92 else SPEECH), "No."
