"""YOLO's folders of poses, written after Ultralytics' and Roboflow's documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import ExifTags, Image
from pydantic import ValidationError

from fpd.data.datasets import load
from fpd.data.readers.coco import coco
from fpd.data.readers.coco_settings import Coco
from fpd.data.readers.yolo import label_name, yolo
from fpd.data.readers.yolo_settings import Yolo
from fpd.data.sections import Data
from fpd.data.skeletons import COCO

WIDTH, HEIGHT = 200, 100
FLY = "0 0.5 0.5 0.4 0.6 0.3 0.4 2 0.6 0.3 1 0.7 0.6 0"
"""Three joints, the last one not labeled."""

DESCRIPTION: dict[str, Any] = {
    "path": "../datasets/flies",  # of another machine, as in Ultralytics' own files
    "train": "images/train",
    "val": "images/val",
    "test": None,
    "kpt_shape": [3, 3],
    "flip_idx": [0, 2, 1],
    "names": {0: "fly"},
    "kpt_names": {0: ["head", "L_wing", "R_wing"]},
}


def write(root: Path, labels: dict[str, str], **changes: Any) -> None:
    """Pictures with these labels, by their names below images/, and data.yaml."""
    for name, text in labels.items():
        for folder, suffix in (("images", ".png"), ("labels", ".txt")):
            path = root / folder / (name + suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == ".png":
                Image.new("RGB", (WIDTH, HEIGHT)).save(path)
            elif text:
                path.write_text(text)
    (root / "data.yaml").write_text(yaml.safe_dump(DESCRIPTION | changes))


def samples_of(root: Path, text: str = FLY, split: str = "train", **changes: Any) -> Any:
    settings = changes.pop("settings", {})
    write(root, {"train/a": text, "val/b": FLY}, **changes)
    return yolo(root, split, Yolo(**settings))


def refused(root: Path, text: str = FLY, **changes: Any) -> str:
    with pytest.raises(ValueError, match="expected") as error:
        samples_of(root, text, **changes)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


def test_boxes_and_joints_are_in_pixels(tmp_path) -> None:
    samples = samples_of(tmp_path)
    assert samples.ids == ("yolo/images/train/a.png/0",)
    # Pixel indices, as Ultralytics converts COCO's; boxes are measured from the corner.
    np.testing.assert_allclose(samples.joints_NK2[0], [[60, 40], [120, 30], [np.nan] * 2])
    np.testing.assert_allclose(samples.center_N2[0], [99.5, 49.5])
    np.testing.assert_allclose(samples.normalizer_N, [80])
    np.testing.assert_allclose(samples.side_N, [100])


def test_the_same_person_as_in_coco_s_format(tmp_path) -> None:
    path = tmp_path / "coco" / "annotations" / "all.json"
    path.parent.mkdir(parents=True)
    keypoints = [60, 40, 2, 120, 30, 1, 0, 0, 0]
    record = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": keypoints}
    record["bbox"] = [60, 20, 80, 60]
    category = {"id": 1, "name": "fly", "keypoints": ["head", "L_wing", "R_wing"]}
    images = [{"id": 1, "file_name": "a.png"}]
    path.write_text(
        json.dumps({"images": images, "categories": [category], "annotations": [record]})
    )
    expected = coco(tmp_path, "train", Coco(train="all.json"))
    samples = samples_of(tmp_path)
    assert samples.skeleton == expected.skeleton
    for column in ("joints_NK2", "center_N2", "side_N", "normalizer_N"):
        np.testing.assert_allclose(getattr(samples, column), getattr(expected, column))


def test_splits_of_the_file(tmp_path) -> None:
    write(
        tmp_path,
        {"train/a": f"{FLY}\n{FLY.replace('0.5', '0.4')}\n", "val/b": FLY, "test/c": FLY},
        test="images/test",
    )
    data = Data(reader="yolo", root=tmp_path, validation=0)
    names = ("yolo/images/train/a.png/0", "yolo/images/train/a.png/1")
    assert load(data, "train").ids == names
    assert load(data, "test").ids == ("yolo/images/val/b.png/0",)
    data = data.model_copy(update={"yolo": Yolo(test="test")})
    assert load(data, "test").ids == ("yolo/images/test/c.png/0",)


def test_held_out_pictures_where_there_is_one_list(tmp_path) -> None:
    """As CVAT exports them: no val, flip_idx added by hand."""
    write(
        tmp_path, {f"train/{n}": f"{FLY}\n{FLY.replace('0.5', '0.4')}" for n in range(30)}, val=None
    )
    splits = [yolo(tmp_path, split, Yolo(test="held-out")) for split in ("train", "test")]
    images = [{samples.images.locate(int(i)) for i in samples.image_N} for samples in splits]
    assert len(images[0] | images[1]) == 30 and not images[0] & images[1] and images[1]
    assert sum(map(len, splits)) == 60


def test_both_splits_have_people_although_most_pictures_have_none(tmp_path) -> None:
    write(tmp_path, {f"train/{n}": FLY if n in (8, 20) else "" for n in range(30)}, val=None)
    (tmp_path / "labels/train/3.txt").touch()
    splits = [yolo(tmp_path, split, Yolo(test="held-out")) for split in ("train", "test")]
    assert [len(samples) for samples in splits] == [1, 1]


def test_one_picture_cannot_be_held_out(tmp_path) -> None:
    assert "expected 2 or more images" in refused(tmp_path, settings={"test": "held-out"})


@pytest.mark.parametrize(
    "names", [{float("inf"): "fly"}, {0.7: "fly"}, {0: "fly", "0": "bee"}, {"a": "fly"}]
)
def test_a_class_has_one_number(tmp_path, names) -> None:
    assert "names: expected a value for each class" in refused(tmp_path, names=names)


def test_a_number_of_thousands_of_digits_is_named_short(tmp_path) -> None:
    write(tmp_path, {"train/a": FLY})
    path = tmp_path / "data.yaml"
    path.write_text(f"train: images/train\nnames: [fly]\nkpt_shape: 0x{'f' * 9000}\n")
    with pytest.raises(ValueError, match=r"kpt_shape: .* found a very large number"):
        yolo(tmp_path, "train", Yolo())


def test_files_of_windows(tmp_path) -> None:
    """Backslashes, also in a ../ that is not meant, and a byte order mark."""
    write(tmp_path, {"train/a": "\ufeff" + FLY}, train="..\\images\\train")
    assert yolo(tmp_path, "train", Yolo()).ids == ("yolo/images/train/a.png/0",)
    (tmp_path / "list.txt").write_text("\ufeffimages\\train\\a.png\r\n", "utf-8")
    write(tmp_path, {}, train=["list.txt", "list.txt"])
    assert yolo(tmp_path, "train", Yolo()).ids == ("yolo/images/train/a.png/0",)


def test_a_list_of_too_many_lines_is_refused_before_they_are_read(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fpd.data.readers.yolo_lists.MAX_SAMPLES", 2)
    (tmp_path / "list.txt").write_text("a\n" * 3)
    write(tmp_path, {"train/a": FLY}, train="list.txt")
    with pytest.raises(ValueError, match=r"list\.txt: its lines: expected 1 to 2 images, found 3"):
        yolo(tmp_path, "train", Yolo())
    (tmp_path / "list.txt").write_text(".\n")
    with pytest.raises(ValueError, match=r"list\.txt: expected names of images, found a folder"):
        yolo(tmp_path, "train", Yolo())


def test_a_split_that_the_file_lacks_is_named(tmp_path) -> None:
    message = refused(tmp_path, split="test", settings={"test": "test"})
    assert "data.yaml: test: expected a folder of images" in message
    assert "found nothing; choose the test split with --set data.yolo.test=val, test" in message


def test_the_skeleton_of_named_joints(tmp_path) -> None:
    skeleton = samples_of(tmp_path).skeleton
    assert (skeleton.name, skeleton.joints) == ("fly", ("head", "L wing", "R wing"))
    assert skeleton.flip_indices == (0, 2, 1)
    assert skeleton.groups == (("head", (0,)), ("wing", (1, 2)))
    by_name = samples_of(tmp_path, flip_idx=None).skeleton
    assert by_name == skeleton


@pytest.mark.parametrize("names", [["head", "L_wing", "R_wing"], [["head", "L_wing", "R_wing"]]])
def test_names_of_joints_as_lists(tmp_path, names) -> None:
    assert samples_of(tmp_path, kpt_names=names).skeleton.joints == ("head", "L wing", "R wing")


def test_the_skeleton_of_joints_without_names(tmp_path) -> None:
    skeleton = samples_of(tmp_path, kpt_names=None).skeleton
    assert skeleton.joints == ("joint 0", "joint 1", "joint 2")
    assert skeleton.pairs == (("joint 1", "joint 2"),)


def test_coco_s_joints_without_names_are_known_by_their_pairs(tmp_path) -> None:
    text = "0 0.5 0.5 0.4 0.6" + " 0.5 0.5 2" * 17
    changes = {"kpt_shape": [17, 3], "flip_idx": list(COCO.flip_indices), "kpt_names": None}
    assert samples_of(tmp_path, text, **changes).skeleton is COCO


def test_limbs_between_known_joints(tmp_path) -> None:
    names = {0: ["nose", "left_knee", "left_ankle"]}
    skeleton = samples_of(tmp_path, kpt_names=names, flip_idx=[0, 1, 2]).skeleton
    assert {frozenset(limb) for limb in skeleton.limbs} == {frozenset((1, 2))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kpt_shape": None}, "kpt_shape: expected .*, found nothing"),
        ({"kpt_shape": [3, 4]}, r"kpt_shape: expected .*found \[3, 4\]"),
        ({"kpt_shape": [10**9, 3]}, "kpt_shape: expected .* 1 to 1000 joints"),
        ({"flip_idx": [0, 2]}, "flip_idx: expected, for each of 3 joints"),
        ({"flip_idx": [1, 2, 0]}, r"flip_idx: expected.* exchanging pairs"),
        ({"flip_idx": [0, 2, 3]}, "flip_idx: expected"),
        ({"flip_idx": None, "kpt_names": None}, "expected flip_idx, found neither it nor kpt_n"),
        ({"flip_idx": None, "kpt_names": [["a", "left b", "c"]]}, "nor counterparts of left b"),
        ({"kpt_names": {0: ["head", "wing"]}}, "kpt_names: expected 3 different names"),
        ({"kpt_names": {0: ["head", "head", "wing"]}}, "kpt_names: expected 3 different names"),
        ({"kpt_names": 7}, "kpt_names: expected a value for each class, found 7"),
        ({"names": {"x": 1}}, "names: expected a value for each class"),
        ({"train": "elsewhere"}, "train: expected a folder of images or a list .*found neither"),
        ({"train": "a" * 5000}, "expected the name of a file or folder, found one of 5000 letters"),
        ({"train": 5}, "train: expected a folder of images .*found 5"),
        ({"train": "/etc"}, "expected image names inside .*, got '/etc'"),
        ({"train": "images/../../.."}, r"expected image names inside .*, got 'images/\.\./\.\."),
    ],
)
def test_other_descriptions_are_refused(tmp_path, changes, message) -> None:
    assert re.search(message, refused(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.4 0.6", "line 1: expected 14 numbers, .* found 5"),
        (f"{FLY}\n\nx{FLY}", "line 3: expected 14 numbers"),
        (FLY.replace("0.5", "nan", 1), "line 1: expected cx, cy, w, h from 0 to 1"),
        (FLY.replace("0.5", "320", 1), "line 1: expected cx, cy, w, h from 0 to 1, found '0 320"),
        (FLY.replace("0.3 0.4 2", "60 40 2"), "line 1: expected labeled joints from 0 to 1"),
        (FLY.replace("0.4 2", "0.4 0.98"), "line 1: expected v of 0, 1 or 2"),
        ("1" + FLY[1:], "line 1: expected a class of data.yaml's names"),
        ("0.5" + FLY[1:], "line 1: expected a class of data.yaml's names"),
    ],
)
def test_other_lines_are_refused(tmp_path, text, message) -> None:
    found = refused(tmp_path, text)
    assert re.search(message, found)
    assert str(tmp_path / "labels" / "train" / "a.txt") in found


def test_joints_without_v(tmp_path) -> None:
    text = "0 0.5 0.5 0.4 0.6 0.3 0.4 0 0 -0.5 0.2"
    samples = samples_of(tmp_path, text, kpt_shape=[3, 2])
    np.testing.assert_allclose(samples.joints_NK2[0], [[60, 40], [np.nan] * 2, [np.nan] * 2])


def test_who_is_left_out_is_counted(tmp_path) -> None:
    unlabeled = "0 0.5 0.5 0.4 0.6" + " 0 0 0" * 3
    flat = FLY.replace("0.4 0.6", "0.4 0", 1)
    other = "1" + FLY[1:]
    text = "\n".join((FLY, FLY, unlabeled, flat, other))
    changes = {"names": ["fly", "leaf"], "settings": {"category": "fly"}}
    write(tmp_path, {"train/empty": ""})
    samples = samples_of(tmp_path, text, **changes)
    assert len(samples) == 1
    (tally,) = samples.tallies
    assert (tally.people, tally.kept) == (5, 1)
    assert dict(tally.left_out) == {
        "of other classes": 1,
        "repeated": 1,
        "with a box without area": 1,
        "without labeled joints": 1,
    }
    assert tally.notes == ("1 of 2 pictures have no labels",)
    del changes["settings"]
    assert len(samples_of(tmp_path, text, **changes)) == 2  # all classes, without a choice
    changes["settings"] = {"min_keypoints": 0}
    assert len(samples_of(tmp_path, text, **changes)) == 3


def test_labels_whose_picture_is_missing_are_counted(tmp_path) -> None:
    """Of the folder's pictures nothing else would show it; those of other lists are there."""
    write(tmp_path, {f"train/{name}": FLY for name in "abcd"}, train="train.txt")
    (tmp_path / "train.txt").write_text("./images/train/a.png\n")
    for name, text in {"classes": "fly", "background": ""}.items():
        (tmp_path / "labels" / "train" / f"{name}.txt").write_text(text)
    assert yolo(tmp_path, "train", Yolo()).tallies[0].notes == ()
    for name in "bd":
        (tmp_path / "images" / "train" / f"{name}.png").unlink()
    (note,) = yolo(tmp_path, "train", Yolo()).tallies[0].notes
    assert note == f"labels without a picture: 2, such as {tmp_path}/labels/train/b.txt"
    write(tmp_path, {})  # lists the folder
    assert yolo(tmp_path, "train", Yolo()).tallies[0].notes == (note,)


