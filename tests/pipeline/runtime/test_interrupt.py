"""Signals: the first one asks for a stop, the second one ends the process."""

from __future__ import annotations

import signal
import threading

import pytest

from fpd.pipeline.runtime.interrupt import stop_requested


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
