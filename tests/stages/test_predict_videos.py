"""`fpd predict` on videos and cameras: frames, drawings, JSON, and what ends them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from fpd.cli import main
from fpd.data.io import videos as video_files
from fpd.data.io.videos import open_video
from fpd.data.samples import SampleSet
from fpd.pipeline.detectors.detector import People
from fpd.pipeline.evaluation.inference import PredictedJoints
from fpd.pipeline.prediction import pose_model
from fpd.pipeline.prediction import videos as video_module
from fpd.pipeline.runtime.video_writer import VideoWriter
from fpd.stages import predict as predict_stage

WIDTH, HEIGHT, FPS, FRAMES = 96, 72, 20.0, 20


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def frame(number: int) -> NDArray[np.uint8]:
    """A gray picture (BGR) with a person's colors in the left half, which moves to the right."""
    pixels = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    pixels[20:60, 5 + number : 25 + number] = (40, 90, 200)
    return pixels


def save(path: Path, frames: int = FRAMES, code: str = "mp4v") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), FPS, (WIDTH, HEIGHT))
    for number in range(frames):
        writer.write(frame(number))
    writer.release()
    return path


def read(path: Path) -> tuple[tuple[int, int, float], list[NDArray[np.uint8]]]:
    with open_video(path) as video:
        frames = [pixels for _, pixels in video.frames()]
        return (video.info.width, video.info.height, video.info.fps), frames


