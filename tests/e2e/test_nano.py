"""Nano with its real weights: built without torch, equal to torch, and hearing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from kokanee.engine import Engine, Sampling, read_audio, read_manifest
from kokanee.export import topologies
from kokanee.export.nano import build_nano, nano_folder
from kokanee.export.nano.build import ARCHITECTURE, HERE
from kokanee.export.nano.measure import measure

pytestmark = pytest.mark.artefact

RECORDINGS = Path(__file__).parents[2] / "runtime" / "recordings"

BUILD = """
import sys
for name in ("torch", "transformers", "onnx", "optimum"):
    sys.modules[name] = None
from kokanee.runtime.__main__ import main
sys.argv = ["kokanee", "build", "--json"]
main()
"""


@pytest.fixture(scope="module")
def nano() -> Path:
    """Built in a process where torch and onnx cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout.splitlines()[-1])["folder"])


@pytest.fixture(scope="module")
def engine(nano: Path) -> Iterator[Engine]:
    with Engine.open(nano, device="cpu") as opened:
        yield opened


def test_the_second_build_finds_the_first(nano: Path) -> None:
    assert build_nano() == nano == nano_folder()


def test_committed_topologies_are_what_the_code_makes(tmp_path: Path) -> None:
    topologies.save(ARCHITECTURE, tmp_path, int8_cache=True)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert (
        len(made) == 13
    )  # two topologies and a layout for each graph, and the LLM with an int8 cache
    for name in made:
        assert (tmp_path / name).read_bytes() == (HERE / name).read_bytes(), name


def test_the_bundle_is_small_and_says_where_it_comes_from(nano: Path) -> None:
    manifest = read_manifest(nano)
    assert sum(f.n_bytes for f in manifest.files.values()) < 220e6
    assert manifest.graphs["llm"].scheme == "int4_offset_block32"
    assert {s.licence for s in manifest.sources} == {"MIT", "Apache-2.0"}
    assert set(manifest.parity) == {
        "speech_encoder",
        "audio_encoder",
        "connector",
        "llm",
        "llm_int4",
    }
    assert manifest.quality != {}


def test_every_graph_equals_pytorch_with_the_same_weights(nano: Path) -> None:
    recorded = read_manifest(nano).parity
    floats = nano_folder(nano.parents[1], llm_quant="none")
    was_there = floats.exists()
    try:
        measured = measure(nano.parents[1])
    finally:
        if not was_there:  # half a gigabyte that nothing else here needs
            shutil.rmtree(floats, ignore_errors=True)
    for name, parity in measured.items():
        assert parity.max_abs <= parity.tolerance
        assert parity.tolerance == recorded[name].tolerance


@pytest.mark.parametrize("name", ["speech", "sound", "speech_over_sound"])
def test_the_bundled_recordings_are_heard(name: str, engine: Engine) -> None:
    expected = json.loads((Path(__file__).parent / "nano_answers.json").read_text())[name]
    with engine.session(n_ctx=512) as session:
        session.hear(read_audio(RECORDINGS / f"{name}.wav").pcm)
        for question, words in expected.items():
            answer = session.ask(question, max_new_tokens=48).text().lower()
            assert any(word in answer for word in words), (question, answer)


def test_a_seeded_answer_repeats_and_a_bare_language_model_differs(engine: Engine) -> None:
    pcm = read_audio(RECORDINGS / "speech.wav").pcm
    sampling = Sampling(temperature=0.8, seed=3)

    def ids(lora_scale: float | None) -> list[int]:
        with engine.session(n_ctx=256, lora_scale=lora_scale) as session:
            session.hear(pcm)
            return session.ask(task="asr", sampling=sampling, max_new_tokens=16).all_ids()

    assert ids(None) == ids(None)
    assert ids(0.0) != ids(None)


def test_recordings_are_short_wavs() -> None:
    for path in RECORDINGS.glob("*.wav"):
        with wave.open(str(path)) as file:
            assert (file.getframerate(), file.getnchannels()) == (16_000, 1)
        assert path.stat().st_size < 200_000


@pytest.mark.parametrize(
    ("example", "said"), [(0, "message"), (1, "text='your message"), (2, "message")]
)
def test_the_readme_examples_run(nano: Path, example: int, said: str) -> None:
    readme = (RECORDINGS.parents[1] / "README.md").read_text("utf-8")
    code = readme.split("```python\n")[example + 1].partition("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=RECORDINGS.parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout.lower()
