"""The manifest: what the heatmaps of a store were made from, compared with what a run needs.

A store serves a run if all entries but `versions`, `encoding_error` and `audit` are equal.
`datasets` has the fingerprint of the data set when the store was created and after each addition of
samples; the store serves a run on any of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

from ...data.samples import SampleSet
from ...data.skeletons import SKELETONS
from ...data.views import VIEW_VERSION
from ..config.recipe import Recipe
from ..runtime.diff import differences
from ..runtime.files import versions
from .schema import (
    ARRAYS,
    MANIFEST,
    MAX_CROP_PX,
    MAX_SHARD_SAMPLES,
    MAX_SHARDS,
    MAX_VIEW_PIXELS,
    MAX_VIEWS,
    RECEIPTS,
    SCHEMA_VERSION,
    SPLITS,
    Layout,
)
from .storage import Storage

Manifest = dict[str, Any]

TeacherEntry = str | Mapping[str, Any]
"""The SHA-256 of the weights of the work directory's own teacher, or a manifest's whole entry
`teacher` (`teachers.expected_entry`)."""

AUDIT = "audit"
"""What `StoreWriter.finish` found when all shards were complete (`coverage.audit_of`)."""

CROPS, STORED_SPLITS, RECIPE = "crops", "splits", "recipe"
"""Entries of a portable store: how crops are stored; the fingerprints of the splits that it has;
and the settings of the run that it was made for."""

NOT_COMPARED = ("versions", "encoding_error", AUDIT, STORED_SPLITS, RECIPE)
MAX_METADATA_BYTES = 1 << 24

CHECKSUM = f"{MANIFEST}_checksum"
"""The group's attribute beside the manifest: its digest (`manifest_checksum`)."""

UNKNOWN_WORK = "WORK"
"""Stands for the work directory in the commands of messages, where it is not known."""


MOVE_AWAY = "; move it away, or name another location with --store"


class ManifestError(ValueError):
    """A store has no readable manifest, or one that was changed after it was written."""


def make_manifest(recipe: Recipe, samples: SampleSet, teacher: TeacherEntry) -> Manifest:
    """The manifest of the store that a recipe, a data set and a teacher determine.

    Args:
        teacher: SHA-256 of the weights of the work directory's own teacher, or the manifest's entry
            `teacher` for any teacher.
    """
    if isinstance(teacher, str):
        teacher = {"sha256": teacher, "model": recipe.teacher.model.model_dump()}
    skeleton = samples.skeleton
    pairs: Manifest = {}
    if recipe.flip_averaged and skeleton not in SKELETONS.values():
        # The joints of the known skeletons determine their pairs.
        pairs["flip_indices"] = list(skeleton.flip_indices)
    return {
        "schema": SCHEMA_VERSION,
        "view_version": VIEW_VERSION,
        "datasets": [samples.fingerprint()],
        "teacher": dict(teacher),
        "augmentation": recipe.stored_augmentation.model_dump(mode="json"),
        "flip_averaged": recipe.flip_averaged,
        "seed": recipe.store.seed,
        "geometry": recipe.geometry.model_dump() | {"heatmap_px": recipe.geometry.heatmap_px},
        "joints": list(skeleton.joints),
        **pairs,
        **_portable_entries(recipe, samples),
        "max_error": recipe.store.max_error,
        "shard_samples": recipe.store.shard_samples,
        "versions": versions(),
    }


def _portable_entries(recipe: Recipe, samples: SampleSet) -> Manifest:
    """The entries of a portable store; none for another."""
    store = recipe.store
    if not store.portable:
        return {}
    return {
        CROPS: {
            "format": "jpeg",
            "quality": store.crop_quality,
            "splits": sorted(store.splits),
            "source_names": store.source_names,
        },
        "skeleton": asdict(samples.skeleton),
        STORED_SPLITS: {},
        RECIPE: recipe.portable_settings(),
    }


def is_portable(manifest: Manifest) -> bool:
    """Whether a store holds all that a student needs."""
    return CROPS in manifest


def layout_of(manifest: Manifest, views: int, samples: int | None = None) -> Layout:
    """The sizes of the arrays of a store with this manifest and number of views.

    Args:
        samples: number of samples in one of the manifest's data sets; None: in the last.

    Raises:
        ValueError: the manifest is damaged.
    """
    try:
        totals = [_whole(dataset["samples"]) for dataset in manifest["datasets"]]
        if samples is not None:
            totals = totals[: totals.index(samples) + 1]
        layout = Layout(
            views=views,
            segments=tuple(after - before for before, after in pairwise([0, *totals])),
            joints=len(manifest["joints"]),
            heatmap_px=_whole(manifest["geometry"]["heatmap_px"]),
            shard_samples=_whole(manifest["shard_samples"]),
            crop_px=_whole(manifest["geometry"]["crop_px"]) if is_portable(manifest) else 0,
        )
        if not isinstance(manifest["teacher"]["sha256"], str):
            raise TypeError("expected a digest of the teacher")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"expected a manifest, found a damaged one ({error!r})") from None
    sizes = (layout.shard_samples, layout.joints, layout.heatmap_px, views, *layout.segments)
    if not layout.segments or min(sizes) < 1:
        raise ValueError("expected a manifest, found a damaged one (a size below 1)")
    _check_size("views", layout.views, MAX_VIEWS, "fewer")
    _check_size("shards", layout.views * layout.shards, MAX_SHARDS, "larger store.shard_samples")
    _check_size("samples a shard", layout.shard_samples, MAX_SHARD_SAMPLES, "smaller ones")
    view_pixels = layout.joints * layout.heatmap_px**2
    _check_size("pixels of a view's heatmaps", view_pixels, MAX_VIEW_PIXELS, "smaller heatmaps")
    _check_size("pixels on a crop's side", layout.crop_px, MAX_CROP_PX, "smaller crops")
    return layout


