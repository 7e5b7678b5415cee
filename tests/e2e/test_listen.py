"""`kokanee listen` as it is used: a real process, a real sound daemon, nano's real weights."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import virtual_mic
from virtual_mic import VirtualMic

from kokanee.engine import Engine, read_audio
from kokanee.engine.features import SAMPLE_RATE
from kokanee.export.nano import build_nano
from kokanee.runtime.__main__ import main

I16 = npt.NDArray[np.int16]
Event = dict[str, Any]

pytestmark = pytest.mark.artefact

MISSING = virtual_mic.missing()
needs_sound_server = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

LISTEN = [sys.executable, "-m", "kokanee.runtime", "listen"]
RECORDINGS = Path(__file__).parents[2] / "runtime" / "recordings"
ANSWERS = json.loads((Path(__file__).parent / "nano_answers.json").read_text())
WRITE_DOWN = "Write down what is said."


def clip(name: str) -> I16:
    pcm, rate = soundfile.read(RECORDINGS / f"{name}.wav", dtype="int16")
    assert rate == SAMPLE_RATE
    return np.asarray(pcm, np.int16)


def room(seconds: float, seed: int = 0) -> I16:
    """A quiet room at -74 dBFS: no two stretches of it are the same, and no sample is 0."""
    loud = np.random.default_rng(seed).integers(1, 10, round(seconds * SAMPLE_RATE))
    return np.asarray(np.where(loud % 2, loud, -loud), np.int16)


def place(of: I16, within: I16) -> int:
    """The one place at which exactly these samples are."""
    found = [
        int(at)
        for at in np.flatnonzero(within[: len(within) - len(of) + 1] == of[0])
        if np.array_equal(within[at : at + len(of)], of)
    ]
    assert len(found) == 1, f"expected once, found {len(found)} times: {found[:5]}"
    return found[0]


def voiced(pcm: I16) -> tuple[float, float]:
    """Seconds at which a clean voice begins and ends: -40 dBFS in 10 ms."""
    frames = pcm[: len(pcm) // 160 * 160].reshape(-1, 160) / 32768
    loud = np.flatnonzero(np.sqrt(np.mean(frames**2, axis=1)) > 0.01)
    return loud[0] * 0.01, (loud[-1] + 1) * 0.01


def recording(path: Path) -> I16:
    with soundfile.SoundFile(path) as file:
        assert (file.format, file.samplerate, file.channels) == ("WAV", SAMPLE_RATE, 1)
        return np.asarray(file.read(dtype="int16"), np.int16)


class Listen:
    """A process that listens, and the JSON lines that it writes."""

    def __init__(self, *args: str | Path, env: dict[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self.process = subprocess.Popen(
            [*LISTEN, "--json", *map(str, args)],
            env=os.environ | (env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.events: list[Event] = []
        self.lines_that_are_no_json: list[str] = []
        self._over = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            assert pipe is not None
            pipe.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    self.lines_that_are_no_json.append(line)
                self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()

    def find(self, event: str, **fields: object) -> list[Event]:
        return [
            one
            for one in list(self.events)
            if one["event"] == event and fields.items() <= one.items()
        ]

    def wait_for(self, event: str, *, n: int = 1, limit_s: float = 30.0, **fields: object) -> Event:
        """The n-th event of this kind with these fields."""
        with self._news:
            self._news.wait_for(lambda: len(self.find(event, **fields)) >= n or self._over, limit_s)
        found = self.find(event, **fields)
        assert len(found) >= n, (
            f"expected {event} {fields} ({n}), got {self.events} {self.complaints()}"
        )
        return found[n - 1]

    def press_enter(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def leave(self, limit_s: float) -> int:
        """The exit code, and everything it wrote is in `events`."""
        code = self.process.wait(limit_s)
        self._reader.join()
        return code

    def interrupt(self) -> float:
        """Ctrl-C, which ends it with exit code 0: after how many seconds."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        assert self.leave(20.0) == 0, self.complaints()
        return time.monotonic() - begun

    def complaints(self) -> str:
        self._errors.seek(0)
        return self._errors.read()


