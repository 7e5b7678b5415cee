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
from tokenizers import Tokenizer
from torch import Tensor, nn

from kokanee.benchmarks.heldout import class_of, normalised, word_error_rate
from kokanee.benchmarks.spoken_questions import same_answer
from kokanee.export.reference import Connector
from training.align import (
    NANO,
    SHARES,
    Clip,
    Clips,
    kind_of,
    noised,
    partly_hidden,
    share,
    soft_tokens,
    tokens_of_captions,
    with_still_norms,
)
from training.asking import is_validation
from training.heads import WordHead
from training.instructions import ANSWER, ANSWERS, HEAR, KIND, LANGUAGE, NOTHING, TRANSCRIBE, task
from training.llm import SpeakingLlm
from training.precision import autocast
from training.questions import ANSWERS as ANSWERED
from training.resume import Run
from training.shards import WORK, Record, Shard
from training.stories import STORIES, told


def asked_of(record: Record) -> tuple[str, ...]:
    """What a validation clip is asked."""
    if kind_of(record) == "foreign":
        return (LANGUAGE[0],)
    return {
        "speech": (TRANSCRIBE[0],),
        "question": (ANSWER[0],),
        "mixture": (TRANSCRIBE[0], HEAR[0]),
        "sound": (HEAR[0], KIND[1], TRANSCRIBE[0]),
        "music": (KIND[1], TRANSCRIBE[0]),
        "noise": (TRANSCRIBE[0],),
    }[record["kind"]]


def answers(
    llm: SpeakingLlm, connector: Connector, clips: Clips, asked: list[tuple[Clip, str]]
) -> dict[tuple[Clip, str], str]:
    """Greedy answers, clips of about equal length together."""
    asked = sorted(asked, key=lambda pair: clips.n_windows(pair[0]))
    out = {}
    for k in range(0, len(asked), 24):
        batch = asked[k : k + 24]
        soft: list[Tensor] = []
        with torch.no_grad():
            for clip, _ in batch:
                soft += soft_tokens(connector, *clips.features([clip]))
        texts = llm.answers(soft, [question for _, question in batch], most=100)
        out.update(dict(zip(batch, texts, strict=True)))
    return out


def validate(llm: SpeakingLlm, connector: Connector, clips: Clips, n_each: int) -> dict[str, float]:
    """A fixed sample of the validation clips, and the share that is right of each kind."""
    connector.eval()
    r = random.Random(0)

    def record(clip: Clip) -> Record:
        return clips.shards[clip[0]].records[clip[1]]

    pools: dict[str, list[Clip]] = {}
    for clip in clips.validation:
        kind = kind_of(record(clip))
        pools.setdefault(clips.shards[clip[0]].name if kind == "speech" else kind, []).append(clip)
    sample = {k: r.sample(v, min(len(v), n_each)) for k, v in pools.items()}
    said = answers(
        llm,
        connector,
        clips,
        [(c, q) for g in sample.values() for c in g for q in asked_of(record(c))],
    )
    scores: dict[str, list[float]] = {}
    words: dict[str, list[tuple[str, str]]] = {}
    for key, group in sample.items():
        for clip in group:
            truth = record(clip)
            kind = kind_of(truth)
            if kind in {"speech", "mixture"}:
                words.setdefault(f"{key} wer", []).append(
                    (truth["text"], said[clip, TRANSCRIBE[0]])
                )
            if kind == "foreign":
                right = truth["language"].lower() in said[clip, LANGUAGE[0]].lower()
                scores.setdefault("language", []).append(right)
            if kind == "question":
                same = same_answer(truth["text"], truth["answer"], said[clip, ANSWER[0]])
                scores.setdefault("same answer", []).append(same)
            if kind == "mixture":
                heard = said[clip, HEAR[0]]
                right = "speaking" in heard and ANSWERS[truth["sound"]] in heard
                scores.setdefault("both named", []).append(right)
            if kind == "sound":
                right = ANSWERS[truth["text"]].lower() in said[clip, HEAR[0]].lower()
                right |= class_of(said[clip, HEAR[0]]) == truth["text"]
                scores.setdefault("sound class", []).append(right)
            if kind in {"sound", "music"}:
                scores.setdefault(f"{kind} kind", []).append(kind in said[clip, KIND[1]].lower())
            if kind in {"sound", "music", "noise"}:
                scores.setdefault("invented", []).append(said[clip, TRANSCRIBE[0]] != NOTHING)
    connector.train()
    figures = {k: float(np.mean(v)) for k, v in scores.items()}
    figures |= {k: word_error_rate(*zip(*v, strict=True)) for k, v in words.items()}
    return {k: round(v, 3) for k, v in sorted(figures.items())}


