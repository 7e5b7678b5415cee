from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from kokanee.engine.audio import AudioLimits, read_audio, resample
from kokanee.engine.errors import AudioFormatError


def tone(rate: int, seconds: float, hz: float = 440.0) -> npt.NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def test_sixteen_bit_samples_at_16_khz_arrive_untouched(tmp_path: Path) -> None:
    steps = np.array([-32768, -1, 0, 1, 32767], np.int16)
    soundfile.write(tmp_path / "x.wav", steps, 16_000)
    np.testing.assert_array_equal(
        read_audio(tmp_path / "x.wav").pcm, steps.astype(np.float32) / 32768
    )


def test_of_stereo_the_first_channel_is_heard_at_16_khz(tmp_path: Path) -> None:
    left, right = tone(48_000, 3.0), tone(48_000, 3.0, 3000.0)
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], axis=1), 48_000, subtype="FLOAT")
    audio = read_audio(tmp_path / "x.wav")
    assert (audio.source_rate, audio.source_channels, audio.seconds) == (48_000, 2, 3.0)
    np.testing.assert_allclose(audio.pcm[1000:-1000], tone(16_000, 3.0)[1000:-1000], atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 192_000])
def test_reading_in_blocks_equals_resampling_at_once(tmp_path: Path, rate: int) -> None:
    pcm = tone(rate, 5.0)
    soundfile.write(tmp_path / "x.wav", pcm, rate, subtype="FLOAT")
    read = read_audio(tmp_path / "x.wav").pcm
    assert len(read) == pytest.approx(80_000, abs=1)
    np.testing.assert_allclose(read, resample(pcm, rate), rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3", "aiff", "au", "caf"])
def test_the_usual_formats_are_read(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / f"x.{suffix}", tone(16_000, 1.0), 16_000)
    assert read_audio(tmp_path / f"x.{suffix}").seconds == pytest.approx(1.0, abs=0.1)


def test_samples_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    soundfile.write(
        tmp_path / "x.wav", np.array([1.5, -3.0, 0.25], np.float32), 16_000, subtype="FLOAT"
    )
    assert read_audio(tmp_path / "x.wav").pcm.tolist() == [1.0, -1.0, 0.25]


@pytest.mark.parametrize("sample", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, sample: float) -> None:
    soundfile.write(tmp_path / "x.wav", np.array([0, sample], np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(AudioFormatError, match="NaN or infinity"):
        read_audio(tmp_path / "x.wav")


def test_absurd_levels_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.array([0, 1e30], np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(AudioFormatError, match=r"expected -1 to 1, got 1e\+30"):
        read_audio(tmp_path / "x.wav")


def test_the_limits_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros((16_000, 2), np.float32), 16_000)
    for limits, complaint in (
        (AudioLimits(max_s=0.5), "longer than 0.5 s"),
        (AudioLimits(max_channels=1), "expected 1 to 1, got 2"),
        (AudioLimits(min_rate=22_050), "expected 22050 to 192000 Hz, got 16000"),
    ):
        with pytest.raises(AudioFormatError, match=complaint):
            read_audio(path, limits)


def test_an_hour_in_a_small_file_is_given_up_at_the_limit(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "x.flac", "w", 192_000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(192_000 * 2, np.int16))
    with pytest.raises(AudioFormatError, match="longer than 10 s"):
        read_audio(tmp_path / "x.flac", AudioLimits(max_s=10))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("empty.wav", b"", "is empty"),
        ("text.wav", b"dear diary, " * 100, "cannot be read as sound"),
        ("noise.raw", b"\0" * 100, "cannot be read as sound"),
        ("header.wav", b"RIFF", "cannot be read as sound"),
    ],
)
def test_what_is_no_sound_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioFormatError, match=complaint) as caught:
        read_audio(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(AudioFormatError, match="no such file"):
            read_audio(path)


def test_a_file_of_no_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.empty(0, np.float32), 16_000)
    with pytest.raises(AudioFormatError, match="holds no samples"):
        read_audio(tmp_path / "x.wav")


def test_a_file_cut_off_in_the_middle_is_heard_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(16_000, 2.0), 16_000)
    path.write_bytes(path.read_bytes()[: 44 + 32_000])
    assert read_audio(path).seconds == 1.0
