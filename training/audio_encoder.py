"""Trains nano's small BEATs as a classifier of the sound classes, music and speech.

Two clips out of five are mixtures, so the targets are several at once; level, speed, noise and
masked stretches vary. The classifier is thrown away: the connector reads the frames.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kokanee.benchmarks.heldout import CLASS_NAMES
from kokanee.engine.features import fbank
from kokanee.export.reference import BEATs, BeatsDims
from training.shards import WORK, Shard, is_validation

NANO = BeatsDims(
    embed_dim=192,
    encoder_embed_dim=192,
    encoder_layers=4,
    encoder_attention_heads=6,
    encoder_ffn_embed_dim=768,
)
LABELS = (*CLASS_NAMES, "music", "speech")
RATE = 16_000


class Classifier(nn.Module):
    """BEATs, mean and maximum over its frames, one logit a label."""

    def __init__(self) -> None:
        super().__init__()
        self.beats = BEATs(NANO)
        self.head = nn.Linear(2 * NANO.encoder_embed_dim, len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, n_fbank_frames, 128] -> [batch, n_labels]."""
        frames = self.beats(x)
        return self.head(torch.cat([frames.mean(1), frames.amax(1)], -1))  # type: ignore[no-any-return]


def trained() -> BEATs:
    """The encoder as trained so far, frozen."""
    model = Classifier()
    model.load_state_dict(load_file(WORK / "audio_encoder" / "model.safetensors"))
    return model.beats.eval().requires_grad_(False)


def label_index(record: dict[str, Any]) -> int:
    return LABELS.index(record["text"] if record["kind"] == "sound" else record["kind"])


def cropped(pcm: np.ndarray, n: int, r: random.Random) -> np.ndarray:
    """`n` samples: a random stretch of a longer clip, a shorter one somewhere in silence."""
    if len(pcm) >= n:
        start = r.randrange(len(pcm) - n + 1) if r.random() < 0.5 else 0
        return pcm[start : start + n]
    start = r.randrange(n - len(pcm) + 1) if r.random() < 0.5 else 0
    return np.pad(pcm, (start, n - len(pcm) - start))


def varied(pcm: np.ndarray, r: random.Random) -> np.ndarray:
    """Another speed and pitch, another level."""
    if r.random() < 0.6:
        factor = math.exp(r.uniform(-0.3, 0.3))
        at = np.arange(0, len(pcm) - 1, factor)
        pcm = np.interp(at, np.arange(len(pcm)), pcm).astype(np.float32)
    return pcm * 10 ** (r.uniform(-22, 0) / 20)


class Sampler:
    """Draws label-balanced training crops with multi-hot targets."""

    def __init__(self, shards: list[Shard], seed: int) -> None:
        self.shards = shards
        self.r = random.Random(seed)
        self.pools: list[list[tuple[int, int]]] = [[] for _ in LABELS]
        self.validation: list[tuple[int, int]] = []
        for s, shard in enumerate(shards):
            for i, record in enumerate(shard.records):
                if is_validation(record):
                    if record["kind"] == "sound" or i % 4 == 0:  # speech and music abound
                        self.validation.append((s, i))
                else:
                    self.pools[label_index(record)].append((s, i))
        # Between one clip, one vote (power 1) and one class, one vote (power 0).
        self.weights = [min(len(p), 150) ** 0.5 for p in self.pools]
        self.weights[LABELS.index("music")] *= 3
        self.weights[LABELS.index("speech")] *= 2

    def draw(self, n: int) -> tuple[np.ndarray, int]:
        (label,) = self.r.choices(range(len(LABELS)), self.weights)
        s, i = self.r.choice(self.pools[label])
        return cropped(varied(self.shards[s].pcm(i), self.r), n, self.r), label

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        n = int(self.r.uniform(1.0, 2.6) * RATE)
        xs, targets = [], torch.zeros(size, len(LABELS))
        for row in range(size):
            pcm, label = self.draw(n)
            targets[row, label] = 1
            if self.r.random() < 0.4:
                other, second = self.draw(n)
                pcm = pcm + other * self.r.uniform(0.3, 1.0)
                targets[row, second] = 1
            if self.r.random() < 0.5:
                hiss = np.random.default_rng(self.r.randrange(2**32)).standard_normal(n)
                pcm = pcm + hiss * 10 ** (self.r.uniform(-75, -35) / 20)
            x = fbank(np.ascontiguousarray(pcm, dtype=np.float32))
            for axis, widest in ((0, 24), (1, 20)):
                width = self.r.randrange(widest)
                start = self.r.randrange(max(1, x.shape[axis] - width))
                x[(slice(None),) * axis + (slice(start, start + width),)] = x.mean()
            xs.append(x)
        return torch.from_numpy(np.stack(xs)), targets