@pytest.fixture(scope="module")
def nano() -> Path:
    return build_nano()


@pytest.fixture(scope="module")
def engine(nano: Path) -> Iterator[Engine]:
    with Engine.open(nano, device="cpu") as opened:
        yield opened


def says(text: str, name: str, question: str = WRITE_DOWN) -> bool:
    return any(words in text.lower() for words in ANSWERS[name][question])


# --- a microphone --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Talk:
    """Two utterances in a quiet room, and what came of them."""

    said: I16
    starts: dict[str, int]  # of the clips, in `said`
    at: int  # of `said`, in `heard`
    heard: I16
    events: list[Event]
    lines_that_are_no_json: list[str]
    complaints: str

    def turn(self, event: str, number: int) -> list[Event]:
        return [one for one in self.events if (one["event"], one.get("turn")) == (event, number)]


@pytest.fixture(scope="module")
def talk(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Talk:
    path = tmp_path_factory.mktemp("talk") / "heard.wav"
    names = ("speech", "speech_over_sound")
    parts: list[I16] = []
    starts: dict[str, int] = {}
    for seed, name in enumerate(names):
        parts.append(room(1.5, seed))
        starts[name] = sum(map(len, parts))
        parts.append(clip(name))
    said = np.concatenate([*parts, room(0.8, 9)])
    asked = [x for question in ANSWERS["speech"] for x in ("--ask", question)]
    with VirtualMic() as mic, Listen(nano, "--record", path, *asked, env=mic.env) as listen:
        listen.wait_for("device", what="opened")
        said_at = time.monotonic()
        mic.say(said)
        for number in (1, 2):
            listen.wait_for("final", turn=number, n=len(ANSWERS["speech"]))
        time.sleep(max(0.0, said_at + len(said) / SAMPLE_RATE - time.monotonic()))
        listen.interrupt()
        heard = recording(path)
        return Talk(
            said=said,
            starts=starts,
            at=place(clip("speech"), heard) - starts["speech"],
            heard=heard,
            events=listen.events,
            lines_that_are_no_json=listen.lines_that_are_no_json,
            complaints=listen.complaints(),
        )


@needs_sound_server
def test_what_is_said_to_a_microphone_is_answered(talk: Talk) -> None:
    assert talk.complaints == ""
    assert talk.lines_that_are_no_json == []
    assert [one["what"] for one in talk.events if one["event"] == "device"] == ["opened"]
    for number, name in enumerate(talk.starts, 1):
        finals = {final["question"]: final for final in talk.turn("final", number)}
        assert list(finals) == list(ANSWERS["speech"])
        for question in ANSWERS[name]:
            assert says(finals[question]["text"], name, question), finals[question]
        for question, final in finals.items():
            pieces = [p["text"] for p in talk.turn("piece", number) if p["question"] == question]
            assert "".join(pieces).strip() == final["text"].strip()
            assert (final["kind"], final["finish_reason"]) == ("speech", "stop")


@needs_sound_server
def test_the_recording_is_what_was_said_to_the_last_bit(talk: Talk) -> None:
    """Not a sample is missing or there twice, in the room's noise between the voices neither."""
    end = talk.starts["speech_over_sound"] + len(clip("speech_over_sound")) + SAMPLE_RATE // 4
    assert len(talk.heard) >= talk.at + end
    assert np.array_equal(talk.heard[talk.at : talk.at + end], talk.said[:end])


@needs_sound_server
def test_turns_lie_where_the_voice_is(talk: Talk) -> None:
    [started], [stopped] = talk.turn("speech_started", 1), talk.turn("speech_stopped", 1)
    origin_s = (talk.at + talk.starts["speech"]) / SAMPLE_RATE
    onset_s, offset_s = voiced(clip("speech"))
    print(f"onset {started['at_s'] - origin_s - onset_s:+.3f} s")  # noqa: T201
    print(f"offset {stopped['at_s'] - origin_s - offset_s:+.3f} s")  # noqa: T201
    assert abs(started["at_s"] - (origin_s + onset_s)) < 0.15
    assert abs(stopped["at_s"] - (origin_s + offset_s)) < 0.15
    assert stopped["reason"] == "silence"
    # Over the galloping horse the voice is from 0.59 s to about 2.45 s. The hoofs themselves pass
    # for a voice where the detector's frames happen to lie so: `test_endpoint` counts how often.
    [started], [stopped] = talk.turn("speech_started", 2), talk.turn("speech_stopped", 2)
    origin_s = (talk.at + talk.starts["speech_over_sound"]) / SAMPLE_RATE
    assert origin_s - 0.15 < started["at_s"] < origin_s + 0.59 + 0.15
    assert abs(stopped["at_s"] - (origin_s + 2.45)) < 0.3


@needs_sound_server
def test_latencies_are_told_and_small(talk: Talk) -> None:
    for number in (1, 2):
        [stopped] = talk.turn("speech_stopped", number)
        first, second = talk.turn("final", number)
        for final in (first, second):
            took = final["latencies_ms"]
            print(number, final["question"], took)  # noqa: T201
            assert 500 <= took["wait"] < 600
            assert 0 <= took["compute"] <= took["answer"]
            assert took["first_token"] == pytest.approx(took["wait"] + took["compute"], abs=0.02)
            assert (final["start_s"], final["end_s"]) == (stopped["start_s"], stopped["end_s"])
        assert first["latencies_ms"]["compute"] < 1500
        assert first["latencies_ms"]["answer"] < second["latencies_ms"]["answer"]
        assert first["work_ms"]["speech_encoder"] > 1


# --- a microphone that fails, a process that is stopped ------------------------------------------


@needs_sound_server
def test_a_sound_daemon_that_died_is_found_again_and_heard(nano: Path, tmp_path: Path) -> None:
    path, before, after = tmp_path / "heard.wav", room(0.5, 1), room(1.0, 2)
    said = np.concatenate([room(1.0, 3), clip("speech"), after])
    with VirtualMic() as mic, Listen(nano, "--record", path, env=mic.env) as listen:
        listen.wait_for("device", what="opened")
        mic.say(before)
        time.sleep(0.8)
        mic.kill()
        lost = listen.wait_for("device", what="lost")
        mic.revive()
        reopened = listen.wait_for("device", what="reopened")
        mic.say(said)
        final = listen.wait_for("final")
        assert listen.interrupt() < 5
        told = [one["what"] for one in listen.find("device")]
        complaints = listen.complaints()
    assert says(final["text"], "speech"), final
    assert told == ["opened", "lost", "reopened"]
    assert "Traceback" not in complaints
    heard = recording(path)
    assert place(before, heard) + len(before) <= round(lost["at_s"] * SAMPLE_RATE)
    at, n_lost = (round(reopened[x] * SAMPLE_RATE) for x in ("at_s", "lost_s"))
    assert n_lost > 0
    assert not np.any(heard[at : at + n_lost])
    assert place(said[: SAMPLE_RATE + len(clip("speech"))], heard) >= at + n_lost
    # The turn's place is counted with what was lost.
    origin_s = place(clip("speech"), heard) / SAMPLE_RATE
    [started] = listen.find("speech_started")
    assert abs(started["at_s"] - (origin_s + voiced(clip("speech"))[0])) < 0.15


@needs_sound_server
def test_a_process_stopped_while_somebody_speaks_loses_nothing_uncounted(
    nano: Path, tmp_path: Path
) -> None:
    """And Ctrl-C while it answers ends it at once, with a whole recording behind it."""
    path, n_questions = tmp_path / "heard.wav", 12
    said = np.concatenate([room(1.5, 1), clip("speech"), room(3.0, 2)])
    asked = [x for i in range(n_questions) for x in ("--ask", f"{WRITE_DOWN} {'Now. ' * i}")]
    with VirtualMic() as mic, Listen(nano, "--record", path, *asked, env=mic.env) as listen:
        listen.wait_for("device", what="opened")
        mic.say(said)
        time.sleep(2.5)  # in the middle of the voice
        listen.process.send_signal(signal.SIGSTOP)
        time.sleep(2.0)
        listen.process.send_signal(signal.SIGCONT)
        final = listen.wait_for("final")
        took_s = listen.interrupt()
        complaints = listen.complaints()
    print(f"Ctrl-C took {took_s:.2f} s")  # noqa: T201
    assert says(final["text"], "speech"), final
    assert took_s < 2.0
    assert len(listen.find("final")) < n_questions  # it was answering
    assert "Traceback" not in complaints
    # Every hole was told of, and all else is there, in its order.
    heard = recording(path)
    holes = [
        (round(one["at_s"] * SAMPLE_RATE), round(one["lost_s"] * SAMPLE_RATE))
        for one in listen.find("device")
        if one["lost_s"]
    ]
    print(f"holes: {holes}")  # noqa: T201
    begin = place(said[:1600], heard)
    if not holes:
        n_there = len(heard) - begin  # it may have answered, and been stopped, soon after the voice
        assert n_there > len(said) - 3 * SAMPLE_RATE  # all but the room behind the voice
        assert np.array_equal(heard[begin : begin + len(said)], said[:n_there])
        return
    for at, n_lost in holes:
        assert not np.any(heard[at : at + n_lost])
        assert np.array_equal(heard[begin:at], said[: at - begin])
        there = place(heard[at + n_lost :][:1600], said)
        assert abs((there - (at - begin)) - n_lost) < 0.3 * SAMPLE_RATE
        begin = at + n_lost - there


# --- a file in place of a microphone -------------------------------------------------------------


class Run:
    """Runs the command in this process; `out` and `err` are what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.code: object = None
        self.out = self.err = ""

    def __call__(self, *args: str | Path) -> Self:
        with pytest.raises(SystemExit) as left:
            main(["listen", *map(str, args)])
        self.code = left.value.code or 0
        self.out, self.err = self._capsys.readouterr()
        return self

    def finals(self) -> list[Event]:
        events = [json.loads(line) for line in self.out.splitlines()]
        return [one for one in events if one["event"] == "final"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def opened_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares seconds a test: the command gets nano as it was opened for all of them."""
    monkeypatch.setattr(Engine, "open", lambda *_, **__: contextlib.nullcontext(engine))


@pytest.mark.usefixtures("opened_once")
def test_a_file_gives_the_same_text_at_any_speed(run: Run, nano: Path) -> None:
    """In one plain line, and as JSON."""
    args = (nano, "--file", RECORDINGS / "speech.wav", "--ask", WRITE_DOWN)
    run(*args, "--plain")
    [line] = run.out.splitlines()
    assert run.err.startswith("heard 2.2 s, 1 turn, nothing lost; model busy ")
    assert (run.code, run.err.count("\n")) == (0, 1)
    begun = time.monotonic()
    [final] = run(*args, "--json", "--realtime").finals()
    assert time.monotonic() - begun > len(clip("speech")) / SAMPLE_RATE
    assert (run.code, run.err) == (0, "")
    assert says(final["text"], "speech")
    assert line == f"[0.0-2.2 s] {WRITE_DOWN} -> {final['text']}"
    assert (final["start_s"], final["end_s"]) == (0, len(clip("speech")) / SAMPLE_RATE)


@pytest.mark.usefixtures("opened_once")
def test_exact_is_what_ask_says_of_the_same_stretch(
    run: Run, nano: Path, engine: Engine, tmp_path: Path
) -> None:
    """Of three sentences in a longer sound, of which the fast mode leaves more out."""
    pcm = np.concatenate([room(1.0, 1), *[clip("speech")] * 3, room(1.5, 2)])
    soundfile.write(tmp_path / "long.wav", pcm, SAMPLE_RATE, subtype="PCM_16")
    args = (nano, "--file", tmp_path / "long.wav", "--ask", WRITE_DOWN, "--json")
    [exact] = run(*args, "--mode", "exact").finals()
    start, end = (round(exact[x] * SAMPLE_RATE) for x in ("start_s", "end_s"))
    assert 0 < start < end < len(pcm)
    soundfile.write(tmp_path / "cut.wav", pcm[start:end], SAMPLE_RATE, subtype="PCM_16")
    with engine.session(n_ctx=512) as session:
        session.hear(read_audio(tmp_path / "cut.wav").pcm)
        answer = session.ask(WRITE_DOWN, max_new_tokens=120)
        assert exact["text"] == answer.text()
        assert exact["ids"] == list(answer.ids)
    assert says(exact["text"], "speech")


@pytest.mark.usefixtures("opened_once")
def test_a_sound_is_asked_its_own_question(run: Run, nano: Path, tmp_path: Path) -> None:
    [question] = ANSWERS["sound"]
    pcm = np.concatenate([room(2.0, 1), clip("sound")])  # with 0.1 s more nano hears an engine
    soundfile.write(tmp_path / "water.wav", pcm, SAMPLE_RATE, subtype="PCM_16")
    run(nano, "--file", tmp_path / "water.wav", "--ask-sound", question, "--json")
    [final] = run.finals()
    assert (final["kind"], final["question"]) == ("sound", question)
    assert says(final["text"], "sound", question), final
    assert abs(final["start_s"] - 1.7) < 0.15  # the sound, and the padding before it
    assert final["end_s"] == pytest.approx(len(pcm) / SAMPLE_RATE)


def test_enter_opens_and_closes_a_turn(nano: Path, tmp_path: Path) -> None:
    pcm = np.concatenate([room(0.5, 1), clip("speech"), room(2.0, 2)])
    soundfile.write(tmp_path / "x.wav", pcm, SAMPLE_RATE, subtype="PCM_16")
    with Listen(nano, "--file", tmp_path / "x.wav", "--realtime", "--push-to-talk") as listen:
        listen.press_enter()
        started = listen.wait_for("speech_started")
        time.sleep(2.7)
        listen.press_enter()
        stopped = listen.wait_for("speech_stopped")
        final = listen.wait_for("final")
        assert listen.leave(20) == 0
        assert listen.complaints() == "Enter opens a turn, Enter closes it.\n"
    assert (started["kind"], stopped["reason"], final["kind"]) == ("push", "released", "push")
    assert started["at_s"] < 0.5
    assert 2.5 < stopped["end_s"] - started["start_s"] < 4.5
    assert says(final["text"], "speech"), final
    assert len(listen.find("speech_started")) == 1


@pytest.mark.parametrize("how", ["--json", "--plain"])
def test_a_reader_that_goes_away_ends_it_quietly(tiny: Path, tmp_path: Path, how: str) -> None:
    pcm = np.concatenate([clip("speech"), room(1.0, 2)] * 3)
    soundfile.write(tmp_path / "x.wav", pcm, SAMPLE_RATE, subtype="PCM_16")
    command = [*LISTEN, str(tiny), "--file", str(tmp_path / "x.wav"), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if how == "--json":
            assert json.loads(process.stdout.readline())["event"] == "speech_started"
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 0
    assert "Traceback" not in said
    assert "Broken" not in said
    assert said.count("\n") == (how == "--plain")  # the summary


# --- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--file", RECORDINGS / "speech.wav", "--task", "sing"), "sing"),
        (("--realtime",), "--realtime goes with --file"),
        (("--file", RECORDINGS / "speech.wav", "--raw-prompt", "no place"), "<SpeechHere>"),
        (("--file", RECORDINGS / "speech.wav", "--push-to-talk", "--sounds"), "push_to_talk"),
        (("--file", RECORDINGS / "speech.wav", "--threshold", "1"), "--threshold"),
        (("--levels", "--max-turn-s", "0"), "--max-turn-s"),
        (("--file", RECORDINGS / "speech.wav", "--mic", "0"), "--mic and --file"),
        (("--record", "heard"), "ends in .wav, got heard"),
        (("--record", "none/heard.wav"), "no folder none"),
        (
            ("--file", RECORDINGS / "speech.wav", "--record", RECORDINGS / "speech.wav"),
            "would overwrite what is listened to",
        ),
    ],
)
def test_misuse_leaves_with_2_and_one_line_says_what_is_wrong(
    run: Run, tiny: Path, args: tuple[str | Path, ...], complaint: str
) -> None:
    run(tiny, *args)
    assert (run.code, run.out) == (2, "")
    usage, *_, error = run.err.splitlines()
    assert usage.startswith("Usage: kokanee listen")
    assert error.startswith("Error: ")
    assert complaint in error


