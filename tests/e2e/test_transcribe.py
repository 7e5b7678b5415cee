"""`kokanee transcribe` through the command line, on nano and on recordings made of real ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kokanee.engine import read_audio
from kokanee.runtime.demo import RECORDINGS

pytestmark = pytest.mark.artefact


def transcribe(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "kokanee.runtime", "transcribe", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prompt that comes with Kokanee, twenty times behind each other: a minute."""
    speech = read_audio(RECORDINGS / "speech.wav").pcm
    pause = np.zeros(12_800, np.float32)
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.concatenate([speech, pause] * 20), 16_000)
    return path


def test_a_minute_is_written_down_phrase_by_phrase(nano: Path, recording: Path) -> None:
    told = json.loads(transcribe(nano, recording, "--json", "--longest", "4").stdout)
    assert told["bundle"] == "nano"
    assert told["seconds"] == pytest.approx(60, abs=1)
    times = [t for phrase in told["phrases"] for t in (phrase["start_s"], phrase["end_s"])]
    assert times == sorted(times)
    assert len(told["phrases"]) >= 20
    assert told["text"].count("your message has been saved") >= 18
    assert told["text"] == " ".join(phrase["text"] for phrase in told["phrases"])


def test_subtitles(nano: Path) -> None:
    speech = RECORDINGS / "speech.wav"
    number, times, text, *_ = transcribe(nano, speech, "--format", "srt").stdout.splitlines()
    assert (number, text) == ("1", "your message has been saved")
    assert re.fullmatch(r"00:00:0\d,\d{3} --> 00:00:0\d,\d{3}", times)
    head, empty, times, text, *_ = transcribe(nano, speech, "--format", "vtt").stdout.splitlines()
    assert (head, empty, text) == ("WEBVTT", "", "your message has been saved")
    assert re.fullmatch(r"00:00:0\d\.\d{3} --> 00:00:0\d\.\d{3}", times)


def test_where_nobody_speaks_nothing_is_written(nano: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    done = transcribe(nano, tmp_path / "silence.wav")
    assert done.stdout == ""
    assert done.stderr.startswith("0 phrases in 1.0 s")


def test_eleven_minutes_are_no_reason_to_refuse(nano: Path, tmp_path: Path) -> None:
    speech = read_audio(RECORDINGS / "speech.wav").pcm
    late = np.concatenate([np.zeros(660 * 16_000, np.float32), speech])
    soundfile.write(tmp_path / "late.flac", late, 16_000)
    done = transcribe(nano, tmp_path / "late.flac", "--format", "srt")
    _, times, text, *_ = done.stdout.splitlines()
    assert times.startswith(("00:10:59", "00:11:0"))
    assert text == "your message has been saved"
    assert done.stderr.startswith("looking for voices in 11 minutes of sound\n")


def test_bad_input_is_told_in_one_line(nano: Path, tmp_path: Path) -> None:
    missing = transcribe(nano, tmp_path / "none.wav", code=1)
    assert "none.wav" in missing.stderr
    assert missing.stderr.count("\n") == 1
    for words in ((), ("nano", "a.wav", "What is said?")):
        assert "Expected [BUNDLE] FILE, got" in transcribe(*words, code=2).stderr
    speech = RECORDINGS / "speech.wav"
    both = transcribe(tmp_path / "no-bundle", speech, "--beams", "2", "--temperature", "1", code=2)
    assert "--beams and --temperature exclude each other" in both.stderr
    wrong = transcribe(nano, speech, "--task", "poetry", "--format", "vtt", code=2)
    assert wrong.stdout == ""
    assert "--task: expected one of asr, music, sound" in wrong.stderr
    assert "--longest" in transcribe(nano, speech, "--longest", "0.5", code=2).stderr


def test_a_bundle_that_cuts_is_not_given_more_than_it_hears(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["policy"]["long_audio"] = "cut"
    manifest["prompt"]["tasks"]["asr"] = "Write down what is said."
    (folder / "manifest.json").write_text(json.dumps(manifest))
    speech = RECORDINGS / "speech.wav"
    longest = manifest["policy"]["max_s"] + 1
    refused = transcribe(folder, speech, "--longest", str(longest), code=2)
    assert "hears" in refused.stderr
    assert "s at once at most" in refused.stderr
    transcribe(folder, speech)