def unspoken(tokenizer: Tokenizer, vocabulary: list[int]) -> list[tuple[list[int], str]]:
    """Questions as the head's tokens, and the LLM's own answers (`questions` has written them)."""
    index = {token: i for i, token in enumerate(vocabulary, 1)}
    out = []
    for question, answer in json.loads(ANSWERED.read_text()).items():
        ids = [index.get(t) for t in tokenizer.encode(f" {normalised(question)}").ids]
        if None not in ids and not is_validation(question):
            out.append((ids, answer))
    return out  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", type=Path, required=True)
    parser.add_argument("--shards", nargs="+", required=True)
    parser.add_argument("--minutes", type=float, required=True, help="in all sessions")
    parser.add_argument("--lr", type=float, default=2e-4, help="of the connector")
    parser.add_argument("--lora-lr", type=float, default=8e-4)
    parser.add_argument(
        "--first", default="align", help="folder of the first stage's run, or of published weights"
    )
    parser.add_argument("--start-lora", type=Path, help="a published adapter to begin with")
    parser.add_argument("--windows", type=int, default=160, help="windows a batch")
    parser.add_argument(
        "--align", type=float, default=0.15, help="weight of the first stage's loss"
    )
    parser.add_argument(
        "--written", type=int, default=0, help="questions a batch that nobody has spoken"
    )
    parser.add_argument(
        "--stories",
        type=float,
        default=0.0,
        help="part of the batches whose sounds ask for stories",
    )
    parser.add_argument(
        "--spelled",
        type=int,
        default=0,
        help="further batches a step that go through the first stage's loss only",
    )
    parser.add_argument("--shares", nargs="*", type=share, default=[], metavar="KIND=SHARE")
    parser.add_argument("--hide", type=float, default=0.0, help="as in `align`")
    parser.add_argument("--every", type=float, default=10, help="minutes between validations")
    parser.add_argument("--check", type=int, default=24, help="clips of a kind a validation")
    parser.add_argument("--name", default="instruct", help="folder of the run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    first, out = WORK / options.first, WORK / options.name

    llm = SpeakingLlm(options.llm)
    vocabulary = tokens_of_captions(llm.tokenizer)
    clips = Clips([Shard(name) for name in options.shards], llm.tokenizer, vocabulary)
    connector, head = with_still_norms(Connector(NANO)), WordHead(llm.embeddings[vocabulary])
    stories = json.loads(STORIES.read_text()) if options.stories else {}
    written = unspoken(llm.tokenizer, vocabulary) if options.written else []
    connector.load_state_dict(load_file(first / "connector.safetensors"))
    head.load(first / "head.safetensors")
    if options.start_lora:
        llm.load_lora(load_file(options.start_lora))
    groups = [
        {"params": [*connector.parameters(), *head.parameters()], "peak": options.lr},
        {"params": llm.lora(), "peak": options.lora_lr},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))
    run = Run(
        out, {"connector": connector, "head": head, "llm": llm}, optimizer, minutes=options.minutes
    )
    trained = [p for g in groups for p in g["params"]]

    def heard_in(batch: list[Clip]) -> Tensor:
        """Soft tokens, from features as noisy as training wants them."""
        speech, audio = clips.features(batch)
        with autocast():
            audio = noised(partly_hidden(audio, options.hide))
            return soft_tokens(connector, noised(speech), audio).float()

    def spelling(soft: Tensor, batch: list[Clip]) -> Tensor:
        """The first stage's loss, weighted."""
        with autocast():
            log_probs, norm_error = head(soft)
        return options.align * (clips.spelled(log_probs, batch) + norm_error)

    further: list[list[Clip]] = []

    def save() -> None:
        run.save()
        save_file(connector.state_dict(), out / "connector.safetensors")
        save_file(llm.lora_state(), out / "lora.safetensors")
        save_file({"blank": head.blank.data}, out / "head.safetensors")  # for a step after this one

    def check(n_each: int) -> None:
        began = time.monotonic()
        figures = validate(llm, connector, clips, n_each)
        run.pause(time.monotonic() - began)
        run.log({"loss": round(float(np.mean(losses[-100:])), 4), "validation": figures})

    print(f"{clips.counted()}, at {run.elapsed:.1f} minutes", flush=True)
    r, losses, n_seen, began = random.Random(options.seed + run.step), [], 0, time.monotonic()
    shares = SHARES | dict(options.shares)
    checked = run.elapsed
    while run.done < 1:
        for batch in clips.batches(clips.balanced(2400, r, shares), options.windows, r):
            if run.done >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * min(1, (run.step + 1) / 60)
                group["lr"] *= 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * run.done))
            soft = heard_in(batch)
            records = [clips.shards[s].records[i] for s, i in batch]
            # All of a batch or none: one story makes every other answer as long by padding.
            telling = float(r.random() < options.stories)
            tasks = [told(x, stories, telling, r) or task(x, r) for x in records]
            heard = list(soft)
            for ids, answer in r.sample(written, options.written):
                heard.append(head.written(ids))
                tasks.append((r.choice(ANSWER), answer))
            spoken = llm.loss(heard, [q for q, _ in tasks], [a for _, a in tasks])
            optimizer.zero_grad()
            (spoken + spelling(soft, batch)).backward()
            for _ in range(options.spelled):  # the connector alone is cheap
                if not further:
                    more = clips.balanced(2400 * options.spelled, r, shares)
                    further += clips.batches(more, options.windows, r)
                other = further.pop()
                spelling(heard_in(other), other).backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            losses.append(float(spoken.detach()))
            run.step += 1
            n_seen += len(batch)
            if run.step % 25 == 0:
                pace = n_seen / (time.monotonic() - began)
                print(f"{run.step} {np.mean(losses[-25:]):.3f} {pace:.2f} clips/s", flush=True)
            if run.step % 100 == 0:
                save()
            if run.elapsed - checked > options.every:
                check(options.check)
                checked = run.elapsed
    save()
    if losses:  # otherwise the run was over before
        check(options.check)


if __name__ == "__main__":
    main()
