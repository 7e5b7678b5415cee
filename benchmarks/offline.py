"""A whole clip and a question: how long until the first text is there, and until the last.

    |- features - encoders - connector - prefill_audio - prefill_question - first_piece -| ... |
    sound handed over                                                            first text   last
    |<------------------------------- first_token -------------------------------------->|
    |<---------------------------------- total ---------------------------------------------->|

`per_token` is what lies between the two, for every step of the model in it (one a token behind the
first, and the one that finds the end); `real_time_factor` is total over the length of the sound.
`process` is the whole command in a process of its own: starting Python, checking and opening the
bundle, and all of the above.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import soundfile

from .contenders import KOKANEE, Said
from .contenders.worker import WorkerError
from .field import QUESTION, Field, Setup, sound
from .machine import run_measured
from .record import Label, Measure, Part

SECONDS = (1.0, 3.0, 10.0, 30.0)
MAX_NEW_TOKENS = 32
PROCESS_S = 5.0  # length of the clip that whole processes are given


def measure(setup: Setup, *, seconds: Sequence[float] = SECONDS, processes: int = 5) -> Part:
    """Every contender hears every clip once a round.

    Args:
        setup: what, beside whom, how often.
        seconds: lengths of the clips.
        processes: how many whole processes are timed; 0: none.
    """
    started = time.perf_counter()
    clips = {s: sound(s) for s in seconds}
    said: dict[tuple[str, float], list[Said]] = defaultdict(list)
    with Field(setup, "answers", {}, "offline") as field:
        for index, worker in field.turns():
            try:
                if field.alone:  # it has just been started
                    worker.answer(clips[min(clips)], QUESTION, max_new_tokens=2)
                for length, pcm in clips.items():
                    heard = worker.answer(pcm, QUESTION, max_new_tokens=MAX_NEW_TOKENS)
                    if index >= 0:
                        said[worker.name, length].append(heard)
            except WorkerError as error:
                if worker.name == KOKANEE:
                    raise
                field.drop(worker.name, str(error))
        whole = _processes(setup, processes, field)
    measures = [m for (name, s), all_ in said.items() for m in _measures(name, s, all_)]
    return Part(
        name="offline",
        seconds=time.perf_counter() - started,
        settings=setup.settings(
            seconds=list(seconds), max_new_tokens=MAX_NEW_TOKENS, processes=processes
        )
        | {"contenders": field.facts},
        noise=field.watch.noise(),
        measures=(*measures, *whole),
        skipped=tuple(field.skipped),
    )


def _measures(name: str, seconds: float, said: Sequence[Said]) -> list[Measure]:
    of: dict[str, Label] = {"contender": name, "seconds": seconds}
    made = [
        Measure(
            name="stage",
            unit="ms",
            of=of | {"stage": stage},
            samples=tuple(s.stages_ms[stage] for s in said),
        )
        for stage in said[0].stages_ms
    ]
    made.append(
        Measure(name="first_token", unit="ms", of=of, samples=tuple(s.first_token_ms for s in said))
    )
    made.append(Measure(name="total", unit="ms", of=of, samples=tuple(s.total_ms for s in said)))
    made.append(
        Measure(
            name="real_time_factor",
            unit="x",
            of=of,
            samples=tuple(s.total_ms / 1e3 / seconds for s in said),
        )
    )
    if all(s.n_tokens > 1 for s in said):
        between = ((s.total_ms - s.first_token_ms) / _steps(s) for s in said)
        made.append(Measure(name="per_token", unit="ms", of=of, samples=tuple(between)))
    return made


def _steps(said: Said) -> int:
    ended = said.n_tokens < MAX_NEW_TOKENS
    return said.n_tokens - 1 + ended


def _processes(setup: Setup, n: int, field: Field) -> list[Measure]:
    """`kokanee ask` from Return to the end of the process."""
    if not n:
        return []
    of: dict[str, Label] = {"contender": KOKANEE, "seconds": PROCESS_S}
    walls, peaks, stages = [], [], defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        clip = Path(scratch) / "clip.wav"
        soundfile.write(clip, sound(PROCESS_S), 16_000)
        command = ["ask", str(setup.bundle), str(clip), QUESTION, "--json"]
        command += ["--threads", str(setup.threads), "--device", setup.device]
        command += ["--max-new-tokens", str(MAX_NEW_TOKENS)]
        for i in range(n + 1):  # the first warms the file cache
            setup.progress("offline: whole processes", i, n + 1)
            field.watch.control()
            done = run_measured(command)
            if i:
                walls.append(done["wall_s"])
                peaks.append(done["peak_rss_mb"])
                timings = json.loads(done["stdout"].splitlines()[-1])["timings_ms"]
                for stage, ms in timings.items():
                    stages[stage].append(ms)
    return [
        Measure(name="process", unit="s", of=of, samples=tuple(walls)),
        Measure(name="process_rss_peak", unit="MB", of=of, samples=tuple(peaks)),
        *(
            Measure(
                name="process_stage", unit="ms", of=of | {"stage": stage}, samples=tuple(samples)
            )
            for stage, samples in stages.items()
        ),
    ]
