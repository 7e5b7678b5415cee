"""What a figure was taken on."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kokanee.engine.onnx import available_threads

# Instruction sets that decide how fast products of 8-bit numbers are.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def run_measured(arguments: list[str]) -> dict[str, Any]:
    """Run `kokanee` with these arguments in a process of its own.

    Returns:
        `wall_s`; `peak_rss_mb`, the largest sum of resident sets over the process and its children,
        sampled every 20 ms; `stdout`.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own

    command = [sys.executable, "-m", "kokanee.runtime", *arguments]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(p.memory_info().rss for p in family))
            except psutil.NoSuchProcess:  # it ended between two looks
                pass
            time.sleep(0.02)
        wall_s = time.perf_counter() - started
        out, err = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"kokanee {' '.join(arguments)} failed: {err[-500:]}")
    return {"wall_s": wall_s, "peak_rss_mb": peak / 1e6, "stdout": out}


def machine() -> dict[str, Any]:
    """Processor, CPUs this process may use, load, system and Python."""
    cpu, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        facts = dict(line.split("\t", 1) for line in info.read_text().splitlines() if "\t" in line)
        cpu = facts.get("model name", f": {cpu}").partition(":")[2].strip()
        flags = facts.get("flags", facts.get("Features", ""))
    return {
        "cpu": cpu,
        "instructions": [f for f in _FLAGS if f in flags.split()],
        "n_cpus": available_threads(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
