"""A bundle by name or folder; nano is built when it is first wanted."""

from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from kokanee.engine.manifest import FILE_NAME
from kokanee.export.nano import build_nano, default_cache, nano_folder

from .options import NANO

_FEW = 1000  # a total below is no bytes: layers, or steps


def find_bundle(name: str, *, cache_dir: Path | None) -> Path:
    """The folder of a bundle; `nano` is built with a progress bar if it is not there yet.

    Raises:
        SourceError: If a download failed or is not the pinned file.
        CacheError: If the cache folder cannot be written.
    """
    if name != NANO:
        return Path(name)
    folder = nano_folder(cache_dir)
    if (folder / FILE_NAME).is_file():
        return folder
    click.echo(
        f"Making nano, once: 225 MB to download, 183 MB to keep in {cache_dir or default_cache()}",
        err=True,
    )
    with BuildProgress() as progress:
        return build_nano(cache_dir, progress=progress)


class BuildProgress:
    """A bar on standard error for each file in turn; ends what it began, also when interrupted."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._what = ""
        self._bar: Progress | None = None

    def __enter__(self) -> "BuildProgress":
        """Nothing is shown yet: pip, which comes first, has bars of its own."""
        return self

    def __exit__(self, *error: object) -> None:
        """Leaves the terminal as it was."""
        self._stop()

    def __call__(self, what: str, n_done: int, n_total: int) -> None:
        """Shows that `n_done` of `n_total` bytes (or layers, or steps) of `what` are there."""
        if what != self._what or self._bar is None:
            self._stop()
            self._what = what
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn() if n_total < _FEW else DownloadColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._bar.add_task(what, total=n_total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=n_done)
        if n_done >= n_total:
            self._stop()

    def _stop(self) -> None:
        # Forgotten first: a bar that Ctrl-C interrupts while it stops must not be stopped again.
        bar, self._bar = self._bar, None
        if bar is not None:
            try:
                bar.stop()
            except BaseException:
                self._console.show_cursor(True)
                raise
