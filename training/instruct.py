"""Second stage: connector and LoRA together, through the frozen LLM, on instructions.

A clip's question is drawn anew each time. The first stage's loss stays on at a small weight, so
that the soft tokens keep spelling words.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kokanee.benchmarks.heldout import class_of, word_error_rate
from kokanee.export.reference import Connector
from training.align import NANO, Clip, Clips, WordHead, noised, soft_tokens
from training.instructions import HEAR, KIND, TRANSCRIBE, task
from training.llm import SpeakingLlm
from training.shards import WORK, Record, Shard


def answers(
    llm: SpeakingLlm, connector: Connector, clips: Clips, asked: list[tuple[Clip, str]]
) -> dict[tuple[Clip, str], str]:
    """Greedy answers, batching what has equal length."""
    groups: dict[tuple[int, str], list[Clip]] = {}
    for clip, question in asked:
        groups.setdefault((clips.n_windows(clip), question), []).append(clip)
    out = {}
    for (_, question), group in groups.items():
        for k in range(0, len(group), 16):
            batch = group[k : k + 16]
            with torch.no_grad():
                soft = soft_tokens(connector, *clips.features(batch))
            texts = llm.answers(list(soft), [question] * len(batch))
            out.update({(c, question): t for c, t in zip(batch, texts, strict=True)})
    return out


def validate(llm: SpeakingLlm, connector: Connector, clips: Clips) -> dict[str, float]:
    """A fixed sample of the validation clips: word errors, sound classes, kinds."""
    connector.eval()
    r = random.Random(0)

    def record(clip: Clip) -> Record:
        return clips.shards[clip[0]].records[clip[1]]

    pools: dict[str, list[Clip]] = {}
    for clip in clips.validation:
        key = record(clip)["kind"]
        pools.setdefault(clips.shards[clip[0]].name if key == "speech" else key, []).append(clip)
    sample = {k: r.sample(v, min(len(v), 48)) for k, v in pools.items()}
    asked = []
    for key, group in sample.items():
        if key in {"sound", "music"}:
            asked += [(c, q) for c in group for q in (HEAR[0], KIND[0])]
        else:
            asked += [(c, TRANSCRIBE[0]) for c in group]
    said = answers(llm, connector, clips, asked)
    scores = {}
    for key, group in sample.items():
        if key in {"sound", "music"}:
            word = "music" if key == "music" else "sound"
            kinds = [word in said[c, KIND[0]].lower() for c in group]
            scores[f"{key} kind"] = float(np.mean(kinds))
        else:
            pair = [(record(c)["text"], said[c, TRANSCRIBE[0]]) for c in group]
            scores[f"{key} wer"] = word_error_rate(*zip(*pair, strict=True))
    if "sound" in sample:
        right = [class_of(said[c, HEAR[0]]) == record(c)["text"] for c in sample["sound"]]
        scores["sound class"] = float(np.mean(right))
    connector.train()
    return {k: round(v, 4) for k, v in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", type=Path, required=True)
    parser.add_argument("--shards", nargs="+", required=True)
    parser.add_argument("--connector", choices=("align", "instruct"), help="go on from that stage")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--lr", type=float, default=1.5e-4, help="of the connector")
    parser.add_argument("--lora-lr", type=float, default=8e-4)
    parser.add_argument("--windows", type=int, default=96, help="windows a batch")
    parser.add_argument("--align", type=float, default=0.1, help="weight of the first stage's loss")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    first, out = WORK / "align", WORK / "instruct"
    out.mkdir(exist_ok=True)

    llm = SpeakingLlm(options.llm)
    vocabulary = json.loads((first / "vocabulary.json").read_text())
    clips = Clips([Shard(name) for name in options.shards], llm.tokenizer, vocabulary)
    connector, head = Connector(NANO), WordHead(llm.embeddings[vocabulary])
    source, step = first, 0
    if (out / "lora.safetensors").exists():
        source = WORK / options.connector if options.connector else out
        llm.load_lora(load_file(out / "lora.safetensors"))
        step = int(load_file(out / "head.safetensors")["step"])
    connector.load_state_dict(load_file(source / "connector.safetensors"))
    saved = load_file(source / "head.safetensors")
    head.blank.data, head.scale.data = saved["blank"], saved["scale"]
    groups = [
        {"params": [*connector.parameters(), *head.parameters()], "peak": options.lr},
        {"params": llm.lora(), "peak": options.lora_lr},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))
    trained = [p for g in groups for p in g["params"]]
    ctc = nn.CTCLoss(zero_infinity=True)

    def save() -> None:
        save_file(connector.state_dict(), out / "connector.safetensors")
        save_file(llm.lora_state(), out / "lora.safetensors")
        state = {"blank": head.blank.data, "scale": head.scale.data, "step": torch.tensor(step)}
        save_file(state, out / "head.safetensors")

    def log(elapsed: float) -> None:
        record = {
            "step": step,
            "minutes": round(elapsed / 60, 2),
            "loss": round(float(np.mean(losses[-100:])), 4),
            "validation": validate(llm, connector, clips),
        }
        print(json.dumps(record), flush=True)
        with (out / "curve.jsonl").open("a") as curve:
            curve.write(json.dumps(record) + "\n")

    start, checked, total = time.time(), time.time(), 60 * options.minutes
    r, losses, start_step, n_seen = random.Random(options.seed + step), [], step, 0
    while time.time() - start < total:
        for batch in clips.batches(clips.balanced(600, r), options.windows, r):
            elapsed = time.time() - start
            if elapsed > total:
                break
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * min(1, (step - start_step + 1) / 40)
                group["lr"] *= 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * elapsed / total))
            speech, audio = clips.features(batch)
            soft = soft_tokens(connector, noised(speech), noised(audio))
            tasks = [task(clips.shards[s].records[i], r) for s, i in batch]
            spoken = llm.loss(list(soft), [q for q, _ in tasks], [a for _, a in tasks])
            log_probs, norm_error = head(soft)
            targets = [clips.targets[c] for c in batch]
            spelled = ctc(
                log_probs.transpose(0, 1),
                torch.tensor([t for row in targets for t in row]),
                torch.full((len(batch),), log_probs.shape[1]),
                torch.tensor([len(row) for row in targets]),
            )
            optimizer.zero_grad()
            (spoken + options.align * (spelled + norm_error)).backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            losses.append(float(spoken.detach()))
            step += 1
            n_seen += len(batch)
            if step % 25 == 0:
                pace = n_seen / (time.time() - start)
                print(f"{step} {np.mean(losses[-25:]):.3f} {pace:.2f} clips/s", flush=True)
            if step % 100 == 0:
                save()
            if time.time() - checked > 600:
                log(elapsed)
                checked = time.time()
    save()
    log(time.time() - start)


if __name__ == "__main__":
    main()
