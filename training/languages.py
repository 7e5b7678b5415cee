"""Writes the shards `languages` and `many-voiced`: six languages but English, untranscribed.

Telephone prompts, captions of pictures, a game's dialogues, and synthetic voices that read the
game's translations. What `heldout.is_held_out` names is left out: other speakers of French, Spanish
and Italian, all of Asterisk's Russian, a quarter of the game's levels.
"""

import argparse
import random
import re
import subprocess
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from kokanee.benchmarks.heldout import is_held_out, telephone
from kokanee.benchmarks.languages import MIN_PEAK, WORDLESS
from training.augment import F32, RATE, spoken
from training.kokoro import Kokoro, phonemes
from training.shards import Record, write
from training.texts import foreign
from training.voices import pico

LANGUAGES = {
    "cs": "Czech",
    "nl": "Dutch",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "ru": "Russian",
}
LONGEST = 6 * RATE
MOST = 320  # of one package and language
FESTIVAL = {
    "cs": ("czech_dita", "czech_machac", "czech_ph"),
    "it": ("lp_diphone", "pc_diphone"),
    "ru": ("msu_ru_nsh_clunits",),
}
PICO = {"fr": "fr-FR", "es": "es-ES", "it": "it-IT"}
# How often a recording is taken, at another pitch, in another room, on another line: there are few
# speakers. A language's share of what is drawn stays.
TAKES = {"fr": 2, "es": 2, "ru": 2}
PITCH = 0.2
ON_A_LINE = 0.5  # many real recordings of speech are of telephones
VARIANTS = ("", "+f2", "+m3", "+f4", "+m7", "+klatt2")


def read(path: Path) -> F32:
    """Any recording, at 16 kHz, first channel, no longer than a minute."""
    if path.suffix == ".g722":
        return telephone(path)[: 60 * RATE]
    pcm, rate = sf.read(path, dtype="float32", always_2d=True, frames=60 * 48_000)
    return np.asarray(soxr.resample(pcm[:, 0], rate, RATE), np.float32)


def recordings(tree: Path) -> Iterator[tuple[str, str, str, Path]]:
    """(package, name, language code, path) of what may be trained on."""
    found: list[tuple[str, str, Path]] = []
    for code in ("es", "fr", "it"):
        package = f"asterisk-core-sounds-{code}-g722"
        found += [(package, code, p) for p in (tree / package).rglob("*.g722")]
    for code in ("cs", "nl"):
        package = f"fillets-ng-data-{code}"
        found += [(package, code, p) for p in (tree / package).rglob(f"sound/*/{code}/*.ogg")]
    for path in (tree / "tuxpaint-stamps-default").rglob("*.ogg"):
        if (match := re.search(r"_desc_([a-z]{2})\.ogg$", path.name)) and match[1] in LANGUAGES:
            found.append(("tuxpaint-stamps-default", match[1], path))
    for code in LANGUAGES:
        folder = tree / f"ktuberling-data/usr/share/ktuberling/sounds/{code}"
        found += [("ktuberling-data", code, p) for p in folder.glob("*.*")]
        for package, part in (("klettres-data", "klettres"), ("qabcs-data", "qabcs/abcs")):
            folder = tree / package / "usr/share" / part / code
            found += [(package, code, p) for p in folder.rglob("*.ogg")]
    taken: Counter[tuple[str, str]] = Counter()
    for package, code, path in sorted(found, key=lambda f: zlib.crc32(f[2].name.encode())):
        name = str(path.relative_to(tree / package))
        if is_held_out(package, name) or re.search(WORDLESS, name):
            continue
        if path.is_file() and taken[package, code] < MOST:
            taken[package, code] += 1
            yield package, name, code, path


def synthetic(tree: Path, n_each: int, seed: int) -> Iterator[tuple[str, str, str, F32]]:
    """The game's translations read by espeak-ng, festival and SVOX Pico."""
    r = random.Random(seed)
    for code in LANGUAGES:
        texts = foreign(tree, code)
        speak = pico(PICO[code]) if code in PICO else None
        for i, text in enumerate(r.sample(texts, min(n_each, len(texts)))):
            voices = FESTIVAL.get(code, ())
            if speak and i % 3 == 0:
                yield f"tts-{code}-pico", str(i), code, np.asarray(speak(text), np.float32)
                continue
            with tempfile.TemporaryDirectory() as folder:
                wav = Path(folder) / "a.wav"
                if voices and i % 2:
                    voice = voices[i // 2 % len(voices)]
                    encoding = {"cs": "iso-8859-2", "it": "iso-8859-1", "ru": "utf-8"}[code]
                    line = ["text2wave", "-eval", f"(voice_{voice})", "-o", str(wav)]
                    source = text.encode(encoding, "ignore")
                else:
                    voice = code + VARIANTS[i % len(VARIANTS)]
                    speed = str(r.randint(120, 190))
                    line = ["espeak-ng", "-v", voice, "-s", speed, "-w", str(wav), "--stdin"]
                    source = text.encode()
                done = subprocess.run(line, input=source, capture_output=True, check=False)
                if done.returncode == 0 and wav.exists() and wav.stat().st_size > 8_000:
                    try:
                        yield f"tts-{code}-{voice}", str(i), code, read(wav)
                    except sf.LibsndfileError:  # festival sometimes leaves half a header
                        continue


def many_voiced(tree: Path, n_each: int, seed: int) -> Iterator[tuple[Record, F32]]:
    """The game's translations read by Kokoro's voices, each twice on its way to a microphone."""
    r, rng = random.Random(seed), np.random.default_rng(seed)
    kokoro = Kokoro(seed)
    texts = {code: foreign(tree, code) for code in PICO}
    for i in range(n_each):
        for code in PICO:
            text = r.choice(texts[code])
            try:
                pcm = kokoro.say(phonemes(text, code), code)
            except ValueError as error:
                print(code, error)
                continue
            record = {"source": f"tts-{code}-kokoro", "name": str(i), "kind": "speech", "text": ""}
            record["language"] = LANGUAGES[code]
            for _ in range(2):
                yield record, spoken(pcm[:LONGEST], rng, pitch=PITCH, line=ON_A_LINE)


def clips(tree: Path, seed: int) -> Iterator[tuple[Record, F32]]:
    rng = np.random.default_rng(seed)
    for package, name, code, path in recordings(tree):
        try:
            pcm = read(path)
        except (sf.LibsndfileError, OSError) as error:
            print(package, name, error)
            continue
        if len(pcm) > 0.5 * RATE and np.abs(pcm).max() >= MIN_PEAK:
            record = {"source": package, "name": name, "kind": "speech", "text": ""}
            record["language"] = LANGUAGES[code]
            for _ in range(TAKES.get(code, 1)):
                yield record, spoken(pcm[:LONGEST], rng, pitch=PITCH, line=ON_A_LINE)
    for source, name, code, pcm in synthetic(tree, 160, seed):
        if 0.5 * RATE < len(pcm) < 2 * LONGEST:
            record = {"source": source, "name": name, "kind": "speech", "text": ""}
            record["language"] = LANGUAGES[code]
            yield record, spoken(pcm[:LONGEST], rng, pitch=PITCH, line=ON_A_LINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, help="TREE/<package> is an unpacked Debian package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kokoro",
        type=int,
        help="so many texts a language, for the shard `many-voiced`",
    )
    options = parser.parse_args()
    if options.kokoro:
        made = many_voiced(options.tree, options.kokoro, options.seed)
        print("many-voiced", write("many-voiced", made))
    else:
        print("languages", write("languages", clips(options.tree, options.seed)))


if __name__ == "__main__":
    main()
