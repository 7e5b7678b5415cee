"""Clips on disk: one shard a source, samples as int16, both encoders' features as float16.

A shard is `<name>.json` (one record a clip), `<name>.pcm` (int16, 16 kHz, clips end to end) and,
once `encode` and `hear` have run, `<name>.speech` and `<name>.audio` (float16 [n_frames, width],
clips end to end). Writing the JSON comes last, so an interrupted shard is simply made again, and a
shard that is made again loses what was computed of the former; `encode` and `hear` resume at the
clip they stopped at.
"""

import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kokanee.engine.features import fbank, log_mel

WINDOW = 5440  # samples: 17 frames of 20 ms
MIN_SAMPLES = 16_000
D_SPEECH = 512
D_AUDIO = 256
N_TAUGHT = 521
WORK = Path(os.environ.get("KOKANEE_TRAINING", "/var/tmp/kokanee-training"))

HELD_OUT_VOICE = "flite-rms"
ACTED = {"fotaq", "beneath-a-steel-sky", "drascula"}

MEASURED = ("at", "n_samples", "level_db")  # what `write` adds to a record

Record = dict[str, Any]
F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]


def is_validation(record: Record) -> bool:
    """A held-out voice, one in forty acted lines, one in eight sounds, one in twenty foreigners."""
    source = record["source"]
    name = record["name"]
    if "held" in record:  # whoever put several clips together knows
        return bool(record["held"])
    # Takes of one event and crops of one track stay together; of these the numbers are the names.
    if source not in {"made", "fluid-soundfont-gm", "drascula-music"}:
        name = re.sub(r"[\d_.-]+", "", name)
    digest = zlib.crc32(name.encode())
    if record["kind"] in {"speech", "question"}:
        digest = zlib.crc32(record["name"].encode())
        if record.get("language"):
            return digest % 20 == 0
        return source == f"tts-{HELD_OUT_VOICE}" or (source in ACTED and digest % 40 == 0)
    return digest % 8 == 0


