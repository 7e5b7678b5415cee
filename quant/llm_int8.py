"""LLM.int8's weights, one scale a row, as the blocks that MatMulNBits reads.

    row n   | w0 w1 ... w127 | w128 ...         rounded to float16 first
    codes   | int8 + 128     |                  int8 = rint(w * 127 / absmax of the whole row)
    scales  | absmax / 127   | absmax / 127     the row's, in every block

On 2048 x 4096 Gaussian weights the relative error (Frobenius) is 0.0087; blocks of 128 that have
scales of their own come to 0.0065.

The weights are bitsandbytes' to the bit; what they are multiplied with is not:

* bitsandbytes quantizes the activations to 8 bits with one scale a token. Columns in which some
  activation reaches the threshold (6.0) are left out of that: they multiply in float16, with the
  weights that the 8-bit codes stand for.
* MatMulNBits (accuracy_level 4) quantizes them to 8 bits with one scale for every block of a
  token, as long as the weights' blocks. An outlier then coarsens only the 128 activations of its
  block, so no column is taken out. Its rounding is not bitsandbytes', nor are the sums.

Source: LLM.int8() (arXiv 2208.07339), section 3, for the format, QLoRA (arXiv 2305.14314) for how
it compares with 4 bits; bitsandbytes 0.50.2, nn/modules.py (Int8Params._quantize) and
backends/default/ops.py (int8_vectorwise_quant) for the arithmetic. Different: a row of zeros has
the codes of zero by intent, where bitsandbytes divides by zero.
"""

import numpy as np

from .blocks import F32, Blocks, Grid, concat, from_grid, padded
from .schemes import Blockwise

INT8_ROWS = Blockwise(8, 128)
"""The scheme of the blocks; the longest there is, as every block repeats its row's scale."""

_CHUNK = 1 << 22  # weights quantized at a time: bounds the working copies to some 16 MB each


def quantize_rows(weight: F32) -> Blocks:
    """Quantize each row of `weight` [n_rows, d_in] by its largest magnitude, a few rows at a time.

    Against the weights in float16, |error| <= absmax of the row / 254.

    Raises:
        ValueError: a weight is not finite in float16.
    """
    n_rows, d_in = weight.shape
    step = max(1, _CHUNK // max(1, d_in))
    return concat(
        [_quantized(weight[start : start + step]) for start in range(0, max(1, n_rows), step)]
    )


def _quantized(weight: F32) -> Blocks:
    with np.errstate(over="ignore"):  # reported below
        half = weight.astype(np.float16).astype(np.float32)
    blocks = padded(half, INT8_ROWS)  # [n_rows, n_blocks, 128]
    absmax: F32 = np.abs(blocks).max(axis=(1, 2), initial=0)
    if not np.isfinite(absmax).all():
        raise ValueError(
            f"weight: expected finite float16 numbers, got magnitudes up to {np.abs(weight).max()}"
        )
    # 1 / absmax, then times 127, as torch evaluates 127 / absmax: the last bit decides some codes
    steps = np.float32(1) / np.where(absmax == 0, np.float32(1), absmax) * np.float32(127)
    codes = np.rint(blocks * steps[:, None, None]) + np.float32(INT8_ROWS.zero)
    scales = np.repeat((absmax / np.float32(127))[:, None], blocks.shape[1], axis=1)
    return from_grid(Grid(scales), codes.astype(np.uint8), INT8_ROWS, weight.shape[1])
