"""LSP and LSPET: tiny copies, and the published files if they are available."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from fpd.data.datasets import load
from fpd.data.geometry import Geometry
from fpd.data.io.images import ImageFolder
from fpd.data.readers.lsp import lsp, lsp_lspet, lspet
from fpd.data.sections import Augmentation, Data
from fpd.data.skeletons import LSP
from fpd.data.validation import check
from fpd.data.views import CENTER_CROP, Views

LSP_COUNT, TRAIN_COUNT, LSPET_COUNT = 5, 3, 4


def labels_of(count: int, offset: float) -> NDArray[np.float64]:
    """1-based (N, 14, 2), all numbers different: x 20 to 90, y 5 to 75."""
    numbers = np.arange(count * 28, dtype=np.float64).reshape(count, 14, 2) % 70
    return numbers + np.array([20 + offset, 5 + offset])


LSP_LABELS = labels_of(LSP_COUNT, 0.0)
LSPET_LABELS = labels_of(LSPET_COUNT, 0.25)
LABELED = np.ones((LSPET_COUNT, 14), dtype=bool)
LABELED[1, 3] = LABELED[1, 13] = LABELED[2, 9] = False


def save(path: Path, joints: NDArray[np.generic], name: str = "joints") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {name: joints})


def lsp_array() -> NDArray[np.float64]:
    """3 x 14 x N: x, y and whether the joint is occluded."""
    occluded = (np.arange(LSP_COUNT * 14).reshape(LSP_COUNT, 14) % 3 == 0).astype(np.float64)
    return np.stack([LSP_LABELS[..., 0].T, LSP_LABELS[..., 1].T, occluded.T])


def lspet_array() -> NDArray[np.float64]:
    """14 x 3 x N: x, y and whether the joint is labeled, with arbitrary x, y if not."""
    array = np.concatenate([LSPET_LABELS, LABELED[..., None]], axis=-1)
    array[~LABELED, :2] = -284.5
    return array.transpose(1, 2, 0)


@pytest.fixture
def root(tmp_path) -> Path:
    """The published layout, with five samples of LSP and four of LSPET."""
    save(tmp_path / "lsp" / "joints.mat", lsp_array())
    save(tmp_path / "lspet" / "joints.mat", lspet_array())
    for folder, digits, count in (("lsp", 4, LSP_COUNT), ("lspet", 5, LSPET_COUNT)):
        (tmp_path / folder / "images").mkdir()
        for n in range(1, count + 1):
            name = f"im{n:0{digits}d}.jpg"
            image = Image.new("RGB", (110, 90), (40 * n, 0, 200 if folder == "lspet" else 0))
            image.save(tmp_path / folder / "images" / name)
    return tmp_path


@pytest.fixture(autouse=True)
def small_training_set(request, monkeypatch) -> None:
    """Three of the tiny copy's samples are "train"; the published files keep their 1000."""
    if "root" in request.fixturenames:
        monkeypatch.setattr("fpd.data.readers.lsp.TRAIN_IMAGES", TRAIN_COUNT)


def test_lsp_train_samples(root) -> None:
    samples = lsp(root, "train")
    assert samples.name == "lsp" and samples.skeleton is LSP
    assert samples.ids == ("lsp/im0001", "lsp/im0002", "lsp/im0003")
    assert samples.joints_NK2.dtype == np.float64
    np.testing.assert_array_equal(samples.joints_NK2, LSP_LABELS[:TRAIN_COUNT] - 1)
    check(samples)


def test_lsp_test_samples(root) -> None:
    samples = lsp(root, "test")
    assert samples.ids == ("lsp/im0004", "lsp/im0005")
    np.testing.assert_array_equal(samples.joints_NK2, LSP_LABELS[TRAIN_COUNT:] - 1)
    check(samples)


def test_occluded_joints_of_lsp_are_labeled(root) -> None:
    assert not np.isnan(lsp(root, "train").joints_NK2).any()


def test_test_images_that_are_training_images_are_excluded(root, monkeypatch) -> None:
    monkeypatch.setattr("fpd.data.readers.lsp.TEST_IMAGES_SEEN_IN_TRAINING", (2, 4))
    samples = lsp(root, "test")
    assert samples.ids == ("lsp/im0005",)
    (tally,) = samples.tallies
    assert tally.kept == 1
    assert dict(tally.left_out)["of photographs that are also in the training split"] == 2
    assert len(lsp(root, "train")) == TRAIN_COUNT


