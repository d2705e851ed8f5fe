"""Boxes that a detector finds, as a file."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fpd.data.io.boxes import read_boxes
from fpd.data.io.photos import UprightFolder
from fpd.pipeline.detectors import check_detector, load_detector
from fpd.pipeline.detectors.detect import Detected, detect
from fpd.pipeline.detectors.detector import People
from fpd.pipeline.runtime.interrupt import Interrupted, Stop


class Halves:
    """Finds a person in the left half of every picture, a fainter and larger one, and a speck."""

    side_px = 100

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def to(self, device: torch.device) -> None:
        pass

    def __call__(self, image_HW3: NDArray[np.uint8], min_score: float, /) -> People:
        self.shapes.append(image_HW3.shape)
        height, width = image_HW3.shape[:2]
        if height > width:
            return People(np.zeros((0, 4)), np.zeros(0))
        boxes = [[-width, 0, 3 * width, height], [0, 0, width / 2, height], [1, 1, 0.5, 0.5]]
        return People(np.array(boxes, np.float64), np.array([0.5, 0.9, 1.0]))


@pytest.fixture
def photos(tmp_path: Path) -> UprightFolder:
    root = tmp_path / "photos"
    root.mkdir()
    Image.new("RGB", (800, 400)).save(root / "large.jpg")
    Image.new("RGB", (40, 60)).save(root / "tall, without people.png")
    return UprightFolder(root, ["large.jpg", "tall, without people.png"])


def test_boxes_are_in_the_photographs_pixels_best_first(
    photos: UprightFolder, tmp_path: Path
) -> None:
    detector = Halves()
    path = tmp_path / "boxes.csv"
    assert detect(detector, photos, path, min_score=0.3) == Detected(2, 1, 2)
    assert detector.shapes[0] == (50, 100, 3)  # a large photograph is decoded reduced
    assert path.read_text().splitlines() == [
        "image,x,y,width,height,score",
        "large.jpg,0.0,0.0,400.0,400.0,0.900",
        "large.jpg,0.0,0.0,800.0,400.0,0.500",
    ]
    assert [box.image for box in read_boxes(path).boxes] == ["large.jpg", "large.jpg"]


def test_a_stopped_detection_writes_nothing(photos: UprightFolder, tmp_path: Path) -> None:
    stop = Stop()
    stop.signal = signal.SIGTERM
    stop.set()
    with pytest.raises(Interrupted, match="detection stopped"):
        detect(Halves(), photos, tmp_path / "boxes.csv", min_score=0.3, stop=stop)
    assert not (tmp_path / "boxes.csv").exists()


@pytest.mark.parametrize("name", ["nothing", "none.onnx", "hf:", "hf:../x", "photos", "a.pt"])
def test_other_names_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.pt").touch()
    monkeypatch.chdir(tmp_path)
    for use in (check_detector, load_detector):
        with pytest.raises(ValueError, match=r"expected an existing \.onnx file of YOLO's, a"):
            use(name)


def test_a_model_of_the_hub_is_taken_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for under its name; here, the cache is empty and there is no network."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "snapshot")
    )
    (tmp_path / "snapshot").mkdir()
    with pytest.raises(ValueError, match=r"expected config\.json and .* in org/detector on the"):
        load_detector("hf:org/detector")
