"""The LoRA's scale at test time, and its rank: what is gained and lost by less of it.

SALMONN (arXiv:2310.13289, section 4) found that its cross-modal tasks nobody trained for come to
life when the LoRA's scale is lowered, at the price of the trained ones. Here the trained questions
are those of validation, and the untrained one asks for a story: an answer counts as one if it is
longer than any trained answer and not the transcript. Ranks are cut off the trained adapter (the
largest singular values of each B A), which shows how many directions it uses, not what a smaller
one could have learnt.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from safetensors.torch import load_file

from kokanee.benchmarks.heldout import word_error_rate
from kokanee.export.reference import Connector
from training.align import NANO, Clips
from training.instruct import answers, validate
from training.llm import SpeakingLlm
from training.lora import SCALE, cut
from training.shards import WORK, Shard
from training.stories import UNTOLD

SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
RANKS = (1, 2, 4, 8)


def tells_a_story(answer: str, transcript: str) -> bool:
    words = answer.split()
    return len(words) >= 20 and word_error_rate([transcript or "nothing"], [answer]) > 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", type=Path, required=True)
    parser.add_argument("--shards", nargs="+", required=True)
    parser.add_argument("--name", default="instruct", help="folder of the run")
    parser.add_argument("--each", type=int, default=30, help="clips of a kind")
    parser.add_argument("--scales", type=float, nargs="*", default=SCALES)
    parser.add_argument("--ranks", type=int, nargs="*", default=RANKS)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    llm, connector = SpeakingLlm(options.llm), Connector(NANO).eval()
    run = WORK / options.name
    connector.load_state_dict(load_file(run / "connector.safetensors"))
    lora = load_file(run / "lora.safetensors")
    llm.load_lora(lora)
    vocabulary = json.loads((WORK / "vocabulary.json").read_text())
    clips = Clips([Shard(name) for name in options.shards], llm.tokenizer, vocabulary)
    r = random.Random(1)
    heard = [c for c in clips.validation if clips.n_windows(c) < 18]
    told = r.sample(heard, min(options.each, len(heard)))
    texts = [clips.shards[s].records[i]["text"] for s, i in told]

    def figures() -> dict[str, object]:
        stories = answers(llm, connector, clips, [(c, UNTOLD) for c in told])
        said = [stories[c, UNTOLD] for c in told]
        share = sum(map(tells_a_story, said, texts)) / len(told)
        valid = validate(llm, connector, clips, options.each)
        return {**valid, "stories": round(share, 3), "example": said[0]}

    rows: dict[str, list[dict[str, object]]] = {"scales": [], "ranks": []}
    for scale in options.scales:
        llm.set_scale(scale)
        rows["scales"].append({"scale": scale, **figures()})
        print(json.dumps(rows["scales"][-1]), flush=True)
    llm.set_scale(SCALE)
    for rank in options.ranks:
        llm.load_lora(cut(lora, rank))
        rows["ranks"].append({"rank": rank, **figures()})
        print(json.dumps(rows["ranks"][-1]), flush=True)
    (run / "sweep.json").write_text(json.dumps({"trained_at": SCALE, **rows}, indent=1))


if __name__ == "__main__":
    main()
