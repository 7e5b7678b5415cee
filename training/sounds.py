"""Sound and music recordings of Debian's packages as the shards `collected` and `rendered`.

Everything that is not held out is taken, with what its file is called; `teach` then decides what is
believed. Two sources add what the packages lack: notes of a General MIDI sound font (Debian's
fluid-soundfont-gm), and electronic beeps and clicks made here.
"""

import argparse
import functools
import hashlib
import io
import re
import struct
import subprocess
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from kokanee.benchmarks.heldout import gcompris_sounds, is_held_out, label_of
from training.copies import copy_of, held_out
from training.sentences import listed
from training.shards import Record, write

RATE = 16_000
CLIP = 6 * RATE
FONT = "/usr/share/sounds/sf2/FluidR3_GM.sf2"
SUFFIXES = {".wav", ".ogg", ".mp3", ".flac", ".aiff"}

# Packages whose files are heard one by one.
PACKAGES = listed(
    "0ad-data a7xpg-data abe-data adonthell-data afterstep-data alienblaster-data amoebax-data "
    "amphetamine-data angrydd ardentryst atanks-data bambam berusky2-data blockout2 boswars-data "
    "brainparty-data btanks-data bucklespring-data burgerspace bzflag-data caveexpress-data "
    "ceferino-data chromium-bsu-data chuck-data circuslinux-data clanlib-doc coccinella "
    "colobot-common-sounds crossfire-client cube2-data cuyo-data davegnukem-data "
    "deepin-sound-theme dopewars-data drascula-music dustracing2d-data eboard emacspeak "
    "endless-sky-data enemylines3 enigma-data epiphany-data etw-data excellent-bifurcation "
    "extremetuxracer-data fillets-ng-data flare-game flightgear-data-base flobopuyo "
    "foobillardplus-data freeciv-data freecol freedink-data freedroid-data freedroidrpg-data "
    "freefilesync freegish-data freeorion-data freetennis-common frozen-bubble-data funnyboat "
    "gajim gambas3-examples gamine-data garden-of-coloured-lights-data geki2 geki3 gemdropx "
    "gigalomania-data gl-117-data glob2-data gnome-audio gnubg-data gnujump-data "
    "gnustep-gui-common granatier gunroar-data hannah-data hedgewars-data heroes-sound-effects "
    "hex-a-hop-data holotz-castle-data hydrogen-data hydrogen-drumkits hydrogen-drumkits-effects "
    "hyperrogue-music icebreaker jag jami-daemon kgoldrunner khangman kolf komi krank "
    "ktuberling-data ktx laby lbreakout2-data lbreakouthd-data lincity-ng-data lmms-common "
    "lomiri-sounds lugaru-data madbomber-data manaplus-data marsshooter-data mazeofgalious-data "
    "megaglest-data meritous-data micropolis-data mikutter minetest-data minetest-mod-homedecor "
    "minetest-mod-mesecons minetest-mod-nether minetest-mod-unified-inventory mirrormagic-data "
    "monsterz-data mu-cade-data naev-data netpanzer-data neverball-common nexuiz-data njam-data "
    "noiz2sa-data open-invaders-data openarena-081-misc openarena-081-players openarena-data "
    "opencity-data overgod-data oxygen-sounds parsec47-data pathological pd-lyonpotpourri "
    "pekka-kana-2-data penguin-command performous pinball-data pingus-data planetblupi-common "
    "planetblupi-music-ogg plee-the-bear-data pokerth-data powermanga-data psi-plus-sounds "
    "pushover pushover-data pychess pysiogame python-kivy-examples qabcs-data redeclipse-data "
    "ri-li-data rockdodger rrootage-data sawfish-data scorched3d-data sdl-ball-data "
    "seahorse-adventures searchandrescue-data simutrans-pak64 singularity-music solarwolf "
    "sonic-pi-samples sound-icons sound-theme-freedesktop starfighter-data starvoyager-data "
    "supertransball2-data supertux-data supertuxkart-data tecnoballz-data titanion-data tkabber "
    "torcs-data torus-trooper-data trackballs-data triplea trophy-data tumiki-fighters-data "
    "tuxfootball tuxmath-data tuxpaint-data tuxpaint-plugins-default tuxpaint-stamps-default "
    "tuxtype-data tworld-data ufoai-sound unknown-horizons val-and-rick-data vectoroids "
    "warmux-data warzone2100-data warzone2100-music wesnoth-1.16-data wesnoth-1.16-music "
    "widelands-data wing-data wizznic-data wordwarvi-sound workrave-data xboard "
    "xemacs21-basesupport yaru-theme-sound zaz-data"
)
# The parts of their paths to skip: speech that other shards take, and silence.
SKIPPED = {
    "0ad-data": r"/music/|voice",
    "flare-game": r"merchant|_phys|_ment",
    "flightgear-data-base": r"mk-viii|tcas|flarm|atc",
    "freedroidrpg-data": r"[Vv]oice|dialog",
    "hedgewars-data": r"/voices/.*/(?!Laugh|PoisonCough|Ow|Ooff)[^/]*$",
    "hydrogen-drumkits": r"[Dd]emo",
    "ktuberling-data": r"/sounds/[a-z]+(@[a-z]+)?/|doc/",
    "marsshooter-data": r"announcer",
    "megaglest-data": r"_ack|_select|/ack",
    "netpanzer-data": r"selected|yessir",
    "nexuiz-data": r"announcer|/player/",
    "openarena-081-misc": r"feedback|announcer",
    "openarena-data": r"feedback|announcer|teamplay",
    "qabcs-data": r"/sounds/(alpha|words)/",
    "redeclipse-data": r"announcer|voice|/taunts",
    "sonic-pi-samples": r"loop_|ambi_|bass_",
    "tuxpaint-stamps-default": r"_desc|_[a-z]{2}(_[A-Za-z]{2})?\.ogg|/symbols/|/hobbies/",
    "ufoai-sound": r"jingle",
    "warzone2100-data": r"voice|speech|sequenceaudio|/audio/(en|de|fr)",
    "wesnoth-1.16-data": r"/ui/|-miss|horn-signals",
}
# Folders and packages that hold music, whatever their names are.
MUSIC = (
    r"/music/|-music|/Music/|/ringtones/|zik\.|/songs?/|_theme|theme\.|/data/music|"
    r"mu_|soundtrack|/ambience/"
)
# Packages that hold one kind of sound.
ALL_OF = {
    "bucklespring-data": "click",  # a keyboard's keys
    "chuck-data": "drum",
    "hydrogen-data": "drum",
    "hydrogen-drumkits": "drum",
    "hydrogen-drumkits-effects": "instrument",  # a guitar's chords
}
# Hundreds of nearly equal strokes and keys: one in four is taken.
ALIKE = {"hydrogen-drumkits", "hydrogen-drumkits-effects", "bucklespring-data"}
# Names that are true, but of the game's world: the teacher is not told of them.
MUTE = {"colobot-common-sounds", "planetblupi-common", "endless-sky-data", "emacspeak"}
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
TITLES = {
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
GM = {
    "instrument": [*range(8), *range(11, 14), *range(16, 47), *range(56, 80), 104, 105, 106],
    "bell": [9, 14, 112, 14, 9],
    "drum": [47, 116, 117, 118, -1, -1, -1, -1],
    "bird": [123],
    "engine": [125],
    "gunfire": [127],
    "water": [122],
}


def read(source: Path | io.BytesIO, seconds: float = 60) -> npt.NDArray[np.float32]:
    """The first `seconds` of a recording, first channel, at 16 kHz."""
    pcm, rate = sf.read(source, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(pcm[: int(seconds * rate), 0], rate, RATE), np.float32)


def trimmed(pcm: np.ndarray) -> np.ndarray:
    """Without leading quiet, at a peak of -1 dB, at most six seconds."""
    peak = float(np.abs(pcm).max()) if len(pcm) else 0.0
    if peak < 1e-3:
        return pcm[:0]
    start = max(0, int(np.argmax(np.abs(pcm) > 0.02 * peak)) - 800)
    return pcm[start : start + CLIP] * (0.89 / peak)


def files(tree: Path) -> Iterator[tuple[str, str, Callable[[], npt.NDArray[np.float32]]]]:
    """(package, name, reader) of every recording that is not held out, inside archives too."""
    for package in PACKAGES:
        skip = SKIPPED.get(package)
        for path in sorted((tree / package).rglob("*")):
            name = str(path.relative_to(tree / package))
            if path.is_symlink() or not path.is_file():
                continue
            if path.suffix.lower() in SUFFIXES:
                if not (skip and re.search(skip, "/" + name)) and not is_held_out(package, name):
                    yield package, name, functools.partial(read, path)
            elif path.suffix.lower() in {".zip", ".pk3", ".wz"}:
                with zipfile.ZipFile(path) as archive:
                    for member in sorted(archive.namelist()):
                        if Path(member).suffix.lower() in SUFFIXES and not (
                            skip and re.search(skip, "/" + member)
                        ):
                            yield package, member, functools.partial(_member, archive, member)
    for name, path in gcompris_sounds(tree / "gcompris-qt-data"):
        if not is_held_out("gcompris-qt-data", name):
            yield "gcompris-qt-data", name, functools.partial(read, path)
    opensfx = next((tree / "openttd-opensfx").rglob("opensfx.cat")).read_bytes()
    for package, name, pcm in (*_opensfx(opensfx), *_freedoom(tree / "freedoom")):
        yield package, name, functools.partial(np.asarray, pcm)


def _member(archive: zipfile.ZipFile, name: str) -> npt.NDArray[np.float32]:
    return read(io.BytesIO(archive.read(name)))


def label_by_name(package: str, name: str) -> str | None:
    """What a file is called, where that means anything."""
    stem = Path(name).stem
    folder = name.rsplit("/", 2)[-2] if "/" in name else ""
    if package in MUTE:
        return None
    if package == "wesnoth-1.16-data" and re.search(r"^(drake|gryphon|bat|lich)", stem):
        return "bird" if stem.startswith("gryphon-shriek") else None
    if re.match(r"O(w|off)\d", stem) or folder in {"civilians", "soldiers"}:
        return "scream"
    if package in ALL_OF:
        return ALL_OF[package]
    if folder == "footsteps":
        return "footsteps"
    if package in {"openttd-opensfx", "freedoom"}:
        return label_of(next((v for k, v in TITLES.items() if k in name), name))
    return label_of(RENAMED.get(stem, stem))


def collected(tree: Path, seed: int) -> Iterator[tuple[Record, np.ndarray]]:
    """Every recording as it lies there, with what its name says; `teach` decides what it is.

    A file longer than twelve seconds gives up to eight crops of six seconds.
    """
    rng = np.random.default_rng(seed)
    seen: set[bytes] = set()
    counts: Counter[str] = Counter()
    for package, name, reader in files(tree):
        try:
            pcm = reader()
        except (sf.LibsndfileError, RuntimeError, zipfile.BadZipFile, OSError) as error:
            print(package, name, error)
            continue
        digest = hashlib.sha256(np.round(pcm * 127).astype(np.int8).tobytes()).digest()
        if digest in seen or len(pcm) < 0.05 * RATE or copy_of(pcm, *held_out()):
            continue
        seen.add(digest)
        counts[package] += 1
        if package in ALIKE and counts[package] % 4:
            continue
        long = len(pcm) > 2 * CLIP
        starts = [0]
        if long:
            n_crops = min(8, len(pcm) // CLIP)
            starts = [int(rng.integers(0, len(pcm) - CLIP)) for _ in range(n_crops)]
        for start in starts:
            clip = trimmed(pcm[start : start + CLIP] if long else pcm)
            if len(clip) > 0.05 * RATE:
                yield (
                    {
                        "source": package,
                        "name": name,
                        "kind": "other",
                        "text": "",
                        "file_label": label_by_name(package, name),
                        "music_by_name": bool(re.search(MUSIC, f"{package}/{name}")),
                        "long": long,
                    },
                    clip,
                )


def _opensfx(blob: bytes) -> Iterator[tuple[str, str, np.ndarray]]:
    for i in range(struct.unpack_from("<I", blob)[0] % 2**31 // 8):
        at, size = struct.unpack_from("<II", blob, 8 * i)
        at &= 2**31 - 1
        length = blob[at]
        title = blob[at + 1 : at + 1 + length].split(b'".')[0].decode("latin-1").strip('"').lower()
        if size > 4000:
            body = io.BytesIO(blob[at + 1 + length : at + 1 + length + size])
            yield "openttd-opensfx", title, read(body)


def _freedoom(tree: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    seen = set()
    for wad in sorted(tree.rglob("*.wad")):
        blob = wad.read_bytes()
        n_lumps, directory = struct.unpack_from("<II", blob, 4)
        for i in range(n_lumps):
            at, size, raw = struct.unpack_from("<II8s", blob, directory + 16 * i)
            name = raw.rstrip(b"\0").decode("latin-1").lower()
            if name.startswith("ds") and size > 8 and name not in seen:
                seen.add(name)
                _, rate, n = struct.unpack_from("<HHI", blob, at)
                pcm = np.frombuffer(blob, np.uint8, n, at + 8).astype(np.float32) / 128 - 1
                yield "freedoom", name[2:], soxr.resample(pcm, rate, RATE)


def notes(seed: int) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Short phrases of General MIDI programs, rendered by fluidsynth."""
    rng = np.random.default_rng(seed)
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
                    subprocess.run([*line, FONT, str(song)], check=True, capture_output=True)
                    yield "fluid-soundfont-gm", f"{program}-{k}", label, read(wav)


def _wave(hz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A tone of that pitch at each sample: sine, square, saw or two of them ringing."""
    phase = 2 * np.pi * np.cumsum(hz) / RATE
    kind = int(rng.integers(4))
    if kind == 0:
        return np.asarray(np.sin(phase))
    if kind == 1:
        return np.asarray(np.where(np.sin(phase) > rng.uniform(-0.7, 0.7), 0.5, -0.5))
    if kind == 2:
        return np.asarray(phase / np.pi % 2 - 1) * 0.7
    return np.asarray(np.sin(phase + rng.uniform(0.5, 6) * np.sin(phase * rng.uniform(0.3, 3))))


def _steps(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One pitch after the other: a scale of an arpeggio, or a computer's chatter."""
    length = rng.uniform(0.03, 0.16)
    k = (t / length).astype(int)
    if rng.random() < 0.5:
        return np.asarray(rng.uniform(200, 1500) * rng.choice((1.12, 1.26, 1.5, 0.8)) ** (k % 8))
    return np.asarray(np.exp(rng.uniform(np.log(200), np.log(4000), k[-1] + 1))[k])


def electronic(rng: np.random.Generator) -> np.ndarray:
    """What games and computers beep: sweeps, steps and wobbles, and what follows them."""
    t = np.arange(int(rng.uniform(0.15, 2.5) * RATE)) / RATE
    kind = rng.random()
    if kind < 0.3:
        hz = _steps(t, rng)
    else:
        start, end = np.exp(rng.uniform(np.log(80), np.log(4000), 2))
        hz = start + (end - start) * (t / t[-1]) ** rng.uniform(0.2, 4) * (kind < 0.8)
    wobble = rng.choice((0.0, rng.uniform(0, 0.3))) * np.sin(2 * np.pi * rng.uniform(2, 60) * t)
    wave = _wave(np.minimum(hz * (1 + wobble), 7000), rng)
    wave *= np.exp(-rng.uniform(0, 6) * t)
    if rng.random() < 0.3:
        wave *= np.sin(2 * np.pi * rng.uniform(1, 40) * t) > 0
    if rng.random() < 0.3:  # echoes
        delay, fade = int(rng.uniform(0.05, 0.3) * RATE), rng.uniform(0.3, 0.7)
        wave = np.pad(wave, (0, 3 * delay))
        for _ in range(3):
            wave[delay:] += fade * wave[:-delay]
    return wave.astype(np.float32)


def made(seed: int) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Electronic sounds and clicks out of formulas."""
    rng = np.random.default_rng(seed)
    for k in range(300):
        yield "made", f"beep-{k}", "beep", electronic(rng)
    for k in range(80):
        out = np.zeros(int(rng.uniform(0.3, 1.5) * RATE), np.float32)
        for _ in range(int(rng.integers(1, 6))):
            n = int(rng.uniform(0.003, 0.03) * RATE)
            tone = np.sin(2 * np.pi * rng.uniform(500, 5000) * np.arange(n) / RATE)
            click = (rng.standard_normal(n) * rng.random() + tone) * np.exp(-6 * np.arange(n) / n)
            at = int(rng.integers(0, len(out) - n))
            out[at : at + n] += click
        yield "made", f"click-{k}", "click", out


def rendered(seed: int) -> Iterator[tuple[Record, np.ndarray]]:
    """Notes of a sound font and electronic sounds, whose names are true by construction."""
    for source in (notes(seed), made(seed)):
        for package, name, label, pcm in source:
            clip = trimmed(pcm)
            if len(clip) > 0.05 * RATE:
                yield {"source": package, "name": name, "kind": "sound", "text": label}, clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, help="TREE/<package> is an unpacked Debian package")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("collected", write("collected", collected(options.tree, options.seed)))
    print("rendered", write("rendered", rendered(options.seed)))


if __name__ == "__main__":
    main()
