"""How the weights of a matrix are stored: a closed set of names, each with its arithmetic."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Blockwise:
    """Codes of `bits` bits; every `block` weights of a row share a scale.

    With `zeros` a block also says which code stands for zero, with `offset` what is added to it.
    """

    bits: int
    block: int
    offset: bool = False
    zeros: bool = False

    def __post_init__(self) -> None:
        if (
            self.bits not in (4, 8)
            or self.block not in (32, 64, 128)
            or (self.offset and (self.bits == 8 or self.zeros))
        ):
            raise ValueError(
                "expected 4 or 8 bits in blocks of 32, 64 or 128, with zeros, or with offsets at 4"
                f" bits, or with neither, got {self.bits} bits, block {self.block}, offset"
                f" {self.offset}, zeros {self.zeros}"
            )

    @property
    def name(self) -> str:
        """`int4_block32`, `int4_zeros_block32`, or `int4_offset_block32`."""
        kind = "_offset" if self.offset else "_zeros" if self.zeros else ""
        return f"int{self.bits}{kind}_block{self.block}"

    @property
    def n_codes(self) -> int:
        """How many values a code can take."""
        return 1 << self.bits

    @property
    def zero(self) -> int:
        """The code that stands for zero where a block does not say."""
        return self.n_codes // 2

    @property
    def n_bytes_per_block(self) -> int:
        """Bytes of codes in one block."""
        return self.block * self.bits // 8

    def n_blocks(self, n_columns: int) -> int:
        """Blocks in a row of n_columns weights; the last may be partly padding."""
        return -(-n_columns // self.block)

    def n_bytes_of_zeros(self, n_columns: int) -> int:
        """Bytes of packed zeros in a row."""
        return -(-self.n_blocks(n_columns) * self.bits // 8)


INT8 = Blockwise(8, 32)
INT4 = Blockwise(4, 32)
INT4_OFFSET = Blockwise(4, 32, offset=True)  # GGUF's Q4_1, bit for bit

BLOCKWISE = {
    scheme.name: scheme
    for scheme in (
        INT4_OFFSET,
        *(
            Blockwise(bits, block, zeros=zeros)
            for bits in (8, 4)
            for block in (32, 64, 128)
            for zeros in (False, True)
        ),
    )
}


Rounding = Literal["nearest", "least_error", "gptq", "nf4", "rows"]
"""How codes are chosen.

nearest: each weight's nearest, on the outermost weight's scale. least_error: on the scale of least
error where the inputs are large. gptq: one after the other, each making good the last one's error.
nf4: NF4's values. rows: int8 with one scale a row, as in LLM.int8.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmScheme:
    """How a language model is stored, and how its codes are chosen."""

    packing: str  # of the layers' matrices
    head_packing: str  # of the head; a tied head is always in TIED_HEAD
    rounding: Rounding = "nearest"
    says: str

    @property
    def calibrates(self) -> bool:
        """Whether prompts must be seen first."""
        return self.rounding in ("least_error", "gptq")


TIED_HEAD = INT8.name  # blocks of 32, as the engine looks embeddings up

LLM_SCHEMES = {
    "int8": LlmScheme(
        packing="int8_block128", head_packing="int8_block128", says="8 bits, blocks of 128"
    ),
    "int8_block32": LlmScheme(
        packing="int8_block32", head_packing="int8_block32", says="8 bits, blocks of 32"
    ),
    "int4": LlmScheme(
        packing="int4_block32", head_packing="int8_block32", says="4 bits, rounded to nearest"
    ),
    "int4_block128": LlmScheme(
        packing="int4_block128", head_packing="int8_block128", says="the same in blocks of 128"
    ),
    "kq4": LlmScheme(
        packing="int4_block32",
        head_packing="int8_block32",
        rounding="least_error",
        says="4 bits, scales of least error where the inputs are large (as k-quants)",
    ),
    "gptq4": LlmScheme(
        packing="int4_zeros_block32",
        head_packing="int8_block32",
        rounding="gptq",
        says="4 bits, GPTQ, blocks of 32 with zeros",
    ),
    "gptq4_block128": LlmScheme(
        packing="int4_zeros_block128",
        head_packing="int8_block128",
        rounding="gptq",
        says="4 bits, GPTQ, blocks of 128: smallest and fastest",
    ),
    "nf4": LlmScheme(
        packing="int8_block64",
        head_packing="int8_block128",
        rounding="nf4",
        says="bitsandbytes' NF4 values, carried in 8-bit codes, for a CPU has no fast NF4",
    ),
    "llm_int8": LlmScheme(
        packing="int8_block128",
        head_packing="int8_block128",
        rounding="rows",
        says="bitsandbytes' LLM.int8 weights",
    ),
}