@pytest.mark.parametrize("name", ["none.wav", "diary.wav"])
def test_a_file_that_is_no_sound_is_told_in_one_line(
    run: Run, tiny: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "diary.wav").write_text("dear diary, today I heard")
    run(tiny, "--file", tmp_path / name)
    assert (run.code, run.out, run.err.count("\n")) == (1, "", 1)
    assert run.err.startswith("kokanee: ")
    assert name in run.err


needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
PYTHON = f'exec "{sys.executable}" -m kokanee.runtime listen'


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False
    )


@needs_posix
def test_push_to_talk_without_a_keyboard_is_a_misuse(tiny: Path) -> None:
    """A closed standard input ended in a traceback."""
    done = shell(f'{PYTHON} "{tiny}" --push-to-talk <&-')
    assert done.returncode == 2
    assert "standard input, which is closed" in done.stderr.splitlines()[-1]


@needs_posix
@pytest.mark.parametrize("how", ["--json", "--plain", ""])
def test_without_a_standard_output_nothing_is_said(tiny: Path, how: str) -> None:
    """`choose` asked a standard output that was None whether it is a terminal."""
    command = f"exec {' '.join(LISTEN)} {tiny} {how} --file {RECORDINGS / 'speech.wav'} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_that_fills_up_is_told_in_one_line(tiny: Path, tmp_path: Path) -> None:
    """It ended in a traceback."""
    path = tmp_path / "heard.wav"
    done = shell(
        f'ulimit -f 40; {PYTHON} "{tiny}" --file "{RECORDINGS / "speech.wav"}" --realtime'
        f' --json --record "{path}"'
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"kokanee: {path} cannot be written (")
    assert done.stderr.count("\n") == 1


