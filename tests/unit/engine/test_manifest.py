"""The manifest is read strictly: what it does not know, lacks or got wrong has a name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kokanee.engine.errors import ManifestError
from kokanee.engine.manifest import GRAPHS, Manifest, read_manifest, verify_files


def manifest_dict() -> dict[str, Any]:
    """A complete manifest with one file of known content per name it lists."""
    names = [f"{g}.onnx" for g in GRAPHS] + ["llm.bin", "tokenizer.json"]
    return {
        "format": 3,
        "name": "paper",
        "kokanee": "0.1.0",
        "command": "pytest",
        "dims": {
            "d_speech": 64,
            "d_audio": 64,
            "d_qformer": 48,
            "d_model": 64,
            "n_layers": 2,
            "n_heads": 4,
            "n_kv_heads": 4,
            "d_head": 16,
            "n_vocab": 640,
            "n_positions": 256,
        },
        "front_end": {
            "sample_rate": 16000,
            "hop": 160,
            "n_mels": 80,
            "n_fbank": 128,
            "fbank_mean": 15.41663,
            "fbank_std": 6.55582,
        },
        "policy": {
            "min_s": 1,
            "max_s": 30,
            "pad_to_s": None,
            "long_audio": "segment",
            "window_frames": 17,
            "stride_frames": 17,
            "n_queries": 1,
        },
        "prompt": {
            "template": "USER: <SpeechHere> {}\nASSISTANT:",
            "bos_id": 1,
            "eos_ids": [2],
            "tasks": {},
        },
        "lora": {"rank": 8, "alpha": 32, "targets": ["q_proj", "v_proj"]},
        "architecture": {},
        "int8_cache": None,
        "receipt": None,
        "graphs": {g: {"file": f"{g}.onnx", "scheme": "f32", "half": None} for g in GRAPHS},
        "embedding": {
            "file": "llm.bin",
            "dtype": "uint8",
            "offset": 0,
            "block": 32,
            "scales_offset": 64,
        },
        "tokenizer": "tokenizer.json",
        "files": {
            name: {"sha256": hashlib.sha256(name.encode()).hexdigest(), "n_bytes": len(name)}
            for name in names
        },
        "sources": [],
        "parity": {},
        "quality": {},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    manifest = manifest_dict()
    for name in manifest["files"]:
        (tmp_path / name).write_text(name)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_what_is_written_is_what_is_read(folder: Path) -> None:
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.lora.scale == 4.0
    assert manifest.policy.min_s == 1.0


def test_what_is_younger_than_the_format_may_be_missing() -> None:
    manifest = manifest_dict()
    prompt = Manifest.from_json(json.dumps(manifest)).prompt
    assert (prompt.no_repeat_ngram_size, prompt.written) == (0, None)
    assert (prompt.length_penalty, prompt.transcript_beams) == (1.0, 1)
    manifest["prompt"] |= {"no_repeat_ngram_size": 4, "written": "USER: {}"}
    prompt = Manifest.from_json(json.dumps(manifest)).prompt
    assert (prompt.no_repeat_ngram_size, prompt.written) == (4, "USER: {}")


def drop_dims(d: dict[str, Any]) -> None:
    del d["dims"]


def add_key(d: dict[str, Any]) -> None:
    d["policy"]["hop_s"] = 0.5


def wrong_type(d: dict[str, Any]) -> None:
    d["dims"]["n_heads"] = "4"


def bool_for_int(d: dict[str, Any]) -> None:
    d["dims"]["n_heads"] = True


def other_format(d: dict[str, Any]) -> None:
    d["format"] = 99


def two_slots(d: dict[str, Any]) -> None:
    d["prompt"]["template"] += "<SpeechHere>"


def written_with_a_sound(d: dict[str, Any]) -> None:
    d["prompt"]["written"] = "<SpeechHere> {}"


def written_without_a_question(d: dict[str, Any]) -> None:
    d["prompt"]["written"] = "USER:"


def negative_size(d: dict[str, Any]) -> None:
    d["prompt"]["no_repeat_ngram_size"] = -1


def no_beams(d: dict[str, Any]) -> None:
    d["prompt"]["transcript_beams"] = 0


def endless_penalty(d: dict[str, Any]) -> None:
    d["prompt"]["length_penalty"] = float("inf")


def unknown_choice(d: dict[str, Any]) -> None:
    d["policy"]["long_audio"] = "loop"


def unlisted_file(d: dict[str, Any]) -> None:
    del d["files"]["tokenizer.json"]


def missing_graph(d: dict[str, Any]) -> None:
    del d["graphs"]["llm"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop_dims, r"missing \['dims'\]"),
        (add_key, r"manifest\.policy: unknown \['hop_s'\]; known are"),
        (wrong_type, r"manifest\.dims\.n_heads: expected int, got '4'"),
        (bool_for_int, r"manifest\.dims\.n_heads: expected int, got True"),
        (other_format, r"expected 3, got 99"),
        (two_slots, r"<SpeechHere> once"),
        (written_with_a_sound, r"prompt\.written: expected \{\} once and no <SpeechHere>"),
        (written_without_a_question, r"prompt\.written: expected \{\} once"),
        (negative_size, r"no_repeat_ngram_size: expected 0 or more, got -1"),
        (no_beams, r"expected transcript_beams of 1 or more .* got 0 and 1\.0"),
        (endless_penalty, r"a finite length_penalty, got 1 and inf"),
        (unknown_choice, r"expected one of \['cut', 'segment'\], got 'loop'"),
        (unlisted_file, r"tokenizer\.json is used but not listed"),
        (missing_graph, r"graphs: expected"),
    ],
)
def test_a_wrong_manifest_says_where(damage: Callable[[dict[str, Any]], None], said: str) -> None:
    data = manifest_dict()
    damage(data)
    with pytest.raises(ManifestError, match=said):
        Manifest.from_json(json.dumps(data))


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(ManifestError, match="not JSON"):
        Manifest.from_json("{")


def test_a_folder_without_a_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json is missing"):
        read_manifest(tmp_path)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "llm.onnx").unlink()
    with pytest.raises(ManifestError, match=r"llm\.onnx is missing"):
        verify_files(folder, read_manifest(folder))


def test_a_shorter_file_is_named(folder: Path) -> None:
    (folder / "llm.bin").write_text("llm")
    with pytest.raises(ManifestError, match=r"llm\.bin: expected 7 bytes, got 3"):
        verify_files(folder, read_manifest(folder))


def test_one_changed_byte_is_found(folder: Path) -> None:
    (folder / "llm.bin").write_text("llm.bim")
    with pytest.raises(ManifestError, match=r"llm\.bin: expected SHA-256"):
        verify_files(folder, read_manifest(folder))


def test_a_file_outside_the_bundle_is_refused(folder: Path) -> None:
    data = json.loads((folder / "manifest.json").read_text())
    data["files"]["../secret"] = {"sha256": "0" * 64, "n_bytes": 1}
    with pytest.raises(ManifestError, match="outside the bundle"):
        verify_files(folder, Manifest.from_json(json.dumps(data)))
