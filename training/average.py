"""The weights half-way between a run's start and its end: what was learnt, and less forgotten.

Source: WiSE-FT (Wortsman et al., arXiv 2109.01903); here connector and LoRA both, the LoRA in its
factors, which is sound only because the run went on from the very same factors.
"""

import argparse
from pathlib import Path

from safetensors.torch import load_file, save_file

from training.lora import RANK, cut
from training.shards import WORK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=Path, required=True, help="folder of the weights before")
    parser.add_argument("--run", default="instruct", help="folder of the run")
    parser.add_argument("--share", type=float, default=0.5, help="of the run's end")
    parser.add_argument("--name", default="average", help="folder of the result")
    options = parser.parse_args()
    out = WORK / options.name
    out.mkdir(parents=True, exist_ok=True)
    for part in ("connector", "lora", "head"):
        after = load_file(WORK / options.run / f"{part}.safetensors")
        before = load_file(options.start / f"{part}.safetensors")
        if part == "lora" and min(next(iter(before.values())).shape) > RANK:
            before = cut(before, RANK)
        mean = {
            name: (tensor.float() * options.share + before[name].float() * (1 - options.share))
            for name, tensor in after.items()
        }
        contiguous = {name: tensor.contiguous() for name, tensor in mean.items()}
        save_file(contiguous, out / f"{part}.safetensors")


if __name__ == "__main__":
    main()
