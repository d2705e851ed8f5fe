"""Video files, cameras and streams: frames in order, checked, decoded by OpenCV's FFmpeg.

A video file is of unknown origin. Its container must be one of `CONTAINERS`: playlists and lists of
files, which FFmpeg would follow to other files and servers, are refused whatever they are called.
The size of a frame is checked before one is decoded.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"),
        *(".ts", ".mts", ".m2ts", ".flv", ".ogv", ".wmv"),
    }
)
"""What makes a file a video; its content has to be one, too."""

CONTAINERS = "mov,mp4,m4a,3gp,avi,matroska,webm,mpeg,mpegts,flv,ogg,asf"
"""FFmpeg's names of the containers of those files."""

STREAM_PROTOCOLS = "http,https,tcp,tls,udp,rtp,rtsp,rtmp,srt,crypto,httpproxy"
"""What a stream may be read by; without `file`, so that none leads to files of this machine."""

STREAM_SCHEMES = ("http://", "https://", "rtmp://", "rtsp://", "rtp://", "srt://", "udp://")

OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""The environment variable in which OpenCV takes options for FFmpeg."""

MAX_FRAME_PIXELS = 1 << 26
"""Largest frame, 8192 x 8192: 200 MB as RGB."""

DEFAULT_FPS = 30.0
"""Of sources that state no rate of frames, or none that a video can have."""

MIN_FPS, MAX_FPS = 0.1, 1000.0

_options_lock = threading.Lock()

# FFmpeg's own log, which OpenCV sets up at the first video: what fails is told in one sentence.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@dataclass(frozen=True)
class VideoInfo:
    """What a source states of itself.

    Attributes:
        name: for messages and files.
        width, height: of a frame as players show it, pixels.
        fps: frames per second.
        frames: by the container; 0: unknown, as for a camera.
    """

    name: str
    width: int
    height: int
    fps: float
    frames: int


class VideoSource:
    """An open video. Iterate it once; `close` it, or use it as a context.

    Attributes:
        info: what it states of itself.
        locator: what a user called it, for messages.
        position: number of frames that were passed.
    """

    def __init__(self, capture: Any, name: str, locator: str) -> None:
        """Use what `cv2.VideoCapture` opened.

        Args:
            locator: what a user called the source, for messages.

        Raises:
            ValueError: its frames have no usable size.
        """
        self.capture, self.locator, self.position = capture, locator, 0
        width, height, frames = (
            _whole(capture.get(key))
            for key in (
                cv2.CAP_PROP_FRAME_WIDTH,
                cv2.CAP_PROP_FRAME_HEIGHT,
                cv2.CAP_PROP_FRAME_COUNT,
            )
        )
        if not (width > 0 and height > 0 and width * height <= MAX_FRAME_PIXELS):
            self.close()
            raise ValueError(
                f"{locator} cannot be read as a video: expected frames of 1 to {MAX_FRAME_PIXELS} "
                f"pixels, found {width} x {height}"
            )
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        fps = fps if MIN_FPS <= fps <= MAX_FPS else DEFAULT_FPS  # NaN compares as False
        self.info = VideoInfo(name, width, height, fps, max(0, frames))

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.capture.release()

    def frames(self, every: int = 1) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Number and pixels, uint8 (H, W, 3) RGB, of each `every`-th frame, from 0 on.

        Raises:
            ValueError: frames change their size, or are not in color.
        """
        while self._next(read=self.position % every == 0):
            number = self.position
            self.position += 1
            if number % every == 0:
                yield number, self._frame(number)

    def _next(self, *, read: bool) -> bool:
        """Advance by a frame; a skipped one is not converted to pixels. False: it was the last."""
        self._bgr = None
        try:
            if not read:
                return bool(self.capture.grab())
            has_frame, self._bgr = self.capture.read()
        except cv2.error:  # damage that FFmpeg does not conceal
            return False
        return bool(has_frame)

    def _frame(self, number: int) -> NDArray[np.uint8]:
        shape = (self.info.height, self.info.width, 3)
        frame = self._bgr
        if not isinstance(frame, np.ndarray) or frame.shape != shape or frame.dtype != np.uint8:
            raise ValueError(
                f"{self.locator}: expected frames of {shape[1]} x {shape[0]} pixels in color, "
                f"found another kind at frame {number}: convert it to one size, as players do"
            )
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def open_video(path: Path, *, as_stored: bool = False) -> VideoSource:
    """Open a video file.

    Args:
        as_stored: ignore the tag by which players turn frames, as phones write it.

    Raises:
        ValueError: it does not exist, is no video that can be read, has too large frames, or a name
            that is not UTF-8.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} cannot be read (not a regular file): replace or remove it")
    # Absolute: FFmpeg takes a name such as "concat:a" for an address.
    address = str(path.absolute())
    check_utf8(address, str(path), "rename the file or its folder")
    capture = _open(address, f"protocol_whitelist;file|format_whitelist;{CONTAINERS}")
    if not capture.isOpened():
        raise ValueError(
            f"{path} cannot be read as a video: replace it, such as by an MP4, or remove it"
        )
    if as_stored:
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    return VideoSource(capture, path.name, str(path))


def open_live(source: str) -> VideoSource:
    """Open a camera or a stream.

    Args:
        source: a camera's number, 0 being the first one, or a stream's address.

    Raises:
        ValueError: it is neither, or cannot be opened.
    """
    number, shown = camera_number(source), without_secrets(source)
    if number is not None:
        with silent_opencv():
            capture = cv2.VideoCapture(number)
        advice = "connect it, close programs that use it, or try another"
    elif source.lower().startswith(STREAM_SCHEMES):
        check_utf8(source, f"--source {shown}", "encode its other bytes as %XX")
        capture = _open(source, f"protocol_whitelist;{STREAM_PROTOCOLS}")
        advice = "open it in a player to try it"
    else:
        raise ValueError(
            f"--source {shown}: expected a camera's number, such as 0, or a stream's address, "
            f"such as rtsp://..., found neither ({', '.join(STREAM_SCHEMES)}); files and folders "
            "are given without --source"
        )
    if not capture.isOpened():
        raise ValueError(f"--source {shown} cannot be opened: {advice}")
    return VideoSource(capture, live_name(source), f"--source {shown}")


def live_name(source: str) -> str:
    """The name of a camera or a stream, for files: `camera-0`, `stream`."""
    number = camera_number(source)
    return "stream" if number is None else f"camera-{number}"


def without_secrets(source: str) -> str:
    """A camera's number or a stream's address for messages: without user, password and query."""
    shown = re.sub(r"^([a-z]+://)?.*@", r"\1", source, flags=re.IGNORECASE | re.DOTALL)
    return re.sub(r"\?.*", "?...", shown, flags=re.DOTALL)


def camera_number(source: str) -> int | None:
    """The number of a camera; None: the source is no number of one or two digits."""
    is_number = source.isascii() and source.isdigit() and len(source) <= 2
    return int(source) if is_number else None


def check_utf8(name: str, locator: str, remedy: str) -> None:
    """Refuse a name that is not UTF-8: OpenCV's VideoCapture and VideoWriter crash on one.

    Args:
        locator: what a user called it, for the message.
        remedy: what to do, for the message.

    Raises:
        ValueError: it has bytes, which Python gives as surrogates, that are not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{locator}: expected a name in UTF-8, found other bytes: {remedy}"
        ) from None


def _open(address: str, options: str) -> Any:
    """A `cv2.VideoCapture` by FFmpeg with these options; whether it is open is to be checked."""
    with _options_lock, silent_opencv():
        before = os.environ.get(OPTIONS)
        os.environ[OPTIONS] = options
        try:
            return cv2.VideoCapture(address, cv2.CAP_FFMPEG)
        finally:
            if before is None:
                del os.environ[OPTIONS]
            else:
                os.environ[OPTIONS] = before


@contextmanager
def silent_opencv() -> Iterator[None]:
    """Silence OpenCV's own log: what fails is told in one sentence."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _whole(value: float) -> int:
    """A property that is a number of pixels or frames; 0 for those that are none."""
    return int(value) if np.isfinite(value) and abs(value) < 1 << 53 else 0