def test_an_unknown_class_is_refused(tmp_path) -> None:
    message = refused(tmp_path, settings={"category": "bee"})
    assert "expected a class 'bee' (data.yolo.category) among names, found fly" in message


def test_classes_of_different_joints_need_a_choice(tmp_path) -> None:
    names = {0: ["head", "L_wing", "R_wing"], 1: ["stem", "L_side", "R_side"]}
    changes = {"names": ["fly", "leaf"], "kpt_names": names}
    assert "choose a class with --set data.yolo.category" in refused(tmp_path, **changes)
    samples = samples_of(tmp_path, settings={"category": "fly"}, **changes)
    assert samples.skeleton.joints[0] == "head"


def test_lists_of_names(tmp_path) -> None:
    write(tmp_path, {"train/a": FLY, "train/b": FLY, "val/c": FLY}, train="train.txt")
    root = tmp_path.absolute()
    lines = ["./images/train/a.png", "", f"{root}/images/train/b.png", "images/train/a.png"]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    ids = ("yolo/images/train/a.png/0", "yolo/images/train/b.png/0")
    assert yolo(tmp_path, "train", Yolo()).ids == ids
    write(tmp_path, {}, train=["train.txt", "images/val"])
    assert yolo(tmp_path, "train", Yolo()).ids == (*ids, "yolo/images/val/c.png/0")
    (tmp_path / "train.txt").write_text("../../etc/passwd.png/../../../x.png")
    with pytest.raises(ValueError, match="expected image names inside"):
        yolo(tmp_path, "train", Yolo())


