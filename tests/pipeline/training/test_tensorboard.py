"""TensorBoard event files, read back by TensorBoard."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from fpd.pipeline.training import tensorboard
from fpd.pipeline.training.tensorboard import EventLog, check_installed


def curve(folder: Path, tag: str = "a") -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_records_have_tensorboards_framing() -> None:
    for message in (b"", b"x", bytes(range(256)) * 5):
        expected = io.BytesIO()
        RecordWriter(expected).write(message)
        assert tensorboard._record(message) == expected.getvalue()


def test_a_log_has_one_file(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    assert log.is_empty
    for step in (1, 2, 3):
        log.write(step, {"a": step, "b": -step})
    assert not log.is_empty
    assert len(list(tmp_path.iterdir())) == 1
    assert curve(tmp_path) == [(1, 1), (2, 2), (3, 3)]
    assert curve(tmp_path, "b") == [(1, -1), (2, -2), (3, -3)]


def test_files_are_read_in_the_order_in_which_they_were_started(tmp_path: Path) -> None:
    """By their numbers, beyond 9 too, and not by the clocks of a run's machines."""
    for step in range(1, 13):
        EventLog(tmp_path).write(step, {"a": step})
    assert len(list(tmp_path.iterdir())) == 12
    assert curve(tmp_path) == [(step, step) for step in range(1, 13)]


@pytest.mark.parametrize("resumed_at", [4, 3, 1])
def test_a_resumed_run_supersedes_the_epochs_that_it_trains_again(
    tmp_path: Path, resumed_at: int
) -> None:
    """Also if the process died in the middle of a record."""
    first = EventLog(tmp_path)
    for step in (1, 2, 3):
        first.write(step, {"a": step})
    (file,) = tmp_path.iterdir()
    with file.open("ab") as end:
        end.write(file.read_bytes()[:20])
    again = EventLog(tmp_path)
    assert not again.is_empty
    again.write(resumed_at, {"a": 10})
    expected = [(step, step) for step in (1, 2, 3) if step < resumed_at]
    assert curve(tmp_path) == [*expected, (resumed_at, 10)]


def test_after_a_failed_write_another_file_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes half of the record of step 2."""
    log = EventLog(tmp_path)
    log.write(1, {"a": 1})
    records = tensorboard._records

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(
            tensorboard, "_records", lambda events: (whole := records(events))[: len(whole) // 2]
        )
        patched.setattr(tensorboard, "sync", full)
        with pytest.raises(OSError, match="No space left"):
            log.write(2, {"a": 2})
    log.write(2, {"a": 2})
    log.write(3, {"a": 3})
    assert len(list(tmp_path.iterdir())) == 2
    assert curve(tmp_path) == [(1, 1), (2, 2), (3, 3)]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"monitor\.tensorboard .*`pip install .*tensorboard"):
        check_installed()


def test_images_are_png_files(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    content = cv2.imencode(".png", np.zeros((5, 7, 3), np.uint8))[1].tobytes()
    EventLog(tmp_path).write(1, {}, {"sheet": content})
    (image,) = EventAccumulator(str(tmp_path)).Reload().Images("sheet")
    found: tuple[Any, ...] = (image.encoded_image_string, image.width, image.height)
    assert found == (content, 7, 5)
