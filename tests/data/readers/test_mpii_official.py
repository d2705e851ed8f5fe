"""MPII's own label file: small files with the published one's nesting and missing fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from fpd.data.datasets import load, read_splits
from fpd.data.readers import mpii_official
from fpd.data.readers.mpii_official import FILE
from fpd.data.sections import Data
from fpd.data.skeletons import MPII

EMPTY = np.zeros((0, 0))


def struct(**fields: Any) -> np.ndarray:
    made = np.zeros((1, 1), dtype=[(name, "O") for name in fields])
    for name, value in fields.items():
        made[0, 0][name] = value
    return made


def row(structs: list[np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """Structs as one 1 x N array; missing fields are empty arrays."""
    made = np.zeros((1, len(structs)), dtype=[(name, "O") for name in names])
    for index, one in enumerate(structs):
        for name in names:
            made[0, index][name] = one[0, 0][name] if name in one.dtype.names else EMPTY
    return made


POINT = ("x", "y", "id", "is_visible")
RECT = ("x1", "y1", "x2", "y2", "annopoints", "scale", "objpos")
FIELDS = ("annolist", "img_train", "version", "single_person", "act", "video_list")


def points(first: float, joints: range = range(16), visible: Any = 1) -> np.ndarray:
    """Joint k at (first + k, 20 + 2 k), 1-based."""
    made = [struct(x=first + k, y=20.0 + 2 * k, id=k, is_visible=visible) for k in joints]
    return struct(point=row(made, POINT))


def person(first: float = 10.0, **changes: Any) -> np.ndarray:
    fields = {
        "x1": 10.0,
        "y1": 20.0,
        "x2": 40.0,
        "y2": 60.0,
        "annopoints": points(first),
        "scale": 0.5,
        "objpos": struct(x=41.0, y=30.0),
    }
    return struct(**{k: v for k, v in (fields | changes).items() if v is not None})


def image(name: str, persons: list[np.ndarray], fields: tuple[str, ...] = RECT) -> np.ndarray:
    rects = row(persons, fields) if persons else EMPTY
    return struct(image=struct(name=name), annorect=rects, frame_sec=EMPTY, vididx=EMPTY)


def write(root: Path, images: list[np.ndarray], train: list[int] | None = None) -> Path:
    annolist = row(images, ("image", "annorect", "frame_sec", "vididx"))
    flags = np.array([train if train is not None else [1] * len(images)], np.uint8)
    release = dict.fromkeys(FIELDS, EMPTY) | {"annolist": annolist, "img_train": flags}
    path = root / "mpii" / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"RELEASE": struct(**release)}, do_compression=True)
    return path


def both_splits(root: Path) -> Any:
    """The samples of both splits, by id."""
    sets = [mpii_official.mpii_official(root, split) for split in ("train", "test")]
    return {i: samples[n] for samples in sets for n, i in enumerate(samples.ids)}


def test_ids_joints_boxes_and_normalizers(tmp_path) -> None:
    write(tmp_path, [image("a.jpg", [person(), person(first=30.0)])])
    samples = both_splits(tmp_path)
    assert list(samples) == ["mpii/official/a.jpg/0", "mpii/official/a.jpg/1"]
    second = samples["mpii/official/a.jpg/1"]
    np.testing.assert_allclose(second.joints_K2[3], [30 + 3 - 1, 20 + 6 - 1])
    # objpos (41, 30), 1-based, lowered by 15 x 0.5; side 200 x 0.5 x 1.25.
    np.testing.assert_allclose(second.center_2, [40, 36.5])
    assert second.side_px == pytest.approx(125)
    assert second.normalizer_px == pytest.approx(0.6 * 50)  # a head box of 30 x 40


def test_occluded_joints_are_annotated(tmp_path) -> None:
    persons = [
        person(annopoints=points(10.0, range(2, 16), visible))
        for visible in (np.uint8(0), "0", EMPTY)
    ]
    write(tmp_path, [image("a.jpg", persons)])
    for sample in both_splits(tmp_path).values():
        missing = np.isnan(sample.joints_K2).any(-1)
        assert missing.tolist() == [True, True] + [False] * 14


def test_test_images_and_incomplete_samples_are_excluded(tmp_path) -> None:
    write(
        tmp_path,
        [
            image("test.jpg", [person()]),
            image("empty.jpg", []),
            image("mixed.jpg", [person(annopoints=None), person(scale=None), person(objpos=EMPTY)]),
            image("bare.jpg", [person()], fields=("x1", "y1", "x2", "y2")),
            image("good.jpg", [person(x1=None)]),
        ],
        train=[0, 1, 1, 1, 1],
    )
    samples = both_splits(tmp_path)
    assert list(samples) == ["mpii/official/good.jpg/0"]
    assert samples["mpii/official/good.jpg/0"].normalizer_px == 0  # no head box: not scored
    tallies = [
        mpii_official.mpii_official(tmp_path, split).tallies[0] for split in ("train", "test")
    ]
    for tally in tallies:
        assert dict(tally.left_out)["without joints, position or scale"] == 4
    assert sum(tally.kept for tally in tallies) == 1


def test_test_samples_share_no_image_with_training_samples(tmp_path) -> None:
    write(tmp_path, [image(f"{n:03d}.jpg", [person()] * 2) for n in range(50)])
    data = Data(reader="mpii-official", root=tmp_path)
    sets = read_splits(data, ("train", "validation", "test"))
    images = {
        split: {samples.images.locate(int(i)) for i in samples.image_N}
        for split, samples in sets.items()
    }
    assert not images["test"] & (images["train"] | images["validation"])
    assert sum(map(len, sets.values())) == 100
    assert 2 <= len(sets["test"]) <= 24 and len(sets["test"]) % 2 == 0


def test_samples_are_usable(tmp_path) -> None:
    write(tmp_path, [image(f"{n}.jpg", [person()]) for n in range(10)])
    (tmp_path / "mpii" / "images").mkdir()
    for n in range(10):
        Image.new("RGB", (120, 90)).save(tmp_path / "mpii" / "images" / f"{n}.jpg")
    samples = load(Data(reader="mpii-official", root=tmp_path, validation=0), "train")
    assert samples.skeleton is MPII
    (tmp_path / "mpii" / "images" / samples.ids[0].split("/")[2]).unlink()
    with pytest.raises(ValueError, match=rf"1 of \d+ .* {samples.ids[0]}: .* is missing"):
        load(Data(reader="mpii-official", root=tmp_path, validation=0), "train")


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": np.nan},
        {"annopoints": points(np.nan)},
        {"annopoints": points(10.0, range(10, 17))},
        {"annopoints": struct(point=struct(x=3.0, y=EMPTY, id=2))},
        {"annopoints": struct(points=3.0)},
        {"scale": "large"},
    ],
)
def test_impossible_labels_are_named(tmp_path, wrong) -> None:
    write(tmp_path, [image("a.jpg", [person()]), image("b.jpg", [person(), person(**wrong)])])
    with pytest.raises(ValueError, match=r"v1_u12_1\.mat: image 2, person 2: expected finite"):
        both_splits(tmp_path)


def test_other_files_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"v1_u12_1\.mat is missing: .* --set data\.root=FOLDER$"):
        both_splits(tmp_path)
    path = write(tmp_path, [image("a.jpg", [person()])])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"v1_u12_1\.mat cannot be read: "):
        both_splits(tmp_path)
    scipy.io.savemat(path, {"joints": np.zeros((3, 14, 2000))})
    with pytest.raises(ValueError, match="expected a struct 'RELEASE', found joints"):
        both_splits(tmp_path)
    scipy.io.savemat(path, {"RELEASE": struct(something=3.0)})
    with pytest.raises(ValueError, match="expected MPII's RELEASE with annolist and img_train"):
        both_splits(tmp_path)
    write(tmp_path, [image("a.jpg", [person()])], train=[1, 1])
    with pytest.raises(ValueError, match="annolist and img_train of different lengths"):
        both_splits(tmp_path)
    write(tmp_path, [image("a.jpg", [])])
    with pytest.raises(ValueError, match="expected 1 to 1000000 labeled samples, found 0"):
        both_splits(tmp_path)


def test_image_names_must_be_inside_the_folder(tmp_path) -> None:
    write(tmp_path, [image("../../../secret.jpg", [person()])])
    with pytest.raises(ValueError, match="expected image names inside"):
        both_splits(tmp_path)
