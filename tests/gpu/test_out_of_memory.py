"""A GPU whose memory is too small is one sentence with advice."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fpd.data.samples import SampleSet
from fpd.pipeline.caching.encode import encode_batches
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.evaluation.inference import predict_with
from fpd.pipeline.models.checkpoint import to_device
from fpd.pipeline.models.hourglass import Hourglass, HourglassSettings
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.runtime.memory import explain_exhausted, peak_bytes
from fpd.pipeline.workdir import WorkDir
from fpd.stages import teacher

from .comparing import changed, spare_memory

pytestmark = pytest.mark.gpu

SPARE_BYTES = 48 << 20
"""For a network and its input, but not for its first convolution's output."""

CROP_PX, VIEWS = 256, 24
WIDE = HourglassSettings(stages=1, channels=64, stem="newell", depth=1)
"""Its first convolution's output takes 48 MiB in bfloat16, 96 MiB in float32."""

TRIED = r"\(tried to allocate [\d.]+ \w+\)"


@pytest.fixture
def little_memory(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On a CPU, whose memory cannot be limited, the network asks for far too much instead."""
    if device.type == "cpu":
        monkeypatch.setattr(Hourglass, "forward", lambda *_: torch.empty(1 << 48))
        yield
        return
    with spare_memory(device, SPARE_BYTES):
        yield


def test_a_step_that_does_not_fit_names_the_settings(
    little_memory: None, toy_recipe: Recipe, device: torch.device, tmp_path: Path
) -> None:
    recipe = changed(
        toy_recipe,
        f"geometry.crop_px={CROP_PX}",
        f"teacher.batch_size={VIEWS}",
        "data.validation=0",
        *(f"teacher.model.{key}={value!r}" for key, value in WIDE.model_dump().items()),
    )
    work = WorkDir(tmp_path)
    work.create()
    message = (
        rf"^a step of teacher on {device}, of \d+ views in 1 part, did not fit into memory "
        rf"{TRIED}: --set teacher\.grad_accum_steps=2 .*--set teacher\.batch_size$"
    )
    with pytest.raises(ValueError, match=message) as raised:
        teacher.run(work, recipe, device)
    assert "\n" not in str(raised.value)


def test_a_pass_of_the_teacher_that_does_not_fit_names_the_setting(
    little_memory: None, device: torch.device
) -> None:
    predictor = make_predictor(to_device(WIDE.build(14), device).eval(), device, None)
    crops = torch.zeros(VIEWS, CROP_PX, CROP_PX, 3, dtype=torch.uint8)
    batches = [{"crop": crops, "parameters": torch.zeros(VIEWS, 4)}]
    message = (
        rf"^the teacher's pass over {VIEWS} views did not fit into memory {TRIED}: "
        rf"--set store\.batch_size={VIEWS // 2} takes fewer at once$"
    )
    with pytest.raises(ValueError, match=message):
        next(encode_batches(predictor, batches, 0.05))


def test_an_evaluation_that_does_not_fit_names_another_device(
    toy_recipe: Recipe, toy_samples: SampleSet, device: torch.device
) -> None:
    def allocate_too_much(crops: Tensor) -> Tensor:
        return torch.empty(1 << 46, device=device)

    advice = "another machine" if device.type == "cpu" else "--device cpu"
    with pytest.raises(ValueError, match=rf"^a pass of up to 32 .*{TRIED}.*or use {advice}$"):
        predict_with(allocate_too_much, toy_recipe, toy_samples, device)


def test_errors_of_the_device_are_known_as_those_of_memory(device: torch.device) -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 46, device=device)
    explained = explain_exhausted(raised.value)
    assert explained is not None and "too little memory" in explained


def test_the_device_still_computes(device: torch.device) -> None:
    assert torch.ones(1 << 20, device=device).sum().item() == 1 << 20


def test_the_peak_of_a_task_is_measured(device: torch.device) -> None:
    """A CPU's counts tensors; a GPU's allocator rounds up."""
    size = 4 << 20  # bytes

    def task() -> None:
        a = torch.ones(size // 4, device=device)
        (a + 1).sum()

    gc.collect()
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    peak = peak_bytes(task, device, resident=0) - before
    assert 2 * size <= peak <= 2 * size + (1 << 20)
