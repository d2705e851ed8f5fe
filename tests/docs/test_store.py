"""docs/store.md is true: its code reads a store, and draws the views that `fpd` draws."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpd.data.augmentation import UNAUGMENTED, affine_23, draw_parameters, transform
from fpd.data.samples import id_hash
from fpd.data.sections import Augmentation
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.store import (
    StoreReader,
    open_storage,
    read_heatmaps,
    read_manifest,
    stored_layout,
)
from fpd.pipeline.store.splits import load_split, read_picture

DOCS = Path(__file__).parents[2] / "docs" / "store.md"


def run_block(marker: str, store: Path = Path(), **variables: Any) -> dict[str, Any]:
    """Run the page's block of Python that contains `marker`, on a store; its variables."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if marker in block)
    exec(block.replace("work/lsp/heatmaps.zarr", str(store)), variables)
    return variables


@pytest.mark.parametrize("flip", [True, False])
def test_views_are_drawn_as_the_page_says(flip: bool) -> None:
    """NumPy's Philox counts up before the first block."""
    augmentation = Augmentation(scale=(0.75, 1.25), rotation_deg=30.0, flip=flip)
    uniform = run_block("np.random.Philox")["uniform"]
    text = f"scale 0.75 1.25 rotation_deg 30.0 mirror {flip}"
    for view, sample_id in ((0, "lsp/im0001"), (5, "coco/é/7")):
        u = [uniform(11, text, sample_id, view, operation) for operation in range(3)]
        expected = [0.75 + 0.5 * u[0], 30 * (2 * u[1] - 1), float(flip and u[2] < 0.5)]
        drawn = draw_parameters(augmentation, 11, id_hash(sample_id), view)
        np.testing.assert_allclose(drawn, expected, rtol=1e-12)


def test_the_sample_of_a_row_is_the_one_that_the_page_says(
    toy_work: Path, toy_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if "samples.ids[7]" in block)
    variables: dict[str, Any] = {}
    exec(block.replace("work/lsp", str(toy_work)), variables)
    ids = variables["samples"].ids
    assert capsys.readouterr().out.startswith(ids[7])
    row_of = run_block("def row_of")["row_of"]
    storage = open_storage(toy_work / "heatmaps.zarr")
    reader = StoreReader(storage, stored_layout(storage))
    totals = [entry["samples"] for entry in read_manifest(storage)["datasets"]]
    for number in (0, 7, len(ids) - 1):
        row = row_of(number, totals, toy_recipe.store.shard_samples)
        drawn = draw_parameters(
            toy_recipe.augmentation, toy_recipe.store.seed, id_hash(ids[number]), 1
        )
        np.testing.assert_array_equal(reader.read_row("parameters", 1, row), drawn)


def test_heatmaps_are_decoded_as_the_page_says(toy_work: Path) -> None:
    store = toy_work / "heatmaps.zarr"
    decoded = run_block("basis = group", store)["heatmaps"]
    np.testing.assert_allclose(decoded, read_heatmaps(str(store), 0, [7])[0], atol=1e-6)


def test_xarray_opens_a_store_as_the_page_says(toy_work: Path) -> None:
    pytest.importorskip("xarray")
    dataset = run_block("dataset = xarray.open_zarr", toy_work / "heatmaps.zarr")["dataset"]
    assert dataset.heatmaps.dims[:3] == ("view", "sample", "joint")


def test_crops_are_read_as_the_page_says(portable_toy_work: Path) -> None:
    store = portable_toy_work / "heatmaps.zarr"
    read = run_block('group["crops"]', store)
    storage = open_storage(store)
    reader = StoreReader(storage, stored_layout(storage))
    # Another build of libjpeg may round differently.
    difference = read["crop"].astype(int) - read_picture(reader, 0, 7)
    assert np.abs(difference).max() <= 4
    np.testing.assert_array_equal(read["joints"], reader.read_row("joints", 0, 7))


def test_xarray_opens_the_samples_of_a_split_as_the_page_says(portable_toy_work: Path) -> None:
    pytest.importorskip("xarray")
    store = portable_toy_work / "heatmaps.zarr"
    test = run_block("test = xarray.open_zarr", store)["test"]
    storage = open_storage(store)
    samples = load_split(storage, read_manifest(storage), "test")
    np.testing.assert_array_equal(test.joints[0].values[: len(samples)], samples.joints_NK2)
    np.testing.assert_array_equal(test.boxes[0, : len(samples), 2].values, samples.side_N)


def test_a_crop_of_a_split_shows_its_box_as_the_page_says() -> None:
    center, side, crop_px, points = np.array([31.5, 40.0]), 77.0, 64, np.array([[3.0, 9.0]])
    assert "crop_px / side" in DOCS.read_text("utf-8")
    expected = (points - center) * crop_px / side + (crop_px - 1) / 2
    affine = affine_23(center, side, UNAUGMENTED, crop_px)
    np.testing.assert_allclose(transform(affine, points), expected)
