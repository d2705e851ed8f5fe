"""`batch_size = auto` on a GPU: the chosen size trains within memory, a larger one would not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.training import batch_size
from fpd.pipeline.workdir import WorkDir
from fpd.stages import teacher

from .comparing import changed, spare_memory

pytestmark = pytest.mark.gpu

CROP_PX, BASE, SAMPLES = 256, 2, 128
SPARE_BYTES = 1 << 30
"""For a small hourglass of 256 x 256: some 16 views, with what PyTorch keeps in reserve."""


@pytest.fixture
def little_memory(device: torch.device) -> Iterator[None]:
    """A CPU's memory is not limited: it takes the base."""
    if device.type == "cpu":
        yield
        return
    with spare_memory(device, SPARE_BYTES):
        yield


def test_a_batch_that_fits_is_found_and_trains(
    little_memory: None,
    toy_recipe: Recipe,
    device: torch.device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: dict[int, bool] = {}
    real = batch_size.Trial.fits

    def fits(trial: batch_size.Trial, views: int) -> bool:
        tried[views] = real(trial, views)
        return tried[views]

    monkeypatch.setattr(batch_size.Trial, "fits", fits)
    monkeypatch.setattr(batch_size, "MAX_GROWTH", 1 << 10)
    monkeypatch.setattr(batch_size, "MIN_STEPS", 1)
    recipe = changed(
        toy_recipe,
        f"geometry.crop_px={CROP_PX}",
        f"data.synthetic.train={SAMPLES}",
        "data.validation=0",
        "teacher.epochs=1",
        "teacher.batch_size=auto",
        f"teacher.base_batch_size={BASE}",
        "teacher.model={stages = 2, channels = 64, stem = 'newell'}",
    )
    work = WorkDir(tmp_path)
    work.create()
    record = teacher.run(work, recipe, device)  # within the limit of memory
    chosen = record["identity"]["settings"]["training"]["batch_size"]
    if device.type == "cpu":
        assert chosen == BASE and not tried
        return
    assert BASE < chosen < SAMPLES
    assert tried[chosen] and not tried[2 * chosen]
