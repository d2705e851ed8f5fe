"""The samples of a run: from its data set, or from a portable store that has them."""

from __future__ import annotations

from typing import Any

from ...data.datasets import Split, load, load_training
from ...data.samples import SampleSet
from ...data.sections import STORE_READER
from ..config.recipe import Recipe
from ..workdir import WorkDir
from .location import open_storage
from .manifest import RECIPE, STORED_SPLITS, Manifest, is_portable, read_manifest
from .match import existing_store
from .splits import StoredSamples, load_split
from .storage import Storage


def load_samples(work: WorkDir, recipe: Recipe, split: Split) -> SampleSet:
    """The samples of one split, checked.

    Raises:
        ValueError: as `data.datasets.load`; or the store does not have the split.
    """
    if recipe.data.reader != STORE_READER:
        return load(recipe.data, split)
    storage, manifest = portable_store(work, recipe)
    stored_split = "train" if split == "labeled" else split
    return load_split(storage, manifest, stored_split, work.command_options(recipe))


def stored_recipe(location: str) -> dict[str, Any] | None:
    """The settings in a portable store, for a work directory without a recipe.

    Whoever wrote the store decides on them, so paths and names of files in them are left out.

    Args:
        location: path or URL of the store.

    Returns:
        A recipe's tree; None: there is no store at this location, or it has no settings.

    Raises:
        ValueError: the settings are damaged, or the store cannot be opened.
    """
    storage = open_storage(location)
    if not storage.exists():
        return None
    settings = read_manifest(storage).get(RECIPE)
    if settings is None:
        return None
    try:
        recipe = Recipe.parse(settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{storage}: its settings cannot be used here: {error}") from None
    return recipe.portable_settings()


def portable_store(work: WorkDir, recipe: Recipe) -> tuple[Storage, Manifest]:
    """The recipe's store, which must be portable, and its manifest.

    Raises:
        ValueError: there is no store, or it holds heatmaps only.
    """
    storage = existing_store(work, recipe)
    manifest = read_manifest(storage, work.command_options(recipe))
    if not is_portable(manifest):
        raise ValueError(
            f"{storage} holds heatmaps only, expected a portable store (`fpd cache-heatmaps "
            "--portable`): give the data set with --set data.reader=NAME --set data.root=FOLDER"
        )
    return storage, manifest


def load_training_samples(
    work: WorkDir, recipe: Recipe, *, with_unlabeled: bool
) -> dict[str, SampleSet]:
    """The "train" and "validation" samples of a run; see `data.datasets.load_training`.

    A portable store has all its training samples in "train", those without labels included.
    """
    if recipe.data.reader != STORE_READER:
        return load_training(recipe.data, with_unlabeled=with_unlabeled)
    return load_stored_training(*portable_store(work, recipe), work.command_options(recipe))


def load_stored_training(
    storage: Storage, manifest: Manifest, work_options: str
) -> dict[str, SampleSet]:
    """The "train" and "validation" samples of a portable store.

    "validation" is empty if the store has none. See `data.datasets.load_training`.
    """
    train: StoredSamples = load_split(storage, manifest, "train", work_options)
    if "validation" not in manifest[STORED_SPLITS]:
        return {"train": train, "validation": train.take([])}
    validation = load_split(storage, manifest, "validation", work_options)
    return {"train": train, "validation": validation}
