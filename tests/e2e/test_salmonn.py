"""Official checkpoints through the command line: the answers of ByteDance's own code.

The checkpoints are tiny and random but official in every name, type and file format; what the
official code made of them is in tests/golden.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kokanee.engine import BeamSearch, Engine, read_audio
from kokanee.runtime.__main__ import main

GOLDEN = Path(__file__).parents[1] / "golden" / "salmonn"
MODEL = GOLDEN / "model"
CLIPS = sorted(p.stem for p in (GOLDEN / "answers").glob("*.npz"))
TRACED = sorted(p.stem for p in (GOLDEN / "vectors").glob("[!_]*.npz"))
PROMPTS = {
    clip: entry["prompt"]
    for clip, entry in json.loads((GOLDEN / "vectors" / "manifest.json").read_text("utf-8"))[
        "sets"
    ].items()
}
BOS, EOS = 1, 2
# Largest absolute differences, as tests/golden/README.md has them.
TOLERANCES = {
    "logmel": 1e-4,
    "beats_fbank": 1e-4,
    "whisper_out": 2e-4,
    "beats_out": 2e-4,
    "concat": 2e-4,
    "qformer_out": 2e-4,
    "speech_tokens": 2e-4,
    "inputs_embeds": 2e-4,
    "prefill_logits": 1e-3,
    "greedy_step_logits": 1e-3,
}

Build = Callable[..., Path]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a bundle from the golden checkpoints, once for each set of options."""
    made: dict[tuple[str, ...], Path] = {}

    def build(*options: str) -> Path:
        if options not in made:
            out = tmp_path_factory.mktemp("salmonn") / "bundle"
            with pytest.raises(SystemExit) as left:
                main(
                    [
                        *("build", str(out), "--salmonn", str(MODEL / "salmonn.pth")),
                        *("--whisper", str(MODEL / "whisper"), "--beats", str(MODEL / "beats.pt")),
                        *("--llm", str(MODEL / "llama")),
                        *("--qformer-config", str(MODEL / "qformer_bert_overrides.json")),
                        *options,
                    ]
                )
            assert not left.value.code
            made[options] = out
        return made[options]

    return build


@pytest.fixture(scope="module")
def floats(build: Build) -> Path:
    return build("--llm-quant", "none", "--encoder-quant", "none")


@pytest.fixture(scope="module")
def engine(floats: Path) -> Iterator[Engine]:
    with Engine.open(floats, device="cpu", threads=1) as engine:
        yield engine


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*args: str | Path) -> str:
        with pytest.raises(SystemExit) as left:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert not left.value.code, err
        return out.splitlines()[-1]

    return run


def audio(clip: str) -> Path:
    (path,) = (GOLDEN / "audio").glob(f"{clip}.*")
    return path


def said(ids: Any) -> list[int]:
    """The official ids without BOS in front and the end token behind."""
    assert ids[0] == BOS
    said: list[int] = ids[1:].tolist()
    return said[:-1] if said[-1] == EOS else said