def written(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


@pytest.fixture(scope="module")
def model(toy_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported file alone in its folder."""
    return Path(shutil.copy(toy_onnx, tmp_path_factory.mktemp("shipped") / "student.onnx"))


@pytest.fixture
def small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every person's joints are on a small circle around the center of the box."""

    def predicted(_: object, __: object, samples: SampleSet, ___: object) -> PredictedJoints:
        angles_K = np.linspace(0, 6, samples.skeleton.num_joints)
        circle_K2 = 8 * np.stack([np.cos(angles_K), np.sin(angles_K)], -1)
        joints_NK2 = samples.center_N2[:, None] + circle_K2
        return PredictedJoints(joints_NK2, np.full(joints_NK2.shape[:2], 0.9))

    monkeypatch.setattr(pose_model, "predict_exported", predicted)


class Left:
    """Finds the person of `frame` and a fainter one in the first ten pictures, then nobody."""

    side_px = 64

    def __init__(self) -> None:
        self.calls = 0

    def to(self, _: object) -> None: ...

    def __call__(self, image_HW3: NDArray[np.uint8], min_score: float, /) -> People:
        return self.find(image_HW3, min_score)

    def find(self, image_HW3: NDArray[np.uint8], min_score: float) -> People:
        self.calls += 1
        if self.calls > 10:
            return People(np.zeros((0, 4)), np.zeros(0))
        boxes = np.array([[0, 0, 60, 60], [4 + self.calls, 20, 20, 40]], np.float64)
        return People(boxes, np.array([0.4, 0.9]))


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Left:
    left = Left()
    monkeypatch.setattr(predict_stage, "check_detector", lambda _: None)
    monkeypatch.setattr(predict_stage, "load_detector", lambda _: left)
    return left


@pytest.mark.usefixtures("small_figures")
def test_a_video_comes_back_with_drawings_and_joints(model: Path, tmp_path: Path) -> None:
    clip, out = save(tmp_path / "clip.mp4"), tmp_path / "o"
    result = fpd(clip, "--model", model, "--box", "5,20,40,40", "-o", out)
    assert result.exit_code == 0, result.output
    assert f"predicted {FRAMES} poses on {FRAMES} frames, " in result.output
    assert " frames/s: written to " in result.output
    assert {p.name for p in out.iterdir()} == {".fpd.lock", "clip.mp4", "clip.mp4.json"}
    info, drawn = read(out / "clip.mp4")
    assert info == (WIDTH, HEIGHT, FPS) == read(clip)[0]
    assert len(drawn) == FRAMES
    content = written(out / "clip.mp4.json")
    assert (content["video"], content["fps"], content["frames"]) == ("clip.mp4", FPS, FRAMES)
    assert (content["width"], content["height"]) == (WIDTH, HEIGHT)
    assert len(content["joints"]) == 14 and content["skeleton"] == "lsp"
    assert [row["frame"] for row in content["people"]] == list(range(FRAMES))
    assert content["people"][5]["time_s"] == 5 / FPS
    for row, before, after in zip(content["people"], read(clip)[1], drawn, strict=True):
        assert row["bbox"] == [5, 20, 40, 40] and row["score"] == pytest.approx(0.9)
        difference = np.abs(after.astype(int) - before.astype(int)).max(-1)
        for x, y, _ in np.array(row["keypoints"]).reshape(14, 3).round().astype(int):
            assert difference[y - 1 : y + 2, x - 1 : x + 2].max() > 40  # encoding changes less
        assert difference[:, 60:].max() < 40


def test_the_joints_of_a_frame_are_those_of_the_same_picture(model: Path, tmp_path: Path) -> None:
    clip, out = save(tmp_path / "clip.avi", frames=2, code="MJPG"), tmp_path / "o"
    _, frames = read(clip)
    cv2.imwrite(str(tmp_path / "frame.png"), cv2.cvtColor(frames[1], cv2.COLOR_RGB2BGR))
    box = ("--box", "5,20,40,40", "--model", model, "--no-draw", "-o", out)
    assert fpd(clip, *box).exit_code == 0
    assert fpd(tmp_path / "frame.png", *box).exit_code == 0
    video = written(out / "clip.avi.mp4.json")["people"][1]
    [photo] = json.loads((out / "predictions.json").read_text())
    difference = np.array(video["keypoints"]) - photo["keypoints"]
    assert np.median(np.abs(difference)) < 1e-3
    assert not (out / "clip.avi.mp4").exists()


def test_a_detector_finds_people_frame_by_frame(
    model: Path, tmp_path: Path, detector: Left
) -> None:
    out = tmp_path / "o"
    arguments = (save(tmp_path / "clip.mp4"), "--model", model, "--detector", "x", "-o", out)
    result = fpd(*arguments)
    assert result.exit_code == 0, result.output
    assert detector.calls == FRAMES
    people = written(out / "clip.mp4.json")["people"]
    assert [row["frame"] for row in people] == [n for n in range(10) for _ in range(2)]
    assert people[0]["bbox"][2:] == pytest.approx([20, 40])  # the better one first
    assert len(read(out / "clip.mp4")[1]) == FRAMES
    assert "warning" not in result.output


def test_a_detector_on_photographs(model: Path, tmp_path: Path, detector: Left) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        cv2.imwrite(str(folder / f"{number:02d}.png"), frame(number))
    (folder / "11.png").write_bytes(b"no image")
    out = tmp_path / "o"
    result = fpd(folder / "*.png", "--model", model, "--detector", "x", "-o", out)
    assert result.exit_code == 1 and "11.png cannot be read" in result.output
    assert "predicted 20 people on 10 images" in result.output
    assert "no person was found on 1 image" in result.output
    rows = json.loads((out / "predictions.json").read_text())
    peaks = np.array(rows[0]["keypoints"]).reshape(-1, 3)[:, 2]
    assert rows[0]["score"] == pytest.approx(0.9 * peaks.mean(), abs=1e-3)
    assert len(list(out.glob("*.png"))) == 10


def test_a_photo_without_anybody_is_a_result(model: Path, tmp_path: Path, detector: Left) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), frame(0))
    detector.calls = 10
    out = tmp_path / "o"
    result = fpd(tmp_path / "a.png", "--model", model, "--detector", "x", "-o", out)
    assert result.exit_code == 0, result.output
    assert json.loads((out / "predictions.json").read_text()) == []


