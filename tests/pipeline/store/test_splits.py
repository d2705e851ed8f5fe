"""The samples of a portable store: written, read back, and read by plain Zarr."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zarr
from PIL import Image

from fpd.data.augmentation import UNAUGMENTED, affine_23
from fpd.data.datasets import load
from fpd.data.io.jpeg import decode_jpeg, max_jpeg_bytes
from fpd.data.samples import CropSource, SampleSet, hashed_id
from fpd.data.views import CENTER_CROP, Views
from fpd.pipeline.config.recipe import Recipe, stored_views
from fpd.pipeline.store import StoreReader, open_storage, read_manifest, stored_layout
from fpd.pipeline.store.coverage import coverage
from fpd.pipeline.store.manifest import split_layout
from fpd.pipeline.store.schema import MAX_ID_BYTES
from fpd.pipeline.store.splits import (
    StoredViews,
    create_split,
    load_split,
    open_split,
    sample_columns,
    stored_parts,
)
from fpd.pipeline.store.storage import Storage, StoragePart
from fpd.pipeline.store.writer import write_columns
from fpd.pipeline.workdir import WorkDir

CROP_PX, SHARD_SAMPLES = 64, 8


@pytest.fixture
def storage(portable_toy_work: Path) -> Storage:
    """The portable toy store. Not to be written to."""
    return open_storage(portable_toy_work / "heatmaps.zarr")


@pytest.fixture
def copy(portable_work: WorkDir) -> Storage:
    return open_storage(portable_work.store)


def split_of(recipe: Recipe, split: str) -> SampleSet:
    return load(recipe.data, split)  # type: ignore[arg-type]


# Reading


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_is_read_back(storage: Storage, portable_recipe: Recipe, split: str) -> None:
    samples = split_of(portable_recipe, split)
    stored = load_split(storage, read_manifest(storage), split)
    assert stored.ids == tuple(map(hashed_id, samples.ids))
    np.testing.assert_array_equal(stored.id_hash_N, samples.id_hash_N)
    for name in ("joints_NK2", "center_N2", "side_N", "normalizer_N"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(samples, name))
    assert (stored.name, stored.skeleton) == (samples.name, samples.skeleton)
    assert stored.fingerprint() == samples.fingerprint()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_crops_are_those_of_the_photographs_through_jpeg(
    storage: Storage, portable_recipe: Recipe, split: str
) -> None:
    samples = split_of(portable_recipe, split)
    stored = load_split(storage, read_manifest(storage), split)
    arguments = (portable_recipe.geometry, portable_recipe.augmentation, 0)
    read, cut = Views(stored, *arguments), Views(samples, *arguments, crop_quality=90)
    for index in (0, len(samples) - 1):
        for name in ("crop", "joints", "affine"):
            np.testing.assert_array_equal(
                read[index, CENTER_CROP][name],  # type: ignore[literal-required]
                cut[index, CENTER_CROP][name],  # type: ignore[literal-required]
            )


def test_other_crops_are_cut_from_the_stored_ones(
    storage: Storage, portable_recipe: Recipe
) -> None:
    samples = split_of(portable_recipe, "test")
    stored = load_split(storage, read_manifest(storage), "test")
    smaller = affine_23(samples.center_N2[3], 0.5 * samples.side_N[3], UNAUGMENTED, CROP_PX)
    assert isinstance(stored.images, CropSource)
    inside = stored.images.crop(3, smaller, CROP_PX)
    expected = cv2.resize(
        stored.images.crop(
            3, affine_23(samples.center_N2[3], samples.side_N[3], UNAUGMENTED, CROP_PX), CROP_PX
        )[16:48, 16:48],
        (CROP_PX, CROP_PX),
        interpolation=cv2.INTER_LINEAR,
    )
    assert np.abs(inside[2:-2, 2:-2].astype(int) - expected[2:-2, 2:-2]).mean() < 1


def test_training_samples_have_no_unaugmented_crops(
    storage: Storage, portable_recipe: Recipe
) -> None:
    train = load_split(storage, read_manifest(storage), "train")
    views = Views(train, portable_recipe.geometry, portable_recipe.augmentation, 0)
    with pytest.raises(ValueError, match=r"with the train samples in store\.splits"):
        _ = views[0, CENTER_CROP]
    for read in (lambda: train.images.read(0, 1.0), lambda: train.images.size(0)):
        with pytest.raises(ValueError, match="give the data set"):
            read()


def test_photographs_of_stored_crops_are_refused(storage: Storage) -> None:
    test = load_split(storage, read_manifest(storage), "test")
    with pytest.raises(ValueError, match="test has no photographs: give the data set"):
        test.images.read(0, 1.0)
    assert test.images.identity(2) == test.ids[2]
    assert test.images.locate(2).endswith("test: crop 2")
    assert test.images.note(2) is None


def test_a_split_that_the_store_does_not_have(storage: Storage) -> None:
    manifest = read_manifest(storage)
    del manifest["splits"]["test"]
    with pytest.raises(ValueError, match="the store has no test samples"):
        load_split(storage, manifest, "test")
    assert [part.folder for part, _ in stored_parts(storage, manifest)] == ["train", "validation"]


def test_a_plain_store_has_no_splits(toy_work: Path) -> None:
    plain = open_storage(toy_work / "heatmaps.zarr")
    assert stored_parts(plain, read_manifest(plain)) == []


def test_stored_views_are_those_of_the_photographs_through_jpeg(
    storage: Storage, portable_recipe: Recipe, toy_samples: SampleSet
) -> None:
    cut = stored_views(portable_recipe, toy_samples)
    read = StoredViews(cut, StoreReader(storage, stored_layout(storage)))
    for key in [(0, 0), (8, 1), (17, 1)]:
        expected = {name: value for name, value in cut[key].items() if name != "jpeg"}
        assert read[key].keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(read[key][name], value)  # type: ignore[literal-required]


# Writing


def write(part: StoragePart, layout: Any, samples: SampleSet, jpegs: list[bytes]) -> None:
    for view, shard in coverage(part, layout).missing:
        rows = layout.rows(shard)
        columns = sample_columns(samples, rows, jpegs[: len(rows)], source_names=True)
        write_columns(part, layout, view, shard, columns)


def test_other_samples_replace_a_split_and_its_fingerprint(
    copy: Storage, portable_recipe: Recipe
) -> None:
    samples = split_of(portable_recipe, "test").take(range(3))
    part, layout = open_split(copy, "test", samples, "w")
    assert read_manifest(copy)["splits"]["test"] == samples.fingerprint()
    assert coverage(part, layout).missing == [(0, 0)]
    write(part, layout, samples, [b"\xff\xd8"] * 3)
    assert load_split(copy, read_manifest(copy), "test").ids == samples.ids
    again, _ = open_split(copy, "test", samples, "w")
    assert coverage(again, layout).missing == []


def test_a_group_is_created_with_its_metadata_last(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = split_layout(read_manifest(storage), "validation")
    part = StoragePart(open_storage(tmp_path / "new.zarr"), "validation")
    written: list[str] = []
    as_usual = StoragePart.write

    def recording(self: StoragePart, name: str, content: bytes) -> None:
        written.append(name)
        as_usual(self, name, content)

    monkeypatch.setattr(StoragePart, "write", recording)
    create_split(part, layout, "w")
    assert written[-1] == "zarr.json"
    assert part.exists()
    create_split(part, layout, "w")
    assert len(written) == len(layout.arrays) + 1  # the second time, there is nothing to write


@pytest.mark.parametrize(("length", "fits"), [(MAX_ID_BYTES, True), (MAX_ID_BYTES + 1, False)])
def test_ids_have_a_largest_size(portable_recipe: Recipe, length: int, fits: bool) -> None:
    """In bytes; their hashes always fit."""
    samples = split_of(portable_recipe, "test").take([0])
    named = SampleSet(
        samples.name,
        samples.skeleton,
        samples.images,
        ("é" * (length // 2) + "x" * (length % 2),),
        *samples._columns(),
    )
    assert sample_columns(named, range(1), None, source_names=False)["ids"]
    if fits:
        (stored,) = sample_columns(named, range(1), None, source_names=True)["ids"]
        assert len(stored) == MAX_ID_BYTES
        return
    with pytest.raises(ValueError, match=r"at most 256 bytes, .*store\.source_names=false"):
        sample_columns(named, range(1), None, source_names=True)


def test_views_of_a_sample_without_a_name_are_the_same(
    portable_recipe: Recipe, toy_samples: SampleSet
) -> None:
    unnamed = SampleSet(
        toy_samples.name,
        toy_samples.skeleton,
        toy_samples.images,
        tuple(map(hashed_id, toy_samples.ids)),
        *toy_samples._columns(),
    )
    views, hashed = (
        stored_views(portable_recipe, toy_samples),
        stored_views(portable_recipe, unnamed),
    )
    np.testing.assert_array_equal(views.parameters(5, 1), hashed.parameters(5, 1))


# Plain Zarr, by the format's description alone


def text(row: Any) -> str:
    return bytes(row).rstrip(b"\0").decode("utf-8")


@pytest.mark.parametrize(("group", "views", "count"), [("", 2, 18), ("validation", 1, 6)])
def test_crops_are_read_by_zarr_and_decoded_by_others(
    storage: Storage, group: str, views: int, count: int
) -> None:
    """The first `crop_sizes` bytes are a JPEG file; the others are zeros."""
    node: Any = zarr.open_group(storage.zarr(), mode="r")
    node = node[group] if group else node
    crops, sizes = node["crops"], node["crop_sizes"]
    shards = -(-count // SHARD_SAMPLES)
    assert crops.shape == (views, shards * SHARD_SAMPLES, max_jpeg_bytes(CROP_PX))
    assert crops.attrs["format"] == "jpeg"
    assert (crops.dtype, sizes.dtype) == (np.uint8, np.int32)
    for view, sample in [(0, 0), (views - 1, count - 1)]:
        size = int(sizes[view, sample])
        stored = np.asarray(crops[view, sample])
        assert not stored[size:].any()
        jpeg = stored[:size].tobytes()
        by_opencv = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
        by_pillow = np.asarray(Image.open(io.BytesIO(jpeg)))
        np.testing.assert_array_equal(by_opencv, decode_jpeg(jpeg, CROP_PX))
        np.testing.assert_array_equal(by_opencv, by_pillow)
    assert not np.asarray(sizes[:, count:]).any()  # padding to whole shards


def test_labels_and_ids_are_read_by_zarr(
    storage: Storage, portable_recipe: Recipe, toy_samples: SampleSet
) -> None:
    node: Any = zarr.open_group(storage.zarr(), mode="r")
    test = split_of(portable_recipe, "test")
    assert [text(row) for row in node["test/ids"][0, : len(test)]] == [*map(hashed_id, test.ids)]
    np.testing.assert_array_equal(node["test/joints"][0, : len(test)], test.joints_NK2)
    boxes = np.column_stack([test.center_N2, test.side_N])
    np.testing.assert_array_equal(node["test/boxes"][0, : len(test)], boxes)
    assert node["test/boxes"].attrs["names"] == ["x", "y", "side"]
    np.testing.assert_array_equal(node["test/normalizers"][0, : len(test)], test.normalizer_N)
    views = stored_views(portable_recipe, toy_samples)
    np.testing.assert_array_equal(node["joints"][1, 17], views[17, 1]["joints"])


@pytest.mark.filterwarnings("ignore:Object at README.md is not recognized")
def test_xarray_opens_all_groups(storage: Storage) -> None:
    xarray = pytest.importorskip("xarray")
    root = xarray.open_zarr(storage.zarr(), consolidated=False)
    assert root.crops.dims == ("view", "sample", "byte")
    assert root.crop_sizes.dims == ("view", "sample")
    held_out = xarray.open_zarr(storage.zarr(), group="validation", consolidated=False)
    size = int(held_out.crop_sizes[0, 2])
    jpeg = held_out.crops[0, 2, :size].to_numpy()
    assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape == (CROP_PX, CROP_PX, 3)
    assert text(held_out.ids[0, 2].to_numpy()).startswith("#")
