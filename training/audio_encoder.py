"""Trains nano's small BEATs to hear what YAMNet hears, and the names we believe.

Two losses: the teacher's 521 AudioSet probabilities for every patch of 0.96 s of *exactly the sound
that the pupil hears*, and, for the clip as a whole, our classes, music and speech where they are
known. Because the teacher judges every variation anew, sounds may be mixed, filtered, turned round
and invented at will, and no two are the same (Beyer et al., "Knowledge distillation: a good teacher
is patient and consistent", arXiv:2106.05237). Both heads are thrown away: the connector reads the
frames.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kokanee.benchmarks.heldout import CLASS_NAMES
from kokanee.engine.features import fbank
from kokanee.export.dims import BeatsDims
from kokanee.export.reference import BEATs
from training.augment import F32, coloured, coloured_noise, faster, in_room, invented
from training.precision import autocast
from training.resume import Run
from training.shards import WORK, Shard, is_validation
from training.teacher import MEANS, N_CLASSES, Teacher

NANO = BeatsDims(
    embed_dim=256,
    encoder_embed_dim=256,
    encoder_layers=4,
    encoder_attention_heads=8,
    encoder_ffn_embed_dim=1024,
)
PUBLISHED = Path("export/nano/audio_encoder.safetensors")
LABELS = (*MEANS, "music", "speech")
RATE = 16_000


class Classifier(nn.Module):
    """BEATs; a head on the frames of each of the teacher's patches, and one on the whole clip."""

    def __init__(self) -> None:
        super().__init__()
        self.beats = BEATs(NANO)
        width = 2 * NANO.encoder_embed_dim
        self.teacher_head = nn.Linear(width, N_CLASSES)
        self.head = nn.Linear(width, len(LABELS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, n_fbank_frames, 128] -> [batch, n_patches, 521], [batch, n_labels]."""
        frames = self.beats(x)
        pooled = torch.cat([frames.mean(1), frames.amax(1)], -1)
        # Eight frames every 0.16 s; a patch of 0.96 s has six times that, the next begins at three.
        steps = frames.unflatten(1, (-1, 8))
        means, peaks = steps.mean(2), steps.amax(2)
        patches = torch.cat([means.unfold(1, 6, 3).mean(-1), peaks.unfold(1, 6, 3).amax(-1)], -1)
        return self.teacher_head(patches), self.head(pooled)


def trained() -> BEATs:
    """The encoder as trained so far, or as published where no run is; frozen."""
    path = WORK / "audio_encoder" / "model.safetensors"
    path = path if path.exists() else PUBLISHED
    print(f"the small BEATs of {path}", flush=True)
    state = load_file(path)
    beats = BEATs(NANO)
    names = {k: v.float() for k, v in state.items() if not k.startswith(("teacher_head", "head"))}
    beats.load_state_dict({k.removeprefix("beats."): v for k, v in names.items()})
    return beats.eval().requires_grad_(False)


def label_of_record(record: dict[str, Any]) -> int | None:
    """Index into LABELS; None if nobody knows."""
    kind = record["kind"]
    name = record["text"] if kind in {"sound", "other"} else kind
    return LABELS.index(name) if name in LABELS else None


def varied(pcm: F32, r: random.Random) -> F32:
    """Another speed and pitch, another loudspeaker, a room, backwards, another level."""
    rng = np.random.default_rng(r.randrange(2**32))
    if r.random() < 0.6:
        pcm = faster(pcm, math.exp(r.uniform(-0.35, 0.35)))
    if r.random() < 0.4:
        pcm = coloured(pcm, rng)
    if r.random() < 0.2:
        pcm = in_room(pcm, rng)
    if r.random() < 0.05:
        pcm = pcm[::-1]
    return pcm * np.float32(10 ** (r.uniform(-24, 0) / 20))


class Sampler:
    """Draws training crops with the teacher's probabilities and ours."""

    def __init__(self, shards: list[Shard], seed: int) -> None:
        self.shards = shards
        self.r = random.Random(seed)
        self.teacher: Teacher | None = None
        self.pools: dict[int | None, list[tuple[int, int]]] = {}
        self.validation: list[tuple[int, int]] = []
        for s, shard in enumerate(shards):
            for i, record in enumerate(shard.records):
                label = label_of_record(record)
                if is_validation(record):
                    if record["kind"] == "sound" or (label is not None and i % 16 == 0):
                        self.validation.append((s, i))
                else:
                    self.pools.setdefault(label, []).append((s, i))
        # Between one clip, one vote (power 1) and one class, one vote (power 0).
        self.keys = list(self.pools)
        self.weights = [min(len(self.pools[k]), 600) ** 0.5 for k in self.keys]
        for name, factor in (("music", 2.0), ("speech", 1.5)):
            if LABELS.index(name) in self.keys:
                self.weights[self.keys.index(LABELS.index(name))] *= factor
        if None in self.keys:
            self.weights[self.keys.index(None)] *= 4

    def draw(self, n: int) -> tuple[F32, int | None]:
        """`n` samples of some clip, and what it is."""
        if self.r.random() < 0.06:
            return invented(n, np.random.default_rng(self.r.randrange(2**32))), None
        (key,) = self.r.choices(self.keys, self.weights)
        s, i = self.r.choice(self.pools[key])
        pcm = self.shards[s].pcm(i)
        if len(pcm) > 1.4 * n:
            start = self.r.randrange(len(pcm) - int(1.4 * n) + 1)
            pcm = pcm[start : start + int(1.4 * n)]
        pcm = varied(pcm, self.r)[:n]
        start = self.r.randrange(n - len(pcm) + 1) if self.r.random() < 0.5 else 0
        return np.pad(pcm, (start, n - len(pcm) - start)), key

    def batch(self, seconds: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """fbanks, teacher's targets [size, n_patches, 521], ours, which rows have a name."""
        if (
            self.teacher is None
        ):  # in the process that prepares batches, not in the one it comes from
            self.teacher = Teacher()
        n = int(self.r.uniform(1.0, 4.0) * RATE)
        size = max(4, int(seconds * RATE / n))
        xs, soft = [], []
        hard, known = torch.zeros(size, len(LABELS)), torch.ones(size)
        for row in range(size):
            pcm, label = self.draw(n)
            labels = [label]
            if self.r.random() < 0.4:
                other, second = self.draw(n)
                pcm = pcm + other * np.float32(self.r.uniform(0.3, 1.0))
                labels.append(second)
            for name in labels:
                if name is None:
                    known[row] = 0
                else:
                    hard[row, name] = 1
            if self.r.random() < 0.4:
                rng = np.random.default_rng(self.r.randrange(2**32))
                hiss = coloured_noise(n, rng, self.r.uniform(0, 2))
                pcm = pcm + hiss * np.float32(10 ** (self.r.uniform(-65, -25) / 20))
            pcm = np.ascontiguousarray(pcm, dtype=np.float32)
            soft.append(self.teacher.logits(pcm))
            x = fbank(pcm)
            for axis, widest in ((0, 16), (1, 12)):
                width = self.r.randrange(widest)
                start = self.r.randrange(max(1, x.shape[axis] - width))
                x[(slice(None),) * axis + (slice(start, start + width),)] = x.mean()
            xs.append(x)
        targets = 1 / (1 + np.exp(-np.clip(np.stack(soft), -60, 60)))
        return torch.from_numpy(np.stack(xs)), torch.from_numpy(targets), hard, known


def drawn(sampler: Sampler, seconds: float) -> Iterator[tuple[Tensor, ...]]:
    """Batches that a second process prepares."""

    class Endless(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
            while True:
                yield sampler.batch(seconds)

    return iter(torch.utils.data.DataLoader(Endless(), batch_size=None, num_workers=1))


@torch.no_grad()
def validate(model: Classifier, sampler: Sampler) -> dict[str, float]:
    """Accuracy over our classes, over sound, music and speech, and agreement with the teacher."""
    model.eval()
    right: dict[str, list[float]] = {"classes": [], "kinds": [], "teacher_top": []}
    n_sounds = len(MEANS)
    columns = [LABELS.index(name) for name in CLASS_NAMES]
    for s, i in sampler.validation:
        pcm = sampler.shards[s].pcm(i)
        x = fbank(np.pad(pcm, (0, max(0, RATE - len(pcm)))))
        taught, ours = (out[0] for out in model(torch.from_numpy(x)[None]))
        logits = sampler.shards[s].teacher(i).astype(np.float32).max(0)
        right["teacher_top"].append(int(taught.amax(0).argmax()) in logits.argsort()[-3:])
        label = label_of_record(sampler.shards[s].records[i])
        assert label is not None
        best = int(ours.argmax())  # behind the sounds come music and speech
        right["kinds"].append(best == label if label >= n_sounds else best < n_sounds)
        if label in columns:
            right["classes"].append(columns[int(ours[columns].argmax())] == label)
    model.train()
    return {k: round(float(np.mean(v)), 4) for k, v in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", nargs="+", required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--every", type=float, default=5, help="minutes between validations")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seconds", type=float, default=64, help="of sound a batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="weights to begin with, a run's or published")
    parser.add_argument("--name", default="audio_encoder", help="folder of the run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    out = WORK / options.name
    out.mkdir(exist_ok=True)
    model = Classifier()
    for module in model.modules():  # DeepNorm's initial scale for values and feed-forward
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    gain = (8 * NANO.encoder_layers) ** -0.25
    layers: Any = model.beats.encoder.layers
    for layer in layers:
        for part in (layer.self_attn.v_proj, layer.self_attn.out_proj, layer.fc1, layer.fc2):
            nn.init.xavier_normal_(part.weight, gain=gain)
    nn.init.constant_(model.teacher_head.bias, -6.0)
    nn.init.constant_(model.head.bias, -3.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.05)
    if options.start:
        state = {k: v.float() for k, v in load_file(options.start).items()}
        if "head.weight" in state:
            model.load_state_dict(state)
        else:  # published, without its heads
            model.beats.load_state_dict(state)
    run = Run(out, {"model": model}, optimizer, minutes=options.minutes)
    sampler = Sampler([Shard(name) for name in options.shards], options.seed + run.step)
    sizes = {LABELS[k] if k is not None else "-": len(p) for k, p in sampler.pools.items()}
    print(sizes, len(sampler.validation), flush=True)
    loss_of = nn.BCEWithLogitsLoss(reduction="none")
    batches = drawn(sampler, options.seconds)
    checked, losses, heard = run.elapsed, [], 0.0
    while run.done < 1:
        rate = options.lr * min(1, (run.step + 1) / 100)
        rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * run.done))
        optimizer.param_groups[0]["lr"] = rate
        x, soft, hard, known = next(batches)
        with autocast():
            taught, ours = model(x)
        n_patches = min(taught.shape[1], soft.shape[1])
        taught_loss = loss_of(taught[:, :n_patches].float(), soft[:, :n_patches]).sum(2).mean()
        named_loss = (loss_of(ours.float(), hard).sum(1) * known).mean()
        loss = taught_loss + named_loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append((taught_loss.item(), named_loss.item()))
        run.step += 1
        heard += x.shape[0] * x.shape[1] / 100
        if run.elapsed - checked > options.every or run.done >= 1:
            began = time.monotonic()
            taught_mean, named_mean = np.mean(losses[-100:], 0)
            record = {
                "hours_heard": round(heard / 3600, 2),
                "loss": {"teacher": round(taught_mean, 3), "names": round(named_mean, 3)},
                "accuracy": validate(model, sampler),
            }
            run.pause(time.monotonic() - began)
            run.log(record)
            run.save()
            save_file(model.state_dict(), out / "model.safetensors")
            checked = run.elapsed


if __name__ == "__main__":
    main()
