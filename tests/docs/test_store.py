"""docs/store.md is true: its code reads a store, and draws the views that `fpd` draws."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpd.data.augmentation import Augmentation, draw_parameters
from fpd.data.samples import id_hash
from fpd.pipeline.store import read_heatmaps

DOCS = Path(__file__).parents[2] / "docs" / "store.md"


def run_block(marker: str, store: Path = Path()) -> dict[str, Any]:
    """Run the page's block of Python that contains `marker`, on a store; its variables."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if marker in block)
    variables: dict[str, Any] = {}
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


def test_heatmaps_are_decoded_as_the_page_says(toy_work: Path) -> None:
    store = toy_work / "heatmaps.zarr"
    decoded = run_block("zarr.open_group", store)["heatmaps"]
    np.testing.assert_allclose(decoded, read_heatmaps(str(store), 0, [7])[0], atol=1e-6)


def test_xarray_opens_a_store_as_the_page_says(toy_work: Path) -> None:
    pytest.importorskip("xarray")
    dataset = run_block("xarray.open_zarr", toy_work / "heatmaps.zarr")["dataset"]
    assert dataset.heatmaps.dims[:3] == ("view", "sample", "joint")
