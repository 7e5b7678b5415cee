"""What happens to a sound on its way to a microphone: pitch, rooms, the telephone, noise, level."""

import io
import math

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

F32 = npt.NDArray[np.float32]
RATE = 16_000


def faster(pcm: F32, factor: float) -> F32:
    """Faster and higher, as a tape is; a voice becomes another voice."""
    at = np.arange(0, len(pcm) - 1, factor)
    return np.asarray(np.interp(at, np.arange(len(pcm)), pcm), np.float32)


def in_room(pcm: F32, rng: np.random.Generator) -> F32:
    """Noise that dies away within 0.05 to 0.4 s, folded with the sound."""
    n = int(rng.uniform(0.05, 0.4) * RATE)
    tail = rng.standard_normal(n) * np.exp(-6 * np.arange(n) / n) * rng.uniform(0.02, 0.12)
    tail[0] = 1.0
    size = len(pcm) + n
    wet = np.fft.irfft(np.fft.rfft(pcm, size) * np.fft.rfft(tail, size), size)[: len(pcm)]
    return peaked(wet.astype(np.float32), float(np.abs(pcm).max()))


def telephone(pcm: F32) -> F32:
    """300 to 3,400 Hz only."""
    spectrum = np.fft.rfft(pcm)
    hz = np.fft.rfftfreq(len(pcm), 1 / RATE)
    spectrum[(hz < 300) | (hz > 3400)] = 0
    return np.fft.irfft(spectrum, len(pcm)).astype(np.float32)


def coded(pcm: F32, codec: str) -> F32:
    """Through a line of 8 kHz and its codec, `GSM610` or `ULAW`; as long as before."""
    line = io.BytesIO()
    narrow = np.clip(soxr.resample(pcm, RATE, 8_000), -1, 1)
    sf.write(line, narrow, 8_000, format="WAV", subtype=codec)
    line.seek(0)
    heard, _ = sf.read(line, dtype="float32")
    wide = np.asarray(soxr.resample(heard, 8_000, RATE), np.float32)[: len(pcm)]
    return np.pad(wide, (0, len(pcm) - len(wide)))


def on_a_line(pcm: F32, rng: np.random.Generator) -> F32:
    """As one of three telephones would pass it on."""
    kind = int(rng.integers(3))
    return telephone(pcm) if kind == 0 else coded(pcm, ("GSM610", "ULAW")[kind - 1])


def coloured_noise(n: int, rng: np.random.Generator, slope: float) -> F32:
    """Noise of peak 1 whose power falls with frequency as f**-slope (0 white, 1 pink, 2 brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    hz = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 20)
    return peaked(np.fft.irfft(spectrum * hz ** (-slope / 2), n).astype(np.float32), 1.0)


def coloured(pcm: F32, rng: np.random.Generator) -> F32:
    """Through a filter of some random loudspeaker: gains of up to 12 dB over six bands."""
    spectrum = np.fft.rfft(pcm)
    hz = np.maximum(np.fft.rfftfreq(len(pcm), 1 / RATE), 30)
    knots = np.log([30, 120, 400, 1200, 3600, 8000])
    gains = np.interp(np.log(hz), knots, rng.uniform(-12, 12, 6))
    out = np.fft.irfft(spectrum * 10 ** (gains / 20), len(pcm)).astype(np.float32)
    return peaked(out, float(np.abs(pcm).max()))


def invented(n: int, rng: np.random.Generator) -> F32:
    """A sound that nothing makes: tones with partials, bursts of coloured noise, strokes."""
    out = np.zeros(n, np.float32)
    for _ in range(rng.integers(1, 6)):
        size = int(np.exp(rng.uniform(np.log(400), np.log(n))))
        t = np.arange(size) / RATE
        if rng.random() < 0.5:
            start, end = np.exp(rng.uniform(np.log(60), np.log(4000), 2))
            pitch = start + (end - start) * (t / t[-1]) ** rng.uniform(0.3, 3) * (
                rng.random() < 0.5
            )
            wobble = rng.uniform(0, 0.1) * np.sin(2 * np.pi * rng.uniform(1, 40) * t)
            phase = 2 * np.pi * np.cumsum(pitch * (1 + wobble)) / RATE
            stretch = rng.choice((1.0, 1.0, rng.uniform(1.2, 2.9)))
            part = sum(
                rng.uniform(0, 1) / k * np.sin(phase * (1 + (k - 1) * stretch)) for k in range(1, 7)
            )
        else:
            part = coloured_noise(size, rng, rng.uniform(-1, 2.5))
        attack = np.minimum(1, t / rng.choice((0.002, 0.02, 0.2)))
        envelope = attack * np.exp(-rng.choice((0.0, 2.0, 8.0, 30.0)) * t)
        if rng.random() < 0.4:
            envelope = envelope * (0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 30) * t))
        at = int(rng.integers(0, n - size + 1))
        out[at : at + size] += np.asarray(part, np.float32) * envelope * rng.uniform(0.1, 1)
    return peaked(out, 0.7)


def peaked(pcm: F32, peak: float) -> F32:
    """The same at a peak of `peak`."""
    return (pcm * (peak / max(1e-5, float(np.abs(pcm).max())))).astype(np.float32)


def spoken(pcm: F32, rng: np.random.Generator, *, pitch: float = 0.0, line: float = 0.15) -> F32:
    """A recorded voice: another pitch, a room, a telephone, noise, silence around, another level.

    Args:
        pcm: [n_samples].
        rng: Decides.
        pitch: natural logarithm of the greatest change of speed, either way.
        line: how often it comes through a telephone.
    """
    if pitch and rng.random() < 0.7:
        pcm = faster(pcm, math.exp(rng.uniform(-pitch, pitch)))
    if rng.random() < 0.15:
        pcm = in_room(pcm, rng)
    on_line = rng.random() < line
    pcm = peaked(pcm, 10 ** (rng.uniform(-20, -1) / 20))
    if on_line:
        pcm = on_a_line(pcm, rng)
    before, after = (rng.uniform(0, 0.3, 2) * RATE).astype(int)
    pcm = np.pad(pcm, (before, after))
    if rng.random() < 0.5:
        noise = coloured_noise(len(pcm), rng, rng.uniform(0, 1.5))
        pcm = pcm + noise * 10 ** (rng.uniform(-65, -28) / 20)
    return np.clip(pcm, -1, 1).astype(np.float32)