@pytest.mark.parametrize("path", ["a" * 5000, "\0", "/nowhere", 7, None, "..", "images/train"])
def test_an_entry_path_that_is_no_folder_below_the_root_is_ignored(tmp_path, path) -> None:
    if path == "images/train":  # a folder that has no such lists
        assert "at " in refused(tmp_path, path=path)
    else:
        assert len(samples_of(tmp_path, path=path)) == 1


def test_the_layout_of_roboflow(tmp_path) -> None:
    """Folders of splits with images/ and labels/ each, and names with a leading ../."""
    for split in ("train", "valid"):
        for folder in ("images", "labels"):
            (tmp_path / split / folder).mkdir(parents=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / split / "images" / "a_jpg.rf.1.jpg")
        (tmp_path / split / "labels" / "a_jpg.rf.1.txt").write_text(FLY)
    tree = {"train": "../train/images", "val": "../valid/images", "path": None}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(DESCRIPTION | tree))
    assert yolo(tmp_path, "train", Yolo()).ids == ("yolo/train/images/a_jpg.rf.1.jpg/0",)
    assert yolo(tmp_path, "test", Yolo()).ids == ("yolo/valid/images/a_jpg.rf.1.jpg/0",)


def test_the_file_may_be_beside_the_folder_that_it_names(tmp_path) -> None:
    write(tmp_path / "flies", {"train/a": FLY})
    (tmp_path / "flies.yaml").write_text(yaml.safe_dump(DESCRIPTION | {"path": "flies"}))
    samples = yolo(tmp_path, "train", Yolo(file="flies.yaml"))
    assert samples.ids == ("yolo/flies/images/train/a.png/0",)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("images/images/a.jpg", "images/labels/a.txt"),
        ("pictures/a.b.jpg", "pictures/a.b.txt"),
        ("images.jpg", "images.txt"),
    ],
)
def test_names_of_text_files(image, label) -> None:
    assert label_name(image) == label


