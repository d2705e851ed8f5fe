"""LSP and LSPET: tiny copies made here, and the published files where they are at hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from fpd.data.augmentation import Augmentation
from fpd.data.datasets import Data, load
from fpd.data.io.images import ImageFolder
from fpd.data.readers.lsp import lsp, lsp_lspet, lspet
from fpd.data.skeletons import LSP
from fpd.data.validation import check
from fpd.data.views import CENTER_CROP, Geometry, Views

PEOPLE, TRAIN, EXTENDED = 5, 3, 4


def labels_of(count: int, offset: float) -> NDArray[np.float64]:
    """1-based (N, 14, 2), every number another: x 20 to 90, y 5 to 75."""
    numbers = np.arange(count * 28, dtype=np.float64).reshape(count, 14, 2) % 70
    return numbers + np.array([20 + offset, 5 + offset])


LSP_LABELS = labels_of(PEOPLE, 0.0)
LSPET_LABELS = labels_of(EXTENDED, 0.25)
LABELLED = np.ones((EXTENDED, 14), dtype=bool)
LABELLED[1, 3] = LABELLED[1, 13] = LABELLED[2, 9] = False


def save(path: Path, joints: NDArray[np.generic], name: str = "joints") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {name: joints})


def lsp_array() -> NDArray[np.float64]:
    """3 x 14 x N: x, y and whether the joint is hidden."""
    hidden = (np.arange(PEOPLE * 14).reshape(PEOPLE, 14) % 3 == 0).astype(np.float64)
    return np.stack([LSP_LABELS[..., 0].T, LSP_LABELS[..., 1].T, hidden.T])


def lspet_array() -> NDArray[np.float64]:
    """14 x 3 x N: x, y and whether the joint is labeled; nonsense where it isn't."""
    array = np.concatenate([LSPET_LABELS, LABELLED[..., None]], axis=-1)
    array[~LABELLED, :2] = -284.5
    return array.transpose(1, 2, 0)


@pytest.fixture
def root(tmp_path) -> Path:
    """The published layout, with five and four people."""
    save(tmp_path / "lsp" / "joints.mat", lsp_array())
    save(tmp_path / "lspet" / "joints.mat", lspet_array())
    for folder, digits, count in (("lsp", 4, PEOPLE), ("lspet", 5, EXTENDED)):
        (tmp_path / folder / "images").mkdir()
        for n in range(1, count + 1):
            name = f"im{n:0{digits}d}.jpg"
            picture = Image.new("RGB", (110, 90), (40 * n, 0, 200 if folder == "lspet" else 0))
            picture.save(tmp_path / folder / "images" / name)
    return tmp_path


@pytest.fixture(autouse=True)
def small_training_set(request, monkeypatch) -> None:
    """Three of the tiny copy's people are for training; tests with real files keep the 1000."""
    if "root" in request.fixturenames:
        monkeypatch.setattr("fpd.data.readers.lsp.TRAIN_IMAGES", TRAIN)


def test_lsp_train_people(root) -> None:
    people = lsp(root, "train")
    assert people.name == "lsp" and people.skeleton is LSP
    assert people.ids == ("lsp/im0001", "lsp/im0002", "lsp/im0003")
    assert people.joints_NK2.dtype == np.float64
    np.testing.assert_array_equal(people.joints_NK2, LSP_LABELS[:TRAIN] - 1)
    check(people)


def test_lsp_test_people(root) -> None:
    people = lsp(root, "test")
    assert people.ids == ("lsp/im0004", "lsp/im0005")
    np.testing.assert_array_equal(people.joints_NK2, LSP_LABELS[TRAIN:] - 1)
    check(people)


def test_hidden_joints_of_lsp_are_labeled(root) -> None:
    assert not np.isnan(lsp(root, "train").joints_NK2).any()


def test_test_photographs_seen_in_training_are_left_out(root, monkeypatch) -> None:
    monkeypatch.setattr("fpd.data.readers.lsp.TEST_IMAGES_SEEN_IN_TRAINING", (2, 4))
    assert lsp(root, "test").ids == ("lsp/im0005",)
    assert len(lsp(root, "train")) == TRAIN


def test_lspet_people_and_their_gaps(root) -> None:
    people = lspet(root, "train")
    assert people.name == "lspet"
    assert people.ids == tuple(f"lspet/im0000{n}" for n in (1, 2, 3, 4))
    expected = LSPET_LABELS - 1
    expected[~LABELLED] = np.nan
    np.testing.assert_array_equal(people.joints_NK2, expected)
    # Nonsense coordinates of joints without a label don't widen the box.
    assert people.side_N.max() < 100
    check(people)


