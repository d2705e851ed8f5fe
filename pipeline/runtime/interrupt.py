"""Being asked to stop: Ctrl-C, or a scheduler that takes the machine back."""

from __future__ import annotations

import atexit
import multiprocessing.util  # whose own end of children must be registered before ours
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .device import is_launched

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

FORWARDED_S = 5.0
"""A launcher passes on, at once, the signal that its processes may have had from elsewhere (a
terminal's Ctrl-C, a scheduler): under one, a second signal within this time is the first again."""


LOOK_AGAIN_S = 0.1


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: what was done is kept, and the same command goes on from there.

    Attributes:
        signal: the number of the signal that asked for it.
    """

    def __init__(self, message: str, signal: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = signal


class Stop(threading.Event):
    """Whether to stop, and the number of the signal that asked for it (0: none did)."""

    signal: int = 0


@contextmanager
def stop_requested() -> Iterator[Stop]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one ends the process as usual."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    again_after_s = FORWARDED_S if is_launched() else 0.0
    asked_at = 0.0

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        if not stop.is_set():
            asked_at = time.monotonic()
            stop.signal = number
            stop.set()
        elif time.monotonic() - asked_at >= again_after_s:
            for each, handler in before.items():
                signal.signal(each, handler)
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def outlive_first_signal() -> None:
    """Have this process, a reader, let its parent decide what a signal to the whole group means.

    The parent goes on until it has saved, and needs its readers until then. It ends them with
    SIGTERM where they do not end by themselves: hence only the first one is let pass.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def let_pass(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, let_pass)


@atexit.register
def _end_readers() -> None:
    """End the readers that an error left alive, as often as it takes.

    Python would end its children with one SIGTERM, which they let pass, and wait for ever. (What is
    registered later is called earlier: this comes before Python's own.)
    """
    # PyTorch's handler would raise an error here for each reader that the signal ends.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        while child.daemon and child.is_alive():
            child.terminate()
            child.join(LOOK_AGAIN_S)
