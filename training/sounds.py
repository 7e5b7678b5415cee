"""Sound and music recordings of Debian's packages as the shards `sounds` and `music`.

The label is the file's name through `heldout.label_of`, the function that also labels the
evaluation; a recording without one, or that the evaluation holds out, is left out. Two sources add
what the packages lack: notes of a General MIDI sound font (Debian's fluid-soundfont-gm) and
electronic beeps and clicks made here.
"""

import argparse
import io
import re
import struct
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from kokanee.benchmarks.heldout import gcompris_sounds, is_held_out, label_of
from training.shards import Record, write

RATE = 16_000
CLIP = 6 * RATE
SUFFIXES = {".wav", ".ogg", ".mp3", ".flac", ".aiff"}

# Packages whose file names say what is heard, with the part of the path to skip.
NAMED = {
    "tuxpaint-stamps-default": r"_desc|_[a-z]{2}(_[A-Za-z]{2})?\.ogg|/symbols/|/hobbies/",
    "wesnoth-1.16-data": r"/ui/|-miss|horn-signals",
    "hedgewars-data": r"/voices/.*/(?!Laugh|PoisonCough|Ow|Ooff)[^/]*$|/Music/",
    "sonic-pi-samples": r"loop_|ambi_|bass_",
    "sound-icons": r"^$",
    "frozen-bubble-data": r"mainzik|introzik",
    "hydrogen-drumkits": r"[Dd]emo",
}
MUSIC = {
    "wesnoth-1.16-music": "",
    "drascula-music": "",
    "fillets-ng-data": "/music/",
    "hedgewars-data": "/Music/",
    "lomiri-sounds": "/ringtones/",
    "frozen-bubble-data": "zik",
}
# Names that say nothing, or the wrong thing, to the evaluation's patterns.
RENAMED = {
    "drake": "duck",  # tuxpaint's bird; wesnoth's are dragons and carry -hit, -die
    "sheep_lamb": "sheep",
    "cow_white": "cow",
    "fox": "dog",
    "firetruck": "truck",
    "kettle": "water",
    "vacuum_cleaner": "vacuum",
    "Washing-machine": "washing",
    "fireworks": "firework",
    "chimp": "",
    "bird_flying": "bird",
}
GM = {
    "instrument": [*range(8), *range(11, 14), *range(16, 47), *range(56, 80), 104, 105, 106],
    "bell": [9, 14, 112, 14, 9],
    "drum": [47, 116, 117, 118, -1, -1, -1, -1],
    "bird": [123],
    "engine": [125],
    "gunfire": [127],
    "water": [122],
}


def read(source: Path | io.BytesIO) -> np.ndarray:
    pcm, rate = sf.read(source, dtype="float32", always_2d=True)
    return soxr.resample(pcm[: 60 * rate, 0], rate, RATE)


def trimmed(pcm: np.ndarray) -> np.ndarray:
    """Without leading quiet, at a peak of -1 dB, at most six seconds."""
    peak = float(np.abs(pcm).max()) if len(pcm) else 0.0
    if peak < 1e-3:
        return pcm[:0]
    start = max(0, int(np.argmax(np.abs(pcm) > 0.02 * peak)) - 800)
    return pcm[start : start + CLIP] * (0.89 / peak)


