"""What a figure was taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from kokanee.engine.onnx import available_threads


def machine() -> dict[str, Any]:
    """Processor, CPUs this process may use, load, system and Python."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = lines[0].partition(":")[2].strip() if lines else cpu
    return {
        "cpu": cpu,
        "n_cpus": available_threads(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
