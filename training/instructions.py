"""What nano is asked, in many wordings, and the answers it should give.

The wordings of `quality.UNSEEN` are never trained on.
"""

import random
import re

from kokanee.benchmarks.heldout import CLASSES, normalised
from training.sentences import listed
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
    "Write the transcript of this recording.",
    "What did they say?",
    "Please transcribe.",
    "Turn the speech into text.",
)
HEAR = (
    "What do you hear?",
    "What is in this recording?",
    "Describe the sound.",
    "What can be heard?",
    "Which sound is this?",
    "Tell me what you hear.",
    "What makes this sound?",
    "What is going on in this recording?",
    "Describe what you hear.",
    "What am I listening to?",
)
KIND = (
    "Is it speech, music or a sound?",
    "Is this speech, music or some other sound?",
    "Speech, music or a sound: which is it?",
    "Decide: speech, music or a sound.",
    "Do you hear speech, music or a sound?",
    "What kind of audio is this: speech, music or a sound?",
    "Is this music, speech or some other sound?",
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
LANGUAGE = (
    "Which language is spoken?",
    "What language is this?",
    "Name the language.",
    "In which language does the person speak?",
    "Tell me the language of the speaker.",
    "What language do you hear?",
    "Is this English or another language? Name it.",
)
ANSWER = (
    "Answer the question.",
    "Answer the spoken question.",
    "Please answer.",
    "Reply to the speaker.",
    "Respond to what the person asks.",
    "What is the answer?",
    "Listen to the question and answer it.",
)
BOTH = (
    "What is said, and what else can be heard?",
    "Write down the words and name the other sound.",
    "Tell me the words and the sound behind them.",
)
SECONDS = (
    "How long is this recording?",
    "How many seconds does it last?",
    "How long does it take?",
)
LEVEL = ("Is it loud or soft?", "Loud or soft?", "How loud is it?", "Is this loud or quiet?")
INSTRUMENT = (
    "Which instrument plays?",
    "What instrument is it?",
    "Name the instrument.",
    "Which instrument do you hear?",
)
TEMPO = ("Is the music fast or slow?", "Slow or fast music?", "How fast is the music?")
SIZE = (
    "Does one instrument play, or several?",
    "Is this a solo or an ensemble?",
    "One instrument or more?",
)
NOTHING = "Nothing is said."
ANSWERS = {c.name: c.answer for c in CLASSES} | {
    "music": "music",
    "thunder": "thunder",
    "siren": "a siren",
    "wind": "wind",
    "fire": "a fire crackling",
    "applause": "applause",
}
# Of these somebody may well say that there is music, or a voice, in them.
MUSICAL = {"instrument", "drum", "bell", "beep"}
VOICED = {"laugh", "scream", "cough"}
COUNTS = listed("zero one two three four five six seven eight nine ten eleven twelve")


def captions(record: Record) -> tuple[str, ...]:
    """What the soft tokens may first be taught to spell: words said, and ` [` and what sounds.

    Where both are heard the sound is named before the words or after them, wherever it is plainer.
    """
    kind, text = record["kind"], record["text"]
    said = f" {normalised(text)}" if kind in {"speech", "mixture", "question"} and text else ""
    if kind == "speech" and not text:
        return (f" [{record['language']}",)
    if kind == "noise":
        return (f" [{text}",)
    music = "instrument" if record.get("solo") else "music"
    label = {"sound": text, "music": music, "mixture": record.get("sound")}.get(kind)
    named = f" [{ANSWERS[label]}" if label else ""
    return (said + named, named + said) if said and named else (said + named,)


def words_of(spelled: str) -> str:
    """The words of a caption, without the sound's name wherever it stands."""
    return " ".join(_NAMED.sub("", spelled).split())


_NAMED = re.compile(
    r"\[((" + "|".join(sorted(set(ANSWERS.values()), key=len, reverse=True)) + r")(?= |$))?"
)


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def task(record: Record, r: random.Random) -> tuple[str, str]:
    """A question and its answer for one clip."""
    if r.random() < 0.015:
        n = min(12, max(1, round(record["n_samples"] / 16_000)))
        return r.choice(SECONDS), f"About {COUNTS[n]} second{'s' if n > 1 else ''}."
    # Full scale is 0 dB; between the two nobody could say. Only the BEATs stream keeps the level.
    level = record.get("level_db", -28.0)
    if not -33 < level < -23 and record["text"] != "silence" and r.random() < 0.02:
        return r.choice(LEVEL), "Loud." if level > -28 else "Soft."
    return _TASKS[record["kind"]](record, r.random(), r)


def _speech(record: Record, x: float, r: random.Random) -> tuple[str, str]:
    language = record.get("language", "English")
    if not record["text"]:
        if x < 0.6:
            return r.choice(LANGUAGE), f"{language}."
        if x < 0.72:
            return r.choice(HEAR), f"A person speaking {language}."
        if x < 0.84:
            return r.choice(TRANSCRIBE), f"[speaking {language}]"
    elif x < 0.86:
        return r.choice(TRANSCRIBE), normalised(record["text"])
    elif x < 0.90:
        return r.choice(HEAR), "A person speaking."
    elif x < 0.93:
        return r.choice(LANGUAGE), f"{language}."
    y = r.random()
    if y < 0.6:
        return r.choice(KIND), "Speech."
    return (r.choice(MUSIC), "No.") if y < 0.8 else (r.choice(SPEECH), "Yes.")


def _question(record: Record, x: float, r: random.Random) -> tuple[str, str]:
    if x < 0.5:  # as often written down: that is what a cascade answers from
        return r.choice(ANSWER), record["answer"]
    return r.choice(TRANSCRIBE), normalised(record["text"])


def _mixture(record: Record, x: float, r: random.Random) -> tuple[str, str]:
    sound, said = ANSWERS[record["sound"]], normalised(record["text"])
    if x < 0.45:
        return r.choice(TRANSCRIBE), said
    if x < 0.82:
        return r.choice(HEAR), f"A person speaking and {sound}."
    if x < 0.92:
        return r.choice(BOTH), f"{sentence(sound)} The person says: {said}"
    if x < 0.96 and record["sound"] not in MUSICAL:
        return r.choice(MUSIC), "Yes." if record["sound"] == "music" else "No."
    return r.choice(SPEECH), "Yes."


def _music(record: Record, x: float, r: random.Random) -> tuple[str, str]:
    if "instrument" in record and x < 0.75:
        name = record["instrument"]
        article = "an" if name[0] in "aeiou" else "a"
        if x < 0.3 and record["solo"]:
            return r.choice(INSTRUMENT), f"{article.title()} {name}."
        if x < 0.5:
            return r.choice(TEMPO), "Fast." if record["fast"] else "Slow."
        if x < 0.65:
            return r.choice(SIZE), "One." if record["solo"] else "Several."
        speed = "fast" if record["fast"] else "slow"
        if record["solo"]:
            return r.choice(HEAR), f"A musical instrument, {article} {name}, {speed}."
        return r.choice(HEAR), f"{speed.title()} music."
    if x < 0.3:
        return r.choice(HEAR), "A musical instrument." if record.get("solo") else "Music."
    if x < 0.65:
        return r.choice(KIND), "Music."
    if x < 0.82:
        return r.choice(MUSIC), "Yes."
    return (r.choice(TRANSCRIBE), NOTHING) if x < 0.92 else (r.choice(SPEECH), "No.")


def _sound(record: Record, x: float, r: random.Random) -> tuple[str, str]:
    text = record["text"]
    if x < 0.64:
        return r.choice(HEAR), sentence(ANSWERS[text])
    # Of a phrase that one instrument plays nobody could say which of the two it is.
    if x < 0.80 and not record.get("phrase"):
        return r.choice(KIND), "A sound."
    if x < 0.90:
        return r.choice(TRANSCRIBE), NOTHING
    if x < 0.95 and text not in MUSICAL:
        return r.choice(MUSIC), "No."
    if text not in VOICED:
        return r.choice(SPEECH), "No."
    return r.choice(HEAR), sentence(ANSWERS[text])


def _noise(record: Record, x: float, r: random.Random) -> tuple[str, str]:
    silent = record["text"] == "silence"
    if x < 0.45:
        return r.choice(TRANSCRIBE), NOTHING
    if x < 0.65:
        return r.choice(HEAR), "Silence." if silent else "Noise."
    if x < 0.85:
        return r.choice(KIND), "Silence." if silent else "A sound."
    if x < 0.92:
        return r.choice(MUSIC), "No."
    return (r.choice(SPEECH), "No.") if x < 0.97 else (r.choice(LANGUAGE), "Nobody is speaking.")


_TASKS = {
    "speech": _speech,
    "question": _question,
    "mixture": _mixture,
    "music": _music,
    "sound": _sound,
    "noise": _noise,
}
