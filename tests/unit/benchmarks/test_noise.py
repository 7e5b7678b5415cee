"""A busy machine is called busy, and why."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.benchmarks.noise import CONTROL_SPREAD, OTHERS, STEAL, Watch, verdict

shares = st.floats(0, 1)


@given(spread=st.floats(1, 9), steal=shares, others=shares)
def test_every_witness_alone_suffices(spread: float, steal: float, others: float) -> None:
    noise = verdict({"control_spread": spread, "steal": steal, "others": others})
    against = [spread > CONTROL_SPREAD, steal > STEAL, others > OTHERS]
    assert noise.quiet == (not any(against))
    assert len(noise.reasons) == sum(against)


def test_without_witnesses_nothing_is_said_against_it() -> None:
    assert verdict({}).quiet


def test_a_spread_is_told_with_its_number() -> None:
    (reason,) = verdict({"control_spread": 1.5}).reasons
    assert "1.50 times" in reason


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/stat")
def test_somebody_elses_work_is_seen_and_our_own_is_not() -> None:
    spin = [sys.executable, "-c", "import time\nend = time.time() + 20\nwhile time.time() < end: 0"]
    orphan = f"import subprocess as s; print(s.Popen({spin!r}, stdout=s.DEVNULL).pid)"
    done = subprocess.run(
        [sys.executable, "-c", orphan], stdout=subprocess.PIPE, text=True, check=True
    )
    pid = int(done.stdout)  # a child of nobody's, as its parent has ended
    try:
        with Watch() as busy:
            time.sleep(3)
    finally:
        subprocess.run(["kill", str(pid)], check=True)
    others = busy.noise().evidence["others"]
    mine = subprocess.Popen(spin)
    try:
        with Watch() as alone:
            time.sleep(3)
    finally:
        mine.kill()
        mine.wait()
    assert others > alone.noise().evidence["others"] + 0.1


def test_controls_are_counted_from_three_on() -> None:
    with Watch() as watch:
        watch.control()
        watch.control()
    assert "control_spread" not in watch.noise().evidence
    with Watch() as watch:
        for _ in range(3):
            watch.control()
    assert watch.noise().evidence["control_spread"] >= 1