def split_layout(manifest: Manifest, split: str) -> Layout:
    """The sizes of the arrays of a split's samples in a portable store with this manifest.

    Raises:
        ValueError: the manifest is damaged, or the store does not have this split.
    """
    layout = layout_of(manifest, 1)
    segments = layout.segments
    if split != "train":
        try:
            segments = (_whole(manifest[STORED_SPLITS][split]["samples"]),)
        except (KeyError, TypeError):
            raise ValueError(f"the store has no {split} samples") from None
    has_crops = split in manifest[CROPS]["splits"]
    layout = replace(
        layout, segments=segments, crop_px=layout.crop_px if has_crops else 0, is_split=True
    )
    if layout.samples < 1:
        raise ValueError(f"the store has no {split} samples")
    _check_size("shards", layout.shards, MAX_SHARDS, "larger store.shard_samples")
    return layout


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected a whole number, found {value!r:.40}")
    return value


def _check_size(what: str, count: int, limit: int, remedy: str) -> None:
    """Check a size before anything is counted or allocated by it."""
    if count > limit:
        raise ValueError(
            f"expected a store of at most {limit:,} {what}, found {count:,}: it needs {remedy}, "
            "unless its metadata is damaged"
        )


def stored_layout(storage: Storage, work: object = UNKNOWN_WORK) -> Layout:
    """The sizes of the arrays of a store, from its own metadata.

    Args:
        work: what follows `-w` in the command that messages name.

    Raises:
        ValueError: there is no store, it has another schema, or its metadata is damaged.
    """
    manifest = read_manifest(storage, work)
    try:
        layout_of(manifest, 1)
    except ValueError as error:
        raise ValueError(
            f"{storage}: {error}; rebuild it with `fpd cache-heatmaps -w {work} --overwrite`"
        ) from None
    try:
        return layout_of(manifest, _stored_views(storage))
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{storage} has damaged metadata: {error}; repair it with "
            f"`fpd verify-cache -w {work} --repair`"
        ) from None


def read_manifest(storage: Storage, work: object = UNKNOWN_WORK) -> Manifest:
    """The manifest of a store.

    Args:
        work: what follows `-w` in the command that messages name.

    Raises:
        ManifestError: there is no store, or its manifest is damaged.
        ValueError: it has another schema.
        OSError: the store could not be reached.
    """
    try:
        attributes = read_metadata(storage, "zarr.json")["attributes"]
        manifest, checksum = attributes[MANIFEST], attributes.get(CHECKSUM)
    except (
        FileNotFoundError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        RecursionError,
    ) as error:  # no other OSError: a lost connection does not mean that there is no store
        problem = f"is not a heatmap store (no {MANIFEST!r} manifest: {type(error).__name__})"
        remedy = "" if isinstance(error, FileNotFoundError) else MOVE_AWAY
        raise ManifestError(f"{storage} {problem}{_restore(storage, work) or remedy}") from None
    if not isinstance(manifest, dict):
        raise ManifestError(
            f"{storage} is not a heatmap store (its manifest is damaged)"
            f"{_restore(storage, work) or MOVE_AWAY}"
        )
    if manifest.get("schema") != SCHEMA_VERSION:
        raise ValueError(
            f"{storage}: expected a store of schema {SCHEMA_VERSION}, found schema "
            f"{manifest.get('schema')!r:.40}; rebuild it with `fpd cache-heatmaps -w {work} "
            "--overwrite`"
        )
    try:
        is_unchanged = checksum == manifest_checksum(manifest)
    except RecursionError:
        is_unchanged = False
    if not is_unchanged:
        raise ManifestError(
            f"{storage}: its manifest was changed after it was written (zarr.json: the checksum "
            f"does not match){_restore(storage, work) or MOVE_AWAY}"
        )
    if is_portable(manifest) and not _has_portable_entries(manifest):
        raise ManifestError(
            f"{storage}: its manifest is damaged (the entries of a portable store)"
            f"{_restore(storage, work) or MOVE_AWAY}"
        )
    return manifest


