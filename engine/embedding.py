"""Token ids to embeddings, row by row from the mapped weight file."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ManifestError
from .manifest import Table

F32 = npt.NDArray[np.float32]

_ZERO = np.float32(128)  # the code that stands for 0


class Embedding:
    """The table [n_vocab, d_model], never held in memory; only the pages of rows that are asked
    for are read. With a tied head these are the head's own bytes in the LLM's weight file.

    Safe to use from any thread.
    """  # noqa: D205 - one sentence

    def __init__(self, folder: Path, table: Table, *, n_vocab: int, d_model: int) -> None:
        """Map the table.

        Raises:
            ManifestError: the file is too short for it.
        """
        self._n_vocab, self._d_model = n_vocab, d_model
        with (folder / table.file).open("rb") as file:
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

        def mapped(dtype: str, offset: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
            n_values = int(np.prod(shape))
            if len(self._mapping) < offset + np.dtype(dtype).itemsize * n_values:
                raise ManifestError(f"{table.file}: too short for an embedding of {n_vocab} tokens")
            return np.frombuffer(self._mapping, dtype, n_values, offset).reshape(shape)

        if table.block is None or table.scales_offset is None:
            dtype = f"<f{np.dtype(table.dtype).itemsize}"
            self._values = mapped(dtype, table.offset, (n_vocab, d_model))
            self._scales = None
        else:
            n_blocks = -(-d_model // table.block)
            self._values = mapped("u1", table.offset, (n_vocab, n_blocks, table.block))
            self._scales = mapped("<f4", table.scales_offset, (n_vocab, n_blocks, 1))

    def release(self) -> None:
        """Let go of the pages that were read: they are the system's to keep, not the process's.

        What is wanted again comes back from the system's copy of the file.
        """
        if hasattr(mmap, "MADV_DONTNEED"):  # Windows has no such thing
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def rows(self, ids: Sequence[int]) -> F32:
        """Embeddings of these tokens, [n_ids, d_model].

        Raises:
            ValueError: an id outside the vocabulary.
        """
        index = np.asarray(ids, np.int64)
        if index.size and not 0 <= index.min() <= index.max() < self._n_vocab:
            raise ValueError(f"token ids: expected 0 to {self._n_vocab - 1}, got {list(ids)}")
        values: F32 = self._values[index].astype(np.float32)
        if self._scales is None:
            return values
        values -= _ZERO
        values *= self._scales[index]
        _, n_blocks, block = values.shape
        return values.reshape(len(index), n_blocks * block)[:, : self._d_model]
