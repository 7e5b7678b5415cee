"""A training run on disk: what it has learnt, its optimizer and how long it has gone on.

One safetensors file, replaced as a whole, so that a run that is cut off at any moment goes on from
the last save as if nothing had happened; the schedule counts the minutes of all its sessions.
"""

import json
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


class Run:
    """Modules (by name) and their optimizer, with the step and the minutes spent."""

    def __init__(
        self,
        folder: Path,
        modules: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        *,
        minutes: float | None,
        steps: int | None = None,
    ) -> None:
        """Goes on where the folder's run stopped; it is as long as one of the two says."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / "run.safetensors"
        self.modules, self.optimizer = modules, optimizer
        self.step, self._before, self.minutes, self.steps = 0, 0.0, minutes, steps
        self._trained = [p for g in optimizer.param_groups for p in g["params"]]
        if self.path.exists():
            self._load()
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Minutes spent on training, in all sessions."""
        return self._before + (time.monotonic() - self._start) / 60

    @property
    def done(self) -> float:
        """Share of the whole, up to 1."""
        spent = self.step / self.steps if self.steps else self.elapsed / (self.minutes or 1.0)
        return min(1.0, spent)

    def pause(self, seconds: float) -> None:
        """Takes `seconds` (a validation's) out of the count."""
        self._start += seconds

    def learnt(self) -> dict[str, Tensor]:
        """What is trained, under `module.parameter`."""
        ids = {id(p) for p in self._trained}
        return {
            f"{module}.{name}": p.detach()
            for module, m in self.modules.items()
            for name, p in m.named_parameters()
            if id(p) in ids
        }

    def save(self) -> None:
        tensors = dict(self.learnt())
        for i, p in enumerate(self._trained):
            for key, value in self.optimizer.state.get(p, {}).items():
                tensors[f"optimizer.{i}.{key}"] = value
        part = self.path.with_suffix(".part")
        counts = {"step": self.step, "minutes": self.elapsed}
        save_file(
            {k: t.contiguous() for k, t in tensors.items()}, part, {"run": json.dumps(counts)}
        )
        part.replace(self.path)

    def _load(self) -> None:
        with safe_open(self.path, "pt") as file:
            counts = json.loads(file.metadata()["run"])
            names = set(file.keys())
            for name, p in self.learnt().items():
                p.copy_(file.get_tensor(name))
            for i, p in enumerate(self._trained):
                keys = [n for n in names if n.startswith(f"optimizer.{i}.")]
                state = {n.rsplit(".", 1)[1]: file.get_tensor(n) for n in keys}
                if state:
                    self.optimizer.state[p] = state
        self.step, self._before = counts["step"], counts["minutes"]

    def log(self, record: dict[str, object]) -> None:
        """One line of the curve, on the screen and on disk."""
        line = json.dumps({"step": self.step, "minutes": round(self.elapsed, 2), **record})
        print(line, flush=True)
        with (self.folder / "curve.jsonl").open("a") as curve:
            curve.write(line + "\n")
