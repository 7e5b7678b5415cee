import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokanee.engine import read_audio
from kokanee.runtime.demo import RECORDINGS
from kokanee.runtime.endpoint import End, Endpointer, Mark, Pause, Resume, Start, TurnDetection
from kokanee.runtime.vad import FRAME, SileroVAD, VoiceDetector, dbfs

F32 = npt.NDArray[np.float32]

MS = 16  # samples
S = 16_000
QUIET, SOUND, VOICE = 1e-3, 0.05, 0.5  # of a frame: what the stand-in below takes them for


class LevelVAD:
    """Takes what is loud for a voice: -9 dBFS and more surely, -26 and less surely not."""

    n_resets = 0

    def __call__(self, frame: F32) -> float:
        return float(np.clip((dbfs(frame) + 26) / 17, 0, 1))

    def reset(self) -> None:
        self.n_resets += 1


def tones(*parts: tuple[float, float]) -> F32:
    """Square waves of (peak, milliseconds) each, in a row."""
    waves = [np.resize([peak, -peak], int(ms * MS)) for peak, ms in parts]
    return np.concatenate(waves).astype(np.float32)


def frames(*parts: tuple[float, int]) -> F32:
    """The same, of (peak, n_frames)."""
    return tones(*((peak, n * FRAME / MS) for peak, n in parts))


def mark(pcm: F32, voice: VoiceDetector | None = None, **options: Any) -> list[Mark]:
    """Heard in one piece, to its end."""
    endpointer = Endpointer(TurnDetection(**options), voice or LevelVAD())
    return endpointer.push(pcm) + endpointer.close()


def starts(marks: Iterable[Mark]) -> list[Start]:
    return [m for m in marks if isinstance(m, Start)]


def ends(marks: Iterable[Mark]) -> list[End]:
    return [m for m in marks if isinstance(m, End)]


def check(marks: Sequence[Mark], options: TurnDetection, n_samples: int) -> None:
    """What holds for any sound, whatever was lost of it."""
    turn: Start | None = None
    pause: Pause | None = None
    last_end = last_decided = 0
    for m in marks:
        assert last_decided <= m.decided_at <= n_samples
        last_decided = m.decided_at
        match m:
            case Start():
                assert turn is None
                assert last_end <= m.at <= m.onset <= m.decided_at
                assert m.onset - m.at <= options.prefix_padding_ms * MS
                turn = m
            case Pause():
                assert turn is not None
                assert pause is None
                assert turn.onset <= m.offset <= m.at <= m.decided_at
                assert m.at - m.offset == options.suffix_padding_ms * MS
                assert m.at - turn.at <= options.max_turn_s * S
                pause = m
            case Resume():
                assert pause is not None
                pause = None
            case End():
                assert turn is not None
                assert turn.at < m.at or m.kind == "push"  # a key may be let go at once
                assert turn.at <= m.at <= m.decided_at
                assert turn.onset <= m.offset <= m.at
                assert m.at - turn.at <= options.max_turn_s * S
                assert m.kind in (turn.kind, "speech")
                if m.reason == "silence":
                    assert pause is not None
                if pause is not None and m.reason != "length":
                    assert (m.at, m.offset) == (pause.at, pause.offset)
                last_end, turn, pause = m.at, None, None
    assert turn is None


def any_options() -> st.SearchStrategy[TurnDetection]:
    return st.builds(
        TurnDetection,
        threshold=st.floats(0.2, 0.9),
        prefix_padding_ms=st.integers(0, 400),
        silence_duration_ms=st.integers(200, 700),
        suffix_padding_ms=st.integers(0, 200),
        min_speech_ms=st.integers(0, 300),
        max_turn_s=st.floats(1.4, 4),
        sounds=st.booleans(),
        voices=st.just(True),
    )


def any_sound() -> st.SearchStrategy[F32]:
    """A second of quiet, then up to eight stretches of quiet, sound, voice or in between."""
    peaks = st.sampled_from([0.0, QUIET, 0.01, SOUND, 0.12, 0.2, VOICE])
    parts = st.lists(st.tuples(peaks, st.integers(1, 1500)), min_size=1, max_size=8)
    return parts.map(lambda p: tones((QUIET, 1000), *p))


