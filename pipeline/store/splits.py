"""The samples in a portable store: who they are, their labels, and crops without augmentation.

`write_split` fills a split's group from a data set; `load_split` gives its samples back, as a
`SampleSet` whose pixels are the stored crops. Coordinates stay those of the photographs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from ...data.augmentation import UNAUGMENTED, affine_23, invert
from ...data.io.jpeg import decode_jpeg
from ...data.samples import SampleSet, hashed_id
from ...data.skeletons import Skeleton
from ...data.validation import label_problems
from ...data.views import View, Views, warp
from .manifest import (
    CROPS,
    STORED_SPLITS,
    UNKNOWN_WORK,
    Manifest,
    read_manifest,
    split_layout,
    write_manifest,
)
from .reader import StoreReader
from .schema import MAX_ID_BYTES, SPLITS, Layout
from .storage import Storage, StoragePart
from .writer import Column, crop_columns, empty_store, enlarge

MAX_LABEL_PX = 1_000_000
"""Largest coordinate of a label, and size of a box: of no photograph."""

SAME_PIXEL = 1e-6
"""Two affine maps that differ by less, in pixels of a crop's corners, are the same."""


def stored_parts(storage: Storage, manifest: Manifest) -> list[tuple[StoragePart, Layout]]:
    """The groups of samples that a store has, and their layouts; none if it is not portable."""
    if CROPS not in manifest:
        return []
    names = [name for name in SPLITS if name == "train" or name in manifest[STORED_SPLITS]]
    return [(StoragePart(storage, name), split_layout(manifest, name)) for name in names]


def open_split(
    storage: Storage, split: str, samples: SampleSet, work: object
) -> tuple[StoragePart, Layout]:
    """The group of a split's samples, created or enlarged as needed.

    A group of other samples is removed first, but for the training samples, which the manifest
    describes.

    Args:
        work: what follows `-w` in the commands that messages name.
    """
    part, manifest = StoragePart(storage, split), read_manifest(storage, work)
    if split != "train" and manifest[STORED_SPLITS].get(split) != samples.fingerprint():
        part.remove()
        manifest[STORED_SPLITS][split] = samples.fingerprint()
        write_manifest(storage, manifest)
    layout = split_layout(manifest, split)
    create_split(part, layout, work)
    return part, layout


def create_split(part: StoragePart, layout: Layout, work: object) -> None:
    """Write the metadata of a split's group, or enlarge its arrays as needed."""
    if part.exists():
        enlarge(part, layout, work)
        return
    objects = empty_store(layout)
    for name in sorted(objects, key=lambda name: name == "zarr.json"):  # the group's last
        part.write(name, objects[name])


def sample_columns(
    samples: SampleSet, rows: range, jpegs: Sequence[bytes] | None, *, source_names: bool
) -> dict[str, Column]:
    """A split's arrays in a shard, by name.

    Args:
        rows: indices of the shard's samples.
        jpegs: their crops; None: crops are not stored.
        source_names: store the ids; otherwise their hashes.

    Raises:
        ValueError: an id is too long.
    """
    ids = [samples.ids[i] if source_names else hashed_id(samples.ids[i]) for i in rows]
    encoded_ids = [sample_id.encode() for sample_id in ids]
    longest = max(encoded_ids, key=len)
    if len(longest) > MAX_ID_BYTES:
        raise ValueError(
            f"expected sample ids of at most {MAX_ID_BYTES} bytes, found "
            f"{longest.decode()[:80]}...: --set store.source_names=false stores their hashes"
        )
    part = slice(rows.start, rows.stop)
    boxes_S3 = np.column_stack([samples.center_N2[part], samples.side_N[part]])
    return {
        **(crop_columns(jpegs) if jpegs is not None else {}),
        "joints": samples.joints_NK2[part],
        "boxes": boxes_S3,
        "normalizers": samples.normalizer_N[part],
        "ids": encoded_ids,
    }


