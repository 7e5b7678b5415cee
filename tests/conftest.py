"""Bundles that many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tiny import tiny_bundle

from kokanee.engine import Engine
from kokanee.export.nano import build_nano

settings.register_profile("kokanee", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("kokanee")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer bundle; do not write into it."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    tiny_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_engine(tiny: Path) -> Iterator[Engine]:
    """The same, open."""
    with Engine.open(tiny, device="cpu", threads=1) as engine:
        yield engine


@pytest.fixture(scope="session")
def nano() -> Path:
    """The default bundle, built on first use; for tests marked `artefact`."""
    return build_nano()