def padded(n_samples: int) -> int:
    """Samples of a clip after nano's padding: at least a second, whole windows."""
    return -(-max(n_samples, MIN_SAMPLES) // WINDOW) * WINDOW


def write(name: str, clips: Iterable[tuple[Record, np.ndarray]]) -> int:
    """Writes (record, float32 samples in [-1, 1]) pairs as a shard; returns how many."""
    folder = WORK / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("json", "speech", "audio", "teacher"):
        (folder / f"{name}.{kind}").unlink(missing_ok=True)
    records, at = [], 0
    with (folder / f"{name}.pcm").open("wb") as sink:
        for record, pcm in clips:
            samples = np.clip(np.round(pcm * 32767), -32768, 32767).astype(np.int16)
            sink.write(samples.tobytes())
            level = 10 * np.log10(np.square(pcm, dtype=np.float64).mean() + 1e-12)
            measured = (at, len(samples), round(float(level), 1))
            records.append({**record, **dict(zip(MEASURED, measured, strict=True))})
            at += len(samples)
    (folder / f"{name}.json").write_text(json.dumps(records))
    return len(records)


class Shard:
    """Reads a shard; `speech(i)` needs `encode` to have run."""

    def __init__(self, name: str) -> None:
        folder = WORK / "shards"
        self.name = name
        self.records: list[Record] = json.loads((folder / f"{name}.json").read_text())
        self._pcm = np.memmap(folder / f"{name}.pcm", np.int16, "r")
        self._speech_path = folder / f"{name}.speech"
        self._audio_path = folder / f"{name}.audio"
        self._speech: F16 | None = None
        self._audio: F16 | None = None
        self._teacher: F16 | None = None
        n_frames = [padded(r["n_samples"]) // 320 for r in self.records]
        self.frame_at = np.concatenate([[0], np.cumsum(n_frames)])

    def __len__(self) -> int:
        return len(self.records)

    def pcm(self, i: int) -> np.ndarray:
        r = self.records[i]
        return self._pcm[r["at"] : r["at"] + r["n_samples"]].astype(np.float32) / 32767

    def n_windows(self, i: int) -> int:
        return int(self.frame_at[i + 1] - self.frame_at[i]) // 17

    @property
    def n_encoded(self) -> int:
        """Clips whose speech features are on disk, counted from the first."""
        return self._n_done(self._speech_path, D_SPEECH)

    @property
    def n_heard(self) -> int:
        """Clips whose audio features are on disk, counted from the first."""
        return self._n_done(self._audio_path, D_AUDIO)

    def _n_done(self, path: Path, width: int) -> int:
        if not path.exists():
            return 0
        frames = path.stat().st_size // (2 * width)
        return int(np.searchsorted(self.frame_at, frames, side="right")) - 1

    def speech(self, i: int) -> F16:
        """float16 [n_frames, 512]."""
        if self._speech is None or len(self._speech) < self.frame_at[i + 1]:
            self._speech = np.memmap(self._speech_path, np.float16, "r").reshape(-1, D_SPEECH)
        return self._speech[self.frame_at[i] : self.frame_at[i + 1]]

    def audio(self, i: int) -> F16:
        """float16 [n_frames, 256]; exact zeros after the audio encoder's last frame."""
        if self._audio is None or len(self._audio) < self.frame_at[i + 1]:
            self._audio = np.memmap(self._audio_path, np.float16, "r").reshape(-1, D_AUDIO)
        return self._audio[self.frame_at[i] : self.frame_at[i + 1]]

    def teacher(self, i: int) -> F16:
        """float16 [n_patches, 521], the teacher's logits; `teach` must have run."""
        if self._teacher is None:
            path = self._audio_path.with_suffix(".teacher")
            self._teacher = np.memmap(path, np.float16, "r").reshape(-1, N_TAUGHT)
            n_patches = [r["n_patches"] for r in self.records]
            self._patch_at = np.concatenate([[0], np.cumsum(n_patches)])
        return self._teacher[self._patch_at[i] : self._patch_at[i + 1]]

    @torch.no_grad()
    def encode(self, encoder: torch.nn.Module, until: float = float("inf")) -> None:
        """Appends Whisper's features, batching the clips of a block that are equally long."""

        def features(ids: list[int]) -> np.ndarray:
            n = self.n_windows(ids[0]) * WINDOW
            mel = np.stack([log_mel(_pad(self.pcm(i), n)) for i in ids])
            return np.asarray(encoder(torch.from_numpy(mel)).half().numpy())

        self._append(self._speech_path, D_SPEECH, self.n_windows, features, until)

    @torch.no_grad()
    def hear(self, beats: torch.nn.Module, until: float = float("inf")) -> None:
        """Appends the audio encoder's features."""

        def n_patches(i: int) -> int:
            n_samples = max(self.records[i]["n_samples"], MIN_SAMPLES)
            return int((1 + (n_samples - 400) // 160) // 16)

        def features(ids: list[int]) -> np.ndarray:
            n = 16 * n_patches(ids[0])
            banks = [fbank(_pad(self.pcm(i), max(MIN_SAMPLES, self._length(i))))[:n] for i in ids]
            return np.asarray(beats(torch.from_numpy(np.stack(banks))).half().numpy())

        self._append(self._audio_path, D_AUDIO, n_patches, features, until)

    def _length(self, i: int) -> int:
        return int(self.records[i]["n_samples"])

    def _append(
        self,
        path: Path,
        width: int,
        length: Callable[[int], int],
        features: Callable[[list[int]], np.ndarray],
        until: float,
    ) -> None:
        done = self._n_done(path, width)
        with path.open("ab") as sink:
            sink.truncate(int(self.frame_at[done]) * 2 * width)
            while done < len(self) and time.time() < until:
                block = range(done, min(done + 256, len(self)))
                out: dict[int, np.ndarray] = {}
                by_length: dict[int, list[int]] = {}
                for i in block:
                    by_length.setdefault(length(i), []).append(i)
                for group in by_length.values():
                    for k in range(0, len(group), 16):
                        ids = group[k : k + 16]
                        out.update(zip(ids, features(ids), strict=True))
                for i in block:
                    n_frames = int(self.frame_at[i + 1] - self.frame_at[i])
                    rows = np.zeros((n_frames, width), np.float16)
                    rows[: len(out[i])] = out[i]
                    sink.write(rows.tobytes())
                sink.flush()
                done = block.stop


def _pad(pcm: np.ndarray, n: int) -> np.ndarray:
    return np.pad(pcm, (0, n - len(pcm)))
