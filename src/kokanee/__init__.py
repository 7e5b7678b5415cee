"""Kokanee: audio language models, quantized, on the machine in front of you.

from kokanee import Engine, build_nano, listen, read_audio

with Engine.open(build_nano()) as engine, engine.session() as session:
    session.hear(read_audio("door.wav").pcm)
    for piece in session.ask("What do you hear?"):
        print(piece, end="", flush=True)

with Engine.open(build_nano()) as engine:
    for update in listen(engine):
        print(update)
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kokanee.engine import (
        EXACT,
        FAST,
        BeamSearch,
        Engine,
        KokaneeError,
        Sampling,
        Session,
        read_audio,
    )
    from kokanee.export.nano import build_nano
    from kokanee.runtime.endpoint import TurnDetection
    from kokanee.runtime.listener import Listener, listen
    from kokanee.runtime.listening import Ask, Listening
    from kokanee.runtime.microphone import Microphone
    from kokanee.runtime.sources import Playback

logging.getLogger("kokanee").addHandler(logging.NullHandler())  # silent unless asked

__version__ = "0.1.0"
__all__ = [
    "EXACT",
    "FAST",
    "Ask",
    "BeamSearch",
    "Engine",
    "KokaneeError",
    "Listener",
    "Listening",
    "Microphone",
    "Playback",
    "Sampling",
    "Session",
    "TurnDetection",
    "__version__",
    "build_nano",
    "listen",
    "read_audio",
]

_HOMES = {
    "Ask": "kokanee.runtime.listening",
    "Listener": "kokanee.runtime.listener",
    "Listening": "kokanee.runtime.listening",
    "Microphone": "kokanee.runtime.microphone",
    "Playback": "kokanee.runtime.sources",
    "TurnDetection": "kokanee.runtime.endpoint",
    "build_nano": "kokanee.export.nano",
    "listen": "kokanee.runtime.listener",
}


def __getattr__(name: str) -> Any:
    """Load the public names when they are first used, so that `import kokanee` costs nothing."""
    if name in __all__:
        home = _HOMES.get(name, "kokanee.engine")
        return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'kokanee' has no attribute {name!r}")
