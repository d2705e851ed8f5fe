"""The manifest: what a store holds heatmaps of, and the refusal of whatever does not match.

Everything in it but `versions`, `measured` and `audit` must be equal for heatmaps to serve a run.
`datasets` has the fingerprint of the first samples, then of all after each addition: a run on any
of them is served.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ...data.samples import SampleSet
from ...data.views import VIEW_VERSION
from ..config.recipe import Recipe
from ..runtime.diff import differences
from ..runtime.files import versions
from .schema import ARRAYS, MANIFEST, SCHEMA_VERSION, Layout
from .storage import Files

Manifest = dict[str, Any]

TeacherEntry = str | Mapping[str, Any]
"""The SHA-256 of the weights of the work directory's own teacher, or what a manifest states of any
teacher (`teachers.resolve`)."""

AUDIT = "audit"
"""What `StoreWriter.finish` saw when it last found every shard (`coverage.audit_of`)."""

NOT_COMPARED = ("versions", "encoding_error", AUDIT)
MAX_METADATA_BYTES = 1 << 24


def make_manifest(recipe: Recipe, samples: SampleSet, teacher: TeacherEntry) -> Manifest:
    """The manifest of the store that a recipe, a data set and a teacher call for.

    Args:
        teacher: SHA-256 of the weights of the work directory's own, or what the manifest is to have
            of any (`pipeline/teachers/source.py`).
    """
    if isinstance(teacher, str):
        teacher = {"sha256": teacher, "model": recipe.teacher.model.model_dump()}
    return {
        "schema": SCHEMA_VERSION,
        "view_version": VIEW_VERSION,
        "datasets": [samples.fingerprint()],
        "teacher": dict(teacher),
        "augmentation": recipe.stored_augmentation.model_dump(mode="json"),
        "flip_averaged": recipe.flip_averaged,
        "seed": recipe.store.seed,
        "geometry": recipe.geometry.model_dump() | {"heatmap_px": recipe.geometry.heatmap_px},
        "joints": list(samples.skeleton.joints),
        "max_error": recipe.store.max_error,
        "shard_samples": recipe.store.shard_samples,
        "versions": versions(),
    }


def layout_of(manifest: Manifest, views: int, samples: int | None = None) -> Layout:
    """The shapes that a manifest and a number of views call for.

    Args:
        samples: of the data set that is asked for, one of the manifest's; none given: the last.

    Raises:
        ValueError: the manifest is damaged.
    """
    try:
        totals = [int(dataset["samples"]) for dataset in manifest["datasets"]]
        if samples is not None:
            totals = totals[: totals.index(samples) + 1]
        layout = Layout(
            views=views,
            segments=tuple(after - before for before, after in pairwise([0, *totals])),
            joints=len(manifest["joints"]),
            heatmap_px=int(manifest["geometry"]["heatmap_px"]),
            shard_samples=int(manifest["shard_samples"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"expected a manifest, found a damaged one ({error!r})") from None
    sizes = (layout.shard_samples, layout.joints, layout.heatmap_px, views, *layout.segments)
    if not layout.segments or min(sizes) < 1:
        raise ValueError("expected a manifest, found a damaged one (a size below 1)")
    return layout


def stored_layout(files: Files) -> Layout:
    """The shapes of a store, from its own metadata."""
    try:
        return layout_of(read_manifest(files), _views(files))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{files} has damaged metadata: {error}") from None


def read_manifest(files: Files) -> Manifest:
    """The manifest of a store.

    Raises:
        ValueError: there is no store, or it is not one of ours.
    """
    try:
        manifest = read_metadata(files, "zarr.json")["attributes"][MANIFEST]
    except (
        FileNotFoundError,
        IsADirectoryError,
        NotADirectoryError,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:  # a lost connection, say, is no statement about the store
        raise ValueError(
            f"{files} is not a heatmap store (no {MANIFEST!r} manifest: {type(error).__name__})"
        ) from None
    if not isinstance(manifest, dict):
        raise ValueError(f"{files} is not a heatmap store (its manifest is damaged)")
    return manifest


def write_manifest(files: Files, manifest: Manifest) -> None:
    """Replace the manifest of a store that is there."""
    metadata = read_metadata(files, "zarr.json")
    metadata["attributes"][MANIFEST] = manifest
    files.write("zarr.json", json.dumps(metadata, indent=2, sort_keys=True).encode())


def check_manifest(files: Files, expected: Manifest, found: Manifest, work: object) -> None:
    """Refuse a store made for something else.

    Raises:
        ValueError: naming each difference, and the command that makes a fitting store.
    """
    wanted = expected["datasets"][-1]
    known = found.get("datasets")
    serves = wanted if isinstance(known, list) and wanted in known else _last(known)
    compared = (
        {key: value for key, value in manifest.items() if key not in NOT_COMPARED}
        for manifest in (
            {**expected, "datasets": wanted},
            {**found, "datasets": serves},
        )
    )
    different = differences(*compared)
    if different:
        raise ValueError(
            f"{files} does not fit this run: {'; '.join(different)}. Make it anew with "
            f"`fpd cache-heatmaps -w {work} --overwrite`, or use the settings it was made with"
        )


def with_added(expected: Manifest, found: Manifest, samples: SampleSet) -> Manifest:
    """The found manifest, extended by what a data set has beyond the one the store was made of.

    The data set must start with the store's samples: same ids, images, boxes and labels, in order.
    Where it does not, the found manifest comes back as it is, for `check_manifest` to refuse.
    """
    last = _last(found.get("datasets"))
    before = last.get("samples") if isinstance(last, dict) else None
    if not isinstance(before, int) or not 0 < before < len(samples):
        return found
    if expected["datasets"][-1] in found["datasets"]:
        return found
    start = samples.take(range(before)).fingerprint()
    if start | {"name": ""} != {**last, "name": ""}:
        return found
    return {**found, "datasets": [*found["datasets"], samples.fingerprint()]}


def served_layout(expected: Manifest, found: Manifest, views: int) -> Layout:
    """The part of a store, already checked, that serves a run."""
    return layout_of(found, views, expected["datasets"][-1]["samples"])


def _last(values: Any) -> Any:
    return values[-1] if isinstance(values, Sequence) and values else None


def _views(files: Files) -> int:
    """How many view numbers the arrays have; the array that is enlarged last says it."""
    return int(read_metadata(files, f"{ARRAYS[-1]}/zarr.json")["shape"][0])


def read_metadata(files: Files, name: str) -> dict[str, Any]:
    """A node's `zarr.json`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no JSON object.
    """
    metadata = json.loads(files.read(name, MAX_METADATA_BYTES))
    if not isinstance(metadata, dict):
        raise ValueError(f"{name} is no JSON object")
    return metadata


def covered_mask(manifest: Mapping[str, Any]) -> tuple[bool, ...] | None:
    """Which of a store's joints somebody teaches; None: all of them.

    Raises:
        ValueError: the manifest is damaged.
    """
    teacher, joints = manifest["teacher"], manifest["joints"]
    taught = teacher.get("covered_joints") if isinstance(teacher, dict) else None
    if taught is None or set(taught) >= set(joints):
        return None
    return tuple(name in taught for name in joints)