@settings(max_examples=60)  # a busy machine is slow, not wrong
@given(any_sound(), any_options(), st.lists(st.integers(0, 3000), max_size=30))
def test_how_sound_arrives_changes_nothing(pcm: F32, options: TurnDetection, cuts: Any) -> None:
    whole, pieces = Endpointer(options, LevelVAD()), Endpointer(options, LevelVAD())
    expected = whole.push(pcm) + whole.close()
    marks: list[Mark] = []
    at = 0
    for n in [*cuts, len(pcm)]:
        marks += pieces.push(pcm[at : at + n])
        at += n
        assert pieces.n_pushed == min(at, len(pcm))
    assert marks + pieces.close() == expected
    assert (pieces.voice, pieces.dbfs) == (whole.voice, whole.dbfs)


@settings(max_examples=150)
@given(any_sound(), any_options())
def test_turns_are_whole_in_order_apart_and_short_enough(pcm: F32, options: TurnDetection) -> None:
    endpointer = Endpointer(options, LevelVAD())
    check(endpointer.push(pcm) + endpointer.close(), options, len(pcm))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(any_sound(), st.integers(0, 20_000)), min_size=1, max_size=4), any_options()
)
def test_the_same_holds_when_sound_is_lost(
    blocks: list[tuple[F32, int]], options: TurnDetection
) -> None:
    endpointer = Endpointer(options, LevelVAD())
    marks: list[Mark] = []
    for pcm, n_lost in blocks:
        marks += endpointer.push(pcm)
        marks += endpointer.gap(endpointer.n_pushed + n_lost)
        assert not endpointer.in_turn
    check(marks, options, endpointer.n_pushed)


@settings(max_examples=60)
@given(st.lists(st.one_of(st.integers(0, 40_000), st.sampled_from(["press", "release", "gap"]))))
def test_the_same_holds_for_a_key(doings: list[int | str]) -> None:
    options = TurnDetection(push_to_talk=True, max_turn_s=1.5)
    endpointer = Endpointer(options, None)
    marks = endpointer.push(tones((QUIET, 10)))
    for doing in doings:
        if isinstance(doing, int):
            marks += endpointer.push(np.zeros(doing, np.float32))
        elif doing == "gap":
            marks += endpointer.gap(endpointer.n_pushed + 1000)
        else:
            marks += endpointer.press() if doing == "press" else endpointer.release()
    marks += endpointer.close()
    check(marks, options, endpointer.n_pushed)


def test_a_turn_has_its_padding_and_its_decisions_their_time() -> None:
    pcm = frames((QUIET, 40), (VOICE, 20), (QUIET, 40))
    onset, offset = 40 * FRAME, 60 * FRAME
    assert mark(pcm) == [
        Start(at=onset - 300 * MS, onset=onset, kind="speech", decided_at=onset + 160 * MS),
        Pause(at=offset + 200 * MS, offset=offset, decided_at=offset + 224 * MS),
        End(
            at=offset + 200 * MS,
            offset=offset,
            reason="silence",
            kind="speech",
            decided_at=offset + 512 * MS,
        ),
    ]


def test_a_voice_that_goes_on_voids_the_pause() -> None:
    marks = mark(frames((QUIET, 40), (VOICE, 20), (QUIET, 15), (VOICE, 1), (QUIET, 40)))
    assert [type(m) for m in marks] == [Start, Pause, Resume, Pause, End]
    assert marks[2] == Resume(decided_at=76 * FRAME)
    assert ends(marks)[0].offset == 76 * FRAME


def test_a_pause_shorter_than_the_suffix_is_not_told() -> None:
    marks = mark(frames((QUIET, 40), (VOICE, 20), (QUIET, 6), (VOICE, 9), (QUIET, 40)))
    assert [type(m) for m in marks] == [Start, Pause, End]


def test_a_voice_that_wavers_above_the_lower_threshold_goes_on() -> None:
    between = 0.14  # the stand-in is 0.53 sure at -17 dBFS, 0.41 at -19, and 0.23 at -22
    wavering = frames((QUIET, 40), (0.2, 5), (0.112, 30), (0.2, 5), (QUIET, 40))
    [turn] = ends(mark(wavering))
    assert turn.offset == 80 * FRAME
    assert mark(frames((QUIET, 40), (0.112, 30), (QUIET, 40))) == []  # but it opens nothing
    assert len(starts(mark(frames((QUIET, 40), (between, 30), (QUIET, 40))))) == 1


@pytest.mark.parametrize("n_frames", [1, 4])
def test_a_short_burst_opens_no_turn(n_frames: int) -> None:
    bursts = frames((QUIET, 40), *[(VOICE, n_frames), (QUIET, 9)] * 10)
    assert mark(bursts, sounds=True) == []


