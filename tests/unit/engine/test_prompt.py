import dataclasses
import re

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from kokanee.engine.manifest import PromptFormat
from kokanee.engine.prompt import fill, fill_written, tokenise

SALMONN = PromptFormat(
    template="USER: <Speech><SpeechHere></Speech> {}\nASSISTANT:",
    bos_id=1,
    eos_ids=(2,),
    tasks={"asr": "Write it down.", "QA": "Answer: {} Be brief."},
    written="USER: {}\nASSISTANT:",
)


def characters() -> Tokenizer:
    """One token a character, a dummy space before each text, and one special token."""
    letters = sorted(set(SALMONN.template) | set("abcdefghijklmnopqrstuvwxyz{}.? "))
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{c: i for i, c in enumerate(["▁", *letters], 3)}}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Prepend("▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens([AddedToken("<s>", normalized=False)])
    return tokenizer


TOKENIZER = characters()


def spelled(ids: tuple[int, ...]) -> str:
    return "".join(TOKENIZER.id_to_token(i) or "" for i in ids)


def test_the_question_stands_where_the_template_says_and_the_halves_are_tokenised_apart() -> None:
    prompt = tokenise(fill(SALMONN, " what is said? "), TOKENIZER, bos_id=1)
    assert spelled(prompt.head) == "<s>▁USER: <Speech>"
    assert spelled(prompt.ids_before) == "▁USER: <Speech>"
    assert spelled(prompt.ids_after) == "▁</Speech> what is said?\nASSISTANT:"


def test_bos_heads_the_prompt_only_where_the_bundle_says_so() -> None:
    assert spelled(tokenise("a<SpeechHere>b", TOKENIZER, bos_id=None).head) == "▁a"


def test_special_tokens_are_special_where_they_are_spelled() -> None:
    assert tokenise("<s>a<SpeechHere>", TOKENIZER, bos_id=None).head[0] == 1


def test_braces_in_a_question_are_just_braces() -> None:
    assert "</Speech> Is {} or {0}?\n" in fill(SALMONN, "Is {} or {0}?")


def test_a_task_asks_in_its_wording_with_the_users_words_where_it_has_a_gap() -> None:
    assert "</Speech> Write it down.\n" in fill(SALMONN, None, task="asr")
    assert "</Speech> Answer: Who {}? Be brief.\n" in fill(SALMONN, " Who {}?", task="QA")


def test_a_raw_prompt_is_taken_as_it_is() -> None:
    assert fill(SALMONN, None, raw=" A <SpeechHere> {}\n") == " A <SpeechHere> {}\n"


@pytest.mark.parametrize(
    ("question", "task", "raw", "complaint"),
    [
        (None, None, None, "question: expected some words"),
        ("  ", None, None, "question: expected some words"),
        ("Who?", "asr", None, "task 'asr' takes no question"),
        (None, "QA", None, "task 'QA' needs a question"),
        (None, "sing", None, "task: expected one of ['QA', 'asr'], got 'sing'"),
        ("Who?", None, "<SpeechHere>", "give no question and no task with it"),
        (None, None, "no place", "exactly once, got it 0 times"),
        ("<SpeechHere>", None, None, "exactly once, got it 2 times"),
    ],
)
def test_what_does_not_go_together_is_refused(
    question: str | None, task: str | None, raw: str | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        fill(SALMONN, question, task=task, raw=raw)


def test_a_question_without_a_sound_has_a_template_of_its_own() -> None:
    assert fill_written(SALMONN, " Is {} a pair? ") == "USER: Is {} a pair?\nASSISTANT:"


def test_a_question_without_a_sound_needs_words_and_a_template() -> None:
    with pytest.raises(ValueError, match="expected some words"):
        fill_written(SALMONN, " ")
    older = dataclasses.replace(SALMONN, written=None)
    with pytest.raises(ValueError, match=r"no template .* \(prompt.written"):
        fill_written(older, "Who?")
