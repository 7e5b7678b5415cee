"""Texts and recordings -> prompts as the LLM gets them: embeddings, soft tokens among them.

    text    BOS | words ...                                           in stretches of `N_TEXT`
    spoken  template up to the sound | soft tokens | question | answer

What is predicted from a soft token means nothing, so that only the words behind it are counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from kokanee.engine.audio import read_audio
from kokanee.engine.errors import CalibrationError
from kokanee.engine.manifest import PromptFormat
from kokanee.engine.prompt import fill, tokenise

from .texts import RECORDINGS, Spoken

F32 = npt.NDArray[np.float32]

N_TEXT = 256  # positions in a stretch of text
LEAST = 256  # positions that a calibration set must have


@dataclass(frozen=True, slots=True)
class Prompt:
    """One sequence; the predictions of its rows from `first` on are compared."""

    embeds: F32  # [n, d_model]
    first: int
    targets: npt.NDArray[np.int64]  # tokens that follow the rows first .. n - 2


@dataclass(frozen=True, slots=True)
class Maker:
    """What prompts are made with."""

    encode: Callable[[F32], F32]  # pcm [n_samples] -> soft tokens [n, d_model]
    embed: Callable[[Sequence[int]], F32]  # token ids -> [n_ids, d_model]
    tokenizer: Tokenizer
    form: PromptFormat

    def text(self, words: str) -> list[Prompt]:
        """A text, stretch by stretch."""
        ids = self.tokenizer.encode(words, add_special_tokens=False).ids
        bos = [] if self.form.bos_id is None else [self.form.bos_id]
        made = []
        for start in range(0, len(ids), N_TEXT):
            part = bos + ids[start : start + N_TEXT]
            if len(part) > 1:
                made.append(Prompt(self.embed(part), 0, np.asarray(part[1:], np.int64)))
        return made

    def spoken(self, sounds: Sequence[Spoken], folder: Path = RECORDINGS) -> list[Prompt]:
        """Questions about recordings, with their answers."""
        heard: dict[str, F32] = {}
        made = []
        for sound in sounds:
            if sound.recording not in heard:
                heard[sound.recording] = self.encode(read_audio(folder / sound.recording).pcm)
            soft = heard[sound.recording]
            prompt = tokenise(
                fill(self.form, sound.question), self.tokenizer, bos_id=self.form.bos_id
            )
            answer = self.tokenizer.encode(sound.answer, add_special_tokens=False).ids
            words = [*prompt.ids_after, *answer]
            embeds = np.concatenate([self.embed(prompt.head), soft, self.embed(words)])
            first = len(prompt.head) + len(soft)
            made.append(Prompt(embeds, first, np.asarray(words[1:], np.int64)))
        return made

    def of_file(self, path: Path) -> list[Prompt]:
        """A user's calibration set.

        Args:
            path: a text file, or JSON lines (`.jsonl`): {"text": ...} or {"path": recording,
                "question": ..., "answer": ...}, recordings relative to the file.

        Raises:
            CalibrationError: unreadable, empty, too short, or a line that is neither.
        """
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CalibrationError(f"{path}: cannot be read: {error}") from None
        if path.suffix != ".jsonl":
            made = self.text(content)
        else:
            made = []
            for n, line in enumerate(content.splitlines(), 1):
                if line.strip():
                    made += self._line(f"{path}, line {n}", line, path.parent)
        n_positions = sum(len(p.embeds) for p in made)
        if n_positions < LEAST:
            raise CalibrationError(
                f"{path}: {'is empty' if not made else f'makes {n_positions} positions'};"
                f" calibration needs at least {LEAST} (tokens of text and soft tokens of sound)"
            )
        return made

    def _line(self, where: str, line: str, folder: Path) -> list[Prompt]:
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise CalibrationError(f"{where}: not JSON: {error}") from None
        match entry:
            case {"text": str(text)}:
                return self.text(text)
            case {"path": str(name), "question": str(question), "answer": str(answer)}:
                return self.spoken([Spoken(name, question, answer)], folder)
        raise CalibrationError(
            f'{where}: expected {{"text"}} or {{"path", "question", "answer"}}, got {line[:80]}'
        )