def test_the_padding_ends_where_the_last_turn_does_and_where_the_sound_begins() -> None:
    pcm = frames((QUIET, 2), (VOICE, 10), (QUIET, 18), (VOICE, 10), (QUIET, 20))
    [first, second], [end, _] = starts(mark(pcm)), ends(mark(pcm))
    assert (first.at, first.onset) == (0, 2 * FRAME)
    assert end.at == 12 * FRAME + 200 * MS
    assert (second.at, second.onset) == (30 * FRAME - 300 * MS, 30 * FRAME)  # 76 ms behind the end
    [_, second] = starts(mark(pcm, prefix_padding_ms=500))
    assert second.at == end.at


def test_a_turn_that_lasts_too_long_is_split_at_the_very_sample() -> None:
    pcm = frames((QUIET, 40), (VOICE, 200), (QUIET, 40))
    marks = mark(pcm, max_turn_s=2.0)
    began = 40 * FRAME - 300 * MS
    cuts = [began + 2 * S, began + 4 * S, began + 6 * S]
    assert [(m.at, m.reason) for m in ends(marks)] == [
        *((cut, "length") for cut in cuts),
        (240 * FRAME + 200 * MS, "silence"),
    ]
    assert [(m.at, m.onset, m.kind) for m in starts(marks)][1:] == [(c, c, "speech") for c in cuts]
    assert all(0 < m.decided_at - m.at <= FRAME for m in starts(marks)[1:])


def test_no_turn_opens_at_the_longest_length_if_the_voice_is_silent_there() -> None:
    pcm = frames((QUIET, 40), (VOICE, 50), (QUIET, 40))
    marks = mark(pcm, max_turn_s=2.1, silence_duration_ms=600)
    assert [type(m) for m in marks] == [Start, Pause, End]
    [turn] = ends(marks)
    assert (turn.reason, turn.at) == ("length", 40 * FRAME - 300 * MS + round(2.1 * S))
    assert turn.offset == 90 * FRAME


def test_a_voice_that_ends_at_the_longest_length_opens_no_second_turn() -> None:
    pcm = frames((QUIET, 40), (VOICE, 50), (QUIET, 40))
    marks = mark(pcm, max_turn_s=50 * FRAME / S, prefix_padding_ms=0)
    assert [type(m) for m in marks] == [Start, End]
    [turn] = ends(marks)
    assert (turn.at, turn.offset, turn.reason) == (90 * FRAME, 90 * FRAME, "length")


