"""The low-rank adapter that nano's language model is trained with, and the same of a lower rank."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

RANK, SCALE = 16, 4.0


def cut(lora: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The adapter of that rank that is nearest to the given one."""
    out = {}
    for key, a in lora.items():
        if "lora_A" in key:
            other = key.replace("lora_A", "lora_B")
            u, s, v = torch.linalg.svd(lora[other].float() @ a.float(), full_matrices=False)
            root = s[:rank].sqrt()
            out[key], out[other] = root[:, None] * v[:rank], u[:, :rank] * root
    return out


class LoraLinear(nn.Module):
    """y = W x + scale B (A x), W frozen."""

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        self.frozen = frozen
        self.scale = SCALE
        self.a = nn.Parameter(torch.randn(RANK, frozen.in_features) * frozen.in_features**-0.5)
        self.b = nn.Parameter(torch.zeros(frozen.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = F.linear(F.linear(x, self.a), self.b)
        frozen: Tensor = self.frozen(x)
        return frozen + self.scale * added