@dataclass(frozen=True, eq=False)
class StoredSamples(SampleSet):
    """Samples from a portable store, whose fingerprint is that of the data set they are from."""

    stored_fingerprint: Mapping[str, Any] = field(kw_only=True)

    def fingerprint(self) -> dict[str, str | int]:
        return dict(self.stored_fingerprint)


def read_picture(reader: StoreReader, view: int, index: int) -> NDArray[np.uint8]:
    """The crop of one view of one sample: uint8 (S, S, 3) RGB.

    Raises:
        ValueError: it is missing or damaged; the message names view and sample.
    """
    encoded = reader.read_crop(view, index)
    try:
        return decode_jpeg(encoded, reader.layout.crop_px)
    except ValueError as error:
        raise reader.unreadable(view, index, f"its crop: {error}") from None


@dataclass(frozen=True)
class StoredCrops:
    """The unaugmented crops of a split in a portable store, as a `CropSource`."""

    reader: StoreReader
    ids: tuple[str, ...]

    def crop(self, index: int, affine: NDArray[np.float64], crop_px: int) -> NDArray[np.uint8]:
        """See `CropSource.crop`. The stored pixels, if that is the crop that is stored.

        Raises:
            ValueError: the store has no crops of this split.
        """
        stored_px = self.reader.layout.crop_px
        if not stored_px:
            self._refuse()
        picture = read_picture(self.reader, 0, index)
        x, y, side = self.reader.read_row("boxes", 0, index).tolist()
        stored_affine = affine_23(np.array([x, y]), side, UNAUGMENTED, stored_px)
        if crop_px == stored_px and _same_crop(affine, stored_affine, side):
            return picture
        to_photograph = invert(stored_affine)
        from_stored = affine[:, :2] @ to_photograph
        from_stored[:, 2] += affine[:, 2]
        return warp(picture, from_stored, crop_px)

    def read(self, index: int, zoom: float) -> NoReturn:
        self._refuse()

    def size(self, index: int) -> NoReturn:
        self._refuse()

    def identity(self, index: int) -> str:
        return self.ids[index]

    def locate(self, index: int) -> str:
        return f"{self.reader.storage}: crop {index}"

    def note(self, index: int) -> str | None:
        return None

    def _refuse(self) -> NoReturn:
        part = self.reader.storage
        what = "photographs" if self.reader.layout.crop_px else "unaugmented crops of its samples"
        name = part.folder if isinstance(part, StoragePart) else "these"
        raise ValueError(
            f"{part} has no {what}: give the data set, or make the store with the {name} samples "
            f"in store.splits"
        )


def _same_crop(one: NDArray[np.float64], other: NDArray[np.float64], side_px: float) -> bool:
    """Whether two affine maps, (2, 3), map photograph pixels of a box to the same crop pixels."""
    difference = np.abs(one - other)
    extent = np.abs(np.linalg.inv(other[:, :2]) @ other[:, 2]).max() + side_px
    return bool((difference[:, :2].sum(1) * extent + difference[:, 2]).max() < SAME_PIXEL)


def load_split(
    storage: Storage, manifest: Manifest, split: str, work: object = UNKNOWN_WORK
) -> StoredSamples:
    """The samples of a split in a portable store.

    Args:
        manifest: of the store.
        split: "train", "validation" or "test".
        work: what follows `-w` in the commands that messages name.

    Raises:
        ValueError: the store does not have the split, or it is damaged or incomplete.
    """
    layout, part = split_layout(manifest, split), StoragePart(storage, split)
    reader = StoreReader(part, layout, work)
    rows = [
        [reader.read_row(name, 0, index) for name in ("joints", "boxes", "normalizers", "ids")]
        for index in range(layout.samples)
    ]
    joints, boxes, normalizers, ids = zip(*rows, strict=True)
    boxes_N3 = np.array(boxes)
    ids = tuple(_text(part, row) for row in ids)
    if len(set(ids)) != len(ids):
        raise ValueError(f"{part}: expected unique sample ids, found duplicates")
    dataset = manifest["datasets"][-1] if split == "train" else manifest[STORED_SPLITS][split]
    samples = StoredSamples(
        name=str(dataset.get("name")),
        skeleton=_skeleton(storage, manifest),
        images=StoredCrops(reader, ids),
        ids=ids,
        image_N=np.arange(layout.samples),
        joints_NK2=np.array(joints),
        center_N2=boxes_N3[:, :2],
        side_N=boxes_N3[:, 2],
        normalizer_N=np.array(normalizers),
        stored_fingerprint=dataset,
    )
    _check_labels(part, samples)
    return samples


