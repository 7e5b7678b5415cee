"""Push to talk at a terminal: Enter opens a turn, Enter closes it."""

import contextlib
import sys
import threading
from collections.abc import Iterator

import click

from .listener import Listener


@contextlib.contextmanager
def enter_talks(listener: Listener) -> Iterator[None]:
    """Enter presses and releases, in a thread that the process does not wait for."""

    def read() -> None:
        pressed = False
        for _ in sys.stdin:
            (listener.release if pressed else listener.press)()
            pressed = not pressed

    click.echo("Enter opens a turn, Enter closes it.", err=True)
    threading.Thread(target=read, name="kokanee keys", daemon=True).start()
    with _no_echo():
        yield


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Keys that are typed are not shown: they would move what is on the screen."""
    if not sys.stdin.isatty() or sys.platform == "win32":
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    silent = termios.tcgetattr(sys.stdin)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
