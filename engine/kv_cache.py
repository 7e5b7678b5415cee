"""The attention's memory: one buffer per layer for keys and one for values, of fixed size."""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import ContextFull

_F32 = np.dtype(np.float32)


def untouched_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Zeros that take memory only where they are written, in small pages.

    np.zeros asks the system for huge pages. A head's positions lie n_ctx rows apart, so that the
    first hundred of 2048 would already fill the whole cache: 2 GB at 7B, to be cleared during the
    first prefill, which then takes twice as long.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if sys.platform == "win32":  # has no huge pages unless asked
        pages = mmap.mmap(-1, n_bytes)
    else:
        pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)


class KVCache:
    """Room for n_ctx positions, allocated at birth; `length` says how many hold something.

    The decoder writes rows behind `length` in place and then calls `append`. Trimming only lowers
    the number: what lies behind it is never read again, so going back is free and exact.
    """

    def __init__(
        self,
        *,
        n_layers: int,
        n_kv_heads: int,
        n_ctx: int,
        d_head: int,
        dtype: np.dtype[Any] = _F32,
        allocate: Callable[[tuple[int, ...], np.dtype[Any]], Any] = untouched_zeros,
    ) -> None:
        shape = (1, n_kv_heads, n_ctx, d_head)
        self.layers: list[tuple[Any, Any]] = [
            (allocate(shape, dtype), allocate(shape, dtype)) for _ in range(n_layers)
        ]
        """(keys, values) of each layer, [1, n_kv_heads, n_ctx, d_head]; rotary is in the keys."""
        self._layer_bytes = 2 * math.prod(shape) * dtype.itemsize
        self.n_ctx = n_ctx
        self.length = 0

    @property
    def room(self) -> int:
        """Positions still free."""
        return self.n_ctx - self.length

    @property
    def n_bytes(self) -> int:
        """Size of the buffers, used or not."""
        return len(self.layers) * self._layer_bytes

    def check_room(self, n_new: int) -> None:
        """Make sure that n_new more positions fit.

        Raises:
            ContextFull: they do not.
        """
        if n_new > self.room:
            raise ContextFull(
                f"{n_new} more positions do not fit: {self.length} of {self.n_ctx} are taken;"
                " trim the cache, or open a session with a larger n_ctx"
            )

    def append(self, n_new: int) -> None:
        """Count n_new positions that were just written.

        Raises:
            ContextFull: as `check_room`.
        """
        self.check_room(n_new)
        self.length += n_new

    def trim(self, length: int) -> None:
        """Go back to the first `length` positions.

        Raises:
            ValueError: more positions than there are.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"trim: expected 0 to {self.length} positions, got {length}")
        self.length = length
