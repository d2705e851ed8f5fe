"""COCO's format: samples, and skeletons defined by the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from fpd.data.datasets import load
from fpd.data.geometry import Geometry
from fpd.data.readers.coco import coco, flip_indices_of
from fpd.data.readers.coco_settings import Coco
from fpd.data.sections import Augmentation, Data
from fpd.data.skeletons import COCO
from fpd.data.views import CENTER_CROP, Views

ONE_FILE = {
    "train": "all.json",
    "test": "all.json",
    "train_images": "images",
    "test_images": "images",
}
FLY = ("head", "L_wing", "R_wing", "tail")


def annotation(number: int, **changes: Any) -> dict[str, Any]:
    """A fly with an unlabeled left wing, in a box of 40 x 20 pixels."""
    return {
        "id": number,
        "image_id": 7,
        "category_id": 3,
        "bbox": [10.0, 20.0, 40.0, 20.0],
        "area": 500.0,
        "iscrowd": 0,
        "keypoints": [12, 22, 2, 0, 0, 0, 30, 38, 1, 48, 24, 2],
        "num_keypoints": 3,
    } | changes


def dataset(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    category = {
        "id": 3,
        "name": "fly",
        "keypoints": list(FLY),
        "skeleton": [[1, 2], [1, 3], [1, 4]],
    }
    return {
        "images": [{"id": 7, "file_name": "sub/a.jpg", "width": 120, "height": 90}],
        "categories": [category, {"id": 4, "name": "leaf"}],
        "annotations": list(annotations) or [annotation(1)],
    } | changes


def write(root: Path, content: Any, name: str = "all.json") -> Path:
    path = root / "coco" / "annotations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def samples_of(root: Path, content: Any, **settings: Any) -> Any:
    write(root, content)
    return coco(root, "train", Coco(**ONE_FILE | settings))


def test_ids_boxes_and_joints(tmp_path) -> None:
    samples = samples_of(tmp_path, dataset(annotation(41), annotation(9)))
    assert samples.ids == ("coco/all/41", "coco/all/9")
    assert samples.images.locate(0) == str(tmp_path / "coco" / "images" / "sub" / "a.jpg")
    assert samples.image_N.tolist() == [0, 0]
    # Keypoints are pixel indices from 0: the package's coordinates.
    np.testing.assert_array_equal(
        samples.joints_NK2[0], [[12, 22], [np.nan] * 2, [30, 38], [48, 24]]
    )
    # The box covers pixels 10 to 49 and 20 to 39, whose center is (29.5, 29.5).
    np.testing.assert_allclose(samples.center_N2[0], [29.5, 29.5])
    np.testing.assert_allclose(samples.side_N, 1.25 * 40)
    np.testing.assert_allclose(samples.normalizer_N, 40)


def test_the_skeleton_is_read_from_the_file(tmp_path) -> None:
    skeleton = samples_of(tmp_path, dataset()).skeleton
    assert skeleton.name == "fly"
    assert skeleton.joints == ("head", "L wing", "R wing", "tail")
    assert skeleton.flip_indices == (0, 2, 1, 3)
    assert skeleton.limbs == ((0, 1), (0, 2), (0, 3))
    assert skeleton.groups == (("head", (0,)), ("wing", (1, 2)), ("tail", (3,)))
    assert (skeleton.metric, skeleton.threshold, skeleton.sigmas) == ("PCK(box)", 0.2, ())


def test_settings_of_the_skeleton(tmp_path) -> None:
    settings = {"flip": [("head", "tail")], "sigmas": [0.1, 0.2, 0.3, 0.4]}
    skeleton = samples_of(tmp_path, dataset(), **settings).skeleton
    assert skeleton.flip_indices == (3, 1, 2, 0) and skeleton.sigmas == (0.1, 0.2, 0.3, 0.4)
    for flip in ([("head", "nose")], [("head", "head")], [("head", "tail"), ("tail", "L_wing")]):
        with pytest.raises(ValueError, match=r"data\.coco\.flip: expected pairs of different"):
            samples_of(tmp_path, dataset(), flip=flip)
    with pytest.raises(ValueError, match=r"sigmas \(--sigmas\): expected 4 numbers, got 1"):
        samples_of(tmp_path, dataset(), sigmas=[0.1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("eye left", "eye right"),
        ("L_Eye", "R_Eye"),
        ("LeftEye", "RightEye"),
        ("LEye", "REye"),
        ("LEFT hand", "RIGHT hand"),
    ],
)
def test_sides_are_detected_by_name(one, other) -> None:
    assert flip_indices_of((one, "middle", other), None) == (2, 1, 0)


def test_a_side_without_a_counterpart_is_refused_until_flip_is_set(tmp_path) -> None:
    content = dataset()
    content["categories"][0]["keypoints"] = ["head", "L_wing", "Rwinglet", "tail"]
    message = r"all\.json: expected a left and a right .* of L wing among .*data\.coco\.flip=none"
    with pytest.raises(ValueError, match=message):
        samples_of(tmp_path, content)
    assert samples_of(tmp_path, content, flip="none").skeleton.flip_indices == (0, 1, 2, 3)
    for flip in ([("L_wing", "Rwinglet")], [("WingL", "rwinglet")]):
        assert samples_of(tmp_path, content, flip=flip).skeleton.flip_indices == (0, 2, 1, 3)
    flip = [("L_wing", "Rwinglet")]
    assert samples_of(tmp_path, content, flip=flip).skeleton.flip_indices == (0, 2, 1, 3)


def test_excluded_annotations(tmp_path) -> None:
    unlabeled = annotation(4, keypoints=[0] * 12, num_keypoints=0)
    content = dataset(
        annotation(1, iscrowd=1),
        annotation(2, category_id=4),
        annotation(3, bbox=[10.0, 20.0, 0.0, 5.0]),
        unlabeled,
        annotation(5),
    )
    assert samples_of(tmp_path, content).ids == ("coco/all/5",)
    assert samples_of(tmp_path, content, min_keypoints=0).ids == ("coco/all/4", "coco/all/5")
    assert len(samples_of(tmp_path, content, min_keypoints=4)) == 0


def test_a_category_is_chosen_where_several_have_joints(tmp_path) -> None:
    content = dataset()
    content["categories"][1]["keypoints"] = ["stem", "tip"]
    with pytest.raises(
        ValueError, match=r"found 2 .* fly, leaf; .*category=NAME .*--category NAME"
    ):
        samples_of(tmp_path, content)
    assert samples_of(tmp_path, content, category="fly").skeleton.name == "fly"
    with pytest.raises(ValueError, match="expected one category with keypoints, found 0"):
        samples_of(tmp_path, content, category="bee")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected COCO's format, an object with images, categories, annotations"),
        (dataset(annotations=[]), "expected 1 to 1000000 objects, found 0"),
        (dataset(annotation(1, category_id=4)), "annotations of 'fly', found 0"),
        (dataset(annotation(1, category_id=9)), "annotation 1: category_id: .* found 9$"),
        (dataset(annotation(1, category_id=None)), "annotation 1: category_id: .* found nothing$"),
        (dataset(annotation(5, keypoints=[1, 2, 2])), "annotation 5: keypoints: expected 12 "),
        (dataset(annotation(5, keypoints={"head": 1})), "annotation 5: keypoints: expected 12 "),
        (dataset(annotation(5, keypoints=[1, 2, 3] * 4)), "annotation 5: keypoints: .* 1, 2, 3 as"),
        (dataset(annotation(5, keypoints=[1, 2, 0.4] * 4)), "keypoints: .*v of 0, 1 or 2"),
        (dataset(annotation(5, keypoints=[1, np.inf, 2] * 4)), "keypoints: expected finite x"),
        (dataset(annotation(5, keypoints=[1, np.nan, 2] * 4)), "keypoints: expected finite x"),
        (dataset(annotation(5, bbox=[1, 2, 3])), r"annotation 5: bbox: .* found \[1, 2, 3\]$"),
        (dataset(annotation(5, bbox=[1, 2, "x", 4])), "annotation 5: bbox: expected four finite"),
        (dataset(annotation(5, bbox=5)), "annotation 5: bbox: expected four finite .* found 5$"),
        (dataset(annotation(5, bbox=[1, 2, np.nan, 4])), "annotation 5: bbox: expected four fin"),
        (dataset(annotation(5, area="big")), "annotation 5: area: expected a number, found 'big'"),
        (dataset(annotation(5, area=-3)), "annotation 5: area: expected a number of pixels"),
        (
            dataset(annotation(5, iscrowd="no")),
            "annotation 5: iscrowd: expected 0 or 1, found 'no'",
        ),
        (dataset(annotation(5, iscrowd=2)), "annotation 5: iscrowd: expected 0 or 1, found 2"),
        (dataset(annotation(5, num_keypoints=[3])), "annotation 5: num_keypoints: expected a num"),
        (dataset(annotation(5, image_id=[8])), "annotation 5: image_id: expected a whole number"),
        (dataset(annotation(5, image_id=True)), "annotation 5: image_id: expected a whole number"),
        (dataset(annotation(5, image_id=8)), "annotation 5: image_id: .*'s images, found 8$"),
        (dataset(annotation(None)), "annotation 1 of the list: id: .* found nothing$"),
        (dataset(annotation({"a": 1})), "annotation 1 of the list: id: expected a whole number"),
        (
            dataset(annotation(5), annotation("5")),
            "id for every annotation, found 5 more than once",
        ),
        (dataset(images=[{"file_name": "a.jpg"}]), "image 1 of the list: id: expected a whole"),
        (dataset(images=[{"id": 7}]), "image 7: file_name: expected a name, found nothing"),
        (
            dataset(images=[{"id": 7, "file_name": "a", "width": "wide"}]),
            "image 7: width: expected",
        ),
        (dataset(images=[{"id": 7, "file_name": "a", "width": 1.5}]), "image 7: width: expected a"),
        (
            dataset(images=[{"id": 7, "file_name": "a"}, {"id": "7", "file_name": "b"}]),
            "id for every image, found 7 more than once",
        ),
        (dataset(images=[{"id": 7, "file_name": "../../../b.jpg"}]), "image names inside"),
        (dataset(images=[{"id": 7, "file_name": "/data/b.jpg"}]), r"all\.json: .* names inside"),
        (dataset(images=[{"id": 7, "file_name": "C:\\\\b.jpg"}]), r"all\.json: .* names inside"),
    ],
)
def test_impossible_labels_are_refused(tmp_path, content, message) -> None:
    with pytest.raises(ValueError, match=message):
        samples_of(tmp_path, content)


def test_impossible_skeletons_are_refused(tmp_path) -> None:
    for limbs in ([[1, 5]], [[0, 4]], [[1]], [["a", "b"]], [[1.5, 2]], 5, [[1, None]]):
        content = dataset()
        content["categories"][0]["skeleton"] = limbs
        with pytest.raises(ValueError, match=r"category 3: skeleton: .*, from 1 to 4, found"):
            samples_of(tmp_path, content)
    for names in (["a", "a", "b", "c"], "abc", 5, ["a", None], ["a", " "], {"a": 1}, ["a" * 201]):
        content = dataset()
        content["categories"][0]["keypoints"] = names
        with pytest.raises(ValueError, match=r"category 3: .*keypoints with different names"):
            samples_of(tmp_path, content)


def test_limbs_count_from_zero_or_have_names(tmp_path) -> None:
    content = dataset()
    for limbs in ([[0, 1], [1, 3]], [["head", "L_wing"], ["L wing", "tail"]], [["1", 2], [2, "4"]]):
        content["categories"][0]["skeleton"] = limbs
        assert samples_of(tmp_path, content).skeleton.limbs == ((0, 1), (1, 3))


def test_every_form_in_which_tools_write_a_field(tmp_path) -> None:
    """One person in many spellings, whose labels, box and image are the same."""
    plain = annotation(1, image_id=7)
    x_y_v = np.reshape(plain["keypoints"], (4, 3)).tolist()
    unlabeled = [*x_y_v[:1], [np.nan, np.nan, 0], *x_y_v[2:]]
    spellings = [
        plain,
        annotation(2, image_id="7", category_id="3", iscrowd="0"),
        annotation("3", image_id=7.0, category_id=3.0, iscrowd=False),
        annotation(4, iscrowd=None, area=None, num_keypoints="3"),
        annotation(5, iscrowd="false", area="", num_keypoints=None),
        annotation(6, keypoints=[str(value) for value in plain["keypoints"]], area="500.0"),
        annotation(7, keypoints=x_y_v, bbox=["10", "20", "40.0", 20]),
        annotation(8, keypoints=unlabeled),
        annotation(9, keypoints=[v for joint in unlabeled for v in joint]),
        annotation(10, keypoints=[*x_y_v[:1], [None, None, None], *x_y_v[2:]]),
        annotation(11, keypoints=[*x_y_v[:1], [np.nan, np.nan, 2], *x_y_v[2:]]),
        annotation(12, keypoints=[*x_y_v[:1], [0, 0, -1], *x_y_v[2:]]),
        annotation("frame_7/0"),
    ]
    for missing in ("iscrowd", "area", "num_keypoints"):
        spelling = annotation(f"no {missing}")
        del spelling[missing]
        spellings.append(spelling)
    content = dataset(*spellings)
    content["images"] = [{"id": "7", "file_name": "sub/a.jpg", "width": "120", "height": None}]
    content["categories"][0]["id"] = "3"
    samples = samples_of(tmp_path, content)
    assert samples.ids == tuple(f"coco/all/{a['id']}" for a in spellings)
    for index in range(len(samples)):
        np.testing.assert_array_equal(samples.joints_NK2[index], samples.joints_NK2[0])
        assert samples[index].center_2.tolist() == [29.5, 29.5] and samples[index].side_px == 50
    (tally,) = samples.tallies
    assert tally.people == tally.kept == len(spellings)
    assert tally.notes == ("1 joints without coordinates (NaN) count as not labeled",)


def test_everybody_left_out_is_counted(tmp_path) -> None:
    no_box = annotation(6)
    del no_box["bbox"]
    boxes_only = annotation(7)
    del boxes_only["keypoints"], boxes_only["num_keypoints"]
    content = dataset(
        annotation(1),
        annotation(2, category_id=4),
        annotation(3, iscrowd="1"),
        annotation(4, keypoints=[], num_keypoints=0, bbox=[0, 0, 0, 0]),
        annotation(5, keypoints=None, num_keypoints=0),
        no_box,
        boxes_only,
        annotation(8, bbox=[]),
        annotation(9, bbox=[np.nan] * 4),
        annotation(10, bbox=[10, 20, 0, 5]),
        annotation(11, num_keypoints=0),
    )
    samples = samples_of(tmp_path, content)
    assert samples.ids == ("coco/all/1", "coco/all/11")
    (tally,) = samples.tallies
    assert dict(tally.left_out) == {
        "of other categories": 1,
        "marked as a crowd": 1,
        "without labeled joints": 3,
        "without a box": 3,
        "with a box without area": 1,
    }
    assert tally.people == 11 and tally.kept == 2
    assert "num_keypoints differs from the labeled keypoints in 1 annotations" in tally.notes[0]


def test_two_categories_of_one_name_are_one(tmp_path) -> None:
    content = dataset(annotation(1), annotation(2, category_id=5))
    content["categories"].append(content["categories"][0] | {"id": 5})
    assert samples_of(tmp_path, content).ids == ("coco/all/1", "coco/all/2")
    content["categories"][2]["keypoints"] = ["a", "b"]
    with pytest.raises(ValueError, match=r"same keypoints in all categories named 'fly'.* 3, 5"):
        samples_of(tmp_path, content)


def test_sigmas_by_name(tmp_path) -> None:
    sigmas = {"tail": 0.4, "head": 0.1, "R_wing": 0.3, "L wing": 0.2}
    assert samples_of(tmp_path, dataset(), sigmas=sigmas).skeleton.sigmas == (0.1, 0.2, 0.3, 0.4)
    with pytest.raises(ValueError, match=r"data\.coco\.sigmas: expected a number for each of head"):
        samples_of(tmp_path, dataset(), sigmas={"head": 0.1})


def test_cocos_sigmas_follow_the_joints_into_another_order(tmp_path) -> None:
    names = [name.title().replace(" ", "") for name in reversed(COCO.joints)]
    content = dataset(annotation(1, keypoints=[5, 6, 2] * 17))
    content["categories"][0] |= {"keypoints": names, "skeleton": []}
    assert samples_of(tmp_path, content).skeleton.sigmas == COCO.sigmas[::-1]


def test_missing_and_damaged_files_are_named(tmp_path) -> None:
    path = write(tmp_path, json.dumps(dataset())[:-30])
    with pytest.raises(ValueError, match=r"all\.json cannot be read as labels: "):
        coco(tmp_path, "train", Coco(**ONE_FILE))
    path.unlink()
    with pytest.raises(ValueError, match=r"all\.json is missing: .* --set data\.coco\.train=FILE"):
        coco(tmp_path, "train", Coco(**ONE_FILE))
    write(tmp_path, dataset(), "people.json")
    with pytest.raises(ValueError, match=r"found people\.json; name it .*\(held-out: a tenth"):
        coco(tmp_path, "train", Coco(**ONE_FILE))


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", ""])
def test_settings_must_be_names_inside_the_folder(name) -> None:
    for key in ("folder", "train", "test_images"):
        with pytest.raises(ValidationError, match=r"expected a name inside data\.root"):
            Coco(**{key: name})


@pytest.mark.parametrize("sigma", [0.0, 1.1])
def test_impossible_sigmas_are_refused(sigma) -> None:
    with pytest.raises(ValidationError, match=r"sigmas\n.*0\.025"):
        Coco(sigmas=[0.1, sigma])


@pytest.mark.parametrize("orientation", [1, 6])
def test_images_of_another_size_than_in_the_file_are_refused(tmp_path, orientation) -> None:
    """A label tool that turned the picture, and a picture that was resized afterwards."""
    image = tmp_path / "coco" / "images" / "sub" / "a.jpg"
    image.parent.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (90, 120)).save(image, exif=exif)
    write(tmp_path, dataset())
    data = Data(reader="coco", root=tmp_path, validation=0, coco=Coco(**ONE_FILE))
    reason = "restore the picture that was labeled" if orientation == 1 else "mogrify -auto-orient"
    with pytest.raises(ValueError, match=rf"has 90 x 120 pixels, .*all\.json says .*{reason}"):
        load(data, "train")
    write(tmp_path, dataset(images=[{"id": 7, "file_name": "sub/a.jpg"}]))
    assert len(load(data, "train")) == 1  # the file states no size


def test_damaged_images_and_joints_far_outside_are_named(tmp_path) -> None:
    far = annotation(2, keypoints=[500, 22, 2, *[0] * 9])
    write(tmp_path, dataset(annotation(1), far))
    image = tmp_path / "coco" / "images" / "sub" / "a.jpg"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (120, 90)).save(image)
    data = Data(reader="coco", root=tmp_path, validation=0, coco=Coco(**ONE_FILE))
    with pytest.raises(ValueError, match=r"^coco: 1 of 2 .*coco/all/2: head at \(500, 22\) is far"):
        load(data, "train")
    image.write_bytes(image.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"2 of 2 .*coco/all/1: .*a\.jpg is a JPEG cut short"):
        load(data, "train")


@pytest.fixture
def published(published_root) -> Any:
    root = published_root("coco/annotations/person_keypoints.json")
    files = ONE_FILE | dict.fromkeys(("train", "test"), "person_keypoints.json")
    return load(Data(reader="coco", root=root, coco=Coco(**files)), "test")


def test_published_samples_are_read(published) -> None:
    """Compared with numbers from the file: 14 annotations, two without joints."""
    assert len(published) == 12 and published.skeleton is COCO
    assert published.ids[0] == "coco/person_keypoints/442619"
    np.testing.assert_array_equal(published.joints_NK2[0, 0], [367, 81])
    np.testing.assert_allclose(
        published.center_N2[0], [280.79 + 218.7 / 2 - 0.5, 44.73 + 346.68 / 2 - 0.5]
    )
    assert published.side_N[0] == pytest.approx(1.25 * 346.68)
    assert np.isnan(published.joints_NK2[1]).any(-1).tolist() == [
        k in (3, 7, 10) for k in range(17)
    ]


def test_published_joints_are_in_their_crops(published) -> None:
    views = Views(published, Geometry(crop_px=64), Augmentation(), seed=0)
    for index in range(len(published)):
        view = views[index, CENTER_CROP]
        labeled = view["joints"][~np.isnan(view["joints"]).any(-1)]
        assert view["crop"].std() > 5
        assert (labeled > -0.5).all() and (labeled < 15.5).all()


def test_cocos_joints_are_flipped_by_name() -> None:
    assert flip_indices_of(COCO.joints, None) == COCO.flip_indices
    assert len(COCO.sigmas) == COCO.num_joints == 17
    assert sorted(j for _, group in COCO.groups for j in group) == list(range(17))


def test_sigmas_are_those_of_pycocotools() -> None:
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    np.testing.assert_allclose(cocoeval.Params("keypoints").kpt_oks_sigmas, COCO.sigmas)
