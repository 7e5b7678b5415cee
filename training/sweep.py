"""The LoRA's scale at test time: what trained and untrained questions gain and lose by it.

SALMONN (arXiv:2310.13289, section 4) found that its cross-modal tasks nobody trained for come to
life when the LoRA's scale is lowered, at the price of the trained ones. Here the trained questions
are those of validation, and the untrained one asks for a story: an answer counts as one if it is
longer than any trained answer and not the transcript.
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
from training.llm import SCALE, SpeakingLlm
from training.shards import WORK, Shard

SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
STORY = "Tell me a short story about what you hear."


def tells_a_story(answer: str, transcript: str) -> bool:
    words = answer.split()
    return len(words) >= 20 and word_error_rate([transcript or "nothing"], [answer]) > 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", type=Path, required=True)
    parser.add_argument("--shards", nargs="+", required=True)
    parser.add_argument("--name", default="instruct", help="folder of the run")
    parser.add_argument("--each", type=int, default=30, help="clips of a kind")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    llm, connector = SpeakingLlm(options.llm), Connector(NANO).eval()
    run = WORK / options.name
    connector.load_state_dict(load_file(run / "connector.safetensors"))
    llm.load_lora(load_file(run / "lora.safetensors"))
    vocabulary = json.loads((WORK / "vocabulary.json").read_text())
    clips = Clips([Shard(name) for name in options.shards], llm.tokenizer, vocabulary)
    r = random.Random(1)
    heard = [c for c in clips.validation if clips.n_windows(c) < 18]
    told = r.sample(heard, min(options.each, len(heard)))
    rows = []
    for scale in SCALES:
        llm.set_scale(scale)
        figures = validate(llm, connector, clips, options.each)
        stories = answers(llm, connector, clips, [(c, STORY) for c in told])
        texts = [clips.shards[s].records[i]["text"] for s, i in told]
        said = [stories[c, STORY] for c in told]
        figures["stories"] = sum(map(tells_a_story, said, texts)) / len(told)
        rows.append({"scale": scale, **figures, "example": said[0]})
        print(json.dumps(rows[-1]), flush=True)
    (run / "sweep.json").write_text(json.dumps({"trained_at": SCALE, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
