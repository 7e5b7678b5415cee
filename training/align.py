"""First stage of the connector: soft tokens that lie on the LLM's own word embeddings (CTC).

The LLM takes no part. A soft token's logits over the tokens of the training captions are scaled
cosines with those tokens' embedding rows, around their mean; a blank vector of its own stands for
"nothing new". A clip's caption (the words said, then ` [` and the name of what sounds) supervises
all of its soft tokens at once, so a step costs only the Q-Former, and what the LLM is given later
already looks like words to it.

`--judged` adds clips of which only YAMNet's judgement is known (`<shard>.teacher`): every third
step asks the mean and the peaks of a clip's soft tokens for the teacher's probabilities.
"""

import argparse
import dataclasses
import itertools
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kokanee.benchmarks.heldout import word_error_rate
from kokanee.export.reference import Connector, QFormerDims
from training.heads import TeacherHead, WordHead, ctc
from training.instructions import ANSWERS, captions, words_of
from training.precision import autocast
from training.resume import Run
from training.shards import WORK, Record, Shard, is_validation
from training.weights import smollm2_state, smollm2_tokenizer

NANO = QFormerDims(
    d_speech=512,
    d_audio=256,
    d_model=576,
    hidden_size=384,
    num_attention_heads=6,
    intermediate_size=1536,
    n_queries=2,
)


def soft_tokens(connector: Connector, speech: Tensor, audio: Tensor) -> Tensor:
    """[batch, n, 512] and [batch, n, 256] -> [batch, n_soft, 576].

    As the connector's own forward pass, but for a batch whose audio streams end at different frames
    (after which they are exact zeros).
    """
    there = audio.abs().amax(-1, keepdim=True) > 0
    frames = torch.cat([connector.ln_speech(speech), connector.ln_audio(audio) * there], -1)
    soft = connector.speech_llama_proj(connector.qformer(connector.windows(frames)))
    return soft.reshape(len(speech), -1, connector.dims.d_model)


def started(path: Path, dims: QFormerDims = NANO) -> dict[str, Tensor]:
    """A published connector's weights for this one: what read the audio stream starts at zero.

    Of another number of queries the first ones are taken, or all of them again.
    """
    state = load_file(path)
    fresh = Connector(dims).state_dict()
    out = {}
    for name, tensor in fresh.items():
        given = state[name].float()
        if given.shape == tensor.shape:
            out[name] = given
        elif name == "speech_query_tokens":
            out[name] = given[:, [i % given.shape[1] for i in range(dims.n_queries)]]
        elif given.dim() == 2:  # keys and values of the cross-attention
            out[name] = torch.zeros_like(tensor)
            out[name][:, : NANO.d_speech] = given[:, : NANO.d_speech]
        else:  # ln_audio
            out[name] = tensor
    return out


def with_still_norms(connector: Connector) -> Connector:
    """The encoders' norms stay as they are: what they scale, keys and values can scale as well.

    Without a gradient for the frames a sixth of a step's multiplications is saved.
    """
    connector.ln_speech.requires_grad_(False)
    connector.ln_audio.requires_grad_(False)
    return connector


Clip = tuple[int, int]  # shard, place in it

# How many clips of a kind a round takes.
SHARES = {
    "speech": 0.45,
    "foreign": 0.10,
    "question": 0.09,
    "sound": 0.17,
    "music": 0.04,
    "mixture": 0.13,
    "noise": 0.02,
}


def share(text: str) -> tuple[str, float]:
    """`foreign=0.2` on a command line: another share than SHARES has."""
    kind, value = text.split("=")
    if kind not in SHARES:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(SHARES)}, got {kind!r}")
    return kind, float(value)


def kind_of(record: Record) -> str:
    """A record's kind as SHARES has it."""
    foreign = record["kind"] == "speech" and not record["text"]
    return "foreign" if foreign else str(record["kind"])


