"""Opens graphs in ONNX Runtime: the only module that imports it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from onnxruntime import (
    InferenceSession,
    OrtValue,
    RunOptions,
    SessionOptions,
    get_available_providers,
)

from .errors import DeviceError, Interrupted, ManifestError

Device = Literal["auto", "cpu", "cuda"]
T = TypeVar("T")

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# A thread wakes more slowly than most of a decode step's operators take. Waiting this long for the
# next one decodes a tenth faster on an idle machine, as waiting for ever does; beside one busy core
# it costs a tenth, where waiting for ever costs a third and starves the neighbours.
SPIN_US = 20
_MADV_PAGEOUT = 21  # of Linux's madvise, since 5.4: loses nothing, older ones refuse
_ERRORS_ONLY = 3  # ONNX Runtime's log severity


def open_graph(
    path: Path,
    *,
    device: Device = "auto",
    threads: int | None = None,
    spin_us: int = SPIN_US,
    arena: bool = True,
) -> Any:
    """Open a graph whose weight file lies beside it.

    Args:
        path: the `.onnx` file.
        device: "cuda", "cpu", or "auto": CUDA where it starts, else the CPU.
        threads: CPU threads; by default as many as this process may use.
        spin_us: microseconds that an idle thread waits busily before it sleeps; 0: not at all.
        arena: keep the memory of one run for the next. Right for thousands of small steps; after
            one long recording an encoder would sit on hundreds of megabytes.

    Returns:
        An onnxruntime.InferenceSession. `run` may be called from any thread.

    Raises:
        DeviceError: CUDA was asked for and does not start here.
        ManifestError: ONNX Runtime cannot load the graph.
    """
    options = SessionOptions()
    # Named, never 0: ONNX Runtime's own choice also pins its threads to cores, beside whatever
    # else runs there.
    options.intra_op_num_threads = threads or available_threads()
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = _ERRORS_ONLY
    # It would keep a plan of the memory for every length of sound that ever came, for good: 4 MB in
    # 120 turns, and is no faster.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin_us > 0)))
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(spin_us))
    # Threads take ever smaller shares: one that the system holds up delays the rest less.
    options.add_session_config_entry("session.dynamic_block_base", "4")
    want_cuda = has_cuda(device)
    try:
        session = InferenceSession(path, options, providers=[_CUDA, _CPU] if want_cuda else [_CPU])
    except Exception as error:  # ONNX Runtime's own types derive from Exception alone
        raise ManifestError(f"{path.name}: ONNX Runtime cannot load it ({error})") from error
    # Ask the session: onnxruntime-gpu lists CUDA even where it cannot start.
    if device == "cuda" and _CUDA not in session.get_providers():
        raise DeviceError("CUDA does not start here; `kokanee doctor` says what is missing")
    _unmap_read_pages(path.parent)
    return session


def _unmap_read_pages(folder: Path) -> None:
    """Give back the pages of mapped weight files, whose repacked copies the session holds by now.

    ONNX Runtime keeps the mapping of some of them (0.8 GB of scales at 7B), read once and never
    again. What is wanted after all comes back from the file. Linux only; elsewhere they stay until
    the system needs the memory.
    """
    if not sys.platform.startswith("linux"):
        return
    within = f"{folder.resolve()}/"
    madvise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        address, *_, name = line.split(maxsplit=5)
        if name.startswith(within):
            start, end = (int(x, 16) for x in address.split("-"))
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_PAGEOUT)


def give_back_free_memory() -> None:
    """Return to the system what the allocator keeps of freed memory; a millisecond or two.

    Turns of ever other lengths leave ever other holes: over a day these grew by 35 MB. glibc only;
    other allocators do so by themselves.
    """
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def has_cuda(device: Device) -> bool:
    """Whether CUDA is wanted and the installed onnxruntime was built with it.

    Raises:
        DeviceError: CUDA was asked for by name, and this onnxruntime has none.
    """
    if device == "cpu" or _CUDA in get_available_providers():
        return device != "cpu"
    if device == "cuda":
        raise DeviceError(
            "CUDA is not in the installed onnxruntime;"
            " `kokanee doctor --device cuda` has the commands that put it there"
        )
    return False


def cuda_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """An array in the first GPU's memory; not cleared."""
    return OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cuda", 0)


def available_threads() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover - macOS and Windows


class Interruptible:
    """Runs of graphs that any thread can end while they go on."""

    def __init__(self) -> None:
        self._options = RunOptions()
        # Asked for at every run, and slow to find out where it is not set; 0 is what that means.
        self._options.add_run_config_entry("gpu_graph_id", "0")

    def call(self, run: Callable[[RunOptions], T]) -> T:
        """What `run` makes with these options.

        Raises:
            Interrupted: `interrupt` was called; what was to be written is undefined.
        """
        try:
            return run(self._options)
        except Exception:  # a RuntimeError with a text, nothing of its own
            if self._options.terminate:
                raise Interrupted("computing was interrupted") from None
            raise

    def run(self, graph: Any, output_names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """As the graph's own `run`.

        Raises:
            Interrupted: `interrupt` was called.
        """
        made: list[Any] = self.call(lambda options: graph.run(output_names, feeds, options))
        return made

    def interrupt(self) -> None:
        """End the run in flight, and any other until `resume`; takes a millisecond."""
        self._options.terminate = True

    def resume(self) -> None:
        """Let runs go on again."""
        self._options.terminate = False


class Binding:
    """A graph whose inputs and outputs are arrays the caller owns, read and written in place.

    One array may be an input and an output at once: that is how a KV cache grows without copies.
    Not for use from two threads at a time; bindings of one session may run side by side.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._io = session.io_binding()
        self.runs = Interruptible()
        """To interrupt a run, from another thread."""
        self._held: dict[str, Any] = {}
        self.inputs = {i.name: _DTYPES[i.type] for i in session.get_inputs()}
        """Element type of each input."""

    def input(self, name: str, array: Any) -> None:
        """Read input `name` from `array` at every run; binding again replaces it."""
        if isinstance(array, OrtValue):
            self._io.bind_ortvalue_input(name, array)
            self._held[name] = array
        else:
            self._bind(self._io.bind_input, name, array)

    def output(self, name: str, array: Any) -> None:
        """Write output `name` to `array` at every run."""
        if isinstance(array, OrtValue):
            self._io.bind_ortvalue_output(name, array)
            self._held[name] = array
        else:
            self._bind(self._io.bind_output, name, array)

    def run(self) -> None:
        """Compute.

        Raises:
            Interrupted: as `Interruptible.call`.
        """
        self.runs.call(lambda options: self._session.run_with_iobinding(self._io, options))

    def _bind(self, bind: Any, name: str, array: npt.NDArray[Any]) -> None:
        if not array.flags.c_contiguous:
            raise ValueError(f"{name}: expected a contiguous array")
        bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._held[name] = array  # ONNX Runtime holds an address only


_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
}
