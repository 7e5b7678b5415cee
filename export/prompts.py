"""SALMONN's own prompts by task, word for word: another wording gives other answers.

Source: bytedance/SALMONN, branch salmonn, prompts/test_prompt.json (Apache-2.0, see
THIRD_PARTY.md), without the speech tag that opens each of them there.
"""

from __future__ import annotations

from pathlib import Path

from kokanee.engine.errors import CheckpointError
from kokanee.engine.manifest import SPEECH_HERE

from .checkpoint import read_json

TAG = f"<Speech>{SPEECH_HERE}</Speech>"
TEMPLATE = f"USER: {TAG} {{}}\nASSISTANT:"
WRITTEN = "USER: {}\nASSISTANT:"  # the same without a sound, as SALMONN's prompt_template has it

TASKS = {
    "asr": "Recognize the speech and give me the transcription.",
    "asr_zh": "请将语音中的内容写下来。",
    "asr_de": "Hören Sie sich die Rede an und schreiben Sie ihren Inhalt auf.",
    "translation_ec": "Listen to the speech and translate it into Chinese.",
    "audiocaption": "Please describe the audio.",
    "audiocaption_v2": "Please write down what your hear in the audio.",
    "QA": "{}",
    "gender_QA": "{}",
    "phone_recognition": "Provide the phonetic transcription for the speech.",
    "speech_query": "Please answer the question in detail.",
    "emotion_recognition": "Describe the emotion of the speaker in one word.",
    "lyrics_recognition": "Listen to the song and write down its content.",
    "audio_speech_description": "Describe the speech and the background audio",
    "speaker_verification": "Do you only hear the same person talking? Answer yes or no.",
    "fluent_speech_audio": "Describe the background audio and the speech in a fluent sentence.",
    "speech_separation": "Please write down what you hear each person says.",
    "audio_story_telling": "Based on the audio, write a story in detail. Your story should be"
    " highly related to the audio.",
    "speech_audio_query": "Please answer the speaker's question in detail based on the background"
    " sound.",
    "slot_filling": "According to the speech, what is the {}?",
    "music_description": "Listen to this music clip and describe the music.",
    "translation_en2ja": "Listen to the speech and translate it into Japanese.",
    "translation_en2de": "Listen to the speech and translate it into German.",
    "speech_audio_coreasoning": "Use your strong reasoning skills to answer the speaker's question"
    " in detail based on the background sound.",
    "keywords": "Give me only three keywords of the text.",
    "speaker_diarization_asr": "Please recognize each speaker and transcribe their speech content.",
}


def read_tasks(path: Path) -> dict[str, str]:
    """Tasks from a JSON file: name -> prompt, as SALMONN's own prompt files have them.

    A prompt may open with the speech tag, which the template brings already. `{}` in it stands for
    a question.

    Raises:
        CheckpointError: it is not such a file; it says which entry is wrong.
    """
    tasks = {}
    for name, prompt in read_json(path).items():
        if not isinstance(prompt, str):
            raise CheckpointError(f"{path}: {name}: expected a prompt, got {prompt!r}"[:200])
        wording = prompt.strip().removeprefix(TAG).strip()
        if not wording or SPEECH_HERE in wording or wording.count("{}") > 1:
            raise CheckpointError(
                f"{path}: {name}: expected some words, with {TAG} in front of them at most and {{}}"
                f" once at most, got {prompt!r}"
            )
        tasks[name] = wording
    if not tasks:
        raise CheckpointError(f"{path}: expected task names and their prompts, got none")
    return tasks
