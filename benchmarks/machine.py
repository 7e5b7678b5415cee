"""What a figure was taken on: the machine, what runs on it, and which code."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kokanee.engine.onnx import available_threads
from kokanee.runtime.memory import machine_mb

# Instruction sets that decide how fast products of 8-bit numbers are.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def current_rss_mb() -> float:
    """Resident memory of this process now."""
    import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own

    return float(psutil.Process().memory_info().rss) / 1e6


def run_measured(arguments: list[str]) -> dict[str, Any]:
    """Run `kokanee` with these arguments in a process of its own.

    Returns:
        `wall_s`; `peak_rss_mb`, the largest sum of resident sets over the process and its children,
        sampled every 20 ms; `stdout`.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    import psutil

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


LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tokenizers", "soxr", "soundfile")


def conditions(*, threads: int, device: str) -> dict[str, Any]:
    """All that a time depends on beside the bundle: machine, GPU, libraries, commit."""
    return {
        "machine": machine() | {"memory_gb": _memory_gb(), "governor": _governor()},
        "threads": threads,
        "device": device,
        "gpu": gpu(),
        "libraries": versions(LIBRARIES),
        "commit": commit(),
    }


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of the distributions among these that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> dict[str, Any] | None:
    """Which code ran, where it is a clone: its commit, and whether files differ from it."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        done = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"hash": done.stdout.strip(), "changed": bool(changed.stdout.strip())}


def gpu() -> dict[str, Any] | None:
    """Name, memory, driver and clocks of the first GPU as NVML tells them; None without.

    Needs nvidia-ml-py; a machine without it, or without a driver, has no GPU as far as this knows.
    """
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # NVML's own error class comes from the module that may be missing
        return None
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return {
            "name": _text(nvml.nvmlDeviceGetName(handle)),
            "driver": _text(nvml.nvmlSystemGetDriverVersion()),
            "memory_gb": memory.total / 1e9,
            "used_gb": memory.used / 1e9,
            "sm_clock_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        }
    finally:
        nvml.nvmlShutdown()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _memory_gb() -> float | None:
    mb = machine_mb()
    return None if mb is None else round(mb / 1e3, 1)


def _governor() -> str | None:
    file = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return file.read_text("utf-8").strip() if file.is_file() else None


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
        "load_average": [round(x, 1) for x in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def read_bandwidth(n_bytes: int = 1 << 29) -> float:
    """Bytes a second that every core together reads from memory: the best of five."""
    parts = [
        np.ones(n_bytes // available_threads() // 8, np.int64) for _ in range(available_threads())
    ]
    best = 0.0
    for _ in range(5):
        threads = [threading.Thread(target=part.max) for part in parts]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = max(best, sum(p.nbytes for p in parts) / (time.perf_counter() - started))
    return best
