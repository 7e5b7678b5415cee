"""Alternatives: named where missing, each in its own process, and right where they run."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest

from kokanee.benchmarks import contenders
from kokanee.benchmarks.contenders import CONTENDERS, KOKANEE, Role
from kokanee.benchmarks.contenders.worker import Worker, WorkerError
from kokanee.engine import Engine, read_audio
from kokanee.export.nano import default_cache

F32 = npt.NDArray[np.float32]
SPEECH = Path(__file__).parents[3] / "runtime" / "recordings" / "speech.wav"
QUESTION = "Write down what is said."
ONE_MB = 1_000_000


# --- the list -------------------------------------------------------------------------------------


def test_a_contender_without_its_packages_is_missed_by_name_and_says_how_to_install_them() -> None:
    for name, one in CONTENDERS.items():
        assert one.name == name
        for package in one.packages:
            assert name == KOKANEE or f"{package}==" in (one.install or "")
    absent = replace(CONTENDERS["cascade"], packages=("numpy", "no-such-package"))
    assert absent.missing() == ("no-such-package",)
    assert list(absent.versions()) == ["numpy"]


def test_one_version_of_a_package_is_named_everywhere() -> None:
    named: dict[str, set[str]] = {}
    for one in CONTENDERS.values():
        for package, version in re.findall(r"([\w-]+)==([\w.]+)", one.install or ""):
            named.setdefault(package, set()).add(version)
    assert {package for package, versions in named.items() if len(versions) > 1} == set()


def test_every_contender_has_its_roles() -> None:
    for one in CONTENDERS.values():
        module = importlib.import_module(f"kokanee.benchmarks.contenders.{one.module}")
        assert set(one.roles) <= set(get_args(Role))
        assert set(one.roles) <= set(module.ROLES)


def test_contenders_are_imported_without_their_packages() -> None:
    code = (
        "import importlib, sys\n"
        "from kokanee.benchmarks.contenders import CONTENDERS\n"
        "for one in CONTENDERS.values():\n"
        "    importlib.import_module(f'kokanee.benchmarks.contenders.{one.module}')\n"
        "foreign = {'torch', 'transformers', 'bitsandbytes', 'llama_cpp', 'gguf', 'openvino',\n"
        "    'openvino_genai', 'faster_whisper', 'ctranslate2', 'onnx'}\n"
        "print(sorted(foreign & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- a contender's process ------------------------------------------------------------------------

FAKE = """
import os
import sys
import time
import types

import numpy as np

from kokanee.benchmarks import contenders
from kokanee.benchmarks.contenders import Contender, Said, UnavailableError, worker


