"""Copies the trained weights to `export/nano/` under SALMONN's names, with their history.

float16: half the size of what was trained, and nothing measurable lost.
"""

import argparse
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kokanee.benchmarks.evaluation_sets import SETS
from kokanee.benchmarks.spoken_questions import PACKAGES as PROGRAMS
from training.audio_encoder import trained
from training.shards import WORK, Shard, is_validation

# What no package's copyright file says.
LICENCES = {
    "flight-of-the-amazon-queen": "freeware, DFSG (the game may not be sold alone)",
    "beneath-a-steel-sky": "freeware, DFSG (the game may not be sold alone)",
    "drascula": "freeware, DFSG (the game may not be sold alone)",
    "drascula-music": "freeware, DFSG",
    "made": "Apache-2.0 (this repository)",
    "mixtures": "as their parts",
    "tts": "own sentences, fortunes, games' dialogues; espeak-ng, flite, festival, hibari-tts"
    ", Kokoro-82M and SVOX Pico (Apache-2.0), piper joe (MIT)",
}
PACKAGE_OF = {"fotaq": "flight-of-the-amazon-queen"}


def licence(package: str, tree: Path) -> str:
    """The short names in a package's machine-readable copyright file, the commonest first."""
    known = LICENCES.get("tts" if package.startswith("tts-") else package)
    if known:
        return known
    folders = (tree / package / "usr/share/doc" / package, Path("/usr/share/doc") / package)
    path = next((p for folder in folders for p in folder.glob("copyright*")), None)
    if path is None:
        raise FileNotFoundError(f"{folders[0]}: no copyright file, so no licence for {package}")
    text = path.read_text("utf-8", "replace")
    stated = re.findall(r"^License:[ \t]*(\S.*?)\s*$", text, re.MULTILINE)
    names = Counter(name for name in stated if len(name.split()) < 5 and len(name) < 50)
    if not names:  # prose
        named = re.findall(r"GPL(?:-|\s?v?(?:ersion )?)[23]\+?|public domain", text)
        names = Counter(" ".join(name.split()) for name in named)  # may be broken over two lines
    return ", ".join(name for name, _ in names.most_common(5)) or "see its copyright file"


def data_list(names: list[str], tree: Path, debs: Path) -> list[dict[str, Any]]:
    """One entry a source: clips, seconds, validation clips, package, hash, licence."""
    clips: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for name in names:
        for record in Shard(name).records:
            source = record["source"]
            clips[source] += 1
            seconds[source] += record["n_samples"] / 16_000
            held[source] += is_validation(record)
    entries = []
    for source in sorted(clips):
        package = PACKAGE_OF.get(source, source)
        deb = next(debs.glob(f"{package}_*.deb"), None)
        entry = {
            "source": source,
            "clips": clips[source],
            "minutes": round(seconds[source] / 60, 1),
            "validation_clips": held[source],
            "licence": licence(package, tree),
        }
        if deb:
            entry["deb"] = deb.name.replace("%3a", ":")
            entry["sha256"] = hashlib.sha256(deb.read_bytes()).hexdigest()
        entries.append(entry)
    return entries


def with_earlier(entries: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The weights that a run began with have heard other clips: of each source, the most."""
    found = {entry["source"]: entry for entry in entries}
    for entry in json.loads(path.read_text())["data"] if path.exists() else ():
        if entry["clips"] > found.get(entry["source"], {"clips": 0})["clips"]:
            found[entry["source"]] = entry
    return [found[source] for source in sorted(found)]


def curve(folder: Path, earlier: list[Any]) -> list[Any]:
    """A run's validations, in place of those that were published of it, behind all others'."""
    lines = (folder / "curve.jsonl").read_text().splitlines()
    rows = [{"run": folder.name, **json.loads(line)} for line in lines]
    known = [row for row in earlier if row["run"] == folder.name]
    if rows[: len(known)] != known:
        raise ValueError(f"{folder.name}: another run of this name is published; rename the folder")
    return [row for row in earlier if row["run"] != folder.name] + rows


def hours_of(rows: list[Any]) -> float:
    """Wall time of a stage: each run's minutes count from nought."""
    ends = {row["run"]: row["minutes"] for row in rows}
    return float(round(sum(ends.values()) / 60, 2))


STAGES = ("audio_encoder", "align", "instruct")


def run_of(text: str) -> tuple[str, str]:
    """`instruct=instruct8` on a command line: a run of a stage."""
    stage, _, folder = text.partition("=")
    if stage not in STAGES or not folder:
        raise argparse.ArgumentTypeError(f"expected {'|'.join(STAGES)}=FOLDER, got {text!r}")
    return stage, folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("export/nano"))
    parser.add_argument("--tree", type=Path, required=True, help="unpacked packages")
    parser.add_argument("--debs", type=Path, required=True, help="the packages as fetched")
    parser.add_argument("--shards", nargs="+", required=True)
    parser.add_argument("--weights", default="instruct", help="folder of connector, LoRA and head")
    parser.add_argument(
        "--runs",
        nargs="+",
        type=run_of,
        required=True,
        metavar="STAGE=FOLDER",
        help="runs that these weights are the first to come from; their curves are added",
    )
    parser.add_argument(
        "--commands", type=Path, help="text file, one a line; as before if not given"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, dict[str, Tensor]] = {
        "audio_encoder": trained().state_dict(),
        "connector": load_file(WORK / options.weights / "connector.safetensors"),
        "lora": load_file(WORK / options.weights / "lora.safetensors"),
        # For whoever goes on from these.
        "head": load_file(WORK / options.weights / "head.safetensors"),
    }
    files = {}
    for name, state in parts.items():
        path = options.out / f"{name}.safetensors"
        half = {k: v.to(torch.float16).contiguous() for k, v in sorted(state.items())}
        worst = max(float((v - half[k].float()).abs().max()) for k, v in state.items())
        save_file(half, path)
        files[path.name] = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "n_bytes": path.stat().st_size,
            "n_parameters": sum(v.numel() for v in state.values()),
            "rounding": worst,
        }
    path = options.out / "training.json"
    before = json.loads(path.read_text()) if path.exists() else {"curves": {}}
    curves = {stage: before["curves"].get(stage, []) for stage in STAGES}
    for stage, folder in options.runs:
        curves[stage] = curve(WORK / folder, curves[stage])
    hours = {stage: hours_of(rows) for stage, rows in curves.items()}
    data = with_earlier(data_list(options.shards, options.tree, options.debs), path)
    sources = {entry["source"] for entry in data}
    asked = {p.name for packages, _ in SETS.values() for p in packages} - {p.name for p in PROGRAMS}
    record = {
        "files": files,
        "seed": 0,
        "hours": round(sum(hours.values()), 2),
        "hours_by_stage": hours,
        "commands": options.commands.read_text().splitlines()
        if options.commands
        else before.get("commands", []),
        "data": data,
        "never_trained_on": sorted(asked - sources),
        "trained_on_in_part": sorted(asked & sources),  # the other part is held out
        "curves": curves,
    }
    swept = WORK / options.weights / "sweep.json"
    if swept.exists():
        record["sweep"] = json.loads(swept.read_text())
    elif "sweep" in before:  # of an adapter before this one, which the model card says
        record["sweep"] = before["sweep"]
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(files, indent=1))


if __name__ == "__main__":
    main()
