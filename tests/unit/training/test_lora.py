"""An adapter of a lower rank, and which numbers a processor multiplies fast."""

from pathlib import Path

import pytest
import torch
from training.lora import LoraLinear, cut
from training.precision import fast_dtype


def adapter(rank: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "q.lora_A.weight": torch.randn(rank, 24, generator=generator),
        "q.lora_B.weight": torch.randn(18, rank, generator=generator),
    }


def product(lora: dict[str, torch.Tensor]) -> torch.Tensor:
    return lora["q.lora_B.weight"] @ lora["q.lora_A.weight"]


def test_what_is_cut_to_its_own_rank_does_the_same() -> None:
    lora = adapter(4)
    torch.testing.assert_close(product(cut(lora, 4)), product(lora))


def test_a_lower_rank_is_the_nearest_there_is() -> None:
    lora = adapter(8)
    less = cut(lora, 3)
    assert less["q.lora_A.weight"].shape == (3, 24)
    assert less["q.lora_B.weight"].shape == (18, 3)
    left = torch.linalg.svdvals(product(lora))[3:]
    missed = torch.linalg.norm(product(lora) - product(less))
    torch.testing.assert_close(missed, torch.linalg.norm(left))


def test_a_fresh_adapter_changes_nothing() -> None:
    frozen = torch.nn.Linear(24, 18)
    x = torch.randn(2, 24)
    torch.testing.assert_close(LoraLinear(frozen)(x), frozen(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("fpu avx2 fma", torch.float32),
        ("fpu avx512f avx512_bf16", torch.bfloat16),
        ("amx_tile amx_bf16", torch.bfloat16),
    ],
)
def test_bfloat16_only_where_the_processor_multiplies_it(
    tmp_path: Path, flags: str, dtype: torch.dtype
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"flags\t\t: {flags}\n")
    assert fast_dtype(path) is dtype
    assert fast_dtype(tmp_path / "none") is torch.float32
