"""Ctrl-C at any moment ends a command with one line, also while heavy packages are being imported.

An import that is interrupted leaves tracebacks of many packages, or swallows the interruption and goes on. Nothing of
ours is half done at that moment, so the process ends at once. At every other moment it is a `KeyboardInterrupt` as
usual, and files are put in order on the way out.
"""

import os
import signal
from contextlib import suppress
from types import FrameType

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it."""
_IMPORTING = "<frozen importlib._bootstrap>"


def handle_interrupts() -> None:
    """Handle Ctrl-C in this process from now on; in a thread, or where it is ignored, nothing changes."""
    with suppress(ValueError):  # not the main thread
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            os.write(2, b"interrupted\n")
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