def test_unlabeled_joints_of_lspet_are_nan(root) -> None:
    samples = lspet(root, "train")
    assert samples.name == "lspet"
    assert samples.ids == tuple(f"lspet/im0000{n}" for n in (1, 2, 3, 4))
    expected = LSPET_LABELS - 1
    expected[~LABELED] = np.nan
    np.testing.assert_array_equal(samples.joints_NK2, expected)
    # The arbitrary coordinates of unlabeled joints do not widen the box.
    assert samples.side_N.max() < 100
    check(samples)


def test_lspet_normalizer_needs_both_joints(root) -> None:
    missing = np.isnan(lspet(root, "train").normalizer_N)
    assert missing.tolist() == [False, False, True, False]  # left shoulder of the third


def test_lspet_is_tested_on_lsp(root) -> None:
    for reader in (lspet, lsp_lspet):
        assert reader(root, "test").fingerprint() == lsp(root, "test").fingerprint()


def test_the_union_is_lsp_then_lspet(root) -> None:
    union = lsp_lspet(root, "train")
    parts = lsp(root, "train"), lspet(root, "train")
    assert union.name == "lsp+lspet" and len(union) == TRAIN_COUNT + LSPET_COUNT
    assert union.ids == parts[0].ids + parts[1].ids
    for column in ("joints_NK2", "center_N2", "side_N", "normalizer_N"):
        expected = np.concatenate([getattr(part, column) for part in parts])
        np.testing.assert_array_equal(getattr(union, column), expected)
    check(union)


def test_samples_have_their_own_images(root) -> None:
    union = lsp_lspet(root, "train")
    for index, sample_id in enumerate(union.ids):
        folder, name = sample_id.split("/")
        sample = union[index]
        assert union.images.locate(sample.image) == str(root / folder / "images" / f"{name}.jpg")
        image, _ = union.images.read(sample.image, 1.0)
        red, _, blue = image[45, 55].astype(int)
        assert abs(red - 40 * int(name[2:])) < 8 and (blue > 100) == (folder == "lspet")


def test_boxes_and_normalizer(root) -> None:
    sample = lsp(root, "train")[1]
    joints = LSP_LABELS[1] - 1
    low, high = joints.min(axis=0), joints.max(axis=0)
    np.testing.assert_allclose(sample.center_2, (low + high) / 2)
    assert sample.side_px == pytest.approx(1.25 * (high - low).max())
    left_shoulder, right_hip = joints[9], joints[2]
    assert sample.normalizer_px == pytest.approx(np.hypot(*(left_shoulder - right_hip)))


@pytest.mark.parametrize(
    ("folder", "setting"), [("lsp", r"data\.root=FOLDER"), ("lspet", r"data\.reader=lsp")]
)
def test_messages_about_missing_labels_name_the_setting(root, folder, setting) -> None:
    path = root / folder / "joints.mat"
    path.unlink()
    message = rf"joints\.mat is missing: .*--set {setting}$"
    with pytest.raises(ValueError, match=message) as error:
        lsp_lspet(root, "train")
    assert str(path) in str(error.value)


def test_an_optional_extension_that_is_missing_leaves_lsp_alone(root) -> None:
    data = Data(reader="lsp+lspet", root=root, validation=0, lsp={"extension": "optional"})
    assert load(data, "train").fingerprint() == lsp_lspet(root, "train").fingerprint()
    shutil.rmtree(root / "lspet")
    alone = load(data, "train")
    assert alone.fingerprint() == lsp(root, "train").fingerprint()
    (note,) = alone.tallies[0].notes
    assert note == f"{root / 'lspet' / 'joints.mat'} is missing: LSP alone, without its extension"
    assert load(data, "test").ids == lsp(root, "test").ids


