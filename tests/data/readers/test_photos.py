"""Photographs without labels: joints, boxes, held-out photographs, labels for scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from pydantic import ValidationError

from fpd.data.augmentation import Augmentation
from fpd.data.datasets import Data, load, load_splits
from fpd.data.readers.photos import held_out, photos, skeleton_of
from fpd.data.readers.photos_settings import Photos
from fpd.data.skeletons import COCO, LSP
from fpd.data.views import CENTER_CROP, Geometry, Views

JOINTS = ("nose", "left shoulder", "right shoulder", "left hip", "right hip", "left pinky",
          "right pinky")  # fmt: skip


def save_image(path: Path, size: tuple[int, int] = (120, 90)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    save_image(root / "b.jpg")
    save_image(root / "deep" / "a.png", (40, 60))
    return root


def read(root: Path, **settings: object) -> Data:
    photos = {"joints": JOINTS} | settings
    return Data.model_validate({"reader": "photos", "root": root, "photos": photos})


def test_each_photograph_is_a_person_without_boxes(root: Path) -> None:
    samples = photos(root, Photos(joints=JOINTS))
    assert samples.ids == ("photos/b.jpg/0", "photos/deep/a.png/0")
    np.testing.assert_array_equal(samples.center_N2, [[59.5, 44.5], [19.5, 29.5]])
    assert samples.side_N.tolist() == samples.normalizer_N.tolist() == [120, 60]
    assert np.isnan(samples.joints_NK2).all()
    assert samples.tallies[0].notes == ("each photograph is one person's box",)


@pytest.mark.parametrize("suffix", ["csv", "json", "folder"])
def test_boxes_come_from_any_file(root: Path, tmp_path: Path, suffix: str) -> None:
    """Two people on one photograph, none on the other, and a dog."""
    if suffix == "csv":
        path = tmp_path / "people.csv"
        path.write_text("image,x,y,width,height,score\nb.jpg,12,9,60,36,0.9\nb.jpg,0,0,30,45,0.1\n")
    elif suffix == "json":
        path = tmp_path / "results.json"
        path.write_text(
            '[{"image_id": "b", "category_id": 1, "bbox": [12, 9, 60, 36], "score": 0.9},'
            ' {"image_id": "b", "category_id": 1, "bbox": [0, 0, 30, 45], "score": 0.1},'
            ' {"image_id": "b", "category_id": 18, "bbox": [0, 0, 30, 45], "score": 0.9}]'
        )
    else:
        path = tmp_path / "labels"
        path.mkdir()
        text = "0 0.35 0.3 0.5 0.4 0.9\n0 0.125 0.25 0.25 0.5 0.1\n16 0.5 0.5 0.1 0.1 0.9\n"
        (path / "b.txt").write_text(text)
    samples = photos(root, Photos(joints=JOINTS, boxes=path))
    assert samples.ids == ("photos/b.jpg/0",)
    np.testing.assert_allclose(samples.center_N2, [[41.5, 26.5]])
    np.testing.assert_allclose([samples.side_N, samples.normalizer_N], [[75], [60]])
    assert "1 with a score below 0.3" in str(samples.tallies[0])
    assert samples.tallies[0].notes == ("1 of 2 photographs have no person's box",)
    both = photos(root, Photos(joints=JOINTS, boxes=path, min_score=0))
    assert both.ids == ("photos/b.jpg/0", "photos/b.jpg/1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,x,y,width,height\nb.jpg,1,2,x,4", r"as box 1 \(line 2\), found"),
        ("image,x,y\nb.jpg,1,2", "expected a first line with image,x,y,w,h"),
        ("image,x,y,w,h\nother.jpg,1,2,3,4", "has no box of a photograph in .*'other.jpg'"),
        ("image,x,y,w,h,score\nb.jpg,1,2,9,9,0.1", "expected a person's box, found none; left out"),
    ],
)
def test_other_boxes_are_refused(root: Path, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        photos(root, Photos(joints=JOINTS, boxes=path))


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    """A picture that is stored sideways gives the view of the one that is stored upright."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8).repeat(20, 0)
    upright = Image.fromarray(pixels.repeat(20, 1))
    upright.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    samples = photos(tmp_path, Photos(joints=JOINTS))
    views = Views(samples, Geometry(crop_px=64), Augmentation(), 0)
    crops = [views[index, CENTER_CROP]["crop"] for index in range(2)]
    np.testing.assert_array_equal(*crops)
    assert samples.images.note(1) is None


