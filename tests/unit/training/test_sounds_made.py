"""What augmentation and rendering make is what they say."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training import augment, retakes, sounds, tunes
from training.shards import is_validation


@given(st.integers(0, 2**32 - 1), st.integers(4_000, 40_000))
def test_spoken_stays_in_range(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    pcm = rng.standard_normal(n).astype(np.float32) * 0.1
    out = augment.spoken(pcm, rng, pitch=0.2)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert float(np.abs(out).max()) <= 1.0
    assert 0.7 * n < len(out) < 1.4 * n + 2 * 0.3 * augment.RATE


@pytest.mark.parametrize("codec", ["GSM610", "ULAW"])
@given(n=st.integers(160, 20_000))
def test_a_line_keeps_the_length_and_what_is_below_4_khz(codec: str, n: int) -> None:
    pcm = 0.3 * np.sin(2 * np.pi * 700 * np.arange(n) / augment.RATE).astype(np.float32)
    heard = augment.coded(pcm, codec)
    assert heard.dtype == np.float32
    assert len(heard) == n
    if n > 4_000:
        assert np.corrcoef(pcm, heard)[0, 1] > 0.9


def test_the_telephone_has_no_bass_and_no_treble() -> None:
    rng = np.random.default_rng(0)
    spectrum = np.abs(
        np.fft.rfft(augment.telephone(rng.standard_normal(16_000).astype(np.float32)))
    )
    hz = np.fft.rfftfreq(16_000, 1 / augment.RATE)
    assert (
        spectrum[(hz < 290) | (hz > 3410)].max() < 1e-2 * spectrum[(hz > 400) & (hz < 3000)].mean()
    )


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_falls_as_it_should(slope: float) -> None:
    noise = augment.coloured_noise(1 << 16, np.random.default_rng(1), slope)
    power = np.abs(np.fft.rfft(noise)) ** 2
    hz = np.fft.rfftfreq(len(noise), 1 / augment.RATE)
    low, high = (power[(hz > a) & (hz < 2 * a)].mean() for a in (200, 3200))
    assert 10 * np.log10(low / high) == pytest.approx(slope * 12.04, abs=1.5)


@given(st.integers(0, 2**32 - 1), st.integers(500, 20_000))
def test_what_is_invented_fills_its_time(seed: int, n: int) -> None:
    out = augment.invented(n, np.random.default_rng(seed))
    assert out.dtype == np.float32
    assert out.shape == (n,)
    assert float(np.abs(out).max()) == pytest.approx(0.7, abs=1e-3)


@given(st.integers(0, 2**32 - 1))
def test_a_loudspeaker_keeps_the_peak(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pcm = rng.standard_normal(8_000).astype(np.float32)
    out = augment.coloured(pcm, rng)
    assert float(np.abs(out).max()) == pytest.approx(float(np.abs(pcm).max()), rel=1e-3)


def test_faster_is_shorter_and_higher() -> None:
    t = np.arange(16_000) / augment.RATE
    out = augment.faster(np.sin(2 * np.pi * 400 * t).astype(np.float32), 1.25)
    assert len(out) == pytest.approx(12_800, abs=2)
    peak = np.abs(np.fft.rfft(out)).argmax() * augment.RATE / len(out)
    assert peak == pytest.approx(500, abs=2)


def test_midi_is_well_formed() -> None:
    what, beat, notes = tunes.tune(random.Random(3))
    song = tunes.midi([(notes, [0, 24, 33]), (notes, [40, 0, 33])])
    assert song[:4] == b"MThd"
    assert song[14:18] == b"MTrk"
    assert len(song) == 22 + int.from_bytes(song[18:22], "big")
    assert song.endswith(b"\xff\x2f\x00")
    assert what["fast"] == (beat < 0.6)
    assert what["solo"] == (len({n[2] for n in notes}) == 1)


def test_a_phrase_is_of_one_thing_alone_and_not_long() -> None:
    r = random.Random(4)
    made = [tunes.phrase(r) for _ in range(300)]
    assert {label for label, _, _ in made} == {"instrument", "drum", "bell"}
    for label, notes, program in made:
        channels = {channel for _, _, channel, _, _ in notes}
        assert len(channels) == 1
        assert (channels == {9}) or program in sounds.GM[label]
        assert label != "drum" or channels == {9}
        assert all(start < 4.0 and 0 <= key < 128 for start, _, _, key, _ in notes)


@given(st.integers(0, 2**32 - 1))
def test_electronic_sounds_are_sounds(seed: int) -> None:
    out = sounds.electronic(np.random.default_rng(seed))
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert 0.1 * augment.RATE < len(out) < 4 * augment.RATE
    assert float(np.abs(out).max()) > 0.01


@given(st.integers(0, 2**32 - 1), st.integers(800, 6 * augment.RATE))
def test_a_sound_taken_again_is_there_and_in_range(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    pcm = 0.89 * np.sin(np.arange(n) / 5).astype(np.float32)
    out = retakes.taken_again(pcm, rng)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert 0.03 < float(np.abs(out).max()) <= 1.0
    assert len(out) <= retakes.LONGEST


@pytest.mark.parametrize(("n", "octets"), [(0, "00"), (127, "7f"), (128, "8100"), (16383, "ff7f")])
def test_variable_length_numbers(n: int, octets: str) -> None:
    assert tunes._variable(n).hex() == octets


def test_takes_of_one_event_stay_on_one_side() -> None:
    for stem in ("bird", "door-close", "grass_step", "horse", "rain", "siren"):
        takes = [
            {"source": "x-data", "name": f"{stem}_{i:02}.ogg", "kind": "sound"} for i in range(9)
        ]
        assert len({is_validation(take) for take in takes}) == 1
