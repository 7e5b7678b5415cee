"""Speech out of games' files: what is packed comes out, what is damaged says so."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.talkies import _unpacked, drascula_lines, sky_lines

Runs = list[tuple[bytes, tuple[int, int] | None]]  # literals, then (how far back, how many)


class Writer:
    """Bits from the lowest of 16-bit words up; a word begins where its first bit is wanted."""

    def __init__(self) -> None:
        self.out = bytearray()
        self._at = self._n = 0

    def bits(self, value: int, n: int) -> None:
        for i in range(n):
            if not self._n:
                self._at, self._n = len(self.out), 16
                self.out += b"\0\0"
            word = int.from_bytes(self.out[self._at : self._at + 2], "little")
            word |= (value >> i & 1) << 16 - self._n
            self.out[self._at : self._at + 2] = word.to_bytes(2, "little")
            self._n -= 1

    def number(self, value: int) -> None:
        """In a code of sixteen words of four bits: the count of bits, then all but the first."""
        n = value.bit_length()
        self.bits(int(f"{n:04b}"[::-1], 2), 4)
        if n > 1:
            self.bits(value - (1 << n - 1), n - 1)


def packed(blocks: list[Runs], size: int) -> bytes:
    w = Writer()
    w.bits(0, 2)
    for runs in blocks:
        for _ in range(3):
            w.bits(16, 5)
            for _ in range(16):
                w.bits(4, 4)
        w.bits(len(runs), 16)
        for i, (literals, repeat) in enumerate(runs):
            w.number(len(literals))
            w.out += literals
            if i + 1 < len(runs):
                assert repeat is not None
                w.number(repeat[0] - 1)
                w.number(repeat[1] - 2)
    return b"RNC\x01" + struct.pack(">II", size, len(w.out)) + bytes(6) + bytes(w.out)


@st.composite
def texts(draw: st.DrawFn) -> tuple[list[Runs], bytes]:
    """Blocks, and what is in them."""
    blocks, whole = [], bytearray()
    for _ in range(draw(st.integers(1, 3))):
        runs: Runs = []
        for _ in range(draw(st.integers(1, 4))):
            literals = draw(st.binary(min_size=0 if whole else 1, max_size=40))
            whole += literals
            back, n = draw(st.integers(1, len(whole))), draw(st.integers(2, 60))
            runs.append((literals, (back, n)))
            for _ in range(n):
                whole.append(whole[-back])
        if runs[-1][1] is not None:  # a block's last literals are followed by no repeat
            del whole[len(whole) - runs[-1][1][1] :]
        blocks.append(runs)
    return blocks, bytes(whole)


@given(texts())
def test_what_is_packed_comes_out(text: tuple[list[Runs], bytes]) -> None:
    blocks, whole = text
    assert _unpacked(packed(blocks, len(whole))) == whole


def test_what_is_not_packed_stays_as_it_is() -> None:
    assert _unpacked(b"no pack") == b"no pack"


def test_a_repeat_of_what_was_never_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="damaged"):
        _unpacked(packed([[(b"a", (9, 4)), (b"", None)]], 5))


def test_lines_without_texts_are_found_by_their_numbers(tmp_path: Path) -> None:
    plain, other = bytes(range(100, 140)), b"no speech at all"
    line = bytes(22) + packed([[(plain, None)]], len(plain))
    gap = bytes(-(len(other) + len(line)) % 16)  # places may be counted in 16 bytes
    (tmp_path / "sky.dsk").write_bytes(other + line + gap + bytes(22) + plain)
    index = [
        (17, 0, len(other)),
        (50_001, len(other), len(line)),
        (50_002, 1 << 23 | len(other + line + gap) // 16, 22 + len(plain)),
    ]
    rows = [
        struct.pack("<H", n) + at.to_bytes(3, "little") + size.to_bytes(3, "little")
        for n, at, size in index
    ]
    (tmp_path / "sky.dnr").write_bytes(struct.pack("<I", len(rows)) + b"".join(rows))
    lines = dict(sky_lines(tmp_path))
    assert set(lines) == {"50001", "50002"}
    assert all(np.array_equal(pcm, list(plain)) for pcm in lines.values())


def test_lines_are_paired_with_their_english_texts(tmp_path: Path) -> None:
    def entries(*texts: str) -> bytes:
        coded = [text.encode("cp850") + b"\0" for text in texts]
        return b"".join(struct.pack(">I", 4 + len(c)) + c for c in coded)

    def language(body: bytes) -> bytes:
        return struct.pack(">H", len(body)) + body

    n_texts, size = 0x01F5, 0x4E42  # of the first list, which is found by them
    body = entries("hello there", *[""] * (n_texts - 2), "caf\u00e9")
    body += bytes(size - len(body))
    others = 9 * (struct.pack(">H", 0) + 6 * language(b""))
    (tmp_path / "drascula.dat").write_bytes(
        b"junk" + struct.pack(">HH", n_texts, size) + body + 5 * language(b"") + others
    )
    for name in ("0.ALS", "500.als", "7.ALS", "0.txt"):
        (tmp_path / name).write_bytes(bytes([128, 130]))
    found = {name: text for name, _, text in drascula_lines(tmp_path, tmp_path / "drascula.dat")}
    assert found == {"0": "hello there", "500": "caf\u00e9"}


def test_what_ends_too_early_is_an_error() -> None:
    whole = packed([[(b"a" * 40, None)]], 40)
    for n in (18, 30, len(whole) - 30):
        with pytest.raises(ValueError, match="damaged"):
            _unpacked(whole[:n])
