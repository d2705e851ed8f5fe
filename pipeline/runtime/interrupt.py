"""Stop requests: Ctrl-C, or SIGTERM from a job scheduler.

A command ends with `exit_status` after either. Loops that can stop and save use `stop_requested`;
everywhere else the signal raises an exception at once (`raise_on_sigterm`), or a moment later where
Python cannot raise one.
"""

from __future__ import annotations

import atexit
import multiprocessing.util  # must register its own exit handler before ours, see below
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

FORWARDED_S = 5.0
"""torchrun forwards a signal at once to its processes, which may have received the same one
directly (a terminal's Ctrl-C, a scheduler's SIGTERM). Under a launcher, a second signal within this
time counts as a copy of the first."""

SEND_AGAIN_S = 0.01
"""After this time a signal is sent again whose exception was lost: destructors are over sooner."""

JOIN_TIMEOUT_S = 0.1

INTERRUPTED_EXIT = 130  # what shells report of a process that Ctrl-C ended
REQUEUE_EXIT = 75  # after SIGTERM: EX_TEMPFAIL of sysexits.h, "try again later"


class Interrupted(Exception):
    """Stopped by Ctrl-C or SIGTERM: finished work is kept, and the same command continues from it.

    Attributes:
        signal: the number of the signal.
    """

    def __init__(self, message: str, signal: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = signal


class Terminated(KeyboardInterrupt):
    """SIGTERM, where nothing else handles it; every block ends for it that ends for Ctrl-C."""


def exit_status(error: Interrupted | KeyboardInterrupt) -> int:
    """A command's exit status after Ctrl-C or SIGTERM."""
    is_terminated = isinstance(error, Terminated) or (
        isinstance(error, Interrupted) and error.signal == signal.SIGTERM
    )
    return REQUEUE_EXIT if is_terminated else INTERRUPTED_EXIT


class Stop(threading.Event):
    """Set by the first signal; `signal` is its number (0: none was received)."""

    signal: int = 0


@contextmanager
def raise_on_sigterm() -> Iterator[Stop]:
    """Raise `Terminated` on SIGTERM while the block runs, as Python does KeyboardInterrupt.

    Neither is lost in a destructor (`_lost_signals_sent_again`). Yields an event that each SIGTERM
    sets, also one that `stop_requested` handles: an exception that is raised inside an import may
    arrive as another one, and the end of other processes that received the signal may be noticed
    first.
    """
    global _received
    received = Stop()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield received
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        received.signal = number
        received.set()
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    _received = received
    try:
        with _lost_signals_sent_again():
            yield received
    finally:
        _received = None
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _lost_signals_sent_again() -> Iterator[None]:
    """Send Ctrl-C or SIGTERM again if its exception was raised where Python ignores all exceptions.

    Python prints what a destructor or the callback of a weak reference raises, and goes on. The
    signal comes again by a timer, as such code may hold any lock, also those of `threading`.
    """
    report = sys.unraisablehook
    alarm_before: list[Any] = []  # the handler of SIGALRM, if it was replaced

    def send_again(unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            report(unraisable)
            return
        is_terminated = issubclass(unraisable.exc_type, Terminated)
        number = signal.SIGTERM if is_terminated else signal.SIGINT
        alarm_before.append(signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number)))
        signal.setitimer(signal.ITIMER_REAL, SEND_AGAIN_S)

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        if alarm_before:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm_before[0])
        sys.unraisablehook = report


_received: Stop | None = None
"""The event of `raise_on_sigterm`."""

_current: Stop | None = None
"""The event of the outermost `stop_requested` of the main thread."""


@contextmanager
def stop_requested() -> Iterator[Stop]:
    """Yield an event that the first Ctrl-C or SIGTERM sets. A second one ends the block.

    Inside another such block, the event is the outer one's: a signal that came between two inner
    blocks is not lost.
    """
    global _current
    if threading.current_thread() is not threading.main_thread():
        yield Stop()  # only the main thread receives signals
        return
    if _current is not None:
        yield _current
        return
    from .launch import is_launched

    stop = Stop()
    old_handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    ignore_copies_s = FORWARDED_S if is_launched() else 0.0
    stopped_at = 0.0

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal stopped_at
        if _received is not None and number == signal.SIGTERM:
            _received.set()
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
    _current = stop
    try:
        yield stop
    finally:
        _current = None
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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # see `signals_blocked`


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM while the block runs, also in processes that it starts.

    Those have to unblock them (`ignore_first_signal`).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