@pytest.mark.parametrize("clip", TRACED)
def test_every_array_is_the_official_one(clip: str, run: Run, floats: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    run("trace", floats, audio(clip), "--raw-prompt", PROMPTS[clip], "--out", out)
    with np.load(out) as got, np.load(GOLDEN / "vectors" / f"{clip}.npz") as want:
        for name in want.files:
            expected = want[name]
            if "logits" in name:
                expected = expected[:, :-1]  # the last column is the reference's padding row
            if name in TOLERANCES:
                np.testing.assert_allclose(
                    got[name], expected, rtol=0, atol=TOLERANCES[name], err_msg=name
                )
            else:
                np.testing.assert_array_equal(got[name], expected, err_msg=name)
        assert (got["kernel"], got["stride"], got["n_windows"]) == (17, 17, 88)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize(
    ("how", "options"),
    [
        ("greedy", []),
        ("beam4", ["--beams", "4"]),
        ("beam4_lp2", ["--beams", "4", "--length-penalty", "2.0"]),
        ("greedy_rp", ["--repetition-penalty", "1.3"]),
    ],
)
def test_ids_are_the_official_ones(
    how: str, options: list[str], clip: str, run: Run, floats: Path
) -> None:
    asked = ("--raw-prompt", PROMPTS[clip], "--max-new-tokens", "16", "--json", *options)
    report = json.loads(run("ask", floats, audio(clip), *asked))
    with np.load(GOLDEN / "answers" / f"{clip}.npz") as want:
        assert report["ids"] == said(want[f"official_{how}_ids"])
        assert report["n_soft_tokens"] == len(want["speech_tokens"]) == 88


def test_a_question_goes_into_the_official_template(engine: Engine) -> None:
    with engine.session() as session:
        session.hear(read_audio(audio("s1p0")).pcm)
        asked = session.ask(task="audiocaption", max_new_tokens=16).all_ids()
        same = session.ask("Please describe the audio.", max_new_tokens=16).all_ids()
    with np.load(GOLDEN / "answers" / "s1p0.npz") as want:
        assert asked == same == said(want["official_greedy_ids"])


@pytest.mark.parametrize(("suffix", "scale"), [("", None), ("_alpha0", 0.0)])
def test_the_adapters_scale_is_a_matter_of_the_question(
    suffix: str, scale: float | None, engine: Engine
) -> None:
    with np.load(GOLDEN / "vectors" / "_lora_scale_s0p2.npz") as golden:
        want = golden[f"greedy_ids{suffix}"].tolist()
        scale = float(golden["alpha"]) / 8 if scale is None else scale
    with engine.session() as session:
        session.hear(read_audio(audio("s0p2")).pcm)
        plain = session.ask(task="asr", max_new_tokens=16).all_ids()
        assert session.ask(task="asr", lora_scale=scale, max_new_tokens=16).all_ids() == want
        # The sound is prefilled again with the adapter as it was.
        assert session.ask(task="asr", max_new_tokens=16).all_ids() == plain
    with engine.session(lora_scale=scale) as session:
        session.hear(read_audio(audio("s0p2")).pcm)
        assert session.ask(task="asr", max_new_tokens=16).all_ids() == want


def test_a_lower_alpha_at_build_time_is_a_lower_scale(run: Run, build: Build) -> None:
    bundle = build("--llm-quant", "none", "--encoder-quant", "none", "--lora-alpha", "28")
    report = json.loads(
        run("ask", bundle, audio("s0p2"), "--task", "asr", "--max-new-tokens", "16", "--json")
    )
    with np.load(GOLDEN / "vectors" / "_lora_scale_s0p2.npz") as golden:
        assert report["ids"] == golden["greedy_ids"].tolist()


@pytest.mark.parametrize("quant", ["int8", "int8_block32", "int4", "int4_block128", "gptq4"])
def test_a_quantized_llm_hears_the_same_and_answers_alike(
    quant: str, build: Build, engine: Engine
) -> None:
    pcm, text = read_audio(audio("stereo4p0")).pcm, PROMPTS["stereo4p0"]
    want = engine.trace(pcm, text, max_new_tokens=1)
    bundle = build("--llm-quant", quant, "--encoder-quant", "none")
    with Engine.open(bundle, device="cpu", threads=1) as quantized:
        got = quantized.trace(pcm, text, max_new_tokens=1)
    np.testing.assert_array_equal(got["speech_tokens"], want["speech_tokens"])
    error = got["prefill_logits"] - want["prefill_logits"]
    relative = np.linalg.norm(error) / np.linalg.norm(want["prefill_logits"])
    agree = np.mean(got["prefill_logits"].argmax(1) == want["prefill_logits"].argmax(1))
    # A toy whose next token is nearly a draw: what is bounded here is that nothing is broken.
    assert relative < (0.05 if "int8" in quant else 0.4)
    assert agree > (0.9 if "int8" in quant else 0.4)


@pytest.mark.parametrize(("quant", "bound"), [("fp16", 1e-3), ("int8", 0.03)])
def test_quantized_encoders_stay_near_the_float_ones(
    quant: str, bound: float, build: Build, engine: Engine
) -> None:
    pcm, text = read_audio(audio("stereo4p0")).pcm, PROMPTS["stereo4p0"]
    want = engine.trace(pcm, text, max_new_tokens=1)["speech_tokens"]
    bundle = build("--llm-quant", "none", "--encoder-quant", quant)
    with Engine.open(bundle, device="cpu", threads=1) as quantized:
        got = quantized.trace(pcm, text, max_new_tokens=1)["speech_tokens"]
    assert 0 < np.linalg.norm(got - want) / np.linalg.norm(want) < bound


def test_without_beats_its_half_is_zeros(run: Run, floats: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    run(
        *("trace", floats, audio("s1p0"), "--task", "asr", "--no-audio-encoder"),
        *("--out", out, "--max-new-tokens", "1"),
    )
    with np.load(out) as got, np.load(GOLDEN / "vectors" / "s1p0.npz") as want:
        assert got["beats_out"].shape == (0, 64)
        np.testing.assert_array_equal(got["concat"][:, 64:], 0)
        np.testing.assert_allclose(got["concat"][:, :64], want["concat"][:, :64], atol=2e-4)
        assert got["speech_tokens"].shape == (88, 64)


def test_padding_and_cutting_can_be_chosen(run: Run, floats: Path, build: Build) -> None:
    def heard(bundle: Path, clip: str, *options: str) -> tuple[int, int]:
        asked = ("ask", bundle, audio(clip), "--task", "asr", "--max-new-tokens", "1", "--json")
        report = json.loads(run(*asked, *options))
        return report["n_soft_tokens"], report["n_segments"]

    assert heard(floats, "s7p3") == (88, 1)
    assert heard(floats, "s7p3", "--pad-to-s", "none") == (22, 1)  # 7.3 s in windows of 0.34 s
    assert heard(floats, "s37p0") == (88, 1)
    assert heard(floats, "s37p0", "--long-audio", "segment") == (2 * 88, 2)
    assert heard(floats, "s37p0", "--long-audio", "segment", "--pad-to-s", "none") == (88 + 21, 2)
    trimmed = build("--pad-to-s", "none", "--long-audio", "segment")
    assert heard(trimmed, "s37p0") == (88 + 21, 2)


def test_beams_come_as_soon_as_they_agree(engine: Engine) -> None:
    with engine.session() as session:
        session.hear(read_audio(audio("s0p2")).pcm)
        answer = session.ask(task="asr", sampling=BeamSearch(n_beams=2), max_new_tokens=24)
        pieces = iter(answer)
        next(pieces)
        early = list(answer.ids)
        list(pieces)
        assert 0 < len(early) < len(answer.ids)
        assert answer.ids[: len(early)] == early
        n_used = session.n_used
        session.ask(task="asr", max_new_tokens=1).text()
        assert session.n_used < n_used  # the branches are gone


def test_beams_end_where_the_context_ends(engine: Engine) -> None:
    with engine.session(n_ctx=140) as session:
        session.hear(read_audio(audio("s0p2")).pcm)
        answer = session.ask(task="asr", sampling=BeamSearch(), max_new_tokens=100)
        assert len(answer.all_ids()) < 10
        assert answer.finish_reason == "context"
        assert session.ask(task="asr", max_new_tokens=2).all_ids()