def _has_portable_entries(manifest: Manifest) -> bool:
    """Whether the entries of a portable store have their types; sizes are checked by layouts."""
    crops, splits = manifest[CROPS], manifest.get(STORED_SPLITS)
    recipe = manifest.get(RECIPE, {"store": {}})
    return (
        isinstance(crops, dict)
        and isinstance(crops.get("splits"), list)
        and isinstance(splits, dict)
        and splits.keys() <= set(SPLITS) - {"train"}
        and all(isinstance(fingerprint, dict) for fingerprint in splits.values())
        and isinstance(recipe, dict)
        and isinstance(recipe.get("store"), dict)
    )


def _restore(storage: Storage, work: object) -> str:
    """The command that restores a manifest, for messages; "" where there is nothing to restore."""
    if not has_shards(storage):
        return ""
    return f"; restore its manifest with `fpd verify-cache -w {work} --repair`"


def has_shards(storage: Storage) -> bool:
    """Whether there are receipts of shards, with or without a manifest."""
    return storage.has_any(RECEIPTS)


def manifest_checksum(manifest: Manifest) -> str:
    """The hexadecimal BLAKE2b-128 digest of a manifest, as JSON sorted by key, without spaces."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def with_manifest(metadata: dict[str, Any], manifest: Manifest) -> bytes:
    """The content of the group's `zarr.json` with a manifest and its checksum.

    Args:
        metadata: the group's; the other attributes in it are kept.
    """
    others = metadata.get("attributes")
    attributes = {
        **(others if isinstance(others, dict) else {}),
        MANIFEST: manifest,
        CHECKSUM: manifest_checksum(manifest),
    }
    return json.dumps({**metadata, "attributes": attributes}, indent=2, sort_keys=True).encode()


def write_manifest(storage: Storage, manifest: Manifest) -> None:
    """Replace the manifest of an existing store."""
    storage.write("zarr.json", with_manifest(read_metadata(storage, "zarr.json"), manifest))


def check_manifest(storage: Storage, expected: Manifest, manifest: Manifest, work: object) -> None:
    """Refuse a store that was made for another run.

    Args:
        expected: what the run needs; the last of its `datasets` must be one of the store's.
        manifest: of the store.
        work: what follows `-w` in the command that messages name.

    Raises:
        ValueError: naming each difference, and the command that makes a matching store.
    """
    dataset = expected["datasets"][-1]
    stored_datasets = manifest.get("datasets")
    is_served = isinstance(stored_datasets, list) and dataset in stored_datasets
    different = differences(
        _compared_entries({**expected, "datasets": dataset}),
        _compared_entries(
            {**manifest, "datasets": dataset if is_served else _last(stored_datasets)}
        ),
    )
    if different:
        raise ValueError(
            f"{storage} does not fit this run: {'; '.join(different)}. Rebuild it with "
            f"`fpd cache-heatmaps -w {work} --overwrite`, or use the settings it was made with"
        )


def _compared_entries(manifest: Manifest) -> Manifest:
    return {key: value for key, value in manifest.items() if key not in NOT_COMPARED}


def with_added(expected: Manifest, manifest: Manifest, samples: SampleSet) -> Manifest:
    """The manifest of a store, extended by the samples that a data set has beyond the store's.

    The data set must start with the store's samples: the same ids, images, boxes and labels in the
    same order. Otherwise, and if there is nothing to add, the manifest is returned unchanged, for
    `check_manifest` to decide.
    """
    last = _last(manifest.get("datasets"))
    stored_count = last.get("samples") if isinstance(last, dict) else None
    if not isinstance(stored_count, int) or not 0 < stored_count < len(samples):
        return manifest
    if expected["datasets"][-1] in manifest["datasets"]:
        return manifest
    start = samples.take(range(stored_count)).fingerprint()
    if start | {"name": ""} != {**last, "name": ""}:
        return manifest
    return {**manifest, "datasets": [*manifest["datasets"], samples.fingerprint()]}


def served_layout(expected: Manifest, manifest: Manifest, views: int) -> Layout:
    """The part of a store that serves a run; `check_manifest` must have accepted the manifest."""
    return layout_of(manifest, views, expected["datasets"][-1]["samples"])


def _last(values: Any) -> Any:
    return values[-1] if isinstance(values, Sequence) and values else None


def _stored_views(storage: Storage) -> int:
    """Number of views of the arrays, according to the array that is enlarged last."""
    return _whole(read_metadata(storage, f"{ARRAYS[-1]}/zarr.json")["shape"][0])


def read_metadata(storage: Storage, name: str) -> dict[str, Any]:
    """The content of a `zarr.json`.

    Raises:
        FileNotFoundError: there is no such object.
        ValueError: it is not a JSON object.
    """
    metadata = json.loads(storage.read(name, MAX_METADATA_BYTES))
    if not isinstance(metadata, dict):
        raise ValueError(f"{name} is not a JSON object")
    return metadata


def covered_mask(manifest: Mapping[str, Any]) -> tuple[bool, ...] | None:
    """For each joint of a store, whether at least one teacher predicts it; None: all are."""
    teacher, joints = manifest["teacher"], manifest["joints"]
    covered = teacher.get("covered_joints") if isinstance(teacher, dict) else None
    if covered is None or set(covered) >= set(joints):
        return None
    return tuple(name in covered for name in joints)
