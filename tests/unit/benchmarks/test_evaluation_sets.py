from pathlib import Path

import numpy as np
import pytest

from kokanee.benchmarks import heldout, languages, spoken_questions
from kokanee.benchmarks.evaluation_sets import SETS, examples, fetch, few
from kokanee.benchmarks.heldout import Clip, Kind, Package
from kokanee.benchmarks.quality import QUESTIONS, Example


def clip(name: str, kind: Kind, text: str, seconds: float = 2.0) -> Clip:
    pcm = np.random.default_rng(0).uniform(-0.1, 0.1, round(16000 * seconds)).astype(np.float32)
    return Clip("package", name, kind, text, "CC0", pcm)


RECORDED = [
    *(clip(f"speech {i}", "speech", f"line {i}") for i in range(8)),
    *(clip(f"dog {i}", "sound", "dog") for i in range(4)),
    clip("laugh", "sound", "laugh"),
    clip("song", "music", "music"),
]


@pytest.fixture(autouse=True)
def _recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = [
        (question, clip(question.question, "speech", ""))
        for question in spoken_questions.questions()
    ]
    monkeypatch.setattr(heldout, "clips", lambda cache: iter(RECORDED))
    french = [("French", clip(f"fr {i}", "speech", "")) for i in range(3)]
    dutch = [("Dutch", clip(f"nl {i}", "speech", "")) for i in range(3)]
    monkeypatch.setattr(languages, "clips", lambda cache: iter(french + dutch))
    monkeypatch.setattr(spoken_questions, "clips", lambda cache: iter(spoken))


@pytest.mark.parametrize(
    ("name", "n_clips", "tasks"),
    [
        ("speech", 8, {("words", "kind")}),
        ("sound", 5, {("sound", "kind")}),
        ("music", 1, {("kind",)}),
        ("language", 6, {("language",)}),
        ("mixture", 8, {("sound", "words")}),
        ("noise", 80 + 5, {("words", "kind"), ("words",)}),  # whoever laughs may say something
        ("question", 100, {("question",)}),
    ],
)
def test_what_is_asked_in_a_set(name: str, n_clips: int, tasks: set[tuple[str, ...]]) -> None:
    found = examples(Path(), [name])
    assert len(found) == n_clips
    assert {tuple(example.truths) for example in found} == tasks
    assert {task for example in found for task in example.truths} <= set(QUESTIONS)


def test_a_clip_of_two_sets_is_heard_once() -> None:
    found = examples(Path(), ["sound", "noise"])
    assert len(found) == 5 + 80 + 1
    (dog,) = (example for example in found if example.clip.name == "dog 0")
    assert dict(dog.truths) == {"sound": "dog", "kind": "dog", "words": "dog"}


def test_a_limit_is_for_each_kind_and_language() -> None:
    found = examples(Path(), list(SETS), limit=2)
    assert len([e for e in found if "language" in e.truths]) == 4
    assert len([e for e in found if e.clip.kind == "noise"]) == 2
    assert [e.clip.name for e in examples(Path(), list(SETS), limit=2)] == [
        e.clip.name for e in found
    ]


def test_a_few_are_the_same_whatever_the_order() -> None:
    made = [Example(one, {"kind": ""}) for one in RECORDED]
    assert few(made, 1) == few(made[::-1], 1)
    assert len(few(made, None)) == len(made)


def test_questions_leave_speech_its_places() -> None:
    speech = [Example(clip(f"speech {i}", "speech", "a"), {"words": "a"}) for i in range(2)]
    asked = [Example(clip(f"Who is {i}?", "speech", ""), {"question": ""}) for i in range(2)]
    found = few([*speech, *asked], 1)
    assert sorted("question" in example.truths for example in found) == [False, True]


def test_only_what_a_set_needs_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[Package] = []
    monkeypatch.setattr(heldout, "fetch", lambda cache, packages: wanted.extend(packages))
    fetch(Path(), ["question"])
    assert wanted == list(spoken_questions.PACKAGES)
    wanted.clear()
    fetch(Path(), ["sound", "music", "language"])
    names = [package.name for package in wanted]
    assert len(names) == len(set(names)) == 4 + 6  # English is in both
