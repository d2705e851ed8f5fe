"""A folder of images without labels."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from fpd.data.datasets import load
from fpd.data.readers.folder import folder
from fpd.data.sections import Data
from fpd.data.skeletons import COCO, LSP, MPII


def save_image(path: Path, size: tuple[int, int] = (120, 90)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_image(tmp_path / "b.jpg")
    save_image(tmp_path / "deep" / "a.png", (40, 60))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_without_boxes_each_image_is_a_sample(root) -> None:
    samples = folder(root, MPII)
    assert samples.ids == ("folder/b.jpg/0", "folder/deep/a.png/0")
    assert samples.joints_NK2.shape == (2, 16, 2) and np.isnan(samples.joints_NK2).all()
    # The center of pixels 0 to 119 is 59.5.
    np.testing.assert_allclose(samples.center_N2, [[59.5, 44.5], [19.5, 29.5]])
    np.testing.assert_allclose(samples.side_N, [120, 60])
    assert np.isnan(samples.normalizer_N).all()


BOXES = [
    {"image": "b.jpg", "x": 10, "y": 20, "w": 40, "h": 60},
    {"image": "b.jpg", "x": 0, "y": 0, "w": 30, "h": 10},
]


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_each_box_is_a_sample(root, suffix) -> None:
    rows = ["image,x,y,w,h", *(",".join(map(str, box.values())) for box in BOXES)]
    text = json.dumps(BOXES) if suffix == "json" else "\n".join(rows)
    (root / f"boxes.{suffix}").write_text(text)
    samples = folder(root, COCO)
    assert samples.ids == ("folder/b.jpg/0", "folder/b.jpg/1")
    np.testing.assert_allclose(samples.center_N2, [[29.5, 49.5], [14.5, 4.5]])
    np.testing.assert_allclose(samples.side_N, [75, 37.5])


def test_other_boxes_than_peoples_are_left_out_and_counted(root) -> None:
    rows = [
        "image,x,y,w,h,score,category_id,iscrowd",
        "b.jpg,10,20,40,60,0.9,1,0",
        "b.jpg,10,20,40,60,0.1,1,",
        "b.jpg,10,20,40,60,0.9,17,",
        "deep/a.png,1,2,30,30,,1,1",
        "deep/a.png,1,2,30,20,,,",
    ]
    (root / "boxes.csv").write_text("\n".join(rows))
    samples = folder(root, COCO)
    assert samples.ids == ("folder/b.jpg/0", "folder/deep/a.png/0")
    assert str(samples.tallies[0]).endswith(
        "2 kept; left out: 1 with a score below 0.3, 1 of other categories than 1, 1 around crowds"
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("boxes.csv", "image,x,y\na.jpg,1,2", "expected a first line with image,x,y,w,h"),
        ("boxes.csv", "image,x,y,w,h\n", "expected 1 to 1000000 boxes, found 0"),
        (
            "boxes.csv",
            "image,x,y,w,h\nb.jpg,1,2,nan,3",
            "expected four finite numbers x, y, w, h as box 1",
        ),
        ("boxes.json", "[{", "cannot be read as JSON"),
        ("boxes.json", '[{"image": "b.jpg"}]', "a person's box, found none; left out: 1 with"),
        ("boxes.json", '[{"image": 7, "x":1, "y":1, "w":9, "h":9}]', "expected the name of a file"),
        (
            "boxes.csv",
            "image,x,y,w,h,category_id\nb.jpg,1,1,9,9,17",
            "found 17: remove category_id",
        ),
        ("boxes.json", '[{"image": "../b.jpg", "x":1, "y":1, "w":9, "h":9}]', "names inside"),
    ],
)
def test_damaged_boxes_are_refused(root, name, text, message) -> None:
    (root / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        folder(root, LSP)


def test_empty_and_missing_folders_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected 1 to 1000000 images, found 0"):
        folder(tmp_path, LSP)
    with pytest.raises(ValueError, match="expected a folder of images, found none"):
        folder(tmp_path / "none", LSP)
    for name in ("boxes.json", "boxes.csv"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"expected one of boxes\.json and boxes\.csv, found both"):
        folder(tmp_path, LSP)


def test_the_reader_needs_a_skeleton(root) -> None:
    with pytest.raises(
        ValidationError, match=r"data\.folder\.skeleton is needed .*=lsp\|mpii\|coco"
    ):
        Data(reader="folder", root=root)
    data = Data(reader="folder", root=root, folder={"skeleton": "coco"})
    assert load(data, "train").skeleton is COCO
    assert len(load(data, "validation")) == 0  # unlabeled samples cannot select weights
    assert load(data, "test").ids == load(data, "train").ids


def test_damaged_images_are_named(root) -> None:
    (root / "c.jpg").write_text("not an image")
    data = Data(reader="folder", root=root, folder={"skeleton": "lsp"})
    with pytest.raises(
        ValueError, match=r"1 of 3 .*folder/c\.jpg/0: .*c\.jpg cannot be read as an"
    ):
        load(data, "train")


def test_links_are_followed_and_pipes_are_not_opened(root, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "c.jpg"
    save_image(elsewhere, (50, 50))
    (root / "c.jpg").symlink_to(elsewhere)
    assert folder(root, LSP).side_N.tolist() == [120, 50, 60]
    os.mkfifo(root / "d.jpg")  # opening it would block forever
    data = Data(reader="folder", root=root, folder={"skeleton": "lsp"})
    with pytest.raises(
        ValueError, match=r"d\.jpg/0: .*d\.jpg cannot be read \(not a regular file\)"
    ):
        load(data, "train")
    with pytest.raises(ValueError, match=r"d\.jpg cannot be read \(not a regular file\)"):
        folder(root, LSP).images.read(2, 1.0)
