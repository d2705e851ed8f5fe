"""The samples of each split, whatever the reader.

A reader (`readers/`, one file per format) gives a `SampleSet` for "train" and for "test". Here, in
the same way for every format, validation samples are held out from the training samples, labels are
corrupted where an experiment calls for it, and unlabeled images are added.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .corruption import corrupt_labels, has_labels
from .readers import coco, folder, lsp, mpii, mpii_official, photos, pytorch_pose, yolo
from .readers.synthetic.people import synthetic_samples
from .samples import SampleSet, join
from .sections import STORE_READER, Data
from .selection import limited, without_missing_images
from .skeletons import SKELETONS
from .validation import check

Split = Literal["train", "labeled", "validation", "test"]
"""The name of a split.

* "train": the training samples, `data.unlabeled_root`'s images included.
* "labeled": those training samples that have labels, which a network without a teacher trains on.
* "validation": samples held out from the training samples.
* "test": the test samples.
"""


FOLDER_READERS: dict[str, Callable[[Path, str], SampleSet]] = {
    "lsp": lsp.lsp,
    "lspet": lsp.lspet,
    "mpii": mpii.mpii,
    "mpii-official": mpii_official.mpii_official,
    "pytorch-pose": pytorch_pose.pytorch_pose,
}
"""Readers that need nothing but `data.root` and a split, by the value of `data.reader`."""


def load(data: Data, split: Split) -> SampleSet:
    """Load the samples of one split and check them (`validation.check`).

    Raises:
        ValueError: files are missing or damaged, labels are impossible, or the split is empty
            ("validation" may be).
    """
    return load_splits(data, (split,))[split]


def load_training(data: Data, *, with_unlabeled: bool) -> dict[str, SampleSet]:
    """Load the "train" and "validation" samples for training a network, checked.

    Args:
        with_unlabeled: include training samples without labels, for a student with a teacher.

    Raises:
        ValueError: as `load`.
    """
    split: Split = "train" if with_unlabeled else "labeled"
    samples = load_splits(data, (split, "validation"))
    return {"train": samples[split], "validation": samples["validation"]}


def load_splits(data: Data, splits: tuple[Split, ...]) -> dict[Split, SampleSet]:
    """Load several splits and check them; each label file is read once.

    Raises:
        ValueError: as `load`.
    """
    samples_by_split = read_splits(data, splits)
    for split, samples in samples_by_split.items():
        if not len(samples) and split != "validation":
            name = "train" if split == "labeled" else split
            people = "".join(f": {tally}" for tally in samples.tallies)
            raise ValueError(f"data set {data.reader!r} has no samples in its {name} split{people}")
        check(samples)
    return samples_by_split


def read_splits(data: Data, splits: tuple[Split, ...]) -> dict[Split, SampleSet]:
    """Read several splits without checking them; they may be empty.

    Raises:
        ValueError: a label file is missing or damaged.
    """
    source_of = {split: "test" if split == "test" else "train" for split in splits}
    sources = {
        source: _available(data, _read(data, source))
        for source in dict.fromkeys(source_of.values())
    }
    return {split: _select(data, sources[source], split) for split, source in source_of.items()}


def _available(data: Data, samples: SampleSet) -> SampleSet:
    """The samples that are used although images may be missing (`data.missing_images`)."""
    return without_missing_images(samples) if data.missing_images == "skip" else samples


def _select(data: Data, samples: SampleSet, split: Split) -> SampleSet:
    """The samples of `split` out of those of the reader's "train" or "test"."""
    if data.reader == "photos":
        return _select_photos(data, samples, split)
    if split == "test":
        return samples
    samples = limited(samples, data.limit)
    # Samples without labels cannot select weights.
    share = 0.0 if data.reader == "folder" else data.validation
    held_out = _held_out(samples, share)
    samples = samples.take(np.flatnonzero(held_out == (split == "validation")))
    if split == "validation":
        return samples
    samples = corrupt_labels(samples, data.label_corruption)
    if split == "labeled" and data.label_corruption.unlabeled:
        return samples.take(np.flatnonzero(has_labels(samples)))
    if split == "train" and data.unlabeled_root is not None:
        unlabeled = folder.folder(data.unlabeled_root, samples.skeleton)
        unlabeled = limited(_available(data, unlabeled), data.limit)
        return join(samples, unlabeled, "unlabeled")
    return samples


def _select_photos(data: Data, samples: SampleSet, split: Split) -> SampleSet:
    """Held-out photographs are test samples: without labels, they cannot select weights."""
    if split == "validation":
        return samples.take([])
    if data.photos.labels is None:
        held_out = photos.held_out(samples, data.validation)
        samples = samples.take(np.flatnonzero(held_out == (split == "test")))
    # With labels, the reader has told them apart.
    return samples if split == "test" else limited(samples, data.limit)


def _read_photos(data: Data, source: str) -> SampleSet:
    assert data.root is not None
    if data.photos.labels is None:
        return photos.photos(data.root, data.photos)
    try:
        labeled = _read(data.labels, "test")
    except ValueError as error:  # its reader advises on the setting that it usually has
        reason = str(error).replace("data.root", "data.photos.labels_root")
        raise ValueError(f"data.photos.labels = {data.photos.labels}: {reason}") from None
    if source == "test":
        return photos.with_joints(labeled, data.photos.joints or ())
    return photos.without_photographs_of(photos.photos(data.root, data.photos), labeled)


def _read(data: Data, source: str) -> SampleSet:
    """The reader's samples; `source`: "train" or "test"."""
    if data.reader == "synthetic":
        count = data.synthetic.train if source == "train" else data.synthetic.test
        return synthetic_samples(source, count, seed=data.synthetic.seed)
    if data.reader == STORE_READER:
        raise ValueError(
            "data.reader = store: this needs photographs, and a portable store has only crops: "
            "give the data set with --set data.reader=NAME --set data.root=FOLDER"
        )
    assert data.root is not None
    if data.reader == "lsp+lspet":
        optional = data.lsp.extension == "optional"
        return lsp.lsp_lspet(data.root, source, extension_is_optional=optional)
    if data.reader == "coco":
        return coco.coco(data.root, source, data.coco)
    if data.reader == "yolo":
        return yolo.yolo(data.root, source, data.yolo)
    if data.reader == "photos":
        return _read_photos(data, source)
    if data.reader == "folder":  # for both splits: without labels, nothing is scored
        return folder.folder(data.root, SKELETONS[data.folder.skeleton or ""])
    return FOLDER_READERS[data.reader](data.root, source)


def _held_out(samples: SampleSet, share: float) -> NDArray[np.bool_]:
    """Mask of the samples whose id hashes lie in the lowest `share` of all 64-bit numbers.

    Whether a sample is held out depends on its id alone: samples added to a data set leave the
    others where they are, so a store of its training samples can be extended. In return, the share
    is met only approximately.
    """
    return samples.id_hash_N < np.uint64(share * 2.0**64)
