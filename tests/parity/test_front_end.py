"""The front end against the official one, on every golden clip."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from kokanee.engine.features import fbank, log_mel

GOLDEN = Path(__file__).parents[1] / "golden" / "salmonn"
CLIPS = sorted(path.stem for path in (GOLDEN / "audio").glob("*.wav"))


def first_channel(clip: str) -> np.ndarray:
    """Samples under SALMONN's rule: one second at least, silence appended."""
    pcm, rate = soundfile.read(GOLDEN / "audio" / f"{clip}.wav", dtype="float32", always_2d=True)
    assert rate == 16_000
    return np.pad(pcm[:, 0], (0, max(0, rate - len(pcm))))


@pytest.mark.parametrize("clip", CLIPS)
def test_log_mel_of_thirty_seconds_equals_the_reference(clip: str) -> None:
    pcm = first_channel(clip)
    golden = np.load(GOLDEN / "vectors" / f"{clip}.npz")["logmel"]
    mel = log_mel(np.pad(pcm, (0, 480_000 - len(pcm))))
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel, golden, rtol=0, atol=1e-5)


@pytest.mark.parametrize("clip", CLIPS)
def test_filter_bank_of_the_bare_clip_equals_the_reference(clip: str) -> None:
    golden = np.load(GOLDEN / "vectors" / f"{clip}.npz")["beats_fbank"]
    bank = fbank(first_channel(clip))
    assert bank.dtype == np.float32
    np.testing.assert_allclose(bank, golden, rtol=0, atol=2e-5)
