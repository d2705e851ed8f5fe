"""TensorBoard event files, one record per epoch.

Written with tensorboard's messages but not with its `SummaryWriter`, whose thread dies with a
traceback when the disk is full, and is alive whenever the data loader forks.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..runtime.files import sync
from .callbacks import Callback, Epoch

NAME = "events.out.tfevents."
"""TensorBoard reads files with "tfevents" in their names, in the order of their names. A number
follows, so that this order does not depend on the clocks of a run's machines."""

FILE_VERSION = "brain.Event:2"


def check_installed() -> None:
    """Refuse `monitor.tensorboard` before training rather than after its first epoch.

    Raises:
        ValueError: the tensorboard package is missing; with the command that installs it.
    """
    if find_spec("tensorboard") is None:
        raise ValueError(
            "monitor.tensorboard = true needs the tensorboard package: "
            "`pip install 'fast-pose-distillation[tensorboard]'`, or turn it off with "
            "--set monitor.tensorboard=false"
        )


SCALAR_TAGS = {
    "loss": "loss/loss",
    "collapsed_loss": "loss/collapsed_loss",
    "pose_loss": "loss/pose_loss",
    "kd_pose_loss": "loss/kd_pose_loss",
    "validation_pck": "validation_pck/mean",
    "learning_rate": "optimizer/learning_rate",
    "images_per_s": "speed/images_per_s",
    "data_wait_fraction": "speed/data_wait_fraction",
    "seconds": "speed/seconds",
    "peak_memory_mb": "memory/peak_memory_mb",
}
"""TensorBoard tags by column of `metrics.jsonl`: the column's name under a group."""


class TensorBoard(Callback):
    """Writes the columns of `metrics.jsonl`, validation PCK by group, and contact sheets."""

    def __init__(self, folder: Path) -> None:
        self._events = EventLog(folder)
        self._unwritten: list[tuple[int, dict[str, float], dict[str, bytes]]] = []

    def on_epoch(self, epoch: Epoch) -> None:
        """Write the last epoch, after any earlier ones that are not written yet."""
        if self._events.is_empty and not self._unwritten:
            self._unwritten = [(old["epoch"], _scalars(old), {}) for old in epoch.history[:-1]]
        shares = {f"validation_pck/{name}": share for name, share in epoch.validation_pck.items()}
        # While the disk is full, keep the numbers and drop the images, which would fill the memory.
        self._unwritten = [(number, values, {}) for number, values, _ in self._unwritten]
        newest = (epoch.row["epoch"], _scalars(epoch.row) | shares, dict(epoch.images))
        self._unwritten.append(newest)
        while self._unwritten:
            number, values, pngs = self._unwritten[0]
            self._events.write(step=number, scalars=values, images=pngs)
            del self._unwritten[0]


def _scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The values of a row of `metrics.jsonl` by TensorBoard tag."""
    return {tag: row[column] for column, tag in SCALAR_TAGS.items() if column in row}


class EventLog:
    """The event files of a run: one for each time that it is started or resumed.

    A new file makes TensorBoard discard what earlier files hold of its first step and later, so an
    epoch that was trained again has one point in each curve.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: Path | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the folder has no event files, from this or any earlier start of the run."""
        return not self._files()

    def write(
        self, step: int, scalars: Mapping[str, float], images: Mapping[str, bytes] | None = None
    ) -> None:
        """Write the values of one step, and sync them to the disk.

        Args:
            scalars: by tag.
            images: contents of PNG files by tag.

        Raises:
            OSError: for example because the disk is full. The file may end in part of a record, so
                the next step starts another file.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        for tag, content in (images or {}).items():
            values.append(Summary.Value(tag=tag, image=_image(content)))
        # Forgotten until the record is on the disk.
        file, self._file = self._file, None
        header = []
        if file is None:
            file, header = self._next_file(), _header(step)
        events = [*header, {"step": step, "summary": Summary(value=values)}]
        with file.open("ab") as out:
            out.write(_records(events))
        sync(file)
        self._file = file

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(f"{NAME}*"))

    def _next_file(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = [path.name.removeprefix(NAME).partition(".")[0] for path in self._files()]
        last = max((int(number) for number in numbers if number.isdecimal()), default=0)
        return self.folder / f"{NAME}{last + 1:010d}"


def _header(step: int) -> list[dict[str, Any]]:
    """The first events of a file that supersedes earlier ones from `step` on."""
    from tensorboard.compat.proto.event_pb2 import SessionLog

    start = SessionLog(status=SessionLog.START)
    return [{"step": step, "file_version": FILE_VERSION}, {"step": step, "session_log": start}]


def _records(events: list[dict[str, Any]]) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event

    messages = (Event(wall_time=time.time(), **event).SerializeToString() for event in events)
    return b"".join(map(_record, messages))


def _record(message: bytes) -> bytes:
    """A message in TFRecord framing: its length and the message, each with a masked CRC-32C.

    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details. tensorboard's
    writer computes the checksum in Python, which takes 0.7 s for a contact sheet.
    """
    length = struct.pack("<Q", len(message))
    return length + _masked_crc(length) + message + _masked_crc(message)


def _masked_crc(content: bytes) -> bytes:
    from google_crc32c import value

    crc = value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _image(png: bytes) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    # Width and height in PNG's first chunk, IHDR.
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    return Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
