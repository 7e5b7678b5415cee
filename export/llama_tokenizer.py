"""LLaMA's SentencePiece model -> a `tokenizers` tokenizer with the same ids, proven on the way.

The reference tokenises with the slow LLaMA tokenizer of transformers 4.28 and no special tokens
added: SentencePiece puts a space before every text, so each half of a prompt begins with one. At
run time only the `tokenizers` library is wanted, so the model is converted once, when a bundle is
built, and the result is compared with SentencePiece itself on every prompt the bundle will hold.

Source: google/sentencepiece, src/bpe_model.cc (which pair is merged next) and
src/sentencepiece_model.proto; huggingface/transformers LlamaTokenizer (what is a special token).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from kokanee.engine.errors import CheckpointError

_SPACE = "\u2581"  # SentencePiece's visible space
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # kinds of pieces
_BPE = 2  # model_type

# Where byte-pair encoders usually part ways.
_TRICKY = (
    "",
    " ",
    "   two  spaces   ",
    "\n",
    "\n\nASSISTANT:",
    "\ttabs\tand\r\nlines",
    "don't, won't; e.g. 3.14159 and 1,000,000!",
    "in-fi-nite" * 30,
    "Ünïcödé, e\u0301 and ﬁ",
    "请将语音中的内容写下来。",
    "音声を書き起こしてください",
    "🙂👩‍👩‍👧 \U0001f1e9\U0001f1ea",
    "\u2581 already \u2581visible",
    "\x00\x07\x7f",
    "<Speech><SpeechHere></Speech> {}",
    "ends with </s>",
    "</s><s> between </s> them",
)


def llama_tokenizer(path: Path, *, probes: Sequence[str] = ()) -> Tokenizer:
    """Convert a `tokenizer.model`.

    Args:
        path: the SentencePiece model.
        probes: texts whose ids must be the same in any case, beside some that are usually hard.

    Raises:
        CheckpointError: it is not LLaMA's kind of model, or a text gets other ids.
        ImportError: sentencepiece is not installed.
    """
    try:
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    except ImportError as error:
        raise ImportError(f"{path.name} needs {error.name}: pip install 'kokanee[build]'") from None
    data = path.read_bytes()
    # The generated module makes its classes when it is imported; a type checker sees none.
    proto = getattr(sentencepiece_model_pb2, "ModelProto")()  # noqa: B009
    try:
        proto.ParseFromString(data)
        reference = SentencePieceProcessor(model_proto=data)
    except Exception as error:  # protobuf's and SentencePiece's own types
        raise CheckpointError(f"{path}: not a SentencePiece model ({error})") from None
    _check_kind(path, proto)
    tokenizer = _converted(proto)
    for text in (*probes, *_TRICKY):
        _check_ids(path, text, tokenizer, reference)
    return tokenizer


def _check_kind(path: Path, proto: Any) -> None:
    """Refuse what would need more than byte-pair merges."""
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    for what, got, expected in (
        ("model_type", trainer.model_type, _BPE),
        ("byte_fallback", trainer.byte_fallback, True),
        ("normalizer", normalizer.name, "identity"),
        ("add_dummy_prefix", normalizer.add_dummy_prefix, True),
        ("remove_extra_whitespaces", normalizer.remove_extra_whitespaces, False),
        ("escape_whitespaces", normalizer.escape_whitespaces, True),
        ("treat_whitespace_as_suffix", trainer.treat_whitespace_as_suffix, False),
        ("pieces defined by a user", sum(p.type == _USER for p in proto.pieces), 0),
    ):
        if got != expected:
            raise CheckpointError(f"{path}: expected LLaMA's {what} {expected!r}, got {got!r}")


def _converted(proto: Any) -> Tokenizer:
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    unknown = next(p.piece for p in proto.pieces if p.type == _UNKNOWN)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges(proto),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = [p.piece for p in proto.pieces if p.type in (_CONTROL, _UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(p, special=True, normalized=False) for p in special])
    return tokenizer


def _merges(proto: Any) -> list[tuple[str, str]]:
    """Every way to make a piece out of two others, the most wanted piece first.

    SentencePiece merges the adjacent pair whose joined piece has the highest score; it never looks
    at how a piece came about, so each split of it is a merge of the same rank.
    """
    ordinary = {p.piece: p.score for p in proto.pieces if p.type == _NORMAL}
    order = sorted(ordinary, key=lambda piece: -ordinary[piece])
    return [
        (piece[:i], piece[i:])
        for piece in order
        for i in range(1, len(piece))
        if piece[:i] in ordinary and piece[i:] in ordinary
    ]


def _check_ids(path: Path, text: str, tokenizer: Tokenizer, reference: Any) -> None:
    got = tokenizer.encode(text, add_special_tokens=False).ids
    want = _reference_ids(text, tokenizer, reference)
    if got != want:
        raise CheckpointError(
            f"{path}: its conversion gives {text[:60]!r} the ids {got[:20]}, SentencePiece"
            f" {want[:20]}; please report this tokenizer"
        )


def _reference_ids(text: str, tokenizer: Tokenizer, reference: Any) -> list[int]:
    """SentencePiece's ids of what lies between special tokens, which it does not know itself."""
    ids: list[int] = []
    at = 0
    special = {t.content: i for i, t in tokenizer.get_added_tokens_decoder().items()}
    while at < len(text):
        found = [(text.find(s, at), s) for s in special if s in text[at:]]
        end, token = min(found, default=(len(text), ""))
        if end > at:
            ids += reference.encode(text[at:end])
        if token:
            ids.append(special[token])
        at = end + len(token) if token else len(text)
    return ids
