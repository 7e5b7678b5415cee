from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from kokanee.engine.errors import CheckpointError
from kokanee.export.tokenizer import tokenizer_from_gguf, write_tokenizer

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = ["<|end|>", *ALPHABET, "he", "Ġhe", "12"]
METADATA: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3] + [1] * (len(TOKENS) - 1),
    "tokenizer.ggml.merges": ["h e", "Ġ he", "1 2"],
}


def test_words_merge_digits_do_not_and_markers_are_whole(tmp_path: Path) -> None:
    write_tokenizer(METADATA, tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    encoded = tokenizer.encode("he he 12<|end|>", add_special_tokens=False)
    assert encoded.tokens == ["he", "Ġhe", "Ġ", "1", "2", "<|end|>"]
    assert encoded.ids[-1] == 0
    assert tokenizer.decode(encoded.ids) == "he he 12"


def test_any_text_comes_back() -> None:
    tokenizer = tokenizer_from_gguf(METADATA)
    text = "Größe 3\n日本 \t!"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("change", [{"tokenizer.ggml.model": "llama"}, {"tokenizer.ggml.pre": "x"}])
def test_another_kind_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(CheckpointError, match="expected gpt2 with smollm splitting"):
        tokenizer_from_gguf(METADATA | change)
