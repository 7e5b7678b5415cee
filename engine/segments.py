"""A recording cut and padded into the stretches that the encoders take, as the bundle says.

pcm ---- cut at max_s ----> piece ---- zeros to min_s ----+--> audio_pcm   BEATs
         or split                                         |
                                    zeros to pad_to_s, or +--> speech_pcm  Whisper
                                    to whole windows
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import AudioFormatError
from .features import HOP, SAMPLE_RATE
from .manifest import Policy

F32 = npt.NDArray[np.float32]

FRAME = 2 * HOP  # samples a Whisper frame spans: its second convolution halves the rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One stretch of sound, encoded alone."""

    speech_pcm: F32  # [n_frames * 320]: Whisper hears the padding
    audio_pcm: F32  # [n_samples]: BEATs does not
    n_windows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """A whole recording, in order."""

    segments: tuple[Segment, ...]
    notes: tuple[str, ...]  # what was done to it that a listener should know

    @property
    def n_windows(self) -> int:
        """Windows of all segments; n_queries soft tokens each."""
        return sum(segment.n_windows for segment in self.segments)


def apply_policy(pcm: F32, policy: Policy) -> Segments:
    """Cuts, splits and pads [n_samples] at 16 kHz.

    Raises:
        AudioFormatError: If `pcm` is empty, not finite, or not one-dimensional float32.
    """
    if pcm.ndim != 1 or pcm.dtype != np.float32 or len(pcm) == 0:
        raise AudioFormatError(
            f"pcm: expected float32 [n_samples > 0], got {pcm.dtype} {list(pcm.shape)}"
        )
    if not np.isfinite(pcm).all():
        raise AudioFormatError("pcm: samples that are not numbers (NaN or infinity)")
    n_max = round(policy.max_s * SAMPLE_RATE)
    seconds = len(pcm) / SAMPLE_RATE
    pieces = [pcm[at : at + n_max] for at in range(0, len(pcm), n_max)]
    notes = []
    if len(pieces) > 1 and policy.long_audio == "cut":
        pieces = pieces[:1]
        notes.append(f"heard the first {policy.max_s:g} s of {seconds:.1f} s")
    elif len(pieces) > 1:
        notes.append(f"heard {seconds:.1f} s in {len(pieces)} pieces of up to {policy.max_s:g} s")
    elif seconds < policy.min_s:
        notes.append(f"{seconds:.2f} s is short: silence added up to {policy.min_s:g} s")
    return Segments(segments=tuple(one_segment(p, policy) for p in pieces), notes=tuple(notes))


def one_segment(pcm: F32, policy: Policy) -> Segment:
    """Pads [n_samples], no longer than the policy's max_s, for either encoder."""
    audio_pcm = _padded(pcm, round(policy.min_s * SAMPLE_RATE))
    if policy.pad_to_s is not None:
        n_frames = round(policy.pad_to_s * SAMPLE_RATE) // FRAME
        # Frames that do not fill a window are dropped.
        n_windows = (n_frames - policy.window_frames) // policy.stride_frames + 1
    else:
        n_frames = -(-len(audio_pcm) // FRAME)
        n_windows = max(0, -(-(n_frames - policy.window_frames) // policy.stride_frames)) + 1
        n_frames = policy.window_frames + (n_windows - 1) * policy.stride_frames
    return Segment(
        speech_pcm=_padded(audio_pcm, n_frames * FRAME),
        audio_pcm=audio_pcm,
        n_windows=n_windows,
    )


def _padded(pcm: F32, n_samples: int) -> F32:
    return np.pad(pcm, (0, max(0, n_samples - len(pcm))))