def _text(part: StoragePart, row: NDArray[np.uint8]) -> str:
    try:
        return row.tobytes().rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise ValueError(f"{part}: expected sample ids in UTF-8, found other bytes") from None


def _check_labels(part: StoragePart, samples: SampleSet) -> None:
    """Refuse labels that no data set's samples have (see `data.validation`).

    Raises:
        ValueError: naming the first such sample.
    """
    problems = label_problems(samples)
    columns = (samples.joints_NK2.reshape(len(samples), -1), samples.center_N2)
    lengths_N2 = np.column_stack([samples.side_N, samples.normalizer_N])
    numbers = np.column_stack([*columns, lengths_N2])
    beyond_N = (np.abs(numbers) > MAX_LABEL_PX).any(1) | (lengths_N2 < 0).any(1)
    for index in np.flatnonzero(beyond_N).tolist():
        message = f"expected labels within {MAX_LABEL_PX:,} pixels, found others"
        problems.setdefault(index, message)
    if problems:
        first = min(problems)
        raise ValueError(f"{part}: {samples.ids[first]}: {problems[first]}")


def _skeleton(storage: Storage, manifest: Manifest) -> Skeleton:
    """The skeleton that a manifest states.

    Raises:
        ValueError: it is damaged, or has other joints than the heatmaps.
    """
    try:
        skeleton = TypeAdapter(Skeleton).validate_python(manifest.get("skeleton"))
    except ValidationError:
        raise ValueError(f"{storage}: expected a skeleton in the manifest, found none") from None
    count = skeleton.num_joints
    used = {*skeleton.flip_indices, *skeleton.unscored, *(skeleton.normalizer or ())}
    used |= {joint for limb in skeleton.limbs for joint in limb}
    used |= {joint for _, group in skeleton.groups for joint in group}
    is_sound = (
        list(skeleton.joints) == manifest["joints"]
        and sorted(skeleton.flip_indices) == list(range(count))
        and used <= set(range(count))
        and len(skeleton.sigmas) in (0, count)
        and 1 <= skeleton.curve_steps <= 1000
    )
    if not is_sound:
        raise ValueError(f"{storage}: expected the heatmaps' skeleton in the manifest, found other")
    return skeleton


class StoredViews(Views):
    """The views of a portable store: pixels and labels as stored, nothing is cut again."""

    def __init__(self, views: Views, reader: StoreReader) -> None:
        """Read the views that `views` describes from a store that has them."""
        super().__init__(views.samples, views.geometry, views.augmentation, views.seed)
        self.reader = reader

    def __getitem__(self, key: tuple[int, int]) -> View:
        """Read a view.

        Raises:
            ValueError: it is missing or damaged.
        """
        index, view = key
        if view < 0:  # without augmentation
            return super().__getitem__(key)
        sample, crop_px = self.samples[index], self.geometry.crop_px
        parameters = self.reader.read_row("parameters", view, index)
        return View(
            crop=read_picture(self.reader, view, index),
            joints=self.reader.read_row("joints", view, index),
            affine=affine_23(sample.center_2, sample.side_px, parameters, crop_px),
            parameters=parameters,
            index=index,
        )
