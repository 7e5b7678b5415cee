"""The held-out evaluation of nano: real recordings that no part of it was trained on, and scoring.

Speech: every prompt of asterisk-core-sounds-en, exact texts, one speaker. Sounds and music: the
media of Scratch 1.4, and the half of GCompris's sounds that `is_held_out` picks by name; the label
is what the file is called. Debian serves the packages; hashes pin them. Recordings in other
languages are those of `languages`.

Source of the layouts read here: Qt's resource format (`.rcc`, documented in Qt's rcc sources).
"""

import dataclasses
import gzip
import hashlib
import re
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

RATE = 16_000  # Hz
MAX_SECONDS = 8.0  # longer sounds and music are cut: nano is trained on short clips

Kind = Literal["speech", "sound", "music", "mixture", "noise", "silence"]


@dataclasses.dataclass(frozen=True, slots=True)
class Package:
    """A Debian package that the evaluation reads."""

    name: str
    file: str
    sha256: str
    licence: str


PACKAGES = (
    Package(
        "asterisk-core-sounds-en",
        "asterisk-core-sounds-en_1.6.1-1_all.deb",
        "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
        "CC-BY-SA-3.0",
    ),
    Package(
        "asterisk-core-sounds-en-g722",
        "asterisk-core-sounds-en-g722_1.6.1-1_all.deb",
        "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
        "CC-BY-SA-3.0",
    ),
    Package(
        "scratch",
        "scratch_1.4.0.6~dfsg1-6.1_all.deb",
        "36c582eb93110f64f06c4e685c41e933ccba2fa68db12f79b10bfe840b21fc10",
        "CC-BY-SA-3.0",
    ),
    Package(
        "gcompris-qt-data",
        "gcompris-qt-data_3.1-2_all.deb",
        "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
        "AGPL-3.0-only, GPL and CC",
    ),
)


@dataclasses.dataclass(frozen=True, slots=True)
class SoundClass:
    """One kind of sound: how nano names it, which words count, which file names mean it."""

    name: str
    answer: str
    words: str  # regular expression over an answer, of beginnings of words
    files: str  # regular expression over a lower-case file name without extension


