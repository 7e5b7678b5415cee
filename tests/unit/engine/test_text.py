from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from kokanee.engine.text import HALF, Detokenizer

SPECIAL = "<|end|>"


def byte_level() -> Tokenizer:
    """Byte-level BPE with tokens that end within a character, as GPT-2's family has."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("ð", "Ł"), ("Ġ", "ð"), ("h", "i")]
    vocab = [*alphabet, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocab)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(SPECIAL)])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """SentencePiece as LLaMA uses it: dummy prefix space, bytes for what has no token."""
    vocab = [*(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "▁a", "b", "▁hello", "é", "<unk>"]
    tokenizer = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(vocab)},
            [("▁", "a")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(SPECIAL)])
    return tokenizer


TOKENIZERS = {"byte level": byte_level(), "byte fallback": byte_fallback()}
BYTE_LEVEL, BYTE_FALLBACK = TOKENIZERS.values()


def id_of(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None
    return found


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=24)


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters=HALF)))
@example(text="  hi \U0001f600é你好")
def test_pieces_of_any_text_join_to_it_and_hold_whole_characters(
    tokenizer: Tokenizer, text: str
) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    streamed = pieces(tokenizer, ids)
    assert "".join(streamed) == tokenizer.decode(ids)
    assert not any(HALF in piece for piece in streamed)
    assert streamed[-1] == ""


@given(ids_of(BYTE_LEVEL))
def test_pieces_of_any_ids_join_to_the_decoded_ids(ids: list[int]) -> None:
    assert "".join(pieces(BYTE_LEVEL, ids)) == BYTE_LEVEL.decode(ids)


@given(ids_of(BYTE_FALLBACK))
def test_a_stray_byte_spoils_no_character_that_was_whole(ids: list[int]) -> None:
    streamed, whole = "".join(pieces(BYTE_FALLBACK, ids)), BYTE_FALLBACK.decode(ids)
    if HALF not in whole:
        assert streamed == whole
    assert len(streamed.replace(HALF, "")) >= len(whole.replace(HALF, ""))


def test_a_character_comes_when_its_last_byte_does() -> None:
    assert pieces(BYTE_LEVEL, BYTE_LEVEL.encode("é\U0001f600").ids) == [
        "",
        "é",
        "",
        "",
        "\U0001f600",
        "",
    ]


def test_the_space_that_starts_an_answer_goes_and_all_others_stay() -> None:
    space, a, special = (id_of(BYTE_FALLBACK, t) for t in ("▁", "▁a", SPECIAL))
    assert pieces(BYTE_FALLBACK, [a, a]) == ["a", " a", ""]
    assert pieces(BYTE_FALLBACK, [special, a, a]) == ["", "a", " a", ""]
    assert pieces(BYTE_FALLBACK, [space, a, space]) == ["", " a", " ", ""]


def test_an_answer_cut_within_a_character_ends_in_a_replacement() -> None:
    assert pieces(BYTE_LEVEL, BYTE_LEVEL.encode("hi\U0001f600").ids[:-1])[-1] == HALF
