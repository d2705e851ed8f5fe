"""Canaries tell equal pixels, rounding differences and another picture apart."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fpd.data.samples import SampleSet
from fpd.data.views import View, Views
from fpd.pipeline.config.recipe import Recipe, stored_views
from fpd.pipeline.store import check_canaries, open_storage, read_manifest, stored_layout
from fpd.pipeline.store.canaries import canary_rows, compare_canary, make_canary
from fpd.pipeline.store.coverage import sealed
from fpd.pipeline.workdir import WorkDir

Crop = NDArray[np.uint8]


class ChangedViews:
    """Views whose crops are changed by a function of (crop, index, view)."""

    def __init__(self, views: Views, change: Callable[[Crop, int, int], Crop]) -> None:
        self.views = views
        self.samples = views.samples
        self.change = change
        self.read: list[tuple[int, int]] = []

    def __getitem__(self, key: tuple[int, int]) -> View:
        self.read.append(key)
        view = self.views[key]
        return View(**(view | {"crop": self.change(view["crop"].copy(), *key)}))


@pytest.fixture
def check(work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet) -> Any:
    """Check the toy store's canaries against views changed by a function."""

    def run(change: Callable[[Crop, int, int], Crop] = lambda crop, *_: crop) -> ChangedViews:
        storage = open_storage(work.store)
        views = ChangedViews(stored_views(toy_recipe, toy_samples), change)
        manifest = read_manifest(storage)
        check_canaries(storage, stored_layout(storage), views, manifest, "some/where")  # type: ignore[arg-type]
        return views

    return run


def test_equal_pixels_pass_silently(check: Any, caplog: pytest.LogCaptureFixture) -> None:
    views = check()
    assert not caplog.records
    # Two of each of the shards of 8, 8 and 2 samples, in 2 views; the first row among them.
    rows = [0, 4, 8, 12, 16, 17]
    assert views.read == [(row, view) for view in range(2) for row in rows]


def brighten(crop: Crop, index: int, view: int) -> Crop:
    """The kind of difference that another decoder causes: one level in some pixels."""
    crop[::3] += (crop[::3] < 255).astype(np.uint8)
    return crop


def test_rounding_passes_with_a_warning_that_names_the_libraries(
    check: Any, work: WorkDir, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = read_manifest(open_storage(work.store))
    manifest["versions"] |= {"cv2": "4.5.6", "numpy": "1.2.3"}
    small.edit_manifest(work.store, manifest)
    check(brighten)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "cached with cv2 4.5.6, numpy 1.2.3" in message
    assert f"cv2 {cv2.__version__}, numpy {np.__version__}" in message


def test_one_level_of_one_pixel_is_noticed(check: Any, caplog: pytest.LogCaptureFixture) -> None:
    def nudge(crop: Crop, index: int, view: int) -> Crop:
        if (index, view) == (12, 1):
            crop[7, 9, 2] ^= 1
        return crop

    check(nudge)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("canary", "change"),
    [
        ((0, 0), lambda crop: 255 - crop),
        ((12, 0), lambda crop: crop[::-1].copy()),
        ((17, 1), lambda crop: np.roll(crop, 9, 1)),
    ],
    ids=["negative", "upside down", "shifted"],
)
def test_another_picture_is_refused_by_name(
    check: Any, toy_samples: SampleSet, canary: tuple[int, int], change: Callable[[Crop], Crop]
) -> None:
    index, view = canary
    with pytest.raises(ValueError, match=f"view {view} of {toy_samples.ids[index]} ") as caught:
        check(lambda crop, *key: change(crop) if key == canary else crop)
    assert "`fpd cache-heatmaps -w some/where --overwrite`" in str(caught.value)


def test_a_damaged_canary_is_refused(check: Any, work: WorkDir, toy_samples: SampleSet) -> None:
    path = work.store / "heatmaps/receipts/1/1.json"
    receipt = json.loads(path.read_text())
    receipt["canaries"][1] |= {"blake2b": "0" * 32, "thumbnail": "AAAA"}
    path.write_bytes(sealed(receipt))
    with pytest.raises(ValueError, match=f"view 1 of {toy_samples.ids[12]} "):
        check()


@pytest.mark.parametrize(("rows", "expected"), [(1, [0]), (2, [0, 1]), (9, [0, 4])])
def test_canaries_are_spread_over_a_shard(rows: int, expected: list[int]) -> None:
    assert canary_rows(rows) == expected


def test_the_difference_of_a_crop_from_its_canary() -> None:
    crop = np.random.default_rng(0).integers(0, 200, (64, 64, 3), np.uint8)
    canary = make_canary(3, crop)
    assert canary["row"] == 3
    assert json.loads(json.dumps(canary)) == canary
    assert compare_canary(canary, crop) == 0
    assert compare_canary(canary, np.asfortranarray(crop)) == 0
    assert compare_canary(canary, crop + np.uint8(20)) == pytest.approx(20, abs=0.5)
    one_pixel_changed = crop.copy()
    one_pixel_changed[0, 0, 0] ^= 1
    assert 0 < compare_canary(canary, one_pixel_changed) < 0.01


@pytest.mark.parametrize("thumbnail", [None, "", "AAAA", "!", 7])
def test_the_difference_from_a_damaged_canary_is_infinite(thumbnail: object) -> None:
    crop = np.zeros((64, 64, 3), np.uint8)
    assert compare_canary({"row": 3, "thumbnail": thumbnail}, crop) == np.inf
    assert compare_canary({"row": 3}, crop) == np.inf