# The order decides where two would match. `(?<![a-z])` and `(?![a-z])` bound a word in a file name.
_W, _E = r"(?<![a-z])", r"(?![a-z])"
CLASSES: tuple[SoundClass, ...] = (
    SoundClass(
        "footsteps",
        "footsteps",
        r"foot|steps?\b|walking",
        rf"footstep|{_W}steps{_E}|icy_walk",
    ),
    SoundClass(
        "drum",
        "a drum",
        r"(?:kettle)?drum|cymbal|percussion",
        rf"drum|tabla|snare|{_W}bd_|{_W}kick|cymbal|bongo|maracas|castanets|tambourine|timpani|"
        rf"{_W}tom{_E}|shaker|beatbox|{_W}sn_|clap{_E}|hihat|conga|{_W}percussion",
    ),
    SoundClass(
        "instrument",
        "a musical instrument",
        r"instrument|guitar|piano|violin|trumpet|flute|string",
        rf"guitar|{_W}guit_|piano|violin|cello|flute|trumpet|tuba|trombone|saxophone|clarinet|"
        rf"{_W}horn{_E}|harp{_E}|harmonica|accordion|banjo|organ{_E}|bassoon|string|{_W}chord{_E}|"
        r"dij+eridoo|tambura|xylofon|xylo|cembalo|klavichord|marimba|koto|mbira|trumpet",
    ),
    SoundClass("cat", "a cat meowing", r"cats?\b|meow|kitten", rf"{_W}cat{_E}|kitten|meow"),
    SoundClass(
        "dog",
        "a dog barking",
        r"dogs?\b|bark|wolf|howl",
        rf"{_W}dogs?{_E}|wolf|{_W}(lr)?bark|howl",
    ),
    SoundClass(
        "horse",
        "a horse",
        r"horse|hoo[fv]|gallop|donkey",
        rf"{_W}horse|{_W}hoof|donkey|zebra|gallop|canter",
    ),
    SoundClass(
        "bird",
        "a bird",
        r"birds?\b|duck|goose|owl\b|rooster|chicken|hen\b|crow\b",
        rf"bird|{_W}duck{_E}|goose|{_W}owl{_E}|rooster|{_W}(misc_)?crow{_E}|{_W}hen{_E}|chicken|"
        r"gander|canary|cuckoo|lark|vulture|penguin|turkey|seagull|tucan|quetzal|heron|nandou",
    ),
    SoundClass(
        "farm animal",
        "a farm animal",
        r"farm animal|cow|sheep|pigs?\b|piglet|goat",
        rf"{_W}(cow|sheep|pig|goat|mountaingoat|bull|ram|bison|lamb|camel|dromedary)(_|{_E})",
    ),
    SoundClass(
        "insect",
        "an insect",
        r"insect|cricket|bees?\b|buzzing|frog",
        rf"cricket|{_W}bee{_E}|hornet|mosquito|grasshopper|frogs?",
    ),
    SoundClass(
        "laugh",
        "a person laughing",
        r"laugh",
        r"laugh",
    ),
    SoundClass(
        "cough",
        "a person coughing",
        r"cough|sneez",
        r"cough|sneeze|burp|snore|slurp",
    ),
    SoundClass(
        "scream",
        "a person screaming",
        r"scream|cry|shout",
        rf"scream|babycry|wail|(human|elf|dwarf).*-(hit|die)|^(fe|civ|civfe)?male(death|hurt)|"
        rf"mermaid-(hit|die)|{_W}groan|^civ",
    ),
    SoundClass(
        "door",
        "a door",
        r"door",
        rf"door|open-chest|(?<!alien)creak|{_W}(bd|dor|db)(cls|opn){_E}",
    ),
    SoundClass(
        "gunfire",
        "a gunshot",
        r"gun|explosion|shot|blast",
        rf"(?<!mini)gun(?!.*reload)|explosion|shotgun|bullet|rocket|cannon|grenade|firework|"
        rf"{_W}pistol|plasma|thunderstick|mortar|barexp|r?xplod|combat|chaingun|cineboom|fireball",
    ),
    SoundClass(
        "water",
        "water",
        r"water|rain|splash|drip|bubbl",
        rf"water(?!bullet)|splash|drip|droplet|bubble|{_W}(lr)?rain{_E}|ripple|plunge|apert|harbor|"
        r"potion",
    ),
    SoundClass(
        "bell",
        "a bell ringing",
        r"bell|gong|chime|ringing",
        rf"bell|gong|chime|{_W}(lr)?ring{_E}|{_W}triangle|glass_hum",
    ),
    SoundClass(
        "engine",
        "an engine",
        r"engine|motor|car\b|train|machine|vehicle|truck|helicopter|(?:air|aero)?plane(?!t)",
        rf"engine|{_W}car{_E}|carpassing|motorcycle|sewingmachine|train(?!ing)|truck|plane|"
        rf"helicopter|machine|diesel|factory|hover|blowtorch|drillgun|vacuum|washing|generator|"
        rf"turbine|minepump|sawidl|sawful|chronos|traffic|jet",
    ),
    SoundClass(
        "breaking",
        "something breaking",
        r"break(?!fast)|crash|smash",
        rf"break(?!beat)|{_W}crash|brick|metal_hit|{_W}(lr)?hits|object_falling|cave-in|pickaxe|"
        r"hammer|metal[0-9]?$",
    ),
    SoundClass(
        "beep",
        "an electronic sound",
        r"electronic|beep|laser|computer|robot",
        rf"beep|bleep|laser|computer|{_W}elec_|{_W}(dash|dot){_E}|alien|robot|phone|space|zoop|"
        rf"whoop|spiral|fairydust|peculiar|screech|dirtywhir|electro|glitch|telept|{_W}weird|warp|"
        rf"(lr)weird|sine|blip|tone",
    ),
    SoundClass(
        "click",
        "a click",
        r"click|tick|typing|tap|knock|snap",
        rf"click|tick|typing|typewriter|{_W}pop{_E}|fingersnap|_snap|flip|knock|switch|button|"
        r"shutter|card|rattle|checkbox|slider|drop$",
    ),
)
CLASS_NAMES = tuple(c.name for c in CLASSES)


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """One evaluation recording."""

    package: str
    name: str
    kind: Kind
    text: str  # what is said, or the class's name, or "music"
    licence: str
    pcm: npt.NDArray[np.float32]  # [n_samples], 16 kHz, first channel


def label_of(name: str) -> str | None:
    """The class that a file's name stands for, or None."""
    stem = re.sub(r"\.[a-z0-9]+$", "", Path(name).name.lower())
    return next((c.name for c in CLASSES if re.search(c.files, stem)), None)


def class_of(answer: str) -> str | None:
    """The first class whose words an answer names, by position in the answer; None if none."""
    ways = ((c.name, rf"\b(?:{c.words})") for c in CLASSES)
    found = [(m.start(), name) for name, way in ways if (m := re.search(way, answer.lower()))]
    return min(found)[1] if found else None


# One speaker each, in whatever file format the package has it.
_HELD_OUT_SPEAKERS = (
    "asterisk-core-sounds-en",
    "asterisk-core-sounds-ru",
    "asterisk-prompt-es-co",
    "asterisk-prompt-fr-armelle",
    "asterisk-prompt-it-menardi",
)


