"""Every exception that Kokanee raises on purpose.

    KokaneeError
    +-- AudioFormatError      the sound cannot be used: convert or shorten it
    +-- ManifestError         the bundle is broken: build or fetch it again
    +-- CheckpointError       weights with other names or shapes than the model's
    +-- CalibrationError      a calibration set is empty, too short or unreadable
    +-- ParityError           a graph disagrees with its reference
    |   +-- NameMismatch
    |   +-- ShapeMismatch
    |   +-- ValueMismatch
    +-- ContextFull           no room in the KV cache: trim, or open a larger session
    +-- SessionClosed         used after close(): open another one
    +-- SourceError           a weight file could not be had, or is not the pinned one
    +-- CacheError            the cache folder cannot be written: free or move it
    +-- DeviceError           the requested device does not start here
    +-- Interrupted           another thread cancelled what this one computed

A caller's own mistake (a wrong type, a negative count) is a TypeError or a ValueError.
"""


class KokaneeError(Exception):
    """Root of the tree; its text is one sentence for a person."""


class AudioFormatError(KokaneeError):
    """The file or the samples cannot be used: convert, shorten or repair the recording."""


class ManifestError(KokaneeError):
    """A bundle is incomplete, altered or of another format: build or fetch it again."""


class CheckpointError(KokaneeError):
    """Weights lack a tensor, have one too many, or one of another shape: take the right file."""


class CalibrationError(KokaneeError):
    """A calibration set is empty, too short, or not readable: give more, or another file."""


class ParityError(KokaneeError):
    """A graph disagrees with its reference: do not ship it."""


class NameMismatch(ParityError):  # noqa: N818 - reads as what happened
    """The graph's inputs or outputs are called otherwise than the reference's."""


class ShapeMismatch(ParityError):  # noqa: N818
    """An output has another shape than the reference's."""


class ValueMismatch(ParityError):  # noqa: N818
    """An output is further from the reference than its tolerance."""


class ContextFull(KokaneeError):  # noqa: N818
    """The KV cache has no room left: ask something shorter, or open a larger session."""


class SessionClosed(KokaneeError):  # noqa: N818
    """The engine or session was closed: open another one."""


class SourceError(KokaneeError):
    """A weight file could not be fetched, or its hash is not the pinned one: try again."""


class CacheError(KokaneeError):
    """The cache folder cannot be written: free some space, or choose another folder."""


class DeviceError(KokaneeError):
    """The requested device does not start on this machine: choose another one."""


class Interrupted(KokaneeError):  # noqa: N818
    """Another thread cancelled this while it was computed: nothing is lost, ask again."""
