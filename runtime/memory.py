"""How much memory this process has had at most, and how much the machine has."""

import os
import sys
from pathlib import Path


def peak_rss_mb() -> float | None:
    """Largest resident set of this process, in units of 1e6 bytes; None where unknown."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: its figure survives exec, so a large parent would be counted.
        line = next((x for x in status.read_text().splitlines() if x.startswith("VmHWM")), "")
        return int(line.split()[1]) * 1024 / 1e6 if line else None
    if sys.platform == "win32":
        return None
    import resource

    n_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return n_bytes * (1 if sys.platform == "darwin" else 1024) / 1e6


def machine_mb() -> float | None:
    """Memory of the machine, in units of 1e6 bytes; None where unknown."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
