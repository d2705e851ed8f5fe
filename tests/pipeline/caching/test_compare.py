"""Stored heatmaps against the teacher's output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fpd.data.heatmap_codec import encode
from fpd.pipeline.caching.compare import differences
from fpd.pipeline.store import CachedHeatmaps, compress

MAX_ERROR = 0.02


@pytest.fixture
def live_BKHW() -> Tensor:
    """Two views of two joints, of peaks 1 and 0.5."""
    joints_BK2 = torch.tensor([[[8.0, 9.0], [20.0, 4.0]], [[30.0, 30.0], [2.0, 17.0]]])
    heatmaps_BKHW, _ = encode(joints_BK2, 32, 2.0)
    return heatmaps_BKHW * torch.tensor([1.0, 0.5])[:, None, None]


def stored(heatmaps_BKHW: Tensor) -> list[CachedHeatmaps]:
    compressed = compress(heatmaps_BKHW, MAX_ERROR)
    parameters_B3 = torch.zeros(len(heatmaps_BKHW), 3, dtype=torch.float64)
    columns = (column.numpy() for column in (*compressed, parameters_B3))
    return [CachedHeatmaps(*view) for view in zip(*columns, strict=True)]


def test_encoding_keeps_the_bound(live_BKHW: Tensor) -> None:
    error_B, displacement_B = differences(stored(live_BKHW), live_BKHW)
    assert error_B.shape == displacement_B.shape == (2,)
    assert (error_B <= MAX_ERROR).all()
    assert (displacement_B < 0.1).all()


def test_errors_are_shares_of_the_stored_peak(live_BKHW: Tensor) -> None:
    """Of `FAINT_PEAK` for maps of zeros: a missing peak of 1 is ten times that."""
    changed_BKHW = live_BKHW.clone()
    changed_BKHW[0] = 0
    changed_BKHW[1, 1] *= 2
    error_B, _ = differences(stored(changed_BKHW), live_BKHW)
    assert error_B[0] == pytest.approx(10, rel=0.01)
    assert error_B[1] == pytest.approx(0.5, abs=MAX_ERROR)