def test_pictures_are_turned_upright(tmp_path) -> None:
    write(tmp_path, {"train/a": FLY})
    path = tmp_path / "images" / "train" / "a.png"
    path.unlink()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(path.with_suffix(".jpg"), exif=exif)
    samples = yolo(tmp_path, "train", Yolo())
    np.testing.assert_allclose(samples.joints_NK2[0, 0], [60, 40])
    assert samples.images.read(0, 1.0)[0].shape == (HEIGHT, WIDTH, 3)


def test_a_picture_that_cannot_be_read_is_named(tmp_path) -> None:
    write(tmp_path, {"train/a": FLY})
    (tmp_path / "images" / "train" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 of 1 samples .*a\.png cannot be read as an image"):
        load(Data(reader="yolo", root=tmp_path, validation=0), "train")


def test_missing_files_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"data\.yaml is missing: .*--set data\.yolo\.file=FILE"):
        yolo(tmp_path, "train", Yolo())
    (tmp_path / "dataset.yaml").touch()
    with pytest.raises(ValueError, match=r"data\.yaml is missing: .*, found dataset\.yaml; name"):
        yolo(tmp_path, "train", Yolo())
    write(tmp_path, {"train/a": ""})
    with pytest.raises(ValueError, match=r"text files .*labels/train/a\.txt, found none"):
        yolo(tmp_path, "train", Yolo())


@pytest.mark.parametrize(
    "content", ["", "- 1", "a: [", "a: &b [1]\nc: *b", "[" * 5000, "\0", "a: 2026-99-99"]
)
def test_damaged_descriptions_are_one_sentence(tmp_path, content) -> None:
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"^\S*data\.yaml") as error:
        yolo(tmp_path, "train", Yolo())
    assert "\n" not in str(error.value)


def test_no_code_of_a_description_runs(tmp_path) -> None:
    (tmp_path / "data.yaml").write_text("a: !!python/object/apply:os.mkdir [made]\n")
    with pytest.raises(ValueError, match="cannot be read as a data set's description"):
        yolo(tmp_path, "train", Yolo())


@pytest.mark.parametrize("name", ["../data.yaml", "/etc/data.yaml", ""])
def test_the_file_is_inside_the_root(name) -> None:
    with pytest.raises(ValidationError, match=r"expected a name inside data\.root"):
        Yolo(file=name)
