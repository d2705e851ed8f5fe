"""The manifest: what the heatmaps were made from, and the refusal of whatever does not match."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import zarr

from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.store import (
    Layout,
    check_manifest,
    layout_of,
    make_manifest,
    open_storage,
    read_heatmaps,
    read_manifest,
    served_layout,
    stored_layout,
)
from fpd.pipeline.store.manifest import covered_mask
from fpd.pipeline.workdir import WorkDir


def test_the_manifest_states_what_the_heatmaps_were_made_from(
    toy_work: Path, toy_samples: SampleSet
) -> None:
    manifest = read_manifest(open_storage(WorkDir(toy_work).store))
    record = WorkDir(toy_work).teacher.record()
    assert manifest["schema"] == 3
    assert manifest["teacher"]["sha256"] == record["result"]["weights_sha256"]
    assert manifest["teacher"]["model"]["channels"] == 8
    assert manifest["datasets"] == [toy_samples.fingerprint()]
    assert manifest["datasets"][0]["samples"] == 18
    assert manifest["geometry"] == {"crop_px": 64, "stride_px": 4, "heatmap_px": 16}
    assert manifest["augmentation"]["scale"] == [0.75, 1.25]
    assert manifest["augmentation"]["rotation_deg"] == 30.0
    assert manifest["joints"][0] == "right ankle" and len(manifest["joints"]) == 14
    assert (manifest["seed"], manifest["max_error"], manifest["shard_samples"]) == (0, 0.1, 8)
    assert set(manifest["versions"]) >= {"torch", "numpy", "cv2", "zarr"}
    assert 0 < manifest["encoding_error"]["max_error"] <= 0.1


@pytest.mark.parametrize("averaged", [False, True])
def test_stored_views_are_flipped_unless_the_student_flips_them(
    toy_recipe: Recipe, toy_samples: SampleSet, averaged: bool
) -> None:
    override = f"store.flip_averaged={str(averaged).lower()}"
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), (override,))
    manifest = make_manifest(recipe, toy_samples, "0")
    assert manifest["flip_averaged"] is averaged
    assert manifest["augmentation"]["flip"] is not averaged


def test_covered_joints() -> None:
    manifest: dict[str, Any] = {"joints": ["head", "hand", "foot"], "teacher": {}}
    assert covered_mask(manifest) is None
    manifest["teacher"] = {"covered_joints": ["foot", "hand", "head"]}
    assert covered_mask(manifest) is None
    manifest["teacher"] = {"covered_joints": ["foot", "head"]}
    assert covered_mask(manifest) == (True, False, True)


# Layouts


def test_a_stores_layout_is_read_from_its_metadata(toy_work: Path, toy_samples: SampleSet) -> None:
    storage = open_storage(WorkDir(toy_work).store)
    expected = Layout(views=2, segments=(18,), joints=14, heatmap_px=16, shard_samples=8)
    assert stored_layout(storage) == expected
    assert layout_of(read_manifest(storage), 2, len(toy_samples)) == expected


def test_the_layout_of_an_extended_store(small: Any) -> None:
    datasets = [small.samples(n).fingerprint() for n in (10, 13, 20)]
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
        ("geometry", [16]),
        ("shard_samples", -4),
        ("shard_samples", "many"),
    ],
)
def test_a_damaged_manifest_has_no_layout(small: Any, key: str, value: object) -> None:
    with pytest.raises(ValueError, match="expected a manifest, found a damaged one"):
        layout_of(small.manifest() | {key: value}, 2)


# Comparison


@pytest.fixture
def expected(toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet) -> dict[str, Any]:
    """What a run on the toy store needs."""
    sha256 = WorkDir(toy_work).teacher.record()["result"]["weights_sha256"]
    return make_manifest(toy_recipe, toy_samples, sha256)


@pytest.fixture
def stored(toy_work: Path) -> dict[str, Any]:
    """The manifest of the toy store."""
    return read_manifest(open_storage(WorkDir(toy_work).store))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("view_version", 0),
        ("joints", ["hand", "foot"]),
        ("teacher", {"sha256": "f" * 64}),
        ("datasets", None),
        ("datasets", []),
        ("datasets", [None]),
        ("another", [1]),
    ],
)
def test_an_entry_that_differs_is_refused_by_name(
    expected: dict[str, Any], stored: dict[str, Any], key: str, value: object
) -> None:
    with pytest.raises(ValueError, match=rf"p: x does not fit this run: {key}[.:]") as caught:
        check_manifest(open_storage("p: x"), expected, stored | {key: value}, "w")
    assert "`fpd cache-heatmaps -w w --overwrite`" in str(caught.value)


def test_versions_and_errors_may_differ(expected: dict[str, Any], stored: dict[str, Any]) -> None:
    other = copy.deepcopy(stored)
    other["versions"]["torch"], other["encoding_error"] = "1.0", {}
    check_manifest(open_storage("p"), expected, other, "w")
    check_manifest(open_storage("p"), expected, stored, "w")


def test_a_store_serves_each_data_set_from_which_it_was_extended(
    expected: dict[str, Any], stored: dict[str, Any]
) -> None:
    larger = {**expected["datasets"][0], "samples": 30}
    extended = stored | {"datasets": [*stored["datasets"], larger]}
    check_manifest(open_storage("p"), expected, extended, "w")
    check_manifest(open_storage("p"), expected | {"datasets": [larger]}, extended, "w")
    other = larger | {"samples": 31}
    with pytest.raises(ValueError, match=r"datasets\.samples: expected 31, found 30"):
        check_manifest(open_storage("p"), expected | {"datasets": [other]}, extended, "w")


# What is not a store of this schema


@pytest.mark.parametrize("schema", [None, 2, 4])
def test_a_store_of_another_schema_is_refused(small: Any, store: Path, schema: int | None) -> None:
    small.edit_manifest(store, small.manifest() | {"schema": schema})
    message = rf"expected .*schema 3, found schema {schema}.*`fpd cache-heatmaps -w .* --overwrite`"
    for read in (
        lambda: read_manifest(open_storage(store)),
        lambda: stored_layout(open_storage(store)),
        lambda: read_heatmaps(store, 0, [0]),
        lambda: small.open(store),
    ):
        with pytest.raises(ValueError, match=message):
            read()


def test_a_group_without_a_manifest_is_refused(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "heatmaps.zarr", zarr_format=3)
    with pytest.raises(ValueError, match=r"heatmaps\.zarr is not a heatmap store \(no 'fpd'"):
        read_manifest(open_storage(tmp_path / "heatmaps.zarr"))


def test_a_manifest_that_is_a_list_is_refused(small: Any, store: Path) -> None:
    small.edit_manifest(store, [1])
    with pytest.raises(ValueError, match=r"is not a heatmap store .*manifest is damaged"):
        read_manifest(open_storage(store))


@pytest.mark.parametrize("kind", ["nothing", "folder", "file", "array", "damaged", "nested"])
def test_what_is_not_a_store_is_refused(small: Any, tmp_path: Path, kind: str) -> None:
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
        read_manifest(open_storage(path))
    if kind in ("array", "damaged", "nested"):
        with pytest.raises(ValueError, match=r"heatmaps\.zarr is not a heatmap store"):
            small.open(path)
        assert small.content(path) == before


@pytest.mark.parametrize(
    ("array", "damage"),
    [("heatmaps", None), ("steps", b""), ("peaks", b"[1]"), ("parameters", b'{"shape": 3}')],
)
def test_damaged_metadata_of_an_array_is_named(
    small: Any, store: Path, array: str, damage: bytes | None
) -> None:
    path = store / array / "zarr.json"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(ValueError, match=rf"damaged metadata \({array}/zarr\.json.*--repair"):
        small.open(store)
    if array == "parameters":
        with pytest.raises(ValueError, match="has damaged metadata"):
            stored_layout(open_storage(store))


def test_zarr_reads_the_manifest_as_an_attribute(whole: Path) -> None:
    attributes = json.loads((whole / "zarr.json").read_text())["attributes"]
    assert dict(zarr.open_group(whole, mode="r").attrs) == attributes
    assert read_manifest(open_storage(whole)) == attributes["fpd"]