class Fake:
    def __init__(self, spec):
        if "refuse" in spec:
            raise UnavailableError(spec["refuse"])
        if spec.get("die"):
            os._exit(7)
        print("opened")
        os.system("echo from a child of it")
        self.facts = {"what": "a fake", "made": spec["made"], "also": spec["also"]}

    def answer(self, pcm, question, *, max_new_tokens):
        print("{not json")
        if question == "die":
            sys.stderr.write("it broke\\n")
            os.abort()
        if question == "refuse":
            raise UnavailableError("not this one")
        if question == "swell":
            np.ones(100_000_000 // 8).sum()
        return Said(text=f"{len(pcm)} {question}", n_tokens=max_new_tokens, stages_ms={"all": 1.0},
                    first_token_ms=1.0, total_ms=2.0)


class Clock:
    length = 0

    def __init__(self, spec):
        self.said = []

    def rewind(self, n_past):
        time.sleep(0.05)

    def prefill(self, n_new):
        pass

    def step(self):
        pass

    def encode(self, pcm):
        return {"features": float(len(pcm))}


def prepare(role, spec):
    return {"made": role}


module = types.ModuleType("kokanee.benchmarks.contenders.fake")
module.ROLES = {"answers": Fake, "encodes": Clock, "decodes": Clock}
module.prepare = prepare
sys.modules[module.__name__] = module
contenders.CONTENDERS["fake"] = Contender(
    name="fake", module="fake", roles=("answers", "encodes", "decodes"), packages=("numpy",),
    install=None, says="", settings={"also": 1},
)
worker._main(sys.argv[3], sys.argv[4], __import__("json").loads(sys.argv[5]))
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a contender that only the child knows."""
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\n{FAKE}", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    return "fake"


def test_what_a_contender_prints_does_not_reach_its_answers(fake: str) -> None:
    with Worker.start(fake, "answers", {}) as worker:
        assert worker.hello["facts"] == {"what": "a fake", "made": "answers", "also": 1}
        assert worker.hello["versions"] == {"numpy": np.__version__}
        assert worker.hello["ready_s"] >= 0
        for n in (3, 5):
            said = worker.answer(np.zeros(n, np.float32), "well?", max_new_tokens=9)
            assert said.text == f"{n} well?"
            assert said.n_tokens == 9
            assert dict(said.stages_ms) == {"all": 1.0}


def test_a_contender_that_cannot_says_why(fake: str) -> None:
    with pytest.raises(WorkerError, match="fake: too large for this machine"):
        Worker.start(fake, "answers", {"refuse": "too large\nfor this machine"})
    with Worker.start(fake, "answers", {}) as worker:
        pcm = np.zeros(4, np.float32)
        with pytest.raises(WorkerError, match="fake: not this one"):
            worker.answer(pcm, "refuse", max_new_tokens=1)
        assert worker.answer(pcm, "and now?", max_new_tokens=1).text == "4 and now?"


def test_a_contender_that_dies_is_an_error_with_its_last_words(fake: str) -> None:
    with pytest.raises(WorkerError, match="fake ended with 7"):
        Worker.start(fake, "answers", {"die": True})
    with Worker.start(fake, "answers", {}) as worker:
        for _ in range(2):  # and stays one
            with pytest.raises(WorkerError, match=r"(?s)fake ended with -6.*it broke"):
                worker.answer(np.zeros(4, np.float32), "die", max_new_tokens=1)


def test_a_contender_that_is_not_known_is_an_error() -> None:
    with pytest.raises(WorkerError, match="KeyError"):
        Worker.start("nobody", "answers", {})


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_the_contenders_own(fake: str) -> None:
    ballast = np.ones(400 * ONE_MB // 8)
    with Worker.start(fake, "answers", {}) as worker:
        before = worker.memory_mb()
        assert before["peak"] < 400
        worker.answer(np.zeros(4, np.float32), "swell", max_new_tokens=1)
        after = worker.memory_mb()
        assert after["peak"] - before["rss"] > 90
        assert after["rss"] - before["rss"] < 50
        worker.forget_peak()
        assert worker.memory_mb()["peak"] < after["peak"] - 50
    assert ballast.sum() > 0


def test_putting_the_cache_back_is_not_timed(fake: str) -> None:
    with Worker.start(fake, "decodes", {}) as worker:
        assert worker.call("prefill", n_past=10, n_new=1)["ms"] < 40
        steps = worker.call("decode", n_past=10, n_steps=3)["step_ms"]
        assert len(steps) == 3
        assert max(steps) < 40
    with Worker.start(fake, "encodes", {}) as worker:
        assert worker.call("encode", pcm=np.zeros(7, np.float32))["stages_ms"] == {"features": 7.0}


# --- the real ones --------------------------------------------------------------------------------


def opened(name: str, role: Role, bundle: Path, work: Path, **more: Any) -> Any:
    """A contender in this process."""
    contender = CONTENDERS[name]
    if missing := contender.missing():
        pytest.skip(f"{', '.join(missing)} not installed: {contender.install}")
    spec = {"bundle": str(bundle), "threads": 2, "work": str(work), "n_ctx": 256, **more}
    return contender.open(role, contender.prepare(role, spec))


@pytest.fixture(scope="module")
def work() -> Path:
    """Where contenders keep what they make, from one run to the next."""
    return default_cache() / "contenders"


def test_contenders_answer_beside_nano_only(tiny: Path, tmp_path: Path) -> None:
    for name in ("cascade", "llama.cpp-audio", "pytorch"):
        spec = {"bundle": str(tiny), "threads": 1, "work": str(tmp_path)}
        with pytest.raises(contenders.UnavailableError, match="nano only"):
            CONTENDERS[name].prepare("answers", spec)


def test_weights_that_leave_no_room_are_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytorch = importlib.import_module("kokanee.benchmarks.contenders.pytorch")
    monkeypatch.setattr(pytorch, "machine_mb", lambda: 0.1)
    with pytest.raises(contenders.UnavailableError, match=r"float32 is .* GB, this machine has"):
        pytorch.Decoding({"bundle": str(tiny), "threads": 1})


@pytest.mark.filterwarnings("ignore")
def test_pytorch_decodes_after_a_rewind_as_if_nothing_had_been_there(tiny: Path) -> None:
    pytest.importorskip("transformers")
    first, again, anew = said_after_rewinds(opened("pytorch", "decodes", tiny, tiny))
    assert first == again == anew


@pytest.mark.filterwarnings("ignore")
def test_llama_cpp_decodes_after_a_rewind_as_if_nothing_had_been_there(
    tiny: Path, tmp_path: Path
) -> None:
    first, again, anew = said_after_rewinds(opened("llama.cpp", "decodes", tiny, tmp_path))
    assert first == again == anew


@pytest.mark.filterwarnings("ignore")
def test_openvino_decodes_after_a_rewind_as_if_nothing_had_been_there(
    tiny: Path, tmp_path: Path
) -> None:
    if CONTENDERS["llama.cpp"].missing():
        pytest.skip("llama.cpp makes the file")
    first, again, anew = said_after_rewinds(
        opened("openvino", "decodes", tiny, tmp_path, precision="f32")
    )
    assert first == again == anew


def said_after_rewinds(decodes: Any) -> Iterator[list[int]]:
    """Four tokens behind the same positions: at first, with others behind them, filled anew."""
    for refill in (False, False, True):
        if refill:
            decodes.rewind(0)
        decodes.rewind(20)
        decodes.prefill(3)
        decodes._token = 9
        tokens = []
        for _ in range(4):
            decodes.step()
            tokens.append(decodes._token)
        yield tokens


@pytest.mark.artefact
@pytest.mark.filterwarnings("ignore")
def test_the_cascade_writes_down_speech(nano: Path, work: Path) -> None:
    transcribes = opened("cascade", "answers", nano, work, transcript_only=True)
    said = transcribes.answer(read_audio(SPEECH).pcm, "", max_new_tokens=1)
    assert said.text == "Your message has been saved."
    assert "SmolLM2" not in str(transcribes.facts)


@pytest.mark.artefact
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["cascade", "llama.cpp-audio", "pytorch-int8"])
def test_stages_come_one_after_the_other(name: str, nano: Path, work: Path) -> None:
    answers = opened(name, "answers", nano, work)
    said = answers.answer(read_audio(SPEECH).pcm, QUESTION, max_new_tokens=8)
    assert said.text
    assert 0 < said.n_tokens <= 8
    assert sum(said.stages_ms.values()) == pytest.approx(said.first_token_ms, rel=0.01)
    assert said.first_token_ms <= said.total_ms
    assert answers.facts["n_bytes"] > 100 * ONE_MB


@pytest.mark.artefact
@pytest.mark.filterwarnings("ignore")
def test_pytorch_answers_as_kokanee_does(nano: Path, work: Path) -> None:
    answers = opened("pytorch", "answers", nano, work)
    pcm = read_audio(SPEECH).pcm
    theirs = answers.answer(pcm, QUESTION, max_new_tokens=32)
    with Engine.open(nano, device="cpu", threads=2) as engine, engine.session() as session:
        session.hear(pcm)
        ours = session.ask(QUESTION, max_new_tokens=32)
        assert theirs.text == ours.text()
        assert theirs.n_tokens == len(ours.ids)


@pytest.mark.artefact
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "error"), [("pytorch", 0.01), ("openvino", 0.2)])
def test_others_encode_as_kokanee_does(name: str, error: float, nano: Path, work: Path) -> None:
    encodes = opened(name, "encodes", nano, work)
    pcm = read_audio(SPEECH).pcm
    theirs, timings_ms = encodes.soft_tokens(pcm)
    theirs = np.asarray(theirs).reshape(-1, np.shape(theirs)[-1])
    with Engine.open(nano, device="cpu", threads=2) as engine:
        ours = engine.encoders.encode(pcm)
    assert list(timings_ms) == list(ours.timings_ms)
    assert theirs.shape == ours.soft_tokens.shape
    off = np.linalg.norm(theirs - ours.soft_tokens) / np.linalg.norm(ours.soft_tokens)
    assert off < error