def test_a_signal_while_people_are_found_keeps_those_found(
    model: Path, tmp_path: Path, detector: Left, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame(0))
    (tmp_path / "1.png").write_bytes(b"no image")
    find = detector.find

    def interrupted(image_HW3: NDArray[np.uint8], min_score: float) -> People:
        if detector.calls == 2:
            signal.raise_signal(signal.SIGINT)
        return find(image_HW3, min_score)

    detector.find = interrupted  # type: ignore[method-assign]
    out = tmp_path / "o"
    result = fpd(tmp_path, "--model", model, "--detector", "x", "-o", out)
    assert result.exit_code == 130, result.output
    assert detector.calls == 3
    names = [row["file_name"] for row in json.loads((out / "predictions.json").read_text())]
    assert sorted({*names}) == ["0.png", "2.png", "3.png"]
    assert sorted(path.name for path in out.glob("*.png")) == ["0.png", "2.png", "3.png"]
    assert "1.png cannot be read as an image" in caplog.text


def test_photos_and_videos_together(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    save(folder / "a.avi", frames=3, code="MJPG")
    save(folder / "b.mp4", frames=3)
    cv2.imwrite(str(folder / "c.png"), frame(0))
    (folder / "d.mp4").write_bytes(b"no video")
    out = tmp_path / "o"
    result = fpd(folder, "--model", model, "-o", out)
    assert result.exit_code == 1
    assert "predicted 1 person on 1 image" in result.output
    assert result.output.count("predicted 3 poses on 3 frames") == 2
    assert "d.mp4 cannot be read as a video" in result.output
    assert "1 input or box, named above" in result.output
    results = {"a.avi.mp4", "a.avi.mp4.json", "b.mp4", "b.mp4.json"}
    photos = {"c.png", "joints.json", "predictions.json"}
    assert {p.name for p in out.iterdir()} == {".fpd.lock", *results, *photos}


def test_the_warning_for_whole_pictures(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = save(tmp_path / "clip.mp4", frames=2)
    cv2.imwrite(str(tmp_path / "a.png"), frame(0))
    for inputs, text in {
        (clip,): "each frame of the video is taken as one person",
        (tmp_path / "a.png",): "the photograph is taken as one person",
        (tmp_path,): "the photograph and each frame of the video is taken as one person",
    }.items():
        caplog.clear()
        assert fpd(*inputs, "--model", model, "-o", tmp_path / "o").exit_code == 0
        assert text in caplog.text and "--detector" in caplog.text
    caplog.clear()
    assert fpd(clip, "--model", model, "--box", "0,0,30,60", "-o", tmp_path / "o").exit_code == 0
    assert not caplog.text


def test_every_other_frame_and_no_more_than_asked_for(model: Path, tmp_path: Path) -> None:
    clip, out = save(tmp_path / "clip.mp4"), tmp_path / "o"
    arguments = (clip, "--model", model, "-o", out, "--every", "4")
    assert fpd(*arguments).exit_code == 0
    content = written(out / "clip.mp4.json")
    assert [row["frame"] for row in content["people"]] == [0, 4, 8, 12, 16]
    assert content["people"][2]["time_s"] == 8 / FPS
    info, frames = read(out / "clip.mp4")
    assert info[2] == FPS / 4 == content["fps"] and len(frames) == 5  # as long as before
    assert fpd(*arguments, "--max-frames", "3").exit_code == 0
    assert written(out / "clip.mp4.json")["frames"] == 3 == len(read(out / "clip.mp4")[1])


def test_a_video_cut_short_is_noted(model: Path, tmp_path: Path) -> None:
    clip, out = save(tmp_path / "clip.avi", frames=40, code="MJPG"), tmp_path / "o"
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    result = fpd(clip, "--model", model, "-o", out)
    assert result.exit_code == 0, result.output
    count = written(out / "clip.avi.mp4.json")["frames"]
    assert f"clip.avi: {count} of the 40 frames that the file states were decoded" in result.output
    assert "trimmed, or is damaged" in result.output
    assert 0 < count < 40 and len(read(out / "clip.avi.mp4")[1]) == count


def test_an_error_late_in_a_video_keeps_what_was_predicted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_module, "FRAMES_PER_BATCH", 2)
    predict, count = pose_model.predict_exported, iter(range(1, 1000))

    def fails(*arguments: Any) -> PredictedJoints:
        if next(count) == 3:
            raise ValueError("the model's output has NaN")
        return predict(*arguments)

    monkeypatch.setattr(pose_model, "predict_exported", fails)
    clip, out = save(tmp_path / "clip.mp4"), tmp_path / "o"
    result = fpd(clip, "--model", model, "-o", out)
    assert result.exit_code == 1
    assert "predicted 4 poses on 4 frames" in result.output and "output has NaN" in result.output
    assert "1 video, named above, could not be completed" in result.output
    assert "could not be used" not in result.output
    assert written(out / "clip.mp4.json")["frames"] == 4 == len(read(out / "clip.mp4")[1])


def test_a_video_that_cannot_be_written_leaves_its_joints(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(writer: VideoWriter) -> None:
        raise ValueError("3 of 20 frames could be written: free some space on the disk")

    monkeypatch.setattr(VideoWriter, "close", full)
    clip, out = save(tmp_path / "clip.mp4"), tmp_path / "o"
    result = fpd(clip, "--model", model, "-o", out)
    assert result.exit_code == 1
    assert f"{out / 'clip.mp4'} was not written: 3 of 20 frames" in result.output
    assert written(out / "clip.mp4.json")["frames"] == FRAMES
    assert {p.name for p in out.iterdir()} == {".fpd.lock", "clip.mp4.json"}


def test_the_bars_name_is_printable(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    bar = video_module.tqdm

    def recorded(**options: Any) -> Any:
        names.append(options["desc"])
        return bar(**options)

    monkeypatch.setattr(video_module, "tqdm", recorded)
    clip = save(tmp_path / "clip.avi", frames=2, code="MJPG")
    clip = clip.rename(tmp_path / f"\x1b[31m{'long' * 20}.avi")
    assert fpd(clip, "--model", model, "-o", tmp_path / "o").exit_code == 0
    assert len(names) == 1 and names[0].startswith("\\x1b[31mlong") and len(names[0]) == 40


def test_earlier_results_stay_if_no_frame_can_be_decoded(model: Path, tmp_path: Path) -> None:
    clip, out = save(tmp_path / "clip.avi", code="MJPG"), tmp_path / "o"
    content = clip.read_bytes()
    clip.write_bytes(content.replace(b"\xff\xc0", b"\0\0"))  # frames without their headers
    out.mkdir()
    (out / "clip.avi.mp4.json").write_text("earlier")
    result = fpd(clip, "--model", model, "-o", out)
    assert result.exit_code == 1 and "nothing could be predicted: " in result.output
    assert (out / "clip.avi.mp4.json").read_text() == "earlier"
    assert {p.name for p in out.iterdir()} == {".fpd.lock", "clip.avi.mp4.json"}


def interrupted_after(
    monkeypatch: pytest.MonkeyPatch, calls: int, number: int = signal.SIGINT
) -> None:
    """A signal arrives while the last of so many frames is drawn."""
    draw, count = video_module.draw_poses, iter(range(1, 1000))

    def drawn(*arguments: Any) -> NDArray[np.uint8]:
        if next(count) == calls:
            signal.raise_signal(number)
        return draw(*arguments)

    monkeypatch.setattr(video_module, "draw_poses", drawn)


def test_a_signal_leaves_a_playable_video(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_module, "FRAMES_PER_BATCH", 2)
    interrupted_after(monkeypatch, 5)
    clip, out = save(tmp_path / "clip.mp4"), tmp_path / "o"
    result = fpd(clip, "--model", model, "-o", out)
    assert result.exit_code == 130, result.output
    assert f"stopped: {out} has 6 frames of videos" in result.output
    assert written(out / "clip.mp4.json")["frames"] == 6 == len(read(out / "clip.mp4")[1])
    assert {p.name for p in out.iterdir()} == {".fpd.lock", "clip.mp4", "clip.mp4.json"}


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_half_written(model: Path, tmp_path: Path) -> None:
    clip, out = save(tmp_path / "clip.avi", frames=5000, code="MJPG"), tmp_path / "o"
    command = [sys.executable, "-m", "fpd", "predict", str(clip), "--model", str(model)]
    process = subprocess.Popen([*command, "-o", str(out)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob(".video-*/frames.mp4")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait(timeout=60)
    assert not list(out.glob("clip*"))


class Camera:
    """A camera, and the clock: to read and predict a frame takes two frames' time.

    Attributes:
        count: the number of its frames.
        encoding_s: how long a frame takes to encode.
    """

    def __init__(self, count: int = 5, encoding_s: float = 0.0) -> None:
        self.count, self.encoding_s = count, encoding_s
        self.position, self.now_s = -1, 0.0

    def isOpened(self) -> bool:
        return True

    def get(self, key: int) -> float:
        sizes = {cv2.CAP_PROP_FRAME_WIDTH: WIDTH, cv2.CAP_PROP_FRAME_HEIGHT: HEIGHT}
        return float({**sizes, cv2.CAP_PROP_FPS: FPS}.get(key, -1.0))

    def read(self) -> tuple[bool, NDArray[np.uint8]]:
        self.position += 1
        self.now_s += 2 / FPS
        return self.position < self.count, frame(min(self.position, 60))

    def release(self) -> None: ...


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[[Camera], None]:
    """Connect a camera."""
    open_file, write = cv2.VideoCapture, VideoWriter.write

    def connected(camera: Camera) -> None:
        def capture(source: object, *rest: int) -> Any:
            return camera if isinstance(source, int) else open_file(source, *rest)

        def slow_write(writer: VideoWriter, frame_HW3: NDArray[np.uint8]) -> None:
            camera.now_s += camera.encoding_s
            write(writer, frame_HW3)

        monkeypatch.setattr(video_files.cv2, "VideoCapture", capture)
        monkeypatch.setattr(VideoWriter, "write", slow_write)
        monkeypatch.setattr(video_module, "monotonic", lambda: camera.now_s)

    return connected


def test_a_cameras_video_lasts_as_long_as_it_did(
    model: Path, tmp_path: Path, connect: Callable[[Camera], None]
) -> None:
    connect(Camera())
    out = tmp_path / "o"
    result = fpd("--source", "0", "--model", model, "-o", out, "--max-frames", "4")
    assert result.exit_code == 0, result.output
    content = written(out / "camera-0.mp4.json")
    assert [row["frame"] for row in content["people"]] == [0, 1, 2, 3] and content["frames"] == 4
    times_s = [row["time_s"] for row in content["people"]]
    assert times_s == pytest.approx([0.1, 0.2, 0.3, 0.4])
    info, frames = read(out / "camera-0.mp4")
    assert info[2] == FPS and len(frames) == 1 + FPS * times_s[-1]  # each is shown twice


@pytest.mark.parametrize(("encoding_frames", "frames_per_predicted"), [(0.25, 4), (3.0, 5)])
def test_repeated_frames_do_not_make_ever_more_of_them(
    model: Path,
    tmp_path: Path,
    connect: Callable[[Camera], None],
    encoding_frames: float,
    frames_per_predicted: int,
) -> None:
    """A frame takes a quarter of its time to encode, or three times as long."""
    camera = Camera(20, encoding_frames / FPS)
    connect(camera)
    result = fpd("--source", "0", "--model", model, "-o", tmp_path / "o")
    assert result.exit_code == 0, result.output
    _, frames = read(tmp_path / "o" / "camera-0.mp4")
    assert len(frames) <= 20 * frames_per_predicted
    if encoding_frames < 1:  # the video keeps up
        last_s = written(tmp_path / "o" / "camera-0.mp4.json")["people"][-1]["time_s"]
        assert len(frames) == pytest.approx(last_s * FPS, abs=2)


def test_ctrl_c_is_the_regular_end_of_a_camera_and_sigterm_is_not(
    model: Path,
    tmp_path: Path,
    connect: Callable[[Camera], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, status in ((signal.SIGINT, 0), (signal.SIGTERM, 75)):
        connect(Camera())
        out = tmp_path / str(status)
        with monkeypatch.context() as patched:
            interrupted_after(patched, 2, number)
            result = fpd("--source", "0", "--model", model, "-o", out)
        assert result.exit_code == status, result.output
        assert written(out / "camera-0.mp4.json")["frames"] == 2


def test_wrong_arguments_are_named(model: Path, tmp_path: Path) -> None:
    clip = save(tmp_path / "clip.mp4", frames=2)
    cv2.imwrite(str(tmp_path / "a.png"), frame(0))
    (tmp_path / "boxes.csv").write_text("image,x,y,w,h\na.png,1,1,50,60\n")
    (tmp_path / "boxes").mkdir()
    out = ("-o", tmp_path / "o")
    boxes = ("--boxes", tmp_path / "boxes.csv")
    for arguments, part in (
        ((clip, "--model", model, *boxes), "--boxes is for photographs: find the people on video"),
        ((clip, "--model", model, "--box", "900,0,9,9"), "clip.mp4, frame 0: box 900,0,9,9 is out"),
        ((tmp_path, "--model", model, "--box", "1,1,9,9"), "--box is for one image, found 2"),
        ((tmp_path / "a.png", "--model", model, "--every", "2"), "--every and --max-frames are f"),
        ((clip, "--model", model, "--detector", "x"), "--detector x: expected an existing .onnx"),
        ((clip, "--model", model, "--detector", "x", *boxes), "found both --boxes and --detector"),
        ((clip, "--model", tmp_path / "no.onnx"), "no.onnx"),
        ((clip, "--model", tmp_path), "expected an exported model (.onnx, .pt2"),
        ((clip, "--model", model, "--name", "student"), "expected --name or --model, found both"),
        ((clip, "--model", model, "--flip-test"), "leave out --flip-test and --scales"),
        (("--source", "x", "--model", model), "expected a camera's number"),
        ((tmp_path / "none.mp4", "--model", model), "none.mp4: expected an image, a video"),
        (("--model", model), "found 0"),
    ):
        result = fpd(*arguments, *out)
        assert result.exit_code == 1, (arguments, result.output)
        errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1 and part in errors[0], result.output
        assert not list((tmp_path / "o").glob("clip*"))
    assert "the folder of the images" in fpd(clip, "--model", model, "-o", tmp_path).output


def test_links_to_images_are_not_replaced(model: Path, tmp_path: Path) -> None:
    for folder in ("real", "links"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "real" / "one.png"), frame(0))
    (tmp_path / "links" / "one.png").symlink_to("../real/one.png")
    (tmp_path / "same").symlink_to("links")
    for inputs in ("links", "same"):
        for out in ("links", "same", "real"):
            result = fpd(tmp_path / inputs, "--model", model, "-o", tmp_path / out)
            assert result.exit_code == 1 and "is the folder of the images" in result.output
    assert (tmp_path / "links" / "one.png").is_symlink()


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("clip.mov", "clip.mov.mp4"), ()),
        (("clip.mov", "clip.mov.mp4"), ("--no-draw",)),
        (("camera-0.mp4",), ("--source", "0")),
        (("stream.mp4",), ("--source", "rtsp://127.0.0.1/")),
        (("a.bmp", "a.bmp.png"), ()),
    ],
)
def test_results_of_one_name_are_refused(
    tmp_path: Path, names: tuple[str, ...], options: tuple[str, ...]
) -> None:
    """Before the model is loaded: there is none."""
    inputs = [tmp_path / name for name in names]
    for path in inputs:
        path.touch()
    result = fpd(*inputs, *options, "--model", tmp_path / "no.onnx", "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert " would both be written to " in result.output and "predict them in two" in result.output


def test_drawings_of_one_name_do_no_harm_without_drawings(model: Path, tmp_path: Path) -> None:
    for name in ("a.bmp", "a.bmp.png"):
        cv2.imwrite(str(tmp_path / name), frame(0))
    result = fpd(tmp_path, "--model", model, "--no-draw", "-o", tmp_path / "o")
    assert result.exit_code == 0, result.output


def test_a_model_needs_no_work_directory(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", frame(0))
    result = fpd("a.png", "--model", model)
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "predictions" / "student").iterdir()}
    assert names == {".fpd.lock", "a.png", "joints.json", "predictions.json"}
