"""Acted English speech out of a freeware game: recordings with exact texts.

Flight of the Amazon Queen keeps everything in `queen.1c`: a table of named members, speech as MP3
(`*.SB`), texts in plain tables (`*.CUT`, `*.DOG`, `QUEEN2.JAS`). The layouts are facts about the
file, checked on the bytes; no engine's code was used.
"""

import re
import struct
from pathlib import Path

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
