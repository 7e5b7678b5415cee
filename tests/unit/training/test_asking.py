"""Questions of training: none of the evaluation's, and as people would ask them."""

import random

import pytest
from training.asking import KEPT_BACK, asked, several, with_article, wondered

from kokanee.benchmarks.heldout import normalised


def test_no_question_of_the_evaluation_is_asked() -> None:
    assert len(KEPT_BACK) == 100
    assert not KEPT_BACK & {normalised(question) for question in asked()}


def test_questions_that_are_only_written_down_are_whole() -> None:
    r = random.Random(0)
    made = [wondered(r) for _ in range(2000)]
    assert all(q.endswith("?") and "{" not in q for q in made)
    assert not {"fishs", "mouses", "foxs"} & {w for q in made for w in q.strip("?").split()}


@pytest.mark.parametrize(
    ("one", "more"),
    [
        ("fox", "foxes"),
        ("fish", "fish"),
        ("mouse", "mice"),
        ("butterfly", "butterflies"),
        ("monkey", "monkeys"),
        ("policeman", "policemen"),
        ("knife", "knives"),
        ("dog", "dogs"),
    ],
)
def test_plurals(one: str, more: str) -> None:
    assert several(one) == more


def test_articles() -> None:
    assert (with_article("owl"), with_article("dog")) == ("an owl", "a dog")
