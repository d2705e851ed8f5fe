"""The manifest: what the heatmaps were made from, and the refusal of whatever does not match."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zarr

from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.store import (
    Layout,
    check_manifest,
    coverage,
    layout_of,
    make_manifest,
    open_storage,
    read_heatmaps,
    read_manifest,
    served_layout,
    stored_layout,
)
from fpd.pipeline.store.local_storage import LocalStorage
from fpd.pipeline.store.manifest import covered_mask
from fpd.pipeline.store.verify import damaged_metadata
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


def test_pairs_that_a_data_set_defines_are_in_the_manifest_where_maps_depend_on_them(
    toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    tree = toy_recipe.model_dump(mode="json")
    averaged, plain = (
        apply_overrides(tree, (f"store.flip_averaged={value}",)) for value in ("true", "false")
    )
    own = replace(toy_samples, skeleton=replace(toy_samples.skeleton, name="fly"))
    pairs = list(toy_samples.skeleton.flip_indices)
    assert make_manifest(averaged, own, "0")["flip_indices"] == pairs
    assert "flip_indices" not in make_manifest(plain, own, "0")
    assert "flip_indices" not in make_manifest(averaged, toy_samples, "0")


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


# Sizes that no store has


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": [{"samples": 10**12}]}, "at most 2,097,152 shards"),
        ({"shard_samples": 10**9}, "at most 65,536 samples a shard"),
        ({"geometry": {"heatmap_px": 10**6}}, "pixels of a view's heatmaps"),
        ({"datasets": [{"samples": float("inf")}]}, "damaged one"),
        ({"teacher": None}, "damaged one"),
    ],
)
def test_sizes_that_no_store_has_are_refused_by_every_command(
    small: Any, store: Path, changes: dict[str, Any], message: str
) -> None:
    small.edit_manifest(store, small.manifest() | changes)
    started = time.monotonic()
    with pytest.raises(ValueError, match=rf"{message}.*cache-heatmaps -w w --overwrite"):
        stored_layout(open_storage(store), "w")
    with pytest.raises(ValueError, match=message):
        read_heatmaps(store, 0, [0])
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(("axis", "refused"), [(0, True), (1, False)])
def test_arrays_of_a_shape_that_no_store_has_are_not_counted_by_it(
    small: Any, store: Path, axis: int, refused: bool
) -> None:
    for array in small.arrays:
        path = store / array / "zarr.json"
        metadata = json.loads(path.read_text())
        metadata["shape"][axis] = 10**12
        path.write_text(json.dumps(metadata))
    if refused:
        with pytest.raises(ValueError, match=r"at most 1,000,000 views.*verify-cache -w w --rep"):
            stored_layout(open_storage(store), "w")
        with pytest.raises(ValueError, match="at most 1,000,000 views"):
            small.open(store)
    else:
        assert stored_layout(open_storage(store)).samples == 10
    assert damaged_metadata(open_storage(store)).keys() == {f"{a}/zarr.json" for a in small.arrays}


def test_views_without_a_receipt_cost_no_requests(
    small: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    sizes = LocalStorage.sizes
    monkeypatch.setattr(
        LocalStorage, "sizes", lambda self, name: listed.append(name) or sizes(self, name)
    )
    found = coverage(open_storage(store), replace(small.layout, views=200_000))
    assert (len(found.receipts), len(found.missing)) == (6, 3 * 200_000 - 6)
    assert len(listed) == 10


# The checksum


def test_a_changed_manifest_is_refused_with_the_command_that_restores_it(
    small: Any, store: Path
) -> None:
    content = (store / "zarr.json").read_text()
    for old, new in (('"samples": 10', '"samples": 11'), ('"shards": 6', '"shards": 5')):
        assert old in content
        (store / "zarr.json").write_text(content.replace(old, new))
        with pytest.raises(ValueError, match=r"was changed.*`fpd verify-cache -w w --repair`"):
            read_manifest(open_storage(store), "w")
    (store / "zarr.json").write_text(json.dumps(json.loads(content)))  # only other spaces
    read_manifest(open_storage(store))


def test_a_manifest_without_shards_is_not_restored(small: Any, tmp_path: Path) -> None:
    small.open(tmp_path / "heatmaps.zarr")
    (tmp_path / "heatmaps.zarr/zarr.json").write_text("{")
    with pytest.raises(ValueError, match="move it away, or name another location with --store"):
        read_manifest(open_storage(tmp_path / "heatmaps.zarr"))


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