def test_a_part_of_lsp_is_used_only_if_asked(root) -> None:
    (root / "lsp" / "images" / "im0002.jpg").unlink()
    data = Data(reader="lsp", root=root, validation=0)
    with pytest.raises(ValueError, match=r"1 of 3 .*--set data\.missing_images=skip$"):
        load(data, "train")
    (root / "lsp" / "images" / "im0001.jpg").rename(root / "im0001.jpg")
    with pytest.raises(
        ValueError,
        match=r"2 of 3 .*missing; .*missing; an image that is missing: restore it, .*skip$",
    ) as error:
        load(data, "train")
    assert str(error.value).count("--set") == 1
    (root / "im0001.jpg").rename(root / "lsp" / "images" / "im0001.jpg")
    samples = load(data.model_copy(update={"missing_images": "skip"}), "train")
    assert samples.ids == ("lsp/im0001", "lsp/im0003")
    assert str(samples.tallies[-1]) == (
        "3 people in the samples of lsp, 2 kept; left out: 1 whose image is missing"
    )


def test_messages_about_a_missing_root_name_the_setting(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.*is missing: .*--set data\.root=FOLDER$"):
        lsp(tmp_path / "nowhere", "train")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"not a MATLAB file, but some text " * 10,
        lambda content: content[:140] + b"\xff" * 60 + content[200:],
        lambda content: content[:124] + b"\x00\x02" + content[126:],
    ],
    ids=["text", "overwritten", "version 7.3"],
)
def test_damaged_labels_are_named(root, damage) -> None:
    path = root / "lspet" / "joints.mat"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"joints\.mat cannot be read: ") as error:
        lsp_lspet(root, "train")
    assert str(path) in str(error.value)


def test_truncated_files_are_refused(root) -> None:
    path = root / "lsp" / "joints.mat"
    content = path.read_bytes()
    for length in range(0, len(content), 397):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"joints\.mat"):
            lsp(root, "train")


@pytest.mark.parametrize(
    ("folder", "array", "expected"),
    [
        ("lsp", np.zeros((14, 3, 4)), "3 x 14 x N"),  # LSPET's order
        ("lspet", np.zeros((3, 14, 4)), "14 x 3 x N"),  # LSP's order
        ("lsp", np.zeros((3, 14)), "3 x 14 x N"),
    ],
)
def test_another_shape_is_refused(root, folder, array, expected) -> None:
    save(root / folder / "joints.mat", array)
    with pytest.raises(ValueError, match=rf"{folder}/joints\.mat .*{expected}, found ") as error:
        lsp_lspet(root, "train")
    assert " x ".join(map(str, array.shape)) in str(error.value)


def test_another_variable_is_named(root) -> None:
    save(root / "lsp" / "joints.mat", lsp_array(), name="points")
    with pytest.raises(ValueError, match=r"expected an array 'joints'.*found.*points"):
        lsp(root, "train")


def test_labels_that_are_not_numbers_are_refused(root) -> None:
    save(root / "lsp" / "joints.mat", np.full((3, 14, 2), "a", dtype=object))
    with pytest.raises(ValueError, match=r"joints\.mat cannot be read as labels"):
        lsp(root, "train")


@pytest.mark.parametrize(("folder", "bad"), [("lsp", np.nan), ("lspet", np.inf)])
def test_samples_with_labels_that_are_not_finite_are_named(root, folder, bad) -> None:
    array = {"lsp": lsp_array, "lspet": lspet_array}[folder]()
    array[1, 2, 3] = bad
    save(root / folder / "joints.mat", array)
    with pytest.raises(ValueError, match=rf"{folder}/joints\.mat: .* at sample 4$"):
        lsp_lspet(root, "train")


def test_a_missing_image_is_named(root) -> None:
    (root / "lspet" / "images" / "im00002.jpg").unlink()
    samples = lsp_lspet(root, "train")
    with pytest.raises(ValueError, match=r"1 of 7 .*: lspet/im00002: .*im00002\.jpg is missing"):
        check(samples)


def test_integer_labels_are_read_as_float64(root) -> None:
    """MATLAB stores small integers as bytes."""
    save(root / "lsp" / "joints.mat", np.floor(lsp_array()).astype(np.uint8))
    joints = lsp(root, "train").joints_NK2
    assert joints.dtype == np.float64
    np.testing.assert_array_equal(joints, LSP_LABELS[:TRAIN_COUNT] - 1)


