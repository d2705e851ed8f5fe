"""Images without labels: alone, and joined to a labeled set."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from fpd.data.datasets import Data, load, load_training
from fpd.data.readers.folder import folder
from fpd.data.samples import join
from fpd.data.skeletons import COCO, LSP, MPII


def picture(path: Path, size: tuple[int, int] = (120, 90), gray: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (gray,) * 3).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    picture(tmp_path / "b.jpg")
    picture(tmp_path / "deep" / "a.png", (40, 60))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_without_boxes_an_image_is_a_person(root) -> None:
    people = folder(root, MPII)
    assert people.ids == ("folder/b.jpg/0", "folder/deep/a.png/0")
    assert people.joints_NK2.shape == (2, 16, 2) and np.isnan(people.joints_NK2).all()
    # The middle of pixels 0 to 119 is 59.5.
    np.testing.assert_allclose(people.center_N2, [[59.5, 44.5], [19.5, 29.5]])
    np.testing.assert_allclose(people.side_N, [120, 60])
    assert np.isnan(people.normalizer_N).all()


BOXES = [
    {"image": "b.jpg", "x": 10, "y": 20, "w": 40, "h": 60},
    {"image": "b.jpg", "x": 0, "y": 0, "w": 30, "h": 10},
]


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_boxes_are_people(root, suffix) -> None:
    rows = ["image,x,y,w,h", *(",".join(map(str, box.values())) for box in BOXES)]
    text = json.dumps(BOXES) if suffix == "json" else "\n".join(rows)
    (root / f"boxes.{suffix}").write_text(text)
    people = folder(root, COCO)
    assert people.ids == ("folder/b.jpg/0", "folder/b.jpg/1")
    np.testing.assert_allclose(people.center_N2, [[29.5, 49.5], [14.5, 4.5]])
    np.testing.assert_allclose(people.side_N, [75, 37.5])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("boxes.csv", "image,x,y\na.jpg,1,2", "expected a first line with image,x,y,w,h"),
        ("boxes.csv", "", "expected a first line with image,x,y,w,h"),
        ("boxes.csv", "image,x,y,w,h\n", "expected 1 to 1000000 people, found 0"),
        ("boxes.csv", "image,x,y,w,h\nb.jpg,1,2,nan,3", "expected 'w' of a single number"),
        ("boxes.csv", "image,x,y,w,h\nb.jpg,1,2,3", "expected 'h' of a single number"),
        ("boxes.json", "[{", "cannot be read as labels"),
        ("boxes.json", '[{"image": "b.jpg"}]', "expected 'x' of a single number"),
        ("boxes.json", '[{"image": "../b.jpg", "x":1, "y":1, "w":9, "h":9}]', "names inside"),
    ],
)
def test_damaged_boxes_are_refused(root, name, text, message) -> None:
    (root / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        folder(root, LSP)


def test_folders_without_people_are_refused(tmp_path) -> None:
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
    assert len(load(data, "validation")) == 0  # nobody to choose weights by
    assert load(data, "test").ids == load(data, "train").ids


def test_broken_images_are_named(root) -> None:
    (root / "c.jpg").write_text("no picture")
    data = Data(reader="folder", root=root, folder={"skeleton": "lsp"})
    with pytest.raises(
        ValueError, match=r"1 of 3 .*folder/c\.jpg/0: .*c\.jpg cannot be read as an"
    ):
        load(data, "train")


def test_links_are_followed_and_pipes_are_not(root, tmp_path_factory) -> None:
    """Data sets are linked together; what a label file names is not led out of its folder."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "c.jpg"
    picture(elsewhere, (50, 50))
    (root / "c.jpg").symlink_to(elsewhere)
    assert folder(root, LSP).side_N.tolist() == [120, 50, 60]
    os.mkfifo(root / "d.jpg")  # to open one waits for ever
    data = Data(reader="folder", root=root, folder={"skeleton": "lsp"})
    with pytest.raises(ValueError, match=r"d\.jpg/0: .*d\.jpg cannot be read \(no regular file\)"):
        load(data, "train")
    with pytest.raises(ValueError, match=r"d\.jpg cannot be read \(no regular file\)"):
        folder(root, LSP).images.read(2, 1.0)


def labeled(root: Path) -> Data:
    """Figures, with the folder beside them."""
    figures = {"train": 20, "test": 4}
    return Data(reader="figures", validation=0.3, figures=figures, unlabeled=root)


def test_unlabeled_people_join_the_training_people_of_whoever_has_a_teacher(root) -> None:
    data = labeled(root)
    alone = load(data.model_copy(update={"unlabeled": None}), "train")
    both = load(data, "train")
    assert both.name == f"{alone.name}+unlabeled"
    assert both.ids == (*alone.ids, "folder/b.jpg/0", "folder/deep/a.png/0")
    assert load(data, "labeled").ids == alone.ids
    assert load(data, "labeled").fingerprint() == alone.fingerprint()
    taught, untaught = (
        load_training(data, with_unlabeled=True),
        load_training(data, with_unlabeled=False),
    )
    assert (len(taught["train"]), len(untaught["train"])) == (len(alone) + 2, len(alone))
    assert taught["validation"].ids == untaught["validation"].ids
    assert not set(taught["validation"].ids) & set(both.ids)


def test_joined_people_keep_their_pixels(root) -> None:
    picture(root / "b.jpg", gray=200)
    both = load(labeled(root), "train")
    assert both.images.locate(int(both.image_N[-2])) == str(root / "b.jpg")
    pixels, _ = both.images.read(int(both.image_N[-2]), 1.0)
    assert pixels.shape == (90, 120, 3) and abs(int(pixels.mean()) - 200) < 3
    assert both.images.size(int(both.image_N[-1])) == (40, 60)
    alone = load(labeled(root), "labeled")
    for index in (0, len(alone) - 1):
        there, here = both.images, alone.images
        assert there.identity(int(both.image_N[index])) == here.identity(int(alone.image_N[index]))
        np.testing.assert_array_equal(
            there.read(int(both.image_N[index]), 1.0)[0],
            here.read(int(alone.image_N[index]), 1.0)[0],
        )
    again = pickle.loads(pickle.dumps(both))
    assert again.fingerprint() == both.fingerprint()


def test_a_folder_beside_a_folder_is_refused(root) -> None:
    with pytest.raises(ValidationError, match=r"data\.unlabeled joins labeled people"):
        Data(reader="folder", root=root, folder={"skeleton": "lsp"}, unlabeled=root)


def test_paths_are_made_absolute_for_other_processes() -> None:
    data = Data(reader="lsp", root="here", unlabeled="there").absolute()
    assert data.root == Path.cwd() / "here" and data.unlabeled_root == Path.cwd() / "there"
    assert Data().absolute() == Data()


def test_sets_of_two_skeletons_do_not_join(root) -> None:
    with pytest.raises(ValueError, match="expected people of one skeleton, got lsp and mpii"):
        join(folder(root, LSP), folder(root, MPII), "x")
