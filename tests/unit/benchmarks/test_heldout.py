import hashlib
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.benchmarks import heldout
from kokanee.benchmarks.heldout import Package, class_of, fetch, is_held_out, normalised

FILLETS = "usr/share/games/fillets-ng/sound"


@pytest.mark.parametrize(
    ("package", "name", "held_out"),
    [
        ("asterisk-core-sounds-en-g722", "vm-goodbye", True),
        ("asterisk-core-sounds-ru-g722", "vm-goodbye", True),
        ("asterisk-core-sounds-ru", "vm-goodbye", True),
        ("asterisk-prompt-fr-armelle", "sounds/fr/pause.gsm", True),
        ("asterisk-prompt-es-co", "sounds/es/vm-goodbye.gsm", True),
        ("asterisk-prompt-it-menardi-wav", "vm-goodbye.wav", True),
        ("asterisk-prompt-it-menardi-gsm", "vm-goodbye.gsm", True),
        ("scratch", "Animal/Dog1.mp3", True),
        ("scratch-extra", "Animal/Dog1.mp3", False),
        ("asterisk-core-sounds-fr-g722", "vm-goodbye", False),
        ("asterisk-core-sounds-es-g722", "vm-goodbye", False),
        ("supertux-data", "hit.wav", False),
        ("fillets-ng-data", "sound/city/music.ogg", False),
        ("fillets-ng-data-cs", f"{FILLETS}/library/cs/vrak-m-restart.ogg", True),
        ("fillets-ng-data-nl", f"{FILLETS}/library/nl/vrak-m-restart.ogg", True),
        ("fillets-ng-data-cs", f"{FILLETS}/airplane/cs/let-m-divna.ogg", False),
        ("fillets-ng-data-cs", "vit-m-hlava.ogg", True),  # no level: rather not trained on
    ],
)
def test_what_is_never_trained_on(package: str, name: str, held_out: bool) -> None:
    assert is_held_out(package, name) is held_out


@given(st.from_regex(r"[a-z0-9_-]{1,12}", fullmatch=True), st.sampled_from(["cs", "nl"]))
def test_a_level_is_held_out_as_a_whole_and_in_both_languages(level: str, code: str) -> None:
    held_out = zlib.crc32(level.encode()) % 4 == 0
    for name in (f"{FILLETS}/{level}/{code}/a.ogg", f"{level}/{code}/b.ogg"):
        assert is_held_out(f"fillets-ng-data-{code}", name) is held_out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I am sorry.", "i am sorry"),
        ("Am I late?", "am i late"),
        ("at 9 a.m., 10am and 11 PM", "at nine a m ten a m and eleven p m"),
        ("the P.M. or the pm", "the p m or the p m"),
        ("It\u2019s 42% & rising", "it's forty two percent and rising"),
    ],
)
def test_words_as_they_are_compared(text: str, words: str) -> None:
    assert normalised(text) == words
    assert normalised(words) == words


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("A person speaking, then a bell ringing.", "bell"),
        ("When a door closes.", "door"),
        ("A kitchen.", None),
        ("A hen and an owl.", "bird"),
        ("Somebody has breakfast.", None),
        ("Glass breaks.", "breaking"),
        ("The planet.", None),
        ("A plane passes.", "engine"),
        ("An airplane flying overhead.", "engine"),
        ("A pigeon.", None),
    ],
)
def test_classes_are_told_by_beginnings_of_words(answer: str, name: str | None) -> None:
    assert class_of(answer) == name


def test_a_package_with_other_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was there already")

    monkeypatch.setattr("subprocess.run", no_network)
    (tmp_path / "a_1_all.deb").write_bytes(b"other")
    package = Package("a", "a_1_all.deb", "0" * 64, "MIT")
    with pytest.raises(RuntimeError, match=r"a_1_all.deb: SHA-256 [0-9a-f]{64}, expected 0{64}"):
        fetch(tmp_path, [package])
    (tmp_path / "a").mkdir()
    fetch(tmp_path, [package])  # unpacked before


def test_another_release_of_debian_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer(*args: object, cwd: str, **kwargs: object) -> None:
        (Path(cwd) / "a_2_all.deb").touch()

    monkeypatch.setattr("subprocess.run", newer)
    with pytest.raises(RuntimeError, match=r"a: expected a_1_all.deb, got another version"):
        fetch(tmp_path, [Package("a", "a_1_all.deb", "0" * 64, "MIT")])


def test_two_runs_may_fetch_the_same_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package("a", "a_1_all.deb", hashlib.sha256(b"a").hexdigest(), "MIT")
    started: list[str] = []

    def stood_in_for(command: list[str], *, cwd: str | None = None, **kwargs: object) -> None:
        if command[0] == "apt-get":
            assert cwd is not None
            (Path(cwd) / package.file).write_bytes(b"a")
            started.append(command[0])
            if len(started) == 1:  # the other run comes while this one is downloading
                fetch(tmp_path, [package])
        else:
            (Path(command[-1]) / "usr").mkdir(parents=True)

    monkeypatch.setattr("subprocess.run", stood_in_for)
    fetch(tmp_path, [package])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", package.file]
    assert (tmp_path / "a" / "usr").is_dir()


def test_of_two_runs_that_unpack_the_same_the_slower_one_is_content(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sound.wav").write_text(name)
    heldout._moved(tmp_path / "mine", tmp_path / "theirs")
    assert (tmp_path / "theirs/sound.wav").read_text() == "theirs"
    with pytest.raises(OSError, match="gone"):
        heldout._moved(tmp_path / "gone", tmp_path / "nowhere")
