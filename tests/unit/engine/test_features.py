import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.engine.features import Fbank, LogMel, fbank, log_mel


def noise(n_samples: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal(n_samples)).astype(np.float32)


@given(st.integers(400, 60_000))
def test_length_decides_the_number_of_frames_and_nothing_else(n_samples: int) -> None:
    pcm = noise(n_samples)
    assert log_mel(pcm).shape == (80, n_samples // 160)
    assert fbank(pcm).shape == (1 + (n_samples - 400) // 160, 128)


def test_silence_is_the_floor_of_both() -> None:
    silence = np.zeros(16_000, np.float32)
    assert np.unique(log_mel(silence)).tolist() == [-1.5]
    np.testing.assert_allclose(fbank(silence), -2.3916929, rtol=1e-7)


def test_filter_bank_frames_depend_on_their_own_window_only() -> None:
    pcm = noise(160 * 600 + 240)  # 600 frames: three chunks
    whole, part = fbank(pcm), fbank(pcm[160 * 255 : 160 * 259 + 240])
    np.testing.assert_array_equal(part, whole[255:259])


def test_log_mel_is_clamped_eight_decades_below_the_loudest_frame() -> None:
    pcm = noise(32_000)
    pcm[16_000:] = 0
    mel = log_mel(pcm)
    assert mel.min() == pytest.approx(mel.max() - 8 / 4)


def test_a_louder_sound_has_more_energy_by_exactly_that_much() -> None:
    pcm = noise(16_000)
    gain = 4.0
    difference = fbank(pcm * np.float32(gain)) - fbank(pcm)
    assert set(difference[:, 3]) == {0}  # narrower than a step of the FFT: band 3 hears nothing
    np.testing.assert_allclose(
        np.delete(difference, 3, axis=1), 2 * np.log(gain) / (2 * 6.55582), atol=1e-5
    )


def test_a_pure_tone_lights_the_band_it_belongs_to() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    assert set(log_mel(tone)[:, 10:-10].argmax(axis=0)) == {
        26
    }  # 1 kHz is mel 15 of 45.2, of 81 steps
    htk = 1127 * np.log(1 + np.array([20, 1000, 8000]) / 700)
    band = round((htk[1] - htk[0]) / (htk[2] - htk[0]) * 129) - 1
    assert set(fbank(tone).argmax(axis=1)) == {band}


@pytest.mark.parametrize("bad", [np.zeros(399, np.float32), np.zeros((1, 800), np.float32)])
def test_what_is_not_one_window_of_samples_is_refused(bad: npt.NDArray[np.float32]) -> None:
    for front_end in (log_mel, fbank):
        with pytest.raises(ValueError, match=r"expected float32 \[n_samples >= 400\], got"):
            front_end(bad)


def test_float64_samples_are_refused_rather_than_cast() -> None:
    with pytest.raises(ValueError, match="got float64"):
        fbank(np.zeros(800))  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 9_000), min_size=1, max_size=12), st.integers(0, 5_000))
def test_a_sound_that_grows_has_the_picture_of_the_whole(chunks: list[int], padding: int) -> None:
    """To the last bit, whatever the chunks; padding that was looked at leaves no trace."""
    pcm = noise(sum(chunks) + 400)
    mel, bank = LogMel(), Fbank()
    n_samples = 400
    for chunk in chunks:
        n_samples += chunk
        padded = np.pad(pcm[:n_samples], (0, padding))
        for picture in (mel, bank):
            picture.extend(pcm[:n_samples])
        np.testing.assert_array_equal(mel.picture(padded), log_mel(padded))
        np.testing.assert_array_equal(bank.picture(padded), fbank(padded))
    np.testing.assert_array_equal(mel.picture(pcm), log_mel(pcm))
    np.testing.assert_array_equal(bank.picture(pcm), fbank(pcm))


def test_frames_behind_an_earlier_end_are_forgotten() -> None:
    pcm = noise(40_000)
    mel, bank = LogMel(), Fbank()
    for picture in (mel, bank):
        picture.extend(pcm)
        picture.trim(21_760)
    ended = np.pad(pcm[:21_760], (0, 3_000))
    np.testing.assert_array_equal(mel.picture(ended), log_mel(ended))
    np.testing.assert_array_equal(bank.picture(ended), fbank(ended))
