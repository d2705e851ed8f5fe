"""Videos that are written: size, rate and frames, and what cannot be encoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fpd.data.io.videos import open_video
from fpd.pipeline.runtime.video_writer import MIN_FPS, VideoWriter


@pytest.mark.parametrize("fps", [0.5, 23.976, 25.0, 30000 / 1001, 240.0])
def test_a_video_has_the_frames_that_were_written(tmp_path: Path, fps: float) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", fps, 64, 48)
    for number in range(6):
        writer.write(np.full((48, 64, 3), (40 * number, 0, 0), np.uint8))
    writer.close()
    with open_video(tmp_path / "a.mp4") as video:
        info, frames = video.info, [pixels for _, pixels in video.frames()]
    assert (info.width, info.height, info.frames) == (64, 48, 6)
    assert info.fps == pytest.approx(fps, rel=1e-3)
    assert [frame[..., 0].mean() for frame in frames] == pytest.approx(
        [40 * number for number in range(6)], abs=8
    )


def test_odd_sides_lose_a_pixel(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 25, 65, 49)
    writer.write(np.zeros((49, 65, 3), np.uint8))
    writer.close()
    with open_video(tmp_path / "a.mp4") as video:
        assert (video.info.width, video.info.height) == (64, 48)


@pytest.mark.parametrize(
    ("fps", "width", "height"), [(25, 8192, 48), (25, 64, 1), (0, 64, 48), (1e6, 64, 48)]
)
def test_what_cannot_be_encoded_is_told(
    tmp_path: Path, fps: float, width: int, height: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=rf"frames of {width} x {height} pixels at .* --no-draw"):
        VideoWriter(tmp_path / "a.mp4", fps, width, height)
    assert capfd.readouterr().err == ""


def test_a_rate_that_is_too_low_is_the_reason(tmp_path: Path) -> None:
    VideoWriter(tmp_path / "a.mp4", MIN_FPS, 64, 48).release()
    with pytest.raises(ValueError, match=r"at 0\.0003 per second .* 0\.01 frames .* lower --every"):
        VideoWriter(tmp_path / "a.mp4", 0.0003, 64, 48)


def test_missing_frames_are_told(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 25, 64, 48)
    for _ in range(3):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.count += 2  # as if OpenCV could not write the last two
    with pytest.raises(ValueError, match="3 of 5 frames could be written: free some space"):
        writer.close()


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a name in UTF-8, found other bytes: name anoth"):
        VideoWriter(tmp_path / "\udcff" / "a.mp4", 25, 64, 48)
