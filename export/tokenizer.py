"""The byte-level BPE inside a GGUF file -> `tokenizer.json` for the `tokenizers` library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from kokanee.engine.errors import CheckpointError

_CONTROL = 3  # ggml's token type of markers such as <|im_end|>


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer that a GGUF file's metadata describes.

    Raises:
        CheckpointError: it is not a byte-level BPE of the kind SmolLM2 has.
    """
    model, pre = (metadata.get(f"tokenizer.ggml.{k}") for k in ("model", "pre"))
    if model != "gpt2" or pre != "smollm":
        raise CheckpointError(f"tokenizer: expected gpt2 with smollm splitting, got {model}, {pre}")
    tokens, kinds, merges = (
        metadata[f"tokenizer.ggml.{k}"] for k in ("tokens", "token_type", "merges")
    )
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in merges],
        )
    )
    # 'smollm' splits digits one by one, then as GPT-2 does.
    # Source: llama.cpp src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL
        ]
    )
    return tokenizer


def write_tokenizer(metadata: Mapping[str, Any], path: Path) -> None:
    """Write `tokenizer.json`; see `tokenizer_from_gguf` for the errors."""
    tokenizer_from_gguf(metadata).save(str(path), pretty=False)
