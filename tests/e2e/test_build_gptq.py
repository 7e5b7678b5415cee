"""A Vicuna that is a GPTQ checkpoint already becomes a bundle with its codes as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gptq_folder import write_gptq

from kokanee.engine import Engine, read_audio, read_manifest
from kokanee.runtime.__main__ import main

GOLDEN = Path(__file__).parents[1] / "golden" / "salmonn"
SOUND = GOLDEN / "audio" / "stereo4p0.wav"


def build(out: Path, parts: Path, *options: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as left:
        main(
            [
                *("build", str(out), "--salmonn", str(parts / "salmonn.pth")),
                *("--whisper", str(parts / "whisper"), "--beats", str(parts / "beats.pt")),
                *("--llm", str(parts / "llama"), "--encoder-quant", "none"),
                *("--qformer-config", str(parts / "qformer_bert_overrides.json"), *options),
            ]
        )
    assert (left.value.code or 0) == code


@pytest.fixture(scope="module", params=[True, False], ids=["act-order", "plain"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`gptq/` and `meant/`: the golden model with its LLM in codes, and in what they stand for."""
    work = tmp_path_factory.mktemp("gptq")
    for name in ("gptq", "meant"):
        shutil.copytree(GOLDEN / "model", work / name, copy_function=shutil.copyfile)
    llama = work / "gptq" / "llama"
    loaded = torch.load(llama / "pytorch_model.bin", weights_only=True)
    weights = {
        n: t.float().numpy() for n, t in loaded.items() if not n.endswith("rotary_emb.inv_freq")
    }
    (llama / "pytorch_model.bin").unlink()
    config = json.loads((llama / "config.json").read_text())
    meant = write_gptq(llama, config, weights, act_order=request.param)
    torch.save(
        {n: torch.from_numpy(w) for n, w in meant.items()},
        work / "meant" / "llama" / "pytorch_model.bin",
    )
    build(work / "from-gptq", work / "gptq", "--kv-cache", "float32")
    build(work / "from-meant", work / "meant", "--llm-quant", "none", "--no-receipt")
    return work


def logits(bundle: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with Engine.open(bundle, device="cpu", threads=1) as engine:
        text = engine.manifest.prompt.template.format("What?")
        arrays = engine.trace(read_audio(SOUND).pcm, text, max_new_tokens=1)
    made: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = arrays["prefill_logits"]
    return made


def test_it_answers_as_the_weights_that_the_codes_stand_for(folders: Path) -> None:
    """What differs is the activations, which the kernels quantize to 8 bits."""
    got, want = logits(folders / "from-gptq"), logits(folders / "from-meant")
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 0.04


def test_the_receipt_says_whose_codes_they_are_and_that_nothing_was_lost(folders: Path) -> None:
    manifest = read_manifest(folders / "from-gptq")
    assert manifest.architecture["llm_packing"] == "int4_zeros_block32"
    assert manifest.receipt is not None
    assert "codes of a GPTQ checkpoint" in manifest.receipt.method
    assert manifest.receipt.llm["text"].kl < 0.01


def test_it_can_be_stored_otherwise(folders: Path) -> None:
    """Columns are back in their places then."""
    out = folders / "again"
    with pytest.raises(SystemExit) as left:
        main(["quantize", str(folders / "from-gptq"), str(out), "--llm-quant", "int8"])
    assert not left.value.code
    got, want = logits(out), logits(folders / "from-meant")
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 0.06


def test_codes_are_not_quantized_again(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path / "out", folders / "gptq", "--llm-quant", "int8", code=1)
    assert "GPTQ codes already" in capsys.readouterr().err


def test_an_unknown_number_of_bits_is_refused(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = Path(shutil.copytree(folders / "gptq", tmp_path / "parts"))
    settings = parts / "llama" / "quantize_config.json"
    settings.write_text(settings.read_text().replace('"bits": 4', '"bits": 3'))
    build(tmp_path / "out", parts, code=1)
    assert "bits: expected 4 or 8, got 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
