"""The manifest: what a store holds heatmaps of, and the refusal of whatever does not match.

Everything in it but `versions` and `measured` must be equal for heatmaps to serve a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr

from ...data.samples import SampleSet
from ...data.views import VIEW_VERSION
from ..compare import differences
from ..recipe import Recipe
from ..workdir import versions
from .schema import MANIFEST, SCHEMA_VERSION, Layout

Manifest = dict[str, Any]

NOT_COMPARED = ("versions", "measured")


def make_manifest(recipe: Recipe, samples: SampleSet, teacher_sha256: str) -> Manifest:
    """The manifest of the store that a recipe, a data set and a teacher call for."""
    return {
        "schema": SCHEMA_VERSION,
        "view_version": VIEW_VERSION,
        "dataset": samples.fingerprint(),
        "teacher": {"sha256": teacher_sha256, "model": recipe.teacher.model.model_dump()},
        "augmentation": recipe.augmentation.model_dump(mode="json"),
        "seed": recipe.store.seed,
        "geometry": recipe.geometry.model_dump() | {"heatmap_px": recipe.geometry.heatmap_px},
        "joints": list(samples.skeleton.joints),
        "max_error": recipe.store.max_error,
        "shard_samples": recipe.store.shard_samples,
        "versions": versions(),
    }


def layout_of(recipe: Recipe, samples: SampleSet) -> Layout:
    """The shapes that go with `make_manifest`."""
    return Layout(
        views=recipe.store.views,
        samples=len(samples),
        joints=samples.skeleton.num_joints,
        heatmap_px=recipe.geometry.heatmap_px,
        shard_samples=recipe.store.shard_samples,
    )


def open_layout(path: Path) -> Layout:
    """The shapes of the store at `path`, from its own metadata."""
    manifest = read_manifest(path)
    try:
        return Layout(
            views=zarr.open_array(path, path="peaks", mode="r").shape[0],
            samples=manifest["dataset"]["samples"],
            joints=len(manifest["joints"]),
            heatmap_px=manifest["geometry"]["heatmap_px"],
            shard_samples=manifest["shard_samples"],
        )
    except (KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} has a damaged manifest or lacks an array ({error})") from None


def read_manifest(path: Path) -> Manifest:
    """The manifest of the store at `path`.

    Raises:
        ValueError: there is no store, or it is not one of ours.
    """
    try:
        group = zarr.open_group(path, mode="r")
    except Exception as error:  # zarr raises several kinds for missing or damaged metadata
        raise ValueError(f"{path} is not a heatmap store ({type(error).__name__})") from None
    manifest = group.attrs.get(MANIFEST)
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} is a Zarr group without an {MANIFEST!r} manifest")
    return dict(manifest)


def check_manifest(path: Path, expected: Manifest, found: Manifest, work: Path) -> None:
    """Refuse a store made for something else.

    Raises:
        ValueError: naming each difference, and the command that makes a fitting store.
    """
    compared = (
        {key: value for key, value in manifest.items() if key not in NOT_COMPARED}
        for manifest in (expected, found)
    )
    different = differences(*compared)
    if different:
        raise ValueError(
            f"{path} does not fit this run: {'; '.join(different)}. Make it anew with "
            f"`fpd cache-heatmaps -w {work} --overwrite`, or use the settings it was made with"
        )
