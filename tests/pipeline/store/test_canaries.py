"""Canaries: the same pixels, the same but for rounding, and another picture are told apart."""

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
from fpd.pipeline.store import check_canaries, files_at, read_manifest, stored_layout
from fpd.pipeline.store.canaries import canary_rows, compare_canary, make_canary
from fpd.pipeline.store.coverage import sealed
from fpd.pipeline.workdir import WorkDir

Crop = NDArray[np.uint8]


class ChangedViews:
    """Views whose pixels went through something first."""

    def __init__(self, views: Views, change: Callable[[Crop, int, int], Crop]) -> None:
        self.views = views
        self.samples = views.samples
        self.change = change
        self.asked: list[tuple[int, int]] = []

    def __getitem__(self, key: tuple[int, int]) -> View:
        self.asked.append(key)
        view = self.views[key]
        return View(**(view | {"crop": self.change(view["crop"].copy(), *key)}))


@pytest.fixture
def check(work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet) -> Any:
    """Check the toy store's canaries against views changed by a function."""

    def run(change: Callable[[Crop, int, int], Crop] = lambda crop, *_: crop) -> ChangedViews:
        files = files_at(work.store)
        views = ChangedViews(stored_views(toy_recipe, toy_samples), change)
        check_canaries(files, stored_layout(files), views, read_manifest(files), "some/where")  # type: ignore[arg-type]
        return views

    return run


def test_equal_pixels_pass_in_silence(check: Any, caplog: pytest.LogCaptureFixture) -> None:
    views = check()
    assert not caplog.records
    # Two of each of the shards of 8, 8 and 2 people of 2 views; the first row among them.
    rows = [0, 4, 8, 12, 16, 17]
    assert views.asked == [(row, view) for view in range(2) for row in rows]


def brighter(crop: Crop, index: int, view: int) -> Crop:
    """What another decoder does: a level here and there."""
    crop[::3] += (crop[::3] < 255).astype(np.uint8)
    return crop


def test_rounding_passes_with_a_warning_that_names_the_libraries(
    check: Any, work: WorkDir, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = read_manifest(files_at(work.store))
    manifest["versions"] |= {"cv2": "4.5.6", "numpy": "1.2.3"}
    small.edit_manifest(work.store, manifest)
    check(brighter)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "by rounding" in message
    assert "cached with cv2 4.5.6, numpy 1.2.3" in message
    assert f"here cv2 {cv2.__version__}, numpy {np.__version__}" in message


def test_one_pixel_by_one_level_is_noticed(check: Any, caplog: pytest.LogCaptureFixture) -> None:
    def nudge(crop: Crop, index: int, view: int) -> Crop:
        if (index, view) == (12, 1):
            crop[7, 9, 2] ^= 1
        return crop

    check(nudge)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("canary", [(0, 0), (12, 0), (17, 1)])
@pytest.mark.parametrize(
    "change",
    [lambda crop: 255 - crop, lambda crop: crop[::-1].copy(), lambda crop: np.roll(crop, 9, 1)],
    ids=["negative", "upside down", "shifted"],
)
def test_another_picture_is_refused_by_name(
    check: Any, toy_samples: SampleSet, canary: tuple[int, int], change: Callable[[Crop], Crop]
) -> None:
    index, view = canary
    with pytest.raises(ValueError, match=f"view {view} of {toy_samples.ids[index]} ") as caught:
        check(lambda crop, *key: change(crop) if key == canary else crop)
    message = str(caught.value)
    assert "another picture than the teacher saw" in message
    assert "`fpd cache-heatmaps -w some/where --overwrite`" in message


@pytest.mark.parametrize("thumbnail", [None, "", "AAAA", "!", 7])
def test_a_damaged_canary_is_refused(
    check: Any, work: WorkDir, toy_samples: SampleSet, thumbnail: object
) -> None:
    path = work.store / "heatmaps/receipts/1/1.json"
    receipt = json.loads(path.read_text())
    receipt["canaries"][1] |= {"blake2b": "0" * 32, "thumbnail": thumbnail}
    path.write_bytes(sealed(receipt))
    with pytest.raises(ValueError, match=f"view 1 of {toy_samples.ids[12]} "):
        check()


@pytest.mark.parametrize(("rows", "expected"), [(1, [0]), (2, [0, 1]), (8, [0, 4]), (9, [0, 4])])
def test_canaries_are_spread_over_a_shard(rows: int, expected: list[int]) -> None:
    assert canary_rows(rows) == expected


def test_how_far_a_crop_is_from_its_canary() -> None:
    crop = np.random.default_rng(0).integers(0, 200, (64, 64, 3), np.uint8)
    canary = make_canary(3, crop)
    assert canary["row"] == 3
    assert json.loads(json.dumps(canary)) == canary
    assert compare_canary(canary, crop) == 0
    assert compare_canary(canary, np.asfortranarray(crop)) == 0
    assert compare_canary(canary, crop + np.uint8(20)) == pytest.approx(20, abs=0.5)
    one = crop.copy()
    one[0, 0, 0] ^= 1
    assert 0 < compare_canary(canary, one) < 0.01
    assert compare_canary({"row": 3}, crop) == np.inf