def named(tree: Path) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """(package, name, label, samples) of every labelled recording of the packages."""
    files = [
        (package, path)
        for package, skip in NAMED.items()
        for path in sorted((tree / package).rglob("*"))
        if path.suffix.lower() in SUFFIXES and not re.search(skip, str(path)) and path.is_file()
    ]
    kits = 0
    for package, path in files:
        stem = path.stem
        if package == "hydrogen-drumkits":
            kits += 1
            label = "drum" if kits % 5 == 0 else None
        elif package == "wesnoth-1.16-data" and re.search(r"^(drake|gryphon|bat|lich)", stem):
            label = "bird" if stem.startswith("gryphon-shriek") else None
        elif re.match(r"O(w|off)\d", stem):
            label = "scream"
        else:
            label = label_of(RENAMED.get(stem, stem))
        if label and not is_held_out(package, path.name):
            yield package, path.name, label, read(path)
    for name, path in gcompris_sounds(tree / "gcompris-qt-data"):
        label = label_of(name)
        if label and "/music/" not in name and not is_held_out("gcompris-qt-data", name):
            yield "gcompris-qt-data", name, label, read(path)
    for archive in sorted((tree / "ufoai-sound").rglob("*.pk3")):
        with zipfile.ZipFile(archive) as members:
            for name in sorted(members.namelist()):
                folder, _, _ = name.removeprefix("sound/").partition("/")
                label = "footsteps" if folder == "footsteps" else label_of(name)
                if folder in {"civilians", "soldiers"}:
                    label = "scream"
                if name.endswith(".ogg") and label and "jingle" not in name:
                    yield "ufoai-sound", name, label, read(io.BytesIO(members.read(name)))
    yield from _opensfx(next((tree / "openttd-opensfx").rglob("opensfx.cat")).read_bytes())
    yield from _freedoom(tree / "freedoom")


