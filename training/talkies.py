"""Acted English speech out of three freeware games.

The layouts are facts about the files, checked on the bytes; no engine's code was used.

Flight of the Amazon Queen has exact texts. It keeps everything in `queen.1c`: a table of named
members, speech as MP3 (`*.SB`), texts in plain tables (`*.CUT`, `*.DOG`, `QUEEN2.JAS`).
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]

_STAGE_MARK = re.compile(r"\*(?:[A-Z]{2}|\d\d|[A-Z0-9]{2})")


def unpack_fotaq(queen: Path, out: Path) -> dict[str, str]:
    """Writes the members of `queen.1c` under `out` and returns {MP3 file name: text}."""
    blob = queen.read_bytes()
    (n_members,) = struct.unpack(">H", blob[13:15])
    out.mkdir(parents=True, exist_ok=True)
    recordings: dict[str, str] = {}
    for i in range(n_members):
        entry = blob[15 + 21 * i : 36 + 21 * i]
        name = entry[:12].split(b"\0")[0].decode()
        _, offset, size = struct.unpack(">BII", entry[12:21])
        body = blob[offset : offset + size]
        if name.endswith(".SB") and body[:1] == b"\xff":
            name += ".mp3"
            recordings[name.split(".")[0]] = name
        (out / name).write_bytes(body)
    texts = _fotaq_texts(out, set(recordings))
    return {recordings[key]: text for key, text in texts.items()}


def _fotaq_texts(folder: Path, keys: set[str]) -> dict[str, str]:
    texts: dict[str, str] = {}

    def put(prefix: str, line: str) -> None:
        for k, segment in enumerate(_STAGE_MARK.split(line), 1):
            key = f"{prefix}{k:x}".upper()
            text = " ".join(segment.replace("^_", "").replace("^", "").split())
            if key in keys and text:
                texts.setdefault(key, text)

    for path in sorted(folder.iterdir()):
        if path.suffix == ".CUT":
            for i, line in enumerate(_cut_lines(path.read_bytes()), 1):
                put(f"{path.stem.ljust(5, '_')}{i:02d}", line)
        elif path.suffix == ".DOG":
            blob = path.read_bytes()
            (talk_key,) = struct.unpack(">h", blob[0x18:0x1A])
            split = struct.unpack(">H", blob[0x2A:0x2C])[0] + 20
            for start, number, line in _dog_lines(blob):
                put(f"{talk_key:02d}{number:04X}{'J' if start < split else 'P'}", line)
    lines = (folder / "QUEEN2.JAS").read_bytes().replace(b"\r\n", b"\n").decode("cp437").split("\n")
    for i, line in enumerate(lines[:1428]):
        put(f"JOE{i + 41:04d}", line)
    return texts


def _cut_lines(blob: bytes) -> list[str]:
    at = struct.unpack(">H", blob[0x1C:0x1E])[0] + 20
    at += blob[at] == 0
    lines = []
    while at < len(blob):
        size = blob[at]
        raw = blob[at + 1 : at + 1 + size]
        if any(c < 32 for c in raw):
            break
        lines.append(raw.decode("cp437"))
        at += 1 + size
        at += bool(size and at & 1)
    return lines


def _dog_lines(blob: bytes) -> list[tuple[int, int, str]]:
    found = []
    for match in re.finditer(rb"[\x20-\x7e]{2,}", blob):
        # The length byte before a text may itself be printable, hence two possible starts.
        for start in (match.start(), match.start() + 1):
            if start < 3:
                continue
            number, size = struct.unpack(">HB", blob[start - 3 : start])
            end = start + size
            whole = end <= len(blob) and all(32 <= c < 127 for c in blob[start:end])
            if not (0 < number < 0x1000 and size >= 2 and whole):
                continue
            if end < match.end() and 32 <= blob[end] < 127:
                continue
            found.append((start, number, blob[start:end].decode()))
            break
    return found


# --- Beneath a Steel Sky --------------------------------------------------------------------------
#
# `sky.dnr` lists the files that `sky.dsk` holds: number (u16), place (24 bits, the top one: counted
# in 16 bytes) and size (22 bits). From 50,000 on they are speech, 22 bytes of header and then
# samples of 8 bits at 11,025 Hz, mostly packed by Rob Northen's method 1. There are no texts.

RATE_8_BIT = 11_025
_SKY_SPEECH = range(50_000, 60_000)


def sky_lines(folder: Path) -> Iterator[tuple[str, U8]]:
    """Names and samples [n_samples], 128 is silence, of the spoken lines."""
    index, blob = (folder / "sky.dnr").read_bytes(), (folder / "sky.dsk").read_bytes()
    for i in range(int.from_bytes(index[:4], "little")):
        entry = index[4 + 8 * i : 12 + 8 * i]
        number = int.from_bytes(entry[:2], "little")
        place = int.from_bytes(entry[2:5], "little")
        size = int.from_bytes(entry[5:8], "little") & 0x3FFFFF
        if number in _SKY_SPEECH:
            at = (place & 0x7FFFFF) << (4 if place >> 23 else 0)
            body = blob[at + 22 : at + size]
            yield str(number), np.frombuffer(_unpacked(body), np.uint8)


class _Bits:
    """Bits from the lowest of 16-bit words up, with whole bytes in between."""

    def __init__(self, blob: bytes, at: int) -> None:
        self.blob, self.at = blob, at
        self._held = self._n = 0  # bits of the last word that are left, and how many

    def ahead(self) -> int:
        """The next 16 bits, not yet taken."""
        word = int.from_bytes(self.blob[self.at : self.at + 2], "little")
        return self._held | word << self._n

    def drop(self, n: int) -> None:
        held = self.ahead() if n > self._n else self._held
        if n > self._n:
            self.at += 2
            self._n += 16
        self._held, self._n = held >> n, self._n - n

    def take(self, n: int) -> int:
        value = self.ahead() & (1 << n) - 1
        self.drop(n)
        return value


_Codes = dict[tuple[int, int], int]  # (length, bits as they come) -> symbol


def _codes(bits: _Bits) -> _Codes:
    """A canonical Huffman code from the lengths of its words."""
    lengths = [bits.take(4) for _ in range(bits.take(5))]
    codes, word = {}, 0
    for length in range(1, 17):
        for symbol, of in enumerate(lengths):
            if of == length:
                codes[length, int(f"{word:0{length}b}"[::-1], 2)] = symbol
                word += 1
        word <<= 1
    return codes


def _symbol(bits: _Bits, codes: _Codes) -> int:
    """The next number: its count of bits is coded, all but the first of them follow."""
    ahead = bits.ahead()
    for length in range(1, 17):
        symbol = codes.get((length, ahead & (1 << length) - 1))
        if symbol is not None:
            bits.drop(length)
            return symbol if symbol < 2 else 1 << symbol - 1 | bits.take(symbol - 1)
    raise ValueError("no such code: the file is damaged")


def _unpacked(blob: bytes) -> bytes:
    """What Rob Northen's method 1 has packed; other blobs as they are."""
    if blob[:4] != b"RNC\x01":
        return blob
    size, bits, out = int.from_bytes(blob[4:8], "big"), _Bits(blob, 18), bytearray()
    bits.drop(2)
    while len(out) < size:
        if bits.at >= len(blob):
            raise ValueError("it ends too early: the file is damaged")
        literals, distances, lengths = _codes(bits), _codes(bits), _codes(bits)
        n_runs = bits.take(16)
        for i in range(n_runs):
            n = _symbol(bits, literals)
            out += blob[bits.at : bits.at + n]
            bits.at += n
            if i + 1 < n_runs:
                back = _symbol(bits, distances) + 1
                n = _symbol(bits, lengths) + 2
                if back > len(out):
                    raise ValueError("it repeats what was never there: the file is damaged")
                piece = bytes(out[-back:]) if n >= back else bytes(out[-back : n - back])
                out += (piece * (n // back + 1))[:n]
    return bytes(out[:size])


# --- Drascula -------------------------------------------------------------------------------------
#
# `en/<key>.ALS` is speech as above, unpacked; the key is that of its text in `drascula.dat`: ten
# lists, each a count (u16) and, for six languages, a size (u16) and texts (u32 of their length with
# it, code page 850, padded with zeros), the first English. Often something else is said.

_DRASCULA_LISTS = ("", "D", "B", "BJ", "E", "I", "L", "P", "T", "VB")
_DRASCULA_START = bytes.fromhex("01f54e42")  # of the first list


def drascula_lines(folder: Path, texts: Path) -> Iterator[tuple[str, U8, str]]:
    """Names, samples as of `sky_lines`, and what is written there."""
    written = _drascula_texts(texts.read_bytes())
    for path in sorted(folder.iterdir()):
        text = written.get(path.stem.upper())
        if path.suffix.upper() == ".ALS" and text:
            yield path.stem, np.fromfile(path, np.uint8), text


def _drascula_texts(blob: bytes) -> dict[str, str]:
    at, found = blob.index(_DRASCULA_START), {}
    for prefix in _DRASCULA_LISTS:
        (n_texts,) = struct.unpack_from(">H", blob, at)
        at += 2
        for language in range(6):
            (size,) = struct.unpack_from(">H", blob, at)
            entry = at + 2
            at = entry + size
            for i in range(n_texts):
                if language:
                    break
                (length,) = struct.unpack_from(">I", blob, entry)
                text = blob[entry + 4 : entry + length].split(b"\0")[0].decode("cp850")
                entry += length
                if text:
                    found[f"{prefix}{i}"] = text
    return found