def test_a_voice_across_the_longest_length_of_a_sound_makes_the_second_turn_speech() -> None:
    pcm = frames((QUIET, 40), (SOUND, 48), (VOICE, 20), (QUIET, 40))
    marks = mark(pcm, max_turn_s=50 * FRAME / S, prefix_padding_ms=0, sounds=True)
    assert [(m.at // FRAME, m.kind) for m in starts(marks)] == [(40, "sound"), (90, "sound")]
    assert [(m.offset // FRAME, m.kind) for m in ends(marks)] == [(90, "sound"), (108, "speech")]


def test_lost_sound_ends_a_turn_and_resets_the_detector() -> None:
    voice = LevelVAD()
    endpointer = Endpointer(TurnDetection(), voice)
    endpointer.push(tones((QUIET, 1000), (VOICE, 1001)))
    assert endpointer.speaking
    assert endpointer.gap(3 * S) == [
        End(at=2001 * MS, offset=2001 * MS, reason="gap", kind="speech", decided_at=2001 * MS)
    ]
    assert (voice.n_resets, endpointer.in_turn, endpointer.n_pushed) == (1, False, 3 * S)
    [start] = endpointer.push(tones((VOICE, 500)))
    assert start == Start(at=3 * S, onset=3 * S, kind="speech", decided_at=3 * S + 160 * MS)
    with pytest.raises(ValueError, match=r"to: expected 56000 \(.*\) or more, got 55999"):
        endpointer.gap(3 * S + 500 * MS - 1)


def test_the_end_of_the_source_ends_a_turn_where_its_sound_ends() -> None:
    in_voice = mark(tones((QUIET, 1000), (VOICE, 701)))
    assert ends(in_voice) == [
        End(at=1701 * MS, offset=1701 * MS, reason="closed", kind="speech", decided_at=1701 * MS)
    ]
    in_pause = mark(frames((QUIET, 40), (VOICE, 20), (QUIET, 10)))
    [pause] = [m for m in in_pause if isinstance(m, Pause)]
    [end] = ends(in_pause)
    assert (end.at, end.offset, end.reason) == (pause.at, pause.offset, "closed")
    assert end.decided_at == 70 * FRAME


def test_a_key_opens_and_closes_turns_and_nothing_else_does() -> None:
    endpointer = Endpointer(TurnDetection(push_to_talk=True, max_turn_s=2.0), LevelVAD())
    assert endpointer.push(tones((QUIET, 500), (VOICE, 1000), (QUIET, 1000))) == []
    assert endpointer.press() == [
        Start(at=2200 * MS, onset=2500 * MS, kind="push", decided_at=2500 * MS)
    ]
    assert endpointer.press() == []
    assert endpointer.in_turn
    assert endpointer.push(tones((QUIET, 1500))) == []
    assert not endpointer.speaking
    [end, start] = endpointer.push(tones((VOICE, 801)))
    assert isinstance(end, End)
    assert (end.at, end.reason) == (4200 * MS, "length")
    assert isinstance(start, Start)
    assert (start.at, start.kind) == (4200 * MS, "push")
    assert endpointer.speaking
    assert endpointer.release() == [
        End(at=4801 * MS, offset=4801 * MS, reason="released", kind="push", decided_at=4801 * MS)
    ]
    assert endpointer.release() == []
    assert endpointer.push(tones((VOICE, 1000))) == []


def test_a_key_held_down_over_a_gap_opens_a_turn_behind_it() -> None:
    endpointer = Endpointer(TurnDetection(push_to_talk=True), None)
    endpointer.press()
    endpointer.push(tones((QUIET, 1000)))
    [end] = ends(endpointer.gap(2 * S))
    assert (end.at, end.reason) == (S, "gap")
    [start] = endpointer.push(tones((QUIET, 1000)))
    assert start == Start(at=2 * S, onset=2 * S, kind="push", decided_at=2 * S + FRAME)


def test_a_sound_opens_a_turn_only_if_it_is_asked_for() -> None:
    pcm = frames((QUIET, 40), (SOUND, 20), (QUIET, 40))
    assert mark(pcm) == []
    [start], [end] = starts(mark(pcm, sounds=True)), ends(mark(pcm, sounds=True))
    assert (start.kind, start.onset) == ("sound", 40 * FRAME)
    assert (end.kind, end.offset, end.reason) == ("sound", 60 * FRAME, "silence")
    without_voices = TurnDetection(sounds=True, voices=False)
    assert Endpointer(without_voices, None).push(pcm)[0] == start


def test_a_voice_is_not_taken_for_a_sound_first() -> None:
    [start] = starts(mark(frames((QUIET, 40), (SOUND, 2), (VOICE, 20), (QUIET, 40)), sounds=True))
    assert (start.kind, start.onset) == ("speech", 42 * FRAME)


def test_a_voice_within_a_sound_makes_it_speech_and_ends_it() -> None:
    loud = frames((QUIET, 40), (SOUND, 20), (VOICE, 20), (SOUND, 60), (QUIET, 40))
    [start], [end] = starts(mark(loud, sounds=True)), ends(mark(loud, sounds=True))
    assert (start.kind, start.onset) == ("sound", 40 * FRAME)
    assert (end.kind, end.offset, end.reason) == ("speech", 80 * FRAME, "silence")


def test_a_sound_that_begins_behind_a_turn_opens_the_next() -> None:
    # Behind the suffix, before it is decided that the turn is over.
    pcm = frames((QUIET, 40), (VOICE, 20), (QUIET, 12), (SOUND, 20), (QUIET, 40))
    assert [(m.kind, m.onset) for m in starts(mark(pcm, sounds=True))] == [
        ("speech", 40 * FRAME),
        ("sound", 72 * FRAME),
    ]


def test_a_fan_opens_one_turn_of_less_than_ten_seconds() -> None:
    [end] = ends(mark(frames((QUIET, 60), (SOUND, 900)), sounds=True))
    assert end.reason == "silence"
    assert end.offset - 60 * FRAME < 10 * S


def test_what_stands_out_from_digital_silence_alone_is_no_sound() -> None:
    faint = frames((0.0, 60), (3e-5, 40), (0.0, 40), (1.5e-3, 40), (0.0, 40))  # -90 and -56 dBFS
    assert mark(faint, sounds=True) == []
    assert len(starts(mark(frames((0.0, 60), (3e-3, 40), (0.0, 40)), sounds=True))) == 1  # -50


def test_a_device_that_begins_with_silence_makes_no_sound_of_its_room() -> None:
    assert mark(frames((0.0, 3), (SOUND, 100)), sounds=True) == []


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 1e30, 1e12])
def test_broken_samples_do_not_deafen(broken: float) -> None:
    pcm = np.concatenate([np.full(FRAME, broken, np.float32), embedded("speech.wav")])
    [turn] = ends(mark(pcm, SileroVAD(), sounds=True))
    assert turn.kind == "speech"


def test_the_meter_shows_the_last_tenth_of_a_second() -> None:
    endpointer = Endpointer(TurnDetection(), LevelVAD())
    assert (endpointer.dbfs, endpointer.voice) == (-120, 0)
    endpointer.push(frames((QUIET, 5), (0.5, 3)))
    assert endpointer.dbfs == pytest.approx(-6.02, abs=0.01)
    assert endpointer.voice == 1
    endpointer.push(frames((0.0, 1)))
    assert endpointer.dbfs == pytest.approx(-6.02 - 1.76, abs=0.01)  # two thirds
    assert endpointer.voice == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, "threshold: expected more than 0 and less than 1, got 1.0"),
        ({"threshold": float("nan")}, "threshold: .* got nan"),
        ({"prefix_padding_ms": -1}, "expected 0 or more, got -1 and 160"),
        ({"silence_duration_ms": 31}, "silence_duration_ms: expected 32 or more, got 31"),
        ({"suffix_padding_ms": 501}, r"expected 0 to silence_duration_ms \(500\), got 501"),
        ({"max_turn_s": 0.8}, r"max_turn_s: expected 0.96 .* to 3600, got 0.8"),
        ({"max_turn_s": float("inf")}, "max_turn_s: .* got inf"),
        ({"sound_rise_db": 0.0}, "sound_rise_db: expected 3 to 60, got 0.0"),
        ({"push_to_talk": True, "sounds": True}, "expected one of them at most, got both"),
        ({"voices": False}, "expected at least one of them, got none"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TurnDetection(**options)


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="voice: expected a VoiceDetector"):
        Endpointer(TurnDetection(), None)
    endpointer = Endpointer(TurnDetection(), LevelVAD())
    with pytest.raises(ValueError, match="press: expected settings with push_to_talk=True"):
        endpointer.press()
    with pytest.raises(
        ValueError, match=r"pcm: expected float32 \[n_samples\], got float64 \[2, 1\]"
    ):
        endpointer.push(np.zeros((2, 1)))  # type: ignore[arg-type]


# --- real sound, real detector ---


def embedded(
    file: str, *, lead_s: float = 2.0, level: float | None = None, tail_s: float = 1.5
) -> F32:
    """A recording with quiet around it, white noise at `level` dBFS over all of it."""
    clip = read_audio(RECORDINGS / file).pcm
    pcm = np.pad(clip, (round(lead_s * S), round(tail_s * S)))
    return pcm if level is None else pcm + hiss(len(pcm), level)


def hiss(n_samples: int, level: float) -> F32:
    white = np.random.default_rng(0).standard_normal(n_samples)
    return (white * 10 ** (level / 20)).astype(np.float32)


def loud_part(file: str) -> tuple[int, int]:
    """From where to where a clean recording is within 40 dB of its loudest 10 ms, in samples."""
    pcm = read_audio(RECORDINGS / file).pcm
    power = (pcm[: len(pcm) // 160 * 160].reshape(-1, 160) ** 2).mean(axis=1)
    loud = np.flatnonzero(power > 1e-4 * power.max())
    return int(loud[0]) * 160, int(loud[-1] + 1) * 160


@pytest.fixture(scope="module")
def graph() -> Any:
    return SileroVAD().graph


@pytest.mark.parametrize("level", [None, -60, -45, -35])
@pytest.mark.parametrize("lead_s", [0.1, 2.0, 20.0])
@pytest.mark.parametrize("sounds", [False, True])
def test_speech_is_found_where_it_is(
    graph: Any, lead_s: float, level: float | None, sounds: bool
) -> None:
    pcm = embedded("speech.wav", lead_s=lead_s, level=level)
    marks = mark(pcm, SileroVAD(graph), sounds=sounds)
    [start], [end] = starts(marks), ends(marks)
    onset, offset = (round(lead_s * S) + x for x in loud_part("speech.wav"))
    assert abs(start.onset - onset) < 150 * MS
    assert abs(end.offset - offset) < 150 * MS
    # Nothing that is said is cut: the padding holds the first syllable, and the last one.
    assert start.at <= max(onset - 150 * MS, 0)
    assert offset <= end.at
    assert (end.kind, end.reason) == ("speech", "silence")


def test_two_sentences_are_two_turns_or_one_by_the_silence_between(graph: Any) -> None:
    pcm = np.concatenate([embedded("speech.wav", lead_s=1, tail_s=0.4), embedded("speech.wav")])
    for silence_ms, n_turns in ((500, 2), (4000, 1)):
        marks = mark(pcm, SileroVAD(graph), silence_duration_ms=silence_ms)
        assert len(starts(marks)) == n_turns
        assert sum(isinstance(m, Resume) for m in marks) == 2 - n_turns


def test_a_voice_is_found_over_a_galloping_horse(graph: Any) -> None:
    pcm = embedded("speech_over_sound.wav", level=-60)
    [turn] = starts(mark(pcm, SileroVAD(graph)))
    assert abs(turn.onset - round(2.63 * S)) < 150 * MS  # by ear
    marks = mark(pcm, SileroVAD(graph), sounds=True)
    assert [(m.kind, m.onset // S) for m in starts(marks)] == [("sound", 2)]
    assert ends(marks)[0].kind == "speech"


def test_where_the_frames_lie_seldom_makes_a_voice_of_the_horse(graph: Any) -> None:
    """A device's silence, then a turn in a quiet room, then the horse."""
    first = embedded("speech.wav", lead_s=1.5)
    said = np.concatenate([first, embedded("speech_over_sound.wav", lead_s=0)])
    said += np.random.default_rng(0).integers(-9, 10, len(said)).astype(np.float32) / 32768
    onsets = []
    for shift in range(0, FRAME, 16):
        lead = S // 2 + shift
        _, turn = starts(mark(np.pad(said, (lead, 0)), SileroVAD(graph)))
        onsets.append((turn.onset - lead - len(first)) / S)
    assert all(-0.15 < onset < 0.59 + 0.15 for onset in onsets), onsets
    assert sum(abs(onset - 0.59) < 0.15 for onset in onsets) >= 24, onsets  # of 32


def test_running_water_is_a_sound_and_no_voice(graph: Any) -> None:
    pcm = embedded("sound.wav", level=-60)
    assert mark(pcm, SileroVAD(graph)) == []
    marks = mark(pcm, SileroVAD(graph), sounds=True)
    [start], [end] = starts(marks), ends(marks)
    onset, offset = (2 * S + x for x in loud_part("sound.wav"))
    assert (start.kind, end.kind) == ("sound", "sound")
    assert abs(start.onset - onset) < 50 * MS
    assert abs(end.offset - offset) < 50 * MS


@pytest.mark.parametrize(
    "pcm",
    [
        pytest.param(np.zeros(10 * S, np.float32), id="silence"),
        pytest.param(hiss(10 * S, -40), id="hiss"),
        pytest.param(hiss(10 * S, -90), id="dither"),
    ],
)
def test_nothing_opens_no_turn(graph: Any, pcm: F32) -> None:
    assert mark(pcm, SileroVAD(graph), sounds=True) == []


def test_clicks_open_no_turn(graph: Any) -> None:
    pcm = hiss(10 * S, -60)
    for n, at in enumerate(range(2000, len(pcm) - 2000, 9000)):
        pcm[at : at + (1, 80, 320, 800)[n % 4]] += 0.8 * (-1) ** n  # up to 50 ms
    assert mark(pcm, SileroVAD(graph), sounds=True) == []


def test_real_sound_in_blocks_of_a_microphone_gives_the_same_marks(graph: Any) -> None:
    pcm = embedded("speech_over_sound.wav", level=-50)
    endpointer = Endpointer(TurnDetection(sounds=True), SileroVAD(graph))
    blocks = [endpointer.push(pcm[at : at + 320]) for at in range(0, len(pcm), 320)]
    marks = [*itertools.chain.from_iterable(blocks), *endpointer.close()]
    assert marks == mark(pcm, SileroVAD(graph), sounds=True)
    assert len(marks) >= 3
