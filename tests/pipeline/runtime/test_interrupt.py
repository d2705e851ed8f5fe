"""Signals: the first one asks for a stop, the second one ends the process."""

from __future__ import annotations

import signal
import sys
import threading
import time
import weakref

import pytest

from fpd.pipeline.runtime import interrupt
from fpd.pipeline.runtime.interrupt import (
    Interrupted,
    Terminated,
    exit_status,
    raise_on_sigterm,
    stop_requested,
)


def test_the_first_signal_requests_a_stop_and_the_second_one_ends() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with stop_requested() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_signal_between_two_inner_blocks_is_not_lost() -> None:
    """As between two students of a sweep, while the next one's data is loaded."""
    with stop_requested() as outer:
        with stop_requested() as first:
            assert not first.is_set()
        signal.raise_signal(signal.SIGTERM)
        with stop_requested() as second:
            assert second.is_set() and second.signal == signal.SIGTERM
        assert outer.is_set()
    with stop_requested() as later:
        assert not later.is_set()


def test_sigterm_is_raised_where_no_loop_looks_for_it() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with raise_on_sigterm() as received:
        with stop_requested() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_set() and received.is_set()
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_that_ignores_sigterm_still_does() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with raise_on_sigterm() as received:
            signal.raise_signal(signal.SIGTERM)
            assert not received.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


class Dying:
    """Something to refer to weakly."""


def _kill_and_go_on(dying: list[Dying]) -> None:
    dying.clear()  # raises nothing
    dying.append(Dying())
    time.sleep(5)  # ended by the exception


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_callback_of_a_weak_reference_is_not_lost(
    number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Python prints what is raised there and goes on; so it does with destructors."""
    before = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    error = Terminated if number == signal.SIGTERM else KeyboardInterrupt
    dying = [Dying()]
    reference = weakref.ref(dying[0], lambda _: signal.raise_signal(number))
    with raise_on_sigterm(), pytest.raises(error):
        _kill_and_go_on(dying)
    assert reference() is None
    assert (sys.unraisablehook, signal.getsignal(signal.SIGALRM)) == before
    assert dying and capfd.readouterr().err == ""


def test_a_signal_that_was_lost_stops_the_loop_that_began_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interrupt, "SEND_AGAIN_S", 1.0)
    with raise_on_sigterm():
        dying = Dying()
        reference = weakref.ref(dying, lambda _: signal.raise_signal(signal.SIGTERM))
        del dying
        with stop_requested() as stop:
            assert reference() is None and not stop.is_set()
            assert stop.wait(10) and stop.signal == signal.SIGTERM


def test_other_errors_in_the_callback_of_a_weak_reference_are_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: reported.append(error.exc_type))

    def fail(_: object) -> None:
        raise RuntimeError

    with raise_on_sigterm():
        dying = Dying()
        reference = weakref.ref(dying, fail)
        del dying
        assert reference() is None
    assert reported == [RuntimeError]


def test_exit_statuses_tell_a_scheduler_to_run_it_again() -> None:
    assert exit_status(Terminated()) == exit_status(Interrupted("", signal.SIGTERM)) == 75
    assert exit_status(KeyboardInterrupt()) == exit_status(Interrupted("")) == 130


def test_handlers_are_restored_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        with stop_requested():
            assert signal.getsignal(signal.SIGTERM) is not before
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert signal.getsignal(signal.SIGTERM) is before


def test_handlers_are_unchanged_outside_the_main_thread() -> None:
    changed: list[bool] = []
    before = signal.getsignal(signal.SIGINT)

    def run() -> None:
        with stop_requested() as stop:
            changed.append(stop.is_set() or signal.getsignal(signal.SIGINT) is not before)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert changed == [False]