def _opensfx(blob: bytes) -> Iterator[tuple[str, str, str, np.ndarray]]:
    words = {
        "jackhammer": "hammer",
        "chainsaw": "engine",
        "sawmill": "engine",
        "bus start": "car",
        "horn": "",
        "metal": "",
        "toyland: t": "",
        "applause": "clap",
        "crashing": "crash",
        "machinery": "machine",
        "level crossing": "bell",
    }
    for i in range(struct.unpack_from("<I", blob)[0] % 2**31 // 8):
        at, size = struct.unpack_from("<II", blob, 8 * i)
        at &= 2**31 - 1
        length = blob[at]
        title = blob[at + 1 : at + 1 + length].split(b'".')[0].decode("latin-1").strip('"').lower()
        label = label_of(next((v for k, v in words.items() if k in title), title))
        if label and size > 4000:
            body = io.BytesIO(blob[at + 1 + length : at + 1 + length + size])
            yield "openttd-opensfx", title, label, read(body)


def _freedoom(tree: Path) -> Iterator[tuple[str, str, str, np.ndarray]]:
    seen = set()
    for wad in sorted(tree.rglob("*.wad")):
        blob = wad.read_bytes()
        n_lumps, directory = struct.unpack_from("<II", blob, 4)
        for i in range(n_lumps):
            at, size, raw = struct.unpack_from("<II8s", blob, directory + 16 * i)
            name = raw.rstrip(b"\0").decode("latin-1").lower()
            label = label_of(name[2:]) if name.startswith("ds") and size > 8 else None
            if label and name not in seen:
                seen.add(name)
                _, rate, n = struct.unpack_from("<HHI", blob, at)
                pcm = np.frombuffer(blob, np.uint8, n, at + 8).astype(np.float32) / 128 - 1
                yield "freedoom", name, label, soxr.resample(pcm, rate, RATE)


def notes(seed: int) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Short phrases of General MIDI programs, rendered by fluidsynth."""
    rng = np.random.default_rng(seed)
    font = "/usr/share/sounds/sf2/FluidR3_GM.sf2"
    for label, programs in GM.items():
        for k in range(4 if label == "instrument" else 8):
            for program in programs:
                channel = 9 if program < 0 else 0
                track = bytes([0, 0xC0 | channel, max(program, 0)])
                for _ in range(int(rng.integers(1, 6))):
                    low, high = (35, 60) if channel == 9 else (40, 80)
                    chord = rng.integers(low, high, int(rng.integers(1, 3)))
                    for note in chord:
                        track += bytes([0, 0x90 | channel, int(note), int(rng.integers(60, 120))])
                    ticks = int(rng.integers(20, 127))
                    for j, note in enumerate(chord):
                        track += bytes([0 if j else ticks, 0x80 | channel, int(note), 0])
                track += bytes([0, 0xFF, 0x2F, 0])
                midi = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96)
                midi += b"MTrk" + struct.pack(">I", len(track)) + track
                with tempfile.TemporaryDirectory() as folder:
                    song, wav = Path(folder) / "a.mid", Path(folder) / "a.wav"
                    song.write_bytes(midi)
                    line = ["fluidsynth", "-ni", "-q", "-g", "1", "-r", "16000", "-F", str(wav)]
                    subprocess.run([*line, font, str(song)], check=True, capture_output=True)
                    yield "fluid-soundfont-gm", f"{program}-{k}", label, read(wav)


def made(seed: int) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Beeps, sweeps and clicks out of formulas."""
    rng = np.random.default_rng(seed)
    for k in range(160):
        t = np.arange(int(rng.uniform(0.15, 1.5) * RATE)) / RATE
        start, end = np.exp(rng.uniform(np.log(150), np.log(4000), 2))
        pitch = start + (end - start) * (t / t[-1]) ** rng.uniform(0.3, 3) * (rng.random() < 0.6)
        wobble = rng.uniform(0, 0.3) * np.sin(2 * np.pi * rng.uniform(2, 60) * t)
        wave = np.sin(2 * np.pi * np.cumsum(pitch * (1 + wobble)) / RATE)
        if rng.random() < 0.4:
            wave = np.sign(wave) * 0.5
        wave *= np.exp(-rng.uniform(0, 6) * t)
        if rng.random() < 0.5:
            wave *= np.sin(2 * np.pi * rng.uniform(1, 12) * t) > 0
        yield "made", f"beep-{k}", "beep", wave.astype(np.float32)
    for k in range(80):
        out = np.zeros(int(rng.uniform(0.3, 1.5) * RATE), np.float32)
        for _ in range(int(rng.integers(1, 6))):
            n = int(rng.uniform(0.003, 0.03) * RATE)
            tone = np.sin(2 * np.pi * rng.uniform(500, 5000) * np.arange(n) / RATE)
            click = (rng.standard_normal(n) * rng.random() + tone) * np.exp(-6 * np.arange(n) / n)
            at = int(rng.integers(0, len(out) - n))
            out[at : at + n] += click
        yield "made", f"click-{k}", "click", out


def sounds(tree: Path, seed: int) -> Iterator[tuple[Record, np.ndarray]]:
    for source in (named(tree), notes(seed), made(seed)):
        for package, name, label, pcm in source:
            clip = trimmed(pcm)
            if len(clip) > 0.05 * RATE:
                yield {"source": package, "name": name, "kind": "sound", "text": label}, clip


def music(tree: Path, seed: int) -> Iterator[tuple[Record, np.ndarray]]:
    """Up to five crops of four seconds a track."""
    rng = np.random.default_rng(seed)
    for package, part in MUSIC.items():
        for path in sorted((tree / package).rglob("*")):
            if path.suffix.lower() not in SUFFIXES or part not in str(path):
                continue
            try:
                with sf.SoundFile(path) as track:
                    seconds = track.frames / track.samplerate
                    for _ in range(int(min(5, max(1, seconds // 8)))):
                        track.seek(int(rng.uniform(0, max(0.0, seconds - 5)) * track.samplerate))
                        pcm = track.read(int(4 * track.samplerate), "float32", always_2d=True)
                        clip = trimmed(soxr.resample(pcm[:, 0], track.samplerate, RATE))
                        if len(clip) > RATE // 2:
                            record = {"source": package, "name": path.name, "text": "music"}
                            yield {**record, "kind": "music"}, clip
            except (sf.LibsndfileError, RuntimeError) as error:
                print(path.name, error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, help="TREE/<package> is an unpacked Debian package")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("sounds", write("sounds", sounds(options.tree, options.seed)))
    print("music", write("music", music(options.tree, options.seed)))


if __name__ == "__main__":
    main()
