"""Profiles, predictions and scores of a finished model on a GPU.

Evaluation runs networks in float32, whose convolutions are TF32 on a GPU unless that is switched
off, as it is here.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fpd.data.datasets import load
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.evaluation.inference import predict as predict_samples
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.export.deployable import Deployable
from fpd.pipeline.prediction.people import BOX_MARGIN
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate, predict, profile
from fpd.stages.predict import PredictRequest

from .comparing import CPU, changed, share_of_equal_joints

pytestmark = pytest.mark.gpu

LEAST_SHARE = 0.8


@pytest.fixture(scope="module")
def samples(toy_recipe: Recipe) -> SampleSet:
    return load(toy_recipe.data, "test")


@pytest.mark.parametrize("tta", [[], ["evaluation.flip_test=true", "evaluation.scales=[0.8,1.0]"]])
def test_predictions_are_those_of_the_cpu(
    toy_work: Path, toy_recipe: Recipe, samples: SampleSet, device: torch.device, tta: list[str]
) -> None:
    recipe, folder = changed(toy_recipe, *tta), WorkDir(toy_work).teacher
    expected, found = (
        predict_samples(
            load_model(folder, where).network, recipe, samples, where, tta=recipe.evaluation
        )
        for where in (CPU, device)
    )
    np.testing.assert_allclose(found.peaks_NK, expected.peaks_NK, rtol=1e-3, atol=1e-4)
    assert share_of_equal_joints(found.joints_NK2, expected.joints_NK2) >= LEAST_SHARE


def test_evaluations_have_the_scores_of_the_cpu(
    work: WorkDir, toy_recipe: Recipe, device: torch.device
) -> None:
    expected, found = (
        evaluate.run(work, toy_recipe, where)["models"]["teacher"] for where in (CPU, device)
    )
    assert found["mean"] == pytest.approx(expected["mean"], abs=0.05)
    assert found["auc"] == pytest.approx(expected["auc"], abs=0.05)
    assert found["gmacs"] == expected["gmacs"] and found["ms_per_image"] > 0
    assert json.loads((work.evaluation / "report.json").read_text())["device"] == str(device)


def write_photos(samples: SampleSet, folder: Path) -> Path:
    """The samples' images, and a file of the boxes whose crops are the samples'."""
    rows = []
    for index in range(len(samples)):
        pixels, _ = samples.images.read(index, 1.0)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
        side = samples.side_N[index] / BOX_MARGIN
        left, top = samples.center_N2[index] + 0.5 - side / 2
        rows.append({"image": f"{index:03d}.png", "bbox": [left, top, side, side]})
    boxes = folder / "boxes.json"
    boxes.write_text(json.dumps(rows))
    return boxes


def test_joints_in_images_are_those_of_the_cpu(
    toy_work: Path, toy_recipe: Recipe, samples: SampleSet, device: torch.device, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    boxes = write_photos(samples, photos)

    def keypoints_on(where: torch.device) -> NDArray[np.float64]:
        out = tmp_path / where.type
        request = PredictRequest((photos,), out, boxes=boxes, draw=False)
        predict.run(WorkDir(toy_work), toy_recipe, where, "teacher", request)
        rows = json.loads((out / "predictions.json").read_text())
        return np.array([row["keypoints"] for row in rows]).reshape(len(rows), -1, 3)

    expected, found = keypoints_on(CPU), keypoints_on(device)
    assert len(found) == len(samples)
    assert share_of_equal_joints(found[..., :2], expected[..., :2]) >= LEAST_SHARE
    np.testing.assert_allclose(found[..., 2], expected[..., 2], rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_deployed_models_are_those_of_the_cpu(toy_work: Path, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (8, 64, 64, 3), generator=generator).byte()
    expected, found = (
        Deployable(load_model(WorkDir(toy_work).teacher, where))(crops.to(where))
        for where in (CPU, device)
    )
    joints, peaks, heatmaps = (values.cpu() for values in found)
    torch.testing.assert_close(heatmaps, expected[2], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(peaks, expected[1], rtol=1e-3, atol=1e-4)
    distances_NK = (joints - expected[0]).norm(dim=-1)
    assert (distances_NK < 0.05).float().mean() >= LEAST_SHARE


def test_a_profile_has_times_and_memory_of_the_device(
    toy_work: Path, toy_recipe: Recipe, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fpd.pipeline.runtime.timing.ROUNDS", 1)
    monkeypatch.setattr("fpd.pipeline.runtime.timing.ROUND_S", 1e-2)
    report = profile.run(WorkDir(toy_work), toy_recipe, device, batch=8)
    assert report["device"].startswith(str(device))
    row = report["models"]["teacher"]
    assert list(row["batches"]) == ["1", "8"]
    for numbers in row["batches"].values():
        assert numbers["peak_bytes"] > row["weights_bytes"]
        assert 0 < numbers["lower_ms"] <= numbers["median_ms"] <= numbers["upper_ms"]
    assert row["batches"]["8"]["peak_bytes"] > row["batches"]["1"]["peak_bytes"]
