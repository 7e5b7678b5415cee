"""The converted tokenizer gives SentencePiece's ids, or is refused."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer

from kokanee.engine.errors import CheckpointError
from kokanee.engine.prompt import tokenise
from kokanee.engine.text import Detokenizer
from kokanee.export.llama_tokenizer import llama_tokenizer

GOLDEN = Path(__file__).parents[2] / "golden" / "salmonn"
MODEL = GOLDEN / "model" / "llama" / "tokenizer.model"
ANSWERS = sorted(GOLDEN.glob("answers/*.npz"))


@functools.cache
def converted() -> Tokenizer:
    return llama_tokenizer(MODEL)


@functools.cache
def reference() -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(MODEL))


@pytest.mark.parametrize("path", ANSWERS, ids=lambda p: p.stem)
def test_both_halves_of_every_golden_prompt_have_the_official_ids(path: Path) -> None:
    sets = json.loads((GOLDEN / "vectors" / "manifest.json").read_text("utf-8"))["sets"]
    prompt = tokenise(sets[path.stem]["prompt"], converted(), bos_id=1)
    with np.load(path) as golden:
        assert list(prompt.ids_before) == golden["ids_before"].tolist()
        assert list(prompt.ids_after) == golden["ids_after"].tolist()


@given(st.text().filter(lambda text: "<" not in text))
def test_any_text_has_sentencepieces_ids(text: str) -> None:
    assert converted().encode(text, add_special_tokens=False).ids == reference().encode(text)


@given(st.text(alphabet="abcdehilnorst .\n\u2581", max_size=80))
def test_any_words_have_sentencepieces_ids(text: str) -> None:
    assert converted().encode(text, add_special_tokens=False).ids == reference().encode(text)


@given(st.lists(st.integers(3, 639), max_size=30))
def test_pieces_of_any_answer_joined_are_the_answer(ids: list[int]) -> None:
    """Byte pieces are left out: runs that are no UTF-8 are treated differently, as text.py says."""
    ids = [i for i in ids if not reference().is_byte(i)]
    detokenizer = Detokenizer(converted())
    pieces = [detokenizer.push(i) for i in ids]
    assert "".join([*pieces, detokenizer.flush()]) == converted().decode(ids)


def test_what_it_says_is_what_sentencepiece_says() -> None:
    for text in ("hello world", "two  spaces", "请将语音", "line\nline"):
        ids = reference().encode(text)
        assert converted().decode(ids) == reference().decode(ids) == text


def changed(tmp_path: Path, change: Callable[[Any], object]) -> Path:
    proto = getattr(sentencepiece_model_pb2, "ModelProto")()  # noqa: B009 - made at import
    proto.ParseFromString(MODEL.read_bytes())
    change(proto)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda p: setattr(p.trainer_spec, "model_type", 1), "model_type 2, got 1"),
        (lambda p: setattr(p.trainer_spec, "byte_fallback", False), "byte_fallback"),
        (lambda p: setattr(p.normalizer_spec, "name", "nmt_nfkc"), "normalizer 'identity'"),
        (lambda p: setattr(p.normalizer_spec, "add_dummy_prefix", False), "add_dummy_prefix"),
        (lambda p: setattr(p.pieces[-1], "type", 4), "defined by a user 0, got 1"),
    ],
)
def test_another_kind_of_model_is_refused(
    change: Callable[[Any], object], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        llama_tokenizer(changed(tmp_path, change))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        llama_tokenizer(tmp_path / "tokenizer.model")


def test_a_conversion_with_other_ids_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kokanee.export.llama_tokenizer._merges", lambda proto: [])
    with pytest.raises(CheckpointError, match="please report this tokenizer"):
        llama_tokenizer(MODEL)
