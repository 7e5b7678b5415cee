"""How the weights of a matrix are stored: a closed set of names, each with its arithmetic."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Blockwise:
    """Codes of `bits` bits; every `block` weights of a row share a scale, perhaps an offset."""

    bits: int
    block: int
    offset: bool = False

    def __post_init__(self) -> None:
        if (
            self.bits not in (4, 8)
            or self.block not in (32, 128)
            or (self.offset and self.bits == 8)
        ):
            raise ValueError(
                "expected 4 or 8 bits in blocks of 32 or 128, with offsets at 4 bits only, got "
                f"{self.bits} bits, block {self.block}, offset {self.offset}"
            )

    @property
    def name(self) -> str:
        """`int4_block32`, or `int4_offset_block32` with offsets."""
        return f"int{self.bits}{'_offset' if self.offset else ''}_block{self.block}"

    @property
    def n_codes(self) -> int:
        """How many values a code can take."""
        return 1 << self.bits

    @property
    def zero(self) -> int:
        """The code that stands for zero before the offset."""
        return self.n_codes // 2

    @property
    def n_bytes_per_block(self) -> int:
        """Bytes of codes in one block."""
        return self.block * self.bits // 8

    def n_blocks(self, n_columns: int) -> int:
        """Blocks in a row of n_columns weights; the last may be partly padding."""
        return -(-n_columns // self.block)


INT8 = Blockwise(8, 32)
INT4 = Blockwise(4, 32)
INT4_OFFSET = Blockwise(4, 32, offset=True)  # GGUF's Q4_1, bit for bit

BLOCKWISE = {
    scheme.name: scheme
    for scheme in (INT8, INT4, INT4_OFFSET, Blockwise(8, 128), Blockwise(4, 128))
}
