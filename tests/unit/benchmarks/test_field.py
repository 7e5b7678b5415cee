"""Who takes part, in what order, and what happens to those who cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from kokanee.benchmarks import encode_speed, field, llm_speed, offline
from kokanee.benchmarks.contenders import CONTENDERS, KOKANEE, Contender, Said
from kokanee.benchmarks.contenders.worker import WorkerError
from kokanee.benchmarks.field import Field, Setup
from kokanee.benchmarks.record import Measure, Part

KNOWN_MS = {KOKANEE: 2.0, "slow": 6.0}


class FakeWorker:
    """Answers at once and says what each stage took: a known time."""

    started: ClassVar[list[str]] = []
    closed: ClassVar[list[str]] = []
    asked: ClassVar[list[str]] = []
    refuses: ClassVar[set[str]] = set()

    def __init__(self, name: str, role: str) -> None:
        self.name, self.pid = name, 0
        self.hello: dict[str, Any] = {"ready_s": 0.5, "facts": {"role": role}}

    @classmethod
    def start(cls, name: str, role: str, spec: dict[str, Any]) -> FakeWorker:
        if name in cls.refuses:
            raise WorkerError(f"{name}: no such model")
        cls.started.append(name)
        return cls(name, role)

    def answer(self, pcm: Any, question: str, *, max_new_tokens: int) -> Said:
        self.asked.append(self.name)
        if self.name == "dies":
            raise WorkerError("dies ended with -9: no word")
        stage = KNOWN_MS[self.name]
        return Said(
            text="yes it is",
            n_tokens=4,
            stages_ms={"encode": stage, "prefill": 1.0},
            first_token_ms=stage + 1.0,
            total_ms=stage + 1.0 + 4 * 0.5,
        )

    def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append(f"{self.name} {do}")
        if self.name == "dies":
            raise WorkerError("dies ended with -9: no word")
        ms = KNOWN_MS[self.name]
        if do == "decode":
            return {"step_ms": [ms] * arguments["n_steps"]}
        if do == "encode":
            return {"stages_ms": {"speech_encoder": ms}, "total_ms": ms}
        return {"ms": ms}

    def memory_mb(self) -> dict[str, float]:
        return {"rss": 90.0, "peak": 100.0, "anonymous": 80.0}

    def close(self) -> None:
        self.closed.append(self.name)


@pytest.fixture
def setup(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setattr(field, "Worker", FakeWorker)
    for name in ("slow", "dies", "absent", "refuses"):
        packages = ("no-such-package",) if name == "absent" else ()
        fake = Contender(
            name=name,
            module=name,
            roles=("answers", "encodes", "decodes"),
            packages=packages,
            install="pip install no-such-package",
            says="a fake",
        )
        monkeypatch.setitem(CONTENDERS, name, fake)
    monkeypatch.setattr(FakeWorker, "refuses", {"refuses"})
    for seen in (FakeWorker.started, FakeWorker.closed, FakeWorker.asked):
        seen.clear()
    return Setup(
        bundle=tiny,
        threads=1,
        rounds=3,
        warmup=1,
        against=("slow", "dies", "absent", "refuses"),
        work=tmp_path,
    )


def find(part: Part, name: str, **of: Any) -> Measure:
    return part.find(name, **of)


def test_a_stage_of_known_length_is_reported_as_long_as_it_was(setup: Setup) -> None:
    part = offline.measure(setup, seconds=(1.0,), processes=0)
    for name, stage in KNOWN_MS.items():
        of = {"contender": name, "seconds": 1.0}
        assert find(part, "stage", stage="encode", **of).samples == (stage,) * 3
        assert find(part, "first_token", **of).samples == (stage + 1.0,) * 3
        assert find(part, "per_token", **of).samples == pytest.approx((0.5,) * 3)
        want = (stage + 3.0) / 1e3
        assert find(part, "real_time_factor", **of).samples == pytest.approx((want,) * 3)


def test_who_cannot_is_left_out_by_name_and_nobody_stands_in_for_it(setup: Setup) -> None:
    part = offline.measure(setup, seconds=(1.0,), processes=0)
    why = {s.name: s.why for s in part.skipped}
    assert why == {
        "absent": "no-such-package not installed",
        "refuses": "no such model",
        "dies": "dies ended with -9: no word",
    }
    assert {m.of["contender"] for m in part.measures} == set(KNOWN_MS)
    assert {s.install for s in part.skipped if s.name == "absent"} == {
        "pip install no-such-package"
    }
    assert sorted(FakeWorker.closed) == sorted(FakeWorker.started)


def test_ours_must_be_able_to(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeWorker, "refuses", {KOKANEE})
    with pytest.raises(WorkerError, match="no such model"):
        offline.measure(setup, seconds=(1.0,), processes=0)


def test_turns_go_round_and_the_warm_up_is_not_kept(setup: Setup) -> None:
    order = []
    with Field(setup, "answers", {}, "turns") as taking_part:
        for index, worker in taking_part.turns():
            order.append((index, worker.name))
    names = (KOKANEE, "slow", "dies")
    want = [(i - 1, names[(i + turn) % 3]) for i in range(4) for turn in range(3)]
    assert order == want


def test_large_ones_are_started_for_every_turn(setup: Setup) -> None:
    with Field(setup, "answers", {}, "turns", anew=True) as taking_part:
        for _, worker in taking_part.turns():
            assert FakeWorker.started.count(worker.name) == 1 + FakeWorker.closed.count(worker.name)
    assert FakeWorker.started.count(KOKANEE) == 4


def test_every_step_is_a_sample_and_every_round_a_rate(setup: Setup) -> None:
    part = llm_speed.decode(setup, depths=(8,), n_steps=5)
    assert find(part, "step", contender="slow", depth=8).samples == (6.0,) * 15
    rates = find(part, "rate", contender="slow", depth=8)
    assert rates.samples == pytest.approx((1e3 / 6,) * 3)
    assert rates.better == "more"


def test_depths_beyond_the_model_are_left_out_and_named(setup: Setup) -> None:
    part = llm_speed.decode(setup, depths=(8, 10**6), n_steps=5)
    assert part.notes == ("left out, more than the model's positions: 1000000",)
    with pytest.raises(ValueError, match="expected at most"):
        llm_speed.prefill(setup, prefills=[(10**6, 0)])


def test_prefill_and_encode_keep_their_labels(setup: Setup) -> None:
    part = llm_speed.prefill(setup, prefills=[(16, 0), (16, 8)])
    assert find(part, "rate", contender=KOKANEE, n=16, depth=8).samples == (8000.0,) * 3
    part = encode_speed.measure(setup, seconds=(1.0,))
    assert find(part, "total", contender="slow", seconds=1.0).samples == (6.0,) * 3
