"""The held-out evaluation in PyTorch: what the float model reaches before it is built.

Writes the shard `heldout`, which training never reads, and scores as `kokanee eval` does.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file

from kokanee.benchmarks.heldout import class_of, fetch, group_of
from kokanee.benchmarks.heldout import clips as heldout_clips
from kokanee.benchmarks.quality import QUESTIONS, TASKS, Row, scores
from kokanee.export.reference import Connector
from training.align import NANO, soft_tokens
from training.audio_encoder import trained
from training.llm import SpeakingLlm
from training.shards import WORK, Shard, write
from training.weights import whisper_base

MAX_SAMPLES = 88 * 5440  # Whisper's positions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", type=Path, required=True)
    parser.add_argument("--whisper", type=Path, nargs=2, required=True)
    parser.add_argument("--packages", type=Path, required=True, help="where packages are fetched")
    parser.add_argument("--every", type=int, default=1, help="take every n-th speech clip")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not (WORK / "shards" / "heldout.json").exists():
        fetch(options.packages)
        write(
            "heldout",
            (
                (
                    {"source": c.package, "name": c.name, "kind": c.kind, "text": c.text},
                    c.pcm,
                )
                for c in heldout_clips(options.packages)
                if len(c.pcm) <= MAX_SAMPLES  # the engine cuts longer ones into segments
            ),
        )
    shard = Shard("heldout")
    if shard.n_encoded < len(shard):
        shard.encode(whisper_base(options.whisper))
    shard.hear(trained())
    llm, connector = SpeakingLlm(options.llm), Connector(NANO).eval()
    connector.load_state_dict(load_file(WORK / "instruct" / "connector.safetensors"))
    llm.load_lora(load_file(WORK / "instruct" / "lora.safetensors"))
    groups: dict[tuple[int, str], list[int]] = {}
    n_speech = 0
    for i, record in enumerate(shard.records):
        n_speech += record["kind"] == "speech"
        if record["kind"] != "speech" or n_speech % options.every == 0:
            for task in TASKS[record["kind"]]:
                groups.setdefault((shard.n_windows(i), task), []).append(i)
    rows = []
    for (_, task), members in sorted(groups.items()):
        for k in range(0, len(members), options.batch):
            ids = members[k : k + options.batch]
            with torch.no_grad():
                soft = soft_tokens(
                    connector,
                    torch.stack([torch.from_numpy(shard.speech(i).copy()).float() for i in ids]),
                    torch.stack([torch.from_numpy(shard.audio(i).copy()).float() for i in ids]),
                )
            for i, text in zip(
                ids, llm.answers(list(soft), [QUESTIONS[task]] * len(ids)), strict=True
            ):
                r = shard.records[i]
                rows.append(Row(r["source"], r["name"], r["kind"], r["text"], task, text))
    out = WORK / "heldout"
    out.mkdir(exist_ok=True)
    with (out / "answers.jsonl").open("w") as log:
        for row in rows:
            log.write(json.dumps([row.name, row.task, row.truth, row.answer]) + "\n")
    figures = scores(rows)
    pairs = [(r.truth, class_of(r.answer)) for r in rows if r.task == "sound"]
    coarse = Counter(group_of(truth) for truth, _ in pairs)
    figures["coarse"] = {
        "n": len(pairs),
        "n_classes": len(coarse),
        "top1": sum(said is not None and group_of(said) == group_of(t) for t, said in pairs)
        / len(pairs),
        "majority": max(coarse.values()) / len(pairs),
    }
    (out / "scores.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
