"""A finished model of another work directory as a teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fpd.data.geometry import Geometry
from fpd.data.skeletons import LSP
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.runtime.files import sha256, write_sealed_json
from fpd.pipeline.teachers import ensemble_predictor, trained_run
from fpd.pipeline.teachers.registry import load, parse, quick_digest
from fpd.pipeline.workdir import WorkDir

CPU = torch.device("cpu")


def test_its_heatmaps_are_those_of_its_own_run(toy_work: Path) -> None:
    ref = parse(str(toy_work / "teacher"))
    assert ref.kind == "folder"
    assert quick_digest(ref) == sha256(toy_work / "teacher" / "weights.safetensors")
    teacher = load(ref, allow_code=False)
    assert teacher.spec.input == (64, 64)
    assert teacher.spec.joints == LSP.joints
    crops = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    network = load_model(ModelDir(toy_work / "teacher"), CPU).network
    with torch.inference_mode():
        expected = network(normalize(crops, CPU))[-1]
        torch.testing.assert_close(teacher(normalize(crops, CPU)), expected)


@pytest.mark.parametrize("averaged", [False, True])
def test_an_ensemble_of_it_predicts_like_the_trained_teacher(
    toy_work: Path, averaged: bool
) -> None:
    teacher = load(parse(str(toy_work / "teacher")), allow_code=False)
    predictor = ensemble_predictor([teacher], LSP, Geometry(crop_px=64), CPU, averaged=averaged)
    network = load_model(ModelDir(toy_work / "teacher"), CPU).network
    own = make_predictor(network, CPU, LSP.flip_indices if averaged else None)
    crops = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(predictor(crops), own(crops), atol=1e-5, rtol=1e-4)


def test_the_peak_of_a_density_is_in_the_spec(work: WorkDir) -> None:
    record = work.teacher.record()
    record["identity"]["settings"]["targets"] = {"sigma_px": 2.0, "area_normalized": True}
    write_sealed_json(work.teacher.record_path, record)
    assert trained_run.load(work.teacher.path).spec.peak == pytest.approx(0.0397887)  # 1 / (8 pi)
    del record["identity"]["settings"]["targets"]
    write_sealed_json(work.teacher.record_path, record)
    with pytest.raises(ValueError, match=r"record\.json is damaged"):
        trained_run.load(work.teacher.path)
