"""TensorBoard's event files, written epoch by epoch.

With tensorboard's own messages, but without its writer's thread: that dies with a traceback on a
full disk, and is there at every fork of the readers.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..runtime.files import sync

NAME = "events.out.tfevents."
"""TensorBoard reads files with "tfevents" in their name, in the order of their names. Numbered, so
that this order is the right one whatever the clocks of a run's machines say."""

FILE_VERSION = "brain.Event:2"


def check_installed() -> None:
    """Refuse, before training rather than after its first epoch, what cannot be written.

    Raises:
        ValueError: with the command that mends it.
    """
    if find_spec("tensorboard") is None:
        raise ValueError(
            "monitor.tensorboard = true needs the tensorboard package: `pip install 'fast-pose-distillation[tensorboard]'`, "
            "or leave it out with --set monitor.tensorboard=false"
        )


class EventLog:
    """The event files of a run: each time it goes on it begins another one.

    What earlier files say of `first_step` and later is void for TensorBoard: an epoch that was
    trained again, after a crash or from the start, has one point in each curve.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: Path | None = None

    @property
    def is_new(self) -> bool:
        """Whether nothing has been written in the folder, ever."""
        return not self._files()

    def write(
        self, step: int, scalars: Mapping[str, float], images: Mapping[str, bytes] | None = None
    ) -> None:
        """Add one step's values, and images as PNG files' contents; synced to the disk.

        Raises:
            OSError: the disk is full, say. Half a record ends the file: the next step begins
                another one.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        for tag, content in (images or {}).items():
            values.append(Summary.Value(tag=tag, image=_image(content)))
        file, self._file = self._file, None
        opening = []
        if file is None:
            file, opening = self._next_file(), _opening(step)
        events = [*opening, {"step": step, "summary": Summary(value=values)}]
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


def _opening(step: int) -> list[dict[str, Any]]:
    """How an event file begins that voids what earlier ones say of `step` and later."""
    from tensorboard.compat.proto.event_pb2 import SessionLog

    start = SessionLog(status=SessionLog.START)
    return [{"step": step, "file_version": FILE_VERSION}, {"step": step, "session_log": start}]


def _records(events: list[dict[str, Any]]) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event

    messages = (Event(wall_time=time.time(), **event).SerializeToString() for event in events)
    return b"".join(map(_record, messages))


def _record(message: bytes) -> bytes:
    """A message as TFRecord files frame it: its length and itself, each with a masked CRC-32C.

    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details. With
    tensorboard's own writer, in Python, a contact sheet's checksum takes 0.7 s.
    """
    length = struct.pack("<Q", len(message))
    return length + _masked_crc(length) + message + _masked_crc(message)


def _masked_crc(content: bytes) -> bytes:
    from google_crc32c import value

    crc = value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _image(png: bytes) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # PNG's IHDR
    return Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
