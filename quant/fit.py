"""Scales (and zeros) of blocks that lose least, where `blocks.spread` takes the outermost weight.

Source: the search in llama.cpp's k-quants (ggml-quants.c, make_qx_quants): try scales around the
outermost weight's, round, and take for each the scale that then fits best in weighted least
squares. Here one search serves symmetric blocks and blocks with a zero, and the weight of an error
is the mean square of the input that meets it, where that is known.
"""

from functools import partial

import numpy as np

from .blocks import F32, Fit, Grid, spread, zero_codes
from .schemes import Blockwise

_SHRINK = np.linspace(1.1, 0.55, 12, dtype=np.float32)  # of the outermost weight's scale


def least_error(blocks: F32, scheme: Blockwise, *, importance: F32 | None = None) -> Grid:
    """The grid of least weighted squared error among the candidates, for every block by itself.

    Args:
        blocks: [n_rows, n_blocks, block].
        scheme: how they are stored; offsets keep `spread`'s grid.
        importance: [n_blocks, block], of a column's error; by default all count alike.
    """
    best = spread(blocks, scheme)
    if scheme.offset:
        return best
    weight = np.ones(1, np.float32) if importance is None else importance
    scales, zeros = best.scales.copy(), None if best.zeros is None else best.zeros.copy()
    least = _loss(blocks, best, scheme, weight)
    low = np.minimum(blocks.min(axis=2), np.float32(0))
    for shrink in _SHRINK:
        tried = Grid(best.scales * shrink, zeros=best.zeros)
        if scheme.zeros:
            tried = Grid(tried.scales, zeros=zero_codes(low * shrink, tried.scales))
        tried = _refitted(blocks, tried, scheme, weight)
        loss = _loss(blocks, tried, scheme, weight)
        better = loss < least
        least = np.where(better, loss, least)
        scales = np.where(better, tried.scales, scales)
        if zeros is not None and tried.zeros is not None:
            zeros = np.where(better, tried.zeros, zeros)
    return Grid(scales, zeros=zeros)


def weighted(importance: F32, scheme: Blockwise) -> Fit:
    """`least_error` for a matrix whose column errors count as much as `importance` [n_columns]."""
    n_blocks = scheme.n_blocks(len(importance))
    filled = np.zeros(n_blocks * scheme.block, np.float32)
    filled[: len(importance)] = importance
    return partial(least_error, importance=filled.reshape(n_blocks, scheme.block))


def _refitted(blocks: F32, grid: Grid, scheme: Blockwise, weight: F32) -> Grid:
    """The same codes with the scale that fits them best."""
    steps = Grid(np.ones_like(grid.scales), zeros=grid.zeros).values(
        grid.codes(blocks, scheme), scheme
    )
    over = (weight * blocks * steps).sum(axis=2)
    under = (weight * steps * steps).sum(axis=2)
    scales = np.divide(over, under, out=grid.scales.copy(), where=under > 0)
    return Grid(scales, zeros=grid.zeros)


def _loss(blocks: F32, grid: Grid, scheme: Blockwise, weight: F32) -> F32:
    error = grid.values(grid.codes(blocks, scheme), scheme) - blocks
    loss: F32 = (weight * error * error).sum(axis=2)
    return loss
