"""Stop requests: Ctrl-C, or SIGTERM from a job scheduler."""

from __future__ import annotations

import atexit
import multiprocessing.util  # must register its own exit handler before ours, see below
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .device import is_launched

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

FORWARDED_S = 5.0
"""torchrun forwards a signal at once to its processes, which may have received the same one
directly (a terminal's Ctrl-C, a scheduler's SIGTERM). Under a launcher, a second signal within this
time counts as a copy of the first."""

JOIN_TIMEOUT_S = 0.1


class Interrupted(Exception):
    """Stopped by Ctrl-C or SIGTERM: finished work is kept, and the same command continues from it.

    Attributes:
        signal: the number of the signal.
    """

    def __init__(self, message: str, signal: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = signal


class Stop(threading.Event):
    """Set by the first signal; `signal` is its number (0: none was received)."""

    signal: int = 0


@contextmanager
def stop_requested() -> Iterator[Stop]:
    """Yield an event that the first Ctrl-C or SIGTERM sets. A second one ends the process."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread receives signals
        return
    old_handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    ignore_copies_s = FORWARDED_S if is_launched() else 0.0
    stopped_at = 0.0

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal stopped_at
        if not stop.is_set():
            stopped_at = time.monotonic()
            stop.signal = number
            stop.set()
        elif time.monotonic() - stopped_at >= ignore_copies_s:
            for stop_signal, handler in old_handlers.items():
                signal.signal(stop_signal, handler)
            signal.raise_signal(number)

    for number in old_handlers:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def ignore_first_signal() -> None:
    """Make this process, a loader worker, ignore Ctrl-C and the first SIGTERM.

    A signal to the whole process group is for the parent to handle: it needs its workers until it
    has saved. It ends workers that do not exit by themselves with SIGTERM, so a second one counts.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def restore_default(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, restore_default)


@atexit.register
def _terminate_workers() -> None:
    """Terminate loader workers that an error left running.

    At exit, Python would send each child one SIGTERM, which these ignore, and wait forever. Exit
    handlers run in reverse order of registration, so this one runs before Python's.
    """
    # PyTorch's handler would raise an error here for each worker that the signal ends.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        while child.daemon and child.is_alive():
            child.terminate()
            child.join(JOIN_TIMEOUT_S)