def complain(env: dict[str, str], *args: str | Path) -> tuple[str, str]:
    """What it prints, before any bundle is looked for, and leaves with 1."""
    done = subprocess.run(
        [*LISTEN, *map(str, args)],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    return done.stdout, done.stderr


@needs_sound_server
def test_a_microphone_of_another_name_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    with VirtualMic() as mic:
        out, err = complain(mic.env, tmp_path / "no bundle", "--mic", "nonesuch")
        assert out == ""
        assert err.startswith("kokanee: there is no microphone 'nonesuch'; choose one of these")
        assert "vmic, ALSA" in err
        assert err.count("\n") == 1
        listed = subprocess.run(
            [*LISTEN, "--list-devices", "--json"],
            env=os.environ | mic.env,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    devices = {device["name"]: device for device in json.loads(listed.stdout)}
    assert devices["vmic"]["host_api"] == "ALSA"
    assert [name for name, device in devices.items() if device["default"]] == ["default"]


@needs_sound_server
@pytest.mark.parametrize(
    ("args", "out"),
    [(["no bundle"], ""), (["--list-devices"], ""), (["--list-devices", "--json"], "[]\n")],
)
def test_no_microphone_at_all_is_told_in_one_line(
    tmp_path: Path, args: list[str], out: str
) -> None:
    nowhere = {name: str(tmp_path) for name in ("PULSE_RUNTIME_PATH", "XDG_RUNTIME_DIR")}
    nowhere |= {"PULSE_SERVER": f"unix:{tmp_path}/none"}
    said, err = complain(nowhere, *args)
    assert said == out
    assert err.startswith("kokanee: no microphone was found: ")
    assert err.count("\n") == 1
    assert ";" in err  # what to do about it
