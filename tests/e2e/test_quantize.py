"""`kokanee quantize` on a random float bundle: schemes, receipts, resuming, bad input."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tiny_bundle

from kokanee.engine import Engine, read_audio, read_manifest
from kokanee.engine.errors import DeviceError, ManifestError
from kokanee.engine.manifest import FILE_NAME, verify_files
from kokanee.quant import calibrate, gptq
from kokanee.quant.texts import RECORDINGS
from kokanee.runtime.__main__ import main

Cli = Callable[..., str]


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer bundle whose LLM is float32."""
    folder = tmp_path_factory.mktemp("floats") / "floats"
    tiny_bundle(folder, packing="f32")
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command that must succeed; what it printed."""

    def run(*args: str | Path, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert (left.value.code or 0) == code, err
        return out if code == 0 else err

    return run


def ask(bundle: Path, **opened: Any) -> list[int]:
    with Engine.open(bundle, device="cpu", threads=1, **opened) as engine:
        assert engine.notes == ()
        with engine.session(n_ctx=128) as session:
            session.hear(read_audio(RECORDINGS / "speech.wav").pcm)
            return session.ask("Who?", max_new_tokens=5).all_ids()


@pytest.mark.parametrize(
    ("scheme", "kl", "method"),
    [
        ("none", 1e-3, "floats, not quantized"),
        ("int8", 0.02, "8 bits"),
        ("gptq4_block128", 0.2, "GPTQ, blocks of 128: smallest and fastest; calibrated with"),
        ("nf4", 0.2, "NF4"),
        ("llm_int8", 0.02, "LLM.int8"),
    ],
)
def test_a_scheme_makes_a_bundle_that_answers_and_says_how_good_it_is(
    cli: Cli, floats: Path, tmp_path: Path, scheme: str, kl: float, method: str
) -> None:
    out = tmp_path / scheme
    said = json.loads(cli("quantize", floats, out, "--llm-quant", scheme, "--json"))
    manifest = read_manifest(out)
    verify_files(out, manifest)
    assert {p.name for p in out.iterdir()} == {*manifest.files, FILE_NAME}
    receipt = manifest.receipt
    assert receipt is not None
    assert said["receipts"][scheme] == dataclasses.asdict(receipt)
    assert method in receipt.method
    assert 0 <= receipt.llm["text"].kl < kl
    assert receipt.llm["audio"].n_positions > 50
    assert receipt.llm["text"].perplexity_exact > 1
    assert receipt.cost is not None
    assert receipt.cost.n_bytes == sum(f.n_bytes for f in manifest.files.values())
    assert receipt.cost.peak_rss_mb > 20
    assert receipt.cost.decode_tokens_per_s > 1
    assert (manifest.int8_cache is None) == (scheme == "none")
    assert {p.stat().st_mode & 0o444 for p in out.iterdir()} == {0o444}  # others may read it
    assert len(ask(out)) > 0
    shown = " ".join(cli("inspect", out).split())
    assert "same next token" in shown
    assert "peak memory of an answer" in shown
    assert "textaudio" not in shown  # the second row's name once held the first's


def test_calibrated_schemes_beat_rounding_to_nearest(
    cli: Cli, floats: Path, tmp_path: Path
) -> None:
    out = tmp_path / "all"
    picture = tmp_path / "p.png"
    said = json.loads(
        cli(
            *("quantize", floats, out, "--compare", "int4,kq4,gptq4"),
            *("--picture", picture, "--json"),
        )
    )
    kl = {name: r["llm"]["text"]["kl"] for name, r in said["receipts"].items()}
    assert kl["gptq4"] < kl["kq4"] < kl["int4"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    # What is there is not made again.
    table = cli("quantize", floats, out, "--compare", "int4,kq4,gptq4")
    assert all(name in table for name in kl)


def test_the_float_cache_is_exact_and_the_int8_cache_is_on_by_default(
    cli: Cli, floats: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cli("quantize", floats, out, "--llm-quant", "none", "--kv-cache", "int8")
    assert ask(out, kv_cache="float32") == ask(floats)
    with (
        Engine.open(out, device="cpu", threads=1) as short,
        Engine.open(floats, device="cpu", threads=1) as full,
        short.session(n_ctx=64) as a,
        full.session(n_ctx=64) as b,
    ):
        assert a.kv_bytes * 4 == b.kv_bytes
    with pytest.raises(DeviceError, match="has no units for an int8 cache"):
        Engine.open(floats, device="cpu", kv_cache="int8")


def test_units_of_the_wrong_shape_are_refused(cli: Cli, floats: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from kokanee.export.bundle import described, save

    out = tmp_path / "out"
    cli("quantize", floats, out, "--llm-quant", "int8", "--no-receipt")
    manifest = read_manifest(out)
    assert manifest.int8_cache is not None
    path = out / manifest.int8_cache.scales
    scales = load_file(path)
    scales["key_scale.1"] = scales["key_scale.1"][:-1].copy()
    save_file(scales, path)
    files = manifest.files | {path.name: described(path)}
    save(out, dataclasses.replace(manifest, files=files))
    with pytest.raises(ManifestError, match=r"key_scale\.1: expected float32 \[32\]"):
        Engine.open(out, device="cpu")


def test_a_bundle_without_a_receipt_or_beyond_its_limits_says_so(
    cli: Cli, floats: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from kokanee.export.bundle import save

    out = tmp_path / "out"
    cli("quantize", floats, out, "--llm-quant", "int4", "--no-receipt")
    with Engine.open(out, device="cpu", threads=1) as engine:
        assert "has no receipt" in engine.notes[0]
        assert "has no receipt" in caplog.text
    said = subprocess.run(
        [
            *(sys.executable, "-m", "kokanee.runtime", "ask", str(out)),
            *(str(RECORDINGS / "speech.wav"), "Who?", "--max-new-tokens", "1", "--json"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stderr.count("has no receipt") == 1
    measured = tmp_path / "measured"
    cli("quantize", floats, measured, "--llm-quant", "int4")
    manifest = read_manifest(measured)
    assert manifest.receipt is not None
    strict = dataclasses.replace(manifest.receipt.limits, kl=1e-6)
    receipt = dataclasses.replace(manifest.receipt, limits=strict)
    save(measured, dataclasses.replace(manifest, receipt=receipt))
    with Engine.open(measured, device="cpu", threads=1) as engine:
        assert "the limit is 1e-06" in engine.notes[0]
        assert "kokanee quantize" in engine.notes[0]


def test_an_interrupted_calibration_goes_on_to_the_same_bytes(
    cli: Cli, floats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    args = ("--llm-quant", "gptq4", "--no-receipt")
    cli("quantize", floats, whole, *args)
    real, calls = gptq.gptq, []

    def interrupted(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:  # in the second of two layers, each with four groups of matrices
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(calibrate, "gptq", interrupted)
    cli("quantize", floats, out, *args, code=130)
    assert not out.exists()
    cli("quantize", floats, out, *args)
    assert len(calls) == 10  # the first layer was not done again
    assert (out / "llm.bin").read_bytes() == (whole / "llm.bin").read_bytes()
    assert not list(tmp_path.glob(".out*"))


def test_ones_own_calibration_set(cli: Cli, floats: Path, tmp_path: Path) -> None:
    sounds = tmp_path / "set.jsonl"
    entry = {"path": str(RECORDINGS / "sound.wav"), "question": "What?", "answer": "Water. " * 30}
    sounds.write_text("\n".join([json.dumps(entry), "", json.dumps({"text": "word " * 60})]))
    out = tmp_path / "out"
    cli("quantize", floats, out, "--llm-quant", "gptq4", "--calibration", sounds)
    receipt = read_manifest(out).receipt
    assert receipt is not None
    assert "calibrated with set.jsonl" in receipt.method


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("empty.txt", "", "is empty; calibration needs at least 256"),
        ("short.txt", "a few words", "makes 11 positions"),
        ("set.jsonl", '{"text": "a"}\nnot json', "line 2: not JSON"),
        ("set.jsonl", '{"sound": "x.wav"}', 'line 1: expected {"text"}'),
        ("set.jsonl", '{"path": "x.wav", "question": "?", "answer": "!"}', "x.wav"),
        ("binary.txt", "\udcff", "cannot be read"),
    ],
)
def test_a_calibration_set_of_no_use_is_told(
    cli: Cli, floats: Path, tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    path, out = tmp_path / name, tmp_path / "out"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    args = ("--llm-quant", "gptq4", "--calibration", path)
    assert complaint in cli("quantize", floats, out, *args, code=1)
    assert not out.exists()


def test_misuse_is_told(cli: Cli, floats: Path, tmp_path: Path) -> None:
    assert "OUT is missing" in cli("quantize", floats, code=2)
    assert "unknown int3" in cli("quantize", floats, "--compare", "int4,int3", code=2)
    both = ("--compare", "int4", "--llm-quant", "int4")
    assert "exclude each other" in cli("quantize", floats, *both, code=2)
    assert "--picture needs" in cli("quantize", floats, tmp_path / "x", "--picture", "p", code=2)
    assert "another folder" in cli("quantize", floats, floats, code=2)


def test_encoders_change_too_and_soft_tokens_are_compared(
    cli: Cli, floats: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cli("quantize", floats, out, "--llm-quant", "int8", "--encoder-quant", "int8")
    manifest = read_manifest(out)
    assert manifest.architecture["encoder_packing"] == "int8_block128"
    assert manifest.receipt is not None
    soft = manifest.receipt.soft_tokens
    assert soft is not None
    assert 0.9 < soft.least_cosine < 1
    assert 10 < soft.snr_db < 100


def test_quantizing_needs_no_torch(floats: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfor n in ('torch', 'transformers'): sys.modules[n] = None\n"
        "from kokanee.runtime.__main__ import main\n"
        f"main(['quantize', {str(floats)!r}, {str(tmp_path / 'out')!r}, '--llm-quant', 'gptq4',"
        " '--no-receipt'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.isfinite(ask_raw(tmp_path / "out"))


def ask_raw(bundle: Path) -> float:
    with Engine.open(bundle, device="cpu", threads=1) as engine:
        arrays = engine.trace(
            read_audio(RECORDINGS / "sound.wav").pcm,
            engine.manifest.prompt.template.format("Who?"),
            max_new_tokens=1,
        )
    return float(np.abs(arrays["prefill_logits"]).max())