def speech_weight(shard: str) -> float:
    """Acted speech teaches more than another synthetic phrase; of some kinds there are too few."""
    if shard == "long":
        return 5.0
    if shard.startswith("wondered"):
        return 3.0
    return 1.6 if shard.startswith(("fotaq", "acted")) else 1.0


class Encoded:
    """Clips of several shards whose features are on disk, in batches of equal length."""

    def __init__(self, shards: list[Shard], *, hears: bool = True, stride: int = 17) -> None:
        self.shards = shards
        self.hears = hears
        self.stride = stride  # frames

    def encoded(self) -> Iterator[tuple[Clip, Record]]:
        """Those that both encoders have heard."""
        for s, shard in enumerate(self.shards):
            for i, record in enumerate(shard.records[: min(shard.n_encoded, shard.n_heard)]):
                yield (s, i), record

    def n_windows(self, clip: Clip) -> int:
        return self.shards[clip[0]].n_windows(clip[1])

    def batches(self, clips: list[Clip], windows: int, r: random.Random) -> list[Any]:
        """Clips of equal length together, at most `windows` windows a batch."""
        groups: dict[int, list[Clip]] = {}
        for clip in r.sample(clips, len(clips)):
            groups.setdefault(self.n_windows(clip), []).append(clip)
        out = []
        for n, group in groups.items():
            size = max(1, windows // n)
            out += [group[k : k + size] for k in range(0, len(group), size)]
        r.shuffle(out)
        return out

    def features(self, batch: list[Clip]) -> tuple[Tensor, Tensor]:
        """Speech [batch, n, 512] and audio [batch, n, 256]."""
        speech = np.stack([self.shards[s].speech(i) for s, i in batch])
        audio = np.stack([self.shards[s].audio(i) for s, i in batch])
        if not self.hears:
            audio = np.zeros_like(audio)
        if over := speech.shape[1] % self.stride:  # longer windows than the shards are padded to
            end = ((0, 0), (0, self.stride - over), (0, 0))
            speech, audio = np.pad(speech, end), np.pad(audio, end)
        return torch.from_numpy(speech).float(), torch.from_numpy(audio).float()


class Clips(Encoded):
    """The clips of several shards, with CTC targets."""

    def __init__(
        self,
        shards: list[Shard],
        tokenizer: Tokenizer,
        vocabulary: list[int],
        dims: QFormerDims = NANO,
        *,
        hears: bool = True,
    ) -> None:
        super().__init__(shards, hears=hears, stride=dims.stride_frames)
        index = {token: i for i, token in enumerate(vocabulary, 1)}
        self.train: list[Clip] = []
        self.validation: list[Clip] = []
        self.targets: dict[Clip, list[list[int]]] = {}  # any of a clip's captions will do
        self.texts: dict[Clip, str] = {}
        self.n_unknown = 0  # training clips left out for a token that is not in the vocabulary
        for clip, record in self.encoded():
            n_soft = -(-17 * self.n_windows(clip) // dims.stride_frames) * dims.n_queries
            targets, known = [], False
            for text in captions(record):
                ids = [index.get(t) for t in tokenizer.encode(text).ids]
                known |= None not in ids
                repeats = sum(a == b for a, b in itertools.pairwise(ids))
                if ids and None not in ids and len(ids) + repeats <= n_soft:
                    targets.append(ids)
            # Validation keeps what too few soft tokens cannot spell: that is what is to be seen.
            if not targets and not is_validation(record):
                self.n_unknown += not known
                continue
            (self.validation if is_validation(record) else self.train).append(clip)
            self.targets[clip] = targets  # type: ignore[assignment]
            self.texts[clip] = captions(record)[0]

    def counted(self) -> str:
        """How many there are, in words."""
        unknown = f"; {self.n_unknown} left out for words that vocabulary.json has not"
        return f"{len(self.train)} + {len(self.validation)} clips{unknown * bool(self.n_unknown)}"

    def spelled(self, log_probs: Tensor, batch: list[Clip]) -> Tensor:
        """CTC loss a token, [batch, n_soft, 1 + n_tokens] -> []; of the caption that is nearest."""
        log_probs = log_probs.float()
        chosen = [self.targets[clip][0] for clip in batch]
        several = [row for row, clip in enumerate(batch) if len(self.targets[clip]) > 1]
        if several:
            with torch.no_grad():
                ways = [[self.targets[batch[row]][k] for row in several] for k in (0, 1)]
                losses = torch.stack([ctc(log_probs[several], way) for way in ways])
            for row, k, *texts in zip(several, losses.argmin(0).tolist(), *ways, strict=True):
                chosen[row] = texts[k]
        lengths = torch.tensor([len(ids) for ids in chosen])
        return (ctc(log_probs, chosen) / lengths).mean()

    def balanced(self, n: int, r: random.Random, shares: dict[str, float] = SHARES) -> list[Clip]:
        """About `n` training clips in proportion to `shares`, rare sound classes raised."""
        by_kind: dict[str, list[Clip]] = {}
        for s, i in self.train:
            by_kind.setdefault(kind_of(self.shards[s].records[i]), []).append((s, i))
        chosen = []
        for kind, pool in by_kind.items():
            weights = None
            if kind == "sound":
                texts = [self.shards[s].records[i]["text"] for s, i in pool]
                n_of = Counter(texts)
                weights = [n_of[t] ** -0.5 for t in texts]
            elif kind == "foreign":  # each language alike, and of a voice not too much
                records = [self.shards[s].records[i] for s, i in pool]
                n_of = Counter((record["language"], record["source"]) for record in records)
                total = dict.fromkeys((language for language, _ in n_of), 0.0)
                for (language, _), n_clips in n_of.items():
                    total[language] += n_clips**0.5
                weights = [
                    n_of[record["language"], record["source"]] ** -0.5 / total[record["language"]]
                    for record in records
                ]
            elif kind == "speech":
                weights = [speech_weight(self.shards[s].name) for s, _ in pool]
            chosen += r.choices(pool, weights, k=int(n * shares[kind]))
        return chosen


def tokens_of_captions(tokenizer: Tokenizer) -> list[int]:
    """`vocabulary.json`; made once, of every shard there is, so that a restart can add shards."""
    path = WORK / "vocabulary.json"
    if not path.exists():
        texts = {
            captions(record)[0]
            for shard in sorted((WORK / "shards").glob("*.json"))
            for record in json.loads(shard.read_text())
        }
        ids = {t for text in texts for t in tokenizer.encode(text).ids}
        path.write_text(json.dumps(sorted(ids)))
    tokens: list[int] = json.loads(path.read_text())
    return tokens


class Judged(Encoded):
    """Clips with the teacher's probabilities, those of its most certain patch, as targets."""

    def __init__(self, shards: list[Shard]) -> None:
        super().__init__(shards)
        self.train = [clip for clip, record in self.encoded() if not is_validation(record)]

    def probabilities(self, batch: list[Clip]) -> Tensor:
        """[batch, 521]."""
        logits = np.stack([self.shards[s].teacher(i).max(0) for s, i in batch])
        return torch.from_numpy(logits).float().sigmoid()


def noised(frames: Tensor, p_drop: float = 0.1) -> Tensor:
    """Gaussian noise, a masked stretch of time and dropped channels, against over-fitting."""
    batch, n_frames, d = frames.shape
    there = frames.abs().amax(-1, keepdim=True) > 0
    frames = frames + 0.15 * torch.randn_like(frames) * frames.std()
    frames = frames * (torch.rand(batch, 1, d) > p_drop) * there
    for row in range(batch):
        if random.random() < 0.5:
            width = random.randint(1, 8)
            start = random.randrange(max(1, n_frames - width))
            frames[row, start : start + width] = 0
    return frames


def partly_hidden(audio: Tensor, part: float) -> Tensor:
    """The audio stream, left out of this part of the clips.

    The small BEATs has seen these very clips and knows them better than any it will meet; what the
    speech encoder, which has not, hears of sounds must be learnt beside it.
    """
    return audio * (torch.rand(len(audio), 1, 1) >= part)


def decoded(log_probs: Tensor, vocabulary: list[int], tokenizer: Tokenizer) -> list[str]:
    """Greedy CTC."""
    texts = []
    for row in log_probs.argmax(-1).tolist():
        ids = [t for t, before in zip(row, [0, *row], strict=False) if t and t != before]
        texts.append(tokenizer.decode([vocabulary[i - 1] for i in ids]))
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", type=Path, required=True)
    parser.add_argument("--shards", nargs="+", required=True)
    parser.add_argument("--start", type=Path, help="a connector to begin with")
    parser.add_argument("--judged", nargs="*", default=[], help="shards with the teacher's scores")
    parser.add_argument("--judge", type=float, default=0.3, help="weight of the teacher's loss")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="in all sessions")
    length.add_argument("--steps", type=int, help="likewise: what is compared takes equally many")
    parser.add_argument("--every", type=float, default=3, help="minutes between validations")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--windows", type=int, default=256, help="windows a batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="align", help="folder of the run")
    parser.add_argument("--queries", type=int, default=NANO.n_queries, help="a window")
    parser.add_argument("--window", type=int, default=NANO.window_frames, help="frames of 20 ms")
    parser.add_argument("--shares", nargs="*", type=share, default=[], metavar="KIND=SHARE")
    parser.add_argument("--no-audio", action="store_true", help="without the small BEATs")
    parser.add_argument(
        "--hide",
        type=float,
        default=0.0,
        help="part of the clips that the small BEATs is left out of",
    )
    options = parser.parse_args()
    dims = dataclasses.replace(
        NANO,
        n_queries=options.queries,
        window_frames=options.window,
        stride_frames=options.window,
    )
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    out = WORK / options.name
    out.mkdir(exist_ok=True)

    tokenizer = smollm2_tokenizer(options.llm)
    embeddings = smollm2_state(options.llm)["model.embed_tokens.weight"]
    shards = [Shard(name) for name in options.shards]
    vocabulary = tokens_of_captions(tokenizer)
    clips = Clips(shards, tokenizer, vocabulary, dims, hears=not options.no_audio)
    judged = Judged([Shard(name) for name in options.judged])
    if options.judged and not judged.train:
        names = " ".join(options.judged)
        parser.error(f"--judged {names}: no features; run `training.encode` on them, both ways")
    print(f"{len(vocabulary)} tokens, {clips.counted()}")
    print(f"{len(judged.train)} more only judged by the teacher", flush=True)

    connector, head = with_still_norms(Connector(dims)), WordHead(embeddings[vocabulary])
    teacher_head = TeacherHead(dims.d_model)
    for layer in connector.speech_Qformer.bert.encoder.layer:
        for part in (layer.crossattention.self.key, layer.crossattention.self.value):
            nn.init.zeros_(part.weight[:, NANO.d_speech :])  # the audio stream joins later
    nn.init.normal_(connector.speech_query_tokens, std=1.0)
    nn.init.normal_(connector.speech_llama_proj.weight, std=0.3 * NANO.hidden_size**-0.5)
    connector.speech_llama_proj.bias.data.copy_(head.mean)
    blank = options.start and options.start.with_name("head.safetensors")
    if options.start:
        connector.load_state_dict(started(options.start, dims))
    if blank and blank.exists():
        head.load(blank)
    parameters = [*connector.parameters(), *head.parameters(), *teacher_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=0.01, betas=(0.9, 0.98))
    parts = {"connector": connector, "head": head, "teacher_head": teacher_head}
    run = Run(out, parts, optimizer, minutes=options.minutes, steps=options.steps)

    def save() -> None:
        run.save()
        save_file(connector.state_dict(), out / "connector.safetensors")
        save_file({"blank": head.blank.data}, out / "head.safetensors")

    @torch.no_grad()
    def check() -> None:
        began = time.monotonic()
        connector.eval()
        scores: dict[str, tuple[list[str], list[str]]] = {}
        near: list[float] = []
        named: list[tuple[str, str]] = []
        for batch in clips.batches(clips.validation, 512, random.Random(0)):
            soft = soft_tokens(connector, *clips.features(batch))
            log_probs, _ = head(soft)
            near.append(head.nearness(soft, log_probs))
            for clip, text in zip(batch, decoded(log_probs, vocabulary, tokenizer), strict=True):
                record = shards[clip[0]].records[clip[1]]
                kind = kind_of(record)
                key = shards[clip[0]].name if kind == "speech" else kind
                spoken = kind in {"speech", "question", "mixture"}
                pair = scores.setdefault(key, ([], []))
                pair[0].append(words_of(clips.texts[clip]) if spoken else clips.texts[clip])
                pair[1].append(words_of(text) if spoken else text)
                if kind == "mixture":
                    named.append((ANSWERS[record["sound"]], text))
        connector.train()
        # Where a caption is only a name, the names that are spelled right count instead of words.
        names = {"sound", "music", "noise", "foreign"}
        figures = {
            key: float(
                np.mean([t.strip(" [") == a.strip(" [") for t, a in zip(*pair, strict=True)])
            )
            if key in names
            else word_error_rate(*pair)
            for key, pair in scores.items()
        }
        if named:
            figures["mixture named"] = float(np.mean([f"[{n}" in text for n, text in named]))
        figures = {key: round(value, 4) for key, value in sorted(figures.items())}
        loss = {"loss": round(float(np.mean(losses[-200:])), 4)}
        if judgements:
            loss["teacher"] = round(float(np.mean(judgements[-200:])), 4)
        loss["cosine"] = round(float(np.mean(near)), 3)
        run.pause(time.monotonic() - began)
        run.log({**loss, "validation": figures})

    def judgement() -> Tensor:
        """The teacher's loss on the next batch of judged clips."""
        nonlocal pending
        if not pending:
            pending = judged.batches(judged.train, options.windows, shuffle)
        batch = pending.pop()
        speech, audio = judged.features(batch)
        with autocast():
            soft = soft_tokens(
                connector, noised(speech), noised(partly_hidden(audio, options.hide))
            )
        loss = F.binary_cross_entropy_with_logits(
            teacher_head(soft.float()), judged.probabilities(batch), reduction="none"
        )
        return loss.sum(1).mean()

    shares = SHARES | dict(options.shares)
    shuffle, losses = random.Random(options.seed + run.step), []
    judgements: list[float] = []
    pending: list[list[Clip]] = []
    checked = run.elapsed
    while run.done < 1:
        for batch in clips.batches(clips.balanced(2000, shuffle, shares), options.windows, shuffle):
            if run.done >= 1:
                break
            rate = options.lr * min(1, (run.step + 1) / 200)
            rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * run.done))
            optimizer.param_groups[0]["lr"] = rate
            speech, audio = clips.features(batch)
            # A published connector comes without its blank, which has to be found first.
            blind = blank and not blank.exists() and run.step < 80
            with autocast():
                with torch.set_grad_enabled(not blind):
                    audio = noised(partly_hidden(audio, options.hide))
                    soft = soft_tokens(connector, noised(speech), audio)
                log_probs, norm_error = head(soft)
            loss = clips.spelled(log_probs, batch)
            optimizer.zero_grad()
            (loss + norm_error).backward()
            if options.judged and run.step % 3 == 0:
                teacher_loss = judgement()
                (options.judge * teacher_loss).backward()
                judgements.append(teacher_loss.item())
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())
            run.step += 1
            if run.step % 100 == 0:
                save()
            if run.elapsed - checked > options.every:
                check()
                checked = run.elapsed
    save()
    if losses:  # otherwise the run was over before
        check()


if __name__ == "__main__":
    main()
