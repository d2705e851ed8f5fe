"""Leeds Sports Pose (LSP) and its extension (LSPET), from the folders as published.

    root/lsp/images/im0001.jpg ...    root/lsp/joints.mat     joints  3 x 14 x 2000
    root/lspet/images/im00001.jpg ... root/lspet/joints.mat   joints  14 x 3 x 10000

Third row of LSP: 1 where the joint is occluded; every joint is labeled. Third column of LSPET: 1
where the joint is labeled. Coordinates are 1-based. Johnson & Everingham, BMVC 2010 and CVPR 2011.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..io.arrays import describe_arrays, describe_shape, list_arrays, read_array
from ..io.images import ImageFolder
from ..samples import SampleSet, Tally, joint_boxes, normalizer_lengths
from ..skeletons import LSP

IMAGES, TRAIN_IMAGES = 2000, 1000
# 483/1211, 492/1436 and 670/1805 are the same photograph (byte for byte, in the data set as
# published): testing on the second of each pair would be testing on the training set.
TEST_IMAGES_SEEN_IN_TRAINING = (1211, 1436, 1805)
MAX_SAMPLES = 100_000

# Widens the box around the labeled joints so that hands, feet and hair are inside; the images of
# LSP itself were cropped with this factor.
BOX_MARGIN = 1.25


class Labels(NamedTuple):
    """The labels of one split.

    Attributes:
        names: image names without suffix, relative to the root.
        joints_NK2: float64 (N, 14, 2), 0-based.
        tallies: of the label files.
    """

    names: list[str]
    joints_NK2: NDArray[np.float64]
    tallies: tuple[Tally, ...]


def lsp(root: Path, split: str) -> SampleSet:
    """LSP with person-centric labels: images 1 to 1000 are "train", the rest "test".

    Raises:
        ValueError: as `read_joints`.
    """
    return _sample_set("lsp", root, _lsp_labels(root, split))


def lspet(root: Path, split: str) -> SampleSet:
    """LSP Extended, where not every joint is labeled: all of it is "train"; "test" is LSP's."""
    return _sample_set("lspet", root, _lspet_labels(root)) if split == "train" else lsp(root, split)


def lsp_lspet(root: Path, split: str, *, extension_is_optional: bool = False) -> SampleSet:
    """The union of both training sets, as commonly used; "test" is LSP's.

    Args:
        extension_is_optional: without lspet/joints.mat, take LSP alone, and note it in its tally.

    Raises:
        ValueError: as `read_joints`.
    """
    if split != "train":
        return lsp(root, split)
    first, extension = _lsp_labels(root, "train"), root / "lspet" / "joints.mat"
    if not extension.is_file():
        if not extension_is_optional:
            raise ValueError(
                f"{extension} is missing: expected LSP's extension as published, beside lsp/; to "
                "train on LSP alone, --set data.reader=lsp"
            )
        note = f"{extension} is missing: LSP alone, without its extension"
        tallies = tuple(replace(tally, notes=(note,)) for tally in first.tallies)
        return _sample_set("lsp", root, first._replace(tallies=tallies))
    second = _lspet_labels(root)
    labels = Labels(
        names=first.names + second.names,
        joints_NK2=np.concatenate([first.joints_NK2, second.joints_NK2]),
        tallies=first.tallies + second.tallies,
    )
    return _sample_set("lsp+lspet", root, labels)


def _lsp_labels(root: Path, split: str) -> Labels:
    path = root / "lsp" / "joints.mat"
    joints_NK3 = read_joints(path, rows="coordinates").transpose(2, 1, 0)
    numbers = image_numbers(split, len(joints_NK3))
    is_test = split == "test"
    seen = sum(number <= len(joints_NK3) for number in TEST_IMAGES_SEEN_IN_TRAINING) * is_test
    left_out = (
        ("of the other split", len(joints_NK3) - len(numbers) - seen),
        ("of photographs that are also in the training split", seen),
    )
    return Labels(
        names=[f"lsp/im{n:04d}" for n in numbers],
        joints_NK2=joints_NK3[numbers - 1, :, :2] - 1,
        tallies=(Tally(str(path), len(joints_NK3), left_out),),
    )


def image_numbers(split: str, count: int) -> NDArray[np.int64]:
    """The image numbers of a split, from 1, in a file of `count` samples."""
    numbers = np.arange(1, count + 1)
    in_train = numbers <= TRAIN_IMAGES
    unseen = ~np.isin(numbers, TEST_IMAGES_SEEN_IN_TRAINING)
    return numbers[{"train": in_train, "test": ~in_train & unseen}[split]]


def _lspet_labels(root: Path) -> Labels:
    path = root / "lspet" / "joints.mat"
    joints_NK3 = read_joints(path, rows="joints").transpose(2, 0, 1)
    labeled = joints_NK3[..., 2:] == 1
    if not np.isin(joints_NK3[..., 2], (0, 1)).all():
        number = int(np.argwhere(~np.isin(joints_NK3[..., 2], (0, 1)))[0, 0]) + 1
        raise ValueError(
            f"{path}: expected 0 or 1 (labeled) as the third number of every joint, found another "
            f"at sample {number}"
        )
    return Labels(
        names=[f"lspet/im{n:05d}" for n in range(1, len(joints_NK3) + 1)],
        joints_NK2=np.where(labeled, joints_NK3[..., :2] - 1, np.nan),
        tallies=(Tally(str(path), len(joints_NK3)),),
    )


def read_joints(path: Path, rows: str) -> NDArray[np.float64]:
    """The array `joints` of a .mat file, as float64; its shape is checked before it is read.

    Args:
        rows: what the first axis holds: "coordinates" (3 x 14 x N) or "joints" (14 x 3 x N).

    Raises:
        ValueError: the file is missing or damaged, or the array has another shape or is not finite.
    """
    expected = (3, 14) if rows == "coordinates" else (14, 3)
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected joints.mat and images/ as published; "
            "set their parent folder with --set data.root=FOLDER"
        )
    arrays = list_arrays(path)
    stored = arrays.get("joints")
    shape = stored.shape if stored is not None else ()
    if stored is None or shape[:2] != expected or len(shape) != 3 or shape[2] > MAX_SAMPLES:
        raise ValueError(
            f"{path} cannot be read as labels: expected an array 'joints' of "
            f"{describe_shape(expected)} x N, found {describe_arrays(arrays)}"
        )
    joints = read_array(path, stored)
    if not np.isfinite(joints).all():
        number = int(np.argwhere(~np.isfinite(joints))[0, 2]) + 1
        raise ValueError(
            f"{path}: expected finite coordinates, found NaN or inf at sample {number}"
        )
    return joints


def _sample_set(name: str, root: Path, labels: Labels) -> SampleSet:
    ids, joints_NK2, tallies = labels
    images = ImageFolder(root, [f"{i.replace('/', '/images/')}.jpg" for i in ids])
    center_N2, side_N = joint_boxes(joints_NK2, BOX_MARGIN)
    return SampleSet(
        name=name,
        skeleton=LSP,
        images=images,
        ids=tuple(ids),
        image_N=np.arange(len(ids)),
        joints_NK2=joints_NK2,
        center_N2=center_N2,
        side_N=side_N,
        normalizer_N=normalizer_lengths(joints_NK2, LSP),
        tallies=tallies,
    )
