"""Rendered music: the shards `tunes` and `solos`.

General MIDI through fluidsynth (Debian's fluid-soundfont-gm). A tune is a melody over chords that
wander in one key, alone or with two companions and drums, slow or fast; instrument, speed and size
are known. A solo is a shorter phrase of any one instrument, or of drums or bells alone: not music
as a track is, but an instrument that is heard.
"""

import argparse
import random
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.augment import F32, RATE, coloured_noise, in_room, peaked
from training.shards import Record, write
from training.sounds import FONT, GM, read

PROGRAMS = {
    "piano": (0, 1, 2, 4),
    "organ": (16, 19, 20),
    "guitar": (24, 25, 26, 29),
    "violin": (40, 41, 48),
    "trumpet": (56, 57, 61),
    "flute": (73, 74, 75),
    "xylophone": (11, 12, 13),
}
# Keys of the percussion channel.
DRUMS = {
    "drum": (
        (36, 38, 42, 46),
        (35, 40, 44, 49),
        (36, 38, 51, 59),
        (41, 43, 45, 47),
        (49, 57),
        (51, 53, 59),
        (60, 61, 62, 63, 64),
        (70,),
        (69, 82),
        (54,),
        (85,),
        (39,),
        (75, 76, 77),
        (65, 66),
    ),
    "bell": ((80, 81), (84,), (56,), (67, 68), (83,)),
}
SCALE = (0, 2, 4, 5, 7, 9, 11)
TICKS = 480  # a quarter note
SECONDS, GAP = 5.0, 2.0
Event = tuple[int, bytes]
Note = tuple[float, float, int, int, int]  # start and length in s, channel, key, velocity


def tune(
    r: random.Random,
) -> tuple[dict[str, object], float, list[Note]]:
    """What it is, the length of its beat in s, and its notes."""
    fast = r.random() < 0.5
    beat = 60 / (r.uniform(135, 190) if fast else r.uniform(48, 76))
    solo = r.random() < 0.5
    root, degree, at = r.randint(52, 66), r.randrange(7), 0.0
    notes: list[Note] = []

    def key(step: int, octave: int = 0) -> int:
        return root + 12 * (octave + step // 7) + SCALE[step % 7]

    while at < SECONDS:
        length = beat * r.choice((0.5, 0.5, 1, 1, 2) if fast else (0.5, 1, 1, 2))
        degree = max(-4, min(11, degree + r.choice((-2, -1, -1, 1, 1, 2, 4, -3))))
        notes.append((at, 0.95 * length, 0, key(degree), r.randint(75, 110)))
        at += length
    if not solo:
        at = 0.0
        while at < SECONDS:
            chord = r.choice((0, 3, 4, 5))
            for third in (0, 2, 4):
                notes.append((at, 1.9 * beat, 1, key(chord + third, -1), r.randint(50, 75)))
            notes.append((at, 1.9 * beat, 2, key(chord, -2), r.randint(65, 90)))
            for k, drum in enumerate((36, 42, 38, 42)):
                notes.append((at + k * beat / 2, 0.1, 9, drum, r.randint(55, 90)))
            at += 2 * beat
    return {"fast": fast, "solo": solo}, beat, notes


def phrase(r: random.Random) -> tuple[str, list[Note], int]:
    """What is heard, a few of its notes, and its program."""
    label = r.choices(("instrument", "drum", "bell"), (6, 4, 2))[0]
    beat, length = r.uniform(0.12, 0.6), r.uniform(0.8, 4.0)
    notes: list[Note] = []
    at = 0.0
    if label == "drum" or (label == "bell" and r.random() < 0.5):
        keys = r.choice(DRUMS[label])
        while at < length:
            notes.append((at, 0.2, 9, r.choice(keys), r.randint(60, 120)))
            at += beat * r.choice((0.5, 1, 1, 2))
        return label, notes, 0
    root, degree = r.randint(38, 72), 0
    chords, legato = r.random() < 0.25, r.choice((0.4, 0.95, 1.3))
    while at < length:
        step = beat * r.choice((1, 1, 2, 4)) * (3 if label == "bell" else 1)
        degree = max(-6, min(12, degree + r.choice((-2, -1, -1, 1, 1, 2, 4, -3))))
        for third in (0, 2, 4) if chords else (0,):
            octave, place = divmod(degree + third, 7)
            key = min(96, root + 12 * octave + SCALE[place])
            notes.append((at, legato * step, 0, key, r.randint(70, 115)))
        at += step
    programs = [program for program in GM[label] if program >= 0]
    return label, notes, r.choice(programs)


def midi(tunes: list[tuple[list[Note], list[int]]]) -> bytes:
    """One file with every tune after the other, `SECONDS + GAP` apart, at 120 beats a minute."""
    events: list[Event] = []
    for i, (notes, programs) in enumerate(tunes):
        begin = i * (SECONDS + GAP)
        for channel, program in enumerate(programs):
            events.append((round(begin * 2 * TICKS), bytes([0xC0 | channel, program])))
        for start, length, channel, key, velocity in notes:
            on, off = begin + start, begin + min(SECONDS, start + length)
            if start < SECONDS:
                events.append((round(on * 2 * TICKS) + 1, bytes([0x90 | channel, key, velocity])))
                events.append((round(off * 2 * TICKS), bytes([0x80 | channel, key, 0])))
    track, at = b"", 0
    for tick, message in sorted(events, key=lambda e: e[0]):
        track += _variable(tick - at) + message
        at = tick
    track += bytes([0, 0xFF, 0x2F, 0])
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS)
    return header + b"MTrk" + struct.pack(">I", len(track)) + track


