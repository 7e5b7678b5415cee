"""Checkpoint files -> names and shapes at once, values one tensor at a time.

Nothing is mapped: pages of a mapped file count as this process's memory for as long as they are
wanted by nobody else, and a shard is larger than many a machine.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kokanee.engine.errors import CheckpointError

from .layout import Shape

Array = npt.NDArray[Any]

_LFS = b"version https://git-lfs"
_MAX_HEADER = 100_000_000  # bytes, as the safetensors library has it
_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
    "BOOL": "bool",
}
_ITEM_BYTES = {"bfloat16": 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a file, as it lies in memory."""

    file: Path
    dtype: str
    shape: Shape
    offset: int  # bytes

    @property
    def n_bytes(self) -> int:
        """Size in the file."""
        item = _ITEM_BYTES.get(self.dtype) or np.dtype(self.dtype).itemsize
        return math.prod(self.shape) * item

    def read(self) -> Array:
        """The values; bfloat16 becomes float32.

        Raises:
            CheckpointError: the file ends before the tensor does.
        """
        stored = "<u2" if self.dtype == "bfloat16" else np.dtype(self.dtype).newbyteorder("<")
        count = math.prod(self.shape)
        values = np.fromfile(self.file, stored, count, offset=self.offset)
        if len(values) != count:
            raise CheckpointError(f"{self.file}: ends inside a tensor; is it complete?")
        if self.dtype == "bfloat16":  # the upper half of a float32
            values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return values.reshape(self.shape)


class Checkpoint(Mapping[str, Array]):
    """Tensors by name; each is read from its file whenever it is asked for."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> Array:
        """Read one tensor."""
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self.entries)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.entries)


@dataclasses.dataclass(frozen=True, slots=True)
class Pickled:
    """What `torch.save` wrote: tensors by section, and plain values by section."""

    tensors: dict[str, dict[str, Entry]]
    plain: dict[str, dict[str, Any]]


class Unpickler:
    """Finds out what PyTorch files hold, in a process that does nothing else.

    The process starts with the first file and ends with the context.
    """

    def __init__(self, spill: Path) -> None:
        """Nothing is started yet.

        Args:
            spill: folder for tensors that cannot be read where they lie; need not exist.
        """
        self._spill = spill
        self._n_files = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Unpickler:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def __call__(self, path: Path) -> Pickled:
        """Describe a file.

        Raises:
            CheckpointError: it is not a PyTorch file, is cut short, or holds more than tensors and
                plain values.
            ImportError: torch is not installed.
        """
        _check_file(path)
        self._n_files += 1
        found = self._ask(path, self._spill / str(self._n_files))
        if found.get("no_torch"):
            raise ImportError(f"reading {path.name} needs torch: pip install 'kokanee[build]'")
        if "error" in found:
            raise CheckpointError(
                f"{path}: cannot be read as a PyTorch checkpoint: {found['error']}"
            )
        tensors = {
            section: {name: _entry(e) for name, e in group.items()}
            for section, group in found["tensors"].items()
        }
        return Pickled(tensors, found["plain"])

    def _ask(self, path: Path, spill: Path) -> dict[str, Any]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kokanee.export.pickled"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"file": str(path), "spill": str(spill)}), file=self._process.stdin)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:  # it was killed: by memory, or by whatever the file made torch do
            return {"error": "the process that read it died"}
        found: dict[str, Any] = json.loads(line)
        return found


def open_safetensors(path: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file: a length, that much JSON, then the bytes.

    Raises:
        CheckpointError: it is not one, or is cut short.
    """
    n_file = _check_file(path)
    try:
        with path.open("rb") as file:
            n_header = int.from_bytes(file.read(8), "little")
            if n_header > min(n_file, _MAX_HEADER):
                raise ValueError(f"a header of {n_header} bytes")
            header = json.loads(file.read(n_header))
        header.pop("__metadata__", None)
        entries = {
            name: Entry(
                path,
                _SAFETENSORS[t["dtype"]],
                tuple(t["shape"]),
                8 + n_header + t["data_offsets"][0],
            )
            for name, t in header.items()
        }
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error!r})") from None
    for name, entry in entries.items():
        if entry.offset + entry.n_bytes > n_file:
            raise CheckpointError(f"{path}: ends before {name} does; is it complete?")
    return entries


def open_model_folder(folder: Path, unpickle: Unpickler) -> tuple[dict[str, Any], dict[str, Entry]]:
    """`config.json` and every tensor of a Hugging Face folder, sharded or not.

    safetensors are preferred to pickles where both are there.

    Raises:
        CheckpointError: there is no such folder, config or weight file, a shard is missing, or a
            file cannot be read.
    """
    config = read_json(folder / "config.json")
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        whole, sharded = folder / f"{stem}.{suffix}", folder / f"{stem}.{suffix}.index.json"
        if whole.is_file():
            return config, _open_any(whole, unpickle)
        if sharded.is_file():
            weight_map = read_json(sharded).get("weight_map", {})
            entries: dict[str, Entry] = {}
            for shard in sorted(set(weight_map.values())):
                if Path(shard).name != shard:
                    raise CheckpointError(f"{sharded}: {shard!r} is not a file of this folder")
                entries |= _open_any(folder / shard, unpickle)
            missing = sorted(set(weight_map) - set(entries))
            if missing:
                raise CheckpointError(f"{folder}: its shards lack {listed(missing)}")
            return config, entries
    raise CheckpointError(
        f"{folder}: expected model.safetensors or pytorch_model.bin, whole or with an"
        " .index.json, got none of them"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    _check_file(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def check_shapes(
    what: str, entries: Mapping[str, Entry], wanted: Iterable[tuple[str, Shape]]
) -> None:
    """Hold names and shapes against what a graph needs, before gigabytes are read.

    Raises:
        CheckpointError: tensors are missing or of another shape; it names them.
    """
    shapes = dict(wanted)
    missing = sorted(set(shapes) - set(entries))
    if missing:
        raise CheckpointError(f"{what}: missing {listed(missing)}")
    wrong = [
        f"{name} is {list(entries[name].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if entries[name].shape != shape
    ]
    if wrong:
        raise CheckpointError(f"{what}: {listed(wrong)}")


def listed(names: list[str], *, at_most: int = 6) -> str:
    """Names for a message, the first few of many."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def _open_any(path: Path, unpickle: Unpickler) -> dict[str, Entry]:
    if path.suffix == ".safetensors":
        return open_safetensors(path)
    tensors = unpickle(path).tensors
    if "" not in tensors:
        raise CheckpointError(f"{path}: expected tensors by name, got {sorted(tensors)}")
    return tensors[""]


def _entry(data: dict[str, Any]) -> Entry:
    return Entry(Path(data["file"]), data["dtype"], tuple(data["shape"]), data["offset"])


def _check_file(path: Path) -> int:
    """Its size.

    Raises:
        CheckpointError: there is no such file, or only a pointer to it.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise CheckpointError(
                f"{path}: this is a git-lfs pointer, not the file; run `git lfs pull` there"
            )
    return path.stat().st_size
