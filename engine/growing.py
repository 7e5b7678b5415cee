"""A sound that is still arriving, into soft tokens of what there is of it so far.

    append(pcm) ──► | piece, done | piece, done | the last piece, growing ── ─ ─
                    | soft tokens, final        | windows with enough sound behind them | not yet
                    +---- so_far() -------------------------------------------+
                    +---- whole(), as if the sound ended here -----------------------------+

Both encoders look both ways in time: the soft tokens of a window go on changing while sound comes
in behind it. What is said about a window early is a guess; how good a guess is what `Streaming`
settles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .encoders import STAGES, Features, Run, run_graph
from .errors import AudioFormatError
from .features import SAMPLE_RATE
from .manifest import Policy
from .onnx import Interruptible
from .segments import FRAME, Segment, one_segment

F32 = npt.NDArray[np.float32]

_QUIET = SAMPLE_RATE // 10  # samples on either side of a cut that are looked at: 0.1 s


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """How closely a sound is followed while it arrives.

    With `EXACT` the soft tokens are those of the offline path, to the last bit: pieces are as long
    as the bundle's policy has them and nothing is guessed, so that the work is left for the end,
    but for pieces that are full. With `FAST` pieces are short and cut where it is quiet, windows go
    into the cache as soon as a little sound follows them, and stay there unless they change by more
    than the tolerance.
    """

    name: str
    piece_s: float | None  # longest stretch that is encoded in one go; None: the policy's
    ahead: int | None  # windows of sound that must follow one that is guessed; None: guess nothing
    tolerance: float  # relative change of a window's soft tokens that is let pass; 0: none
    guess_tolerance: float = 0.3  # the same while a window is a guess: it will change again

    def __post_init__(self) -> None:
        if (
            (self.piece_s is not None and self.piece_s < 1)
            or (self.ahead is not None and self.ahead < 0)
            or min(self.tolerance, self.guess_tolerance) < 0
        ):
            raise ValueError(
                "streaming: expected piece_s of at least 1, ahead and tolerances of at least 0,"
                f" got {self}"
            )


EXACT = Streaming(name="exact", piece_s=None, ahead=None, tolerance=0.0)
FAST = Streaming(name="fast", piece_s=5.44, ahead=1, tolerance=0.1, guess_tolerance=0.3)
STREAMING = {mode.name: mode for mode in (EXACT, FAST)}

Encode = Callable[[Segment, dict[str, float], Features, Run], F32]
"""A stretch of sound to soft tokens [n_windows * n_queries, d_model]; adds to the times."""


class GrowingSound:
    """The samples of the piece that grows, its features, and the soft tokens of those before."""

    def __init__(
        self, encode: Encode, policy: Policy, streaming: Streaming, *, d_model: int
    ) -> None:
        """A sound of no samples.

        Raises:
            ValueError: short pieces under a policy that pads each to 30 s.
        """
        if streaming.piece_s is not None and policy.pad_to_s is not None:
            raise ValueError(
                f"{streaming.name}: every piece of {streaming.piece_s:g} s would be padded to"
                f" {policy.pad_to_s:g} s; open a session whose policy has pad_to_s=None"
            )
        self.timings_ms = dict.fromkeys(STAGES, 0.0)
        """Milliseconds of work by stage since the beginning."""
        self.n_samples = 0
        self._encode = encode
        self._policy = policy
        self._n_window = policy.stride_frames * FRAME
        self._ahead = streaming.ahead
        self._at_quiet = streaming.piece_s is not None
        n_max = round(policy.max_s * SAMPLE_RATE)
        if streaming.piece_s is not None:
            n_windows = round(streaming.piece_s * SAMPLE_RATE) // self._n_window
            n_max = min(n_max - _QUIET, max(1, n_windows) * self._n_window)
        self._n_max = n_max
        self._piece = np.empty(n_max + SAMPLE_RATE, np.float32)
        self._n_piece = 0
        self._features = Features()
        self._guessing = Interruptible()
        self._n_done = 0  # pieces
        self._done: F32 = np.empty((0, d_model), np.float32)
        self._whole: tuple[int, F32] | None = None  # samples, soft tokens

    @property
    def seconds(self) -> float:
        """Length so far."""
        return self.n_samples / SAMPLE_RATE

    @property
    def n_final(self) -> int:
        """Soft tokens that no more sound will change: those of finished pieces."""
        return len(self._done)

    @property
    def n_pieces(self) -> int:
        """Stretches that are encoded each for itself, the growing one included."""
        return self._n_done + (self._n_piece > 0)

    def seconds_of(self, n_windows: int) -> float:
        """Seconds of sound that have no more than so many windows, however they are cut."""
        if self._policy.pad_to_s is not None:  # then all pieces have as many windows
            n_each = one_segment(np.zeros(1, np.float32), self._policy).n_windows
            return n_windows // n_each * self._n_max / SAMPLE_RATE
        # Each piece may end with a window that is not full, and none has fewer than the policy's
        # shortest; pieces cut where it is quiet have at least half their length.
        shortest = self._n_max / 2 if self._at_quiet else self._n_max
        n_least = -(-round(self._policy.min_s * SAMPLE_RATE) // self._n_window) + 1
        n_samples = (n_windows - n_least) / (1 / self._n_window + 1 / shortest)
        return max(0.0, n_samples / SAMPLE_RATE)

    def append(self, pcm: F32) -> None:
        """More sound, [n_samples], 16 kHz; pieces that it fills are encoded.

        Raises:
            AudioFormatError: not one-dimensional float32, or not finite; nothing is taken.
        """
        if pcm.ndim != 1 or pcm.dtype != np.float32 or not np.isfinite(pcm).all():
            raise AudioFormatError(
                f"pcm: expected finite float32 [n_samples], got {pcm.dtype} {list(pcm.shape)}"
            )
        while len(pcm):
            part = pcm[: len(self._piece) - self._n_piece]
            self._piece[self._n_piece : self._n_piece + len(part)] = part
            self._n_piece += len(part)
            self.n_samples += len(part)
            pcm = pcm[len(part) :]
            self._cut_full_pieces()
        self._features.extend(self._piece[: self._n_piece])

    def so_far(self) -> F32:
        """Soft tokens [n, d_model] of the windows that can be told, or guessed, by now.

        Raises:
            Interrupted: `interrupt` was called meanwhile; nothing is lost.
        """
        n_guessed = 0
        if self._ahead is not None:
            n_guessed = self._n_piece // self._n_window - self._ahead
        if n_guessed <= 0 or (self._policy.long_audio == "cut" and self._n_done):
            return self._done
        self._guessing.resume()
        guessed = self._encoded(self._piece[: self._n_piece], self._guessing.run)
        return np.concatenate([self._done, guessed[: n_guessed * self._policy.n_queries]])

    def interrupt(self) -> None:
        """End a `so_far` that is being computed: there is better to do. From any thread."""
        self._guessing.interrupt()

    def whole(self) -> F32:
        """Soft tokens [n, d_model] of all of it, as if it ended here; more may be appended after.

        Raises:
            AudioFormatError: there is no sound yet.
        """
        if not self.n_samples:
            raise AudioFormatError("nothing was heard: append some sound first")
        if self._whole is None or self._whole[0] != self.n_samples:
            rows = self._done
            if self._n_piece and not (self._policy.long_audio == "cut" and self._n_done):
                last = self._encoded(self._piece[: self._n_piece])
                rows = np.concatenate([rows, last])
            self._whole = (self.n_samples, rows)
        return self._whole[1]

    def _encoded(self, pcm: F32, run: Run = run_graph) -> F32:
        return self._encode(one_segment(pcm, self._policy), self.timings_ms, self._features, run)

    def _cut_full_pieces(self) -> None:
        slack = _QUIET if self._at_quiet else 0
        while self._n_piece > self._n_max + slack:
            at = self._quiet_boundary() if self._at_quiet else self._n_max
            if self._policy.long_audio == "segment" or not self._n_done:
                self._features.trim(at)
                made = self._encoded(self._piece[:at])
                self._done = np.concatenate([self._done, made])
            self._n_done += 1
            rest = self._piece[at : self._n_piece].copy()
            self._piece[: len(rest)] = rest
            self._n_piece = len(rest)
            self._features = Features()

    def _quiet_boundary(self) -> int:
        """The quietest place between two windows in the second half of the piece, in samples."""
        last = self._n_max // self._n_window
        places = np.arange(max(1, last // 2), last + 1) * self._n_window
        power = [np.square(self._piece[at - _QUIET : at + _QUIET]).mean() for at in places]
        return int(places[int(np.argmin(power))])
