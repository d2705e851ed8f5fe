"""Videos, cameras and streams: their frames in order, and what is refused before it is decoded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fpd.data.io import videos
from fpd.data.io.videos import (
    DEFAULT_FPS,
    OPTIONS,
    VIDEO_SUFFIXES,
    camera_number,
    open_live,
    open_video,
)

WIDTH, HEIGHT, FPS = 64, 48, 12.5


def save(path: Path, frames: int = 10, code: str = "MJPG") -> Path:
    """A video whose frames are red, ever brighter."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), FPS, (WIDTH, HEIGHT))
    for number in range(frames):
        writer.write(np.full((HEIGHT, WIDTH, 3), (0, 0, 20 * number), np.uint8))
    writer.release()
    return path


class FakeCapture:
    """What `cv2.VideoCapture` opens, with the given frames and properties."""

    def __init__(self, frames: list[Any], **properties: float) -> None:
        self.frames, self.position = frames, -1
        self.properties = {"WIDTH": 8.0, "HEIGHT": 6.0, "FPS": 0.0, "COUNT": -1.0} | properties
        self.released = False

    def isOpened(self) -> bool:
        return True

    def get(self, key: int) -> float:
        names = {
            cv2.CAP_PROP_FRAME_WIDTH: "WIDTH",
            cv2.CAP_PROP_FRAME_HEIGHT: "HEIGHT",
            cv2.CAP_PROP_FPS: "FPS",
            cv2.CAP_PROP_FRAME_COUNT: "COUNT",
        }
        return self.properties[names[key]]

    def grab(self) -> bool:
        self.position += 1
        return self.position < len(self.frames)

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        if not self.grab():
            return False, None
        return True, self.frames[self.position]

    def release(self) -> None:
        self.released = True


def opened(monkeypatch: pytest.MonkeyPatch, capture: FakeCapture) -> videos.VideoSource:
    monkeypatch.setattr(videos.cv2, "VideoCapture", lambda *_: capture)
    return open_live("0")


@pytest.mark.parametrize(("suffix", "code"), [(".avi", "MJPG"), (".mp4", "mp4v")])
def test_frames_are_those_of_the_file(tmp_path: Path, suffix: str, code: str) -> None:
    path = save(tmp_path / f"clip{suffix}", code=code)
    assert suffix in VIDEO_SUFFIXES
    with open_video(path) as video:
        assert (video.info.width, video.info.height, video.info.frames) == (WIDTH, HEIGHT, 10)
        assert video.info.fps == pytest.approx(FPS) and video.info.name == path.name
        frames = dict(video.frames())
    assert list(frames) == list(range(10)) and video.position == 10
    for number, pixels_HW3 in frames.items():
        assert pixels_HW3.shape == (HEIGHT, WIDTH, 3) and pixels_HW3.dtype == np.uint8
        np.testing.assert_allclose(pixels_HW3.mean((0, 1)), (20 * number, 0, 0), atol=8)


def test_every_third_frame(tmp_path: Path) -> None:
    with open_video(save(tmp_path / "clip.avi")) as video:
        frames = dict(video.frames(every=3))
    assert list(frames) == [0, 3, 6, 9]
    assert frames[6][..., 0].mean() == pytest.approx(120, abs=8)


def test_a_video_cut_short_ends_early(tmp_path: Path) -> None:
    path = save(tmp_path / "clip.avi", frames=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_video(path) as video:
        assert 0 < len(list(video.frames())) < video.info.frames == 40


@pytest.mark.parametrize(
    "content",
    [b"", b"no video" * 100, b"ffconcat version 1.0\nfile clip.avi\n", b"#EXTM3U\nclip.avi\n"],
)
def test_other_files_and_lists_of_files_are_refused(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "clip.avi")
    path = tmp_path / "other.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.mp4 cannot be read as a video: replace it"):
        open_video(path)
    assert capfd.readouterr().err == ""
    assert OPTIONS not in os.environ


def test_an_option_of_the_user_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPTIONS, "threads;1")
    open_video(save(tmp_path / "clip.avi")).close()
    assert os.environ[OPTIONS] == "threads;1"


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """OpenCV would crash on it, and the process with it: none of its functions may be called."""
    path = tmp_path / os.fsdecode(b"clip-\xff.avi")
    try:
        save(tmp_path / "clip.avi").rename(path)
    except OSError:
        pytest.skip("the file system takes only UTF-8")
    with pytest.raises(ValueError, match="expected a name in UTF-8, found other bytes: rename"):
        open_video(path)
    with pytest.raises(ValueError, match="expected a name in UTF-8"):
        open_live("http://127.0.0.1:1/\udcff.mp4")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clip\.mp4 cannot be read \(No such file"):
        open_video(tmp_path / "clip.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match="not a regular file"):
        open_video(tmp_path / "pipe.mp4")


@pytest.mark.parametrize("properties", [{"WIDTH": 1 << 14, "HEIGHT": 1 << 14}, {"WIDTH": 0.0}])
def test_the_size_of_frames_is_limited(
    monkeypatch: pytest.MonkeyPatch, properties: dict[str, float]
) -> None:
    capture = FakeCapture([np.zeros((6, 8, 3), np.uint8)], **properties)
    with pytest.raises(ValueError, match=r"--source 0 cannot be read as a video: expected frames"):
        opened(monkeypatch, capture)
    assert capture.released and capture.position == -1


@pytest.mark.parametrize("other", [np.zeros((6, 9, 3), np.uint8), np.zeros((6, 8), np.uint8)])
def test_frames_of_another_size_or_kind_are_named(
    monkeypatch: pytest.MonkeyPatch, other: NDArray[np.uint8]
) -> None:
    frames = opened(monkeypatch, FakeCapture([np.zeros((6, 8, 3), np.uint8), other])).frames()
    assert next(frames)[0] == 0
    with pytest.raises(ValueError, match="found another kind at frame 1"):
        next(frames)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf"), 1e6])
def test_an_unusable_rate_is_replaced(monkeypatch: pytest.MonkeyPatch, fps: float) -> None:
    video = opened(monkeypatch, FakeCapture([], FPS=fps, COUNT=float("nan")))
    assert video.info == videos.VideoInfo("camera-0", 8, 6, DEFAULT_FPS, 0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("camera", "expected a camera's number, such as 0, or a stream's address"),
        ("file:///etc/passwd", "expected a camera's number"),
        ("-1", "expected a camera's number"),
        ("99", "--source 99 cannot be opened: connect it"),
        ("http://127.0.0.1:1/a.mp4", "cannot be opened: open it in a player"),
    ],
)
def test_sources_that_cannot_be_opened(
    source: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=message):
        open_live(source)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://user:secret@127.0.0.1:1/a", "rtsp://127.0.0.1:1/a"),
        ("rtsp://user:sec/r@t@127.0.0.1:1/a", "rtsp://127.0.0.1:1/a"),
        ("http://127.0.0.1:1/a.mp4?token=secret", "http://127.0.0.1:1/a.mp4?..."),
        ("user:secret@127.0.0.1", "127.0.0.1"),
    ],
)
def test_passwords_are_not_shown(source: str, shown: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"--source {shown}")) as raised:
        open_live(source)
    assert "sec" not in str(raised.value).replace("--source", "")


def test_a_camera_has_a_number() -> None:
    assert [camera_number(source) for source in ("0", "12", "123", "-1", "x", "")] == [
        *(0, 12),
        *[None] * 4,
    ]