def test_lspet_normalizer_needs_both_joints(root) -> None:
    unknown = np.isnan(lspet(root, "train").normalizer_N)
    assert unknown.tolist() == [False, False, True, False]  # left shoulder of the third


def test_lspet_is_tested_on_lsp(root) -> None:
    for reader in (lspet, lsp_lspet):
        assert reader(root, "test").fingerprint() == lsp(root, "test").fingerprint()


def test_the_union_is_lsp_then_lspet(root) -> None:
    union, first, second = lsp_lspet(root, "train"), lsp(root, "train"), lspet(root, "train")
    assert union.name == "lsp+lspet" and len(union) == TRAIN + EXTENDED
    assert union.ids == first.ids + second.ids
    for column in ("joints_NK2", "center_N2", "side_N", "normalizer_N"):
        both = np.concatenate([getattr(first, column), getattr(second, column)])
        np.testing.assert_array_equal(getattr(union, column), both)
    check(union)


def test_people_and_pictures_belong_together(root) -> None:
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


@pytest.mark.parametrize("folder", ["lsp", "lspet"])
def test_missing_labels_say_what_to_set(root, folder) -> None:
    path = root / folder / "joints.mat"
    path.unlink()
    with pytest.raises(
        ValueError, match=r"joints\.mat is missing: .*--set data\.root=FOLDER$"
    ) as e:
        lsp_lspet(root, "train")
    assert str(path) in str(e.value)


def test_a_missing_root_says_what_to_set(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.*is missing: .*--set data\.root=FOLDER$"):
        lsp(tmp_path / "nowhere", "train")


@pytest.mark.parametrize("folder", ["lsp", "lspet"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"not a MATLAB file, but quite some text " * 10,
        lambda content: content[: len(content) // 2],
        lambda content: content[:300],
        lambda content: content[:140] + b"\xff" * 60 + content[200:],
        lambda content: content[:124] + b"\x00\x02" + content[126:],
    ],
    ids=["empty", "text", "half", "start", "overwritten", "version 7.3"],
)
def test_damaged_labels_are_named(root, folder, damage) -> None:
    path = root / folder / "joints.mat"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"joints\.mat cannot be read as labels: ") as error:
        lsp_lspet(root, "train")
    assert str(path) in str(error.value)


def test_a_file_cut_at_any_byte_is_refused(root) -> None:
    path = root / "lsp" / "joints.mat"
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"joints\.mat"):
            lsp(root, "train")


@pytest.mark.parametrize(
    ("folder", "array", "expected"),
    [
        ("lsp", np.zeros((14, 3, 4)), r"\(3, 14\) x N"),  # LSPET's order
        ("lspet", np.zeros((3, 14, 4)), r"\(14, 3\) x N"),  # LSP's order
        ("lsp", np.zeros((2, 14, 4)), r"\(3, 14\) x N"),
        ("lsp", np.zeros((3, 16, 4)), r"\(3, 14\) x N"),
        ("lsp", np.zeros((3, 14)), r"\(3, 14\) x N"),
        ("lsp", np.zeros((3, 14, 4, 2)), r"\(3, 14\) x N"),
    ],
)
def test_another_shape_is_refused(root, folder, array, expected) -> None:
    save(root / folder / "joints.mat", array)
    with pytest.raises(ValueError, match=rf"{folder}/joints\.mat .*{expected}, found ") as error:
        lsp_lspet(root, "train")
    assert str(array.shape) in str(error.value)


def test_another_variable_is_named(root) -> None:
    save(root / "lsp" / "joints.mat", lsp_array(), name="points")
    with pytest.raises(ValueError, match=r"expected an array 'joints'.*found.*points"):
        lsp(root, "train")


def test_labels_that_are_no_numbers_are_refused(root) -> None:
    save(root / "lsp" / "joints.mat", np.full((3, 14, 2), "a", dtype=object))
    with pytest.raises(ValueError, match=r"joints\.mat cannot be read as labels"):
        lsp(root, "train")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("folder", ["lsp", "lspet"])
def test_labels_that_are_not_finite_name_the_person(root, folder, bad) -> None:
    array = {"lsp": lsp_array, "lspet": lspet_array}[folder]()
    array[1, 2, 3] = bad
    save(root / folder / "joints.mat", array)
    with pytest.raises(ValueError, match=rf"{folder}/joints\.mat: .* at person 4$"):
        lsp_lspet(root, "train")


def test_a_missing_image_is_named(root) -> None:
    (root / "lspet" / "images" / "im00002.jpg").unlink()
    people = lsp_lspet(root, "train")
    with pytest.raises(ValueError, match=r"1 of 7 .*: lspet/im00002: .*im00002\.jpg is missing$"):
        check(people)


