import numpy as np
import numpy.typing as npt
import pytest

from kokanee.engine import read_audio
from kokanee.engine.onnx import open_graph
from kokanee.runtime.demo import RECORDINGS
from kokanee.runtime.vad import (
    CONTEXT,
    FRAME,
    SILERO,
    EnergyVAD,
    NoiseFloor,
    SileroVAD,
    VoiceDetector,
    dbfs,
)

F32 = npt.NDArray[np.float32]

# Frames of speech.wav by ear and by level: room, then "Your message has been saved.", then room.
BEFORE, DURING, AFTER = slice(0, 6), slice(8, 58), slice(66, 67)


def frames(file: str) -> F32:
    """[n_frames, 512]; what is left over is dropped."""
    pcm = read_audio(RECORDINGS / file).pcm
    return pcm[: len(pcm) // FRAME * FRAME].reshape(-1, FRAME)


def noise(n_frames: int, level: float, seed: int = 0) -> F32:
    """White, [n_frames, 512], at `level` dBFS."""
    white = np.random.default_rng(seed).standard_normal((n_frames, FRAME))
    return (white * 10 ** (level / 20)).astype(np.float32)


@pytest.fixture(scope="module")
def silero() -> SileroVAD:
    return SileroVAD()


@pytest.fixture(params=["silero", "energy"])
def detector(request: pytest.FixtureRequest, silero: SileroVAD) -> VoiceDetector:
    return SileroVAD(silero.graph) if request.param == "silero" else EnergyVAD()


def test_a_voice_is_told_from_the_room(detector: VoiceDetector) -> None:
    voice = np.array([detector(frame) for frame in frames("speech.wav")])
    assert voice[BEFORE].max() < 0.3
    assert np.mean(voice[DURING] > 0.5) > 0.95
    assert voice[AFTER].max() < 0.35
    assert voice.min() >= 0 <= 1 - voice.max()


def test_silero_tells_a_voice_from_running_water_and_energy_does_not(silero: SileroVAD) -> None:
    water = np.concatenate([noise(10, -60), frames("sound.wav")])
    by_silero, by_energy = SileroVAD(silero.graph), EnergyVAD()
    assert sum(by_silero(frame) > 0.5 for frame in water) <= 1  # its first splash, at most
    assert sum(by_energy(frame) > 0.5 for frame in water) > 45  # of 53


def test_silero_is_fed_as_its_authors_feed_it(silero: SileroVAD) -> None:
    """Buffers that are read and written in place compute what fresh arrays do."""
    graph = open_graph(SILERO, device="cpu", threads=1, spin_us=0)
    state = np.zeros((2, 1, 128), np.float32)
    context = np.zeros(CONTEXT, np.float32)
    detector = SileroVAD(silero.graph)
    for frame in frames("speech_over_sound.wav"):
        feeds = {"input": np.concatenate([context, frame])[None], "state": state}
        voice, state = graph.run(None, feeds | {"sr": np.array(16_000, np.int64)})
        context = frame[-CONTEXT:]
        assert detector(frame) == pytest.approx(float(voice[0, 0]), abs=1e-6)


def test_detectors_that_share_a_graph_do_not_hear_each_other(silero: SileroVAD) -> None:
    speech, water = frames("speech.wav")[:50], frames("sound.wav")[:50]
    alone = [SileroVAD(silero.graph), SileroVAD(silero.graph)]
    expected = [[alone[0](frame) for frame in speech], [alone[1](frame) for frame in water]]
    one, two = SileroVAD(silero.graph), SileroVAD(silero.graph)
    both = [(one(a), two(b)) for a, b in zip(speech, water, strict=True)]
    assert [list(voice) for voice in zip(*both, strict=True)] == expected


def test_reset_forgets_what_was_heard(silero: SileroVAD) -> None:
    detector = SileroVAD(silero.graph)
    speech = frames("speech.wav")
    first = [detector(frame) for frame in speech[:40]]
    assert detector(speech[0]) > 10 * first[0]  # without a reset, a voice lingers
    detector.reset()
    assert [detector(frame) for frame in speech[:40]] == first


def test_energy_takes_a_steady_noise_for_the_room_at_once_or_after_nine_seconds() -> None:
    from_the_start = EnergyVAD()
    assert max(from_the_start(frame) for frame in noise(300, -40)) < 0.2
    it_starts = EnergyVAD()
    assert max(it_starts(frame) for frame in noise(100, -65)) < 0.2
    voice = np.array([it_starts(frame) for frame in noise(313, -35)])
    assert voice[:200].min() > 0.9  # 6.4 s
    assert voice[290:].max() < 0.2  # 9.3 s


def test_energy_hears_no_voice_in_what_digital_silence_makes_stand_out() -> None:
    detector = EnergyVAD()
    assert detector(np.zeros(FRAME, np.float32)) == 0
    assert max(detector(frame) for frame in noise(20, -90)) == 0


def test_a_reset_leaves_energy_its_room() -> None:
    detector = EnergyVAD()
    for frame in noise(100, -60):
        detector(frame)
    detector.reset()
    assert detector(noise(1, -30)[0]) == 1


def test_the_floor_is_the_tenth_of_the_last_ten_seconds() -> None:
    floor, levels = NoiseFloor(), np.random.default_rng(1).uniform(-70, -10, 900)
    for n, level in enumerate(levels, start=1):
        recent = sorted(levels[max(0, n - 312) : n])
        assert floor.hear(float(level)) == recent[len(recent) // 10]
    assert floor.known_s == pytest.approx(10, abs=0.032)


@pytest.mark.parametrize(
    ("pcm", "level"),
    [
        ([1.0, -1.0], 0.0),
        ([0.1] * 5, -20.0),
        ([0.0, 1.0, 0.0, 1.0], -3.01),
        ([0.0, 0.0], -120.0),
        ([1e-9], -120.0),
    ],
)
def test_levels_are_below_full_scale(pcm: list[float], level: float) -> None:
    assert dbfs(np.array(pcm, np.float32)) == pytest.approx(level, abs=0.01)
