"""GPTQ: codes chosen one column after the other, each error made good in the columns still to come.

    inputs [n, d_in] --> H = X^T X, damped --> order of columns, factor of the inverse
    for every column:  code of w  -->  error / factor  -->  taken from the columns behind it

Source: GPTQ (arXiv 2210.17323), algorithm 1, and the reference's options: columns in the order of
the diagonal ("act-order"), scales fixed before the first column ("static groups"), so that the
order leaves no trace in the file and no g_idx is needed. Different from the reference: a block's
scale has the least error weighted by H's diagonal (`fit.weighted`), not the largest weight.
"""

from __future__ import annotations

import numpy as np

from . import fit
from .blocks import F32, Blocks, fitted, from_grid, padded
from .schemes import Blockwise

# Of the mean of H's diagonal, added to it. With a thousand positions of calibration, fewer than the
# widest input has channels, 0.05 is nearer than the paper's 0.01 (nano: KL 0.105 against 0.123).
_DAMP = 0.05
_LAZY = 32  # columns between updates of all that is behind them


def hessian(x: F32) -> F32:
    """X^T X / n of inputs [n, d_in]."""
    product: F32 = x.T @ x / np.float32(max(1, len(x)))
    return product


def gptq(weight: F32, h: F32, scheme: Blockwise, *, damp: float = _DAMP) -> Blocks:
    """Quantize [n_rows, d_in] so that its products with inputs like those behind `h` change least.

    Args:
        weight: the matrix.
        h: `hessian` of what it is multiplied with, [d_in, d_in].
        scheme: how it is stored.
        damp: share of the mean diagonal that is added to the diagonal.

    Raises:
        ValueError: `h` has another width, is not finite, or the scheme has offsets.
    """
    if scheme.offset:
        raise ValueError(f"{scheme.name}: expected a scheme without offsets")
    n_rows, d_in = weight.shape
    if h.shape != (d_in, d_in):
        raise ValueError(f"h: expected shape {(d_in, d_in)}, got {h.shape}")
    if not np.isfinite(h).all():
        raise ValueError("h: expected finite numbers; the calibration inputs overflow")
    diagonal = np.diagonal(h)
    blocks = padded(weight, scheme)
    # The scales are those of the weights as they came; inputs that are never there count a little.
    importance = diagonal + np.float32(damp) * diagonal.mean() + np.float32(1e-12)
    grid = fitted(blocks, scheme, fit.weighted(importance, scheme))
    order = np.argsort(-diagonal, kind="stable")
    factor = _factor(h[np.ix_(order, order)], damp)
    # Transposed: a column of the matrix is then a row in memory, as the loop below wants it.
    left = np.ascontiguousarray(weight.T[order])
    codes = np.empty((d_in, n_rows), np.uint8)
    scales = np.ascontiguousarray(np.where(grid.scales == 0, 1, grid.scales).T, np.float32)
    zeros = np.full_like(scales, scheme.zero)
    if grid.zeros is not None:
        zeros = np.ascontiguousarray(grid.zeros.T, np.float32)
    top = np.float32(scheme.n_codes - 1)
    for start in range(0, d_in, _LAZY):
        end = min(start + _LAZY, d_in)
        errors = np.empty((end - start, n_rows), np.float32)
        for i in range(start, end):
            scale, zero = (m[order[i] // scheme.block] for m in (scales, zeros))
            code = np.clip(np.floor(left[i] / scale + zero + np.float32(0.5)), 0, top)
            codes[order[i]] = code
            errors[i - start] = (left[i] - (code - zero) * scale) / factor[i, i]
            left[i + 1 : end] -= factor[i, i + 1 : end, None] * errors[i - start]
        left[end:] -= factor[start:end, end:].T @ errors
    whole = grid.codes(np.zeros_like(blocks), scheme).reshape(n_rows, -1)  # padding stands for zero
    whole[:, :d_in] = codes.T
    return from_grid(grid, whole.reshape(blocks.shape), scheme, d_in)


def _factor(h: F32, damp: float) -> F32:
    """Upper U with U^T U = H^-1, damped until H is positive definite."""
    mean = max(float(np.diagonal(h).mean()), 1e-12)
    at = np.arange(len(h))
    for _ in range(6):
        damped = h.copy()
        damped[at, at] += damp * mean
        try:
            # With J turning the order round and J H J = L L^T, U is J L^-1 J.
            lower = np.linalg.cholesky(damped[::-1, ::-1])
            return np.ascontiguousarray(np.linalg.inv(lower)[::-1, ::-1])
        except np.linalg.LinAlgError:
            damp *= 10
    raise ValueError("h: not positive semi-definite, even damped")
