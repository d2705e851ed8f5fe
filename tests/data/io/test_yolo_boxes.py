"""YOLO's text files of boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpd.data.io.images import ImageFolder
from fpd.data.io.yolo_boxes import MAX_TEXT_BYTES, read_yolo


@pytest.fixture
def photos(tmp_path: Path) -> ImageFolder:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "deep/b.png"):
        Image.new("RGB", (200, 100)).save(tmp_path / "photos" / name)
    return ImageFolder(tmp_path / "photos", ["a.jpg", "deep/b.png"])


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    folder = tmp_path / "labels"
    (folder / "deep").mkdir(parents=True)
    return folder


def test_boxes_are_in_pixels(photos: ImageFolder, labels: Path) -> None:
    (labels / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n\n2 0.5 0.5 1 1 0.75\n")
    (labels / "deep" / "b.txt").write_text("0 0.1 0.2 0.2 0.4 " + "0.5 0.5 2 " * 17)
    file = read_yolo(labels, photos)
    assert [(box.image, box.category_id, box.score) for box in file.boxes] == [
        ("a.jpg", 1, 1.0),
        ("a.jpg", 3, 0.75),
        ("deep/b.png", 1, 1.0),  # a pose: keypoints, no confidence
    ]
    boxes = [box.xywh for box in file.boxes]
    np.testing.assert_allclose(boxes, [[75, 25, 50, 50], [0, 0, 200, 100], [0, 0, 40, 40]])


def test_files_may_lie_in_one_folder(photos: ImageFolder, labels: Path) -> None:
    (labels / "b.txt").write_text("0 0.5 0.5 1 1")
    assert [box.image for box in read_yolo(labels, photos).boxes] == ["deep/b.png"]


@pytest.mark.parametrize(
    "line", ["0 0.5 0.5 0.5", "0 100 50 20 20", "x 0.5 0.5 1 1", "0.5 0.5 0.5 1 1", "0 nan 0 1 1"]
)
def test_other_lines_are_refused(photos: ImageFolder, labels: Path, line: str) -> None:
    (labels / "a.txt").write_text(f"0 0.5 0.5 1 1\n{line}\n")
    with pytest.raises(ValueError, match=r"a\.txt, line 2: expected a class and cx, cy, w, h from"):
        read_yolo(labels, photos)


def test_large_files_and_missing_ones_are_refused(photos: ImageFolder, labels: Path) -> None:
    with pytest.raises(ValueError, match=r"text files of the photographs, such as a\.txt, found"):
        read_yolo(labels, photos)
    (labels / "a.txt").write_bytes(b" " * (MAX_TEXT_BYTES + 1))
    with pytest.raises(ValueError, match="cannot be read as boxes: expected at most 1 MiB"):
        read_yolo(labels, photos)
