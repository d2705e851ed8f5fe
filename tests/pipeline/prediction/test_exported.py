"""Exported files read back: their description, their joints, and files that are refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.config.sections import TestTimeAugmentation
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.export.deployable import ModelOutput
from fpd.pipeline.models.export.formats import DESCRIPTION, describe, program_bytes
from fpd.pipeline.prediction import exported
from fpd.pipeline.prediction.exported import File, read_exported
from fpd.pipeline.prediction.pose_model import open_model, trained_model
from fpd.pipeline.runtime.files import sha256
from fpd.pipeline.workdir import WorkDir

from ..teachers.network_files import write_tflite

CPU = torch.device("cpu")

CROPS_2SS3 = np.zeros((2, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def program_file(
    toy_work: Path, toy_program: ExportedProgram, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("program") / "student.pt2"
    description = describe(load_model(WorkDir(toy_work).teacher, CPU))
    path.write_bytes(program_bytes(toy_program, description))
    return path


def description(**changes: Any) -> dict[str, Any]:
    plain = {
        "name": "student",
        "weights_sha256": "0" * 64,
        "crop_px": 16,
        "skeleton": "two",
        "joints": ["left hand", "right hand"],
        "limbs": [[0, 1]],
        "mirror": [1, 0],
    }
    return plain | changes


@pytest.fixture
def read_as(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Read a file whose reader gives this output and this description."""

    def read(output: ModelOutput | None, text: str) -> exported.ExportedModel:
        def run(_: NDArray[np.uint8]) -> ModelOutput:
            if output is None:
                raise RuntimeError("no such operator\nand more")
            return output

        monkeypatch.setitem(exported.READERS, ".onnx", lambda _: File(run, text, "0"))
        path = tmp_path / "student.onnx"
        path.touch()
        return read_exported(path)

    return read


@pytest.mark.parametrize("suffix", exported.READERS)
def test_a_missing_file_is_named_before_a_missing_package(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match="expected an exported model, found no file"):
        read_exported(tmp_path / f"student{suffix}")


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_predicts_as_the_model_that_it_is_of(
    suffix: str,
    toy_onnx: Path,
    program_file: Path,
    toy_work: Path,
    toy_recipe: Recipe,
    toy_samples: SampleSet,
) -> None:
    path = toy_onnx if suffix == ".onnx" else program_file
    trained, model = trained_model(WorkDir(toy_work).teacher, CPU), open_model(path, CPU)
    assert (model.name, model.geometry) == (trained.name, trained.geometry)
    assert model.skeleton.joints == trained.skeleton.joints
    assert model.skeleton.flip_indices == trained.skeleton.flip_indices
    expected = trained.predict(toy_recipe, toy_samples)
    found = model.predict(toy_recipe, toy_samples)
    np.testing.assert_allclose(found.peaks_NK, expected.peaks_NK, atol=1e-3)
    # The toy model's heatmaps are nearly flat, and rounding may move a maximum.
    distance_NK = np.linalg.norm(found.joints_NK2 - expected.joints_NK2, axis=-1)
    assert (distance_NK < 0.05).mean() > 0.8
    file = read_exported(path)
    assert file.sha256 == sha256(path)
    assert file.description.weights_sha256 == sha256(WorkDir(toy_work).teacher.weights)


def test_no_samples_have_no_joints(
    toy_onnx: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    predicted = open_model(toy_onnx, CPU).predict(toy_recipe, toy_samples.take([]))
    assert predicted.joints_NK2.shape == (0, 14, 2) and predicted.peaks_NK.shape == (0, 14)


def test_more_than_one_pass_is_refused(
    toy_onnx: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    flip = toy_recipe.model_copy(update={"evaluation": TestTimeAugmentation(flip_test=True)})
    with pytest.raises(ValueError, match=r"one pass per person.* leave out --flip-test"):
        open_model(toy_onnx, CPU).predict(flip, toy_samples)


def test_other_files_are_refused(toy_work: Path, tmp_path: Path) -> None:
    for name in ("student.onnx", "student.pt2", "student.tflite"):
        (tmp_path / name).write_bytes(b"no model")
        with pytest.raises(ValueError, match=rf"{name}.* cannot be read|{name} "):
            read_exported(tmp_path / name)
        with pytest.raises(ValueError, match="none"):
            read_exported(tmp_path / "none" / name)
    with pytest.raises(ValueError, match=r"expected an exported model, \.onnx, \.pt2, \.tflite, "):
        read_exported(tmp_path / "student.bin")
    with pytest.raises(ValueError, match="or the folder of a finished one"):
        open_model(tmp_path, CPU)
    assert open_model(toy_work / "teacher", CPU).name == "teacher"


def test_a_tflite_file_of_another_tool_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    path = write_tflite(tmp_path / "other.tflite", 2)
    with pytest.raises(ValueError, match=r"expected an output joints, found none of this name"):
        read_exported(path)


def test_a_program_without_a_description_is_refused(
    toy_program: ExportedProgram, tmp_path: Path
) -> None:
    path = tmp_path / "other.pt2"
    torch.export.save(toy_program, path)
    with pytest.raises(ValueError, match=r"expected a file that `fpd export` wrote, found one wi"):
        read_exported(path)


def test_the_description_of_a_quantized_file_is_kept(toy_onnx: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(toy_onnx)
    [entry] = [entry for entry in model.metadata_props if entry.key == DESCRIPTION]
    entry.value = json.dumps(json.loads(entry.value) | {"quantized": "static"})
    onnx.save(model, tmp_path / "int8.onnx")
    assert read_exported(tmp_path / "int8.onnx").name == "teacher"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[" * 100_000,
        "{}",
        json.dumps(description(crop_px=1 << 20)),
        json.dumps(description(joints=[])),
        json.dumps(description(joints=["x"] * 2000, mirror=list(range(2000)))),
        json.dumps(description(joints=["x" * 1000, "y"])),
        json.dumps(description(mirror=[1])),
        json.dumps(description(mirror=[0, 2])),
        json.dumps(description(limbs=[[0, -1]])),
        json.dumps(description(limbs=[[0, 1]] * 2000)),
    ],
)
def test_a_wrong_description_is_refused(read_as: Callable[..., Any], text: str) -> None:
    with pytest.raises(ValueError, match="found one without its description"):
        read_as(None, text)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "cannot be run: no such operator$"),
        (
            ModelOutput(np.zeros((2, 3, 2)), np.zeros((2, 3)), np.zeros(0)),
            "expected joints and peaks of 2 x 2, found",
        ),
        (
            ModelOutput(np.full((2, 2, 2), np.nan), np.zeros((2, 2)), np.zeros(0)),
            "gives joints that are not finite",
        ),
    ],
)
def test_outputs_are_checked(
    read_as: Callable[..., Any], output: ModelOutput | None, message: str
) -> None:
    model = read_as(output, json.dumps(description()))
    with pytest.raises(ValueError, match=message):
        model.run(CROPS_2SS3)