def drawn(sampler: Sampler, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches that a second process prepares."""

    class Endless(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                yield sampler.batch(size)

    return iter(torch.utils.data.DataLoader(Endless(), batch_size=None, num_workers=1))


@torch.no_grad()
def validate(model: Classifier, sampler: Sampler) -> dict[str, float]:
    """Accuracy over the sound classes, and over sound, music and speech."""
    model.eval()
    right = {"classes": [], "kinds": []}  # type: dict[str, list[bool]]
    n_sounds = len(CLASS_NAMES)
    for s, i in sampler.validation:
        pcm = sampler.shards[s].pcm(i)
        x = fbank(np.pad(pcm, (0, max(0, RATE - len(pcm)))))
        scores = model(torch.from_numpy(x)[None])[0]
        label = label_index(sampler.shards[s].records[i])
        kind, best = min(label, n_sounds), int(scores.argmax())
        right["kinds"].append(min(best, n_sounds) == kind if label >= n_sounds else best < n_sounds)
        if label < n_sounds:
            right["classes"].append(int(scores[:n_sounds].argmax()) == label)
    model.train()
    return {k: round(float(np.mean(v)), 4) for k, v in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", nargs="+", required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    out = WORK / "audio_encoder"
    out.mkdir(exist_ok=True)
    model, step = Classifier(), 0
    for module in model.modules():  # DeepNorm's initial scale for values and feed-forward
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    gain = (8 * NANO.encoder_layers) ** -0.25
    for layer in model.beats.encoder.layers:
        for part in (layer.self_attn.v_proj, layer.self_attn.out_proj, layer.fc1, layer.fc2):
            nn.init.xavier_normal_(part.weight, gain=gain)
    if (out / "model.safetensors").exists():
        model.load_state_dict(load_file(out / "model.safetensors"))
        step = json.loads((out / "curve.jsonl").read_text().splitlines()[-1])["step"]
    sampler = Sampler([Shard(name) for name in options.shards], options.seed + step)
    sizes = {label: len(pool) for label, pool in zip(LABELS, sampler.pools, strict=True)}
    print(sizes, len(sampler.validation))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.05)
    loss_of = nn.BCEWithLogitsLoss()
    batches = drawn(sampler, options.batch)
    start, checked, losses, total = time.time(), time.time(), [], 60 * options.minutes
    first = step
    while (elapsed := time.time() - start) < total:
        rate = options.lr * min(1, (step - first + 1) / 100)
        rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * elapsed / total))
        optimizer.param_groups[0]["lr"] = rate
        x, targets = next(batches)
        loss = loss_of(model(x), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if time.time() - checked > 120 or time.time() - start >= total:
            checked = time.time()
            record = {
                "step": step,
                "minutes": round((checked - start) / 60, 2),
                "loss": round(float(np.mean(losses[-100:])), 4),
                "accuracy": validate(model, sampler),
            }
            print(json.dumps(record), flush=True)
            save_file(model.state_dict(), out / "model.safetensors")
            with (out / "curve.jsonl").open("a") as curve:
                curve.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
