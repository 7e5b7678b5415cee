"""`kokanee eval` through the command line, on a list of recordings made here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kokanee.benchmarks import heldout
from kokanee.engine import Engine
from kokanee.runtime.eval import IN_WRITING, _hearing
from kokanee.runtime.in_writing import write_down
from kokanee.runtime.phrases import max_new_tokens

pytest.importorskip("av")
pytest.importorskip("jiwer")
pytest.importorskip("whisper_normalizer")

pytestmark = pytest.mark.artefact

RECORDINGS = Path(__file__).parents[2] / "runtime" / "recordings"


def evaluate(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "kokanee.runtime", "eval", *map(str, arguments), "--threads", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of what was made, and of the speech that comes with Kokanee."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    speech, rate = soundfile.read(RECORDINGS / "speech.wav")
    soundfile.write(folder / "speech.wav", speech, rate)
    soundfile.write(folder / "mixture.wav", speech + 0.02 * rng.standard_normal(len(speech)), rate)
    soundfile.write(folder / "noise.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    soundfile.write(folder / "silence.wav", np.zeros(16_000), 16_000)
    beep = 0.3 * np.sin(2 * np.pi * 880 * np.arange(8_000) / 16_000)
    soundfile.write(folder / "beep.flac", beep, 16_000)
    lines = [
        {"path": "speech.wav", "kind": "speech", "text": "Please try again.", "language": "en"},
        {"path": "beep.flac", "kind": "sound", "label": "beep"},
        {"path": "mixture.wav", "kind": "mixture", "text": "Please try again.", "label": "hiss"},
        {"path": "noise.wav", "kind": "noise"},
        {"path": "silence.wav", "kind": "noise"},
    ]
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


@pytest.fixture(scope="module")
def told(nano: Path, clips: Path) -> tuple[dict[str, Any], Path]:
    """The JSON of a run with everything, and where its log and pictures are."""
    folder = clips.parent / "out"
    folder.mkdir()
    done = evaluate(
        *(nano, "--manifest", clips, "--json", "--streamed", "--mode", "exact", "--beside", nano),
        "--by-phrase",
        *("--log", folder / "log.jsonl", "--pictures", folder / "drawn"),
    )
    assert done.stdout.count("\n") == 1  # nothing but the JSON
    return json.loads(done.stdout), folder


def test_the_json_has_every_figure_with_its_interval(
    told: tuple[dict[str, Any], Path], nano: Path, clips: Path
) -> None:
    result, _ = told
    assert result["schema"] == "kokanee.eval/1"
    assert (result["bundle"], result["folder"]) == ("nano", str(nano))
    assert result["sets"] == []
    assert [one["path"] for one in result["manifests"]] == [str(clips)]
    assert (result["n_clips"], result["n_answers"]) == (5, 3 + 2 + 2 + 2 + 2)
    assert result["broken"] == []
    assert result["figures"].keys() == {
        "word_error_rate",
        "word_error_rate_1_3",
        "word_error_rate_whisper",
        "sentences_right",
        "sound_accuracy",
        "sound_balanced",
        "kind_accuracy",
        "kind_balanced",
        "kind4_accuracy",
        "kind4_balanced",
        "language_accuracy",
        "mixture_named",
        "mixture_both",
        "mixture_word_error_rate",
        "invented_speech",
        "invented_speech_noise",
    }
    for figure in result["figures"].values():
        assert 0 <= figure["low"] <= figure["value"] <= figure["high"]
    assert result["figures"]["kind4_accuracy"]["n"] == 4
    assert result["scores"]["words"]["wer"] == result["figures"]["word_error_rate"]["value"]
    assert result["sounds"]["confusion"]["truths"] == ["beep"]
    assert result["languages"]["recall"].keys() == {"English"}


def test_the_same_bundle_answers_the_same_also_in_an_exact_stream(
    told: tuple[dict[str, Any], Path],
) -> None:
    result, folder = told
    for other in (*result["beside"], result["streamed"]):
        assert other["equal_answers"]["all"]["value"] == 1
        assert other["equal_answers"]["all"]["n"] == 5
        for figure in other["figures"].values():
            assert figure["difference"]["value"] == 0
        assert Path(other["log"]).parent == folder
    logs = sorted(path for path in folder.glob("*.jsonl") if "by-phrase" not in path.name)
    assert len(logs) == 3
    assert len({log.read_text("utf-8").partition("\n")[2] for log in logs}) == 1


def test_what_is_to_be_written_down_is_heard_by_phrase_too(
    told: tuple[dict[str, Any], Path],
) -> None:
    result, folder = told
    by_phrase = result["by_phrase"]
    assert by_phrase["longest_s"] == 8
    assert by_phrase["log"] == str(folder / "log-by-phrase.jsonl")
    lines = Path(by_phrase["log"]).read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines[1:]]  # the first says whose answers they are
    assert {row["task"] for row in rows} == {"words"}
    answers = {row["name"]: row["answer"] for row in rows}
    assert len(answers) == 4
    assert answers["silence.wav"] == ""
    assert "message has been saved" in answers["speech.wav"]
    assert by_phrase["figures"].keys() < result["figures"].keys()


def test_what_has_no_words_cannot_be_heard_by_phrase(nano: Path, clips: Path) -> None:
    path = clips.with_name("sounds.jsonl")
    path.write_text('{"path": "beep.flac", "kind": "sound", "label": "beep"}\n', "utf-8")
    done = evaluate(nano, "--manifest", path, "--by-phrase", code=2)
    assert "--by-phrase: none of these clips is to be written down" in done.stderr


def test_a_question_is_answered_in_writing_as_by_ask(tiny_engine: Engine) -> None:
    pcm = (0.1 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32)
    with tiny_engine.session() as session:
        clip = heldout.Clip("p", "Who?", "speech", "", "", pcm)
        (told,) = _hearing(session, IN_WRITING)(clip, ["Answer the question."])
        session.hear(pcm)
        question = write_down(session, pcm)
        assert question.text
        answer = session.ask_in_writing(question.text, max_new_tokens=max_new_tokens(pcm))
        assert told == answer.text()


def test_my_own_questions_are_compared_with_what_the_bundle_answers_to_their_text(
    nano: Path, clips: Path
) -> None:
    path = clips.with_name("questions.jsonl")
    asked = {"path": "speech.wav", "kind": "question", "text": "What is the capital of France?"}
    (clips.parent / "copy.wav").write_bytes((clips.parent / "speech.wav").read_bytes())
    lines = [
        asked,
        {**asked, "path": "copy.wav", "answer": "Bananas."},  # the same sound, another truth
        {**asked, "path": "noise.wav", "answer": "The capital of France is Paris."},
        {**asked, "path": "silence.wav", "answer": "Bananas."},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    log = clips.with_name("questions-log.jsonl")
    everything = ("--in-writing", "--streamed", "--beside", nano, "--json", "--log", log)
    result = json.loads(evaluate(nano, "--manifest", path, *everything).stdout)
    assert result["figures"].keys() == {"question_agreement"}
    assert result["n_answers"] == 4
    read = result["in_writing"]["read"]
    # Of the three answers given it says one itself.
    assert (read["kept"]["value"], read["kept"]["n"]) == (round(1 / 3, 4), 3)
    assert read["at_once"]["n"] == read["in_writing"]["n"] == 4
    (beside,) = result["beside"]
    assert beside["figures"]["question_agreement"]["difference"]["value"] == 0
    logs = {path.name for path in clips.parent.glob("questions-log*read.jsonl")}
    assert "questions-log-read.jsonl" in logs
    assert len(logs) == 2  # each bundle has its own
    # What is true may be told later: answers are kept, not what they are compared with.
    path.write_text(json.dumps(asked | {"answer": "Bananas."}) + "\n", "utf-8")
    again = json.loads(evaluate(nano, "--manifest", path, "--json", "--log", log).stdout)
    assert again["figures"]["question_agreement"]["value"] == 0


def test_a_bundle_that_cannot_read_needs_answers(nano: Path, clips: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(nano, tmp_path / "older")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["prompt"]["written"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    path = clips.with_name("unanswered.jsonl")
    path.write_text('{"path": "speech.wav", "kind": "question", "text": "Who?"}\n', "utf-8")
    done = evaluate(folder, "--manifest", path, code=2)
    assert "no template for questions without a sound" in done.stderr
    assert "give each question an answer" in done.stderr


def test_where_nothing_is_asked_nothing_is_answered_in_writing(nano: Path, clips: Path) -> None:
    done = evaluate(nano, "--manifest", clips, "--in-writing", code=2)
    assert "--in-writing: none of these clips asks anything" in done.stderr


def test_pictures_are_drawn(told: tuple[dict[str, Any], Path]) -> None:
    _, folder = told
    drawn = sorted(path.name for path in (folder / "drawn").iterdir())
    assert drawn == ["confusion.png", "figures.png", "languages.png"]


def test_a_run_goes_on_with_the_answers_that_are_there(
    told: tuple[dict[str, Any], Path], nano: Path, clips: Path
) -> None:
    result, folder = told
    before = (folder / "log.jsonl").read_text("utf-8").splitlines()
    cut = folder / "cut.jsonl"
    cut.write_text("\n".join([*before[:5], before[5][:20]]), "utf-8")  # killed while writing
    again = json.loads(
        evaluate(nano, "--manifest", clips, "--json", "--log", cut).stdout.splitlines()[-1]
    )
    assert again["figures"] == result["figures"]
    assert set(cut.read_text("utf-8").splitlines()) >= set(before)


def test_the_answers_of_another_bundle_are_not_taken_for_its_own(
    told: tuple[dict[str, Any], Path], nano: Path, clips: Path, tmp_path: Path
) -> None:
    _, folder = told
    other = shutil.copytree(nano, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text("utf-8"))
    (other / "manifest.json").write_text(json.dumps(manifest | {"name": "other"}), "utf-8")
    log = shutil.copy(folder / "log.jsonl", tmp_path / "log.jsonl")
    refused = evaluate(other, "--manifest", clips, "--log", log, code=2)
    assert "has the answers of another bundle or setting" in refused.stderr
    refused = evaluate(nano, "--manifest", clips, "--log", log, "--kv-cache", "float32", code=2)
    assert "float32" in refused.stderr
    evaluate(nano, "--manifest", clips, "--log", log, "--kv-cache", "float32", "--fresh")


def test_other_wordings_and_broken_recordings_in_tables(nano: Path, clips: Path) -> None:
    (clips.parent / "broken.wav").write_text("no sound")
    path = clips.parent / "broken.jsonl"
    lines = [{"path": name, "kind": "music"} for name in ("beep.flac", "broken.wav")]
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    log = clips.parent / "broken-log.jsonl"
    arguments = (nano, "--manifest", path, "--log", log, "--unseen-wordings")
    done = evaluate(*arguments, code=1)
    assert "speech, music or sound" in done.stdout
    assert f"kokanee: {path}:2: " in done.stderr
    assert "cannot be read as sound" in done.stderr
    assert (clips.parent / "broken-log-unseen.jsonl").exists()
    assert not log.exists()
    found = json.loads(evaluate(*arguments, "--skip-broken", "--json").stdout)
    assert [(one["line"], one["path"]) for one in found["broken"]] == [(2, "broken.wav")]
    assert found["wordings"] == "unseen"


def test_a_list_that_is_wrong_is_told_in_one_line(nano: Path, clips: Path) -> None:
    path = clips.parent / "wrong.jsonl"
    path.write_text('{"path": "beep.flac", "kind": "sounds"}\n', "utf-8")
    done = evaluate(nano, "--manifest", path, code=1)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"kokanee: {path}:1: kind: expected speech, sound, music, mixture, noise, question,"
        " got sounds"
    ]
    path.write_text('{"path": "gone.wav", "kind": "sound"}\n', "utf-8")
    done = evaluate(nano, "--manifest", path, code=1)
    assert "no recording can be read" in done.stderr


def test_a_named_set_is_read_from_the_packages(nano: Path, tmp_path: Path) -> None:
    """Packages that are unpacked already are not fetched: here they are nearly empty."""
    for package in heldout.PACKAGES:
        (tmp_path / package.name).mkdir()
    (tmp_path / "gcompris-qt-data" / "sounds").mkdir()
    sounds = tmp_path / "scratch" / "usr/share/scratch/Media/Sounds/Animal"
    sounds.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("Dog1", "Cat1", "Zzz"):  # no class is called Zzz
        soundfile.write(sounds / f"{name}.wav", 0.1 * rng.standard_normal(8_000), 16_000)
    arguments = (nano, "--set", "sound", "--data", tmp_path, "--log", tmp_path / "log.jsonl")
    found = json.loads(evaluate(*arguments, "--json").stdout)
    assert found["sets"] == ["sound"]
    assert found["scores"]["sound"]["n"] == found["scores"]["kind"]["n"] == 2
    assert found["sounds"]["confusion"]["truths"] == ["cat", "dog"]
