"""PyTorch files -> where their tensors lie, found out in a process of its own.

    python -m kokanee.export.pickled        reads {"file": ..., "spill": ...} from standard input,
                                            a line each, and answers each with a line of JSON

torch unpickles with `weights_only=True`, which runs nothing but the rebuilding of tensors. The
tensors themselves are not read: a file in today's zip format holds each as it lies in memory, so
name, type, shape and byte offset are enough for the builder to read them one at a time, straight
from the file. What lies otherwise (the format before PyTorch 1.6, transposed views) is written out
into the folder `spill` first.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DTYPES = {
    "torch.float64": "float64",
    "torch.float32": "float32",
    "torch.float16": "float16",
    "torch.bfloat16": "bfloat16",
    "torch.int64": "int64",
    "torch.int32": "int32",
    "torch.uint8": "uint8",
    "torch.bool": "bool",
}
_LOCAL_HEADER = 30  # bytes of a zip entry's header before its name


def index(path: Path, spill: Path) -> dict[str, Any]:
    """Describe a file.

    Returns:
        `tensors`: section -> name -> {file, dtype, shape, offset}; a section is a dictionary inside
        the file, "" the file itself. `plain`: section -> numbers, texts, lists and dictionaries.
    """
    import torch

    mapped = zipfile.is_zipfile(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(loaded, dict):
        raise ValueError(f"expected a dictionary, got {type(loaded).__name__}")
    sections = {"": loaded} | {k: v for k, v in loaded.items() if isinstance(v, dict)}
    named = {
        section: {k: v for k, v in values.items() if isinstance(v, torch.Tensor)}
        for section, values in sections.items()
    }
    base = _base(list(_tensors(loaded)), path) if mapped else None
    tensors: dict[str, dict[str, Any]] = {}
    for section, group in named.items():
        for name, tensor in group.items():
            tensors.setdefault(section, {})[str(name)] = _entry(tensor, base, path, spill)
    plain = {
        section: {k: v for k, v in values.items() if _is_plain(v)}
        for section, values in sections.items()
        if section and not named[section]
    }
    return {"tensors": tensors, "plain": plain}


def _tensors(value: Any) -> Iterator[Any]:
    """Every tensor inside nested dictionaries and lists, an optimizer's included."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)


def _base(tensors: list[Any], path: Path) -> int | None:
    """The address at which the file is mapped; None where that cannot be told for certain."""
    starts = set()
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for record in archive.infolist():
            if record.compress_type == zipfile.ZIP_STORED and record.file_size:
                file.seek(record.header_offset + 26)
                n_name, n_extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
                at = record.header_offset + _LOCAL_HEADER + n_name + n_extra
                if "/data/" in record.filename:
                    starts.add(at)
    storages = {t.untyped_storage().data_ptr() for t in tensors if t.numel()}
    if not storages or not starts:
        return None
    # Every storage is a record of the file; which base makes them all fall on one?
    lowest = min(storages)
    fitting = [lowest - at for at in starts if all(s - lowest + at in starts for s in storages)]
    return int(fitting[0]) if len(fitting) == 1 else None


def _entry(tensor: Any, base: int | None, path: Path, spill: Path) -> dict[str, Any]:
    dtype = str(tensor.dtype)
    if dtype not in _DTYPES:
        raise ValueError(f"tensors of type {dtype} are not known here")
    if base is not None and tensor.is_contiguous():
        file, offset = path, tensor.data_ptr() - base if tensor.numel() else 0
    else:
        import torch

        spill.mkdir(parents=True, exist_ok=True)
        file, offset = spill / f"{len(list(spill.iterdir()))}.bin", 0
        file.write_bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return {
        "file": str(file),
        "dtype": _DTYPES[dtype],
        "shape": list(tensor.shape),
        "offset": offset,
    }


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _serve() -> None:
    for line in sys.stdin:
        wanted = json.loads(line)
        try:
            answer = index(Path(wanted["file"]), Path(wanted["spill"]))
        except Exception as error:  # whatever is wrong with a file, the builder says it
            reason = " ".join(str(error).split())[:400] or type(error).__name__
            answer = {"error": reason, "no_torch": isinstance(error, ImportError)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
