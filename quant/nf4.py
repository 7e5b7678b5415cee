"""NF4, bitsandbytes' 4-bit floats: to and from float matrices, and to blocks CPUs are fast with.

Every 64 weights of the row-major matrix share their largest magnitude; a code picks one of 16
fixed levels between -1 and 1, spaced as the quantiles of a normal distribution are:

    w = absmax * LEVELS[code]
    codes   | byte = 16 c0 + c1        (high nibble first, MatMulNBits has the low one first)
            |                          uint8 [n_rows * d_in / 2]
    absmax  | a                        float32 [n_rows * d_in / 64]

Both arrays lie flat, as bitsandbytes and com.microsoft.MatMulBnb4 (quant_type 1) read them. Nested
statistics (compress_statistics) are not read here: `absmax` is what they decode to.

ONNX Runtime's MatMulBnb4 runs on one thread on CPUs (0.76 tokens/s against 12 at 1.1B), so there
`reencoded` weights stand in. Their errors on 1024 x 4096 Gaussian weights, as Frobenius norms
relative to the matrix they are held against:

                          against nf4   against float
    nf4                                        0.0920
    int8_block32               0.0054          0.0922
    int8_block64               0.0061          0.0923
    int4_zeros_block32         0.0707          0.1153
    int4_block32               0.0777          0.1187
    int4_offset_block32        0.0781          0.1206
    int4_zeros_block64         0.0828          0.1227
    int4_block64               0.0886          0.1261
    int4_zeros_block128        0.0937          0.1291
    int4_block128              0.0956          0.1307

Only 8 bits keep what NF4 is; 4 bits quantize a second time, and end further from the float weights
than they would without NF4 in between (int4_zeros_block32 alone: 0.0766).

Source: QLoRA (arXiv 2305.14314), appendix E, for the levels; bitsandbytes 0.50.2,
backends/default/ops.py (quantize_4bit with blocksize 64, dequantize_4bit) for the arithmetic.
Different: rows that are not whole blocks are refused, since a block would span two rows.
"""

from dataclasses import dataclass

import numpy as np

from .blocks import F32, U8, Blocks, quantize, spread
from .fit import least_error
from .schemes import Blockwise

BLOCK = 64  # weights that share an absmax
LEVELS: F32 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)

_BOUNDS: F32 = (LEVELS[:-1] + LEVELS[1:]) / np.float32(
    2
)  # a weight on a bound takes the lower code
_LEAST = np.float32(1e-38)  # an absmax below it divides as if it were this, as in bitsandbytes
_CHUNK = 1 << 16  # blocks quantized at a time: bounds the working copies to some 32 MB each


@dataclass(frozen=True, slots=True, kw_only=True)
class Nf4:
    """One quantized matrix of `shape` [n_rows, d_in]; see the module's drawing for the arrays."""

    codes: U8
    absmax: F32
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        n_rows, d_in = _checked(self.shape)
        for name, array, want in (
            ("codes", self.codes, (n_rows * d_in // 2,)),
            ("absmax", self.absmax, (n_rows * d_in // BLOCK,)),
        ):
            if array.shape != want:
                raise ValueError(
                    f"{name}: expected shape {want} for a matrix {self.shape}, got {array.shape}"
                )


def quantize_nf4(weight: F32) -> Nf4:
    """Quantize `weight` [n_rows, d_in]; no weight moves further than 0.152 of its block's absmax.

    Raises:
        ValueError: d_in is not a multiple of 64.
    """
    n_rows, d_in = _checked(weight.shape)
    blocks = weight.reshape(-1, BLOCK)
    absmax: F32 = np.abs(blocks).max(axis=1)
    inverse = np.float32(1) / np.maximum(absmax, _LEAST)
    codes = np.empty((len(blocks), BLOCK // 2), np.uint8)
    for start in range(0, len(blocks), _CHUNK):
        part = slice(start, start + _CHUNK)
        # times the inverse, as bitsandbytes: a quotient differs where a weight is on a bound
        scaled = np.clip(blocks[part] * inverse[part, None], -1, 1)
        codes[part] = pack_nf4(np.searchsorted(_BOUNDS, scaled).astype(np.uint8))
    return Nf4(codes=codes.reshape(-1), absmax=absmax, shape=(n_rows, d_in))


def dequantize_nf4(nf4: Nf4) -> F32:
    """The float matrix [n_rows, d_in] that the codes stand for."""
    values = LEVELS[unpack_nf4(nf4.codes)].reshape(-1, BLOCK)
    values *= nf4.absmax[:, None]
    return values.reshape(nf4.shape)


def reencoded(nf4: Nf4, scheme: Blockwise) -> Blocks:
    """The same matrix in blocks of `scheme`; the module's table has what that costs.

    8 bits: the scale is the largest magnitude of the block / 127, so that |error| <= absmax / 254.
    4 bits: the scale of least squared error (`fit.least_error`), or `spread`'s for offsets.

    Raises:
        ValueError: 8 bits with zeros, or in blocks of more than 64 weights, where one absmax would
            have to serve two.
    """
    if scheme.bits == 8 and (scheme.zeros or scheme.block > BLOCK):
        raise ValueError(
            f"scheme: expected 8 bits without zeros in blocks of {BLOCK} or less, got {scheme.name}"
        )
    return quantize(dequantize_nf4(nf4), scheme, spread if scheme.bits == 8 else least_error)


def pack_nf4(whole: U8) -> U8:
    """Codes [..., n], one a byte -> [..., n / 2]."""
    packed: U8 = (whole[..., 0::2] << np.uint8(4)) | whole[..., 1::2]
    return packed


def unpack_nf4(packed: U8) -> U8:
    """Undo `pack_nf4`."""
    return np.stack([packed >> np.uint8(4), packed & np.uint8(15)], axis=-1).reshape(
        *packed.shape[:-1], -1
    )


def _checked(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2 or shape[1] % BLOCK:
        raise ValueError(
            f"expected a matrix [n_rows, d_in] with d_in a multiple of {BLOCK}, got shape {shape}"
        )
    return shape[0], shape[1]
