"""A contender in a process of its own, so that its memory is its own and nothing warms it but it.

    with Worker.start("kokanee", "answers", {"bundle": ..., "threads": 2}) as worker:
        said = worker.call("answer", pcm=pcm, question="...", max_new_tokens=64)

    parent                                 child: python -m kokanee.benchmarks.contenders.worker
      {"do": "answer", "pcm": FILE, ...}  -->  contender.answer(...)
                                          <--  {"said": {...}} or {"error": "..."}

One line of JSON each way; sound goes through a file, so that reading it is not timed. The child
computes only while it is asked, so several may be alive and take turns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from kokanee.engine.errors import KokaneeError

from . import CONTENDERS, Role, Said, UnavailableError

F32 = npt.NDArray[np.float32]
RESET_PEAK = "5"  # to /proc/self/clear_refs: the peak begins anew; proc_pid_clear_refs(5)


class WorkerError(KokaneeError):
    """A contender's process ended or refused; with the end of what it said."""


class Worker:
    """The parent's end."""

    def __init__(self, name: str, process: subprocess.Popen[str], said: IO[bytes]) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._said = said  # standard error
        self._scratch = tempfile.TemporaryDirectory()
        self._sounds: dict[int, Path] = {}
        self._kept: list[F32] = []
        try:
            self.hello: dict[str, Any] = self._read()
        except BaseException:
            self.close()
            raise
        """ready_s, from the first import to a first use being possible; versions; memory."""

    @classmethod
    def start(cls, name: str, role: Role, spec: Mapping[str, Any]) -> Worker:
        """Start a contender and wait until it is ready.

        Raises:
            WorkerError: it could not be loaded, and why.
        """
        said = tempfile.TemporaryFile()  # noqa: SIM115 - the worker closes it
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, name, role, json.dumps(dict(spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        return cls(name, process, said)

    def call(self, do: str, *, pcm: F32 | None = None, **arguments: Any) -> dict[str, Any]:
        """Have it do something; its answer.

        Raises:
            WorkerError: it did not.
        """
        if pcm is not None:
            arguments["pcm"] = str(self._file(pcm))
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # reading says why
        return self._read()

    def answer(self, pcm: F32, question: str, *, max_new_tokens: int) -> Said:
        """As `Answers.answer`."""
        return Said(
            **self.call("answer", pcm=pcm, question=question, max_new_tokens=max_new_tokens)
        )

    def memory_mb(self) -> dict[str, float]:
        """Resident now ("rss"), most since it began or since `forget_peak` ("peak")."""
        return self.call("memory")

    def forget_peak(self) -> None:
        """Begin the peak anew."""
        self.call("forget_peak")

    def close(self) -> None:
        """End it; twice is harmless."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # it died before it read everything
                    stream.close()
        self._said.close()
        self._scratch.cleanup()

    def __enter__(self) -> Worker:
        """The worker."""
        return self

    def __exit__(self, *error: object) -> None:
        """End it."""
        self.close()

    def _file(self, pcm: F32) -> Path:
        path = self._sounds.get(id(pcm))
        if path is None:
            path = Path(self._scratch.name) / f"{len(self._sounds)}.npy"
            np.save(path, pcm)
            self._sounds[id(pcm)] = path
            self._kept.append(pcm)  # so that its id is nobody else's
        return path

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            words = self._said.read().decode(errors="replace").strip()
            code = self._process.returncode
            raise WorkerError(f"{self.name} ended with {code}: {words[-500:] or 'no word'}")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise WorkerError(f"{self.name}: {said['error']}")
        return said


# --- the child's end ------------------------------------------------------------------------------


def _main(name: str, role: Role, spec: dict[str, Any]) -> None:
    # Libraries print where they please: only this file's own answers go to the parent.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(said: Mapping[str, Any]) -> None:
        replies.write(json.dumps(said) + "\n")
        replies.flush()

    contender = CONTENDERS[name]
    try:
        spec = contender.prepare(role, spec)
        started = time.perf_counter()
        opened = contender.open(role, spec)
    except (UnavailableError, ImportError, OSError, KokaneeError) as error:
        reply({"error": " ".join(str(error).split()) or type(error).__name__})
        return
    ready_s = time.perf_counter() - started
    if role == "decodes":  # warm, however soon it is asked
        opened.rewind(0)
        opened.prefill(8)
        opened.step()
    reply(
        {
            "ready_s": ready_s,
            "versions": contender.versions(),
            "facts": getattr(opened, "facts", {}),
            **_memory(),
        }
    )
    for line in sys.stdin:
        asked = json.loads(line)
        do = _DOES[asked.pop("do")]
        if "pcm" in asked:
            asked["pcm"] = np.load(asked["pcm"])
        try:
            reply(do(opened, **asked))
        except (UnavailableError, KokaneeError) as error:
            reply({"error": " ".join(str(error).split())})


def _answer(opened: Any, **asked: Any) -> dict[str, Any]:
    return dataclasses.asdict(opened.answer(asked.pop("pcm"), asked.pop("question"), **asked))


def _encode(opened: Any, pcm: F32) -> dict[str, Any]:
    started = time.perf_counter()
    stages = dict(opened.encode(pcm))
    return {"stages_ms": stages, "total_ms": (time.perf_counter() - started) * 1e3}


def _prefill(opened: Any, n_past: int, n_new: int) -> dict[str, Any]:
    opened.rewind(n_past)
    started = time.perf_counter()
    opened.prefill(n_new)
    return {"ms": (time.perf_counter() - started) * 1e3}


def _decode(opened: Any, n_past: int, n_steps: int) -> dict[str, Any]:
    opened.rewind(n_past)
    opened.prefill(1)  # an answer's first step comes from a warm cache and its own logits
    laps = [time.perf_counter()]
    for _ in range(n_steps):
        opened.step()
        laps.append(time.perf_counter())
    return {"step_ms": [(b - a) * 1e3 for a, b in itertools.pairwise(laps)]}


def _memory(opened: Any = None) -> dict[str, float]:
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines()
    )
    return {
        name: int(status[field].split()[0]) * 1024 / 1e6
        for name, field in (("rss", "VmRSS"), ("peak", "VmHWM"), ("anonymous", "RssAnon"))
    }


def _forget_peak(opened: Any) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    return _memory()


_DOES: dict[str, Callable[..., dict[str, Any]]] = {
    "answer": _answer,
    "encode": _encode,
    "prefill": _prefill,
    "decode": _decode,
    "memory": _memory,
    "forget_peak": _forget_peak,
}

if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))  # type: ignore[arg-type]