def test_whole_numbers_are_read_as_positions(root) -> None:
    """MATLAB stores small whole numbers as bytes."""
    save(root / "lsp" / "joints.mat", np.floor(lsp_array()).astype(np.uint8))
    joints = lsp(root, "train").joints_NK2
    assert joints.dtype == np.float64
    np.testing.assert_array_equal(joints, LSP_LABELS[:TRAIN] - 1)


# The published files.

REAL = Path(__file__).parents[4] / "shared" / "data"
real = pytest.mark.skipif(
    not (REAL / "lsp" / "joints.mat").is_file() or not (REAL / "lspet" / "joints.mat").is_file(),
    reason=f"LSP and LSPET are not in {REAL}",
)


@real
def test_the_published_people_can_be_used() -> None:
    train = load(Data(reader="lsp+lspet", root=REAL, validation=0), "train")
    test = load(Data(reader="lsp+lspet", root=REAL), "test")
    assert sum(i.startswith("lsp/") for i in train.ids) == 1000
    assert sum(i.startswith("lspet/") for i in train.ids) == 4000
    assert len(train) == 5000 and len(test) == 997
    assert test.ids[0] == "lsp/im1001" and test.ids[-1] == "lsp/im2000"
    assert not set(train.ids) & set(test.ids)
    # All of LSP is labeled, LSPET has gaps: 6708, pluralize in the file.
    gaps = np.isnan(train.joints_NK2).any(axis=-1)
    assert gaps[:1000].sum() == 0 and gaps[1000:].sum() == 6708
    assert not np.isnan(test.joints_NK2).any()


def thumbnail(number: int) -> NDArray[np.float64]:
    """16 x 16 gray values, of mean 0 and length 1."""
    path = REAL / "lsp" / "images" / f"im{number:04d}.jpg"
    gray = cv2.imread(str(path), cv2.IMREAD_REDUCED_GRAYSCALE_4)
    values = cv2.resize(gray, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    values -= values.mean()
    return values / np.linalg.norm(values)


@real
def test_the_photographs_left_out_are_in_the_training_set() -> None:
    """The same photographs, though in this copy not byte for byte.

    Each was cut and scaled by its own person's box, so files and sizes differ by some percent.
    """
    left_out = {f"lsp/im{n:04d}" for n in range(1001, 2001)} - set(lsp(REAL, "test").ids)
    assert left_out == {"lsp/im1211", "lsp/im1436", "lsp/im1805"}
    train = np.array([thumbnail(n) for n in range(1, 1001)])
    for twin, number in ((483, 1211), (492, 1436), (670, 1805)):
        likeness = train @ thumbnail(number)
        assert np.argmax(likeness) + 1 == twin and likeness.max() > 0.95
        assert np.sort(likeness)[-2] < 0.85


@real
def test_published_positions_are_counted_from_0() -> None:
    """Numbers read off joints.mat in another program."""
    people = lsp(REAL, "train")
    right_ankle = people[people.ids.index("lsp/im0001")].joints_K2[0]
    np.testing.assert_allclose(right_ankle, [183.16156836 - 1, 263.13293008 - 1], atol=1e-8)
    head_top = people[people.ids.index("lsp/im1000")].joints_K2[13]
    np.testing.assert_allclose(head_top, [140.31465039 - 1, 82.70865705 - 1], atol=1e-8)
    first = lspet(REAL, "train")[0]
    assert first.id == "lspet/im00001" and np.isnan(first.joints_K2[0]).all()
    np.testing.assert_allclose(first.joints_K2[1], [26.03094352 - 1, 86.41022512 - 1], atol=1e-8)


@real
def test_published_heads_are_above_ankles_in_most_pictures() -> None:
    """Axes and joint order: sports people mostly stand; a swap of x and y would halve this."""
    for people in (lsp(REAL, "train"), lspet(REAL, "train")):
        head_y, ankle_y = people.joints_NK2[:, 13, 1], people.joints_NK2[:, [0, 5], 1]
        both = ~np.isnan(head_y) & ~np.isnan(ankle_y).any(axis=-1)
        share = (head_y[both] < ankle_y[both].mean(axis=-1)).mean()
        assert share > 0.6
    standing = lsp(REAL, "train").joints_NK2
    assert (standing[:, 13, 1] < standing[:, [0, 5], 1].mean(axis=-1)).mean() > 0.85


@real
def test_published_people_are_in_their_crops() -> None:
    people = lsp(REAL, "test")
    assert isinstance(people.images, ImageFolder)
    views = Views(people, Geometry(crop_px=64), Augmentation(), seed=0)
    for index in range(0, len(people), 100):
        view = views[index, CENTER_CROP]
        assert view["crop"].std() > 5
        assert (view["joints"] > -0.5).all() and (view["joints"] < 15.5).all()
