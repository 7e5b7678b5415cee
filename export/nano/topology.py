"""Nano's dims -> the weightless graphs and layouts kept beside this file.

    python -m kokanee.export.nano.topology          # needs onnx; the same bytes every time

Building nano on a user's machine then needs no `onnx`, and no torch.
"""

from __future__ import annotations

from kokanee.export import topologies

from .build import ARCHITECTURE, HERE

if __name__ == "__main__":
    topologies.save(ARCHITECTURE, HERE, int8_cache=True)
