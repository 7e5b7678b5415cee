"""How far the machine was somebody else's while something was timed, and how that is known.

    with Watch() as watch:
        for each round:
            watch.control()            a fixed piece of work, timed
            ...                        what is measured
    watch.noise()                      quiet or not, why, and the evidence

Four witnesses, none of which is what is measured itself:

    control   the same arithmetic and the same walk through memory before every round: how far its
              times spread says how steady the machine was. Works everywhere, in containers too.
    steal     time that the hypervisor gave to other guests              /proc/stat
    others    processor time of processes that are not ours              /proc/stat, psutil
    waiting   share of time in which somebody who could run had to wait  /proc/pressure/cpu

`steal` cannot be seen in every virtual machine; that is what `control` is for.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .record import Noise

# Beyond these a part is called busy. Seen on an idle 2-core virtual machine: control 1.02 to 1.10,
# steal 0 to 0.5 %, others 0.2 to 1.5 %.
CONTROL_SPREAD = 1.25  # 90th percentile over the least
STEAL = 0.02
OTHERS = 0.05

_LEAST_S = 2.0  # /proc/stat counts in hundredths: of less than this they say nothing

_N_ROWS, _N_PRODUCTS, _N_WALK = 384, 6, 1 << 23  # 0.7 GFLOP, a walk through 64 MB


class Watch:
    """Looks at the machine from entering to leaving, and whenever `control` is called."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._matrix = rng.standard_normal((_N_ROWS, _N_ROWS)).astype(np.float32)
        self._walk = np.ones(_N_WALK, np.int64)
        self._controls: list[float] = []
        self._before = self._after = _Look()

    def __enter__(self) -> Watch:
        """Begin."""
        for _ in range(3):  # pages and caches warm
            self._work()
        self._before = _Look.now()
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        self._after = _Look.now()

    def control(self) -> float:
        """Do the fixed piece of work; the seconds it took (5 to 10 ms)."""
        self._work()  # behind a pause the first is slow on any machine
        started = time.perf_counter()
        self._work()
        taken = time.perf_counter() - started
        self._controls.append(taken)
        return taken

    def noise(self) -> Noise:
        """The verdict, once left."""
        evidence = self._after.since(self._before)
        if len(self._controls) >= 3:
            least = min(self._controls)
            evidence["control_ms"] = 1e3 * statistics.median(self._controls)
            evidence["control_spread"] = float(np.percentile(self._controls, 90)) / least
        return verdict(evidence)

    def _work(self) -> None:
        made: npt.NDArray[np.float32] = self._matrix
        for _ in range(_N_PRODUCTS):
            made = (made @ self._matrix) * np.float32(0.05)  # of variance 1 again
        self._walk.sum()


def verdict(evidence: dict[str, float]) -> Noise:
    """Quiet, or the reasons why not."""
    reasons = []
    if (spread := evidence.get("control_spread", 1.0)) > CONTROL_SPREAD:
        reasons.append(
            f"the same fixed work took up to {spread:.2f} times as long as at best"
            f" (quiet: below {CONTROL_SPREAD:g})"
        )
    if (steal := evidence.get("steal", 0.0)) > STEAL:
        reasons.append(f"{steal:.1%} of the processor time went to other virtual machines")
    if (others := evidence.get("others", 0.0)) > OTHERS:
        reasons.append(f"{others:.1%} of the processor time went to other processes")
    return Noise(quiet=not reasons, reasons=tuple(reasons), evidence=evidence)


class _Look:
    """The kernel's counters at a moment, in seconds; those it does not have are missing."""

    def __init__(self) -> None:
        self.wall = self.total = self.busy = self.steal = self.ours = 0.0
        self.waiting: float | None = None

    @classmethod
    def now(cls) -> _Look:
        look = cls()
        look.wall = time.monotonic()
        stat = Path("/proc/stat")
        if stat.is_file():
            tick = os.sysconf("SC_CLK_TCK")
            cpu = [int(x) / tick for x in stat.read_text("utf-8").split("\n", 1)[0].split()[1:9]]
            look.total, look.steal = sum(cpu), cpu[7]
            look.busy = look.total - cpu[3] - cpu[4] - look.steal  # idle, iowait
            look.ours = _family_s()
        pressure = Path("/proc/pressure/cpu")
        if pressure.is_file():
            some = pressure.read_text("utf-8").split("\n", 1)[0]
            look.waiting = int(some.rpartition("=")[2]) / 1e6
        return look

    def since(self, before: _Look) -> dict[str, float]:
        """Shares of the time between two looks."""
        wall, total = self.wall - before.wall, self.total - before.total
        shares: dict[str, float] = {}
        if total > _LEAST_S * (os.cpu_count() or 1):
            shares["steal"] = (self.steal - before.steal) / total
            others = self.busy - before.busy - (self.ours - before.ours)
            shares["others"] = max(0.0, others / total)
        if self.waiting is not None and before.waiting is not None and wall > 0:
            shares["waiting"] = (self.waiting - before.waiting) / wall
        return shares


def _family_s() -> float:
    """Processor time of this process, its children that ended, and those that live."""
    import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own

    spent = sum(os.times()[:4])
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
        except psutil.NoSuchProcess:
            continue
    return spent
