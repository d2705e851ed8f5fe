"""Writes frames to an MP4 file that players on all systems open."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...data.io.videos import check_utf8, open_video, silent_opencv

CODEC = "mp4v"
"""MPEG-4 Part 2: OpenCV's wheels encode it everywhere, H.264 they do not."""

MAX_SIDE_PX = 8191
"""Of MPEG-4 Part 2, whose sizes have 13 bits."""

MIN_FPS = 0.01
"""OpenCV writes rates in steps of 0.001 frames per second."""

SUFFIX = ".mp4"


class VideoWriter:
    """An MP4 file that is written frame by frame.

    Sides of odd length lose their last row or column: the pixels of a video come in twos.
    """

    def __init__(self, path: Path, fps: float, width: int, height: int) -> None:
        """Begin a file.

        Args:
            path: its name ends in `SUFFIX`, by which the container is chosen.

        Raises:
            ValueError: such frames cannot be encoded, or the path is not UTF-8.
        """
        check_utf8(str(path), "the folder of the video", "name another with -o")
        self.path, self.size, self.count = path, (width, height), 0
        fits = max(width, height) <= MAX_SIDE_PX and min(width, height) > 1 and fps >= MIN_FPS
        code = cv2.VideoWriter.fourcc(*CODEC)
        with silent_opencv():
            size = self.size if fits else (0, 0)
            self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, size)
        if not self._writer.isOpened():
            limits = (
                f"sides of 2 to {MAX_SIDE_PX} pixels: add"
                if fps >= MIN_FPS
                else f"{MIN_FPS:g} frames per second or more: lower --every, or add"
            )
            raise ValueError(
                f"frames of {width} x {height} pixels at {fps:g} per second cannot be written as "
                f"MPEG-4, which has {limits} --no-draw for the joints alone"
            )

    def write(self, frame_HW3: NDArray[np.uint8]) -> None:
        """Append a frame, uint8 RGB of the file's size."""
        self._writer.write(cv2.cvtColor(frame_HW3, cv2.COLOR_RGB2BGR))
        self.count += 1

    def release(self) -> None:
        """End the file, unchecked."""
        self._writer.release()

    def close(self) -> None:
        """End the file, and check that it has all frames: OpenCV tells no errors.

        Raises:
            ValueError: it has not.
        """
        self.release()
        with open_video(self.path) as video:
            written = video.info.frames
        if written != self.count:
            raise ValueError(
                f"{written} of {self.count} frames could be written: free some space on the disk"
            )