def _variable(n: int) -> bytes:
    out = [n & 127]
    while n := n >> 7:
        out.insert(0, n & 127 | 128)
    return bytes(out)


def rendered(
    tunes: list[tuple[list[Note], list[int]]],
) -> Iterator[F32]:
    """Every tune with the seconds behind it in which it dies away."""
    with tempfile.TemporaryDirectory() as folder:
        song, wav = Path(folder) / "a.mid", Path(folder) / "a.wav"
        song.write_bytes(midi(tunes))
        line = ["fluidsynth", "-ni", "-q", "-g", "1", "-r", "16000", "-F", str(wav)]
        subprocess.run([*line, FONT, str(song)], check=True, capture_output=True)
        pcm = read(wav, seconds=60 * (SECONDS + GAP) + 10)
    step = round((SECONDS + GAP) * RATE)
    for i in range(len(tunes)):
        yield pcm[i * step : (i + 1) * step]


def played(pcm: F32, r: random.Random, rng: np.random.Generator) -> F32:
    """In some room, at some level, perhaps not in quiet."""
    if r.random() < 0.3:
        pcm = in_room(pcm, rng)
    pcm = peaked(pcm, 10 ** (r.uniform(-18, -1) / 20))
    if r.random() < 0.4:
        pcm = pcm + coloured_noise(len(pcm), rng, 1.0) * 10 ** (r.uniform(-60, -32) / 20)
    return pcm


def clips(n: int, seed: int) -> Iterator[tuple[Record, F32]]:
    r, rng = random.Random(seed), np.random.default_rng(seed)
    for first in range(0, n, 60):
        made = [tune(r) for _ in range(min(60, n - first))]
        names = [r.choice(sorted(PROGRAMS)) for _ in made]
        others = [r.choice((0, 24, 48, 16)) for _ in made]
        programs = [
            [r.choice(PROGRAMS[name]), o, 33] for name, o in zip(names, others, strict=True)
        ]
        sounds = rendered([(m[2], p) for m, p in zip(made, programs, strict=True)])
        for i, ((what, _, _), pcm) in enumerate(zip(made, sounds, strict=True)):
            start = r.randrange(RATE)
            clip = pcm[start : start + round(r.uniform(2.5, 5.0) * RATE)]
            if len(clip) < RATE or float(np.abs(clip).max()) < 1e-3:
                continue
            record: Record = {"source": "fluid-soundfont-gm", "name": f"tune-{first + i}"}
            record |= {"kind": "music", "text": "music", "instrument": names[i], **what}
            yield record, played(clip, r, rng)


def solos(n: int, seed: int) -> Iterator[tuple[Record, F32]]:
    r, rng = random.Random(seed), np.random.default_rng(seed)
    for first in range(0, n, 60):
        made = [phrase(r) for _ in range(min(60, n - first))]
        sounds = rendered([(notes, [program]) for _, notes, program in made])
        for i, ((label, notes, _), pcm) in enumerate(zip(made, sounds, strict=True)):
            end = min(SECONDS, notes[-1][0] + max(notes[-1][1], 0.3)) + r.uniform(0, 0.5)
            clip = pcm[: round(end * RATE)]
            if float(np.abs(clip).max()) < 1e-3:
                continue
            record = {"source": "fluid-soundfont-gm", "name": f"solo-{first + i}", "kind": "sound"}
            yield record | {"text": label, "phrase": True}, played(clip, r, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--solos", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    print("tunes", write("tunes", clips(options.clips, options.seed)))
    print("solos", write("solos", solos(options.solos, options.seed)))


if __name__ == "__main__":
    main()
