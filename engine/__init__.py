"""Samples in, text out: NumPy, ONNX Runtime and a tokenizer, nothing else.

Read the modules in this order and you have followed a sound from samples to text: manifest, audio,
segments, features, encoders, growing, prompt, embedding, kv_cache, decoder, context, hearing,
sampling, beam_search, text, answer, session, engine.
"""

from .answer import Answer
from .audio import Audio, AudioLimits, read_audio
from .beam_search import BeamSearch
from .engine import Engine
from .errors import (
    AudioFormatError,
    CacheError,
    CalibrationError,
    CheckpointError,
    ContextFull,
    DeviceError,
    KokaneeError,
    ManifestError,
    ParityError,
    SessionClosed,
    SourceError,
)
from .growing import EXACT, FAST, Streaming
from .hearing import Heard, Hearing
from .manifest import Manifest, read_manifest
from .sampling import Sampling
from .session import Session

__all__ = [
    "EXACT",
    "FAST",
    "Answer",
    "Audio",
    "AudioFormatError",
    "AudioLimits",
    "BeamSearch",
    "CacheError",
    "CalibrationError",
    "CheckpointError",
    "ContextFull",
    "DeviceError",
    "Engine",
    "Heard",
    "Hearing",
    "KokaneeError",
    "Manifest",
    "ManifestError",
    "ParityError",
    "Sampling",
    "Session",
    "SessionClosed",
    "SourceError",
    "Streaming",
    "read_audio",
    "read_manifest",
]