def is_held_out(package: str, name: str) -> bool:
    """Whether a recording belongs to the evaluation and must never be trained on.

    Args:
        package: Debian package.
        name: File name of the recording; with its folders, if it is of fillets-ng-data-cs or -nl.
    """
    if package == "gcompris-qt-data":
        return zlib.crc32(Path(name).name.encode()) % 2 == 0
    if package in ("fillets-ng-data-cs", "fillets-ng-data-nl"):
        # Actors speak in every level, each line in one: a quarter of the levels is kept apart.
        level = re.search(r"([^/]+)/(?:cs|nl)/", name)
        return level is None or zlib.crc32(level[1].encode()) % 4 == 0
    return package == "scratch" or package.startswith(_HELD_OUT_SPEAKERS)


# --- scoring -------------------------------------------------------------------------------------

_UNITS = "zero one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_ONES = f"{_UNITS} {_TEENS}".split()
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def cardinal(n: int) -> str:
    """An English number, 0 to 999,999."""
    if n < 20:
        return _ONES[n]
    if n < 100:
        return f"{_TENS[n // 10]} {_ONES[n % 10] if n % 10 else ''}".strip()
    if n < 1000:
        return f"{_ONES[n // 100]} hundred {cardinal(n % 100) if n % 100 else ''}".strip()
    return f"{cardinal(n // 1000)} thousand {cardinal(n % 1000) if n % 1000 else ''}".strip()


def normalised(text: str) -> str:
    """Lower case, numbers as words, no punctuation: the form in which words are compared."""
    text = text.lower().replace("\u2019", "'").replace("&", " and ").replace("%", " percent ")
    text = re.sub(r"[\[(<].*?[\])>]", " ", text)
    # 10am, 3 PM, a.m.: but "am" by itself is a word.
    hours = r"(?<=\d)\s?([ap])m\b|\b(p)m\b|\b([ap])(?:\.\s?|\s)m\b\.?"
    text = re.sub(hours, lambda m: f" {m[1] or m[2] or m[3]} m", text)
    text = re.sub(r"\d+", lambda m: f" {cardinal(int(m[0]))} " if len(m[0]) < 7 else m[0], text)
    return " ".join(re.sub(r"[^a-z' ]", " ", text).split())


def word_error_rate(references: Iterable[str], answers: Iterable[str]) -> float:
    """Errors over reference words of the whole set, both sides normalised (needs jiwer)."""
    import jiwer

    pairs = [(normalised(r), normalised(a)) for r, a in zip(references, answers, strict=True)]
    pairs = [(r, a) for r, a in pairs if r]
    return float(jiwer.wer([r for r, _ in pairs], [a for _, a in pairs]))


# --- reading the packages ------------------------------------------------------------------------


_STDERR = 2  # what apt-get says is no result: standard output may be JSON


