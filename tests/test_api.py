"""`import fpd`: light, and three lines from a work directory to joints on a photograph."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from torch.export import ExportedProgram

import fpd
from fpd.data.datasets import load
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.export.formats import describe, program_bytes
from fpd.pipeline.runtime.files import read_sealed_json, write_sealed_json
from fpd.pipeline.workdir import WorkDir


def test_the_import_is_light_until_a_function_is_used() -> None:
    code = (
        "import sys, fpd; before = set(sys.modules); dir(fpd); "
        "heavy = {'torch', 'cv2', 'zarr', 'numpy', 'pydantic', 'click', 'fpd.api'}; "
        "assert not heavy & before, heavy & before; fpd.load; "
        "assert {'torch', 'fpd.api'} <= set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_no_other() -> None:
    assert {name for name in fpd.__all__ if getattr(fpd, name).__doc__} == set(fpd.__all__)
    assert set(fpd.__all__) < set(dir(fpd))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        fpd.lod  # noqa: B018


@pytest.fixture
def photo(toy_recipe: Recipe, tmp_path: Path) -> Path:
    image, _ = load(toy_recipe.data, "test").images.read(0, 1.0)
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return path


BOXES = [(10, 20, 60, 100), (40, 30, 80, 90)]


def test_a_photo_and_boxes_give_joints_scores_and_a_drawing(
    toy_work: Path, photo: Path, tmp_path: Path
) -> None:
    model = fpd.load(toy_work, device="cpu")
    assert model.name == "teacher"  # there is no student
    prediction = model.predict(photo, boxes=BOXES)
    height, width, _ = prediction.image.shape
    assert prediction.joints.shape == (2, 14, 2) and prediction.scores.shape == (2, 14)
    assert prediction.boxes.tolist() == [list(map(float, box)) for box in BOXES]
    assert prediction.skeleton.joints[0] == "right ankle"
    assert np.isfinite(prediction.joints).all()
    drawing = prediction.draw()
    assert drawing.shape == (height, width, 3) and drawing.dtype == np.uint8
    out = tmp_path / "drawn.jpg"
    prediction.save(out)
    assert cv2.imread(str(out)).shape == drawing.shape
    with pytest.raises(ValueError, match="expected a name that ends in"):
        prediction.save(tmp_path / "drawn.gif")
    with pytest.raises(ValueError, match=r"drawn\.jpg: .*found no such folder"):
        prediction.save(tmp_path / "nowhere" / "drawn.jpg")


def test_pixels_and_the_file_they_are_from_give_the_same(toy_work: Path, photo: Path) -> None:
    model = fpd.load(toy_work / "teacher", device="cpu")
    of_file = model.predict(photo)
    of_pixels = model.predict(of_file.image)
    np.testing.assert_array_equal(of_pixels.joints, of_file.joints)
    height, width, _ = of_file.image.shape
    assert of_file.boxes.tolist() == [[0, 0, width, height]]
    assert model.predict(photo, boxes=[]).joints.shape == (0, 14, 2)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_an_exported_file_predicts_as_its_model(
    suffix: str,
    toy_onnx: Path,
    toy_program: ExportedProgram,
    toy_work: Path,
    photo: Path,
    tmp_path: Path,
) -> None:
    out = toy_onnx
    if suffix == ".pt2":
        out = tmp_path / "teacher.pt2"
        description = describe(load_model(WorkDir(toy_work).teacher, torch.device("cpu")))
        out.write_bytes(program_bytes(toy_program, description))
    exported, trained = fpd.load(out), fpd.load(toy_work, device="cpu")
    assert (exported.name, exported.geometry) == (trained.name, trained.geometry)
    assert exported.skeleton.limbs == trained.skeleton.limbs
    expected, found = (model.predict(photo, boxes=BOXES) for model in (trained, exported))
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    # Where a toy network's map has two peaks alike, runtimes may choose another.
    assert np.median(np.abs(found.joints - expected.joints)) < 0.1
    other = tmp_path / f"other{suffix}"
    other.write_bytes(b"no model")
    with pytest.raises(ValueError, match=rf"other\{suffix}"):
        fpd.load(other)


def test_the_student_with_the_best_validation_is_loaded(toy_work: Path, tmp_path: Path) -> None:
    for name, pck in (("teacher", 0.9), ("first", 0.2), ("second", 0.4)):
        shutil.copytree(toy_work / "teacher", tmp_path / name)
        path = tmp_path / name / "record.json"
        record = read_sealed_json(path, "")
        record["result"]["validation_pck"] = pck
        write_sealed_json(path, record)
    assert fpd.load(tmp_path).name == "second"
    assert fpd.load(tmp_path, "first").name == "first"
    with pytest.raises(ValueError, match="no finished model 'third'"):
        fpd.load(tmp_path, "third")


def test_a_model_shows_as_one_short_line(toy_work: Path) -> None:
    text = repr(fpd.load(toy_work / "teacher"))
    assert text.startswith("Model(name='teacher', geometry=Geometry(") and len(text) < 200


def test_what_is_no_model_is_named(toy_work: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none: expected a work directory, .*, found nothing"):
        fpd.load(tmp_path / "none")
    with pytest.raises(ValueError, match=r"recipe\.json: expected .*, found another file"):
        fpd.load(toy_work / "recipe.json", "teacher")


def test_a_missing_photograph_names_no_setting_of_data_sets(toy_work: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.jpg: expected an image file") as caught:
        fpd.load(toy_work / "teacher").predict(tmp_path / "none.jpg")
    assert "--set" not in str(caught.value)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([(1, 2, 3)], "expected a list of boxes of four finite numbers"),
        ([(0, 0, float("nan"), 5)], "expected a list of boxes of four finite numbers"),
        ((1, 2, 30, 40), r"expected a list of boxes .*found 1 in it"),
        ("1234", "expected a list of boxes .*found '1' in it"),
        ([(0, 0, 0, 5)], "is empty or tiny"),
        ([(5000, 0, 50, 50)], "is outside the image"),
    ],
)
def test_wrong_boxes_are_named(
    boxes: list[tuple[float, ...]], message: str, toy_work: Path, photo: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        fpd.load(toy_work, device="cpu").predict(photo, boxes=boxes)


def test_wrong_pixels_are_named(toy_work: Path) -> None:
    with pytest.raises(ValueError, match=r"expected an image as uint8 \(H, W, 3\) RGB"):
        fpd.load(toy_work, device="cpu").predict(np.zeros((8, 8), np.uint8))
    pixels = cast(Any, [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match=r"expected an image as a file's name or .*of type list"):
        fpd.load(toy_work, device="cpu").predict(pixels)


def test_all_stages_in_python(toy_work: Path, toy_samples: SampleSet, tmp_path: Path) -> None:
    recipe = tmp_path / "toy.toml"
    shown = subprocess.run(
        [sys.executable, "-m", "fpd", "config", "show", "-w", str(toy_work)],
        capture_output=True,
        text=True,
        check=True,
    )
    recipe.write_text(shown.stdout, "utf-8")
    work = tmp_path / "work"
    settings = {"teacher.epochs": 1, "student.epochs": 1}
    assert fpd.train_teacher(work, str(recipe), settings, device="cpu")["result"]["epochs"] == 1
    assert fpd.cache_heatmaps(work, device="cpu")["samples"] == len(toy_samples)
    fpd.train_student(work, overrides={"student.alpha": 0.75}, name="mine", callbacks=["csv"])
    assert (work / "mine/metrics.csv").is_file()
    report = fpd.evaluate(work)
    assert list(report["models"]) == ["teacher", "mine"]
    assert json.loads((work / "evaluation/report.json").read_text()).keys() == report.keys()
    assert fpd.load(work).name == "mine"
    with pytest.raises(ValueError, match=r"did you mean `student\.alpha`"):
        fpd.train_student(work, overrides={"student.alhpa": 1})
