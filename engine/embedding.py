"""Token ids to embeddings, dequantized row by row from the mapped weight file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import ManifestError
from .manifest import Table

F32 = npt.NDArray[np.float32]

_ZERO = np.float32(128)  # the code that stands for 0


class Embedding:
    """The table [n_vocab, d_model], never held as floats; only the pages of rows that are asked
    for are read. With a tied head these are the head's own bytes in the LLM's weight file.

    Safe to use from any thread.
    """  # noqa: D205 - one sentence

    def __init__(self, folder: Path, table: Table, *, n_vocab: int, d_model: int) -> None:
        """Map the table.

        Raises:
            ManifestError: the file is too short for it.
        """
        n_blocks = -(-d_model // table.block)
        self._n_vocab, self._d_model = n_vocab, d_model
        path = folder / table.file
        codes_end = table.codes_offset + n_vocab * n_blocks * table.block
        scales_end = table.scales_offset + n_vocab * n_blocks * 4
        if path.stat().st_size < max(codes_end, scales_end):
            raise ManifestError(f"{table.file}: too short for an embedding of {n_vocab} tokens")
        self._codes = np.memmap(
            path, np.uint8, "r", table.codes_offset, (n_vocab, n_blocks, table.block)
        )
        self._scales = np.memmap(path, "<f4", "r", table.scales_offset, (n_vocab, n_blocks, 1))

    def rows(self, ids: Sequence[int]) -> F32:
        """Embeddings of these tokens, [n_ids, d_model].

        Raises:
            ValueError: an id outside the vocabulary.
        """
        index = np.asarray(ids, np.int64)
        if index.size and not 0 <= index.min() <= index.max() < self._n_vocab:
            raise ValueError(f"token ids: expected 0 to {self._n_vocab - 1}, got {list(ids)}")
        blocks = self._codes[index].astype(np.float32)
        blocks -= _ZERO
        blocks *= self._scales[index]
        n_blocks, block = blocks.shape[1:]
        return blocks.reshape(len(index), n_blocks * block)[:, : self._d_model]
