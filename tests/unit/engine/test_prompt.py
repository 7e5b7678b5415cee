import dataclasses

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from kokanee.engine.errors import ManifestError
from kokanee.engine.manifest import PromptFormat
from kokanee.engine.prompt import Prompt, task_question

SALMONN = PromptFormat(
    template="USER: <Speech><SpeechHere></Speech> {}\nASSISTANT:",
    bos_id=1,
    eos_ids=(2,),
    tasks={"asr": "Write it down.", "QA": "Answer: {} Be brief."},
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
    prompt = Prompt.of_bundle(SALMONN, TOKENIZER)
    assert spelled(prompt.ids_before) == "<s>▁USER: <Speech>"
    assert spelled(prompt.ids_after(" what is said? ")) == ("▁</Speech> what is said?\nASSISTANT:")


def test_bos_heads_the_prompt_only_where_the_bundle_says_so() -> None:
    own = dataclasses.replace(SALMONN, bos_id=None)
    assert spelled(Prompt.of_bundle(own, TOKENIZER).ids_before) == "▁USER: <Speech>"


def test_special_tokens_are_special_where_they_are_spelled() -> None:
    own = dataclasses.replace(SALMONN, bos_id=None, template="<s>a<SpeechHere>{}")
    assert Prompt.of_bundle(own, TOKENIZER).ids_before[0] == 1


def test_braces_in_a_question_are_just_braces() -> None:
    prompt = Prompt.of_bundle(SALMONN, TOKENIZER)
    assert "</Speech> is {} it {a}?\n" in spelled(prompt.ids_after("is {} it {a}?"))


def test_a_raw_prompt_is_taken_as_it_is() -> None:
    raw = Prompt.of_bundle(SALMONN, TOKENIZER).raw("a <SpeechHere>{} b\n")
    assert (spelled(raw.ids_before), spelled(raw.ids_after("c"))) == ("<s>▁a ", "▁{} b\n")


@pytest.mark.parametrize("text", ["no place", "<SpeechHere> <SpeechHere>"])
def test_a_raw_prompt_has_one_place_for_the_sound(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected <SpeechHere> exactly once, got it [02] times"):
        Prompt.of_bundle(SALMONN, TOKENIZER).raw(text)


def test_a_blank_question_is_refused() -> None:
    with pytest.raises(ValueError, match="expected some words"):
        Prompt.of_bundle(SALMONN, TOKENIZER).ids_after(" ")


def test_a_template_that_asks_before_it_hears_is_refused() -> None:
    early = dataclasses.replace(SALMONN, template="{} <SpeechHere>")
    with pytest.raises(ManifestError, match=r"expected \{\} after <SpeechHere>"):
        Prompt.of_bundle(early, TOKENIZER)


def test_a_task_is_its_wording_with_the_users_words_where_it_has_a_gap() -> None:
    assert task_question(SALMONN, "asr") == "Write it down."
    assert task_question(SALMONN, "QA", " Who {}? ") == "Answer: Who {}? Be brief."


@pytest.mark.parametrize(
    ("task", "question", "complaint"),
    [
        ("asr", "Who?", "task 'asr' takes no question"),
        ("QA", None, "task 'QA' needs a question"),
        ("sing", None, r"task: expected one of \['QA', 'asr'\], got 'sing'"),
    ],
)
def test_a_task_gets_what_it_takes(task: str, question: str | None, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        task_question(SALMONN, task, question)
