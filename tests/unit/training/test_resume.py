"""A training run that is cut off goes on as if nothing had happened."""

from pathlib import Path

import torch
from torch import nn
from training.resume import Run


def start(folder: Path) -> tuple[nn.Linear, torch.optim.AdamW, Run]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer, Run(folder, {"model": model}, optimizer, minutes=60)


def steps(model: nn.Linear, optimizer: torch.optim.AdamW, run: Run, n: int) -> None:
    for _ in range(n):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(run.step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        run.step += 1


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole")
    steps(*whole, 7)
    first = start(tmp_path / "cut")
    steps(*first, 4)
    first[2].save()
    steps(*first, 2)  # lost: never saved
    second = start(tmp_path / "cut")
    assert second[2].step == 4
    steps(*second, 3)
    torch.testing.assert_close(second[0].weight, whole[0].weight, rtol=0, atol=0)


def test_minutes_of_all_sessions_count(tmp_path: Path) -> None:
    *_, run = start(tmp_path)
    run.pause(-90)  # as if a minute and a half had gone by
    assert 1.5 <= run.elapsed < 1.6
    run.save()
    *_, again = start(tmp_path)
    assert 1.5 <= again.elapsed < 1.7
    assert 0.025 <= again.done < 0.03
    again.pause(30)
    assert again.elapsed < 1.2


def test_a_run_may_be_counted_in_steps(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    run = Run(tmp_path, {"model": model}, optimizer, minutes=None, steps=4)
    run.pause(-3600)
    assert run.done == 0
    steps(model, optimizer, run, 3)
    assert run.done == 0.75
    steps(model, optimizer, run, 2)
    assert run.done == 1


def test_a_half_written_save_is_not_read(tmp_path: Path) -> None:
    model, optimizer, run = start(tmp_path)
    steps(model, optimizer, run, 1)
    run.save()
    (tmp_path / "run.part").write_bytes(b"cut off")
    *_, again = start(tmp_path)
    assert again.step == 1


def test_the_curve_is_added_to(tmp_path: Path) -> None:
    *_, run = start(tmp_path)
    run.log({"loss": 1.0})
    run.step = 5
    run.log({"loss": 0.5})
    lines = (tmp_path / "curve.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert '"step": 5' in lines[1]