def test_held_out_photographs_take_all_their_people_along(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for number in range(40):
        save_image(root / f"{number}.jpg", (40, 40))
    rows = [f"{number}.jpg,{x},0,20,20" for number in range(40) for x in (0, 20)]
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("\n".join(["image,x,y,w,h", *rows]))
    data = read(root, boxes=boxes).model_copy(update={"validation": 0.25})
    splits = load_splits(data, ("train", "validation", "test"))
    images = {split: {id_.split("/")[1] for id_ in s.ids} for split, s in splits.items()}
    assert len(splits["train"]) + len(splits["test"]) == 80 and not len(splits["validation"])
    assert len(images["train"]) + len(images["test"]) == 40 and 3 <= len(images["test"]) <= 17
    (root / "new.jpg").symlink_to(root / "0.jpg")
    assert {i.split("/")[1] for i in load(data, "test").ids} == images["test"]


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 1), (3, 1)])
def test_of_few_photographs_one_is_held_out(tmp_path: Path, count: int, expected: int) -> None:
    for number in range(count):
        save_image(tmp_path / f"{number}.jpg")
    assert held_out(photos(tmp_path, Photos(joints=JOINTS)), 1e-9).sum() == expected


def test_skeletons_are_built_of_names() -> None:
    skeleton = skeleton_of(JOINTS)
    assert skeleton.flip_indices == (0, 2, 1, 4, 3, 6, 5)
    limbs = {frozenset(JOINTS[k] for k in limb) for limb in skeleton.limbs}
    assert frozenset(("left shoulder", "left hip")) in limbs and len(limbs) == 4
    assert [name for name, _ in skeleton.groups] == ["nose", "shoulder", "hip", "pinky"]
    assert skeleton_of(COCO.joints) is COCO
    with pytest.raises(ValidationError, match="found no counterpart of left hip"):
        Photos(joints=("nose", "left hip"))


@pytest.fixture
def leeds(tmp_path: Path) -> Path:
    """LSP with 1,003 photographs, of which the last three are for testing."""
    root = tmp_path / "leeds"
    (root / "lsp" / "images").mkdir(parents=True)
    save_image(root / "one.jpg", (100, 100))
    for number in (1, 2, 1001, 1002, 1003):
        (root / "lsp" / "images" / f"im{number:04d}.jpg").symlink_to(root / "one.jpg")
    joints = np.random.default_rng(0).uniform(1, 100, (3, 14, 1003))
    scipy.io.savemat(root / "lsp" / "joints.mat", {"joints": joints})
    return root


def test_labels_of_other_joints_score_those_in_common(leeds: Path) -> None:
    for number in (1001, 1002, 1003):  # files of their own, to be told apart
        path = leeds / "lsp" / "images" / f"im{number:04d}.jpg"
        path.unlink()
        save_image(path, (100, 100))
    splits = load_splits(read(leeds, labels="lsp"), ("train", "test"))
    assert [id_.split("/")[-2] for id_ in splits["train"].ids] == [
        "im0001.jpg",
        "im0002.jpg",
        "one.jpg",
    ]
    assert "3 on photographs to score on" in str(splits["train"].tallies[0])
    test = splits["test"]
    assert test.ids == ("lsp/im1001", "lsp/im1002", "lsp/im1003")
    assert test.skeleton.joints == JOINTS and test.skeleton.metric == LSP.metric
    assert test.skeleton.normalizer == (1, 4) and dict(test.skeleton.groups)["hip"] == (4, 3)
    labeled = ~np.isnan(test.joints_NK2).any((0, 2))
    assert labeled.tolist() == [False, True, True, True, True, False, False]
    original = load(Data(reader="lsp", root=leeds), "test")
    np.testing.assert_array_equal(test.joints_NK2[:, 1], original.joints_NK2[:, 9])
    np.testing.assert_array_equal(test.normalizer_N, original.normalizer_N)


def test_labels_without_a_common_joint_are_refused(leeds: Path) -> None:
    with pytest.raises(ValueError, match=r"expected labels of the students' joints .* no name"):
        load(read(leeds, labels="lsp", joints=("nose", "tail")), "test")


def test_missing_labels_name_the_setting(root: Path) -> None:
    with pytest.raises(ValueError, match=r"labels = lsp: .*--set data\.photos\.labels_root=FOLDER"):
        load(read(root, labels="lsp"), "test")


def test_missing_joints_and_folders_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.photos\.joints is not set"):
        photos(root, Photos())
    with pytest.raises(ValueError, match="expected a folder of photographs, found none"):
        photos(tmp_path / "none", Photos(joints=JOINTS))
    with pytest.raises(ValidationError, match=r"data\.reader=photos, put all images below"):
        Data(reader="photos", root=root, unlabeled_root=root)