@pytest.fixture
def published(published_root) -> Path:
    """The folder with the published LSP and LSPET."""
    return published_root("lsp/joints.mat", "lspet/joints.mat")


def test_the_published_samples_are_usable(published) -> None:
    train = load(Data(reader="lsp+lspet", root=published, validation=0), "train")
    test = load(Data(reader="lsp+lspet", root=published), "test")
    assert sum(i.startswith("lsp/") for i in train.ids) == 1000
    assert sum(i.startswith("lspet/") for i in train.ids) == 4000
    assert len(train) == 5000 and len(test) == 997
    assert test.ids[0] == "lsp/im1001" and test.ids[-1] == "lsp/im2000"
    assert not set(train.ids) & set(test.ids)
    # All joints of LSP are labeled; 6708 of LSPET are not, counted in the file.
    unlabeled = np.isnan(train.joints_NK2).any(axis=-1)
    assert unlabeled[:1000].sum() == 0 and unlabeled[1000:].sum() == 6708
    assert not np.isnan(test.joints_NK2).any()


def thumbnail(root: Path, number: int) -> NDArray[np.float64]:
    """16 x 16 gray values, flattened, with mean 0 and norm 1."""
    path = root / "lsp" / "images" / f"im{number:04d}.jpg"
    gray = cv2.imread(str(path), cv2.IMREAD_REDUCED_GRAYSCALE_4)
    values = cv2.resize(gray, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    values -= values.mean()
    return values / np.linalg.norm(values)


def test_the_excluded_photographs_are_in_the_training_set(published) -> None:
    """By similarity: some copies of LSP are not byte-identical to the published files."""
    excluded = {f"lsp/im{n:04d}" for n in range(1001, 2001)} - set(lsp(published, "test").ids)
    assert excluded == {"lsp/im1211", "lsp/im1436", "lsp/im1805"}
    train = np.array([thumbnail(published, n) for n in range(1, 1001)])
    for twin, number in ((483, 1211), (492, 1436), (670, 1805)):
        similarity = train @ thumbnail(published, number)
        assert np.argmax(similarity) + 1 == twin and similarity.max() > 0.95
        assert np.sort(similarity)[-2] < 0.85


def test_published_coordinates_are_0_based(published) -> None:
    """Compared with joints.mat as read by another program."""
    samples = lsp(published, "train")
    right_ankle = samples[samples.ids.index("lsp/im0001")].joints_K2[0]
    np.testing.assert_allclose(right_ankle, [183.16156836 - 1, 263.13293008 - 1], atol=1e-8)
    head_top = samples[samples.ids.index("lsp/im1000")].joints_K2[13]
    np.testing.assert_allclose(head_top, [140.31465039 - 1, 82.70865705 - 1], atol=1e-8)
    first = lspet(published, "train")[0]
    assert first.id == "lspet/im00001" and np.isnan(first.joints_K2[0]).all()
    np.testing.assert_allclose(first.joints_K2[1], [26.03094352 - 1, 86.41022512 - 1], atol=1e-8)


def test_published_heads_are_above_ankles_in_most_images(published) -> None:
    """Checks axes and joint order: most athletes stand upright."""
    for samples in (lsp(published, "train"), lspet(published, "train")):
        head_y, ankle_y = samples.joints_NK2[:, 13, 1], samples.joints_NK2[:, [0, 5], 1]
        both = ~np.isnan(head_y) & ~np.isnan(ankle_y).any(axis=-1)
        share = (head_y[both] < ankle_y[both].mean(axis=-1)).mean()
        assert share > 0.6
    standing = lsp(published, "train").joints_NK2
    assert (standing[:, 13, 1] < standing[:, [0, 5], 1].mean(axis=-1)).mean() > 0.85


def test_published_joints_are_in_their_crops(published) -> None:
    samples = lsp(published, "test")
    assert isinstance(samples.images, ImageFolder)
    views = Views(samples, Geometry(crop_px=64), Augmentation(), seed=0)
    for index in range(0, len(samples), 100):
        view = views[index, CENTER_CROP]
        assert view["crop"].std() > 5
        assert (view["joints"] > -0.5).all() and (view["joints"] < 15.5).all()