def fetch(cache: Path, packages: Iterable[Package] = PACKAGES) -> None:
    """Downloads and unpacks packages under `cache`, once.

    Args:
        cache: Made if missing; a folder for each package comes to lie in it.
        packages: English speech, sounds and music by default.

    Raises:
        RuntimeError: If a package is of another version, or has other bytes, than the pinned one.
        subprocess.CalledProcessError: If apt-get or dpkg-deb fails; the system must be Debian's.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for package in packages:
        tree = cache / package.name
        if tree.is_dir():
            continue
        # In a folder of this run's own: another may be fetching the same right now.
        with tempfile.TemporaryDirectory(prefix=f"{package.name}.", dir=cache) as folder:
            deb = cache / package.file
            if not deb.exists():
                command = ["apt-get", "download", package.name]
                subprocess.run(command, cwd=folder, check=True, stdout=_STDERR)
                deb = Path(folder) / package.file
            if not deb.exists():
                raise RuntimeError(
                    f"{package.name}: expected {package.file}, got another version of it"
                )
            digest = hashlib.sha256(deb.read_bytes()).hexdigest()
            if digest != package.sha256:
                raise RuntimeError(f"{deb.name}: SHA-256 {digest}, expected {package.sha256}")
            part = Path(folder) / "unpacked"
            subprocess.run(["dpkg-deb", "-x", str(deb), str(part)], check=True)
            deb.replace(cache / package.file)
            _moved(part, tree)


def _moved(part: Path, folder: Path) -> None:
    """Renames, unless another run was quicker."""
    try:
        part.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def clips(cache: Path) -> Iterator[Clip]:
    """Every evaluation recording, in a fixed order; `fetch(cache)` must have run.

    Speech is whole; sounds and music longer than `MAX_SECONDS` are cut there. Needs PyAV for G.722.
    """
    licences = {p.name: p.licence for p in PACKAGES}
    prompts = cache / "asterisk-core-sounds-en-g722/usr/share/asterisk/sounds"
    package = "asterisk-core-sounds-en-g722"
    for path in sorted(prompts.rglob("*.g722")):
        name = "/".join(path.relative_to(prompts).with_suffix("").parts[1:])
        text = _asterisk_texts(cache).get(name, "")
        if text and text[0] not in "[(<" and normalised(text):
            yield Clip(package, name, "speech", text, licences[package], telephone(path))
    media = cache / "scratch/usr/share/scratch/Media/Sounds"
    for path in sorted(media.rglob("*")):
        if path.suffix in {".wav", ".mp3"}:
            name = str(path.relative_to(media))
            folder = path.parent.name
            label = None if folder == "Vocals" else label_of(name)
            if folder == "Music Loops":
                yield Clip("scratch", name, "music", "music", licences["scratch"], read(path))
            elif label:
                yield Clip("scratch", name, "sound", label, licences["scratch"], read(path))
    for name, path in gcompris_sounds(cache / "gcompris-qt-data"):
        if is_held_out("gcompris-qt-data", name):
            kind: Kind = "music" if "/music/" in name or "melody" in path.name else "sound"
            label = "music" if kind == "music" else label_of(name)
            if label:
                licence = licences["gcompris-qt-data"]
                yield Clip("gcompris-qt-data", name, kind, label, licence, read(path))


def gcompris_sounds(tree: Path) -> list[tuple[str, Path]]:
    """(name inside the resources, extracted file) of every sound of GCompris under `tree`."""
    out = tree / "sounds"
    if not out.is_dir():
        with tempfile.TemporaryDirectory(prefix="sounds.", dir=tree) as folder:
            part = Path(folder) / "sounds"
            for resource in sorted(tree.rglob("*.rcc")):
                for name, body in _qt_resource(resource.read_bytes()):
                    if Path(name).suffix in {".ogg", ".wav", ".mp3"}:
                        (part / name).parent.mkdir(parents=True, exist_ok=True)
                        (part / name).write_bytes(body)
            _moved(part, out)
    return [(str(p.relative_to(out)), p) for p in sorted(out.rglob("*")) if p.is_file()]


def _qt_resource(blob: bytes) -> Iterator[tuple[str, bytes]]:
    """Files of a compiled Qt resource: a tree of big-endian records over name and data tables."""
    version, tree, data, names = struct.unpack(">IIII", blob[4:20])
    size = 14 if version == 1 else 22

    def walk(i: int, path: str) -> Iterator[tuple[str, bytes]]:
        at = tree + i * size
        name_at, flags = struct.unpack(">IH", blob[at : at + 6])
        if i:
            (length,) = struct.unpack(">H", blob[names + name_at : names + name_at + 2])
            start = names + name_at + 6
            path += "/" + blob[start : start + 2 * length].decode("utf-16-be")
        if flags & 2:  # a folder
            count, first = struct.unpack(">II", blob[at + 6 : at + 14])
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        start = data + struct.unpack(">I", blob[at + 10 : at + 14])[0]
        (length,) = struct.unpack(">I", blob[start : start + 4])
        body = blob[start + 4 : start + 4 + length]
        yield path.lstrip("/"), zlib.decompress(body[4:]) if flags & 1 else body

    return walk(0, "")


def _asterisk_texts(cache: Path) -> dict[str, str]:
    global _texts
    if not _texts:
        doc = cache / "asterisk-core-sounds-en/usr/share/doc/asterisk-core-sounds-en"
        with gzip.open(doc / "core-sounds-en.txt.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                if ":" in line and not line.startswith(";"):
                    name, text = line.split(":", 1)
                    _texts[name.strip()] = text.strip()
    return _texts


_texts: dict[str, str] = {}


def read(path: Path) -> npt.NDArray[np.float32]:
    """The first channel of a sound file, cut at `MAX_SECONDS`, as [n_samples] at 16 kHz."""
    import soundfile

    pcm, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return _resampled(pcm[: int(MAX_SECONDS * rate), 0], rate)


def telephone(path: Path) -> npt.NDArray[np.float32]:
    """A bare stream of G.722 or GSM 06.10, which its suffix names, as [n_samples] at 16 kHz."""
    import av

    with av.open(str(path), format=path.suffix.removeprefix(".")) as container:
        frames: list[Any] = [f.to_ndarray().reshape(-1) for f in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    pcm = np.concatenate(frames).astype(np.float32) / np.float32(32768)
    return _resampled(pcm, int(rate))


def _resampled(pcm: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float32]:
    import soxr

    pcm = np.ascontiguousarray(pcm)
    return pcm if rate == RATE else np.asarray(soxr.resample(pcm, rate, RATE), np.float32)
