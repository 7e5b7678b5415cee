"""Copies what the tests need out of the full set of golden vectors: `trim.py FULL_SET`."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import soundfile

CLIPS = ("s0p2", "s1p0", "silence2p0", "stereo4p0")
ARRAYS = [
    *("logmel", "beats_fbank", "whisper_out", "beats_out", "concat", "n_windows", "qformer_out"),
    *("speech_tokens", "ids_before", "ids_after", "inputs_embeds", "prefill_logits"),
    *("greedy_ids", "greedy_step_logits"),
]
ALL_CLIPS = (*CLIPS, "s7p3", "s30p0", "s37p0")
ANSWERS = [
    *("n_samples_used", "speech_tokens", "ids_before", "ids_after", "greedy_ids"),
    *(f"official_{how}_ids" for how in ("greedy", "beam4", "beam4_lp2", "greedy_rp")),
]


def trim(full: Path, out: Path) -> None:
    """Writes the tiny model whole, of each clip in CLIPS the ARRAYS, of all clips the ANSWERS."""
    shutil.rmtree(out, ignore_errors=True)
    # Bytes only: the full set may be read-only, the copy must not be.
    shutil.copytree(full / "model", out / "model", copy_function=shutil.copyfile)
    for name in ("audio", "vectors", "answers"):
        (out / name).mkdir()
    for clip in CLIPS:
        shutil.copyfile(full / "audio" / f"{clip}.wav", out / "audio" / f"{clip}.wav")
        with np.load(full / "vectors" / f"{clip}.npz") as arrays:
            kept = {name: arrays[name] for name in ARRAYS if name in arrays}
        np.savez_compressed(out / "vectors" / f"{clip}.npz", **kept)
    for clip in ALL_CLIPS:
        with np.load(full / "vectors" / f"{clip}.npz") as arrays:
            np.savez_compressed(
                out / "answers" / f"{clip}.npz", **{name: arrays[name] for name in ANSWERS}
            )
        if clip not in CLIPS:
            pcm, rate = soundfile.read(full / "audio" / f"{clip}.wav", dtype="int16")
            soundfile.write(out / "audio" / f"{clip}.flac", pcm, rate)
    for name in ("_beats_buckets.npz", "_lora_scale_s0p2.npz"):
        shutil.copyfile(full / "vectors" / name, out / "vectors" / name)
    shutil.copyfile(full.parent / "fullsize_keys.json", out / "fullsize_keys.json")
    manifest = json.loads((full / "vectors" / "manifest.json").read_text("utf-8"))
    manifest["sets"] = {clip: manifest["sets"][clip] for clip in ALL_CLIPS}
    manifest.pop("batch2")
    (out / "vectors" / "manifest.json").write_text(
        json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )


if __name__ == "__main__":
    trim(Path(sys.argv[1]), Path(__file__).with_name("salmonn"))
