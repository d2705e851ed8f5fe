"""Labeling tools' exports in COCO's format: small files written after their documentation.

CVAT: docs.cvat.ai, "COCO Keypoints". Roboflow: roboflow.com/formats/coco-keypoint. Label Studio:
labelstud.io/guide/export, "COCO".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fpd.data.datasets import load, read_splits
from fpd.data.readers.coco_settings import Coco
from fpd.data.sections import Data

CVAT = Coco(
    folder=".",
    train="person_keypoints_default.json",
    train_images="images/default",
    test="held-out",
)
ROBOFLOW = Coco(
    folder=".",
    train="train/_annotations.coco.json",
    train_images="train",
    test="valid/_annotations.coco.json",
    test_images="valid",
)
LABEL_STUDIO = Coco(folder=".", train="result.json", train_images=".", test="held-out")


def write(root: Path, file: str, content: dict[str, Any], folder: str) -> None:
    """The file, and its images in a folder."""
    for image in content["images"]:
        path = root / folder / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (image["width"], image["height"])).save(path)
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def data_of(root: Path, settings: Coco) -> Data:
    return Data(reader="coco", root=root, validation=0, coco=settings)


def cvat(count: int = 12) -> dict[str, Any]:
    """A skeleton, its points as labels of their own, and a box of another label."""
    images = [
        {
            "id": n,
            "width": 64,
            "height": 48,
            "file_name": f"street/frame_{n:06d}.PNG",
            "license": 0,
            "flickr_url": "",
            "coco_url": "",
            "date_captured": 0,
        }
        for n in range(1, count + 1)
    ]
    joints = ["nose", "left_knee", "right_knee"]
    plain = [
        {"id": 2 + i, "name": name, "supercategory": "person"} for i, name in enumerate(joints)
    ]
    skeleton = {
        "id": 1,
        "name": "person",
        "supercategory": "",
        "keypoints": joints,
        "skeleton": [[2, 1], [1, 3]],
    }
    attributes = {"occluded": False, "keyframe": True, "track_id": 4, "rotation": 0.0}
    person = {
        "category_id": 1,
        "segmentation": [],
        "area": 320.0,
        "bbox": [10.5, 8.0, 20.0, 16.0],
        "iscrowd": 0,
        "attributes": attributes,
        "keypoints": [10.5, 8.0, 2, 30.5, 24.0, 1, 18.0, 20.0, 0],  # the last one is "outside"
        "num_keypoints": 2,
    }
    box = {"category_id": 5, "segmentation": [], "area": 9.0, "bbox": [1, 1, 3, 3], "iscrowd": 0}
    people = [person | {"id": n, "image_id": n} for n in range(1, count + 1)]
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": "", "year": ""},
        "categories": [skeleton, *plain, {"id": 5, "name": "car", "supercategory": ""}],
        "images": images,
        "annotations": [*people, box | {"id": count + 1, "image_id": 1}],
    }


def test_cvat(tmp_path) -> None:
    write(tmp_path, "annotations/person_keypoints_default.json", cvat(), "images/default")
    splits = read_splits(data_of(tmp_path, CVAT), ("train", "test"))
    train, test = splits["train"], splits["test"]
    assert len(train) + len(test) == 12 and len(test) >= 1
    assert not set(train.ids) & set(test.ids)
    skeleton = train.skeleton
    assert skeleton.joints == ("nose", "left knee", "right knee")
    assert (skeleton.flip_indices, skeleton.limbs) == ((0, 2, 1), ((1, 0), (0, 2)))
    np.testing.assert_array_equal(train.joints_NK2[0], [[10.5, 8], [30.5, 24], [np.nan] * 2])
    (tally,) = train.tallies
    assert dict(tally.left_out) == {"of other categories": 1, "of the other split": len(test)}
    assert load(data_of(tmp_path, CVAT), "train").ids[0].startswith("coco/person_keypoints_default")


def test_the_people_of_an_image_are_in_one_split(tmp_path) -> None:
    content = cvat(count=30)
    again = [dict(record) for record in content["annotations"][:30]]
    for record in again:
        record["id"] += 100
    content["annotations"] += again
    write(tmp_path, "annotations/person_keypoints_default.json", content, "images/default")
    splits = read_splits(data_of(tmp_path, CVAT), ("train", "test"))
    images = [
        {samples.images.locate(int(i)) for i in samples.image_N} for samples in splits.values()
    ]
    assert not images[0] & images[1]
    assert sum(len(samples) for samples in splits.values()) == 60


def test_both_splits_have_people_although_most_images_have_none(tmp_path) -> None:
    content = cvat(count=30)
    content["annotations"] = content["annotations"][:2]
    write(tmp_path, "annotations/person_keypoints_default.json", content, "images/default")
    splits = read_splits(data_of(tmp_path, CVAT), ("train", "test"))
    assert [len(samples) for samples in splits.values()] == [1, 1]


def roboflow(**changes: Any) -> dict[str, Any]:
    """Ids from 0, a parent category without keypoints, no num_keypoints."""
    return {
        "info": {"year": "2024", "version": "1", "description": "Exported from roboflow.com"},
        "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}],
        "categories": [
            {"id": 0, "name": "glue-Qg7R", "supercategory": "none"},
            {
                "id": 1,
                "name": "glue",
                "supercategory": "glue-Qg7R",
                "keypoints": ["bottom", "top"],
                "skeleton": [[1, 2]],
            },
        ],
        "images": [
            {
                "id": 0,
                "license": 1,
                "file_name": "IMG_4900_JPG_jpg.rf.21d9.jpg",
                "height": 64,
                "width": 64,
                "date_captured": "2024-09-10T07:12:44+00:00",
            }
        ],
        "annotations": [
            {
                "id": 0,
                "image_id": 0,
                "category_id": 1,
                "bbox": [4, 6, 20.5, 40],
                "area": 820,
                "segmentation": [],
                "iscrowd": 0,
                "keypoints": [10.25, 40, 2, 12, 8, 1],
            }
            | changes
        ],
    }


def test_roboflow(tmp_path) -> None:
    for split in ("train", "valid"):
        write(tmp_path, f"{split}/_annotations.coco.json", roboflow(), split)
    data = data_of(tmp_path, ROBOFLOW)
    train, test = load(data, "train"), load(data, "test")
    # Both files have one name: the folder tells the samples apart.
    assert train.ids == ("coco/train/_annotations.coco/0",)
    assert test.ids == ("coco/valid/_annotations.coco/0",)
    assert train.images.locate(0).endswith("train/IMG_4900_JPG_jpg.rf.21d9.jpg")
    assert train.skeleton.joints == ("bottom", "top") and train.skeleton.limbs == ((0, 1),)
    np.testing.assert_array_equal(train.joints_NK2[0], [[10.25, 40], [12, 8]])


def label_studio(count: int = 12) -> dict[str, Any]:
    """The labeled points of a picture in one annotation, the rectangles as others."""
    keypoints = {"id": 0, "image_id": 0, "category_id": 1, "iscrowd": 0, "num_keypoints": 2}
    keypoints |= {"keypoints": [10, 40, 2, 12, 8, 2], "bbox": [10, 8, 2, 32]}
    rectangle = {"segmentation": [], "bbox": [4.0, 6.0, 20.0, 40.0], "ignore": 0, "iscrowd": 0}
    rectangle |= {"area": 800.0, "category_id": 0}
    return {
        "images": [
            {"width": 64, "height": 64, "id": n, "file_name": f"images\\1\\{n}-a.jpg"}
            for n in range(count)
        ],
        "categories": [
            {"id": 0, "name": "fly"},
            {
                "id": 1,
                "name": "default",
                "supercategory": "default",
                "keypoints": ["tail", "head"],
                "skeleton": [],
            },
        ],
        "annotations": [
            record
            for n in range(count)
            for record in (
                rectangle | {"id": 2 * n, "image_id": n},
                keypoints | {"id": 2 * n + 1, "image_id": n},
            )
        ],
        "info": {"year": 2025, "version": "1.0", "contributor": "Label Studio"},
    }


def test_label_studio(tmp_path) -> None:
    content = label_studio()
    (tmp_path / "images" / "1").mkdir(parents=True)
    for image in content["images"]:  # exported on Windows, unpacked elsewhere
        Image.new("RGB", (64, 64)).save(tmp_path / image["file_name"].replace("\\", "/"))
    (tmp_path / "result.json").write_text(json.dumps(content))
    splits = read_splits(data_of(tmp_path, LABEL_STUDIO), ("train", "test"))
    samples = load(data_of(tmp_path, LABEL_STUDIO), "train")
    assert sum(len(split) for split in splits.values()) == 12
    assert samples.skeleton.joints == ("tail", "head")
    np.testing.assert_array_equal(samples.joints_NK2[0], [[10, 40], [12, 8]])
    assert dict(samples.tallies[0].left_out)["of other categories"] == 12


def test_a_missing_file_names_the_settings(tmp_path) -> None:
    message = r"annotations/person_keypoints_default\.json is missing: .*data\.coco\.folder"
    with pytest.raises(ValueError, match=message):
        load(data_of(tmp_path, CVAT), "train")
