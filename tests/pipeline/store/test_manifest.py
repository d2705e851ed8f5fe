"""The manifest: where the heatmaps came from, and the refusal of whatever does not match."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr

from fpd.data.datasets import load
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.store import (
    Layout,
    StoreReader,
    check_manifest,
    files_at,
    layout_of,
    make_manifest,
    match,
    read_manifest,
    served_layout,
    stored_layout,
)
from fpd.pipeline.teachers import expected_entry
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps

CPU = torch.device("cpu")


def open_store(
    work: WorkDir, recipe: Recipe, samples: SampleSet
) -> tuple[StoreReader, dict[str, Any]]:
    """The store, opened as stage 3 opens it."""
    manifest = read_manifest(match.existing_store(work, recipe))
    return match.open_store(work, recipe, samples, expected_entry(work.teacher, recipe, manifest))


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


def test_the_manifest_says_where_the_heatmaps_came_from(
    toy_work: Path, toy_samples: SampleSet
) -> None:
    found = read_manifest(files_at(WorkDir(toy_work).store))
    record = WorkDir(toy_work).teacher.record()
    assert found["schema"] == 2
    assert found["teacher"]["sha256"] == record["result"]["weights_sha256"]
    assert found["teacher"]["model"]["channels"] == 8
    assert found["datasets"] == [toy_samples.fingerprint()]
    assert found["datasets"][0]["samples"] == 18
    assert found["geometry"] == {"crop_px": 64, "stride_px": 4, "heatmap_px": 16}
    assert found["augmentation"]["scale"] == [0.75, 1.25]
    assert found["augmentation"]["rotation_deg"] == 30.0
    assert found["joints"][0] == "right ankle" and len(found["joints"]) == 14
    assert (found["seed"], found["max_error"], found["shard_samples"]) == (0, 0.1, 8)
    assert set(found["versions"]) >= {"torch", "numpy", "cv2", "zarr"}
    assert 0 < found["encoding_error"]["max_error"] <= 0.1


@pytest.mark.parametrize("averaged", [False, True])
def test_mirroring_is_in_the_stored_views_unless_the_student_draws_it(
    toy_recipe: Recipe, toy_samples: SampleSet, averaged: bool
) -> None:
    recipe = changed(toy_recipe, f"store.flip_averaged={str(averaged).lower()}")
    found = make_manifest(recipe, toy_samples, "0")
    assert found["flip_averaged"] is averaged
    assert found["augmentation"]["mirror"] is not averaged


def test_a_stores_layout_is_read_from_itself(toy_work: Path, toy_samples: SampleSet) -> None:
    files = files_at(WorkDir(toy_work).store)
    expected = Layout(views=2, segments=(18,), joints=14, heatmap_px=16, shard_samples=8)
    assert stored_layout(files) == expected
    assert layout_of(read_manifest(files), 2, len(toy_samples)) == expected


def test_the_layout_of_an_extended_store(small: Any) -> None:
    datasets = [small.people(n).fingerprint() for n in (10, 13, 20)]
    manifest = small.manifest() | {"datasets": datasets}
    assert layout_of(manifest, 2).segments == (10, 3, 7)
    assert layout_of(manifest, 2, samples=13).segments == (10, 3)
    earlier = {"datasets": [datasets[0]]}
    assert served_layout(earlier, manifest, views=1) == Layout(1, (10,), 3, 12, 4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("datasets", []),
        ("datasets", [{}]),
        ("datasets", [{"samples": 0}]),
        ("datasets", [{"samples": 10}, {"samples": 5}]),
        ("datasets", None),
        ("joints", 3),
        ("joints", []),
        ("geometry", {"heatmap_px": 0}),
        ("geometry", [16]),
        ("shard_samples", -4),
        ("shard_samples", "many"),
    ],
)
def test_a_damaged_manifest_has_no_layout(small: Any, key: str, value: object) -> None:
    with pytest.raises(ValueError, match="expected a manifest, found a damaged one"):
        layout_of(small.manifest() | {key: value}, 2)


MISMATCHES = [
    ("data.synthetic.seed=1", "datasets.images"),
    ("data.synthetic.train=30", "datasets.ids"),
    ("data.synthetic.train=30", "datasets.samples"),
    ("data.label_corruption.noise=0.3", "datasets.labels"),
    ("augmentation.rotation_deg=10", "augmentation.rotation_deg"),
    ("augmentation.flip=false", "augmentation.flip"),
    ("augmentation.scale=[0.9, 1.1]", "augmentation.scale"),
    ("store.seed=1", "seed"),
    ("geometry.crop_px=128", "geometry.crop_px"),
    ("geometry.crop_px=128", "geometry.heatmap_px"),
    ("store.max_error=0.02", "max_error"),
    ("store.flip_averaged=true", "flip_averaged"),
    ("store.shard_samples=9", "shard_samples"),
    ("teacher.model.channels=16", "teacher.model.channels"),
]


@pytest.mark.parametrize(("override", "key"), MISMATCHES)
def test_a_store_made_for_something_else_is_refused(
    toy_work: Path, toy_recipe: Recipe, override: str, key: str
) -> None:
    work, recipe = WorkDir(toy_work), changed(toy_recipe, override)
    samples = load(recipe.data, "train")
    with pytest.raises(ValueError, match="does not fit this run") as caught:
        open_store(work, recipe, samples)
    message = str(caught.value)
    assert f"{key}: expected " in message
    assert f"`fpd cache-heatmaps -w {work.root} --overwrite`" in message


@pytest.mark.parametrize(("override", "key"), [MISMATCHES[0], MISMATCHES[7], MISMATCHES[10]])
def test_such_a_store_is_not_written_to(
    small: Any, work: WorkDir, toy_recipe: Recipe, override: str, key: str
) -> None:
    before = small.content(work.store)
    with pytest.raises(ValueError, match=rf"does not fit this run.*{key}: .*--overwrite"):
        heatmaps.run(work, changed(toy_recipe, override, "store.views=3"), CPU)
    assert small.content(work.store) == before


def fitting(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> tuple[dict[str, Any], dict[str, Any]]:
    sha256 = WorkDir(toy_work).teacher.record()["result"]["weights_sha256"]
    expected = make_manifest(toy_recipe, toy_samples, sha256)
    return expected, read_manifest(files_at(WorkDir(toy_work).store))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 1),
        ("view_version", 0),
        ("joints", ["hand", "foot"]),
        ("teacher", {"sha256": "f" * 64}),
        ("datasets", None),
        ("datasets", []),
        ("datasets", [None]),
        ("segments", [1]),  # of a later version of this program
    ],
)
def test_other_entries_are_compared_too(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet, key: str, value: object
) -> None:
    expected, found = fitting(toy_work, toy_recipe, toy_samples)
    with pytest.raises(ValueError, match=rf"p: x does not fit this run: {key}[.:]") as caught:
        check_manifest(files_at("p: x"), expected, found | {key: value}, Path("w"))
    assert "`fpd cache-heatmaps -w w --overwrite`" in str(caught.value)


def test_versions_and_measured_errors_may_differ(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    expected, found = fitting(toy_work, toy_recipe, toy_samples)
    other = copy.deepcopy(found)
    other["versions"]["torch"], other["encoding_error"] = "1.0", {}
    check_manifest(files_at("p"), expected, other, Path("w"))
    check_manifest(files_at("p"), expected, found, Path("w"))


def test_any_data_set_that_a_store_was_extended_from_is_served(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    expected, found = fitting(toy_work, toy_recipe, toy_samples)
    later = {**toy_samples.fingerprint(), "samples": 30}
    found = found | {"datasets": [*found["datasets"], later]}
    check_manifest(files_at("p"), expected, found, Path("w"))
    check_manifest(files_at("p"), expected | {"datasets": [later]}, found, Path("w"))
    other = later | {"samples": 31}
    with pytest.raises(ValueError, match=r"datasets\.samples: expected 31, found 30"):
        check_manifest(files_at("p"), expected | {"datasets": [other]}, found, Path("w"))


def test_other_settings_do_not_matter_to_a_store(toy_work: Path, toy_recipe: Recipe) -> None:
    overrides = ["student.alpha=0.9", "targets.sigma_px=2", "store.batch_size=3", "store.views=1"]
    recipe = changed(toy_recipe, *overrides, "teacher.epochs=9", "loader.workers=1")
    _, manifest = open_store(WorkDir(toy_work), recipe, load(recipe.data, "train"))
    assert manifest["schema"] == 2


# What is no store


def test_a_group_without_a_manifest_is_refused(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "heatmaps.zarr", zarr_format=3)
    with pytest.raises(ValueError, match=r"heatmaps\.zarr is not a heatmap store \(no 'fpd'"):
        read_manifest(files_at(tmp_path / "heatmaps.zarr"))


def test_a_manifest_that_is_no_table_is_refused(small: Any, store: Path) -> None:
    small.edit_manifest(store, [1])
    with pytest.raises(ValueError, match=r"is not a heatmap store .*manifest is damaged"):
        read_manifest(files_at(store))


@pytest.mark.parametrize("kind", ["nothing", "folder", "file", "array", "damaged", "nested"])
def test_what_is_no_store_is_refused(small: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "heatmaps.zarr"
    if kind == "folder":
        path.mkdir()
    if kind == "file":
        path.write_text("not a store")
    if kind == "array":
        zarr.create_array(path, shape=(2,), dtype="u1")
    if kind == "damaged":
        path.mkdir()
        (path / "zarr.json").write_text('{"zarr_format": 3, "node_')
    if kind == "nested":
        path.mkdir()
        (path / "zarr.json").write_text("[" * 60_000)
    before = small.content(path)
    with pytest.raises(ValueError, match=r"heatmaps\.zarr is not a heatmap store"):
        read_manifest(files_at(path))
    if kind in ("array", "damaged", "nested"):
        with pytest.raises(ValueError, match=r"heatmaps\.zarr is not a heatmap store"):
            small.open(path)
        assert small.content(path) == before


@pytest.mark.parametrize("array", ["heatmaps", "steps", "peaks", "parameters"])
@pytest.mark.parametrize("damage", [None, b"", b"[1]", b'{"shape": 3}'])
def test_damaged_metadata_of_an_array_is_named(
    small: Any, store: Path, array: str, damage: bytes | None
) -> None:
    path = store / array / "zarr.json"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(ValueError, match=rf"damaged metadata \({array}/zarr\.json"):
        small.open(store)
    if array == "parameters":
        with pytest.raises(ValueError, match="has damaged metadata"):
            stored_layout(files_at(store))


def test_an_empty_manifest_is_refused_where_no_teacher_lies_beside_it(
    small: Any, work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    shutil.rmtree(work.teacher.path)
    open_store(work, toy_recipe, toy_samples)  # the store alone will do
    small.edit_manifest(work.store, {})
    with pytest.raises(ValueError, match=r"does not fit this run.*--overwrite"):
        open_store(work, toy_recipe, toy_samples)


def test_the_manifest_is_an_attribute_that_zarr_reads(whole: Path) -> None:
    attributes = json.loads((whole / "zarr.json").read_text())["attributes"]
    assert dict(zarr.open_group(whole, mode="r").attrs) == attributes
    assert read_manifest(files_at(whole)) == attributes["fpd"]
