"""Finds the turns in endless sound: where somebody starts to speak, pauses, goes on, and is done.

                 onset                      offset    decided: silence_duration after offset
                   |  voice  (p)  voice  voice |         |
    ...............|####.......#######.########|.........|......
              |<-->|                           |<-->|
           Start.at prefix_padding       suffix_padding End.at

(p): too short a pause to end the turn, but Pause and Resume tell of one longer than the suffix, so
that an answer can be begun in the hope that the voice does not go on.

All positions are indices of samples at 16 kHz since the source was opened, gaps included; `at` of
Pause and End is one past the turn's last sample.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kokanee.engine.features import SAMPLE_RATE

from .updates import EndReason, Kind
from .vad import FRAME, QUIETEST, NoiseFloor, VoiceDetector, dbfs

F32 = npt.NDArray[np.float32]

_MS = SAMPLE_RATE // 1000  # samples
_FRAME_MS = FRAME // _MS
_LONGEST_S = 3_600.0

_QUIETEST_SOUND = -55.0  # dBFS; digital silence makes anything stand out, even dither
_KNOW_THE_ROOM_S = 1.0  # before any sound can stand out: devices often begin with silence
_NO_SOUND = 60.0  # dBFS: a broken driver's numbers
_METER_FRAMES = 3  # that `dbfs` averages: a tenth of a second


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnDetection:
    """What opens and closes a turn; the first three are OpenAI's `server_vad`, with its defaults.

    A turn opened by a voice, or within which a voice was heard, goes on as long as the voice does.
    A sound within it, or that went on when it ended, opens no turn of its own.
    """

    threshold: float = 0.5  # voice, 0 to 1, from which on somebody speaks
    prefix_padding_ms: int = 300  # sound kept before the voice
    silence_duration_ms: int = 500  # quiet that ends a turn
    suffix_padding_ms: int = 200  # sound kept after the voice; part of the quiet
    min_speech_ms: int = 160  # a voice or sound that lasts less opens no turn: five frames
    max_turn_s: float = 120.0  # a turn is closed there; the next opens at the very next sample
    voices: bool = True
    sounds: bool = False  # what is no voice opens turns too: an alarm, a dog, glass
    sound_rise_db: float = 15.0  # how far a sound stands above the noise floor
    push_to_talk: bool = False  # only press() and release() open and close turns

    def __post_init__(self) -> None:
        """Raises: ValueError: If a value is out of range, or the values contradict each other."""
        if not 0 < self.threshold < 1:
            raise ValueError(
                f"threshold: expected more than 0 and less than 1, got {self.threshold}"
            )
        if self.prefix_padding_ms < 0 or self.min_speech_ms < 0:
            raise ValueError(
                "prefix_padding_ms and min_speech_ms: expected 0 or more,"
                f" got {self.prefix_padding_ms} and {self.min_speech_ms}"
            )
        if self.silence_duration_ms < _FRAME_MS:
            raise ValueError(
                f"silence_duration_ms: expected {_FRAME_MS} or more, got {self.silence_duration_ms}"
            )
        if not 0 <= self.suffix_padding_ms <= self.silence_duration_ms:
            raise ValueError(
                "suffix_padding_ms: expected 0 to silence_duration_ms"
                f" ({self.silence_duration_ms}), got {self.suffix_padding_ms}"
            )
        # So that a turn is never over before it was found out that it began.
        least_s = (self.prefix_padding_ms + self.min_speech_ms + self.silence_duration_ms) / 1000
        if not least_s <= self.max_turn_s <= _LONGEST_S:
            raise ValueError(
                f"max_turn_s: expected {least_s:g} (prefix padding, shortest speech and silence)"
                f" to {_LONGEST_S:g}, got {self.max_turn_s}"
            )
        if not 3 <= self.sound_rise_db <= 60:
            raise ValueError(f"sound_rise_db: expected 3 to 60, got {self.sound_rise_db}")
        if self.push_to_talk and self.sounds:
            raise ValueError("push_to_talk and sounds: expected one of them at most, got both")
        if not (self.voices or self.sounds or self.push_to_talk):
            raise ValueError(
                "voices, sounds, push_to_talk: expected at least one of them, got none"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A turn opened."""

    at: int  # the turn's first sample: before the onset, never before the last turn's end
    onset: int  # where the voice or sound begins; where the key was pressed
    kind: Kind
    decided_at: int  # the sound up to here had to be heard for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """If the voice does not go on, the turn's sound ends at `at`."""

    at: int
    offset: int  # where the voice or sound ended
    decided_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """The voice went on: the last Pause is void."""

    decided_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A turn closed. After "silence", `at` and `offset` are those of the Pause before."""

    at: int
    offset: int
    reason: EndReason
    kind: Kind  # "speech" also for a turn that a sound opened, if there was a voice in it
    decided_at: int


Mark = Start | Pause | Resume | End


@dataclass(slots=True)
class _Run:
    """A voice or a sound, from where it stands out to where it no longer does."""

    on: bool = False
    since: int = 0

    def hear(self, value: float, at: int, *, rises: float, falls: float) -> None:
        if not self.on and value >= rises:
            self.on, self.since = True, at
        elif self.on and value < falls:
            self.on = False


@dataclass(slots=True)
class _Turn:
    at: int
    kind: Kind
    offset: int | None = None  # quiet since then
    paused: bool = False


class Endpointer:
    """Hears sound in order, in chunks of any size, and marks the turns in it.

    The marks depend on the samples and on where gaps and key presses fall among them, on nothing
    else. Detectors work on whole frames of 512 samples; what is left over waits for the next chunk.
    Not for use from two threads at a time.

    Source: snakers4/silero-vad, src/silero_vad/utils_vad.py (`VADIterator`): its two thresholds and
    where it puts an onset and an offset. Here a voice must last a while to open a turn, a turn has
    a longest length, no padding reaches into the turn before, and an end is told of before it is
    certain.
    """

    def __init__(self, settings: TurnDetection, voice: VoiceDetector | None) -> None:
        """At sample 0.

        Args:
            settings: what opens and closes a turn.
            voice: not shared with another stream; needed for `voices`, except with push to talk,
                where it only tells `voice` and `speaking`.

        Raises:
            ValueError: If voices shall open turns and there is no detector.
        """
        if voice is None and settings.voices and not settings.push_to_talk:
            raise ValueError("voice: expected a VoiceDetector, as settings.voices is on, got None")
        self.settings = settings
        self.voice = 0.0
        """What the detector made of the last frame, 0 to 1."""
        self.n_pushed = 0
        """Index of the next sample, gaps included."""
        self._detector = voice if settings.voices else None
        self._voicing, self._sounding = _Run(), _Run()
        self._floor = NoiseFloor()
        self._levels = deque([QUIETEST], maxlen=_METER_FRAMES)
        self._rest: F32 = np.empty(0, np.float32)
        self._heard = 0  # index of the first sample that no frame had yet
        self._free_from = 0  # the next turn begins here or later
        self._turn: _Turn | None = None
        self._pressed = False

    @property
    def dbfs(self) -> float:
        """Level of the last tenth of a second, -120 at least."""
        return 10 * math.log10(sum(10 ** (x / 10) for x in self._levels) / len(self._levels))

    @property
    def in_turn(self) -> bool:
        """Whether a turn is open."""
        return self._turn is not None

    @property
    def speaking(self) -> bool:
        """Whether a turn is open and what opened it is there right now, not only its silence."""
        if self._turn is None:
            return False
        if self._turn.kind == "push":
            return self._voicing.on or self._detector is None
        return self._goes_on(self._turn)

    def push(self, pcm: F32) -> list[Mark]:
        """Hear [n_samples], which follow on the last; the array is not kept.

        A frame with samples that are no numbers (NaN, infinity), or a thousand times too large, is
        heard as silence: one of them would deafen a recurrent detector for ever.

        Raises:
            ValueError: If `pcm` is not one-dimensional float32.
        """
        if pcm.ndim != 1 or pcm.dtype != np.float32:
            raise ValueError(
                f"pcm: expected float32 [n_samples], got {pcm.dtype} {list(pcm.shape)}"
            )
        self.n_pushed += len(pcm)
        pcm = np.concatenate([self._rest, pcm])
        n_whole = len(pcm) - len(pcm) % FRAME
        self._rest = pcm[n_whole:].copy()
        marks: list[Mark] = []
        for at in range(0, n_whole, FRAME):
            marks += self._hear(pcm[at : at + FRAME])
        return marks

    def gap(self, to: int) -> list[Mark]:
        """The sound up to sample `to` was lost: ends an open turn, and the next push begins there.

        What is known of the room's noise is kept. While the key of push to talk is down, another
        turn opens with the first frame after the gap.

        Raises:
            ValueError: If `to` lies before what was pushed.
        """
        if to < self.n_pushed:
            raise ValueError(f"to: expected {self.n_pushed} (what was pushed) or more, got {to}")
        marks = self._end("gap")
        self._rest = self._rest[:0]
        self.n_pushed = self._heard = self._free_from = to
        self._voicing, self._sounding = _Run(), _Run()
        if self._detector is not None:
            self._detector.reset()
        return marks

    def press(self) -> list[Mark]:
        """The key goes down, after what was pushed so far; nothing if it is down.

        Raises:
            ValueError: If the settings are not for push to talk.
        """
        if not self.settings.push_to_talk:
            raise ValueError("press: expected settings with push_to_talk=True")
        if self._pressed:
            return []
        self._pressed = True
        return [self._start(self.n_pushed, "push", self.n_pushed)]

    def release(self) -> list[Mark]:
        """The key goes up, after what was pushed so far; nothing if it is not down."""
        self._pressed = False
        return self._end("released")

    def close(self) -> list[Mark]:
        """Nothing more comes: ends an open turn."""
        self._pressed = False
        return self._end("closed")

    def _hear(self, frame: F32) -> list[Mark]:
        at, self._heard = self._heard, self._heard + FRAME
        level = dbfs(frame)
        if not level < _NO_SOUND:  # NaN is not
            frame, level = np.zeros_like(frame), QUIETEST
        self._levels.append(level)
        if self._detector is not None:
            threshold = self.settings.threshold
            self.voice = self._detector(frame)
            self._voicing.hear(self.voice, at, rises=threshold, falls=max(threshold - 0.15, 0.01))
        if self.settings.sounds:
            floor, rise = self._floor.hear(level), self.settings.sound_rise_db
            if self._floor.known_s >= _KNOW_THE_ROOM_S:
                rises = max(floor + rise, _QUIETEST_SOUND)
                self._sounding.hear(level, at, rises=rises, falls=rises - rise / 2)
        if self._turn is not None:
            return self._go_on(self._turn, at)
        return self._look_for_start(at)

    def _look_for_start(self, at: int) -> list[Mark]:
        if self.settings.push_to_talk:
            return [self._start(at, "push", self._heard)] if self._pressed else []
        if self._opens(self._voicing):
            return [self._start(self._voicing.since, "speech", self._heard)]
        # A voice is louder than its room, too: let it show first whether it is one.
        if self._opens(self._sounding) and not self._voicing.on:
            return [self._start(self._sounding.since, "sound", self._heard)]
        return []

    def _opens(self, run: _Run) -> bool:
        """Whether a run is long enough, and not one that the last turn holds the beginning of."""
        return self._lasts(run) and run.since >= self._free_from

    def _lasts(self, run: _Run) -> bool:
        return run.on and self._heard - run.since >= self.settings.min_speech_ms * _MS

    def _goes_on(self, turn: _Turn) -> bool:
        return (
            turn.kind == "push" or self._voicing.on or (turn.kind == "sound" and self._sounding.on)
        )

    def _go_on(self, turn: _Turn, at: int) -> list[Mark]:
        """What the frame from `at` to `_heard` means for an open turn."""
        marks: list[Mark] = []
        if turn.kind == "sound" and self._lasts(self._voicing):
            turn.kind = "speech"
        if goes_on := self._goes_on(turn):
            if turn.paused:
                marks.append(Resume(decided_at=self._heard))
            turn.offset, turn.paused = None, False
        elif turn.offset is None:
            turn.offset = at
        cap = self._cap(turn)
        if turn.offset is not None:
            end = turn.offset + self.settings.suffix_padding_ms * _MS
            if not turn.paused and end <= min(cap, self._heard):
                turn.paused = True
                marks.append(Pause(at=end, offset=turn.offset, decided_at=self._heard))
            if turn.paused and turn.offset + self.settings.silence_duration_ms * _MS <= self._heard:
                return marks + self._end("silence")
        if cap < self._heard:  # not <=: a sample behind the cap shows whether the voice goes on
            marks += self._end("length", cap)
            if goes_on:
                marks.append(self._start(cap, turn.kind, self._heard))
        return marks

    def _cap(self, turn: _Turn) -> int:
        return turn.at + int(self.settings.max_turn_s * SAMPLE_RATE)

    def _start(self, onset: int, kind: Kind, decided_at: int) -> Start:
        at = max(onset - self.settings.prefix_padding_ms * _MS, self._free_from)
        self._turn = _Turn(at=at, kind=kind)
        return Start(at=at, onset=onset, kind=kind, decided_at=decided_at)

    def _end(self, reason: EndReason, at: int | None = None) -> list[Mark]:
        """Close the turn at sample `at`; by default where its sound ends, if that was heard."""
        turn, self._turn = self._turn, None
        if turn is None:
            return []
        decided_at = self._heard if reason in ("silence", "length") else self.n_pushed
        if at is None:
            at = min(decided_at, self._cap(turn))
            if turn.offset is not None:
                at = min(at, turn.offset + self.settings.suffix_padding_ms * _MS)
        self._free_from = at
        offset = at if turn.offset is None else min(turn.offset, at)
        return [End(at=at, offset=offset, reason=reason, kind=turn.kind, decided_at=decided_at)]
