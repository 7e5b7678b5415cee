"""`kokanee bench` through the command line, on a tiny bundle: its records, never its times."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import virtual_mic
from virtual_mic import VirtualMic

from kokanee.benchmarks.record import SCHEMA, from_json, read
from kokanee.engine import read_audio

ROOT = Path(__file__).parents[2]

ALL = ("timers", "memory", "encode", "prefill", "decode")


def bench(
    *arguments: str, code: int = 0, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "kokanee.runtime", "bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | (environment or {}),
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def everything(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    arguments = ["--rounds", "2", "--out", str(folder / "all.json"), "--against", "cascade"]
    arguments += ["--html", str(folder / "all.html"), "--csv", str(folder / "all.csv")]
    arguments += ["--markdown", str(folder / "all.md"), "--pictures", str(folder / "pictures")]
    bench("all", str(tiny), *arguments)
    return folder


def test_one_record_holds_every_part(everything: Path) -> None:
    record = read(everything / "all.json")
    assert tuple(part.name for part in record.parts) == ALL  # its weights are random
    assert record.subject["name"] == "tiny"
    assert record.conditions["threads"] >= 1
    steps = record.part("decode").find("step", contender="kokanee", depth=64)
    assert steps.statistics.n == 2 * 32
    names = {m.of["stage"] for m in record.part("encode").measures if m.name == "stage"}
    assert {"features", "speech_encoder", "audio_encoder", "connector"} <= names


def test_what_is_not_installed_is_skipped_by_name(everything: Path) -> None:
    skipped = read(everything / "all.json").part("memory").skipped
    if skipped:  # a developer may have it
        assert [s.name for s in skipped] == ["cascade"]
        assert "pip install faster-whisper" in (skipped[0].install or "")


def test_every_form_holds_the_same_numbers(everything: Path) -> None:
    record = read(everything / "all.json")
    with (everything / "all.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(record.measures())) + len(list(record.counts()))
    assert "decode" in (everything / "all.md").read_text("utf-8")
    assert "<html" in (everything / "all.html").read_text("utf-8")
    assert list((everything / "pictures").glob("*.png"))


def test_a_kept_record_is_shown_and_drawn_again(everything: Path, tmp_path: Path) -> None:
    page, kept = tmp_path / "again.html", str(everything / "all.json")
    done = bench("show", kept, "--html", str(page), "--pictures", str(tmp_path / "drawn"))
    assert "decode" in done.stdout
    assert page.read_text("utf-8") == (everything / "all.html").read_text("utf-8")
    assert list((tmp_path / "drawn").glob("*.png"))


def test_a_record_compared_with_itself_is_the_same(everything: Path) -> None:
    same = str(everything / "all.json")
    verdicts = {
        d["verdict"]
        for d in json.loads(bench("compare", same, same, "--json").stdout)["differences"]
    }
    assert verdicts
    assert not verdicts & {"worse", "better", "changed"}


def test_a_regression_is_an_exit_code(everything: Path, tmp_path: Path) -> None:
    data = json.loads((everything / "all.json").read_text("utf-8"))
    for part in data["parts"]:
        part["noise"] |= {"quiet": True, "reasons": []}
        for measure in part["measures"]:
            if measure["name"] == "step":  # on a busy machine twice as long is within its noise
                n = len(measure["samples"])
                measure["samples"] = [1 + 0.01 * (i % 3) for i in range(n)]
    before, worse = tmp_path / "before.json", tmp_path / "worse.json"
    before.write_text(json.dumps(data))
    for part in data["parts"]:
        for measure in part["measures"]:
            if measure["name"] == "step":
                measure["samples"] = [2 * ms for ms in measure["samples"]]
    worse.write_text(json.dumps(data))
    done = bench("compare", str(before), str(worse), code=3)
    assert "step" in done.stdout
    bench("compare", str(worse), str(before))


def test_a_broken_off_run_goes_on_with_the_parts_it_has(
    everything: Path, tiny: Path, tmp_path: Path
) -> None:
    data = json.loads((everything / "all.json").read_text("utf-8"))
    data["parts"] = data["parts"][:2]
    out = tmp_path / "half.json"
    out.write_text(json.dumps(data))
    arguments = ["--parts", "timers,memory,encode", "--rounds", "1", "--out", str(out), "--resume"]
    bench("all", str(tiny), *arguments)
    record = read(out)
    assert tuple(p.name for p in record.parts) == ("timers", "memory", "encode")
    assert record.part("memory").measures == from_json(data).part("memory").measures


def test_a_record_is_run_again_as_it_was(everything: Path, tiny: Path, tmp_path: Path) -> None:
    recorded = everything / "all.json"
    arguments = [str(recorded), "--bundle", str(tiny), "--parts", "prefill", "--out", str(tmp_path)]
    done = bench("reproduce", *arguments)
    assert "numbers differ by more than the noise" in done.stdout
    again, before = read(tmp_path / "all.json"), read(recorded)
    assert again.part("prefill").settings["prefills"] == before.part("prefill").settings["prefills"]
    assert again.part("prefill").settings["rounds"] == 2
    done = bench("reproduce", str(recorded), "--parts", "prefill", code=2)
    assert "--bundle" in done.stderr


def test_json_is_the_record_and_nothing_else(tiny: Path) -> None:
    done = bench("prefill", str(tiny), "--sizes", "8,16", "--depth", "0", "--rounds", "1", "--json")
    data = json.loads(done.stdout)
    assert data["schema"] == SCHEMA
    prefills = from_json(data).part("prefill").settings["prefills"]
    assert prefills == [[8, 0], [16, 0]]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["offline", "--against", "nobody"], 2, "expected some of"),
        (["offline", "--seconds", "none"], 2, "numbers above 0"),
        (["all", "--parts", "everything"], 2, "expected some of"),
        (["all", "--resume"], 2, "--out"),
        (["decode", "no-such-bundle/"], 1, "no-such-bundle"),
        (["compare", "README.md", "README.md"], 1, "expected JSON"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], code: int, says: str) -> None:
    done = bench(*arguments, code=code)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_the_alternatives_and_how_to_get_them() -> None:
    said = bench("--help").stdout
    for name in ("cascade", "llama.cpp", "openvino", "pytorch"):
        assert name in said
    assert "pip install faster-whisper==" in said


@pytest.mark.artefact
@pytest.mark.skipif(virtual_mic.missing() is not None, reason=str(virtual_mic.missing()))
def test_turns_spoken_into_a_microphone_are_timed(nano: Path, tmp_path: Path) -> None:
    speech = read_audio(ROOT / "runtime" / "recordings" / "speech.wav").pcm
    said = np.tile(np.pad(speech, (8_000, 24_000)), 8)
    out = tmp_path / "stream.json"
    with VirtualMic() as mic:
        mic.say((said * 32_767).astype(np.int16))
        arguments = ["stream", str(nano), "--microphone", "--input-device", "vmic", "--n", "2"]
        bench(*arguments, "--out", str(out), environment=mic.env)
    stream = read(out).part("stream")
    assert stream.settings["microphone"] == "vmic"
    assert stream.find("first_token", mode="fast", length="all").statistics.n == 2
    wait = stream.find("wait", mode="fast", length="all")
    assert min(wait.samples) >= 500  # the silence that ends a turn
