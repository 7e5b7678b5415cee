"""Kokanee: audio language models, quantized, on the machine in front of you.

from kokanee import Engine, build_nano, read_audio

with Engine.open(build_nano()) as engine, engine.session() as session:
    session.hear(read_audio("door.wav").pcm)
    for piece in session.ask("What do you hear?"):
        print(piece, end="", flush=True)
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kokanee.engine import (
        BeamSearch,
        Engine,
        KokaneeError,
        Sampling,
        Session,
        read_audio,
    )
    from kokanee.export.nano import build_nano

logging.getLogger("kokanee").addHandler(logging.NullHandler())  # silent unless asked

__version__ = "0.1.0"
__all__ = [
    "BeamSearch",
    "Engine",
    "KokaneeError",
    "Sampling",
    "Session",
    "__version__",
    "build_nano",
    "read_audio",
]


def __getattr__(name: str) -> Any:
    """Load the public names when they are first used, so that `import kokanee` costs nothing."""
    if name in __all__:
        home = "kokanee.export.nano" if name == "build_nano" else "kokanee.engine"
        return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'kokanee' has no attribute {name!r}")
